//! A topic's log as it is in memory: which seqs there are, and where their events stand.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use prom_protocol::{Group, Topic};
use prom_store::{Cursor, Stored, Tail};

use crate::{
    format::Position,
    index::LatestAt,
    record::{NO_TOPIC, TopicRecord},
    sidecar::RunEntry,
};

/// Consecutive events of a topic in one segment.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Seq of the first event.
    pub(crate) first: u64,
    /// Seq of the last event.
    pub(crate) last: u64,
    /// Number of the segment.
    pub(crate) segment: u32,
    /// Index of `first` in `offsets`: a part may have been cut off in front.
    pub(crate) skip: u32,
    pub(crate) offsets: Offsets,
    /// Highest `ts`; if a part was cut off, still that of the whole run.
    pub(crate) max_ts: u64,
    /// When its last event was committed, by the hub's clock; not earlier than that, where it is not known exactly.
    pub(crate) committed: u64,
    /// Bytes of the records; if a part was cut off, in proportion.
    pub(crate) bytes: u64,
}

/// Where the offsets of a run are found.
#[derive(Debug, Clone)]
pub(crate) enum Offsets {
    Memory(Vec<u32>),
    /// From this byte on of the segment's index file.
    File(u64),
}

impl Run {
    fn count(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Cuts off what is below `first`; returns its bytes.
    pub(crate) fn cut_front(&mut self, first: u64) -> u64 {
        let gone = first.saturating_sub(self.first);
        let bytes = (u128::from(self.bytes) * u128::from(gone) / u128::from(self.count())) as u64;
        self.skip += gone as u32;
        self.first = first;
        self.bytes -= bytes;
        bytes
    }

    pub(crate) fn from_entry(entry: &RunEntry, segment: u32) -> Self {
        Self {
            first: entry.first,
            last: entry.first + u64::from(entry.count) - 1,
            segment,
            skip: 0,
            offsets: Offsets::File(entry.offsets_at),
            max_ts: entry.max_ts,
            committed: entry.committed,
            bytes: entry.bytes,
        }
    }
}

/// A topic's log.
#[derive(Debug)]
pub(crate) struct TopicLog {
    pub(crate) topic: Topic,
    pub(crate) number: u32,
    /// [`NO_TOPIC`]: it was removed, and only its number is still taken.
    pub(crate) epoch: u64,
    /// First seq that is retained.
    pub(crate) first: u64,
    /// Last seq that was committed.
    pub(crate) tail: u64,
    /// The tail that the index has.
    pub(crate) stored_tail: u64,
    /// Ranges of retained seqs whose events were damaged and given up, ascending.
    pub(crate) holes: Vec<(u64, u64)>,
    /// By first seq. They do not overlap.
    pub(crate) runs: BTreeMap<u64, Run>,
    /// The newest events, in order and up to the tail.
    pub(crate) cache: VecDeque<Stored>,
    /// By key: newest events that the index does not have yet.
    pub(crate) latest: BTreeMap<Box<str>, LatestAt>,
    pub(crate) cursors: BTreeMap<Group, CursorState>,
    /// Groups whose cursors were removed, and where the record stands that says so. It stays for as long as older ones may.
    pub(crate) gone: BTreeMap<Group, Position>,
    /// Bytes of the retained events' records.
    pub(crate) bytes: u64,
    /// Where the last topic record about it stands.
    pub(crate) record_at: Position,
}

/// A group's cursor.
#[derive(Debug)]
pub(crate) struct CursorState {
    pub(crate) cursor: Arc<Cursor>,
    /// Where its record stands.
    pub(crate) at: Position,
}

impl TopicLog {
    /// An empty log, as the record that stands at `at` says.
    pub(crate) fn new(topic: Topic, record: &TopicRecord<'_>, at: Position) -> Self {
        Self {
            topic,
            number: record.number,
            epoch: record.epoch,
            first: record.first,
            tail: record.tail,
            stored_tail: record.tail,
            holes: record.holes.to_vec(),
            runs: BTreeMap::new(),
            cache: VecDeque::new(),
            latest: BTreeMap::new(),
            cursors: BTreeMap::new(),
            gone: BTreeMap::new(),
            bytes: 0,
            record_at: at,
        }
    }

    /// What is left of a topic that was removed, as the record that stands at `at` says.
    pub(crate) fn removed(topic: Topic, number: u32, at: Position) -> Self {
        let name = topic.as_str().to_owned().into();
        let record = TopicRecord { number, name, epoch: NO_TOPIC, first: 1, tail: 0, holes: Vec::new().into() };
        Self::new(topic, &record, at)
    }

    /// It was removed.
    pub(crate) fn is_removed(&self) -> bool {
        self.epoch == NO_TOPIC
    }

    /// Notes that it has or had events up to `tail`; whether these are the first.
    pub(crate) fn reach(&mut self, tail: u64) -> bool {
        let first = self.tail == 0 && tail > 0;
        self.tail = self.tail.max(tail);
        first
    }

    pub(crate) fn tail(&self) -> Tail {
        Tail { epoch: self.epoch, first: self.first, seq: self.tail }
    }

    /// Highest seq that every group has settled.
    pub(crate) fn settled(&self) -> u64 {
        self.cursors.values().map(|state| state.cursor.floor).min().unwrap_or(u64::MAX)
    }

    pub(crate) fn record(&self) -> TopicRecord<'_> {
        TopicRecord {
            number: self.number,
            name: self.topic.as_str().into(),
            epoch: self.epoch,
            first: self.first,
            tail: self.tail,
            holes: self.holes.clone().into(),
        }
    }

    /// The ranges of retained seqs whose events are not there.
    pub(crate) fn missing(&self) -> Vec<(u64, u64)> {
        let mut missing = Vec::new();
        let mut next = self.first.max(1);
        for run in self.runs.values() {
            if run.first > next {
                missing.push((next, run.first - 1));
            }
            next = next.max(run.last + 1);
        }
        if next <= self.tail {
            missing.push((next, self.tail));
        }
        missing
    }

    /// The run that has `seq`, else the first one behind it.
    pub(crate) fn run_at(&self, seq: u64) -> Option<&Run> {
        let own = self.runs.range(..=seq).next_back().map(|(_, run)| run).filter(|run| run.last >= seq);
        own.or_else(|| self.runs.range(seq..).next().map(|(_, run)| run))
    }

    /// Notes that an event that was `committed` then stands at `at`. If it stood elsewhere before, that counts no more.
    pub(crate) fn add_event(&mut self, seq: u64, ts: u64, committed: u64, at: Position, bytes: u64) {
        if seq < self.first {
            return;
        }
        // As a rule it follows the events before it.
        let before = self.runs.range_mut(..seq).next_back().map(|(_, run)| run);
        if let Some(run) = before
            && run.last + 1 == seq
            && run.segment == at.segment()
            && let Offsets::Memory(offsets) = &mut run.offsets
        {
            run.last = seq;
            run.max_ts = run.max_ts.max(ts);
            run.committed = run.committed.max(committed);
            run.bytes += bytes;
            offsets.push(at.offset());
            if let Some(mut old) = self.runs.remove(&seq)
                && old.last > seq
            {
                old.cut_front(seq + 1);
                self.runs.insert(old.first, old);
            }
            return;
        }
        let offsets = Offsets::Memory(vec![at.offset()]);
        let (first, last, segment, max_ts) = (seq, seq, at.segment(), ts);
        self.insert_run(Run { first, last, segment, skip: 0, offsets, max_ts, committed, bytes });
    }

    /// Adds a run; older runs lose the seqs that it has. Whoever calls counts its bytes.
    pub(crate) fn insert_run(&mut self, run: Run) {
        let before = self.runs.range(..run.first).next_back().map(|(_, run)| run);
        if let Some(old) = before.filter(|old| old.last >= run.first) {
            let mut old = old.clone();
            self.runs.remove(&old.first);
            if old.last > run.last {
                let mut rest = old.clone();
                rest.cut_front(run.last + 1);
                self.runs.insert(rest.first, rest);
            }
            old.bytes -=
                (u128::from(old.bytes) * u128::from(old.last - run.first + 1) / u128::from(old.count())) as u64;
            old.last = run.first - 1;
            self.runs.insert(old.first, old);
        }
        while let Some((_, old)) = self.runs.range(run.first..=run.last).next() {
            let mut old = old.clone();
            self.runs.remove(&old.first);
            if old.last > run.last {
                old.cut_front(run.last + 1);
                self.runs.insert(old.first, old);
            }
        }
        self.runs.insert(run.first, run);
    }

    /// Drops what is below `first`; returns the bytes that are gone.
    pub(crate) fn trim(&mut self, first: u64) -> u64 {
        let mut gone = 0;
        self.first = self.first.max(first);
        self.holes.retain(|(_, last)| *last >= first);
        if let Some(hole) = self.holes.first_mut() {
            hole.0 = hole.0.max(first);
        }
        while let Some(mut entry) = self.runs.first_entry() {
            if entry.get().first >= first {
                break;
            }
            if entry.get().last < first {
                gone += entry.remove().bytes;
            } else {
                gone += entry.get_mut().cut_front(first);
                let run = entry.remove();
                self.runs.insert(first, run);
                break;
            }
        }
        self.bytes -= gone.min(self.bytes);
        gone
    }
}
