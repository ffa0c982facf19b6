//! The leases of deliveries that wait for their consumer. They are extended here: otherwise a slow consumer is given what the
//! hub has given to somebody else meanwhile, and what waits long uses up its attempts without anybody having seen it.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

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
    event: Arc<str>,
    lease: Lease,
    extend_at: Instant,
}

impl Leases {
    /// Leases of that length.
    pub(super) fn new(length: Duration, link: &Arc<Link>) -> Self {
        Self { length, link: Arc::clone(link), newest: 0, waiting: VecDeque::new() }
    }

    /// Numbers an event that goes into the queue.
    pub(super) fn add(&mut self, raw: &mut Raw) {
        let (Some(lease), Some(deadline)) = (&raw.lease, raw.deadline) else { return };
        self.forget_taken();
        self.newest += 1;
        raw.number = self.newest;
        self.waiting.push_back(Waiting {
            number: raw.number,
            connection: raw.connection,
            event: Arc::clone(&raw.event),
            lease: lease.clone(),
            extend_at: deadline.checked_sub(self.length / 2).unwrap_or(deadline),
        });
    }

    pub(super) fn length(&self) -> Duration {
        self.length
    }

    /// When the newest of them is to be extended.
    pub(super) fn newest_due(&self) -> Option<Instant> {
        self.waiting.back().map(|waiting| waiting.extend_at)
    }

    /// The newest one did not fit into the queue.
    pub(super) fn take_back(&mut self, raw: &Raw) {
        if raw.number > 0 {
            self.waiting.pop_back();
            self.newest -= 1;
        }
    }

    fn forget_taken(&mut self) {
        let taken = self.link.taken.load(Ordering::Acquire);
        while self.waiting.front().is_some_and(|waiting| waiting.number <= taken) {
            self.waiting.pop_front();
        }
    }

    /// When the next of them is to be extended.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.extend_at).min()
    }

    /// The event and the lease of all that wait, if one of them is to be extended by now: they count as extended from now on.
    /// Those of another connection are void.
    pub(super) fn take_due(&mut self, now: Instant, connection: u32) -> Vec<(Arc<str>, Lease)> {
        self.forget_taken();
        self.waiting.retain(|waiting| waiting.connection == connection);
        if self.due().is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.link.kept.extend(self.newest, now + self.length);
        let again = now + self.length / 2;
        let each = self.waiting.iter_mut().map(|waiting| {
            waiting.extend_at = again;
            (Arc::clone(&waiting.event), waiting.lease.clone())
        });
        each.collect()
    }
}
