//! The client session of Prom Hub: everything a client decides, nothing it does.
//!
//! ```text
//!                     now, frames, tokens, calls
//!   tokio  ──────────────┐            ┌────────────── the browser, Node
//!   prom-sdk             ▼            ▼               @prom-hub/sdk
//!                    ┌──────────────────┐
//!                    │     Session      │  handshake, tokens, correlation, timeouts,
//!                    └──────────────────┘  reconnect, resubscribe, unanswered publishes, heartbeat
//!                             │
//!                             ▼
//!        Output: open, send, shut, need a token, a call is done, a new state
//! ```
//!
//! A *shell* owns the socket, the clock and the promises. It reports to the [`Session`] what happened, drains
//! [`Session::poll`], and calls [`Session::tick`] when [`Session::deadline`] has come. The session has no I/O, no clock
//! and no randomness of its own, so a test replays any schedule, and both SDKs behave the same.
//!
//! Times are milliseconds. `now` is any clock that does not go backwards; only event ids use the Unix clock.
//!
//! ```
//! use prom_sdk_core::{Config, Output, Session};
//!
//! let mut session = Session::new(Config { token: Some("a.b.c".into()), ..Config::default() }, [1, 2]);
//! let connected = session.connect(0);
//! let outputs: Vec<_> = std::iter::from_fn(|| session.poll()).collect();
//! assert!(matches!(outputs[..], [Output::State(_), Output::Open]));
//!
//! session.opened(10);
//! assert!(matches!(session.poll(), Some(Output::Send(frame)) if &*frame == r#"{"op":"AUTH","corr":"2","token":"a.b.c","batch":true}"#));
//! session.frame(20, r#"{"op":"OK","corr":"2"}"#);
//! assert!(matches!(session.poll(), Some(Output::State(_))));
//! assert!(matches!(session.poll(), Some(Output::Done { request, result: Ok(_) }) if request == connected));
//! ```

mod backoff;
mod config;
mod entropy;
mod error;
mod liveness;
mod output;
mod queue;
mod requests;
mod session;
mod subscriptions;
mod tokens;

pub use backoff::Backoff;
pub use config::Config;
pub use entropy::Entropy;
pub use error::{Error, codes};
pub use output::{Answer, Delivery, DeliveryRef, Output, RequestId, Settle, State, StateChange, SubscriptionId};
pub use session::{Publish, Session};
