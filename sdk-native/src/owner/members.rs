//! The owner's end of its subscriptions.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering, fence},
    },
};

use prom_sdk_core::SubscriptionId;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{
    Error,
    feed::{Feed, Item, Link},
    shared::{Shared, SubscribeCommand},
};

/// Room above the high mark for what is under way when the hub is asked to pause.
const SLACK: usize = 64 * 1024;

/// One subscription.
pub(super) struct Member {
    pub(super) topic: String,
    pub(super) group: Option<String>,
    items: mpsc::Sender<Item>,
    link: Arc<Link>,
    /// Without credit: the length at which the hub is asked to pause.
    high: Option<usize>,
    /// The program asked to pause.
    pub(super) paused: bool,
    lagged: u64,
}

/// What became of an item.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// And the queue is long: the hub must pause.
    HoldBack,
    /// The consumer is gone.
    Gone,
}

impl Member {
    pub(super) fn new(id: SubscriptionId, command: &SubscribeCommand, shared: &Arc<Shared>) -> (Self, Feed) {
        let buffer = command.buffer.clamp(1, SLACK);
        // With credit: what is unsettled now, and as much that a lost connection or an expired lease has made void.
        let capacity = command.credit.map_or(buffer + SLACK, |credit| 2 * credit.max(1) as usize);
        let (items, receiver) = mpsc::channel(capacity);
        let link = Arc::new(Link { held_back: AtomicBool::new(false), low: buffer / 2, end: OnceLock::new() });
        let member = Self {
            topic: command.topic.clone(),
            group: command.group.clone(),
            items,
            link: Arc::clone(&link),
            high: command.credit.is_none().then_some(buffer),
            paused: false,
            lagged: 0,
        };
        (member, Feed::new(id, receiver, link, Arc::clone(shared)))
    }

    pub(super) fn push(&mut self, item: Item) -> Taken {
        if self.lagged > 0 && self.items.try_send(Item::Lagged(self.lagged)).is_ok() {
            self.lagged = 0;
        }
        match self.items.try_send(item) {
            Ok(()) if self.must_hold_back() => Taken::HoldBack,
            Ok(()) => Taken::Yes,
            Err(TrySendError::Closed(_)) => Taken::Gone,
            Err(TrySendError::Full(item)) => {
                // With credit the lease brings it back; without, the consumer is told.
                if self.high.is_some() && matches!(item, Item::Event(_)) {
                    self.lagged += 1;
                }
                tracing::debug!(topic = self.topic, "a subscription's queue is full; an event was dropped");
                Taken::Yes
            }
        }
    }

    fn length(&self) -> usize {
        self.items.max_capacity() - self.items.capacity()
    }

    fn must_hold_back(&self) -> bool {
        let Some(high) = self.high else { return false };
        if self.length() < high || self.link.held_back.swap(true, Ordering::Relaxed) {
            return false;
        }
        // Pairs with the fence in `Feed::poll_next`.
        fence(Ordering::SeqCst);
        if self.length() <= self.link.low {
            self.link.held_back.store(false, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Whether the hub was asked to pause and may go on; forgets that it was.
    fn may_go_on(&self) -> bool {
        self.length() <= self.link.low && self.link.held_back.swap(false, Ordering::Relaxed)
    }

    pub(super) fn held_back(&self) -> bool {
        self.link.held_back.load(Ordering::Relaxed)
    }

    /// Notes why it ends. The first reason counts.
    pub(super) fn end(&self, error: Error) {
        let _ = self.link.end.set(error);
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Members(HashMap<SubscriptionId, Member>);

impl Members {
    pub(super) fn insert(&mut self, id: SubscriptionId, member: Member) {
        self.0.insert(id, member);
    }

    pub(super) fn get_mut(&mut self, id: SubscriptionId) -> Option<&mut Member> {
        self.0.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: SubscriptionId) -> Option<Member> {
        self.0.remove(&id)
    }

    /// Those whose consumer is gone.
    pub(super) fn gone(&self) -> Vec<SubscriptionId> {
        self.0.iter().filter(|(_, member)| member.items.is_closed()).map(|(id, _)| *id).collect()
    }

    /// Those that were held back, may go on, and are not paused by the program.
    pub(super) fn to_go_on(&self) -> Vec<SubscriptionId> {
        self.0.iter().filter(|(_, member)| member.may_go_on() && !member.paused).map(|(id, _)| *id).collect()
    }

    /// Ends all of them; what waits can still be taken.
    pub(super) fn end(&mut self, error: &Error) {
        for (_, member) in self.0.drain() {
            member.end(error.clone());
        }
    }
}
