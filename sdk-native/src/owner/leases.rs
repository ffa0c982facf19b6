//! The leases of deliveries that wait for their consumer. They are extended here: otherwise a slow consumer is given what the
//! hub has given to somebody else meanwhile, and what waits long uses up its attempts without anybody having seen it.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use prom_protocol::Event;
use tokio::time::Instant;

use crate::{
    feed::{Link, Raw},
    lease::Lease,
};

/// Those of one subscription.
pub(super) struct Leases {
    length: Duration,
    link: Arc<Link>,
    /// Number of the newest event with a lease that went into the queue.
    newest: u64,
    /// In the order of the queue. Those that were taken meanwhile are at the front.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    number: u64,
    connection: u32,
    what: What,
    lease: Lease,
    ends_at: Instant,
}

/// Most are taken long before anybody asks for their id.
enum What {
    Event(Arc<str>),
    Id(Box<str>),
}

impl Waiting {
    fn extend_at(&self, length: Duration) -> Instant {
        self.ends_at.checked_sub(length / 2).unwrap_or(self.ends_at)
    }

    /// None: nobody can read the event.
    fn id(&mut self) -> Option<Box<str>> {
        if let What::Event(event) = &self.what {
            let id = Event::parse(event).ok()?.id.as_str().into();
            self.what = What::Id(id);
        }
        match &self.what {
            What::Id(id) => Some(id.clone()),
            What::Event(_) => None,
        }
    }
}

impl Leases {
    /// Leases of that length.
    pub(super) fn new(length: Duration, link: &Arc<Link>) -> Self {
        Self { length, link: Arc::clone(link), newest: 0, waiting: VecDeque::new() }
    }

    pub(super) fn length(&self) -> Duration {
        self.length
    }

    /// Numbers an event that goes into the queue.
    pub(super) fn add(&mut self, raw: &mut Raw) {
        let (Some(lease), Some(ends_at)) = (&raw.lease, raw.deadline) else { return };
        self.forget_taken();
        self.newest += 1;
        raw.number = self.newest;
        self.waiting.push_back(Waiting {
            number: raw.number,
            connection: raw.connection,
            what: What::Event(Arc::clone(&raw.event)),
            lease: lease.clone(),
            ends_at,
        });
    }

    /// The newest one did not fit into the queue.
    pub(super) fn take_back(&mut self, raw: &Raw) {
        if raw.number > 0 {
            self.waiting.pop_back();
            self.newest -= 1;
        }
    }

    /// What was taken is the program's: its memory too.
    pub(super) fn forget_taken(&mut self) {
        let taken = self.link.taken.load(Ordering::Acquire);
        while self.waiting.front().is_some_and(|waiting| waiting.number <= taken) {
            self.waiting.pop_front();
        }
    }

    /// When the newest of them is to be extended.
    pub(super) fn newest_due(&self) -> Option<Instant> {
        self.waiting.back().map(|waiting| waiting.extend_at(self.length))
    }

    /// When the next of them is to be extended.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.extend_at(self.length)).min()
    }

    /// Id and lease of those that are to be extended by now, or soon: they count as extended from now on. What has ended, with
    /// its lease or its connection, stays so: somebody else has it.
    pub(super) fn take_due(&mut self, now: Instant, connection: u32) -> Vec<(Box<str>, Lease)> {
        self.forget_taken();
        self.waiting.retain(|waiting| waiting.connection == connection && waiting.ends_at > now);
        let (length, mut extended) = (self.length, Vec::new());
        if self.due().is_some_and(|at| at <= now) {
            // Together with what is due soon: not one by one in the order of their arrival.
            let soon = now + length / 8;
            for waiting in self.waiting.iter_mut().filter(|waiting| waiting.extend_at(length) <= soon) {
                waiting.ends_at = now + length;
                extended.extend(waiting.id().map(|id| (id, waiting.lease.clone())));
            }
        }
        self.link.kept.set(self.waiting.iter().map(|waiting| (waiting.number, waiting.ends_at)));
        extended
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use prom_sdk_core::SubscriptionId;
    use tokio::sync::{mpsc, oneshot};

    use crate::{
        command::{Credit, SubscribeCommand},
        feed::{Feed, Item, Raw},
        owner::members::Member,
        shared::Shared,
    };

    use super::*;

    const LENGTH: Duration = Duration::from_secs(8 * 3600);

    /// A member with leases of that length, on connection 1.
    fn member(credit: u32) -> (Member, Feed) {
        let command = SubscribeCommand {
            topic: "a".into(),
            group: Some("g".into()),
            json: String::new(),
            credit: Some(Credit { events: credit, lease: LENGTH }),
            timeout: None,
            buffer: 1,
            reply: oneshot::channel().0,
        };
        let shared = Arc::new(Shared::new(mpsc::channel(1).0));
        shared.connection.store(1, Ordering::Release);
        Member::new(SubscriptionId(1), &command, &shared)
    }

    /// An event whose lease ends then.
    fn push(member: &mut Member, id: u32, ends_at: Instant) {
        let event = format!(r#"{{"id":"{id}","seq":1,"ts":1,"topic":"a","payload":1}}"#);
        let (context, lease) = (crate::Context::new(1, 5, false), Some(Lease::from("l")));
        let raw = Raw { connection: 1, number: 0, event: event.into(), context, lease, deadline: Some(ends_at) };
        member.push(Item::Event(raw));
    }

    /// Id and end of what the consumer is given next.
    fn take(feed: &mut Feed) -> Option<(String, Instant)> {
        match feed.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Item::Event(raw))) => {
                Some((Event::parse(&raw.event).unwrap().id.as_str().to_owned(), raw.deadline.unwrap()))
            }
            _ => None,
        }
    }

    fn ids(due: &[(Box<str>, Lease)]) -> Vec<&str> {
        due.iter().map(|(id, _)| &**id).collect()
    }

    #[test]
    fn what_waits_is_extended_at_half_of_its_lease_and_what_is_taken_is_not() {
        let (mut member, mut feed) = member(9);
        let start = Instant::now();
        for id in 1..=3 {
            push(&mut member, id, start + LENGTH + Duration::from_millis(id.into()));
        }
        assert_eq!(take(&mut feed).unwrap().0, "1");
        let leases = member.leases.as_mut().unwrap();
        assert!(leases.take_due(start + LENGTH / 4, 1).is_empty());
        let half = start + LENGTH / 2 + Duration::from_millis(2);
        assert_eq!(ids(&leases.take_due(half, 1)), ["2", "3"], "also what is due a millisecond later");
        assert_eq!(leases.due(), Some(half + LENGTH / 2));
        assert_eq!(take(&mut feed), Some(("2".to_owned(), half + LENGTH)));
        assert_eq!(ids(&leases.take_due(half + LENGTH / 2, 1)), ["3"]);
        assert_eq!(take(&mut feed), Some(("3".to_owned(), half + LENGTH / 2 + LENGTH)));
        leases.forget_taken();
        assert!(leases.waiting.is_empty() && leases.due().is_none());
    }

    /// A process that stood still extended what the hub had given to others meanwhile, and gave it out as its own.
    #[test]
    fn a_lease_that_has_ended_stays_so() {
        let (mut member, mut feed) = member(9);
        let now = Instant::now();
        push(&mut member, 1, now);
        push(&mut member, 2, now + LENGTH / 4);
        let leases = member.leases.as_mut().unwrap();
        assert_eq!(ids(&leases.take_due(now, 1)), ["2"]);
        assert_eq!(take(&mut feed), Some(("2".to_owned(), now + LENGTH)), "the first is void");
        // And one that had been extended before.
        push(&mut member, 3, now + LENGTH / 4);
        let leases = member.leases.as_mut().unwrap();
        assert_eq!(ids(&leases.take_due(now, 1)), ["3"]);
        assert!(leases.take_due(now + LENGTH, 1).is_empty());
        assert!(take(&mut feed).is_some_and(|(_, ends_at)| ends_at == now + LENGTH / 4), "its own end counts");
    }

    #[test]
    fn those_of_another_connection_are_void() {
        let (mut member, _feed) = member(9);
        let now = Instant::now();
        push(&mut member, 1, now + LENGTH / 4);
        let leases = member.leases.as_mut().unwrap();
        assert!(leases.take_due(now, 2).is_empty() && leases.waiting.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let (mut member, mut feed) = member(1);
        let now = Instant::now();
        for id in 1..=4 {
            push(&mut member, id, now + LENGTH / 4);
        }
        assert_eq!(ids(&member.leases.as_mut().unwrap().take_due(now, 1)), ["1", "2"]);
        assert!(take(&mut feed).is_some() && take(&mut feed).is_some());
        push(&mut member, 5, now + LENGTH / 4);
        assert_eq!(ids(&member.leases.as_mut().unwrap().take_due(now, 1)), ["5"]);
    }
}
