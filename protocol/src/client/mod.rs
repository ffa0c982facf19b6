//! Frames from client to hub.
//!
//! ```text
//!   write::publish, write::ack, …  ──► text frame ──► parse ──► Request     the hub's reader
//!   Request::encode ──► the same
//! ```
//!
//! One writer and one reader. The writer puts strings together and knows nothing of serde, because it is in the wasm
//! module that every page downloads. The reader is strict: it checks every byte before the hub stores or repeats any.

mod parse;
pub mod write;

pub use parse::parse;

use serde_json::value::RawValue;

use crate::{EventOptions, Group, Refusal, SubscribeOptions, Text, TopicOrPattern};

/// The name of an operation a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// Authenticate.
    Auth,
    /// Publish an event.
    Publish,
    /// Start receiving.
    Subscribe,
    /// Stop receiving.
    Unsubscribe,
    /// Settle a delivery.
    Ack,
    /// Give a delivery back.
    Nack,
    /// Extend a lease.
    ModAck,
    /// Stop delivery to this member.
    Pause,
    /// Start delivery to this member again.
    Resume,
    /// Ask for a PONG.
    Ping,
}

impl Op {
    /// Every operation.
    pub const ALL: &'static [Self] = &[
        Op::Auth,
        Op::Publish,
        Op::Subscribe,
        Op::Unsubscribe,
        Op::Ack,
        Op::Nack,
        Op::ModAck,
        Op::Pause,
        Op::Resume,
        Op::Ping,
    ];

    fn from_wire(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|op| op.as_str() == name)
    }

    /// The value of `op` in its frames.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "AUTH",
            Self::Publish => "PUBLISH",
            Self::Subscribe => "SUBSCRIBE",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Ack => "ACK",
            Self::Nack => "NACK",
            Self::ModAck => "MODACK",
            Self::Pause => "PAUSE",
            Self::Resume => "RESUME",
            Self::Ping => "PING",
        }
    }

    /// Whether a connection that has not authenticated may ask for it.
    pub const fn open_to_all(self) -> bool {
        matches!(self, Self::Auth | Self::Ping)
    }
}

/// What a PUBLISH holds.
#[derive(Debug, Clone)]
pub struct Publish<'a> {
    /// A well-formed topic.
    pub topic: Text<'a>,
    /// Any JSON value of the payload profile, not yet checked against it: see [`crate::check_payload`].
    pub payload: &'a RawValue,
    /// What else the event carries.
    pub options: EventOptions<'a>,
}

/// What a SUBSCRIBE holds.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// The topic, or the pattern over topics, to receive.
    pub topic: TopicOrPattern,
    /// The durable group to join; none: an ephemeral subscription.
    pub group: Option<Group>,
    /// Where to start, how many at once, and who settles.
    pub options: SubscribeOptions,
}

/// The subscription a frame is about, as the client named it.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// `topic` of the SUBSCRIBE.
    pub topic: Text<'a>,
    /// `group` of the SUBSCRIBE, or the generated one.
    pub group: Text<'a>,
}

/// The delivery a frame is about.
#[derive(Debug, Clone)]
pub struct Settle<'a> {
    /// The subscription the delivery came by.
    pub target: Target<'a>,
    /// Id of the delivered event.
    pub id: Text<'a>,
    /// The delivery's lease; none: whatever lease this connection holds on that id.
    pub lease: Option<Text<'a>>,
}

/// What a NACK holds.
#[derive(Debug, Clone)]
pub struct Nack<'a> {
    /// The delivery that goes back.
    pub settle: Settle<'a>,
    /// The reason, kept with a dead letter, cut at [`limits::REASON_BYTES`](crate::limits::REASON_BYTES).
    pub reason: Option<Text<'a>>,
    /// Wait this long before the next delivery; none: the hub's backoff.
    pub delay_ms: Option<u64>,
    /// No further delivery: straight to the dead letters.
    pub dead: bool,
}

/// What a client asks for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClientFrame<'a> {
    /// `AUTH {token, batch?}`.
    Auth {
        /// A JWT, or the hub's static token; an absent one is empty.
        token: Text<'a>,
        /// The client wants several frames in one message, both ways: see [`frames`](crate::frames).
        batch: bool,
    },
    /// `PUBLISH {topic, payload, opts?}`.
    Publish(Publish<'a>),
    /// `SUBSCRIBE {topic, group?, opts?}`.
    Subscribe(Box<Subscribe>),
    /// `UNSUBSCRIBE {topic, group}`.
    Unsubscribe(Target<'a>),
    /// `ACK {topic, group, id, lease?}`.
    Ack(Settle<'a>),
    /// `NACK {topic, group, id, lease?, reason?, delay_ms?, dead?}`.
    Nack(Nack<'a>),
    /// `MODACK {topic, group, id, lease?, extend_ms}`.
    ModAck {
        /// The delivery whose lease is extended.
        settle: Settle<'a>,
        /// The lease's new length in milliseconds, from now.
        extend_ms: u64,
    },
    /// `PAUSE {topic, group}`.
    Pause(Target<'a>),
    /// `RESUME {topic, group}`.
    Resume(Target<'a>),
    /// `PING`, which has no fields.
    Ping,
}

/// A frame with its correlation.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Repeated in the answer, which has none when the request has none.
    pub corr: Option<Text<'a>>,
    /// What the client asks for.
    pub frame: ClientFrame<'a>,
}

/// A frame that cannot be carried out, with what is needed to answer it.
#[derive(Debug, Clone)]
pub struct BadRequest<'a> {
    /// The frame's `corr`, as far as it could be read.
    pub corr: Option<Text<'a>>,
    /// The frame's `op`, if it is one.
    pub op: Option<Op>,
    /// The frame has an `op` that this version does not know.
    pub unknown_op: bool,
    /// The answer: what is wrong with the frame.
    pub error: Refusal,
}

impl ClientFrame<'_> {
    /// Which operation it is.
    pub fn op(&self) -> Op {
        match self {
            Self::Auth { .. } => Op::Auth,
            Self::Publish(_) => Op::Publish,
            Self::Subscribe(_) => Op::Subscribe,
            Self::Unsubscribe(_) => Op::Unsubscribe,
            Self::Ack(_) => Op::Ack,
            Self::Nack(_) => Op::Nack,
            Self::ModAck { .. } => Op::ModAck,
            Self::Pause(_) => Op::Pause,
            Self::Resume(_) => Op::Resume,
            Self::Ping => Op::Ping,
        }
    }
}
