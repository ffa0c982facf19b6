//! What a session hands to its shell.

use std::{fmt, sync::Arc};

use prom_protocol::DeliveryContext;

use crate::Error;

/// Names one call: its result is the [`Output::Done`] with the same id. Counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names one subscription for as long as the session lives, over all its connections. Counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u32);

/// Where the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// No call was made yet.
    Idle,
    /// It connects for the first time.
    Connecting,
    /// Connected and authenticated.
    Ready,
    /// Lost, or not yet made; tried again by itself.
    Reconnecting,
    /// Ended for good.
    Closed,
}

impl State {
    /// The name the SDKs show: `idle`, `connecting`, …
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
    /// The new state.
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
    /// Open a socket, then call [`crate::Session::opened`]. Any earlier socket is void: the session must hear
    /// no more of it.
    Open,
    /// Send this text frame on the open socket.
    Send(Arc<str>),
    /// Close the socket, or stop opening it, and forget it: [`crate::Session::lost`] must not be called for it.
    Shut {
        /// Code for the close frame.
        code: u16,
        /// Reason for the close frame.
        reason: &'static str,
    },
    /// Get a token and call [`crate::Session::token`] with the same number.
    NeedToken(u32),
    /// Tell the application the new state.
    State(StateChange),
    /// A call is settled. Comes exactly once for each [`RequestId`].
    Done {
        /// The call, as the session numbered it.
        request: RequestId,
        /// What the hub answered, or why it did not.
        result: Result<Answer, Error>,
    },
    /// The snapshot of an ephemeral subscription is complete. Keys whose newest event came by an older connection are gone.
    Live {
        /// The subscription whose snapshot it is.
        subscription: SubscriptionId,
    },
    /// Events were removed by retention before they could be delivered.
    Gap {
        /// The subscription that missed them.
        subscription: SubscriptionId,
        /// The concrete topic, never a pattern.
        topic: String,
        /// First seq that was skipped.
        from: u64,
        /// Last seq that was skipped.
        to: u64,
        /// The reason, for people.
        reason: String,
    },
    /// The hub ended a subscription, or would not renew it after a reconnect. The session has forgotten it.
    Revoked {
        /// The subscription that ended.
        subscription: SubscriptionId,
        /// The reason that the hub gave.
        error: Error,
    },
    /// An error that belongs to no call, for instance of a settle that was not to be confirmed.
    Error(Error),
}

/// One delivery, borrowed from its frame.
#[derive(Debug, Clone)]
pub struct Delivery<'a> {
    /// The subscription it is for.
    pub subscription: SubscriptionId,
    /// Number of the connection it came by: leases of an older one are void.
    pub connection: u32,
    /// The event's JSON: see [`prom_protocol::Event::parse`]. It was cut out of its frame, not checked.
    pub event: &'a str,
    /// Attempt, limits and lease of this delivery.
    pub context: DeliveryContext<'a>,
}

/// Names a delivery to settle.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryRef<'a> {
    /// [`Delivery::subscription`].
    pub subscription: SubscriptionId,
    /// [`Delivery::connection`].
    pub connection: u32,
    /// The event's id.
    pub id: &'a str,
    /// The lease in [`Delivery::context`].
    pub lease: Option<&'a str>,
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy)]
pub enum Settle<'a> {
    /// ACK: the event is done with.
    Ack,
    /// NACK: the event goes back to the group.
    Nack {
        /// Why; kept with a dead letter.
        reason: Option<&'a str>,
        /// Wait before the next delivery; none: the hub's backoff.
        delay_ms: Option<u64>,
        /// No further delivery: straight to the dead letters.
        dead: bool,
    },
    /// MODACK: the lease is to end so many milliseconds from now, 1000 to 43200000; other values are clamped.
    Extend(u64),
}
