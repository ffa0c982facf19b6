//! Delivery as state machines: who gets which event, until when, and what has been settled. Pure: what happens and the
//! time go in, what is to be done comes out. No I/O, no clock, no tasks, no locks.
//!
//! ```text
//!             join, leave, pause, block, ack, nack, extend, tail, loaded, persisted
//!   shell ──────────────────────────────────────────────────► Engine   durable groups      engine.rs, choose.rs
//!     ▲                                                          │         one Track a topic   track.rs
//!     └───── deliveries, reads to do, cursors to store ◄─────────┘
//!
//!             add, tail, found, failed
//!   shell ──────────────────────► Live    subscriptions without a group    live.rs
//!     ▲                             │
//!     └───── items to send, reads ◄─┘
//! ```
//!
//! One [`Engine`] serves one group over all topics its members subscribe to, so that a member's credit counts across
//! them. Per topic a track holds the cursor: everything at or below its floor is settled, above it stand settled
//! ranges, leases and retries. The shells, which own the clock, the store and the sockets, are in `prom-hub`.

#[cfg(test)]
mod check;
mod choose;
mod engine;
mod ids;
mod live;
#[cfg(test)]
mod simulation;
mod track;

pub use engine::{Delivery, Engine, Nack, Persist, Read, Settled};
pub use live::{Found, Item, Live, Next, Wanted};
pub use track::{Dead, MemberId};
