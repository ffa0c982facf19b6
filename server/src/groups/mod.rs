//! Durable groups: the shell around [`prom_delivery::Engine`].
//!
//! ```text
//!   consumer ── ToGroup ──► actor ──► Engine          one task a group that has members
//!      ▲                      │
//!      └───── ToConsumer ─────┤                       deliveries, answers to settles
//!                             └──► store, writer      reads; cursors and dead letters, in one commit
//!
//!   registry.rs   which groups run     message.rs, consumer.rs   what is said, down and up
//!   actor.rs      the task             dead_letter.rs, tally.rs  what it writes, what it counts
//! ```
//!
//! Waiting goes one way: consumer → group → writer. What comes back goes by queues nobody waits on.

mod actor;
mod consumer;
mod context;
mod dead_letter;
mod message;
mod registry;
mod tally;

pub(crate) use self::{
    consumer::{ConsumerHandle, ToConsumer},
    context::Context,
    message::{Join, Settlement, ToGroup, Verdict},
    registry::Groups,
};
