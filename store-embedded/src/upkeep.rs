//! What is done behind the acknowledgement, by one thread: bring the index forward, write the index files of sealed
//! segments, trim what is beyond its retention, and give its space back (`reclaim.rs`).

use std::{
    io,
    sync::{Arc, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use prom_store::{Durability, Rule, StoreError, wall_clock};

use crate::{
    format::{Position, SEGMENT_HEADER},
    keeper::{FLUSH_EVERY, Keeper, sync_log},
    log::Log,
    shared::{Bell, lock},
    sidecar::{self, NewRun},
    state::{Segment, SegmentIndex},
    topic_log::{Offsets, Run, TopicLog},
};

/// How long the upkeep waits for the bell before it looks for work by itself.
const TICK: Duration = Duration::from_millis(250);
/// How often retention is applied.
const RETENTION_EVERY: Duration = Duration::from_secs(2);
/// The active segment is sealed at this part of the shortest `max_age` of a rule: only sealed segments can go.
const AGE_PARTS: u32 = 8;
/// But never when it is younger than this.
const YOUNGEST: Duration = Duration::from_secs(10);

/// The threads of a store; dropping this ends them.
#[derive(Debug)]
pub(crate) struct Upkeep {
    log: Arc<Log>,
    threads: Vec<JoinHandle<()>>,
}

impl Upkeep {
    pub(crate) fn start(log: Arc<Log>) -> io::Result<Self> {
        let mut upkeep = Self { log: Arc::clone(&log), threads: Vec::new() };
        let own = Arc::clone(&log);
        upkeep.spawn("store-upkeep", move || run(&own))?;
        if let Durability::Interval(interval) = log.shared.options.durability {
            upkeep.spawn("store-sync", move || sync_every(&log, interval))?;
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
        let bell = &self.log.shared.bell;
        bell.closing.store(true, Ordering::SeqCst);
        bell.ring();
        for thread in self.threads.drain(..) {
            // A panic of the thread has been reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Waits until the time is over or the store is being closed; returns whether it is. `for_ring`: a ring ends the wait too.
fn wait(bell: &Bell, time: Duration, for_ring: bool) -> bool {
    let rung = lock(&bell.rung);
    let until = |rung: &mut bool| !(bell.closing.load(Ordering::SeqCst) || for_ring && *rung);
    let waited = bell.waiting.wait_timeout_while(rung, time, until);
    let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
    if for_ring {
        *rung = false;
    }
    bell.closing.load(Ordering::SeqCst)
}

/// With [`Durability::Interval`]: makes durable what was acknowledged, once an interval.
fn sync_every(log: &Log, interval: Duration) {
    while !wait(&log.shared.bell, interval, false) {
        if let Err(error) = sync_log(log, None) {
            tracing::error!(%error, "acknowledged events are not on disk yet");
        }
    }
}

fn run(log: &Log) {
    let bell = &log.shared.bell;
    let mut keeper = Keeper::new(log);
    loop {
        let closing = wait(bell, TICK, true);
        if let Err(error) = keeper.round(closing) {
            tracing::warn!(%error, "upkeep of the store, tried again");
            // It would fail again at once, as a rule.
            if !closing {
                wait(bell, FLUSH_EVERY, false);
            }
        }
        if closing {
            return;
        }
    }
}

impl Keeper<'_> {
    /// Closes the store.
    #[cfg(test)]
    pub(crate) fn close(&mut self) -> Result<(), StoreError> {
        self.round(true)
    }

    /// All of the work at once, whether it is due or not.
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
            let mut appender = self.log.appender();
            if appender.end > SEGMENT_HEADER {
                appender.roll(self.shared(), wall_clock(), 0)?;
            }
            // What is copied forward comes behind that, and is not looked at again.
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

    /// The work that is due, or closes the store.
    fn round(&mut self, closing: bool) -> Result<(), StoreError> {
        if closing {
            // With the appender held, so that nothing is appended between the last flush and the close.
            let mut appender = self.log.appender();
            if appender.abandoned {
                appender.roll(self.shared(), wall_clock(), 0)?;
            }
            self.flush(true, Some(&mut appender))?;
            appender.closed = Some(self.flushed);
            return Ok(());
        }
        // Each is tried although another fails: on a full disk most fail, and retention gives space back.
        let (flushed, written) = (self.flush_if_due(), self.write_sidecars());
        let mut done = flushed.and(written);
        if self.retained_at.elapsed() >= RETENTION_EVERY {
            self.retained_at = Instant::now();
            let (aged, retained) = (self.age_segment(), self.retain());
            done = done.and(aged).and(retained).and(self.reclaim());
            self.log.appender().look_for_room(self.shared());
        }
        done
    }

    /// Writes the index files of sealed segments.
    pub(crate) fn write_sidecars(&self) -> Result<(), StoreError> {
        let sealed: Vec<Arc<Segment>> = {
            let state = self.shared().read();
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
        for log in &self.shared().read().topics {
            for run in log.runs.values().filter(|run| run.segment == segment.number) {
                let Offsets::Memory(offsets) = &run.offsets else { continue };
                let count = (run.last - run.first + 1) as usize;
                let offsets = offsets.iter().skip(run.skip as usize).take(count).copied().collect();
                let (max_ts, committed, bytes) = (run.max_ts, run.committed, run.bytes);
                runs.push(NewRun { topic: log.number, first: run.first, max_ts, committed, bytes, offsets });
            }
        }
        let end_at = Position::new(segment.number, *end);
        let (sidecar, entries) = sidecar::write(&*self.shared().disk, self.shared().store, end_at, &runs, ids)?;
        // Give back the reserved space that was not needed.
        segment.file.set_len((*end).into())?;
        let index = SegmentIndex::File(*end, sidecar);
        let (number, file, made_at) = (segment.number, Arc::clone(&segment.file), segment.made_at);
        let mut state = self.shared().write();
        for entry in entries {
            let last = entry.first + u64::from(entry.count) - 1;
            let Some(log) = state.topics.get_mut(entry.topic as usize) else { continue };
            // Its front may have been trimmed in the meantime.
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
        let Some(shortest) = self.shared().options.retention.shortest_age() else { return Ok(()) };
        let now = wall_clock();
        let mut appender = self.log.appender();
        let may_go = {
            let state = self.shared().read();
            let active = |run: &Run| run.segment == appender.segment.number;
            let aging = |log: &&TopicLog| {
                self.shared().options.retention.rule(&log.topic).is_some_and(|rule| rule.max_age.is_some())
            };
            state.topics.iter().filter(aging).any(|log| log.runs.values().next_back().is_some_and(active))
        };
        let age = Duration::from_millis(now.saturating_sub(appender.segment.made_at));
        if may_go && age >= (shortest / AGE_PARTS).max(YOUNGEST) {
            appender.roll(self.shared(), now, 0)?;
        }
        Ok(())
    }

    /// Trims what is beyond its retention.
    fn retain(&self) -> Result<(), StoreError> {
        let shared = self.shared();
        if shared.options.retention.is_empty() {
            return Ok(());
        }
        let now = wall_clock();
        let mut appender = self.log.appender();
        let trims: Vec<(u32, u64)> = {
            let state = shared.read();
            let trim = |log: &TopicLog| {
                let first = first_retained(log, shared.options.retention.rule(&log.topic)?, now);
                (first > log.first).then_some((log.number, first))
            };
            state.topics.iter().filter_map(trim).collect()
        };
        self.trim(&mut appender, now, &trims)
    }
}

/// The first seq of a topic that stays by this rule.
fn first_retained(log: &TopicLog, rule: &Rule, now: u64) -> u64 {
    let settled = if rule.drop_unsettled { u64::MAX } else { log.settled() };
    let mut first = rule.max_events.map_or(0, |most| (log.tail + 1).saturating_sub(most));
    let oldest = rule.max_age.map_or(0, |age| now.saturating_sub(age.as_millis() as u64));
    // Bytes from this run on.
    let mut bytes = log.bytes;
    for run in log.runs.values() {
        let with_run = bytes;
        bytes -= run.bytes.min(bytes);
        if run.committed >= oldest && rule.max_bytes.is_none_or(|most| bytes < most) {
            // A part of the run may be too much: take it that all its events have the same length.
            let over = rule.max_bytes.map_or(0, |most| with_run.saturating_sub(most));
            let events = u128::from(run.last - run.first + 1);
            let part = u128::from(over) * events / u128::from(run.bytes.max(1));
            first = first.max(run.first + part as u64);
            break;
        }
        first = first.max(run.last + 1);
    }
    first.min(settled.saturating_add(1)).min(log.tail + 1)
}
