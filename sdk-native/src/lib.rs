//! The Rust client of Prom Hub: publish events, consume them in durable groups, watch live state.
//!
//! ```text
//!   Client ──publish──────►┐            ┌──► hub
//!     │                    │ owner task │
//!     ├──subscribe──► Subscription ◄────┤     Stream of Delivery: ack, nack, extend, dead
//!     ├──handle─────► Handling          │     a function called for each delivery, or once for each event
//!     ├──live───────► Live ◄────────────┤     Stream of events, nothing acknowledged
//!     ├──watch──────► Watch ◄───────────┘     the newest event of each key
//!     └──history, export──► History ◄── HTTP  Stream of what was, which ends
//! ```
//!
//! One task owns the socket and the session of [`prom_sdk_core`]. It reconnects until it is closed, subscribes again, renews the
//! token, and sends publishes that were not answered again with the same id, so nothing is lost and nothing doubled.
//!
//! ```no_run
//! # async fn example() -> Result<(), prom_sdk::Error> {
//! use prom_sdk::{Client, PublishOptions};
//!
//! let client = Client::builder("wss://hub.example.com/ws").token_provider(|| async { Ok(fetch_token().await?) });
//! let client = client.connect().await?;
//! let order = serde_json::json!({"order": 7, "total": 19.5});
//! let published = client.publish_with("orders.paid", &order, PublishOptions::new().key("order-7")).await?;
//! println!("committed as {} at {}", published.id, published.seq);
//! client.close().await;
//! # Ok(())
//! # }
//! # async fn fetch_token() -> Result<String, std::io::Error> { Ok(String::new()) }
//! ```
//!
//! The feature `tls`, on by default, adds `wss://` by rustls with the authorities the system trusts, or those of `ca_file`.

mod builder;
mod client;
mod command;
mod dedupe;
mod delivery;
mod error;
mod event;
mod feed;
mod finite;
mod handle;
mod history;
mod host;
mod http;
mod lease;
mod live;
mod numbers;
mod owner;
mod payload;
mod publish;
mod shared;
mod subscription;
mod tokens;
mod watch;

pub use builder::ClientBuilder;
pub use client::{Client, ClientEvent, Status};
pub use dedupe::{Claim, DedupeStore, MemoryDedupe};
pub use delivery::{Context, Delivery};
pub use error::{BoxError, Error, ErrorKind};
pub use event::Event;
pub use feed::Gap;
pub use handle::{Handling, Received, Stopping};
pub use history::{History, HistoryBuilder, HistoryItem, Recorded};
pub use live::{Live, LiveBuilder, LiveItem};
pub use prom_protocol::{
    AckMode, Filter, Headers, Heartbeat, Ordering, ProcessState, ProcessStatus, RawValue, StartFrom, SubscribeOptions,
    topics,
};
pub use prom_sdk_core::State;
pub use publish::{PublishOptions, Published, Publishing};
pub use subscription::{SubscribeBuilder, Subscription};
pub use watch::{Change, Latest, Watch};

/// So that the README's code is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
