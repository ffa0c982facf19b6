//! A group's state in one topic: settled ranges, unsettled events, what is read ahead.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use prom_protocol::{Ordering, SubscribeOptions, Topic};

use prom_store::{Cursor, Stored};

/// Names one member: one subscription of one consumer. Unique while the hub runs.
pub type MemberId = u64;

/// An event that was taken up (see [`Track::take_up`]) and is not settled.
#[derive(Debug)]
pub(crate) struct Unsettled {
    pub(crate) event: Stored,
    /// Deliveries so far.
    pub(crate) attempts: u32,
    pub(crate) state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// A member works on it until `deadline`.
    Leased { member: MemberId, lease: u64, deadline: u64 },
    /// It is delivered again at `due`.
    Waiting { due: u64 },
    /// It may be delivered again now.
    Due,
}

/// The last seq of a settled range, with what a cursor says about it.
#[derive(Debug, Clone)]
struct RunEnd {
    last: u64,
    id: Option<Arc<str>>,
    ts: u64,
}

/// An event on its way to the dead letters.
#[derive(Debug)]
pub struct Dead {
    /// The event.
    pub event: Stored,
    /// Deliveries it had.
    pub attempts: u32,
    /// Why the last of them failed.
    pub error: Box<str>,
}

#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) topic: Topic,
    pub(crate) epoch: u64,
    /// Every event at or below is settled.
    floor: u64,
    floor_id: Option<Arc<str>>,
    floor_ts: u64,
    /// Settled ranges above `floor`, by first seq.
    runs: BTreeMap<u64, RunEnd>,
    /// Events that were taken up: leased, waiting for a retry, or to be given to somebody as soon as possible.
    pub(crate) unsettled: BTreeMap<u64, Unsettled>,
    /// Unsettled events that are `Due`, but for the stalled ones.
    pub(crate) due: BTreeSet<u64>,
    /// Unsettled events that are `Due` and wait for members without credit, because nobody else's filter passes them;
    /// and the same by member.
    pub(crate) stalled: BTreeMap<u64, Vec<MemberId>>,
    pub(crate) stalled_for: BTreeSet<(MemberId, u64)>,
    /// Delivery counts, by seq, of events that are not taken up yet. An event that is not here had one delivery if its seq
    /// is at most `restored_to`, else none.
    pub(crate) restored: HashMap<u64, u32>,
    /// What is unsettled at or below was delivered once before the engine had this track.
    restored_to: u64,
    /// Highest seq that was ever delivered.
    pub(crate) delivered: u64,
    /// Read, and not taken up.
    pub(crate) ready: VecDeque<Stored>,
    /// With `ordered: "key"`: the unsettled event of each key, and those that wait behind it.
    pub(crate) busy: HashMap<Box<str>, u64>,
    pub(crate) parked: HashMap<Box<str>, VecDeque<Stored>>,
    pub(crate) parked_count: usize,
    /// Highest seq that was read.
    pub(crate) read_to: u64,
    /// Highest seq that is committed.
    pub(crate) tail: u64,
    pub(crate) reading: bool,
    /// The cursor has changed since it was last handed out to be stored.
    pub(crate) dirty: bool,
    /// A cursor is being stored.
    pub(crate) persisting: bool,
    pub(crate) dead: Vec<Dead>,
    /// What was settled since the cursor was last handed out, and what is settled by the one being stored.
    pub(crate) unstored: Vec<Stored>,
    pub(crate) storing: Vec<Stored>,
    pub(crate) members: Vec<MemberId>,
    /// Of the member that joined first while this topic has members: another one, on other topics of the group, may be
    /// somebody else's.
    pub(crate) max_attempts: u32,
    pub(crate) ordered: Ordering,
}

impl Track {
    pub(crate) fn new(topic: Topic, cursor: Cursor, tail: u64) -> Self {
        let mut runs = BTreeMap::new();
        for (first, last) in cursor.settled {
            runs.insert(first, RunEnd { last, id: None, ts: 0 });
        }
        Self {
            topic,
            epoch: cursor.epoch,
            floor: cursor.floor,
            floor_id: cursor.last_id,
            floor_ts: cursor.last_ts,
            runs,
            unsettled: BTreeMap::new(),
            due: BTreeSet::new(),
            stalled: BTreeMap::new(),
            stalled_for: BTreeSet::new(),
            restored: cursor.attempts.into_iter().collect(),
            restored_to: cursor.delivered,
            delivered: cursor.delivered.max(cursor.floor),
            ready: VecDeque::new(),
            busy: HashMap::new(),
            parked: HashMap::new(),
            parked_count: 0,
            read_to: cursor.floor,
            tail,
            reading: false,
            dirty: false,
            persisting: false,
            dead: Vec::new(),
            unstored: Vec::new(),
            storing: Vec::new(),
            members: Vec::new(),
            max_attempts: SubscribeOptions::default().max_attempts,
            ordered: Ordering::None,
        }
    }

    /// The position to store.
    pub(crate) fn cursor(&self) -> Cursor {
        let restored = self.restored.iter().map(|(seq, n)| (*seq, *n));
        let unsettled = self.unsettled.iter().map(|(seq, unsettled)| (*seq, unsettled.attempts));
        // Passed over by later events, and not delivered themselves.
        let read = self.ready.iter().chain(self.parked.values().flatten()).map(|event| (event.seq, 0));
        let passed = read.filter(|(seq, _)| *seq > self.restored_to && !self.restored.contains_key(seq));
        let counted = restored.chain(unsettled).chain(passed);
        let mut attempts: Vec<(u64, u32)> = counted.filter(|(seq, n)| *seq <= self.delivered && *n != 1).collect();
        attempts.sort_unstable();
        Cursor {
            epoch: self.epoch,
            floor: self.floor,
            last_id: self.floor_id.clone(),
            last_ts: self.floor_ts,
            delivered: self.delivered,
            settled: self.runs.iter().map(|(first, run)| (*first, run.last)).collect(),
            attempts,
        }
    }

    pub(crate) fn is_settled(&self, seq: u64) -> bool {
        seq <= self.floor || self.runs.range(..=seq).next_back().is_some_and(|(_, run)| seq <= run.last)
    }

    /// Takes up an event; its caller finds out whether it can be delivered now.
    pub(crate) fn take_up(&mut self, event: Stored, ordered: bool) {
        let seq = event.seq;
        let attempts = self.restored.remove(&seq).unwrap_or(u32::from(seq <= self.restored_to));
        if ordered && let Some(key) = &event.key {
            self.busy.insert(key.clone(), seq);
        }
        self.unsettled.insert(seq, Unsettled { event, attempts, state: State::Due });
    }

    /// Takes on a member. With another order than the first one's, what was taken up must be [put back](Self::put_back)
    /// before.
    pub(crate) fn join(&mut self, id: MemberId, options: &SubscribeOptions) {
        if self.members.is_empty() {
            self.max_attempts = options.max_attempts;
            self.ordered = options.ordered;
        }
        self.members.push(id);
        self.unstall_all();
    }

    /// Makes everything as if it had only been read. Nothing may be leased.
    pub(crate) fn put_back(&mut self) {
        let mut events: Vec<Stored> = self.ready.drain(..).chain(self.parked.drain().flat_map(|(_, q)| q)).collect();
        for (seq, unsettled) in std::mem::take(&mut self.unsettled) {
            self.restored.insert(seq, unsettled.attempts);
            events.push(unsettled.event);
        }
        events.sort_unstable_by_key(|event| event.seq);
        self.ready = events.into();
        self.parked_count = 0;
        self.busy.clear();
        self.due.clear();
        self.stalled.clear();
        self.stalled_for.clear();
    }

    /// Makes the next event of `key` ready, when the one before it is settled.
    pub(crate) fn free(&mut self, key: &str) {
        self.busy.remove(key);
        if let Some(waiting) = self.parked.get_mut(key) {
            if let Some(next) = waiting.pop_front() {
                self.parked_count -= 1;
                self.ready.push_front(next);
            }
            if waiting.is_empty() {
                self.parked.remove(key);
            }
        }
    }

    /// Sets an event that was taken off the due ones aside until one of `members` has credit.
    pub(crate) fn stall(&mut self, seq: u64, members: Vec<MemberId>) {
        self.stalled_for.extend(members.iter().map(|id| (*id, seq)));
        self.stalled.insert(seq, members);
    }

    /// Whether `seq` is no longer set aside; it is not due by this.
    pub(crate) fn unstall(&mut self, seq: u64) {
        for id in self.stalled.remove(&seq).unwrap_or_default() {
            self.stalled_for.remove(&(id, seq));
        }
    }

    /// Makes everything that was set aside due, because who wants what has changed.
    pub(crate) fn unstall_all(&mut self) {
        self.stalled_for.clear();
        self.due.extend(std::mem::take(&mut self.stalled).into_keys());
    }

    /// The first event set aside for a member.
    pub(crate) fn stalled_for(&self, id: MemberId) -> Option<u64> {
        self.stalled_for.range((id, 0)..=(id, u64::MAX)).next().map(|(_, seq)| *seq)
    }

    /// Who wants an event that is set aside.
    pub(crate) fn wanted_by(&self, seq: u64) -> &[MemberId] {
        self.stalled.get(&seq).map_or(&[], Vec::as_slice)
    }

    /// Whether there is anything a member could be given now.
    pub(crate) fn has_work(&self) -> bool {
        !self.due.is_empty() || !self.ready.is_empty() || !self.stalled.is_empty()
    }

    /// How many events are held in memory for this topic.
    pub(crate) fn held(&self) -> usize {
        self.unsettled.len() + self.ready.len() + self.parked_count + self.unstored.len() + self.storing.len()
    }

    /// Marks one seq as settled.
    pub(crate) fn settle(&mut self, seq: u64, id: &Arc<str>, ts: u64) {
        if self.is_settled(seq) {
            return;
        }
        self.dirty = true;
        if seq == self.floor + 1 {
            self.raise_floor(seq, Some(Arc::clone(id)), ts);
            return;
        }
        let mut first = seq;
        let mut end = RunEnd { last: seq, id: Some(Arc::clone(id)), ts };
        if let Some((before, run)) = self.runs.range(..seq).next_back()
            && run.last + 1 == seq
        {
            first = *before;
        }
        if let Some(run) = self.runs.remove(&(seq + 1)) {
            end = run;
        }
        self.runs.insert(first, end);
    }

    /// Settles what was not read yet up to `to`: the log before it is gone. Answers the range that was lost, if
    /// something was that was not settled.
    pub(crate) fn skip_to(&mut self, to: u64) -> Option<(u64, u64)> {
        let from = self.read_to.max(self.floor) + 1;
        if to < from {
            return None;
        }
        self.read_to = to;
        self.restored.retain(|seq, _| *seq < from || *seq > to);
        let run_of = |seq: u64| self.runs.range(..=seq).next_back().filter(|(_, run)| run.last >= seq);
        let first = run_of(from).map_or(from, |(_, run)| run.last + 1);
        let last = run_of(to).map_or(to, |(first, _)| first - 1);
        if first > last {
            return None;
        }
        self.dirty = true;
        self.settle_range(first, last);
        Some((first, last))
    }

    /// Marks a range as settled that begins and ends with a seq that was not.
    fn settle_range(&mut self, first: u64, last: u64) {
        let inner: Vec<u64> = self.runs.range(first..=last).map(|(first, _)| *first).collect();
        for first in inner {
            self.runs.remove(&first);
        }
        if first == self.floor + 1 {
            self.raise_floor(last, None, 0);
            return;
        }
        let before = self.runs.range(..first).next_back().filter(|(_, run)| run.last + 1 == first).map(|(f, _)| *f);
        let end = self.runs.remove(&(last + 1)).unwrap_or(RunEnd { last, id: None, ts: 0 });
        self.runs.insert(before.unwrap_or(first), end);
    }

    fn raise_floor(&mut self, to: u64, id: Option<Arc<str>>, ts: u64) {
        self.floor = to;
        if id.is_some() {
            self.floor_id = id;
            self.floor_ts = ts;
        }
        while let Some(entry) = self.runs.first_entry() {
            if *entry.key() > self.floor + 1 {
                break;
            }
            let run = entry.remove();
            if run.last > self.floor {
                self.floor = run.last;
                if run.id.is_some() {
                    self.floor_id = run.id;
                    self.floor_ts = run.ts;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track() -> Track {
        Track::new(Topic::new("t").unwrap(), Cursor::default(), 100)
    }

    #[test]
    fn settling_in_any_order_gives_one_floor() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut order: Vec<u64> = (1..=50).collect();
            random.shuffle(&mut order);
            let mut track = track();
            for (n, seq) in order.iter().enumerate() {
                track.settle(*seq, &seq.to_string().into(), *seq);
                let expected: Vec<u64> = (1..=50).filter(|s| order[..=n].contains(s)).collect();
                let got: Vec<u64> = (1..=50).filter(|s| track.is_settled(*s)).collect();
                assert_eq!(got, expected, "seed {seed}");
                let cursor = track.cursor();
                assert!(cursor.settled.iter().all(|(first, last)| first <= last && *first > cursor.floor + 1));
                assert!(cursor.settled.windows(2).all(|w| w[0].1 + 1 < w[1].0), "ranges stand apart");
            }
            let cursor = track.cursor();
            assert_eq!((cursor.floor, cursor.last_id.as_deref(), cursor.settled.len()), (50, Some("50"), 0));
        }
    }

    #[test]
    fn a_skip_settles_what_is_gone() {
        let mut track = track();
        track.settle(5, &"5".into(), 5);
        assert_eq!(track.skip_to(4), Some((1, 4)));
        assert_eq!(track.floor, 5);
        assert_eq!(track.skip_to(3), None);
    }

    #[test]
    fn a_skip_leaves_alone_what_was_read_before_it() {
        // It once raised the floor over events that were read and not delivered: a restart lost them.
        let mut track = track();
        track.read_to = 3;
        track.settle(6, &"6".into(), 6);
        assert_eq!(track.skip_to(8), Some((4, 8)));
        let cursor = track.cursor();
        assert_eq!((cursor.floor, cursor.settled), (0, vec![(4, 8)]));
        track.settle(3, &"3".into(), 3);
        track.settle(2, &"2".into(), 2);
        track.settle(1, &"1".into(), 1);
        assert_eq!(track.floor, 8);
    }

    #[test]
    fn a_skip_reports_only_what_was_not_settled() {
        let mut track = track();
        for seq in [1, 2, 5, 8, 9] {
            track.settle(seq, &"".into(), 0);
        }
        assert_eq!(track.skip_to(9), Some((3, 7)));
        assert_eq!(track.floor, 9);
        track.settle(11, &"".into(), 0);
        assert_eq!(track.skip_to(11), Some((10, 10)));
        let mut restarted =
            Track::new(Topic::new("t").unwrap(), Cursor { settled: vec![(1, 4)], ..Cursor::default() }, 9);
        assert_eq!(restarted.skip_to(3), None, "all of it was settled");
    }
}
