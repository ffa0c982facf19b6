//! Work that the hub does itself, as a client would: it projects heartbeats and drains outboxes.
//!
//! ```text
//!   projector ──► groups (a member like any), writer      on the one hub that holds the lease
//!   outbox    ──► writer                                  one drainer a collection
//! ```

pub(crate) mod lease;
#[cfg(feature = "mongodb")]
pub(crate) mod mongo_outbox;
#[cfg_attr(not(feature = "mongodb"), expect(dead_code, reason = "without MongoDB no store has outboxes"))]
pub(crate) mod outbox;
pub(crate) mod projector;
#[cfg(test)]
mod tests;
