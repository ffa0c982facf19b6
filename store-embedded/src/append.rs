//! The one way into the log: plan a batch, write it as one commit, make it durable, show it to readers.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    hash::BuildHasherDefault,
    sync::{Arc, atomic::Ordering},
};

use prom_protocol::{ErrorCode, Group, Refusal, Topic};
use prom_store::{
    Append, Appended, Batch, Cursor, CursorPut, Durability, Record, StoreError, Stored, admit_topic, is_exempt,
    known_id, new_id,
};

use crate::{
    disk::{Disk, DiskFile, read_exact},
    format::{ALIGN, COMMIT_HEADER, CommitHeader, Position, SEGMENT_HEADER, SegmentHeader, aligned},
    ids::{Identity, Maker},
    record::{CursorRecord, EVENT_OVERHEAD, NewEvent, TopicRecord},
    scan::Scanner,
    shared::Shared,
    state::{Segment, SegmentIndex, State},
};

/// About what the position of an event takes in its JSON.
const POSITION_BYTES: usize = 96;

/// Topic records of one commit.
const TOPICS: usize = 4096;
/// Cursors of one commit, which may be large.
const CURSORS: usize = 64;
/// More than what a record takes beside its ranges.
const NAMES: usize = 512;
/// How many times as many records as bring the index forward may wait for that: what waits is in memory.
const BEHIND: usize = 64;

/// Of a segment, two such parts are left free by commits of events and one by those of cursors alone. So on a full disk
/// groups can still settle, and what is settled can be trimmed, which is how a full disk gets space again.
const RESERVES: u64 = 256;

/// See [`RESERVES`], in bytes.
pub(crate) fn reserve(shared: &Shared) -> usize {
    (shared.options.segment_bytes / RESERVES) as usize
}

/// The name of a segment's file.
pub(crate) fn segment_name(number: u32) -> String {
    format!("{number:010}.log")
}

/// The end of the log, and who may move it.
#[derive(Debug)]
pub(crate) struct Appender {
    pub(crate) segment: Arc<Segment>,
    /// Where the next commit begins.
    pub(crate) end: u32,
    /// How far the segment's space is reserved.
    pub(crate) size: u64,
    /// A sync failed: nobody knows what of this segment's tail is on disk, so nothing is written to it any more.
    pub(crate) abandoned: bool,
    /// The store was closed here.
    pub(crate) closed: Option<Position>,
}

/// An event with everything but its bytes decided.
struct Planned {
    topic: u32,
    seq: u64,
    ts: u64,
    id: Arc<str>,
    key: Option<Box<str>>,
    body: Vec<u8>,
    listed: bool,
}

/// What a batch comes to, before anything is written.
#[derive(Default)]
struct Plan {
    events: Vec<Planned>,
    outcomes: Vec<Result<Appended, Refusal>>,
    new_topics: Vec<(Topic, u64)>,
    new_by_name: HashMap<Topic, u32>,
    /// Tails of the topics of this batch, with its events.
    tails: HashMap<u32, u64, BuildHasherDefault<Identity>>,
    cursors: Vec<(u32, CursorPut)>,
    /// Chosen ids of this batch.
    ids: HashMap<Arc<str>, (u32, u64)>,
    /// Topics that are trimmed to make room, and from where they are retained then.
    trims: BTreeMap<u32, u64>,
    /// Retained bytes with this batch.
    bytes: u64,
    exhausted: bool,
    /// Why no events can be written; those that make room, and what is not written, go on.
    full: Option<String>,
    /// By topic number: the lowest floor of the cursors of this batch, and the groups they are of.
    floors: HashMap<u32, HashMap<Group, u64>, BuildHasherDefault<Identity>>,
}

impl Plan {
    fn topic(&mut self, state: &State, topic: &Topic, exempt: bool) -> Result<u32, Refusal> {
        if let Some(number) = state.by_name.get(topic).or_else(|| self.new_by_name.get(topic)) {
            return Ok(*number);
        }
        let number = state.topics.len() + self.new_topics.len();
        admit_topic(number, exempt)?;
        let epoch = fastrand::u64(1..=prom_protocol::limits::TS_MAX);
        self.new_topics.push((topic.clone(), epoch));
        self.new_by_name.insert(topic.clone(), number as u32);
        Ok(number as u32)
    }

    fn append(
        &mut self,
        shared: &Shared,
        state: &State,
        maker: &Maker,
        append: Append,
        now: u64,
    ) -> Result<(), StoreError> {
        let exempt = is_exempt(&append);
        if let Some(id) = &append.id {
            let found = match self.ids.get(id) {
                Some(place) => Some(*place),
                None => match shared.find_id(state, id) {
                    Ok(found) => found,
                    // Whether it is a duplicate cannot be told: this one is refused, the rest of the batch goes on.
                    Err(error) => {
                        tracing::error!(%error, "an id cannot be looked up");
                        let message = "the store cannot tell whether that id is there";
                        self.outcomes.push(Err(Refusal::new(ErrorCode::StoreUnavailable, message)));
                        return Ok(());
                    }
                },
            };
            if let Some((topic, seq)) = found {
                let same = state.by_name.get(&append.topic).or_else(|| self.new_by_name.get(&append.topic));
                self.outcomes.push(known_id(id, seq, same == Some(&topic)));
                return Ok(());
            }
        }
        if let Some(message) = self.full.as_ref().filter(|_| !exempt) {
            self.outcomes.push(Err(Refusal::new(ErrorCode::StoreUnavailable, message.clone())));
            return Ok(());
        }
        let cost = (append.body.len() + POSITION_BYTES + EVENT_OVERHEAD) as u64;
        if !exempt && !self.room(shared, state, cost) {
            let message = format!(
                "the store is full: store.max_bytes, {} MiB, of events that a group has not settled; /groups on the ops \
                 port tells which",
                shared.options.max_bytes.unwrap_or_default() >> 20
            );
            self.outcomes.push(Err(Refusal::new(ErrorCode::StoreUnavailable, message)));
            return Ok(());
        }
        let topic = match self.topic(state, &append.topic, exempt) {
            Ok(topic) => topic,
            Err(refused) => {
                self.outcomes.push(Err(refused));
                return Ok(());
            }
        };
        let before = || state.topics.get(topic as usize).map_or(0, |log| log.tail);
        let tail = self.tails.entry(topic).or_insert_with(before);
        *tail += 1;
        let seq = *tail;
        let (id, listed) = match append.id {
            Some(id) => {
                self.ids.insert(id.clone(), (topic, seq));
                (id, true)
            }
            None => match maker.make(topic, seq) {
                Some(id) => (id, false),
                None => (new_id(now), true),
            },
        };
        self.bytes += cost;
        self.outcomes.push(Ok(Appended { id: id.clone(), seq, duplicate: false }));
        let ts = append.ts.unwrap_or(now);
        self.events.push(Planned { topic, seq, ts, id, key: append.key, body: append.body, listed });
        Ok(())
    }

    /// Whether `cost` more bytes fit; if need be the oldest settled events of the largest topics go.
    fn room(&mut self, shared: &Shared, state: &State, cost: u64) -> bool {
        let Some(max_bytes) = shared.options.max_bytes else { return true };
        if self.bytes + cost <= max_bytes {
            return true;
        }
        if self.exhausted {
            return false;
        }
        // Somewhat below the budget, so that this walk over the topics is rare.
        let target = (max_bytes - max_bytes / 16).saturating_sub(cost);
        let mut logs: Vec<_> = state.topics.iter().collect();
        logs.sort_by_key(|log| std::cmp::Reverse(log.bytes));
        for log in logs {
            // As they are with this batch, in which a group may have its first.
            let drops = shared.options.retention.rule(&log.topic).is_some_and(|rule| rule.drop_unsettled);
            let put = self.floors.get(&log.number);
            let stored = log.cursors.iter().filter(|(group, _)| put.is_none_or(|put| !put.contains_key(*group)));
            let floors = stored.map(|(_, own)| own.cursor.floor);
            let settled = floors.chain(put.into_iter().flat_map(|put| put.values().copied())).min().unwrap_or(u64::MAX);
            let settled = if drops { u64::MAX } else { settled };
            for run in log.runs.values() {
                if self.bytes <= target || run.last > settled || run.segment == state.end.segment() {
                    break;
                }
                if self.trims.get(&log.number).is_none_or(|first| *first <= run.last) {
                    self.bytes -= run.bytes.min(self.bytes);
                    self.trims.insert(log.number, run.last + 1);
                }
            }
        }
        self.exhausted = self.bytes + cost > max_bytes;
        !self.exhausted
    }
}

/// A commit that is encoded, and what readers are shown once it is durable.
struct Encoded {
    bytes: Vec<u8>,
    topics: Vec<(TopicRecord<'static>, Position)>,
    /// Topic, event, place, and whether the id table has it.
    events: Vec<(u32, Stored, Position, u64, bool)>,
    cursors: Vec<(u32, CursorPut, Position)>,
    now: u64,
}

impl Appender {
    /// See [`Store::commit`](prom_store::Store::commit).
    pub(crate) fn commit(
        &mut self,
        shared: &Shared,
        batch: Batch,
    ) -> Result<Vec<Result<Appended, Refusal>>, StoreError> {
        if self.closed.is_some() {
            return Err(StoreError::Unavailable("the store is closed".into()));
        }
        let now = batch.now;
        // Room first: without it, what frees room still goes on.
        let events =
            batch.appends.iter().map(|append| append.body.len() + EVENT_OVERHEAD + POSITION_BYTES).sum::<usize>();
        let (own, mut reserve) = (reserve(shared), reserve(shared));
        let mut plan = Plan::default();
        if !batch.appends.is_empty() {
            match self.make_room(shared, now, events + 4096 + 2 * own) {
                Ok(()) => reserve = 2 * own,
                Err(error) => plan.full = Some(error.to_string()),
            }
        }
        {
            let state = shared.read();
            if state.records > shared.options.flush_records.saturating_mul(BEHIND) {
                return Err(StoreError::Unavailable("the index is too far behind the log".into()));
            }
            plan.bytes = state.bytes;
            for put in batch.cursors {
                let topic = plan
                    .topic(&state, &put.topic, true)
                    .map_err(|refused| StoreError::Unavailable(refused.message().to_owned()))?;
                plan.floors.entry(topic).or_default().insert(put.group.clone(), put.cursor.floor);
                plan.cursors.push((topic, put));
            }
            let maker = Maker::new(shared.store, now);
            plan.events.reserve(batch.appends.len());
            plan.outcomes.reserve(batch.appends.len());
            for append in batch.appends {
                plan.append(shared, &state, &maker, append, now)?;
            }
        }
        if plan.events.is_empty() && plan.cursors.is_empty() && plan.trims.is_empty() {
            return Ok(plan.outcomes);
        }
        // Events of a topic together, so that reading one topic reads few places.
        plan.events.sort_by_key(|event| event.topic);
        let outcomes = std::mem::take(&mut plan.outcomes);
        let expected =
            plan.events.iter().map(|event| event.body.len() + EVENT_OVERHEAD + POSITION_BYTES).sum::<usize>();
        let names = 1024 * (plan.new_topics.len() + plan.trims.len());
        self.make_room(shared, now, expected + names + 4096 + reserve)?;
        let encoded = self.encode(shared, plan, now);
        // An estimate falls short where cursors are large.
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(too_large) => {
                let (plan, needed) = *too_large;
                self.make_room(shared, now, needed + reserve)?;
                self.encode(shared, plan, now).map_err(|_| StoreError::Unavailable("a commit is too large".into()))?
            }
        };
        self.put(shared, &encoded.bytes)?;
        let rung = self.show(shared, encoded);
        if rung {
            shared.bell.ring();
        }
        Ok(outcomes)
    }

    /// Writes one commit at the end of the log and makes it as durable as it shall be.
    fn put(&mut self, shared: &Shared, bytes: &[u8]) -> Result<(), StoreError> {
        let failed = |error| StoreError::Unavailable(format!("the log cannot be written: {error}"));
        self.segment.file.write(bytes, self.end.into()).map_err(failed)?;
        let end = self.end + bytes.len() as u32;
        if shared.options.durability == Durability::Commit {
            if let Err(error) = self.segment.file.sync() {
                // What of it is on disk, and what later syncs would tell, nobody knows: the log goes on elsewhere.
                self.abandoned = true;
                return Err(failed(error));
            }
            shared.synced.store(Position::new(self.segment.number, end).0, Ordering::SeqCst);
        }
        self.end = end;
        Ok(())
    }

    /// Encodes a plan for the place where the log ends, or gives it back with the room it needs.
    fn encode(&self, shared: &Shared, plan: Plan, now: u64) -> Result<Encoded, Box<(Plan, usize)>> {
        let store = shared.store;
        let base = Position::new(self.segment.number, self.end);
        let state = shared.read();
        let bytes =
            plan.events.iter().map(|event| event.body.len() + EVENT_OVERHEAD + POSITION_BYTES + 64).sum::<usize>();
        let mut out = Vec::with_capacity(bytes + 4096);
        out.resize(COMMIT_HEADER, 0);
        let mut topics = Vec::new();
        for (index, (topic, epoch)) in plan.new_topics.iter().enumerate() {
            let number = (state.topics.len() + index) as u32;
            let name = Cow::Owned(topic.as_str().to_owned());
            let record = TopicRecord { number, name, epoch: *epoch, first: 1, tail: 0, holes: Cow::Borrowed(&[]) };
            let offset = record.encode(&mut out, store, base);
            topics.push((record, Position::new(base.segment(), offset)));
        }
        for (number, first) in &plan.trims {
            let log = &state.topics[*number as usize];
            let name = Cow::Owned(log.topic.as_str().to_owned());
            let holes = Cow::Owned(log.holes.clone());
            let record = TopicRecord { number: *number, name, epoch: log.epoch, first: *first, tail: log.tail, holes };
            let offset = record.encode(&mut out, store, base);
            topics.push((record, Position::new(base.segment(), offset)));
        }
        let name = |number: u32| match state.topics.get(number as usize) {
            Some(log) => log.topic.as_str(),
            None => plan.new_topics[number as usize - state.topics.len()].0.as_str(),
        };
        let mut jsons = Vec::with_capacity(plan.events.len());
        for event in &plan.events {
            let start = out.len();
            let new = NewEvent {
                topic: event.topic,
                topic_name: name(event.topic),
                seq: event.seq,
                ts: event.ts,
                id: &event.id,
                key: event.key.as_deref(),
                body: &event.body,
                listed: event.listed,
            };
            let json = new.encode(&mut out, store, base);
            jsons.push((Position(base.0 + start as u64), json));
        }
        let mut cursor_at = Vec::with_capacity(plan.cursors.len());
        for (topic, put) in &plan.cursors {
            let cursor = Cow::Borrowed(&put.cursor);
            let offset =
                CursorRecord { topic: *topic, group: put.group.as_str(), cursor }.encode(&mut out, store, base);
            cursor_at.push(Position::new(base.segment(), offset));
        }
        drop(state);
        finish_commit(shared, &mut out, base, topics.len() + jsons.len() + cursor_at.len(), now);
        if u64::from(self.end) + out.len() as u64 > self.size {
            return Err(Box::new((plan, out.len())));
        }
        let events = plan.events.into_iter().zip(jsons).map(|(event, (at, json))| {
            let Planned { topic, seq, ts, id, key, listed, .. } = event;
            let bytes = (json.end - (at.0 - base.0) as usize) as u64;
            let json = bytes::Bytes::copy_from_slice(&out[json]);
            (topic, Arc::new(Record { id, seq, ts, key, json }), at, bytes, listed)
        });
        let events = events.collect();
        let cursors = plan.cursors.into_iter().zip(cursor_at).map(|((topic, put), at)| (topic, put, at)).collect();
        Ok(Encoded { bytes: out, topics, events, cursors, now })
    }

    /// Shows a commit to readers; answers whether the upkeep has something to do.
    fn show(&self, shared: &Shared, encoded: Encoded) -> bool {
        let mut state = shared.write();
        for (record, at) in &encoded.topics {
            if let Err(error) = state.apply_topic(record, *at) {
                tracing::error!(error, "a topic was not taken on");
            }
        }
        for (topic, event, at, bytes, listed) in encoded.events {
            if listed {
                state.ids.add(shared.store, &event.id, at.offset(), encoded.now);
            }
            state.apply_event(topic, event, at, bytes);
        }
        for (topic, put, at) in encoded.cursors {
            state.apply_cursor(topic, put.group, Arc::new(put.cursor), at);
        }
        state.end = Position::new(self.segment.number, self.end);
        state.records >= shared.options.flush_records
    }

    /// Makes sure that a commit of about `bytes` fits into the active segment, if need be a new one.
    pub(crate) fn make_room(&mut self, shared: &Shared, now: u64, bytes: usize) -> Result<(), StoreError> {
        let fits = u64::from(self.end) + bytes as u64 <= self.size;
        if fits && !self.abandoned { Ok(()) } else { self.roll(shared, now, bytes) }
    }

    /// Seals the active segment and goes on in a new one that has room for `bytes`.
    pub(crate) fn roll(&mut self, shared: &Shared, now: u64, bytes: usize) -> Result<(), StoreError> {
        let failed = |error: std::io::Error| {
            let hint = if error.kind() == std::io::ErrorKind::StorageFull {
                "; publishing goes on when there is space"
            } else {
                ""
            };
            StoreError::Unavailable(format!("the log cannot grow: {error}{hint}"))
        };
        let end = Position::new(self.segment.number, self.end);
        if shared.options.durability != Durability::Commit && shared.synced.load(Ordering::SeqCst) < end.0 {
            if self.abandoned {
                self.write_again(shared).map_err(failed)?;
            }
            if let Err(error) = self.segment.file.sync() {
                self.abandoned = true;
                return Err(failed(error));
            }
            shared.synced.fetch_max(end.0, Ordering::SeqCst);
        }
        let number =
            self.segment.number.checked_add(1).ok_or_else(|| failed(std::io::ErrorKind::QuotaExceeded.into()))?;
        let size = shared.options.segment_bytes.max(bytes as u64 + u64::from(SEGMENT_HEADER));
        let header = SegmentHeader { store: shared.store, number, previous_end: end, made_at: now, size };
        let prepared = prepare_segment(&*shared.disk, &header).map_err(failed)?;
        let file = prepared.put(&*shared.disk).map_err(|error| {
            // It may be there all the same, and it says that the log ends here.
            self.abandoned = true;
            failed(error)
        })?;
        let segment = Arc::new(Segment { number, file, made_at: now, index: SegmentIndex::Active });
        let mut state = shared.write();
        let ids = Arc::new(std::mem::take(&mut state.ids));
        let sealed = Segment {
            number: self.segment.number,
            file: Arc::clone(&self.segment.file),
            made_at: self.segment.made_at,
            index: SegmentIndex::Sealed(self.end, ids),
        };
        let segments = Arc::make_mut(&mut state.segments);
        segments.insert(sealed.number, Arc::new(sealed));
        segments.insert(number, Arc::clone(&segment));
        self.end = SEGMENT_HEADER;
        state.end = Position::new(number, self.end);
        drop(state);
        shared.synced.store(Position::new(number, self.end).0, Ordering::SeqCst);
        self.segment = segment;
        self.size = size;
        self.abandoned = false;
        shared.bell.ring();
        Ok(())
    }

    /// Writes what was acknowledged and not synced once more, because a sync of it has failed: after that the system may
    /// take for written what is not, and a second sync would say that all is well.
    fn write_again(&self, shared: &Shared) -> std::io::Result<()> {
        let number = self.segment.number;
        let from = Position(shared.synced.load(Ordering::SeqCst)).max(Position::new(number, SEGMENT_HEADER));
        let mut bytes = vec![0; self.end.saturating_sub(from.offset()) as usize];
        read_exact(&*self.segment.file, &mut bytes, from.offset().into())?;
        let mut scanner = Scanner::new(&*self.segment.file, shared.store, from, self.end);
        while scanner.next()?.is_some() {}
        if scanner.at().offset() != self.end {
            return Err(std::io::Error::other("what was acknowledged last can no longer be read, and is not on disk"));
        }
        self.segment.file.write(&bytes, from.offset().into())
    }

    /// Writes records as one commit and shows them to readers. `encode` gets the place of the commit's first byte, and
    /// appends to a buffer that holds as much of it as a header takes; it answers where each record stands, and `show`
    /// takes them on.
    pub(crate) fn put_records(
        &mut self,
        shared: &Shared,
        now: u64,
        room: usize,
        encode: impl FnOnce(&mut Vec<u8>, Position) -> Vec<Position>,
        show: impl FnOnce(&mut State, Vec<Position>),
    ) -> Result<(), StoreError> {
        self.make_room(shared, now, room + COMMIT_HEADER + ALIGN)?;
        let base = Position::new(self.segment.number, self.end);
        let mut out = vec![0; COMMIT_HEADER];
        let places = encode(&mut out, base);
        if places.is_empty() {
            return Ok(());
        }
        finish_commit(shared, &mut out, base, places.len(), now);
        self.put(shared, &out)?;
        let mut state = shared.write();
        show(&mut state, places);
        state.end = Position::new(self.segment.number, self.end);
        Ok(())
    }

    /// Writes topic records: of trims, of copies, of a repair.
    pub(crate) fn put_topics(
        &mut self,
        shared: &Shared,
        now: u64,
        records: &[TopicRecord<'_>],
    ) -> Result<(), StoreError> {
        for part in records.chunks(TOPICS) {
            let room = part.iter().map(|record| NAMES + record.holes.len() * 16).sum();
            let mut applied = Ok(());
            self.put_records(
                shared,
                now,
                room,
                |out, base| {
                    let place = |record: &TopicRecord<'_>| record.encode(out, shared.store, base);
                    part.iter().map(place).map(|offset| Position::new(base.segment(), offset)).collect()
                },
                |state, places| {
                    applied = part.iter().zip(places).try_for_each(|(record, at)| state.apply_topic(record, at));
                },
            )?;
            applied.map_err(StoreError::Damaged)?;
        }
        Ok(())
    }

    /// Writes cursors that groups have already: of copies, of a repair.
    pub(crate) fn put_cursors(
        &mut self,
        shared: &Shared,
        now: u64,
        cursors: &[(u32, Group, Arc<Cursor>)],
    ) -> Result<(), StoreError> {
        for part in cursors.chunks(CURSORS) {
            let room = part.iter().map(|(.., cursor)| NAMES + cursor.bytes()).sum();
            self.put_records(
                shared,
                now,
                room,
                |out, base| {
                    let place = |(topic, group, cursor): &(u32, Group, Arc<Cursor>)| {
                        let cursor = Cow::Borrowed(&**cursor);
                        CursorRecord { topic: *topic, group: group.as_str(), cursor }.encode(out, shared.store, base)
                    };
                    part.iter().map(place).map(|offset| Position::new(base.segment(), offset)).collect()
                },
                |state, places| {
                    for ((topic, group, cursor), at) in part.iter().zip(places) {
                        state.apply_cursor(*topic, group.clone(), Arc::clone(cursor), at);
                    }
                },
            )?;
        }
        Ok(())
    }
}

/// Writes the header of a commit that is in `out`, and fills it up.
fn finish_commit(shared: &Shared, out: &mut Vec<u8>, base: Position, records: usize, now: u64) {
    let header = CommitHeader {
        body: (out.len() - COMMIT_HEADER) as u32,
        records: records as u32,
        synced: Position(shared.synced.load(Ordering::SeqCst)),
        time: now,
    };
    out[..COMMIT_HEADER].copy_from_slice(&header.encode(shared.store, base));
    out.resize(aligned(out.len()), 0);
}

/// A segment's file that is not in its place yet.
struct Prepared {
    file: Arc<dyn DiskFile>,
    name: String,
}

fn temporary(name: &str) -> String {
    format!("{name}.tmp")
}

fn prepare_segment(disk: &dyn Disk, header: &SegmentHeader) -> std::io::Result<Prepared> {
    let name = segment_name(header.number);
    let file = disk.create(&temporary(&name), header.size)?;
    file.write(&header.encode(), 0)?;
    file.sync()?;
    Ok(Prepared { file, name })
}

impl Prepared {
    /// Puts it in its place, durably.
    fn put(self, disk: &dyn Disk) -> std::io::Result<Arc<dyn DiskFile>> {
        disk.rename(&temporary(&self.name), &self.name)?;
        disk.sync()?;
        Ok(self.file)
    }
}

/// Makes the file of a segment; it is durable, with its name, when this returns.
pub(crate) fn create_segment(disk: &dyn Disk, header: &SegmentHeader) -> std::io::Result<Arc<dyn DiskFile>> {
    prepare_segment(disk, header)?.put(disk)
}
