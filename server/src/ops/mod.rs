//! The ops port: what operators and their monitoring read. Loopback only.
//!
//! ```text
//!   socket ──► web::Port (bounded: sockets, heads, time) ──► guard (Host) ──► reads ──► store, topics
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
    server::{Running, bind, start},
};
