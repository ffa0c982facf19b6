//! The owner's end of its subscriptions.

use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
};

use prom_sdk_core::SubscriptionId;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::leases::Leases;
use crate::{
    Error,
    command::SubscribeCommand,
    feed::{Feed, Item, Kept, Link},
    numbers::NumberMap,
    shared::Shared,
};

/// Room above the high mark for what is under way when the hub is asked to pause.
const SLACK: usize = 64 * 1024;

/// The owner's end of one subscription.
pub(super) struct Member {
    pub(super) topic: String,
    pub(super) group: Option<String>,
    items: mpsc::Sender<Item>,
    link: Arc<Link>,
    /// The length at which the hub is asked to pause.
    high: usize,
    /// The program asked to pause.
    pub(super) paused: bool,
    /// How many settles and extensions of the program the owner has carried out.
    heard: u64,
    /// What did not fit: what must not be lost, and how many events were.
    late: VecDeque<Item>,
    /// With acknowledgements: the leases of what waits in the queue.
    pub(super) leases: Option<Leases>,
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
        let credit = command.credit.as_ref().map(|credit| credit.events.max(1) as usize);
        // With credit: what is unsettled now, and as much that a lost connection or an expired lease has made void. More of that
        // means that nobody takes anything: then the hub must pause, or what comes finds no room and uses up its attempts.
        let capacity = credit.map_or(buffer + SLACK, |credit| 2 * credit);
        let (high, low) = credit.map_or((buffer, buffer / 2), |credit| (credit + 1, credit));
        let (items, receiver) = mpsc::channel(capacity);
        let link = Arc::new(Link {
            held_back: AtomicBool::new(false),
            low,
            end: OnceLock::new(),
            said: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            kept: Kept::default(),
        });
        let member = Self {
            topic: command.topic.clone(),
            group: command.group.clone(),
            items,
            link: Arc::clone(&link),
            high,
            paused: false,
            heard: 0,
            late: VecDeque::new(),
            leases: command.credit.as_ref().map(|credit| Leases::new(credit.lease, &link)),
        };
        (member, Feed::new(id, receiver, link, Arc::clone(shared)))
    }

    pub(super) fn push(&mut self, mut item: Item) -> Taken {
        if self.late.is_empty() {
            if let (Some(leases), Item::Event(raw)) = (&mut self.leases, &mut item) {
                leases.add(raw);
            }
            match self.items.try_send(item) {
                Ok(()) if self.must_hold_back() => return Taken::HoldBack,
                Ok(()) => return Taken::Yes,
                Err(TrySendError::Closed(_)) => return Taken::Gone,
                Err(TrySendError::Full(item)) => {
                    if let (Some(leases), Item::Event(raw)) = (&mut self.leases, &item) {
                        leases.take_back(raw);
                    }
                    self.push_late(item);
                }
            }
        } else {
            self.push_late(item);
            self.catch_up();
        }
        Taken::Yes
    }

    fn push_late(&mut self, item: Item) {
        tracing::debug!(topic = self.topic, "a subscription's queue is full");
        // With credit a lease brings an event back, and nothing else is of interest.
        if self.leases.is_some() {
            return;
        }
        match (item, self.late.back_mut()) {
            (Item::Event(_), Some(Item::Lagged(events))) => *events += 1,
            (Item::Event(_), _) => self.late.push_back(Item::Lagged(1)),
            (item, _) => self.late.push_back(item),
        }
    }

    /// Adds what did not fit, as far as it fits now.
    fn catch_up(&mut self) {
        while let Some(item) = self.late.pop_front() {
            if let Err(TrySendError::Full(item)) = self.items.try_send(item) {
                return self.late.push_front(item);
            }
        }
    }

    fn length(&self) -> usize {
        self.items.max_capacity() - self.items.capacity()
    }

    fn must_hold_back(&self) -> bool {
        if self.length() < self.high || self.link.held_back.swap(true, Ordering::Relaxed) {
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

    /// Counts a settle or an extension. Returns whether the consumer has gone and this was its last.
    pub(super) fn heard(&mut self) -> bool {
        self.heard += 1;
        if let Some(leases) = &mut self.leases {
            leases.forget_taken();
        }
        self.is_gone()
    }

    /// Whether the consumer is gone, and all it has said has arrived: to leave earlier would give away what it has
    /// acknowledged. Commands come in their order, but the news of a drop has no place among them.
    fn is_gone(&self) -> bool {
        self.items.is_closed() && self.heard >= self.link.said.load(Ordering::Acquire)
    }

    /// Notes why it ends. The first reason counts.
    pub(super) fn end(&self, error: Error) {
        let _ = self.link.end.set(error);
    }
}

/// All subscriptions of the client.
#[derive(Default)]
pub(super) struct Members(NumberMap<SubscriptionId, Member>);

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

    /// The subscriptions whose consumer has gone and whose last settle has been carried out.
    pub(super) fn gone(&self) -> Vec<SubscriptionId> {
        self.0.iter().filter(|(_, member)| member.is_gone()).map(|(id, _)| *id).collect()
    }

    /// Those that were held back, may go on, and are not paused by the program.
    pub(super) fn go_on(&mut self) -> Vec<SubscriptionId> {
        self.0.values_mut().for_each(Member::catch_up);
        self.0.iter().filter(|(_, member)| member.may_go_on() && !member.paused).map(|(id, _)| *id).collect()
    }

    /// Those that have leases.
    pub(super) fn leases(&mut self) -> impl Iterator<Item = (SubscriptionId, &mut Leases)> {
        self.0.iter_mut().filter_map(|(id, member)| Some((*id, member.leases.as_mut()?)))
    }

    /// Ends all of them; what waits can still be taken.
    pub(super) fn end(&mut self, error: &Error) {
        for (_, member) in self.0.drain() {
            member.end(error.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::{command::Credit, feed::Raw};

    fn member(credit: Option<u32>, buffer: usize) -> (Member, Feed, mpsc::Receiver<()>) {
        let (poke, poked) = mpsc::channel(1);
        let command = SubscribeCommand {
            topic: "a".into(),
            group: None,
            json: String::new(),
            credit: credit.map(|events| Credit { events, lease: Duration::from_secs(30) }),
            timeout: None,
            buffer,
            reply: oneshot::channel().0,
        };
        let (member, feed) = Member::new(SubscriptionId(1), &command, &Arc::new(Shared::new(poke)));
        (member, feed, poked)
    }

    fn event() -> Item {
        let context = crate::Context::new(1, 1, false);
        Item::Event(Raw { connection: 1, number: 0, event: "{}".into(), context, lease: None, deadline: None })
    }

    fn take(feed: &mut Feed) -> Option<Item> {
        match feed.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(item) => item,
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_hub_is_held_back_at_the_high_mark_and_goes_on_at_the_low_one() {
        let (mut member, mut feed, mut poked) = member(None, 10);
        assert!((1..10).all(|_| member.push(event()) == Taken::Yes));
        assert_eq!(member.push(event()), Taken::HoldBack);
        assert_eq!(member.push(event()), Taken::Yes, "asked once");
        while member.length() > 6 {
            assert!(take(&mut feed).is_some() && poked.try_recv().is_err());
        }
        assert!(!member.may_go_on());
        assert!(take(&mut feed).is_some() && poked.try_recv().is_ok());
        assert!(member.may_go_on() && !member.may_go_on());
    }

    #[test]
    fn what_does_not_fit_is_counted_and_the_rest_is_kept_in_order() {
        let (mut member, mut feed, _poked) = member(None, 1);
        let capacity = member.items.max_capacity();
        for _ in 0..capacity + 2 {
            member.push(event());
        }
        member.push(Item::Live(1));
        member.push(event());
        assert!((0..capacity).all(|_| matches!(take(&mut feed), Some(Item::Event(_)))));
        assert!(take(&mut feed).is_none());
        member.catch_up();
        assert!(matches!(take(&mut feed), Some(Item::Lagged(2))));
        assert!(matches!(take(&mut feed), Some(Item::Live(1))));
        assert!(matches!(take(&mut feed), Some(Item::Lagged(1))));
        member.push(event());
        assert!(matches!(take(&mut feed), Some(Item::Event(_))));
    }

    /// A consumer that took nothing over two reconnects had a queue full of what was void: what came then found no room, time
    /// and again, until it was a dead letter.
    #[test]
    fn with_credit_the_hub_is_held_back_by_what_is_void_alone() {
        let (mut member, mut feed, mut poked) = member(Some(3), 1);
        assert!((0..3).all(|_| member.push(event()) == Taken::Yes), "as much as there is credit");
        assert_eq!(member.push(event()), Taken::HoldBack, "of an older connection, then");
        assert!((0..100).all(|_| member.push(event()) == Taken::Yes));
        assert!((0..3).all(|_| take(&mut feed).is_some()));
        assert!(poked.try_recv().is_ok() && member.may_go_on());
        assert!((0..3).all(|_| take(&mut feed).is_some()));
        assert!(take(&mut feed).is_none());
        drop(feed);
        assert_eq!(member.push(event()), Taken::Gone);
    }
}
