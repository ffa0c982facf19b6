//! The ops port: what operators and their monitoring read. Loopback only.
//!
//! ```text
//!   socket ──► server (bounded: connections, headers, time) ──► guard (Host) ──► reads ──► store, topics
//!                                                                           └──► metrics
//! ```
//!
//! Nothing here scans the log, and nothing here is waited for by anybody who carries events.

mod key_sets;
mod outboxes;
mod reads;
mod routes;
mod server;

pub(crate) use self::{
    reads::Ops,
    routes::router,
    server::{Server, bind},
};
