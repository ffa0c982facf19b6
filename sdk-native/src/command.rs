//! What a client's handles ask of its owner task, and the way there.

use std::{sync::Arc, time::Duration};

use prom_sdk_core::SubscriptionId;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{Error, Published, feed::Feed, http::Http, lease::Lease, shared::Shared};

/// Where the result of a command goes. The receiver may have been dropped.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// A topic and a payload, in one piece of memory.
pub(crate) struct Outgoing {
    text: Box<str>,
    topic_bytes: usize,
}

impl Outgoing {
    /// `text` is the topic, whose length is given, and after it the payload: JSON without line breaks.
    pub(crate) fn new(text: Box<str>, topic_bytes: usize) -> Self {
        Self { text, topic_bytes }
    }

    /// Topic and payload.
    pub(crate) fn parts(&self) -> (&str, &str) {
        self.text.split_at(self.topic_bytes)
    }
}

/// One PUBLISH for the owner.
pub(crate) struct PublishCommand {
    pub(crate) text: Outgoing,
    pub(crate) id: Option<Box<str>>,
    /// The other options as JSON; empty: none.
    pub(crate) options: Box<str>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) reply: Reply<Published>,
}

/// Every other request to the owner.
pub(crate) enum Command {
    Connect(Reply<()>),
    Subscribe(Box<SubscribeCommand>),
    Unsubscribe(SubscriptionId, Reply<()>),
    Pause(SubscriptionId, bool, Reply<()>),
    Settle(SettleCommand),
    /// Tell when what was published and settled before is answered.
    Flush(Reply<()>),
    /// Close now.
    Close,
    /// Take nothing new, let what runs come to its end, then close; close at the given time at the latest.
    Drain(Instant),
}

/// What a subscription with acknowledgements asks for.
pub(crate) struct Credit {
    /// Unsettled events the hub may send.
    pub(crate) events: u32,
    /// The lease of each.
    pub(crate) lease: Duration,
}

pub(crate) struct SubscribeCommand {
    pub(crate) topic: String,
    pub(crate) group: Option<String>,
    /// The options as JSON.
    pub(crate) json: String,
    /// With acknowledgements; none: nothing is leased, and no credit bounds what the hub may send.
    pub(crate) credit: Option<Credit>,
    pub(crate) timeout: Option<Duration>,
    /// How many events may wait for a consumer that is not bounded by credit.
    pub(crate) buffer: usize,
    pub(crate) reply: Reply<Feed>,
}

pub(crate) struct SettleCommand {
    pub(crate) subscription: SubscriptionId,
    pub(crate) connection: u32,
    pub(crate) id: Box<str>,
    pub(crate) lease: Option<Lease>,
    pub(crate) settle: Settle,
    /// None: what the hub refuses becomes a [`ClientEvent`](crate::ClientEvent).
    pub(crate) reply: Option<Reply<()>>,
}

/// What to say about a delivery, owned.
pub(crate) enum Settle {
    Ack,
    Nack { reason: Option<String>, delay: Option<Duration>, dead: bool },
    Extend(Duration),
}

/// What a handle has: the ways to the owner task. The owner ends when the last of these is gone.
pub(crate) struct Inner {
    /// Not bounded: each command belongs to a future that somebody holds, see `owner::backlog`.
    pub(crate) publishes: mpsc::UnboundedSender<PublishCommand>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) request_timeout: Duration,
    pub(crate) http: Http,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("state", &self.shared.status.borrow().state).finish_non_exhaustive()
    }
}

impl Inner {
    /// Why the owner has ended.
    pub(crate) fn ended(&self) -> Error {
        self.shared.ended()
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| self.ended())
    }

    /// Sends a command and waits for its result.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }
}
