//! A group's state in one topic: settled ranges, unsettled events, what is read ahead.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use prom_protocol::Topic;

use super::engine::MemberId;
use crate::store::{Cursor, Stored};

/// An event that was delivered and is not settled.
#[derive(Debug)]
pub(super) struct Unsettled {
    pub(super) event: Stored,
    /// Deliveries so far.
    pub(super) attempts: u32,
    pub(super) state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
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
    id: Option<Box<str>>,
    ts: u64,
}

/// An event on its way to the dead letters.
#[derive(Debug)]
pub struct Dead {
    /// The event.
    pub event: Stored,
    /// Deliveries it had.
    pub attempts: u32,
    /// What the last of them said.
    pub error: Box<str>,
}

#[derive(Debug)]
pub(super) struct Log {
    pub(super) topic: Topic,
    epoch: u64,
    /// Every event at or below is settled.
    floor: u64,
    floor_id: Option<Box<str>>,
    floor_ts: u64,
    /// Settled ranges above `floor`, by first seq.
    runs: BTreeMap<u64, RunEnd>,
    pub(super) unsettled: BTreeMap<u64, Unsettled>,
    /// Unsettled events that are `Due`.
    pub(super) due: BTreeSet<u64>,
    /// Attempts of events that were delivered before the hub started and have not been read again yet.
    restored: HashMap<u64, u32>,
    /// Highest seq that was ever delivered.
    pub(super) delivered: u64,
    /// Read, and never delivered since the engine has this log.
    pub(super) ready: VecDeque<Stored>,
    /// With `ordered: "key"`: the unsettled event of each key, and those that wait behind it.
    pub(super) busy: HashMap<Box<str>, u64>,
    pub(super) parked: HashMap<Box<str>, VecDeque<Stored>>,
    pub(super) parked_count: usize,
    /// Highest seq that was read.
    pub(super) read_to: u64,
    /// Highest seq that is committed.
    pub(super) tail: u64,
    pub(super) reading: bool,
    /// The cursor has changed since it was last handed out to be stored.
    pub(super) dirty: bool,
    /// A cursor is being stored.
    pub(super) persisting: bool,
    pub(super) dead: Vec<Dead>,
    pub(super) members: Vec<MemberId>,
}

impl Log {
    pub(super) fn new(topic: Topic, cursor: Cursor, tail: u64) -> Self {
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
            restored: cursor.attempts.into_iter().collect(),
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
            members: Vec::new(),
        }
    }

    /// The position to store.
    pub(super) fn cursor(&self) -> Cursor {
        let mut attempts: Vec<(u64, u32)> = self.restored.iter().map(|(seq, n)| (*seq, *n)).collect();
        attempts.extend(self.unsettled.iter().filter(|(_, u)| u.attempts > 1).map(|(seq, u)| (*seq, u.attempts)));
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

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    pub(super) fn is_settled(&self, seq: u64) -> bool {
        seq <= self.floor || self.runs.range(..=seq).next_back().is_some_and(|(_, run)| seq <= run.last)
    }

    /// Deliveries before this one, of an event that is delivered for the first time since the engine has this log.
    pub(super) fn earlier_attempts(&mut self, seq: u64) -> u32 {
        self.restored.remove(&seq).unwrap_or(u32::from(seq <= self.delivered))
    }

    /// Whether there is anything a member could be given now.
    pub(super) fn has_work(&self) -> bool {
        !self.due.is_empty() || !self.ready.is_empty()
    }

    /// How many events are held in memory for this log.
    pub(super) fn held(&self) -> usize {
        self.unsettled.len() + self.ready.len() + self.parked_count
    }

    /// Marks one seq as settled.
    pub(super) fn settle(&mut self, seq: u64, id: &str, ts: u64) {
        if self.is_settled(seq) {
            return;
        }
        self.dirty = true;
        if seq == self.floor + 1 {
            self.raise_floor(seq, Some(id.into()), ts);
            return;
        }
        let mut first = seq;
        let mut end = RunEnd { last: seq, id: Some(id.into()), ts };
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

    /// Settles everything up to `to`: the log before it is gone. Answers the range that was lost, if there was one.
    pub(super) fn skip_to(&mut self, to: u64) -> Option<(u64, u64)> {
        let from = self.read_to.max(self.floor) + 1;
        if to < from {
            return None;
        }
        self.dirty = true;
        self.read_to = to;
        self.restored.retain(|seq, _| *seq > to);
        // What is still unsettled below stays: its members hold the events.
        match self.unsettled.keys().next() {
            Some(&oldest) if oldest <= to => {
                let mut seq = from;
                while seq <= to {
                    if !self.unsettled.contains_key(&seq) {
                        self.settle(seq, "", 0);
                    }
                    seq += 1;
                }
            }
            _ => self.raise_floor(to, None, 0),
        }
        Some((from, to))
    }

    fn raise_floor(&mut self, to: u64, id: Option<Box<str>>, ts: u64) {
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

    fn log() -> Log {
        Log::new(Topic::new("t").unwrap(), Cursor::default(), 100)
    }

    #[test]
    fn settling_in_any_order_gives_one_floor() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut order: Vec<u64> = (1..=50).collect();
            random.shuffle(&mut order);
            let mut log = log();
            for (n, seq) in order.iter().enumerate() {
                log.settle(*seq, &seq.to_string(), *seq);
                let expected: Vec<u64> = (1..=50).filter(|s| order[..=n].contains(s)).collect();
                let got: Vec<u64> = (1..=50).filter(|s| log.is_settled(*s)).collect();
                assert_eq!(got, expected, "seed {seed}");
                let cursor = log.cursor();
                assert!(cursor.settled.iter().all(|(first, last)| first <= last && *first > cursor.floor + 1));
                assert!(cursor.settled.windows(2).all(|w| w[0].1 + 1 < w[1].0), "ranges stand apart");
            }
            let cursor = log.cursor();
            assert_eq!((cursor.floor, cursor.last_id.as_deref(), cursor.settled.len()), (50, Some("50"), 0));
        }
    }

    #[test]
    fn a_skip_settles_what_is_gone() {
        let mut log = log();
        log.settle(5, "5", 5);
        assert_eq!(log.skip_to(4), Some((1, 4)));
        assert_eq!(log.floor(), 5);
        assert_eq!(log.skip_to(3), None);
    }
}
