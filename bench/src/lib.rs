//! The load harness: measures a running hub over its WebSocket, and checks what it got.
//!
//! ```text
//!   options ──► publish, deliver ──► drive     one thread, all connections, coalesced reads and writes
//!               latency, outbox ──► threads    one per direction, for the clock's sake
//!               idle                  │
//!                 │                 frame, scan   the wire, as cheap as it gets
//!                 ├──► check        answers, seqs, events: nothing lost, doubled, out of order
//!                 └──► report       a table for people, JSON for machines; hub, process: what the hub costs
//! ```
//!
//! The generator shares its machine with the hub, so what it costs is taken from the hub. It does not go through the SDK:
//! frames are copied from templates, many to a write, and answers are scanned where they were read.

mod check;
mod connection;
mod deliver;
mod drive;
mod error;
mod frame;
mod hub;
mod idle;
mod latency;
mod options;
#[cfg(feature = "mongodb")]
mod outbox;
mod own_hub;
mod process;
mod publish;
mod publisher;
mod reader;
mod report;
mod scan;
mod schedule;

pub use check::Findings;
pub use connection::Target;
pub use error::Error;
pub use hub::HubInfo;
pub use options::{DeliverOptions, IdleOptions, LatencyOptions, OutboxOptions, PublishOptions, Scenario};
pub use own_hub::{Launch, OwnHub};
pub use process::Pids;
pub use report::{Idle, Latency, Machine, Outbox, Percentiles, Report, Row};

/// Runs one measurement and blocks until it is done.
///
/// # Errors
/// [`Error`] when the measurement could not be made. What the hub did wrong is no error: it is in the row's findings.
pub fn run(target: &Target, scenario: &Scenario, pids: Pids) -> Result<Row, Error> {
    scenario.check()?;
    let row = match scenario {
        Scenario::Publish(options) => publish::run(target, options, pids),
        Scenario::Deliver(options) => deliver::run(target, options, pids),
        Scenario::Latency(options) => latency::run(target, options, pids),
        Scenario::Idle(options) => idle::run(target, options, pids),
        #[cfg(feature = "mongodb")]
        Scenario::Outbox(options) => outbox::run(target, options, pids),
        #[cfg(not(feature = "mongodb"))]
        Scenario::Outbox(_) => Err(Error::WithoutMongo),
    };
    row.map(|row| row.named(scenario))
}
