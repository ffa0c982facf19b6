//! The options a set is started with.

use std::{path::PathBuf, time::Duration};

/// What kind of set, and in which folder. The default is one node for tests, in a temporary folder.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes, 1 to 7; default 1.
    pub nodes: usize,
    /// The folder the data is kept in, made if there is none; one process at a time may have it. Default: a temporary
    /// folder, removed when the set ends, however it ends.
    pub dir: Option<PathBuf>,
    /// The program; default: what [`find`](crate::find()) finds.
    pub mongod: Option<PathBuf>,
    /// Size of the oplog in MB, which members catch up from and change streams read; default 64.
    pub oplog_mb: u32,
    /// Size of WiredTiger's cache in MB, at least 256, which is the default.
    pub cache_mb: u32,
    /// How fast the nodes notice that one is gone; default [`Elections::Fast`].
    pub elections: Elections,
    /// Access control, with this user, who has the role `root`. Default: no access control.
    pub credentials: Option<Credentials>,
    /// One node that is in no replica set: no transactions, no change streams. Default false.
    pub standalone: bool,
    /// More arguments of `mongod`, like `["--setParameter", "enableTestCommands=1"]`.
    pub args: Vec<String>,
    /// How long each thing that is waited for may take, such as a primary; default 60 s.
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
    /// For tests: a heartbeat every 500 ms, an election 2 s after the last sign of the primary, and 2 s of waiting for
    /// the answer to a heartbeat.
    #[default]
    Fast,
    /// MongoDB's own defaults: a heartbeat every 2 s, an election after 10 s, and 10 s of waiting for an answer.
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
