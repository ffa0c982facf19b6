//! Work that the hub does itself, as a client would: it projects heartbeats, drains outboxes, and
//! removes what nobody uses any more, where that is wanted.
//!
//! ```text
//!   projector ──► groups (a member like any), writer      on the one hub that holds the lease
//!   outbox    ──► writer                                  one drainer a collection
//!   expiry    ──► writer, groups                          what nobody uses any more
//! ```

pub(crate) mod expiry;
pub(crate) mod lease;
#[cfg(feature = "mongodb")]
pub(crate) mod mongo_outbox;
#[cfg_attr(not(feature = "mongodb"), expect(dead_code, reason = "without MongoDB no store has outboxes"))]
pub(crate) mod outbox;
pub(crate) mod projector;
#[cfg(test)]
mod tests;
