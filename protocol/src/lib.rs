//! The wire protocol of Prom Hub, version 1: what travels between hub and clients, and the rules both sides share.
//!
//! ```text
//!   a client                                                     the hub
//!   client::write ────────────────► text frame ────────────────► client::parse ──► Request { corr, ClientFrame }
//!   Scanned ◄── server::scan ◄───── text frame ◄───── ServerFrame::encode
//!   ServerFrame ◄── server::parse ◄─┘
//!
//!   frames                  one message ──► the frames it holds, where both sides agreed to batch
//!   Topic, Group, Pattern   validated names        Policy   who may do what, first match decides
//!   Event                   the stored record      ErrorCode, CloseCode   closed lists
//! ```
//!
//! The crate is pure: no I/O, no clock, no runtime. It compiles natively and to wasm32. Parsing borrows from the
//! frame's text and never builds a tree of a payload. `docs/protocol.md` describes the same wire for other languages.

pub mod client;
mod code;
mod event;
mod fields;
mod frames;
pub mod limits;
mod names;
mod options;
mod payload;
mod policy;
mod process;
mod refusal;
pub mod scan;
pub mod server;
mod text;
mod topic;

/// The version of the protocol that this crate speaks; a hub names it in the OK of AUTH.
pub const VERSION: u32 = 1;

pub use client::{ClientFrame, Op, Request};
pub use code::{CloseCode, ErrorCode};
pub use event::{
    Event, EventOptions, Headers, check_id, check_subject, encode_event, encode_event_body, encode_event_body_by,
    encode_event_position,
};
pub use frames::{Frames, frames};
pub use options::{AckMode, Filter, Ordering, StartFrom, SubscribeOptions};
pub use payload::{check_payload, single_line};
pub use policy::{Action, Effect, Policy, PolicyError, Rule};
pub use process::{Heartbeat, ProcessState, ProcessStatus, topics};
pub use refusal::Refusal;
pub use serde_json::value::RawValue;
pub use server::{DeliveryContext, ServerFrame};
pub use text::Text;
pub use topic::{Group, NameError, Pattern, Topic, TopicOrPattern};

/// So that the README's code is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
