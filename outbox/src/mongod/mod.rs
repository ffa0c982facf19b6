//! Real `mongod` processes as replica sets: for tests and for trying things. Unix only.
//!
//! ```text
//!   shared.rs        one set for all tests of a binary
//!   set.rs           ReplicaSet: starts its nodes, disturbs them, ends them
//!    ├─ configure.rs     makes nodes a set: initiates, reconfigures, adds the first user
//!    ├─ node.rs          one mongod
//!    ├─ guard.rs         ends them all when this process cannot
//!    └─ ports.rs         ports that stay theirs while they are down
//!   find.rs          where there is a mongod
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use prom_outbox::mongod::{Options, ReplicaSet};
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

mod configure;
mod find;
mod guard;
mod log;
mod node;
mod ports;
mod set;
mod shared;

use std::{io, path::PathBuf, time::Duration};

pub use self::{
    find::{NotFound, find},
    set::ReplicaSet,
    shared::{fresh_database, shared},
};

/// What kind of set, and where. The default is one node for tests, in a temporary folder.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes, 1 to 7; default 1.
    pub nodes: usize,
    /// The folder the data is kept in, made if there is none; one process at a time may have it. Default: a temporary
    /// folder, removed when the set ends, however it ends.
    pub dir: Option<PathBuf>,
    /// The program; default: what [`find`] finds.
    pub mongod: Option<PathBuf>,
    /// Size of the oplog in MB; default 64. It holds at least what the last few seconds wrote.
    pub oplog_mb: u32,
    /// Size of WiredTiger's cache in MB, at least 256, which is the default.
    pub cache_mb: u32,
    /// How fast the nodes notice that one is gone; default [`Elections::Fast`].
    pub elections: Elections,
    /// With access control, and this user, who may do everything. Default: without.
    pub credentials: Option<Credentials>,
    /// One node that is in no replica set: no transactions, no change streams. Default false.
    pub standalone: bool,
    /// More arguments of `mongod`, like `["--setParameter", "enableTestCommands=1"]`.
    pub args: Vec<String>,
    /// How long each thing waited for may take; default 60 s.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 1,
            dir: None,
            mongod: None,
            oplog_mb: 64,
            cache_mb: 256,
            elections: Elections::default(),
            credentials: None,
            standalone: false,
            args: Vec::new(),
            patience: Duration::from_secs(60),
        }
    }
}

/// How fast the nodes of a set notice that one is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Elections {
    /// For tests: heartbeats every 500 ms, an election after 2 s, a heartbeat that is not answered is over after 2 s.
    #[default]
    Fast,
    /// As MongoDB sets it: heartbeats every 2 s, an election after 10 s, an unanswered heartbeat over after 10 s.
    Production,
}

/// A user and its password.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The user's name, in the database `admin`.
    pub user: String,
    /// Its password.
    pub password: String,
}

/// Why a set did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no `mongod`.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// An option has a value it cannot have.
    #[error("{field} {problem}")]
    Option {
        /// Which one.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The system refused something.
    #[error("cannot {what}")]
    Io {
        /// What it was.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// Another process has the folder.
    #[error("{} is in use by another process; stop that, or choose another folder", .0.display())]
    InUse(PathBuf),
    /// A `mongod` ended by itself.
    #[error("node {node}: mongod ended by itself ({status}); the end of its log:\n{log}")]
    Ended {
        /// Which node.
        node: usize,
        /// How.
        status: std::process::ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// Something did not happen in time.
    #[error("waited {} s for {what}{}; the end of the log:\n{log}", .waited.as_secs(), last_error(.last))]
    Deadline {
        /// What was waited for.
        what: String,
        /// For how long.
        waited: Duration,
        /// What it failed with until then.
        last: Option<String>,
        /// The last lines of a node's log.
        log: String,
    },
    /// A node refused a command.
    #[error("mongod refused {command}")]
    Command {
        /// Which one.
        command: &'static str,
        /// Why.
        source: mongodb::error::Error,
    },
    /// The URL cannot be used.
    #[error("the driver cannot use the set's URL")]
    Client(#[source] mongodb::error::Error),
}

fn last_error(error: &Option<String>) -> String {
    error.as_ref().map(|error| format!(" (the last error: {error})")).unwrap_or_default()
}

impl Error {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
