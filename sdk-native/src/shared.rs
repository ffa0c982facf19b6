//! What a client's handles and its owner task have in common: the state of the connection, and who listens to it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
};

use prom_sdk_core::State;
use tokio::sync::{broadcast, mpsc, watch};

use crate::{ClientEvent, Error, Status};

/// What the owner publishes to all handles, and what the handles leave for it to notice.
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

    /// Waits until the client has ended; tells why.
    pub(crate) async fn until_ended(&self) -> Error {
        // The sender is this one's own: the channel does not close.
        let _ = self.status.subscribe().wait_for(|status| status.state == State::Closed).await;
        self.ended()
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
