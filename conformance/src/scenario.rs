//! What a scenario is.

use std::pin::Pin;

use crate::{
    check::Outcome,
    stage::{Stage, Store},
};

/// Something a client can do, beyond connecting and publishing, which all of them can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Can {
    /// Gives events of a durable group to a handler, and acknowledges.
    Subscribe,
    /// Leaves a group.
    Unsubscribe,
    /// Follows a topic without a group.
    Live,
    /// Keeps the newest event of each key.
    Watch,
    /// Comes back by itself after a lost connection, with its publishes and subscriptions, and tells its states.
    Reconnect,
    /// Notices by PING that a connection is dead.
    Ping,
    /// Takes a function for the token, and renews it.
    Renew,
    /// Keeps the lease while a handler runs.
    Extend,
    /// Does not handle an event beside itself when it comes again meanwhile.
    Exclusive,
    /// Sends several frames in one message, where the hub agrees.
    Batch,
    /// Finishes what was begun before it closes.
    Drain,
}

impl Can {
    /// All there are.
    pub const ALL: [Self; 11] = [
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Live,
        Self::Watch,
        Self::Reconnect,
        Self::Ping,
        Self::Renew,
        Self::Extend,
        Self::Exclusive,
        Self::Batch,
        Self::Drain,
    ];

    /// As it stands in a driver's hello.
    pub fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Live => "live",
            Self::Watch => "watch",
            Self::Reconnect => "reconnect",
            Self::Ping => "ping",
            Self::Renew => "renew",
            Self::Extend => "extend",
            Self::Exclusive => "exclusive",
            Self::Batch => "batch",
            Self::Drain => "drain",
        }
    }
}

pub(crate) type Play<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// Something a client must do right, whatever the line to the hub does meanwhile.
pub struct Scenario {
    /// Says what is right.
    pub name: &'static str,
    /// What happens in it, in a sentence.
    pub about: &'static str,
    /// What a client must be able to do to be asked.
    pub needs: &'static [Can],
    pub(crate) store: Store,
    pub(crate) play: for<'a> fn(&'a Stage) -> Play<'a>,
}

/// One line of a table of scenarios: the function that plays it, what it needs, its hub if not in memory, what happens.
macro_rules! scenario {
    ($play:ident, [$($can:ident),*], $about:literal) => {
        $crate::scenario::scenario!($play, [$($can),*], Memory, $about)
    };
    ($play:ident, [$($can:ident),*], $store:ident, $about:literal) => {
        $crate::scenario::Scenario {
            name: stringify!($play),
            about: $about,
            needs: &[$($crate::scenario::Can::$can),*],
            store: $crate::stage::Store::$store,
            play: |stage| Box::pin($play(stage)),
        }
    };
}

pub(crate) use scenario;
