//! What is in memory: the segments, each topic's log (`topic_log.rs`), the newest events, what the index does not have yet.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use prom_protocol::{Group, Topic};
use prom_store::{Cursor, Stored};

use crate::{
    disk::DiskFile,
    format::Position,
    ids::IdMap,
    index::{Flush, LatestAt},
    record::{CursorRecord, EventRecord, NO_CURSOR, NO_TOPIC, TopicRecord, gone},
    sidecar::Sidecar,
    topic_log::{CursorState, Run, TopicLog},
};

/// About how many bytes a cached event takes beside its JSON.
const CACHE_OVERHEAD: usize = 200;

/// A file of the log. The active one's end is where the log ends.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub(crate) made_at: u64,
    pub(crate) index: SegmentIndex,
}

/// Where a segment's chosen ids, and the offsets of its runs, are found.
#[derive(Debug)]
pub(crate) enum SegmentIndex {
    /// The segment is being written to: in [`State::ids`] and in the runs.
    Active,
    /// The segment is sealed, and its index file is not written yet: where it ends, and its ids.
    Sealed(u32, Arc<IdMap>),
    /// In the segment's index file; where the segment ends.
    File(u32, Sidecar),
}

/// The segments at one moment, by number.
pub(crate) type Segments = Arc<BTreeMap<u32, Arc<Segment>>>;

/// What is in memory of a log.
#[derive(Debug)]
pub(crate) struct State {
    /// By number.
    pub(crate) topics: Vec<TopicLog>,
    pub(crate) by_name: HashMap<Topic, u32>,
    /// How many topics have or had events.
    published: usize,
    pub(crate) segments: Segments,
    /// Chosen ids of the active segment.
    pub(crate) ids: IdMap,
    /// Where the log ends.
    pub(crate) end: Position,
    /// Topics of the cached events, oldest first.
    cache_order: VecDeque<u32>,
    /// Bytes of the cached events, and how many there may be.
    cache_bytes: usize,
    cache_budget: usize,
    /// Bytes of all retained events' records.
    pub(crate) bytes: u64,
    /// Records since the index was last brought forward.
    pub(crate) records: usize,
    /// What the index does not have yet: topics, cursors, and topics with newest events of keys. By topic number.
    dirty_topics: HashSet<u32>,
    dirty_cursors: HashSet<(u32, Group)>,
    dirty_latest: HashSet<u32>,
    /// Topics that were removed, by number: what the index has of them goes first.
    dirty_removed: HashSet<u32>,
    /// Numbers of removed topics that can be given again, see [`State::find_free`].
    free: BTreeSet<u32>,
    /// The oldest segment whose file could not be removed: it may be there again when the store is opened.
    pub(crate) stuck: Option<u32>,
}

impl State {
    pub(crate) fn new(cache_budget: usize) -> Self {
        Self {
            topics: Vec::new(),
            by_name: HashMap::new(),
            published: 0,
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
            dirty_removed: HashSet::new(),
            free: BTreeSet::new(),
            stuck: None,
        }
    }

    pub(crate) fn topic(&self, topic: &Topic) -> Option<&TopicLog> {
        self.by_name.get(topic).map(|number| &self.topics[*number as usize])
    }

    /// How many topics have or had events. Whoever may only subscribe makes none of these, however many names it thinks of.
    pub(crate) fn count(&self) -> usize {
        self.published
    }

    /// A number for a topic to be made, beside the `taken` ones: that of a removed one of which nothing can be in the log any
    /// more, else the next.
    pub(crate) fn free_number(&self, taken: usize) -> u32 {
        let reused = taken.min(self.free.len());
        let free = self.free.iter().rev().nth(taken);
        free.copied().unwrap_or((self.topics.len() + taken - reused) as u32)
    }

    /// The oldest segment whose file may be there.
    fn oldest(&self) -> u32 {
        let oldest = self.segments.keys().next().copied().unwrap_or_default();
        self.stuck.map_or(oldest, |stuck| stuck.min(oldest))
    }

    /// Whether the log may have something older than a segment.
    pub(crate) fn has_older(&self, segment: u32) -> bool {
        self.oldest() < segment
    }

    /// Notes which numbers of removed topics can be given again: all that was ever written under them has left the disk with
    /// the record that says so.
    pub(crate) fn find_free(&mut self) {
        let oldest = self.oldest();
        let free = |log: &&TopicLog| log.is_removed() && log.record_at.segment() < oldest;
        self.free = self.topics.iter().filter(free).map(|log| log.number).collect();
    }

    /// Applies a topic record that stands at `at`.
    pub(crate) fn apply_topic(&mut self, record: &TopicRecord<'_>, at: Position) -> Result<(), String> {
        self.records += 1;
        self.dirty_topics.insert(record.number);
        let removed = record.epoch == NO_TOPIC;
        if let Some(log) = self.topics.get_mut(record.number as usize) {
            let same = log.topic.as_str() == record.name;
            if log.is_removed() {
                // Recovery may read records again of when the topic was there.
                if at < log.record_at {
                    return Ok(());
                }
                if removed {
                    log.record_at = at;
                    return Ok(());
                }
                return self.reuse(record, at);
            }
            if !same {
                return Err(format!("topic {} is called {} and {}", record.number, log.topic, record.name));
            }
            if removed {
                self.remove(record, at);
                return Ok(());
            }
            // Recovery may read an earlier record again: holes and epoch are those of the latest one.
            if at >= log.record_at {
                log.record_at = at;
                log.epoch = record.epoch;
                log.holes = record.holes.to_vec();
            }
            self.published += usize::from(log.reach(record.tail));
            self.bytes -= log.trim(record.first).min(self.bytes);
            return Ok(());
        }
        let topic = Topic::new(&record.name).map_err(|error| format!("a topic in the log is none: {error}"))?;
        if record.number as usize != self.topics.len() || (!removed && self.by_name.contains_key(&topic)) {
            return Err(format!("topic {topic} has number {}, and that is not the next", record.number));
        }
        if !removed {
            self.by_name.insert(topic.clone(), record.number);
            self.published += usize::from(record.tail > 0);
        }
        self.topics.push(TopicLog::new(topic, record, at));
        Ok(())
    }

    /// Takes the next number for a topic that was removed, of which nothing is known.
    pub(crate) fn push_removed(&mut self) {
        let number = self.topics.len() as u32;
        let topic = Topic::from_static("removed");
        self.topics.push(TopicLog::removed(topic, number, Position::default()));
        self.dirty_topics.insert(number);
    }

    /// Gives the number of a removed topic to another.
    fn reuse(&mut self, record: &TopicRecord<'_>, at: Position) -> Result<(), String> {
        let topic = Topic::new(&record.name).map_err(|error| format!("a topic in the log is none: {error}"))?;
        if self.by_name.contains_key(&topic) {
            return Err(format!("topic {topic} has number {} and another", record.number));
        }
        self.by_name.insert(topic.clone(), record.number);
        self.published += usize::from(record.tail > 0);
        self.free.remove(&record.number);
        self.topics[record.number as usize] = TopicLog::new(topic, record, at);
        Ok(())
    }

    /// Takes a topic out: all that stands before `at` under its number counts no more.
    fn remove(&mut self, record: &TopicRecord<'_>, at: Position) {
        let log = &mut self.topics[record.number as usize];
        let cached: usize = log.cache.iter().map(|event| event.json.len() + CACHE_OVERHEAD).sum();
        self.cache_bytes -= cached;
        self.bytes -= log.bytes.min(self.bytes);
        self.by_name.remove(&log.topic);
        self.published -= usize::from(log.tail > 0);
        *log = TopicLog::removed(log.topic.clone(), record.number, at);
        self.dirty_latest.remove(&record.number);
        self.dirty_cursors.retain(|(topic, _)| *topic != record.number);
        self.dirty_removed.insert(record.number);
    }

    /// Applies a cursor whose record stands at `at`.
    pub(crate) fn apply_cursor(&mut self, topic: u32, group: Group, cursor: Arc<Cursor>, at: Position) {
        self.records += 1;
        let Some(log) = self.topics.get_mut(topic as usize).filter(|log| !log.is_removed()) else { return };
        self.dirty_cursors.insert((topic, group.clone()));
        if cursor.epoch == NO_CURSOR {
            log.cursors.remove(&group);
            log.gone.insert(group, at);
        } else {
            log.gone.remove(&group);
            log.cursors.insert(group, CursorState { cursor, at });
        }
    }

    /// Forgets that a cursor was removed: nothing older than the record that stands at `at` is in the log.
    pub(crate) fn forget_gone(&mut self, topic: u32, group: Group, at: Position) {
        let Some(log) = self.topics.get_mut(topic as usize) else { return };
        if log.gone.get(&group) == Some(&at) {
            log.gone.remove(&group);
            self.dirty_cursors.insert((topic, group));
        }
    }

    /// Applies an event that was appended in a commit of that time; it is in the cache from now on.
    pub(crate) fn apply_event(&mut self, topic: u32, event: Stored, committed: u64, at: Position, bytes: u64) {
        self.records += 1;
        let Some(log) = self.topics.get_mut(topic as usize) else { return };
        self.published += usize::from(log.reach(event.seq));
        self.bytes += bytes;
        log.bytes += bytes;
        log.add_event(event.seq, event.ts, committed, at, bytes);
        if let Some(key) = &event.key {
            if log.latest.is_empty() {
                self.dirty_latest.insert(topic);
            }
            let latest = LatestAt { at, seq: event.seq };
            match log.latest.get_mut(key) {
                Some(own) => *own = latest,
                None => drop(log.latest.insert(key.clone(), latest)),
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

    /// Applies an event that was `committed` then and copied forward: as a retained one, as the newest of its key, or as
    /// both.
    pub(crate) fn apply_moved(
        &mut self,
        event: &EventRecord<'_>,
        committed: u64,
        at: Position,
        bytes: u64,
        retained: bool,
        newest: bool,
    ) {
        self.records += 1;
        let Some(log) = self.topics.get_mut(event.topic as usize) else { return };
        if retained {
            log.add_event(event.seq, event.ts, committed, at, bytes);
        }
        if let Some(key) = event.key.filter(|_| newest) {
            self.dirty_latest.insert(event.topic);
            log.latest.insert(key.into(), LatestAt { at, seq: event.seq });
        }
    }

    /// Applies an event that recovery has read, one that was appended or copied. `known`: what the index has for a topic and
    /// key.
    pub(crate) fn apply_scanned(
        &mut self,
        event: &EventRecord<'_>,
        at: Position,
        known: impl FnOnce(u32, &str) -> Result<Option<LatestAt>, String>,
    ) -> Result<(), String> {
        self.records += 1;
        let Some(log) = self.topics.get_mut(event.topic as usize) else {
            return Err(format!("an event of topic number {} comes before its topic", event.topic));
        };
        if log.is_removed() {
            return Ok(());
        }
        self.published += usize::from(log.reach(event.seq));
        if let Some(key) = event.key {
            let own = match log.latest.get(key) {
                Some(own) => Some(*own),
                // An appended event is newer than what the index has; a copied one may be older.
                None if event.moved => known(event.topic, key)?,
                None => None,
            };
            if own.is_none_or(|own| own.seq <= event.seq) {
                self.dirty_latest.insert(event.topic);
                log.latest.insert(key.into(), LatestAt { at, seq: event.seq });
            }
        }
        Ok(())
    }

    /// Adds the runs of all segments, which are in the order of the log.
    pub(crate) fn add_runs(&mut self, runs: Vec<(u32, Run)>) -> Result<(), String> {
        for (topic, mut run) in runs {
            let Some(log) = self.topics.get_mut(topic as usize) else {
                return Err(format!("events of topic number {topic} have no topic"));
            };
            if log.is_removed() {
                continue;
            }
            self.published += usize::from(log.reach(run.last));
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
    fn dirty(&self) -> Flush {
        let mut flush = Flush { position: self.end, ..Flush::default() };
        // Also topics of which only the tail has changed: so an open notices if their newest events are gone.
        let dirty = |log: &&TopicLog| log.tail != log.stored_tail || self.dirty_topics.contains(&log.number);
        for log in self.topics.iter().filter(dirty) {
            let mut body = Vec::new();
            log.record().encode_body(&mut body);
            body.extend_from_slice(&log.record_at.0.to_le_bytes());
            flush.topics.push((log.number, body));
        }
        for (topic, group) in &self.dirty_cursors {
            let log = &self.topics[*topic as usize];
            let (cursor, at) = match (log.cursors.get(group), log.gone.get(group)) {
                (Some(own), _) => (Cow::Borrowed(&*own.cursor), own.at),
                (None, Some(at)) => (Cow::Owned(gone()), *at),
                // Nothing is to be known of it any more.
                (None, None) => {
                    flush.cursors.push((*topic, group.as_str().into(), None));
                    continue;
                }
            };
            let mut body = Vec::new();
            CursorRecord { topic: *topic, group: group.as_str(), cursor }.encode_body(&mut body);
            body.extend_from_slice(&at.0.to_le_bytes());
            flush.cursors.push((*topic, group.as_str().into(), Some(body)));
        }
        flush.removed.extend(&self.dirty_removed);
        for topic in &self.dirty_latest {
            let latest = &self.topics[*topic as usize].latest;
            flush.latest.extend(latest.iter().map(|(key, latest)| (*topic, key.clone(), *latest)));
        }
        flush
    }

    /// The index has these newest events now, so they leave memory.
    pub(crate) fn flushed(&mut self, latest: &[(u32, Box<str>, LatestAt)]) {
        for (topic, key, flushed) in latest {
            let log = &mut self.topics[*topic as usize];
            if log.latest.get(key) == Some(flushed) {
                log.latest.remove(key);
            }
            if log.latest.is_empty() {
                self.dirty_latest.remove(topic);
            }
        }
    }

    /// Takes what the index does not have yet, for a flush. Call [`State::flushed`] after it, or [`State::not_flushed`] if it
    /// failed.
    pub(crate) fn take_dirty(&mut self) -> Flush {
        let mut flush = self.dirty();
        flush.records = self.records;
        for (number, _) in &flush.topics {
            let log = &mut self.topics[*number as usize];
            log.stored_tail = log.tail;
        }
        self.dirty_topics.clear();
        self.dirty_cursors.clear();
        self.dirty_removed.clear();
        self.records = 0;
        flush
    }

    /// Takes back what [`State::take_dirty`] gave, because it could not be flushed.
    pub(crate) fn not_flushed(&mut self, flush: &Flush) {
        self.records += flush.records;
        self.dirty_removed.extend(&flush.removed);
        self.dirty_topics.extend(flush.topics.iter().map(|(number, _)| *number));
        for (topic, group, _) in &flush.cursors {
            if let Ok(group) = Group::stored(group) {
                self.dirty_cursors.insert((*topic, group));
            }
        }
    }
}
