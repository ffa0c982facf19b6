//! What a client's handles and its owner task have in common.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prom_protocol::RawValue;
use prom_sdk_core::{State, SubscriptionId};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::Instant,
};

use crate::{ClientEvent, Error, Published, Status, feed::Feed};

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// One PUBLISH for the owner.
pub(crate) struct PublishCommand {
    pub(crate) topic: Box<str>,
    pub(crate) payload: Box<RawValue>,
    pub(crate) id: Option<Box<str>>,
    /// The other options as JSON; empty: none.
    pub(crate) options: Box<str>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) reply: Reply<Published>,
}

/// Everything else the owner is asked for.
pub(crate) enum Command {
    Connect(Reply<()>),
    Subscribe(Box<SubscribeCommand>),
    Unsubscribe(SubscriptionId, Reply<()>),
    Pause(SubscriptionId, bool, Reply<()>),
    Settle(SettleCommand),
    /// Close now.
    Close,
    /// Take nothing new, let what runs come to its end, then close; close at the given time at the latest.
    Drain(Instant),
}

pub(crate) struct SubscribeCommand {
    pub(crate) topic: String,
    pub(crate) group: Option<String>,
    /// The options as JSON.
    pub(crate) json: String,
    /// Unsettled events the hub may send; none: it is not bounded by credit.
    pub(crate) credit: Option<u32>,
    pub(crate) timeout: Option<Duration>,
    /// How many events may wait for a consumer that is not bounded by credit.
    pub(crate) buffer: usize,
    pub(crate) reply: Reply<Feed>,
}

pub(crate) struct SettleCommand {
    pub(crate) subscription: SubscriptionId,
    pub(crate) connection: u32,
    pub(crate) id: Box<str>,
    pub(crate) lease: Option<Box<str>>,
    pub(crate) settle: Settle,
    /// None: what the hub refuses becomes a [`ClientEvent`].
    pub(crate) reply: Option<Reply<()>>,
}

/// What to say about a delivery, owned.
pub(crate) enum Settle {
    Ack,
    Nack { reason: Option<String>, delay: Option<Duration>, dead: bool },
    Extend(Duration),
}

/// What a handle has: the ways to the owner. The owner ends when the last of these is gone.
pub(crate) struct Inner {
    /// Not bounded: each command belongs to a future that somebody holds, see `owner::backlog`.
    pub(crate) publishes: mpsc::UnboundedSender<PublishCommand>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) request_timeout: Duration,
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

    /// Sends a command and waits for its answer.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }
}

/// What the owner tells everybody, and what it must notice without being asked.
pub(crate) struct Shared {
    pub(crate) status: watch::Sender<Status>,
    pub(crate) events: broadcast::Sender<ClientEvent>,
    /// Holds at most one item: somebody's queue has room again, a subscription was dropped, a delivery was let go.
    poke: mpsc::Sender<()>,
    /// Number of the connection that is ready; 0: none. Deliveries of another one are void.
    pub(crate) connection: AtomicU32,
    /// Deliveries in the hands of the program.
    held: AtomicUsize,
    pub(crate) draining: AtomicBool,
}

impl Shared {
    pub(crate) fn new(poke: mpsc::Sender<()>) -> Self {
        Self {
            status: watch::Sender::new(Status { state: State::Idle, error: None, retry_in: None }),
            events: broadcast::Sender::new(EVENTS),
            poke,
            connection: AtomicU32::new(0),
            held: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        }
    }

    /// Has the owner look at its subscriptions. Never lost: what is there already will be seen after this.
    pub(crate) fn poke(&self) {
        let _ = self.poke.try_send(());
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    pub(crate) fn ended(&self) -> Error {
        let status = self.status.borrow();
        status.error.clone().filter(|_| status.state == State::Closed).unwrap_or_else(Error::closed)
    }

    pub(crate) fn tell(&self, event: ClientEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }
}

/// Client events kept for a listener that is behind.
const EVENTS: usize = 256;

/// Counts a delivery as being in the program's hands.
pub(crate) struct Held(Arc<Shared>);

impl Held {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        shared.held.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.0.held.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.draining.load(Ordering::SeqCst) {
            self.0.poke();
        }
    }
}
