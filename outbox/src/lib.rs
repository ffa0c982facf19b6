//! Transactional outbox for Prom Hub: rows written with the business change, drained and published once.
#![deny(missing_docs)]

#[cfg(all(unix, feature = "mongod"))]
pub mod mongod;
