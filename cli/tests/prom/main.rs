//! The binary as a person or a service would use it.
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

mod bench;
#[path = "../common/mod.rs"]
mod common;
mod folder;
#[cfg(unix)]
mod operate;
mod outbox;
#[cfg(unix)]
mod own_mongo;
mod refusals;
mod rights;
mod store;
mod strangers;
mod tls;
mod tokens;
