//! The log in memory, within a byte budget. For tests and for trying things: nothing survives the process.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use async_trait::async_trait;
use prom_protocol::{ErrorCode, Group, Refusal, Topic, encode_event_position};

use crate::{
    admission::{admit_append, admit_topic, is_exempt},
    contract::Store,
    error::StoreError,
    ids::new_id,
    values::{Append, Appended, Batch, Cursor, LatestPage, Page, Record, Stored, Tail},
};

/// What an event costs beside its JSON: the record, its place in the log, the id's entry.
const OVERHEAD: usize = 256;

/// A store whose events live as long as the process.
#[derive(Debug)]
pub struct MemoryStore {
    inner: RwLock<Inner>,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Inner {
    topics: BTreeMap<Topic, Log>,
    /// How many of them have or had events. The others are there for the positions of groups alone.
    published: usize,
    bytes: usize,
    /// What the largest event needs that was refused for want of room, until there is room for it.
    full: Option<usize>,
}

#[derive(Debug)]
struct Log {
    epoch: u64,
    /// Seq of the front of `events`.
    first: u64,
    events: VecDeque<Stored>,
    /// Seqs by id.
    ids: HashMap<Arc<str>, u64>,
    latest: BTreeMap<Box<str>, Stored>,
    cursors: BTreeMap<Group, Cursor>,
    bytes: usize,
}

impl Log {
    fn new() -> Self {
        Self {
            epoch: fastrand::u64(1..=prom_protocol::limits::TS_MAX),
            first: 1,
            events: VecDeque::new(),
            ids: HashMap::new(),
            latest: BTreeMap::new(),
            cursors: BTreeMap::new(),
            bytes: 0,
        }
    }

    fn tail(&self) -> Tail {
        Tail { epoch: self.epoch, first: self.first, seq: self.first + self.events.len() as u64 - 1 }
    }

    /// Highest seq that may be trimmed: what every group has settled.
    fn settled(&self) -> u64 {
        self.cursors.values().map(|cursor| cursor.floor).min().unwrap_or(u64::MAX)
    }

    /// Whether it is the newest of its key.
    fn is_latest(&self, record: &Record) -> bool {
        record.key.as_ref().is_some_and(|key| self.latest.get(key).is_some_and(|latest| latest.seq == record.seq))
    }

    /// Index of the first event after `after`.
    fn index_after(&self, after: u64) -> usize {
        usize::try_from(after.saturating_add(1).saturating_sub(self.first))
            .map_or(self.events.len(), |i| i.min(self.events.len()))
    }
}

fn cost(record: &Record) -> usize {
    record.json.len() + OVERHEAD
}

fn full(max_bytes: usize) -> String {
    format!(
        "the memory store is full: {} MiB of events that are not settled or the newest of their key",
        max_bytes >> 20
    )
}

impl MemoryStore {
    /// A store that keeps about `max_bytes` of events, at least 1 MiB. Beyond that the oldest events that every group
    /// has settled make room; when there are none, publishing is refused until there are.
    pub fn new(max_bytes: usize) -> Self {
        Self { inner: RwLock::default(), max_bytes: max_bytes.max(1024 * 1024) }
    }

    // A panic while the lock is held would leave a half-written batch, so nothing between lock and unlock may panic;
    // going on with a poisoned lock is then safe.
    fn read_lock(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn append(&mut self, append: Append, now: u64, room: &mut Headroom) -> Result<Appended, Refusal> {
        admit_append(&append)?;
        if let Some(id) = &append.id
            && let Some(seq) = self.topics.get(&append.topic).and_then(|log| log.ids.get(id))
        {
            return Ok(Appended { id: id.clone(), seq: *seq, duplicate: true });
        }
        let cost = append.body.len() + append.id.as_ref().map_or(36, |id| id.len()) + OVERHEAD;
        let exempt = is_exempt(&append);
        if !exempt && !room.make(self, cost) {
            self.full = self.full.max(Some(cost));
            return Err(Refusal::new(ErrorCode::StoreUnavailable, full(room.max_bytes)));
        }
        if self.topics.get(&append.topic).is_none_or(|log| log.tail().seq == 0) {
            admit_topic(self.published, exempt)?;
            self.published += 1;
            self.topics.entry(append.topic.clone()).or_insert_with(Log::new);
        }
        let Some(log) = self.topics.get_mut(&append.topic) else {
            return Err(Refusal::new(ErrorCode::Internal, "the topic's log is missing"));
        };
        let seq = log.tail().seq + 1;
        let ts = append.ts.unwrap_or(now);
        let id = append.id.unwrap_or_else(|| new_id(now));
        let mut json = Vec::with_capacity(append.body.len() + id.len() + 64);
        encode_event_position(&mut json, &id, seq, ts);
        json.extend_from_slice(&append.body);
        let record = Arc::new(Record { id: id.clone(), seq, ts, key: append.key, json: json.into() });
        let cost = self::cost(&record);
        if let Some(key) = &record.key
            && let Some(old) = log.latest.insert(key.clone(), Arc::clone(&record))
            && old.seq < log.first
        {
            // Trimmed from the log before, and kept until now as the newest of its key.
            let old = self::cost(&old);
            log.bytes -= old;
            self.bytes -= old;
        }
        log.events.push_back(record);
        log.bytes += cost;
        self.bytes += cost;
        log.ids.insert(id.clone(), seq);
        Ok(Appended { id, seq, duplicate: false })
    }

    /// Drops the oldest settled events of the largest topics until the log is within `max_bytes`, if it can.
    fn trim(&mut self, max_bytes: usize) {
        if self.bytes <= max_bytes {
            return;
        }
        // Somewhat below the budget, so that this walk over the topics is rare.
        let target = max_bytes - max_bytes / 16;
        let mut logs: Vec<&mut Log> = self.topics.values_mut().collect();
        logs.sort_by_key(|log| std::cmp::Reverse(log.bytes));
        for log in logs {
            let settled = log.settled();
            while self.bytes > target && log.first <= settled {
                let Some(record) = log.events.pop_front() else { break };
                log.first += 1;
                log.ids.remove(&record.id);
                // The newest event of a key stays, and stays counted.
                if !log.is_latest(&record) {
                    log.bytes -= cost(&record);
                    self.bytes -= cost(&record);
                }
            }
        }
    }

    /// Whether an event that needs so much would be taken: with what is free, and what a trim would give back.
    fn has_room(&self, bytes: usize, max_bytes: usize) -> bool {
        let mut lacks = (self.bytes + bytes).saturating_sub(max_bytes);
        for log in self.topics.values() {
            let settled = log.settled();
            for record in log.events.iter().take_while(|record| record.seq <= settled) {
                if lacks == 0 {
                    return true;
                }
                if !log.is_latest(record) {
                    lacks = lacks.saturating_sub(cost(record));
                }
            }
        }
        lacks == 0
    }
}

/// What is left of the budget in one commit.
struct Headroom {
    max_bytes: usize,
    /// Nothing more can be trimmed.
    exhausted: bool,
}

impl Headroom {
    /// Whether `bytes` more fit, if need be after a trim.
    fn make(&mut self, inner: &mut Inner, bytes: usize) -> bool {
        if inner.bytes + bytes <= self.max_bytes {
            return true;
        }
        if !self.exhausted {
            inner.trim(self.max_bytes.saturating_sub(bytes));
            self.exhausted = inner.bytes + bytes > self.max_bytes;
        }
        !self.exhausted
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn durability(&self) -> String {
        "none: events live as long as the process".into()
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<Result<Appended, Refusal>>, StoreError> {
        let mut inner = self.write_lock();
        // First, because what they settle may make room.
        for put in batch.cursors {
            let epoch = inner.topics.get(&put.topic).map_or(0, |log| log.epoch);
            if put.cursor.epoch == 0 || put.cursor.epoch == epoch {
                inner.topics.entry(put.topic).or_insert_with(Log::new).cursors.insert(put.group, put.cursor);
            }
        }
        let mut room = Headroom { max_bytes: self.max_bytes, exhausted: false };
        Ok(batch.appends.into_iter().map(|append| inner.append(append, batch.now, &mut room)).collect())
    }

    fn full(&self) -> Option<String> {
        self.read_lock().full?;
        let mut inner = self.write_lock();
        if inner.full.is_none_or(|wanted| inner.has_room(wanted, self.max_bytes)) {
            inner.full = None;
            return None;
        }
        Some(full(self.max_bytes))
    }

    async fn read(&self, topic: &Topic, after: u64, limit: usize, max_bytes: usize) -> Result<Page, StoreError> {
        let inner = self.read_lock();
        let Some(log) = inner.topics.get(topic) else {
            return Ok(Page { first: 1, read_to: after, ..Page::default() });
        };
        let mut page = Page { epoch: log.epoch, first: log.first, read_to: after, ..Page::default() };
        let mut bytes = 0;
        for record in log.events.range(log.index_after(after)..).take(limit) {
            bytes += record.json.len();
            if bytes > max_bytes && !page.events.is_empty() {
                break;
            }
            page.read_to = record.seq;
            page.events.push(Arc::clone(record));
        }
        Ok(page)
    }

    async fn tail(&self, topic: &Topic) -> Result<Option<Tail>, StoreError> {
        Ok(self.read_lock().topics.get(topic).map(Log::tail).filter(|tail| tail.seq > 0))
    }

    async fn topics(&self) -> Result<Vec<(Topic, Tail)>, StoreError> {
        let inner = self.read_lock();
        let tails = inner.topics.iter().map(|(topic, log)| (topic, log.tail()));
        Ok(tails.filter(|(_, tail)| tail.seq > 0).map(|(topic, tail)| (topic.clone(), tail)).collect())
    }

    async fn all_topics(&self) -> Result<Vec<(Topic, Tail)>, StoreError> {
        Ok(self.read_lock().topics.iter().map(|(topic, log)| (topic.clone(), log.tail())).collect())
    }

    async fn seq_of(&self, topic: &Topic, id: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.read_lock().topics.get(topic).and_then(|log| log.ids.get(id)).copied())
    }

    async fn seq_before_ts(&self, topic: &Topic, ts: u64) -> Result<u64, StoreError> {
        let inner = self.read_lock();
        let Some(log) = inner.topics.get(topic) else { return Ok(0) };
        // Publishers may set `ts`, so the log is not sorted by it.
        Ok(log.events.iter().find(|record| record.ts >= ts).map_or(log.tail().seq, |record| record.seq - 1))
    }

    async fn latest(&self, topic: &Topic, key: &str) -> Result<Option<Stored>, StoreError> {
        Ok(self.read_lock().topics.get(topic).and_then(|log| log.latest.get(key)).map(Arc::clone))
    }

    async fn latest_page(
        &self,
        topic: &Topic,
        after: Option<&str>,
        at: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<LatestPage, StoreError> {
        let inner = self.read_lock();
        let Some(log) = inner.topics.get(topic) else { return Ok(LatestPage::default()) };
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = log.latest.range::<str, _>((start, Bound::Unbounded)).map(|(_, record)| record);
        let mut page = LatestPage::default();
        let mut bytes = 0;
        for record in rest.filter(|record| record.seq <= at) {
            bytes += record.json.len();
            if page.events.len() >= limit || (bytes > max_bytes && !page.events.is_empty()) {
                page.more = true;
                break;
            }
            page.events.push(Arc::clone(record));
        }
        Ok(page)
    }

    async fn cursor(&self, topic: &Topic, group: &Group) -> Result<Option<Cursor>, StoreError> {
        Ok(self.read_lock().topics.get(topic).and_then(|log| log.cursors.get(group)).cloned())
    }

    async fn cursors(&self, topic: &Topic) -> Result<Vec<(Group, Cursor)>, StoreError> {
        let inner = self.read_lock();
        let cursors = inner.topics.get(topic).map(|log| log.cursors.iter());
        Ok(cursors.into_iter().flatten().map(|(group, cursor)| (group.clone(), cursor.clone())).collect())
    }

    async fn topics_of(&self, group: &Group) -> Result<Vec<Topic>, StoreError> {
        let inner = self.read_lock();
        let own = inner.topics.iter().filter(|(_, log)| log.cursors.contains_key(group));
        Ok(own.map(|(topic, _)| topic.clone()).collect())
    }

    async fn remove_topic(&self, topic: &Topic, only: Option<Tail>) -> Result<bool, StoreError> {
        let mut inner = self.write_lock();
        let as_asked = |log: &Log| only.is_none_or(|only| log.tail() == only && log.cursors.is_empty());
        if !inner.topics.get(topic).is_some_and(as_asked) {
            return Ok(false);
        }
        if let Some(log) = inner.topics.remove(topic) {
            inner.bytes -= log.bytes;
            inner.published -= usize::from(log.tail().seq > 0);
        }
        Ok(true)
    }

    async fn remove_cursors(&self, cursors: &[(Topic, Group)]) -> Result<(), StoreError> {
        let mut inner = self.write_lock();
        for (topic, group) in cursors {
            if let Some(log) = inner.topics.get_mut(topic) {
                log.cursors.remove(group);
                // It was made for the cursor alone.
                if log.cursors.is_empty() && log.tail().seq == 0 {
                    inner.topics.remove(topic);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::store_conformance!(|max_bytes| async move { Arc::new(MemoryStore::new(max_bytes)) as Arc<dyn Store> });

    #[tokio::test]
    async fn topics_that_are_removed_make_room_for_others() {
        let store = Arc::new(MemoryStore::new(1 << 30)) as Arc<dyn Store>;
        crate::conformance::topics_that_are_removed_make_room_for_others(&store).await;
    }

    #[tokio::test]
    async fn positions_alone_use_no_topics_up() {
        let store = Arc::new(MemoryStore::new(1 << 30)) as Arc<dyn Store>;
        crate::conformance::positions_alone_use_no_topics_up(&store).await;
    }
}
