//! Bytes of publishes that connections hold because their time has not come.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::subject::Subject;
use crate::sparing::Sparing;

/// Those of all connections of the hub together.
const MOST: usize = 64 * 1024 * 1024;
/// Those of one subject.
const MOST_EACH: usize = MOST / 4;

/// What all connections hold.
#[derive(Debug)]
pub(super) struct Backlogs {
    bytes: AtomicUsize,
    warned: Sparing,
}

impl Backlogs {
    /// Says by `warned` when there is no room.
    pub(super) fn new(warned: Sparing) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), warned })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }
}

/// What one connection holds, until it is dropped.
#[derive(Debug)]
pub(crate) struct Backlog {
    all: Arc<Backlogs>,
    subject: Arc<Subject>,
    own: usize,
}

impl Backlog {
    pub(super) fn new(all: &Arc<Backlogs>, subject: &Arc<Subject>) -> Self {
        Self { all: Arc::clone(all), subject: Arc::clone(subject), own: 0 }
    }

    /// It holds so many bytes now.
    pub(crate) fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.own, bytes);
        for count in [&self.all.bytes, &self.subject.held] {
            if bytes >= before {
                count.fetch_add(bytes - before, Relaxed);
            } else {
                count.fetch_sub(before - bytes, Relaxed);
            }
        }
    }

    /// What it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.own
    }

    /// Whether its subject, or all together, hold as much as they may.
    pub(crate) fn is_full(&self) -> bool {
        let (all, each) = (self.all.bytes(), self.subject.held.load(Relaxed));
        let full = all >= MOST || each >= MOST_EACH;
        if full && let Some(left_out) = self.all.warned.turn() {
            tracing::warn!(
                all,
                of_this_subject = each,
                left_out,
                "more publishes wait for their rate than are held: their connections are not read"
            );
        }
        full
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_subject_leaves_room_to_the_others() {
        let all = Backlogs::new(Sparing::new(Duration::from_secs(1)));
        let subjects: Vec<_> = (0..5).map(|_| Arc::new(Subject::default())).collect();
        let of = |n: usize| Backlog::new(&all, &subjects[n]);
        let (mut first, second, mut other) = (of(0), of(0), of(1));
        first.set(MOST_EACH - 1);
        assert!(!second.is_full());
        first.set(MOST_EACH);
        assert!(first.is_full() && second.is_full() && !other.is_full());
        other.set(MOST_EACH - 1);
        let mut more = [of(2), of(3)];
        more.iter_mut().for_each(|backlog| backlog.set(MOST_EACH));
        assert!(!other.is_full());
        other.set(MOST_EACH);
        assert!(of(4).is_full(), "all together");
        first.set(1);
        assert!(!of(4).is_full());
        drop((first, second, other, more));
        assert_eq!((all.bytes(), subjects[0].held.load(Relaxed)), (0, 0), "who is gone holds nothing");
    }
}
