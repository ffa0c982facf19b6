//! Publishes without an answer, in the order they were made.

use std::{collections::VecDeque, sync::Arc};

/// One publish. Its frame, and with it its id and `corr`, stays the same however often it is sent.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) request: u64,
    pub(crate) id: String,
    pub(crate) frame: Arc<str>,
    pub(crate) deadline: u64,
    /// Whether it was sent on the present connection.
    pub(crate) sent: bool,
}

/// The queue of publishes, bounded by count and bytes.
#[derive(Debug)]
pub(crate) struct PublishQueue {
    /// Ascending by `request`.
    entries: VecDeque<Queued>,
    bytes: usize,
    max: usize,
    max_bytes: usize,
    /// No entry is due before this.
    due: u64,
}

impl PublishQueue {
    pub(crate) fn new(max: usize, max_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, max, max_bytes, due: u64::MAX }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of the oldest.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.request)
    }

    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.entries.len() < self.max && self.bytes.saturating_add(bytes) <= self.max_bytes
    }

    /// Appends; requests come in ascending order.
    pub(crate) fn push(&mut self, entry: Queued) {
        self.bytes += entry.frame.len();
        self.due = self.due.min(entry.deadline);
        self.entries.push_back(entry);
    }

    /// Takes the publish an answer belongs to. Answers come in order, so it is nearly always the first.
    pub(crate) fn take(&mut self, request: u64) -> Option<Queued> {
        let at = match self.entries.front() {
            Some(first) if first.request == request => 0,
            _ => self.entries.binary_search_by_key(&request, |entry| entry.request).ok()?,
        };
        let entry = self.entries.remove(at)?;
        self.bytes -= entry.frame.len();
        Some(entry)
    }

    /// The connection is gone: everything is to be sent again.
    pub(crate) fn lost(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.sent = false);
    }

    /// The frames that were not sent on this connection, in order; counts on them being sent.
    pub(crate) fn unsent(&mut self) -> impl Iterator<Item = Arc<str>> {
        self.entries.iter_mut().filter_map(|entry| {
            let unsent = !std::mem::replace(&mut entry.sent, true);
            unsent.then(|| entry.frame.clone())
        })
    }

    pub(crate) fn due(&self) -> u64 {
        self.due
    }

    /// Takes one publish whose time is up; none once all are taken.
    pub(crate) fn expired(&mut self, now: u64) -> Option<Queued> {
        if now < self.due {
            return None;
        }
        if let Some(request) = self.entries.iter().find(|entry| entry.deadline <= now).map(|entry| entry.request) {
            return self.take(request);
        }
        self.due = self.entries.iter().map(|entry| entry.deadline).min().unwrap_or(u64::MAX);
        None
    }

    /// Takes the oldest publish.
    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let request = self.entries.front()?.request;
        self.take(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(request: u64, deadline: u64) -> Queued {
        Queued { request, id: request.to_string(), frame: "12345".into(), deadline, sent: true }
    }

    #[test]
    fn is_bounded_by_count_and_bytes() {
        let mut queue = PublishQueue::new(2, 12);
        queue.push(entry(1, 10));
        assert!(queue.has_room(7) && !queue.has_room(8));
        queue.push(entry(2, 10));
        assert!(!queue.has_room(0));
        assert!(queue.take(2).is_some() && queue.take(2).is_none());
        assert!(queue.has_room(7));
    }

    #[test]
    fn gives_back_in_order_what_was_not_sent() {
        let mut queue = PublishQueue::new(9, 999);
        (1..=3).for_each(|n| queue.push(entry(n, 10)));
        assert_eq!(queue.unsent().count(), 0);
        queue.take(2);
        queue.lost();
        assert_eq!(queue.unsent().count(), 2);
        assert_eq!(queue.unsent().count(), 0);
        assert_eq!((queue.pop().unwrap().request, queue.pop().unwrap().request, queue.len()), (1, 3, 0));
    }

    #[test]
    fn expires_each_by_its_own_deadline() {
        let mut queue = PublishQueue::new(9, 999);
        for (request, deadline) in [(1, 30), (2, 10), (3, 20)] {
            queue.push(entry(request, deadline));
        }
        assert!(queue.expired(9).is_none());
        assert_eq!(queue.expired(20).unwrap().request, 2);
        assert_eq!(queue.expired(20).unwrap().request, 3);
        assert!(queue.expired(20).is_none());
        assert_eq!(queue.due(), 30);
    }
}
