//! Transactional outbox for Prom Hub: rows written with the business change, drained and published once.
#![deny(missing_docs)]

#[cfg(feature = "mongodb")]
mod dedupe;
#[cfg(all(unix, feature = "mongod"))]
pub mod mongod;

#[cfg(feature = "mongodb")]
pub use dedupe::{Effect, MongoDedupe, Once, OnceError};
