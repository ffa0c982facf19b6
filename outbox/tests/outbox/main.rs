//! Drainers on stores and hubs that fail, and on a real replica set.
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

mod drainer;
mod fake_hub;
#[cfg(unix)]
mod mongodb;
