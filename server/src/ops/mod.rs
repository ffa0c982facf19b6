//! The ops port: what operators and their monitoring read. On loopback unless told otherwise.
//!
//! ```text
//!   socket ──► web::Port (bounded: sockets, heads, time) ──► guard (Host, token) ──► reads ──► store, topics
//!                                                                           └──► metrics
//! ```
//!
//! `removals.rs` is the one thing that is changed here: topics and groups are taken out.
//!
//! Nothing here scans the log, and nothing here is waited for by anybody who carries events.

mod certificates;
mod guard;
mod key_sets;
mod outboxes;
mod reads;
mod removals;
mod revocations;
mod revoked;
mod routes;
mod server;

pub(crate) use self::{
    guard::Guard,
    reads::Ops,
    routes::is_local_name,
    server::{Running, bind, start},
};
