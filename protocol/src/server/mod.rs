//! Frames from hub to client.
//!
//! ```text
//!   ServerFrame::encode, encode_event_head, …  ──► text frame     the hub's writer
//!
//!   text frame ──► scan  ──► Scanned        the SDKs' reader: raw slices of the fields it knows, in one pass
//!              ──► parse ──► ServerFrame    the strict reader: every field of every frame, checked
//! ```
//!
//! Why two readers. Every event of every client goes through [`scan()`], in a wasm module whose every byte a page
//! downloads: it has no serde and makes no copy, and it does not judge what it hands on, because the hub wrote it and the
//! application parses the payload anyway. [`parse()`] is what a frame means in full, with an error that says what is
//! wrong: for tests and tools, and for programs that have serde already. The golden files hold the two to the same text.

mod parse;
mod scan;
mod write;

pub use parse::{parse, parse_lease};
pub use scan::{Scanned, scan};
pub use write::{encode_event_context, encode_event_head, encode_published};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{ErrorCode, Refusal, Text};

/// The name of what a hub sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// What was asked is done.
    Ok,
    /// What was asked was not done, or something is wrong with the connection.
    Err,
    /// One delivery.
    Event,
    /// A snapshot is complete.
    Live,
    /// Events were skipped.
    Gap,
    /// The hub ended a subscription.
    Revoked,
    /// The answer to a PING.
    Pong,
}

impl Op {
    /// Every kind of frame.
    pub const ALL: &'static [Self] = &[Op::Event, Op::Ok, Op::Err, Op::Live, Op::Gap, Op::Revoked, Op::Pong];

    fn from_wire(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|op| op.as_str() == name)
    }

    /// The value of `op` in its frames.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Err => "ERR",
            Self::Event => "EVENT",
            Self::Live => "LIVE",
            Self::Gap => "GAP",
            Self::Revoked => "REVOKED",
            Self::Pong => "PONG",
        }
    }
}

/// What an EVENT says about the delivery beside the event: its `ctx`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DeliveryContext<'a> {
    /// How often the event was delivered to the group, from 1.
    pub attempt: u32,
    /// The attempt after which it becomes a dead letter.
    pub max_attempts: u32,
    /// Milliseconds left on the lease when the frame was sent; 0 where there is nothing to acknowledge.
    pub ack_deadline_ms: u64,
    /// Fencing token of this delivery; none where there is nothing to acknowledge.
    #[serde(borrow)]
    pub lease: Option<Text<'a>>,
    /// Whether it was delivered before.
    pub redelivered: bool,
}

/// An OK: what was asked is done. Which fields are set depends on the request.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
pub struct OkFrame<'a> {
    /// `corr` of the request; none: it had none.
    #[serde(borrow, default)]
    pub corr: Option<Text<'a>>,
    /// PUBLISH: the event's id.
    #[serde(borrow, default)]
    pub id: Option<Text<'a>>,
    /// PUBLISH: the event's position in its topic, from 1.
    #[serde(default)]
    pub seq: Option<u64>,
    /// PUBLISH: the event was committed before; nothing new was stored.
    #[serde(default)]
    pub duplicate: bool,
    /// SUBSCRIBE: the topic or pattern, as it was given.
    #[serde(borrow, default)]
    pub topic: Option<Text<'a>>,
    /// SUBSCRIBE: the group, generated for an ephemeral subscription.
    #[serde(borrow, default)]
    pub group: Option<Text<'a>>,
    /// AUTH: milliseconds until the token expires; absent for a token that does not.
    #[serde(default)]
    pub expires_in_ms: Option<u64>,
    /// AUTH that asked for it: from now on a message of either side may hold several frames.
    #[serde(default)]
    pub batch: bool,
    /// AUTH: the version of the protocol that the hub speaks, [`crate::VERSION`].
    #[serde(default)]
    pub version: Option<u32>,
    /// AUTH: the hub's own version, for people.
    #[serde(borrow, default)]
    pub hub: Option<Text<'a>>,
    /// AUTH: largest frame, and largest message to the hub, in bytes.
    #[serde(default)]
    pub max_frame_bytes: Option<u64>,
    /// AUTH: publishes without an answer after which the hub reads no further until it has answered some.
    #[serde(default)]
    pub max_publishes: Option<u32>,
    /// AUTH: most subscriptions of one connection.
    #[serde(default)]
    pub max_subscriptions: Option<u32>,
}

/// An ERR: what was asked was not done.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ErrFrame<'a> {
    /// One of [`ErrorCode`]'s names, or one of a later version.
    #[serde(borrow)]
    pub code: Text<'a>,
    /// The reason, for people.
    #[serde(borrow)]
    pub msg: Text<'a>,
    /// `corr` of the request; none: it had none.
    #[serde(borrow, default)]
    pub corr: Option<Text<'a>>,
    /// Milliseconds to wait before the next try; none: the hub gives no time.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
    /// AUTH that was refused with `jwt_invalid`: the token was good once, but its `exp` has passed. A fresh one helps.
    #[serde(default)]
    pub expired: bool,
}

/// A frame from hub to client.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ServerFrame<'a> {
    /// `OK`: the request was carried out.
    Ok(OkFrame<'a>),
    /// `ERR`: the request was refused, or the connection has a problem.
    Err(ErrFrame<'a>),
    /// `EVENT`: one delivery.
    Event {
        /// `topic` of the SUBSCRIBE; the concrete one stands in the event.
        topic: Text<'a>,
        /// `group` of the SUBSCRIBE.
        group: Text<'a>,
        /// The event's JSON: see [`crate::Event::parse`].
        event: &'a RawValue,
        /// Attempt, limits and lease of this delivery.
        ctx: DeliveryContext<'a>,
    },
    /// `LIVE`: an ephemeral subscription's snapshot is complete; what follows came after it.
    Live {
        /// `topic` of the SUBSCRIBE.
        topic: Text<'a>,
        /// `group` of the SUBSCRIBE.
        group: Text<'a>,
    },
    /// `GAP`: events were skipped.
    Gap {
        /// The concrete topic, never a pattern.
        topic: Text<'a>,
        /// `group` of the SUBSCRIBE.
        group: Text<'a>,
        /// First seq that was skipped.
        from: u64,
        /// Last seq that was skipped.
        to: u64,
        /// The reason, for people.
        reason: Text<'a>,
    },
    /// `REVOKED`: the hub ended a subscription.
    Revoked {
        /// `topic` of the SUBSCRIBE.
        topic: Text<'a>,
        /// `group` of the SUBSCRIBE.
        group: Text<'a>,
        /// One of [`ErrorCode`]'s names, or one of a later version.
        code: Text<'a>,
        /// The reason, for people.
        msg: Text<'a>,
    },
    /// `PONG`: the answer to a PING.
    Pong {
        /// `corr` of the PING; none: it had none.
        corr: Option<Text<'a>>,
    },
}

impl<'a> ServerFrame<'a> {
    /// An OK with nothing but the request's `corr`.
    pub fn ok(corr: Option<Text<'a>>) -> Self {
        Self::Ok(OkFrame { corr, ..OkFrame::default() })
    }

    /// The ERR of a refusal.
    pub fn refused(refusal: &'a Refusal, corr: Option<Text<'a>>) -> Self {
        Self::Err(ErrFrame {
            code: refusal.code().as_str().into(),
            msg: refusal.message().into(),
            corr,
            retry_after_ms: refusal.retry_after_ms(),
            expired: false,
        })
    }

    /// An ERR without a time to wait.
    pub fn error(code: ErrorCode, msg: impl Into<String>, corr: Option<Text<'a>>) -> Self {
        Self::Err(ErrFrame {
            code: code.as_str().into(),
            msg: Text::from(msg.into()),
            corr,
            retry_after_ms: None,
            expired: false,
        })
    }
}
