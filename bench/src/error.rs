//! Why a measurement could not be made. What it found wrong is in its [`Findings`](crate::Findings) instead.

use std::{io, time::Duration};

/// What kept a measurement from being made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option is out of its limits.
    #[error("{name} must be {limit}, not {value}")]
    Option {
        /// Its name, as on the command line without the dashes.
        name: &'static str,
        /// The limit, to follow "must be": for instance "1 to 100".
        limit: String,
        /// The value that was given.
        value: String,
    },
    /// The URL cannot be used.
    #[error("{url} {what}")]
    Url {
        /// The URL, as it was given.
        url: String,
        /// What is wrong with it, to follow the URL.
        what: &'static str,
    },
    /// The connection could not be opened.
    #[error("cannot connect to {url}: {what}")]
    Connect {
        /// The URL, as it was given.
        url: String,
        /// What the system or the handshake reported.
        what: String,
    },
    /// A connection broke.
    #[error("a connection to the hub broke")]
    Broken(#[source] io::Error),
    /// The hub closed a connection.
    #[error("the hub closed a connection: {code} {reason}")]
    Closed {
        /// The close code; 1006 for a connection that ended without one.
        code: u16,
        /// The reason of the close frame; empty when there was none.
        reason: String,
    },
    /// The hub answered ERR to a request that the measurement cannot do without.
    #[error("the hub refused {what}: {code}: {msg}")]
    Refused {
        /// The request, for instance `AUTH`.
        what: String,
        /// `code` of the ERR.
        code: String,
        /// `msg` of the ERR.
        msg: String,
    },
    /// Nothing came for too long.
    #[error("the hub has not answered for {} s: {state}", after.as_secs_f64())]
    Stalled {
        /// How long the hub sent nothing.
        after: Duration,
        /// How far the measurement had come, for people.
        state: String,
    },
    /// The hub sent something that is not of this protocol.
    #[error("the hub sent {0}")]
    Nonsense(String),
    /// The hub of `--self` did not come up.
    #[error("the hub did not start: {0}")]
    Start(String),
    /// `outbox` does not know which MongoDB to write its rows to.
    #[error(
        "`outbox` writes rows to the hub's MongoDB: say where it is (--mongo-url or MONGO_URL), or have one (--self --mongo)"
    )]
    NoMongo,
    /// This was built without the feature `mongodb`.
    #[cfg(not(feature = "mongodb"))]
    #[error("this build has no MongoDB, and `outbox` writes rows to one; `npm run build` makes one that has")]
    WithoutMongo,
    /// MongoDB refused a step that the measurement of an outbox cannot do without.
    #[cfg(feature = "mongodb")]
    #[error("cannot {what} in MongoDB")]
    Mongo {
        /// The step, to follow "cannot".
        what: &'static str,
        /// What the driver reported.
        source: mongodb::error::Error,
    },
    /// The operating system refused a thread, a socket or the like.
    #[error("{0}")]
    System(&'static str, #[source] io::Error),
}
