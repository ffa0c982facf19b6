//! Why a measurement could not be made. What it found wrong is in its [`Findings`](crate::Findings) instead.

use std::{io, time::Duration};

/// See the module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option is out of its limits.
    #[error("{name} must be {limit}, not {value}")]
    Option {
        /// Which, as on the command line without its dashes.
        name: &'static str,
        /// What it may be.
        limit: String,
        /// What it is.
        value: String,
    },
    /// The URL cannot be used.
    #[error("{url} {what}")]
    Url {
        /// Which.
        url: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is no way to the hub.
    #[error("cannot connect to {url}: {what}")]
    Connect {
        /// Where.
        url: String,
        /// Why not.
        what: String,
    },
    /// A connection broke.
    #[error("a connection to the hub broke")]
    Broken(#[source] io::Error),
    /// The hub hung up.
    #[error("the hub closed a connection: {code} {reason}")]
    Closed {
        /// The close code; 1006 for a connection that ended without one.
        code: u16,
        /// The reason.
        reason: String,
    },
    /// The hub refused what every measurement rests on.
    #[error("the hub refused {what}: {code}: {msg}")]
    Refused {
        /// What was asked.
        what: String,
        /// The code.
        code: String,
        /// For people.
        msg: String,
    },
    /// Nothing came for too long.
    #[error("the hub has not answered for {} s: {state}", after.as_secs_f64())]
    Stalled {
        /// How long.
        after: Duration,
        /// What was there by then, and what was not.
        state: String,
    },
    /// What came is not of this protocol.
    #[error("the hub sent {0}")]
    Nonsense(String),
    /// The hub of `--self` did not come up.
    #[error("the hub did not start: {0}")]
    Start(String),
    /// Rows are to be written, and it is not known where.
    #[error(
        "`outbox` writes rows to the hub's MongoDB: say where it is (--mongo-url or MONGO_URL), or have one (--self --mongo)"
    )]
    NoMongo,
    /// This was built without the feature `mongodb`.
    #[cfg(not(feature = "mongodb"))]
    #[error("this build has no MongoDB, and `outbox` writes rows to one; `npm run build` makes one that has")]
    WithoutMongo,
    /// MongoDB did not do what every measurement of an outbox rests on.
    #[cfg(feature = "mongodb")]
    #[error("cannot {what} in MongoDB")]
    Mongo {
        /// What was to be done.
        what: &'static str,
        /// Why not.
        source: mongodb::error::Error,
    },
    /// The system did not give what was needed.
    #[error("{0}")]
    System(&'static str, #[source] io::Error),
}
