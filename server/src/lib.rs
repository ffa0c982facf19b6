//! Prom Hub, the hub itself: [`Hub::start`] runs one.
//!
//! ```text
//!   hub ──► ops, doors           the two ports
//!             └► gateway, http   WebSocket connections, and requests
//!                  └► node       what they share: the running hub
//!            members             the hub's own work: projector, outboxes
//!              └► groups         durable groups: the shell around prom-delivery
//!                   └► flow      writer, topics, metrics ──► prom-store
//!   beside them: config, auth, web (answers, refusals, sockets)
//! ```
//!
//! Imports go down only. Everybody owns their state and talks by channels. Waiting goes one way: connection → group →
//! writer → store. What comes back never waits, so nothing can wait in a circle.

pub mod auth;
mod config;
mod doors;
mod flow;
mod gateway;
mod groups;
mod http;
mod hub;
mod members;
mod node;
mod ops;
mod web;

#[cfg(feature = "mongodb")]
pub use members::mongo_outbox::{OutboxName, open_outbox};
/// The log and what stands beside it.
pub use prom_store as store;
/// The store on this machine's disk, and its tools.
pub use prom_store_embedded as embedded;
/// The store in a MongoDB replica set.
#[cfg(feature = "mongodb")]
pub use prom_store_mongo as mongo;

pub use self::{
    auth::{Auth, SECRET_BYTES},
    config::{Config, ConfigError, StoreConfig},
    hub::{Hub, StartError},
    node::Limits,
    web::Page,
};
