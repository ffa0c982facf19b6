//! What is in memory: each topic's events by segment, the newest of them, what the index does not have yet.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use prom_protocol::{Group, Topic};

use crate::{
    disk::DiskFile,
    format::Position,
    ids::IdMap,
    index::{Flush, Place},
    record::{CursorRecord, EventRecord, TopicRecord},
    sidecar::{RunEntry, Sidecar},
};
use prom_store::{Cursor, Stored, Tail};

/// What a cached event takes beside its JSON.
const CACHE_OVERHEAD: usize = 200;

/// A file of the log. The active one's end is where the log ends.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Milliseconds since the Unix epoch.
    pub(crate) made_at: u64,
    pub(crate) index: SegmentIndex,
}

/// Where a segment's chosen ids, and the offsets of its runs, are found.
#[derive(Debug)]
pub(crate) enum SegmentIndex {
    /// It is being written to: in [`State::ids`] and in the runs.
    Active,
    /// It is sealed and its index file is not written yet. Where it ends, and its ids.
    Sealed(u32, Arc<IdMap>),
    /// In its index file. Where it ends.
    File(u32, Sidecar),
}

/// The segments at one moment, by number.
pub(crate) type Segments = Arc<BTreeMap<u32, Arc<Segment>>>;

/// Consecutive events of a topic in one segment.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) segment: u32,
    /// Index of `first` in `offsets`: a part may have been cut off in front.
    pub(crate) skip: u32,
    pub(crate) offsets: Offsets,
    /// Highest `ts`; that of the whole where a part was cut off.
    pub(crate) max_ts: u64,
    /// Bytes of the records; in proportion where a part was cut off.
    pub(crate) bytes: u64,
}

#[derive(Debug, Clone)]
pub(crate) enum Offsets {
    Memory(Vec<u32>),
    /// At this place of the segment's index file.
    File(u64),
}

impl Run {
    fn count(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Cuts off what is below `first`; answers its bytes.
    fn cut_front(&mut self, first: u64) -> u64 {
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
            bytes: entry.bytes,
        }
    }
}

/// A topic's log.
#[derive(Debug)]
pub(crate) struct TopicLog {
    pub(crate) topic: Topic,
    pub(crate) number: u32,
    pub(crate) epoch: u64,
    /// First seq that is retained.
    pub(crate) first: u64,
    /// Last seq that was committed.
    pub(crate) tail: u64,
    /// What the index has for it.
    pub(crate) stored_tail: u64,
    /// Ranges of retained seqs whose events were damaged and given up, ascending.
    pub(crate) holes: Vec<(u64, u64)>,
    /// By first seq, apart from each other.
    pub(crate) runs: BTreeMap<u64, Run>,
    /// The newest events, in order and up to the tail.
    pub(crate) cache: VecDeque<Stored>,
    /// Newest events of keys that the index does not have yet.
    pub(crate) latest: BTreeMap<Box<str>, Place>,
    pub(crate) cursors: BTreeMap<Group, CursorState>,
    /// Bytes of the retained events' records.
    pub(crate) bytes: u64,
    /// Where the last topic record about it stands.
    pub(crate) record_at: Position,
}

#[derive(Debug)]
pub(crate) struct CursorState {
    pub(crate) cursor: Arc<Cursor>,
    /// Where its record stands.
    pub(crate) at: Position,
}

impl TopicLog {
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

    /// Takes on an event that stands at `at`, in the place of where it stood before if it did.
    pub(crate) fn add_event(&mut self, seq: u64, ts: u64, at: Position, bytes: u64) {
        if seq < self.first {
            return;
        }
        // Behind the events before it, as a rule.
        let before = self.runs.range_mut(..seq).next_back().map(|(_, run)| run);
        if let Some(run) = before
            && run.last + 1 == seq
            && run.segment == at.segment()
            && let Offsets::Memory(offsets) = &mut run.offsets
        {
            run.last = seq;
            run.max_ts = run.max_ts.max(ts);
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
        self.insert_run(Run { first: seq, last: seq, segment: at.segment(), skip: 0, offsets, max_ts: ts, bytes });
    }

    /// Takes on a run in the place of what has its seqs. Its bytes are counted by whoever calls.
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

    /// Drops what is below `first`; answers the bytes that are gone.
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

/// See the module.
#[derive(Debug)]
pub(crate) struct State {
    /// By number.
    pub(crate) topics: Vec<TopicLog>,
    pub(crate) by_name: HashMap<Topic, u32>,
    pub(crate) segments: Segments,
    /// Chosen ids of the active segment.
    pub(crate) ids: IdMap,
    /// Where the log ends.
    pub(crate) end: Position,
    /// Topics of the cached events, oldest first.
    cache_order: VecDeque<u32>,
    cache_bytes: usize,
    cache_budget: usize,
    /// Bytes of all retained events' records.
    pub(crate) bytes: u64,
    /// Records since the index was last brought forward.
    pub(crate) records: usize,
    /// What the index does not have yet.
    dirty_topics: HashSet<u32>,
    dirty_cursors: HashSet<(u32, Group)>,
    dirty_latest: HashSet<u32>,
}

impl State {
    pub(crate) fn new(cache_budget: usize) -> Self {
        Self {
            topics: Vec::new(),
            by_name: HashMap::new(),
            segments: Segments::default(),
            ids: IdMap::default(),
            end: Position::default(),
            cache_order: VecDeque::new(),
            cache_bytes: 0,
            cache_budget,
            bytes: 0,
            records: 0,
            dirty_topics: HashSet::new(),
            dirty_cursors: HashSet::new(),
            dirty_latest: HashSet::new(),
        }
    }

    pub(crate) fn topic(&self, topic: &Topic) -> Option<&TopicLog> {
        self.by_name.get(topic).map(|number| &self.topics[*number as usize])
    }

    /// Takes on what a topic record says.
    pub(crate) fn apply_topic(&mut self, record: &TopicRecord<'_>, at: Position) -> Result<(), String> {
        self.records += 1;
        self.dirty_topics.insert(record.number);
        if let Some(log) = self.topics.get_mut(record.number as usize) {
            if log.topic.as_str() != record.name {
                return Err(format!("topic {} is called {} and {}", record.number, log.topic, record.name));
            }
            // An earlier one is scanned again. What was given up, and a new epoch, is told by a later one.
            if at >= log.record_at {
                log.record_at = at;
                log.epoch = record.epoch;
                log.holes = record.holes.to_vec();
            }
            log.tail = log.tail.max(record.tail);
            self.bytes -= log.trim(record.first).min(self.bytes);
            return Ok(());
        }
        let topic = Topic::new(&record.name).map_err(|error| format!("a topic in the log is none: {error}"))?;
        if record.number as usize != self.topics.len() || self.by_name.contains_key(&topic) {
            return Err(format!("topic {topic} has number {}, and that is not the next", record.number));
        }
        self.by_name.insert(topic.clone(), record.number);
        self.topics.push(TopicLog {
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
            bytes: 0,
            record_at: at,
        });
        Ok(())
    }

    /// Takes on a cursor.
    pub(crate) fn apply_cursor(&mut self, topic: u32, group: Group, cursor: Arc<Cursor>, at: Position) {
        self.records += 1;
        if let Some(log) = self.topics.get_mut(topic as usize) {
            self.dirty_cursors.insert((topic, group.clone()));
            log.cursors.insert(group, CursorState { cursor, at });
        }
    }

    /// Takes on an event that was appended; it is in the cache from now on.
    pub(crate) fn apply_event(&mut self, topic: u32, event: Stored, at: Position, bytes: u64) {
        self.records += 1;
        let Some(log) = self.topics.get_mut(topic as usize) else { return };
        log.tail = event.seq;
        self.bytes += bytes;
        log.bytes += bytes;
        log.add_event(event.seq, event.ts, at, bytes);
        if let Some(key) = &event.key {
            if log.latest.is_empty() {
                self.dirty_latest.insert(topic);
            }
            let place = Place { at, seq: event.seq };
            match log.latest.get_mut(key) {
                Some(own) => *own = place,
                None => drop(log.latest.insert(key.clone(), place)),
            }
        }
        self.cache_bytes += event.json.len() + CACHE_OVERHEAD;
        self.cache_order.push_back(topic);
        log.cache.push_back(event);
        while self.cache_bytes > self.cache_budget
            && let Some(oldest) = self.cache_order.pop_front()
        {
            if let Some(event) = self.topics[oldest as usize].cache.pop_front() {
                self.cache_bytes -= event.json.len() + CACHE_OVERHEAD;
            }
        }
    }

    /// Takes on an event that was copied forward: as a retained one, as the newest of its key, or as both.
    pub(crate) fn apply_moved(
        &mut self,
        event: &EventRecord<'_>,
        at: Position,
        bytes: u64,
        retained: bool,
        newest: bool,
    ) {
        self.records += 1;
        let Some(log) = self.topics.get_mut(event.topic as usize) else { return };
        if retained {
            log.add_event(event.seq, event.ts, at, bytes);
        }
        if let Some(key) = event.key.filter(|_| newest) {
            self.dirty_latest.insert(event.topic);
            log.latest.insert(key.into(), Place { at, seq: event.seq });
        }
    }

    /// Takes on an event found in the log, one that was appended or copied there.
    pub(crate) fn apply_scanned(
        &mut self,
        event: &EventRecord<'_>,
        at: Position,
        known: impl FnOnce(u32, &str) -> Result<Option<Place>, String>,
    ) -> Result<(), String> {
        self.records += 1;
        let Some(log) = self.topics.get_mut(event.topic as usize) else {
            return Err(format!("an event of topic number {} comes before its topic", event.topic));
        };
        log.tail = log.tail.max(event.seq);
        if let Some(key) = event.key {
            let own = match log.latest.get(key) {
                Some(own) => Some(*own),
                // What is appended is newer than all that is known.
                None if event.moved => known(event.topic, key)?,
                None => None,
            };
            if own.is_none_or(|own| own.seq <= event.seq) {
                self.dirty_latest.insert(event.topic);
                log.latest.insert(key.into(), Place { at, seq: event.seq });
            }
        }
        Ok(())
    }

    /// Takes on the runs of all segments, in the order of the log.
    pub(crate) fn add_runs(&mut self, runs: Vec<(u32, Run)>) -> Result<(), String> {
        for (topic, mut run) in runs {
            let Some(log) = self.topics.get_mut(topic as usize) else {
                return Err(format!("events of topic number {topic} have no topic"));
            };
            log.tail = log.tail.max(run.last);
            if run.last >= log.first {
                if run.first < log.first {
                    run.cut_front(log.first);
                }
                log.insert_run(run);
            }
        }
        for log in &mut self.topics {
            log.bytes = log.runs.values().map(|run| run.bytes).sum();
            self.bytes += log.bytes;
        }
        Ok(())
    }

    /// What the index does not have yet.
    pub(crate) fn dirty(&self) -> Flush {
        let mut flush = Flush { position: self.end, ..Flush::default() };
        // With their tails: so it is noticed if the newest events of a topic are gone.
        let dirty = |log: &&TopicLog| log.tail != log.stored_tail || self.dirty_topics.contains(&log.number);
        for log in self.topics.iter().filter(dirty) {
            let mut body = Vec::new();
            log.record().encode_body(&mut body);
            body.extend_from_slice(&log.record_at.0.to_le_bytes());
            flush.topics.push((log.number, body));
        }
        for (topic, group) in &self.dirty_cursors {
            if let Some(state) = self.topics[*topic as usize].cursors.get(group) {
                let cursor = std::borrow::Cow::Borrowed(&*state.cursor);
                let mut body = Vec::new();
                CursorRecord { topic: *topic, group: group.as_str(), cursor }.encode_body(&mut body);
                body.extend_from_slice(&state.at.0.to_le_bytes());
                flush.cursors.push((*topic, group.as_str().into(), body));
            }
        }
        for topic in &self.dirty_latest {
            let latest = &self.topics[*topic as usize].latest;
            flush.latest.extend(latest.iter().map(|(key, place)| (*topic, key.clone(), *place)));
        }
        flush
    }

    /// The index has these newest events.
    pub(crate) fn flushed(&mut self, latest: &[(u32, Box<str>, Place)]) {
        for (topic, key, place) in latest {
            let log = &mut self.topics[*topic as usize];
            if log.latest.get(key) == Some(place) {
                log.latest.remove(key);
            }
            if log.latest.is_empty() {
                self.dirty_latest.remove(topic);
            }
        }
    }

    /// Counts what is dirty from now on; whoever calls has taken [`State::dirty`] and flushes it, or calls
    /// [`State::not_flushed`].
    pub(crate) fn take_dirty(&mut self) -> Flush {
        let mut flush = self.dirty();
        flush.records = self.records;
        for (number, _) in &flush.topics {
            let log = &mut self.topics[*number as usize];
            log.stored_tail = log.tail;
        }
        self.dirty_topics.clear();
        self.dirty_cursors.clear();
        self.records = 0;
        flush
    }

    /// What [`State::take_dirty`] gave could not be flushed.
    pub(crate) fn not_flushed(&mut self, flush: &Flush) {
        self.records += flush.records;
        self.dirty_topics.extend(flush.topics.iter().map(|(number, _)| *number));
        for (topic, group, _) in &flush.cursors {
            if let Ok(group) = Group::new(group) {
                self.dirty_cursors.insert((*topic, group));
            }
        }
    }
}
