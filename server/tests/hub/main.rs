//! A whole hub: over the wire, over HTTP, on its stores.
//!
//! The modules `wire`, `original_client` and `http` know nothing of the store: with `PROM_TEST_STORE=mongodb` they run on
//! a MongoDB replica set.
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

mod batch;
mod embedded;
mod hostile;
mod http;
mod key_sets;
mod ops;
mod original_client;
mod published_by;
mod quotas;
mod rates;
mod removals;
mod revocations;
mod rights;
mod seats;
mod sockets;
mod tls;
mod two_hubs;
mod violations;
mod wire;
