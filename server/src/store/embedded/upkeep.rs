//! What is done behind the acknowledgement, by one thread: bring the index forward, write the index files of sealed
//! segments, trim what is beyond its retention, and give its space back.
//!
//! Space comes back by dropping segments. What is still wanted of one that is mostly dead is first copied forward, as
//! commits like any other: the newest event of a key, events that are retained, topics and cursors. So at every moment
//! the log has everything, and a crash leaves at most a copy too many.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use prom_protocol::Group;

use super::{
    Durability,
    append::{Appender, reserve, segment_name},
    format::{Position, RawRecord, SEGMENT_HEADER},
    index::Place,
    record::{CursorRecord, EventRecord, TopicRecord, encode_moved},
    scan::Scanner,
    shared::{Shared, lock},
    sidecar::{self, NewRun},
    state::{Offsets, Run, Segment, SegmentIndex},
};
use crate::{store::StoreError, writer::wall_clock};

/// How often the upkeep looks around when nobody calls it.
const TICK: Duration = Duration::from_millis(250);
/// How old the index may be.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// How often retention is looked at.
const RETENTION_EVERY: Duration = Duration::from_secs(2);
/// Bytes copied forward in one commit.
const COPY: usize = 256 * 1024;
/// Bytes copied forward a second.
const COPY_RATE: usize = 32 * 1024 * 1024;
/// A segment below this part of a whole one is small.
const SMALL: u64 = 4;
/// So many small segments are put together.
const MANY: usize = 16;
/// Cleaned index entries between two looks at the lock.
const CHUNK: usize = 4096;
/// A segment is old when it has this part of the shortest age that a rule names, so that what is in it can go.
const AGE_PARTS: u32 = 8;
/// But no younger than this.
const YOUNGEST: Duration = Duration::from_secs(10);

/// The threads of a store; dropping this ends them.
#[derive(Debug)]
pub(crate) struct Upkeep {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Upkeep {
    pub(crate) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let mut upkeep = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        let own = Arc::clone(&shared);
        upkeep.spawn("store-upkeep", move || run(&own))?;
        if let Durability::Interval(interval) = shared.options.durability {
            upkeep.spawn("store-sync", move || sync_every(&shared, interval))?;
        }
        Ok(upkeep)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(std::thread::Builder::new().name(name.into()).spawn(work)?);
        Ok(())
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.shared.bell.closing.store(true, Ordering::SeqCst);
        self.shared.bell.ring();
        for thread in self.threads.drain(..) {
            // A panic in there has been reported by itself.
            let _ = thread.join();
        }
    }
}

/// Waits until somebody rings or the time is over; answers whether the store is being closed.
fn wait(shared: &Shared, time: Duration, answer: bool) -> bool {
    let bell = &shared.bell;
    let rung = lock(&bell.rung);
    let until = |rung: &mut bool| !(bell.closing.load(Ordering::SeqCst) || answer && *rung);
    let waited = bell.waiting.wait_timeout_while(rung, time, until);
    let (mut rung, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
    if answer {
        *rung = false;
    }
    bell.closing.load(Ordering::SeqCst)
}

/// Makes durable what was acknowledged before, every so often.
fn sync_every(shared: &Shared, interval: Duration) {
    while !wait(shared, interval, false) {
        if let Err(error) = sync_log(shared, None) {
            tracing::error!(%error, "acknowledged events are not on disk yet");
        }
    }
}

/// Makes the log durable up to where readers see it; answers that place. Whoever holds the appender passes it.
fn sync_log(shared: &Shared, appender: Option<&mut Appender>) -> Result<Position, StoreError> {
    let (end, segment) = {
        let state = shared.read();
        (state.end, state.segments.get(&state.end.segment()).map(Arc::clone))
    };
    if shared.synced.load(Ordering::SeqCst) >= end.0 {
        return Ok(end);
    }
    let Some(segment) = segment else { return Ok(end) };
    if let Err(error) = segment.file.sync() {
        let abandon = |appender: &mut Appender| appender.abandoned |= appender.segment.number == segment.number;
        match appender {
            Some(appender) => abandon(appender),
            None => abandon(&mut lock(&shared.appender)),
        }
        return Err(StoreError::Unavailable(format!("the log cannot be written: {error}")));
    }
    shared.synced.fetch_max(end.0, Ordering::SeqCst);
    Ok(end)
}

fn run(shared: &Shared) {
    let mut keeper = Keeper::new(shared);
    loop {
        let closing = wait(shared, TICK, true);
        if let Err(error) = keeper.round(closing) {
            tracing::warn!(%error, "upkeep of the store, tried again");
            // What failed fails again at once, as a rule.
            if !closing {
                wait(shared, FLUSH_EVERY, false);
            }
        }
        if closing {
            return;
        }
    }
}

/// Does the work of the upkeep.
pub(crate) struct Keeper<'a> {
    shared: &'a Shared,
    /// How far the index has come.
    flushed: Position,
    flushed_at: Instant,
    retained_at: Instant,
}

impl<'a> Keeper<'a> {
    /// For a store whose index has just been brought forward.
    pub(crate) fn new(shared: &'a Shared) -> Self {
        let flushed = shared.read().end;
        Self { shared, flushed, flushed_at: Instant::now(), retained_at: Instant::now() }
    }

    /// All of it at once, whether it is due or not.
    #[cfg(test)]
    pub(crate) fn everything(&mut self) -> Result<(), StoreError> {
        self.flush(false, None)?;
        self.write_sidecars()?;
        self.retain()?;
        self.reclaim()
    }

    fn round(&mut self, closing: bool) -> Result<(), StoreError> {
        if closing {
            // Whoever appends now finds the store as it was closed.
            let mut appender = lock(&self.shared.appender);
            if appender.abandoned {
                appender.roll(self.shared, wall_clock(), 0)?;
            }
            self.flush(true, Some(&mut appender))?;
            appender.closed = Some(self.flushed);
            return Ok(());
        }
        // Each although another fails: on a full disk most do, and retention is what gives space back.
        let (flushed, written) = (self.flush_if_due(), self.write_sidecars());
        let mut done = flushed.and(written);
        if self.retained_at.elapsed() >= RETENTION_EVERY {
            self.retained_at = Instant::now();
            let (aged, retained) = (self.age_segment(), self.retain());
            done = done.and(aged).and(retained).and(self.reclaim());
        }
        done
    }

    fn flush_if_due(&mut self) -> Result<(), StoreError> {
        let records = self.shared.read().records;
        if records >= self.shared.options.flush_records || (records > 0 && self.flushed_at.elapsed() >= FLUSH_EVERY) {
            self.flush(false, None)?;
        }
        Ok(())
    }

    /// Brings the index forward.
    fn flush(&mut self, closed: bool, mut appender: Option<&mut Appender>) -> Result<(), StoreError> {
        // The index must not know of what the log may lose.
        let synced = sync_log(self.shared, appender.as_deref_mut())?;
        let mut flush = self.shared.write().take_dirty();
        if flush.position > synced {
            // More has come since.
            if let Err(error) = sync_log(self.shared, appender) {
                self.shared.write().not_flushed(&flush);
                return Err(error);
            }
        }
        flush.closed = closed;
        flush.sort();
        if let Err(error) = self.shared.index.flush(&flush) {
            self.shared.write().not_flushed(&flush);
            return Err(super::shared::index_failed(&error));
        }
        for part in flush.latest.chunks(CHUNK) {
            self.shared.write().flushed(part);
        }
        self.flushed = flush.position;
        self.flushed_at = Instant::now();
        Ok(())
    }

    /// Writes the index files of sealed segments.
    fn write_sidecars(&self) -> Result<(), StoreError> {
        let sealed: Vec<Arc<Segment>> = {
            let state = self.shared.read();
            let sealed = state.segments.values().filter(|segment| matches!(segment.index, SegmentIndex::Sealed(..)));
            sealed.map(Arc::clone).collect()
        };
        for segment in sealed {
            self.write_sidecar(&segment).map_err(|error| {
                StoreError::Unavailable(format!("{} cannot be written: {error}", sidecar::name(segment.number)))
            })?;
        }
        Ok(())
    }

    fn write_sidecar(&self, segment: &Segment) -> io::Result<()> {
        let SegmentIndex::Sealed(end, ids) = &segment.index else { return Ok(()) };
        let mut runs = Vec::new();
        for log in &self.shared.read().topics {
            for run in log.runs.values().filter(|run| run.segment == segment.number) {
                let Offsets::Memory(offsets) = &run.offsets else { continue };
                let count = (run.last - run.first + 1) as usize;
                let offsets = offsets.iter().skip(run.skip as usize).take(count).copied().collect();
                let (max_ts, bytes) = (run.max_ts, run.bytes);
                runs.push(NewRun { topic: log.number, first: run.first, max_ts, bytes, offsets });
            }
        }
        let end_at = Position::new(segment.number, *end);
        let (sidecar, entries) = sidecar::write(&*self.shared.disk, self.shared.store, end_at, &runs, ids)?;
        // The rest of its space was never needed.
        segment.file.set_len((*end).into())?;
        let index = SegmentIndex::File(*end, sidecar);
        let (number, file, made_at) = (segment.number, Arc::clone(&segment.file), segment.made_at);
        let mut state = self.shared.write();
        for entry in entries {
            let last = entry.first + u64::from(entry.count) - 1;
            let Some(log) = state.topics.get_mut(entry.topic as usize) else { continue };
            // Parts may have been cut off meanwhile.
            for (_, run) in log.runs.range_mut(entry.first..=last).filter(|(_, run)| run.segment == number) {
                run.skip = (run.first - entry.first) as u32;
                run.offsets = Offsets::File(entry.offsets_at);
            }
        }
        Arc::make_mut(&mut state.segments).insert(number, Arc::new(Segment { number, file, made_at, index }));
        Ok(())
    }

    /// Seals the active segment when what is in it may soon be too old, so that it can go.
    fn age_segment(&self) -> Result<(), StoreError> {
        let Some(shortest) = self.shared.options.retention.shortest_age() else { return Ok(()) };
        let now = wall_clock();
        let mut appender = lock(&self.shared.appender);
        let may_go = {
            let state = self.shared.read();
            let active = |run: &Run| run.segment == appender.segment.number;
            let aging = |log: &&super::state::TopicLog| {
                self.shared.options.retention.rule(&log.topic).is_some_and(|rule| rule.max_age.is_some())
            };
            state.topics.iter().filter(aging).any(|log| log.runs.values().next_back().is_some_and(active))
        };
        let age = Duration::from_millis(now.saturating_sub(appender.segment.made_at));
        if may_go && age >= (shortest / AGE_PARTS).max(YOUNGEST) {
            appender.roll(self.shared, now, 0)?;
        }
        Ok(())
    }

    /// Trims what is beyond its retention.
    fn retain(&self) -> Result<(), StoreError> {
        let shared = self.shared;
        if shared.options.retention.is_empty() {
            return Ok(());
        }
        let now = wall_clock();
        let mut appender = lock(&shared.appender);
        let trims: Vec<(u32, u64)> = {
            let state = shared.read();
            let first = |log: &super::state::TopicLog| {
                let rule = shared.options.retention.rule(&log.topic)?;
                let settled = if rule.drop_unsettled { u64::MAX } else { log.settled() };
                let mut first = rule.max_events.map_or(0, |most| (log.tail + 1).saturating_sub(most));
                let mut bytes = log.bytes;
                let oldest = rule.max_age.map_or(0, |age| now.saturating_sub(age.as_millis() as u64));
                for run in log.runs.values() {
                    bytes -= run.bytes.min(bytes);
                    if run.max_ts >= oldest && rule.max_bytes.is_none_or(|most| bytes < most) {
                        break;
                    }
                    first = first.max(run.last + 1);
                }
                let first = first.min(settled.saturating_add(1)).min(log.tail + 1);
                (first > log.first).then_some((log.number, first))
            };
            state.topics.iter().filter_map(first).collect()
        };
        self.trim(&mut appender, now, &trims)
    }

    /// Trims topics to these first seqs.
    fn trim(&self, appender: &mut Appender, now: u64, trims: &[(u32, u64)]) -> Result<(), StoreError> {
        for part in trims.chunks(CHUNK) {
            let mut records: Vec<(TopicRecord<'static>, Position)> = Vec::new();
            appender.put_records(self.shared, now, part.len() * 512, |out, base| {
                let state = self.shared.read();
                for (number, first) in part {
                    let log = &state.topics[*number as usize];
                    let name = log.topic.as_str().to_owned().into();
                    let record = TopicRecord { name, first: *first, ..log.record() };
                    let offset = record.encode(out, self.shared.store, base);
                    records.push((record, Position::new(base.segment(), offset)));
                }
                records.len()
            })?;
            let mut state = self.shared.write();
            for (record, at) in &records {
                if let Err(error) = state.apply_topic(record, *at) {
                    tracing::error!(error, "a topic was not trimmed");
                }
            }
            state.end = Position::new(appender.segment.number, appender.end);
        }
        Ok(())
    }

    /// Gives the space of dead and mostly dead segments back.
    fn reclaim(&mut self) -> Result<(), StoreError> {
        let shared = self.shared;
        let mut live: HashMap<u32, u64> = HashMap::new();
        let mut recent: HashMap<u32, u64> = HashMap::new();
        let sealed: Vec<(Arc<Segment>, u32)> = {
            let state = shared.read();
            for log in &state.topics {
                for run in log.runs.values() {
                    *live.entry(run.segment).or_default() += run.bytes;
                }
                for place in log.latest.values() {
                    *recent.entry(place.at.segment()).or_default() += 1;
                }
            }
            let sealed = state.segments.values().filter_map(|segment| match &segment.index {
                SegmentIndex::File(end, _) => Some((Arc::clone(segment), *end)),
                _ => None,
            });
            sealed.collect()
        };
        // Segments that were sealed early are put together, once there are many.
        let small = |end: u32| u64::from(end) < shared.options.segment_bytes / SMALL;
        let many_small = sealed.iter().filter(|(_, end)| small(*end)).count() >= MANY;
        // First those that go without a copy: it may be their space that copies need.
        let (dead, others): (Vec<_>, Vec<_>) =
            sealed.into_iter().partition(|(segment, _)| !live.contains_key(&segment.number));
        for (segment, end) in dead.into_iter().chain(others) {
            // The index is brought forward from the log, which must still be there.
            if self.flushed < Position::new(segment.number, end) || shared.bell.closing.load(Ordering::SeqCst) {
                return Ok(());
            }
            let pointed = shared.index.pointed(segment.number).map_err(|error| super::shared::index_failed(&error))?
                + recent.get(&segment.number).copied().unwrap_or_default();
            let retained = live.get(&segment.number).copied().unwrap_or_default();
            // Of one that is retained for its key alone only the average length is known.
            let events = 512 * pointed + retained;
            if (retained > 0 || pointed > 0) && events * 2 >= u64::from(end) && !(many_small && small(end)) {
                continue;
            }
            if retained > 0 || pointed > 0 {
                self.copy_events(&segment, end)?;
            }
            self.copy_names(segment.number)?;
            self.drop_segment(&segment)?;
            self.flush_if_due()?;
        }
        Ok(())
    }

    /// Copies forward what is still wanted of a segment.
    fn copy_events(&mut self, segment: &Segment, end: u32) -> Result<(), StoreError> {
        let shared = self.shared;
        let start = Position::new(segment.number, SEGMENT_HEADER);
        let mut scanner = Scanner::new(&*segment.file, shared.store, start, end);
        let mut forgotten = Vec::new();
        while let Some(commit) = scanner.next().map_err(|error| super::shared::unreadable(&error))? {
            let mut rest = &commit.records[..];
            while !rest.is_empty() {
                let mut bytes = 0;
                let count = rest.iter().take_while(|(_, record)| {
                    bytes += record.length;
                    bytes <= COPY
                });
                let (part, others) = rest.split_at(count.count().max(1));
                rest = others;
                let copied = self.copy_part(part, &mut forgotten)?;
                if copied > 0 {
                    std::thread::sleep(Duration::from_secs_f64(copied as f64 / COPY_RATE as f64));
                }
            }
            if shared.bell.closing.load(Ordering::SeqCst) {
                return Err(StoreError::Unavailable("the store is being closed".into()));
            }
        }
        if scanner.at().offset() < end {
            return Err(shared.damaged("a commit", scanner.at()));
        }
        // The trim that let them go must not be lost when the index has forgotten them.
        sync_log(shared, None)?;
        shared.index.forget(&forgotten).map_err(|error| super::shared::index_failed(&error))
    }

    /// Copies forward what is wanted of some records; answers how many bytes that were.
    fn copy_part(
        &self,
        records: &[(Position, RawRecord<'_>)],
        forgotten: &mut Vec<(u32, Box<str>, Place)>,
    ) -> Result<usize, StoreError> {
        let shared = self.shared;
        let mut appender = lock(&shared.appender);
        let latest = shared.index.latest().map_err(|error| super::shared::index_failed(&error))?;
        let mut wanted = Vec::new();
        {
            let state = shared.read();
            for (at, record) in records {
                let Some(event) = EventRecord::decode(record) else { continue };
                let Some(log) = state.topics.get(event.topic as usize) else { continue };
                let here = |run: &&Run| run.segment == at.segment() && (run.first..=run.last).contains(&event.seq);
                let retained = event.seq >= log.first && log.run_at(event.seq).filter(here).is_some();
                let mut newest = false;
                if let Some(key) = event.key {
                    let place = match log.latest.get(key) {
                        Some(place) => Some(*place),
                        None => latest.get(event.topic, key).map_err(|error| super::shared::index_failed(&error))?,
                    };
                    newest = place == Some(Place { at: *at, seq: event.seq });
                    if newest && !retained && event.seq < shared.kept_from(log) {
                        newest = false;
                        forgotten.push((event.topic, key.into(), Place { at: *at, seq: event.seq }));
                    }
                }
                if retained || newest {
                    wanted.push((event, *record, retained, newest));
                }
            }
        }
        if wanted.is_empty() {
            return Ok(0);
        }
        let room = wanted.iter().map(|(_, record, ..)| record.length).sum::<usize>();
        let mut places = Vec::with_capacity(wanted.len());
        appender.put_records(shared, wall_clock(), room + reserve(shared), |out, base| {
            for (_, record, ..) in &wanted {
                let offset = encode_moved(out, record, shared.store, base);
                places.push(Position::new(base.segment(), offset));
            }
            wanted.len()
        })?;
        let mut state = shared.write();
        for ((event, record, retained, newest), at) in wanted.iter().zip(places) {
            state.apply_moved(event, at, record.length as u64, *retained, *newest);
            if event.listed {
                state.ids.add(shared.store, event.id, at.offset());
            }
        }
        state.end = Position::new(appender.segment.number, appender.end);
        Ok(room)
    }

    /// Copies forward the topics and cursors whose last record stands in a segment.
    fn copy_names(&self, segment: u32) -> Result<(), StoreError> {
        let shared = self.shared;
        let mut appender = lock(&shared.appender);
        let (topics, cursors) = {
            let state = shared.read();
            let mut topics = Vec::new();
            let mut cursors = Vec::new();
            for log in &state.topics {
                if log.record_at.segment() == segment {
                    topics.push((log.number, log.first));
                }
                for (group, own) in log.cursors.iter().filter(|(_, own)| own.at.segment() == segment) {
                    cursors.push((log.number, group.clone(), Arc::clone(&own.cursor)));
                }
            }
            (topics, cursors)
        };
        self.trim(&mut appender, wall_clock(), &topics)?;
        for part in cursors.chunks(64) {
            let size = |cursor: &crate::store::Cursor| 512 + cursor.settled.len() * 16 + cursor.attempts.len() * 12;
            let room = part.iter().map(|(.., cursor)| size(cursor)).sum::<usize>();
            let mut places: Vec<(u32, Group, Arc<crate::store::Cursor>, Position)> = Vec::new();
            appender.put_records(shared, wall_clock(), room, |out, base| {
                for (topic, group, cursor) in part {
                    let borrowed = std::borrow::Cow::Borrowed(&**cursor);
                    let record = CursorRecord { topic: *topic, group: group.as_str(), cursor: borrowed };
                    let offset = record.encode(out, shared.store, base);
                    places.push((*topic, group.clone(), Arc::clone(cursor), Position::new(base.segment(), offset)));
                }
                places.len()
            })?;
            let mut state = shared.write();
            for (topic, group, cursor, at) in places {
                state.apply_cursor(topic, group, cursor, at);
            }
            state.end = Position::new(appender.segment.number, appender.end);
        }
        Ok(())
    }

    /// Removes a segment of which nothing is wanted any more.
    fn drop_segment(&self, segment: &Segment) -> Result<(), StoreError> {
        // Its copies first.
        sync_log(self.shared, None)?;
        let number = segment.number;
        Arc::make_mut(&mut self.shared.write().segments).remove(&number);
        let failed = |error: io::Error| StoreError::Unavailable(format!("segment {number} cannot be removed: {error}"));
        self.shared.disk.remove(&segment_name(number)).map_err(failed)?;
        self.shared.disk.remove(&sidecar::name(number)).map_err(failed)?;
        self.shared.disk.sync().map_err(failed)
    }
}
