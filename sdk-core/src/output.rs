//! What a session hands to its shell.

use std::{fmt, sync::Arc};

use prom_protocol::DeliveryContext;

use crate::Error;

/// Names one call: its answer is the [`Output::Done`] with the same id. Counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names one subscription for as long as the session lives, over all its connections. Counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u32);

/// Where the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing was asked yet.
    Idle,
    /// The first try to connect.
    Connecting,
    /// Authenticated.
    Ready,
    /// Lost, or not yet made; tried again by itself.
    Reconnecting,
    /// For good.
    Closed,
}

impl State {
    /// The state's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Reconnecting => "reconnecting",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state, and why it is that. `Reconnecting` comes again for each failed try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    /// The state now.
    pub state: State,
    /// Why the connection was lost or closed.
    pub error: Option<Error>,
    /// With `Reconnecting`: time until the next try.
    pub retry_in_ms: Option<u64>,
}

/// A successful answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done; there is nothing more to say.
    Done,
    /// A publish is committed.
    Published {
        /// The event's id, chosen by the caller or made by the session.
        id: String,
        /// The event's position in its topic.
        seq: u64,
        /// It was committed before; nothing new was stored.
        duplicate: bool,
    },
}

/// Something for the shell to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Open a socket, then call [`crate::Session::opened`]. Any earlier socket is void: nothing of it may be told any more.
    Open,
    /// Send this text frame on the open socket.
    Send(Arc<str>),
    /// Close the socket, or stop opening it, and forget it without telling its end.
    Shut {
        /// Code for the close frame.
        code: u16,
        /// Reason for the close frame.
        reason: &'static str,
    },
    /// Get a token and call [`crate::Session::token`] with the same number.
    NeedToken(u32),
    /// The state changed.
    State(StateChange),
    /// A call is settled. Comes exactly once for each [`RequestId`].
    Done {
        /// The call.
        request: RequestId,
        /// What became of it.
        result: Result<Answer, Error>,
    },
    /// The snapshot of an ephemeral subscription is complete. Keys whose newest event came by an older connection are gone.
    Live {
        /// The subscription.
        subscription: SubscriptionId,
    },
    /// Events were skipped.
    Gap {
        /// The subscription.
        subscription: SubscriptionId,
        /// The concrete topic.
        topic: String,
        /// First seq that was skipped.
        from: u64,
        /// Last seq that was skipped.
        to: u64,
        /// Why, for people.
        reason: String,
    },
    /// The hub ended a subscription, or would not renew it after a reconnect. It is forgotten.
    Revoked {
        /// The subscription.
        subscription: SubscriptionId,
        /// Why.
        error: Error,
    },
    /// An error that belongs to no call, for instance of a settle that was not to be confirmed.
    Error(Error),
}

/// One delivery, borrowed from its frame.
#[derive(Debug, Clone)]
pub struct Delivery<'a> {
    /// To whom.
    pub subscription: SubscriptionId,
    /// By which connection: leases of an older one are void.
    pub connection: u32,
    /// The event's JSON: see [`prom_protocol::Event::parse`]. It was cut out of its frame, not checked.
    pub event: &'a str,
    /// About this delivery.
    pub context: DeliveryContext<'a>,
}

/// Names a delivery to settle.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryRef<'a> {
    /// The delivery's subscription.
    pub subscription: SubscriptionId,
    /// The delivery's connection.
    pub connection: u32,
    /// The event's id.
    pub id: &'a str,
    /// The delivery's lease.
    pub lease: Option<&'a str>,
}

/// What to say about a delivery.
#[derive(Debug, Clone, Copy)]
pub enum Settle<'a> {
    /// It is done.
    Ack,
    /// It goes back to the group.
    Nack {
        /// Why; kept with a dead letter.
        reason: Option<&'a str>,
        /// Wait before the next delivery; none: the hub's backoff.
        delay_ms: Option<u64>,
        /// No further delivery: straight to the dead letters.
        dead: bool,
    },
    /// The lease is to end so many milliseconds from now, at least 1000.
    Extend(u64),
}
