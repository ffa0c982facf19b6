//! What is done behind the acknowledgement, by one thread: bring the index forward, write the index files of sealed
//! segments, trim what is beyond its retention, and give its space back ([`super::reclaim`]).

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    append::Appender,
    format::{Position, SEGMENT_HEADER},
    reclaim::Measured,
    record::TopicRecord,
    shared::{Shared, lock},
    sidecar::{self, NewRun},
    state::{Offsets, Run, Segment, SegmentIndex},
};
use prom_store::{Durability, StoreError, wall_clock};

/// How often the upkeep looks around when nobody calls it.
const TICK: Duration = Duration::from_millis(250);
/// How old the index may be.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// How often retention is looked at.
const RETENTION_EVERY: Duration = Duration::from_secs(2);
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
pub(super) fn sync_log(shared: &Shared, appender: Option<&mut Appender>) -> Result<Position, StoreError> {
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
    pub(super) shared: &'a Shared,
    /// How far the index has come.
    pub(super) flushed: Position,
    flushed_at: Instant,
    retained_at: Instant,
    /// Segments that cannot be read whole.
    pub(super) damaged: HashSet<u32>,
    /// How long the events of a segment are that are kept for their keys, and how many those were.
    pub(super) measured: HashMap<u32, Measured>,
    /// Copies no faster than [`COPY_RATE`].
    pub(super) gentle: bool,
    /// Segments from this number on are left alone.
    pub(super) below: u32,
}

impl<'a> Keeper<'a> {
    /// For a store that is open.
    pub(crate) fn new(shared: &'a Shared) -> Self {
        let flushed = Position(shared.indexed.load(Ordering::SeqCst));
        let now = Instant::now();
        Self {
            shared,
            flushed,
            flushed_at: now,
            retained_at: now,
            gentle: true,
            below: u32::MAX,
            damaged: HashSet::new(),
            measured: HashMap::new(),
        }
    }

    /// Closes the store.
    #[cfg(test)]
    pub(crate) fn close(&mut self) -> Result<(), StoreError> {
        self.round(true)
    }

    /// All of it at once, whether it is due or not.
    #[cfg(test)]
    pub(crate) fn everything(&mut self) -> Result<(), StoreError> {
        self.flush(false, None)?;
        self.write_sidecars()?;
        self.retain()?;
        self.reclaim()
    }

    /// Does all there is to do, as fast as it goes, and closes the store.
    pub(crate) fn compact(&mut self) -> Result<(), StoreError> {
        self.gentle = false;
        {
            let mut appender = lock(&self.shared.appender);
            if appender.end > SEGMENT_HEADER {
                appender.roll(self.shared, wall_clock(), 0)?;
            }
            // What is copied forward is not looked at again.
            self.below = appender.segment.number;
        }
        self.retain()?;
        self.flush(false, None)?;
        self.write_sidecars()?;
        self.reclaim()?;
        self.flush(false, None)?;
        self.write_sidecars()?;
        self.round(true)
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

    pub(super) fn flush_if_due(&mut self) -> Result<(), StoreError> {
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
            if let Err(error) = self.shared.index.reopen(&*self.shared.disk, self.shared.store) {
                tracing::warn!(%error, "the index cannot be opened again yet");
            }
            return Err(super::shared::index_failed(&error));
        }
        for part in flush.latest.chunks(CHUNK) {
            self.shared.write().flushed(part);
        }
        self.flushed = flush.position;
        self.shared.indexed.store(flush.position.0, Ordering::SeqCst);
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
                    let with = bytes;
                    bytes -= run.bytes.min(bytes);
                    if run.max_ts >= oldest && rule.max_bytes.is_none_or(|most| bytes < most) {
                        // A part of it may be too much: as many events as that is on the average.
                        let over = rule.max_bytes.map_or(0, |most| with.saturating_sub(most));
                        let events = u128::from(run.last - run.first + 1);
                        let part = u128::from(over) * events / u128::from(run.bytes.max(1));
                        first = first.max(run.first + part as u64);
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
    pub(super) fn trim(&self, appender: &mut Appender, now: u64, trims: &[(u32, u64)]) -> Result<(), StoreError> {
        let records: Vec<_> = {
            let state = self.shared.read();
            let record = |(number, first): &(u32, u64)| {
                let log = &state.topics[*number as usize];
                TopicRecord { first: *first, ..log.record() }.into_owned()
            };
            trims.iter().map(record).collect()
        };
        appender.put_topics(self.shared, now, &records)
    }
}
