//! The outbox with a real hub: its rows as events, and effects that are there once.
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

#[cfg(unix)]
mod dedupe;
mod sdk;
