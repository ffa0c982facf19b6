//! Delivery to durable groups: who gets which event, until when, and what has been settled.
//!
//! ```text
//!             join, leave, pause, settle, loaded, tail, now
//!   actor ──────────────────────────────────────────────────► Engine   pure: no I/O, no clock, no tasks
//!     ▲                                                          │
//!     └───── deliveries, reads to do, cursors to store ◄─────────┘
//! ```
//!
//! One [`Engine`] serves one group over all topics its members subscribe to, so that a member's credit counts across
//! them. Per topic a log (`log.rs`) holds the position: everything at or below `floor` is settled, above it stand settled
//! ranges, leases and retries. The [`actor`] gives the engine its clock and carries out what it asks for.

pub mod actor;
#[cfg(test)]
mod check;
mod choose;
mod dead_letter;
mod engine;
mod log;
#[cfg(test)]
mod simulation;
mod tally;

pub use actor::Groups;
pub use engine::{Delivery, Engine, MemberId, Nack, Persist, Read, Settled};
