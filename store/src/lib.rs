//! The log and what stands beside it: the [`Store`] contract, its values, and the rules that hold for every backend.
//!
//! ```text
//!   writer ──commit(Batch)──► Store ◄──read, tail, latest, cursor── groups, live subscriptions, ops
//!                               │
//!          prom-store-embedded, prom-store-mongo, MemoryStore
//!
//!   contract.rs   what a backend must do            admission.rs   which appends every backend refuses alike
//!   values.rs     what goes in and comes out        start.rs       where a reader begins
//!   retention.rs  what is kept for how long         memory.rs      the smallest backend
//!   conformance.rs (feature `testing`)   one check for each clause of the contract
//! ```
//!
//! There is one writer and any number of readers. Everything a reader gets is shared, not copied.

mod admission;
mod clock;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod contract;
mod durability;
mod error;
mod ids;
mod memory;
mod retention;
mod start;
mod values;

pub use self::{
    admission::{BODY_BYTES, MAX_TOPICS, admit_append, admit_topic, is_exempt},
    clock::wall_clock,
    contract::{Change, Changed, Store},
    durability::Durability,
    error::StoreError,
    ids::new_id,
    memory::MemoryStore,
    retention::{Retention, Rule},
    start::{Start, StartError, start, start_after},
    values::{Append, Appended, Batch, Cursor, CursorPut, LatestPage, Page, Record, Stored, Tail},
};
