//! What tests against a real hub share. Only for tests: nothing here is shipped.
//!
//! ```text
//!   client.rs   Client: speaks plain frames, so that a test sees what the hub answers
//!   http.rs     requests and answers as bytes on the wire
//!   relay.rs    Relay: a line between client and hub that a test can cut, slow down, chop up and let fall silent
//!    │
//!   hub.rs      config(), hub(), hub_at(), mongo(): hubs on free ports, in this process
//!   token.rs    token(), token_with(), token_for(): what these hubs accept
//!   identity.rs an identity provider: keys that sign tokens, a server that publishes them
//!   tls.rs      an authority that issues certificates, and connections that trust it
//!   wait.rs     until(), in_time(): wait for a condition, with one deadline
//! ```
//!
//! The folder `tests` has the tests of `prom-sdk`, `prom-outbox` and `prom-bench` that need a real hub. Those crates are
//! below the hub: a dependency on it, if only for tests, would be a circle, and `cargo test -p prom-sdk` would build the
//! whole server. The hub's own tests in `server/tests` may use this crate, since they are above the hub; its unit tests
//! must not, for them it would be a second hub.
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

mod client;
pub mod http;
mod hub;
pub mod identity;
mod relay;
pub mod tls;
mod token;
mod wait;

#[cfg(unix)]
pub use self::hub::mongo;
pub use self::{
    client::{Client, error, payloads},
    hub::{config, hub, hub_at, url},
    relay::Relay,
    token::{SECRET, now_secs, token, token_for, token_with},
    wait::{DEADLINE, in_time, until, until_some},
};
