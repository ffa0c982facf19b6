//! The one way into the log: write a batch as one commit, make it durable, show it to readers. What a batch comes to is
//! decided before, in `plan.rs`.

use std::{
    borrow::Cow,
    collections::HashMap,
    io::{self, ErrorKind},
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use prom_protocol::{Group, Refusal, Topic};
use prom_store::{Appended, Batch, Cursor, CursorPut, Durability, Record, StoreError, Stored, wall_clock};

use crate::{
    disk::{Disk, DiskFile, read_exact},
    format::{ALIGN, COMMIT_HEADER, CommitHeader, Position, SEGMENT_HEADER, SegmentHeader, aligned},
    full::{Lack, is_of_space},
    plan::{Plan, Planned, record_bytes},
    record::{CursorRecord, NewEvent, TopicRecord},
    scan::Scanner,
    shared::Shared,
    state::{Segment, SegmentIndex, State},
};

/// Bytes of a commit that no estimate counts: more than its header takes, and the cursors of an ordinary batch.
const SLACK: usize = 4096;
/// More bytes than the record of a topic takes that has no holes.
const TOPIC_BYTES: usize = 1024;
/// Most topic records that are written in one commit.
const TOPICS: usize = 4096;
/// Most cursors that are written in one commit. They may be large.
const CURSORS: usize = 64;
/// More bytes than a topic's or cursor's record takes beside its ranges of seqs.
const NAMES: usize = 512;
/// The index may be behind by this many times the records after which it is brought forward. Those records are in
/// memory, so beyond that nothing is appended.
const BEHIND: usize = 64;

/// Commits of events leave two such parts of a segment free, commits of cursors alone leave one. So on a full disk
/// groups can still settle, and what is settled can be trimmed: that is how a full disk gets space again.
const RESERVES: u64 = 256;

/// One of the [`RESERVES`], in bytes.
pub(crate) fn reserve(shared: &Shared) -> usize {
    (shared.options.segment_bytes / RESERVES) as usize
}

/// The name of a segment's file.
pub(crate) fn segment_name(number: u32) -> String {
    format!("{number:010}.log")
}

/// The end of the log, for whoever may move it.
#[derive(Debug)]
pub(crate) struct Appender {
    /// The active segment.
    pub(crate) segment: Arc<Segment>,
    /// Where in it the next commit begins.
    pub(crate) end: u32,
    /// Bytes that are reserved for it on the disk.
    pub(crate) size: u64,
    /// A sync failed. Nobody knows what of this segment's tail is on disk, so nothing is written to it any more.
    pub(crate) abandoned: bool,
    /// Where the store was closed, once it is.
    pub(crate) closed: Option<Position>,
}

/// A commit that is encoded, and what readers are shown once it is durable.
struct Encoded {
    bytes: Vec<u8>,
    topics: Vec<(TopicRecord<'static>, Position)>,
    events: Vec<NewlyStored>,
    /// With the numbers of their topics.
    cursors: Vec<(u32, CursorPut, Position)>,
    now: u64,
}

/// An event of a commit.
struct NewlyStored {
    /// By number.
    topic: u32,
    event: Stored,
    at: Position,
    /// Bytes of its record.
    bytes: u64,
    /// The segment's id table must have it.
    listed: bool,
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
        let (mut plan, reserve) = self.plan(shared, batch)?;
        let outcomes = std::mem::take(&mut plan.outcomes);
        if plan.is_empty() {
            return Ok(outcomes);
        }
        let has_events = !plan.events.is_empty();
        let expected = plan.events.iter().map(|event| record_bytes(&event.body)).sum::<usize>();
        let topics = TOPIC_BYTES * (plan.new_topics.len() + plan.trims.len());
        self.make_room_for(shared, now, expected + topics + SLACK + reserve, has_events)?;
        let encoded = match self.encode(shared, plan, now) {
            Ok(encoded) => encoded,
            // The estimate falls short where cursors are large.
            Err(too_large) => {
                let (plan, needed) = *too_large;
                self.make_room_for(shared, now, needed + reserve, has_events)?;
                self.encode(shared, plan, now).map_err(|_| StoreError::Unavailable("a commit is too large".into()))?
            }
        };
        let written = self.put(shared, &encoded.bytes);
        if has_events {
            match &written {
                Ok(()) => shared.full.written(),
                Err(error) if is_of_space(error) => shared.full.note(Lack::Write, cannot_write(error).to_string()),
                Err(_) => {}
            }
        }
        written.map_err(|error| cannot_write(&error))?;
        let flush_is_due = self.show(shared, encoded);
        if flush_is_due {
            shared.bell.ring();
        }
        Ok(outcomes)
    }

    /// Decides what a batch comes to; returns that, and how many bytes its commit must leave free in the segment.
    fn plan(&mut self, shared: &Shared, batch: Batch) -> Result<(Plan, usize), StoreError> {
        let mut reserve = reserve(shared);
        let mut full = None;
        if !batch.appends.is_empty() {
            let events = batch.appends.iter().map(|append| record_bytes(&append.body)).sum::<usize>();
            // Before anything is decided: on a full disk events are refused, and what frees space still goes on.
            match self.make_room_for(shared, batch.now, events + SLACK + 2 * reserve, true) {
                Ok(()) => reserve *= 2,
                Err(error) => full = Some(error.to_string()),
            }
        }
        let state = shared.read();
        if state.records > shared.options.flush_records.saturating_mul(BEHIND) {
            return Err(StoreError::Unavailable("the index is too far behind the log".into()));
        }
        Ok((Plan::new(shared, &state, batch, full), reserve))
    }

    /// Writes one commit at the end of the log and makes it as durable as
    /// [`Options::durability`](crate::Options::durability) says.
    fn put(&mut self, shared: &Shared, bytes: &[u8]) -> io::Result<()> {
        self.segment.file.write(bytes, self.end.into())?;
        let end = self.end + bytes.len() as u32;
        if shared.options.durability == Durability::Commit {
            if let Err(error) = self.segment.file.sync() {
                // Nobody knows what of it is on disk, and a later sync may succeed without writing it: the log goes on in
                // another segment.
                self.abandoned = true;
                return Err(error);
            }
            shared.synced.store(Position::new(self.segment.number, end).0, Ordering::SeqCst);
        }
        self.end = end;
        Ok(())
    }

    /// Encodes a plan for the end of the log. If there is no room for it, gives it back with the bytes it needs.
    fn encode(&self, shared: &Shared, plan: Plan, now: u64) -> Result<Encoded, Box<(Plan, usize)>> {
        let base = Position::new(self.segment.number, self.end);
        let state = shared.read();
        let bytes = plan.events.iter().map(|event| record_bytes(&event.body) + 64).sum::<usize>();
        let mut out = Vec::with_capacity(bytes + SLACK);
        out.resize(COMMIT_HEADER, 0);
        let topics = encode_topics(&plan, &state, &mut out, shared.store, base);
        let jsons = encode_events(&plan, &state, &mut out, shared.store, base);
        drop(state);
        let cursors_at = encode_cursors(&plan, &mut out, shared.store, base);
        finish_commit(shared, &mut out, base, topics.len() + jsons.len() + cursors_at.len(), now);
        if u64::from(self.end) + out.len() as u64 > self.size {
            return Err(Box::new((plan, out.len())));
        }
        let events = plan.events.into_iter().zip(jsons).map(|(event, (at, json))| {
            let Planned { topic, seq, ts, id, key, listed, .. } = event;
            let bytes = (json.end - (at.0 - base.0) as usize) as u64;
            let json = Bytes::copy_from_slice(&out[json]);
            NewlyStored { topic, event: Arc::new(Record { id, seq, ts, key, json }), at, bytes, listed }
        });
        let events = events.collect();
        let cursors = plan.cursors.into_iter().zip(cursors_at).map(|((topic, put), at)| (topic, put, at)).collect();
        Ok(Encoded { bytes: out, topics, events, cursors, now })
    }

    /// Shows a commit to readers; returns whether the index should be brought forward.
    fn show(&self, shared: &Shared, encoded: Encoded) -> bool {
        let mut state = shared.write();
        for (record, at) in &encoded.topics {
            if let Err(error) = state.apply_topic(record, *at) {
                tracing::error!(error, "a topic was not taken on");
            }
        }
        for NewlyStored { topic, event, at, bytes, listed } in encoded.events {
            if listed {
                state.ids.add(shared.store, topic, &event.id, at.offset(), encoded.now);
            }
            state.apply_event(topic, event, encoded.now, at, bytes);
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

    /// [`Appender::make_room`] for a commit, which notes it when there is none for `events`.
    fn make_room_for(&mut self, shared: &Shared, now: u64, bytes: usize, events: bool) -> Result<(), StoreError> {
        self.make_room(shared, now, bytes).inspect_err(|error| {
            if events {
                shared.full.note(Lack::Disk(bytes), error.to_string());
            }
        })
    }

    /// Looks whether there is room again for what was refused.
    pub(crate) fn look_for_room(&mut self, shared: &Shared) {
        let Some(lack) = shared.full.lack() else { return };
        let has_room = match lack {
            Lack::Disk(bytes) => self.make_room(shared, wall_clock(), bytes).is_ok(),
            Lack::Budget(bytes) => Plan::has_room(shared, &shared.read(), bytes),
            Lack::Write => false,
        };
        // Only who has the appender notes something there.
        if has_room {
            shared.full.over();
        }
    }

    /// Seals the active segment and goes on in a new one that has room for `bytes`.
    pub(crate) fn roll(&mut self, shared: &Shared, now: u64, bytes: usize) -> Result<(), StoreError> {
        let end = Position::new(self.segment.number, self.end);
        if shared.options.durability != Durability::Commit && shared.synced.load(Ordering::SeqCst) < end.0 {
            self.sync_to(shared, end).map_err(|error| cannot_grow(&error))?;
        }
        let number = self.segment.number.checked_add(1);
        let number = number.ok_or_else(|| cannot_grow(&ErrorKind::QuotaExceeded.into()))?;
        let size = shared.options.segment_bytes.max(bytes as u64 + u64::from(SEGMENT_HEADER));
        let header = SegmentHeader { store: shared.store, number, previous_end: end, made_at: now, size };
        let prepared = prepare_segment(&*shared.disk, &header).map_err(|error| cannot_grow(&error))?;
        let file = prepared.put(&*shared.disk).map_err(|error| {
            // The new file may be there all the same, and its header says that this segment ends here.
            self.abandoned = true;
            cannot_grow(&error)
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

    /// Makes the active segment durable up to its `end`.
    fn sync_to(&mut self, shared: &Shared, end: Position) -> io::Result<()> {
        if self.abandoned {
            self.write_again(shared)?;
        }
        if let Err(error) = self.segment.file.sync() {
            self.abandoned = true;
            return Err(error);
        }
        shared.synced.fetch_max(end.0, Ordering::SeqCst);
        Ok(())
    }

    /// Writes once more what was acknowledged and is not synced, because a sync of it has failed. After that the system may
    /// hold for written what is not, and a second sync would succeed without writing it.
    fn write_again(&self, shared: &Shared) -> io::Result<()> {
        let number = self.segment.number;
        let from = Position(shared.synced.load(Ordering::SeqCst)).max(Position::new(number, SEGMENT_HEADER));
        let mut bytes = vec![0; self.end.saturating_sub(from.offset()) as usize];
        read_exact(&*self.segment.file, &mut bytes, from.offset().into())?;
        let mut scanner = Scanner::new(&*self.segment.file, shared.store, from, self.end);
        while scanner.next()?.is_some() {}
        if scanner.at().offset() != self.end {
            return Err(io::Error::other("what was acknowledged last can no longer be read, and is not on disk"));
        }
        self.segment.file.write(&bytes, from.offset().into())
    }

    /// Writes records as one commit and shows them to readers. `encode` gets the position of the commit's first byte, and
    /// appends to a buffer that begins with space for its header. It returns where each record stands, and `show` applies
    /// them to the state.
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
        let positions = encode(&mut out, base);
        if positions.is_empty() {
            return Ok(());
        }
        finish_commit(shared, &mut out, base, positions.len(), now);
        self.put(shared, &out).map_err(|error| cannot_write(&error))?;
        let mut state = shared.write();
        show(&mut state, positions);
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
                    let encode = |record: &TopicRecord<'_>| record.encode(out, shared.store, base);
                    part.iter().map(encode).map(|offset| Position::new(base.segment(), offset)).collect()
                },
                |state, positions| {
                    applied = part.iter().zip(positions).try_for_each(|(record, at)| state.apply_topic(record, at));
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
                    let encode = |(topic, group, cursor): &(u32, Group, Arc<Cursor>)| {
                        let cursor = Cow::Borrowed(&**cursor);
                        CursorRecord { topic: *topic, group: group.as_str(), cursor }.encode(out, shared.store, base)
                    };
                    part.iter().map(encode).map(|offset| Position::new(base.segment(), offset)).collect()
                },
                |state, positions| {
                    for ((topic, group, cursor), at) in part.iter().zip(positions) {
                        state.apply_cursor(*topic, group.clone(), Arc::clone(cursor), at);
                    }
                },
            )?;
        }
        Ok(())
    }
}

fn cannot_write(error: &io::Error) -> StoreError {
    StoreError::Unavailable(format!("the log cannot be written: {error}"))
}

/// The error of a segment that cannot be made, or not be sealed for that.
fn cannot_grow(error: &io::Error) -> StoreError {
    let hint = if error.kind() == ErrorKind::StorageFull { "; publishing goes on when there is space" } else { "" };
    StoreError::Unavailable(format!("the log cannot grow: {error}{hint}"))
}

/// Appends the records of the new and the trimmed topics; returns them with their positions.
fn encode_topics(
    plan: &Plan,
    state: &State,
    out: &mut Vec<u8>,
    store: u64,
    base: Position,
) -> Vec<(TopicRecord<'static>, Position)> {
    let mut topics = Vec::new();
    let mut put = |record: TopicRecord<'static>| {
        let offset = record.encode(out, store, base);
        topics.push((record, Position::new(base.segment(), offset)));
    };
    for (number, topic, epoch) in &plan.new_topics {
        let number = *number;
        let name = Cow::Owned(topic.as_str().to_owned());
        put(TopicRecord { number, name, epoch: *epoch, first: 1, tail: 0, holes: Cow::Borrowed(&[]) });
    }
    for (number, first) in &plan.trims {
        put(TopicRecord { first: *first, ..state.topics[*number as usize].record() }.into_owned());
    }
    topics
}

/// Appends the records of the events; returns where each stands, and where in `out` its JSON does.
fn encode_events(
    plan: &Plan,
    state: &State,
    out: &mut Vec<u8>,
    store: u64,
    base: Position,
) -> Vec<(Position, Range<usize>)> {
    let new: HashMap<u32, &Topic> = plan.new_topics.iter().map(|(number, topic, _)| (*number, topic)).collect();
    let name = |number: u32| match new.get(&number) {
        Some(topic) => topic.as_str(),
        None => state.topics[number as usize].topic.as_str(),
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
        let json = new.encode(out, store, base);
        jsons.push((Position(base.0 + start as u64), json));
    }
    jsons
}

/// Appends the records of the cursors; returns where each stands.
fn encode_cursors(plan: &Plan, out: &mut Vec<u8>, store: u64, base: Position) -> Vec<Position> {
    let encode = |(topic, put): &(u32, CursorPut)| {
        let record = CursorRecord { topic: *topic, group: put.group.as_str(), cursor: Cow::Borrowed(&put.cursor) };
        Position::new(base.segment(), record.encode(out, store, base))
    };
    plan.cursors.iter().map(encode).collect()
}

/// Writes the header of the commit in `out`, and fills it up to where the next one may begin.
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

/// The file of a new segment that still has its temporary name.
struct Prepared {
    file: Arc<dyn DiskFile>,
    name: String,
}

fn temporary(name: &str) -> String {
    format!("{name}.tmp")
}

fn prepare_segment(disk: &dyn Disk, header: &SegmentHeader) -> io::Result<Prepared> {
    let name = segment_name(header.number);
    let file = disk.create(&temporary(&name), header.size)?;
    file.write(&header.encode(), 0)?;
    file.sync()?;
    Ok(Prepared { file, name })
}

impl Prepared {
    /// Gives it its name, durably.
    fn put(self, disk: &dyn Disk) -> io::Result<Arc<dyn DiskFile>> {
        disk.rename(&temporary(&self.name), &self.name)?;
        disk.sync()?;
        Ok(self.file)
    }
}

/// Makes the file of a segment; it is durable, with its name, when this returns.
pub(crate) fn create_segment(disk: &dyn Disk, header: &SegmentHeader) -> io::Result<Arc<dyn DiskFile>> {
    prepare_segment(disk, header)?.put(disk)
}
