//! One suite for every client of Prom Hub, in whatever language it is written.
//!
//! ```text
//!   main.rs        prom-conformance -- COMMAND: the suite for whoever writes a client
//!   run.rs         which scenarios, how many at once, how they ended
//!    │
//!   scenarios/     what a client must do right, one async function each; scenario.rs: what such a thing is
//!    │
//!   stage.rs       Stage: a real hub, the way to it, the clients under test
//!    ├─ tap.rs     Tap: sees every frame, changes some          ┐ client ─► Relay ─► Tap ─► hub
//!    │             (Relay, of prom-testkit: cuts, delays, …)    ┘
//!    ├─ driver.rs  Driver: a client under test, a child process that is told what to do, line by line
//!    └─ check.rs   Failure, check!, waiting
//!   laws.rs        rules that hold in every scenario, checked on all frames that passed
//! ```
//!
//! How to write a driver for a client in another language is in the crate's README.

mod check;
mod driver;
mod laws;
mod run;
mod scenario;
mod scenarios;
mod stage;
mod tap;

pub use self::{
    check::Failure,
    run::{Ended, Options, Verdict, all, run},
    scenario::{Can, Scenario},
    tap::{Rule, Seen, Side, Verdict as FrameVerdict},
};
