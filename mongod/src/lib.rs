//! Real `mongod` processes as replica sets: for tests and for trying things. Unix only; elsewhere this crate is empty.
//!
//! ```text
//!   main.rs          the program prom-mongod: a set for tests in other languages, told what to do on its input
//!   shared.rs        one set for all tests of a binary
//!    └─ set.rs           ReplicaSet: starts its nodes, disturbs them, ends them
//!        ├─ folder.rs        its folder: taken for this process, ports and key file in it
//!        ├─ configure.rs     makes nodes a set: initiates, reconfigures, adds the first user
//!        ├─ node.rs          one mongod
//!        │   ├─ guard.rs         ends them all when this process cannot
//!        │   ├─ ports.rs         ports that stay theirs while they are down
//!        │   └─ log.rs           the end of a node's log, for error messages
//!        └─ find.rs          where there is a mongod
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use prom_mongod::{Options, ReplicaSet};
//!
//! let set = ReplicaSet::start(Options { nodes: 3, ..Options::default() }).await?;
//! let primary = set.primary().await?;
//! set.kill(primary)?;
//! assert_ne!(set.primary().await?, primary);
//! set.start_again(primary).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Nothing of a set outlives the process that started it, also when that is killed with SIGKILL: see `guard.rs`.
#![cfg(unix)]

mod configure;
mod error;
mod find;
mod folder;
mod guard;
mod log;
mod node;
mod options;
mod ports;
mod set;
mod shared;

pub use self::{
    error::Error,
    find::{NotFound, find},
    options::{Credentials, Elections, Options},
    set::ReplicaSet,
    shared::{fresh_database, shared},
};
