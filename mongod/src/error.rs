//! Why a set did not do what it was asked.

use std::{io, path::PathBuf, time::Duration};

use crate::find::NotFound;

/// Why a set did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No `mongod` was found.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// An option has a value it cannot have.
    #[error("{field} {problem}")]
    Option {
        /// The field of [`Options`](crate::Options), or `node` for the number of a node.
        field: &'static str,
        /// The value and what is allowed, to be read after the field: "is 0, not 1 at least".
        problem: String,
    },
    /// The system refused something.
    #[error("cannot {what}")]
    Io {
        /// What was tried: a verb and its object.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process has the folder.
    #[error("{} is in use by another process; stop that, or choose another folder", .0.display())]
    InUse(PathBuf),
    /// A `mongod` ended by itself.
    #[error("node {node}: mongod ended by itself ({status}); the end of its log:\n{log}")]
    Ended {
        /// The number of the node.
        node: usize,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// Something did not happen in time.
    #[error("waited {} s for {what}{}; the end of the log:\n{log}", .waited.as_secs(), last_error(.last))]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long it was waited for.
        waited: Duration,
        /// The last error on the way, if there was one.
        last: Option<String>,
        /// The last lines of a node's log.
        log: String,
    },
    /// A node refused a command.
    #[error("mongod refused {command}")]
    Command {
        /// The name of the command.
        command: &'static str,
        /// The driver's error.
        source: mongodb::error::Error,
    },
    /// The driver does not take the URL of the set.
    #[error("the driver cannot use the set's URL")]
    Client(#[source] mongodb::error::Error),
}

fn last_error(error: &Option<String>) -> String {
    error.as_ref().map(|error| format!(" (the last error: {error})")).unwrap_or_default()
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
