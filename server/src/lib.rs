//! Prom Hub, the hub itself: [`Hub::start`] runs one.
//!
//! ```text
//!   hub        starts everything in order, owns every task, ends them in order
//!   config     composes what the others define            members, node
//!   doors      the public port: which path leads where    gateway, http, node
//!   ops        the operators' port                        members, node, flow
//!   gateway    WebSocket connections                      node, groups, flow
//!   http       publish, replay, export                    node
//!   node       what connections and requests share        groups, quota, flow
//!   quota      what one subject or address may take       flow
//!   members    projector, outboxes, leases between hubs   groups, flow
//!   groups     durable groups: the shell around Engine    flow
//!   flow       writer, topics, metrics
//! ```
//!
//! Behind each folder: which of the others it imports. All may use auth, rights, sparing and web, which import none of these.
//!
//! Imports go down only. Everybody owns their state and talks by channels. Waiting goes one way: consumer → group →
//! writer → store. What comes back never waits, so nothing can wait in a circle.

pub mod auth;
mod config;
mod doors;
mod flow;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod groups;
mod http;
mod hub;
mod members;
mod node;
mod ops;
mod quota;
mod rights;
mod sparing;
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
    auth::{Auth, Jwt, SECRET_BYTES},
    config::{Config, ConfigError, OPS_TOKEN_BYTES, StoreConfig},
    hub::{Hub, StartError},
    node::Limits,
    quota::{MAX_RATES, OnExcess, Per, Rate, Shares},
    web::{Page, Tls, TlsError, TlsFault},
};
