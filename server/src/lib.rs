//! Prom Hub, the hub itself.
//!
//! ```text
//!   gateway ──► writer ──► store          publishes, grouped into commits
//!      │           │
//!      │           └── topics ──┐         one wake-up per commit and topic
//!      ▼                        ▼
//!   delivery (durable groups)  live (ephemeral subscriptions)
//! ```
//!
//! Everybody owns their state and talks by channels. Waiting goes one way: connection → group → writer → store. What
//! comes back never waits, so nothing can wait in a circle.

pub mod auth;
pub mod config;
pub mod delivery;
pub mod gateway;
mod http;
mod hub;
pub mod live;
pub mod metrics;
mod ops;
mod outbox;
mod page;
pub mod projector;
pub mod store;
pub mod topics;
pub mod writer;

pub use config::{Auth, Config, Limits, StoreConfig};
pub use hub::{Hub, StartError};
