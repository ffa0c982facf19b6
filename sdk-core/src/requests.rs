//! Requests without an answer, publishes aside.

use std::collections::VecDeque;

use crate::SubscriptionId;

/// Which call a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A connect: done at the next `Ready`.
    Connect,
    /// A SUBSCRIBE that the caller waits for.
    Subscribe(SubscriptionId),
    /// A SUBSCRIBE that the session repeats after a reconnect.
    Resubscribe(SubscriptionId),
    /// A SUBSCRIBE whose caller has gone: undo it when it is answered.
    Abandoned,
    /// An UNSUBSCRIBE of a caller.
    Unsubscribe,
    /// A PAUSE or RESUME of a caller.
    Pause(SubscriptionId),
    /// ACK, NACK or MODACK of a caller.
    Settle,
    /// Done when everything that callers asked for before is answered.
    Flush,
    /// A settle that is confirmed only so that a drain knows when it is stored.
    QuietSettle,
}

impl Kind {
    /// Whether somebody waits for its `Done`.
    pub(crate) fn has_caller(self) -> bool {
        !matches!(self, Self::Resubscribe(_) | Self::Abandoned | Self::QuietSettle)
    }
}

#[derive(Debug)]
struct Entry {
    request: u64,
    kind: Kind,
    deadline: u64,
}

/// The open requests by number, which is their `corr`.
#[derive(Debug)]
pub(crate) struct Requests {
    /// Ascending by `request`. Most are answered in order, so that taking one is cheap.
    open: VecDeque<Entry>,
    /// None is due before this.
    due: u64,
}

impl Requests {
    pub(crate) fn new() -> Self {
        Self { open: VecDeque::new(), due: u64::MAX }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(crate) fn insert(&mut self, request: u64, kind: Kind, deadline: u64) {
        self.due = self.due.min(deadline);
        let entry = Entry { request, kind, deadline };
        match self.open.back() {
            Some(last) if last.request >= request => match self.find(request) {
                Ok(at) => self.open[at] = entry,
                Err(at) => self.open.insert(at, entry),
            },
            _ => self.open.push_back(entry),
        }
    }

    pub(crate) fn take(&mut self, request: u64) -> Option<Kind> {
        let at = self.find(request).ok()?;
        self.open.remove(at).map(|entry| entry.kind)
    }

    pub(crate) fn contains(&self, request: u64) -> bool {
        self.find(request).is_ok()
    }

    /// The oldest request that passes.
    pub(crate) fn oldest(&self, passes: impl Fn(Kind) -> bool) -> Option<u64> {
        self.open.iter().find(|entry| passes(entry.kind)).map(|entry| entry.request)
    }

    /// Takes the oldest request that passes.
    pub(crate) fn take_if(&mut self, passes: impl Fn(u64, Kind) -> bool) -> Option<(u64, Kind)> {
        let at = self.open.iter().position(|entry| passes(entry.request, entry.kind))?;
        self.open.remove(at).map(|entry| (entry.request, entry.kind))
    }

    pub(crate) fn due(&self) -> u64 {
        self.due
    }

    /// Takes one request whose time is up; none once all are taken.
    pub(crate) fn expired(&mut self, now: u64) -> Option<(u64, Kind)> {
        if now < self.due {
            return None;
        }
        if let Some(at) = self.open.iter().position(|entry| entry.deadline <= now) {
            return self.open.remove(at).map(|entry| (entry.request, entry.kind));
        }
        self.due = self.open.iter().map(|entry| entry.deadline).min().unwrap_or(u64::MAX);
        None
    }

    fn find(&self, request: u64) -> Result<usize, usize> {
        match self.open.front() {
            Some(first) if first.request == request => Ok(0),
            _ => self.open.binary_search_by(|entry| entry.request.cmp(&request)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_once() {
        let mut requests = Requests::new();
        requests.insert(1, Kind::Connect, 10);
        requests.insert(3, Kind::Settle, u64::MAX);
        requests.insert(2, Kind::Unsubscribe, 5);
        requests.insert(2, Kind::Settle, 5);
        assert_eq!(requests.expired(5), Some((2, Kind::Settle)));
        assert_eq!(requests.expired(5), None);
        assert_eq!(requests.due(), 10);
        assert_eq!(requests.take(2), None);
        assert_eq!(requests.take_if(|_, kind| kind == Kind::Settle), Some((3, Kind::Settle)));
        assert_eq!(requests.take(1), Some(Kind::Connect));
        assert!(requests.is_empty());
    }
}
