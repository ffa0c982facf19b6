//! The queue between the owner task and the consumer of one subscription.
//!
//! The owner never waits for a consumer. With acknowledgements the queue is bounded by the subscription's credit: the hub
//! sends no more than `maxInFlight` unsettled events. Without, it is bounded by marks: at the high one the owner asks the
//! hub to pause, and the log waits; at the low one it asks to go on.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    task::{Poll, ready},
};

use prom_sdk_core::SubscriptionId;
use tokio::{sync::mpsc, time::Instant};

use crate::{Context, Error, lease::Lease, shared::Shared};

/// What a subscription receives, in order.
pub(crate) enum Item {
    Event(Raw),
    /// The snapshot is complete.
    Live(u32),
    Gap(Gap),
    /// So many events did not fit.
    Lagged(u64),
}

/// An event that was not looked into yet.
pub(crate) struct Raw {
    pub(crate) connection: u32,
    /// Counts the subscription's events with a lease, from 1; 0: not counted.
    pub(crate) number: u64,
    pub(crate) event: Arc<str>,
    pub(crate) context: Context,
    pub(crate) lease: Option<Lease>,
    /// When the lease ends at the latest.
    pub(crate) deadline: Option<Instant>,
}

/// Events of a topic that a subscription missed: retention removed them before they could be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// The concrete topic.
    pub topic: String,
    /// First seq that was skipped.
    pub from: u64,
    /// Last seq that was skipped.
    pub to: u64,
    /// The reason, for people.
    pub reason: String,
}

/// What both ends of the queue see.
pub(crate) struct Link {
    /// The hub was asked to pause because the queue is long.
    pub(crate) held_back: AtomicBool,
    /// The queue is short again at this length.
    pub(crate) low: usize,
    /// Why the subscription ended; empty while it has not.
    pub(crate) end: OnceLock<Error>,
    /// How many settles and extensions the program has sent. After the consumer has gone, the owner leaves the group only when
    /// it has carried out all of them.
    pub(crate) said: AtomicU64,
    /// Number of the newest event with a lease that was taken out of the queue.
    pub(crate) taken: AtomicU64,
    pub(crate) kept: Kept,
}

/// Leases that were extended while their events waited in the queue, by the numbers of the events.
#[derive(Default)]
pub(crate) struct Kept {
    /// The greatest of the numbers: what came later need not look further.
    through: AtomicU64,
    ends: Mutex<HashMap<u64, Instant>>,
}

impl Kept {
    /// Says when the leases of all end that wait now.
    pub(crate) fn set(&self, ends: impl Iterator<Item = (u64, Instant)>) {
        let mut own = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        own.clear();
        own.extend(ends);
        let through = own.keys().copied().max().unwrap_or_default();
        self.through.fetch_max(through, Ordering::Release);
    }

    /// When the lease of an event ends that is taken now.
    fn deadline(&self, raw: &Raw) -> Option<Instant> {
        if raw.number > self.through.load(Ordering::Acquire) {
            return raw.deadline;
        }
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(&raw.number).or(raw.deadline)
    }
}

/// The consumer's end. Dropping it unsubscribes.
pub(crate) struct Feed {
    pub(crate) id: SubscriptionId,
    items: mpsc::Receiver<Item>,
    pub(crate) link: Arc<Link>,
    pub(crate) shared: Arc<Shared>,
}

impl Feed {
    pub(crate) fn new(id: SubscriptionId, items: mpsc::Receiver<Item>, link: Arc<Link>, shared: Arc<Shared>) -> Self {
        Self { id, items, link, shared }
    }

    pub(crate) fn poll_next(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Option<Item>> {
        loop {
            let item = ready!(self.items.poll_recv(cx));
            // Pairs with the fence in `Member::hold_back`: one of the two sees what the other did.
            fence(Ordering::SeqCst);
            if self.link.held_back.load(Ordering::Relaxed) && self.items.len() <= self.link.low {
                self.shared.poke();
            }
            let Some(Item::Event(mut raw)) = item else { return Poll::Ready(item) };
            if raw.number > 0 {
                // In this order: what the owner sees as taken has not read an extension that was never sent.
                raw.deadline = self.link.kept.deadline(&raw);
                self.link.taken.store(raw.number, Ordering::Release);
            }
            if !self.void(&raw) {
                return Poll::Ready(Some(Item::Event(raw)));
            }
        }
    }

    /// Whether a delivery is not this client's to settle any more: its connection or its lease has ended, so the hub has
    /// given the event back already.
    fn void(&self, raw: &Raw) -> bool {
        raw.lease.is_some()
            && (raw.connection != self.shared.connection.load(Ordering::Acquire)
                || self.shared.draining.load(Ordering::Acquire)
                || raw.deadline.is_some_and(|deadline| deadline <= Instant::now()))
    }

    /// Why there is nothing more to come.
    pub(crate) fn end(&self) -> Option<Error> {
        self.link.end.get().cloned()
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("id", &self.id).field("waiting", &self.items.len()).finish_non_exhaustive()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.items.close();
        self.shared.poke();
    }
}
