//! How events get into the log, and who hears of it.
//!
//! ```text
//!   connections, groups, projector, drainers ── Write ──► writer ──► store
//!                      ▲                                    │
//!                      └── Answer ──────────────────────────┼──► topics ── Signal ──► groups, live subscriptions
//!                                                           └──► metrics
//! ```

pub(crate) mod bounds;
pub(crate) mod exposition;
pub(crate) mod metrics;
mod room;
pub(crate) mod topics;
pub(crate) mod writer;
