//! What is done behind the acknowledgement, by one thread: bring the index forward, write the index files of sealed
//! segments, trim what is beyond its retention, and give its space back ([`super::reclaim`]).

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use prom_store::{Durability, StoreError, wall_clock};

use crate::{
    format::{Position, SEGMENT_HEADER},
    keeper::{FLUSH_EVERY, Keeper, sync_log},
    log::Log,
    shared::{Bell, lock},
    sidecar::{self, NewRun},
    state::{Offsets, Run, Segment, SegmentIndex, TopicLog},
};

/// How often the upkeep looks around when nobody calls it.
const TICK: Duration = Duration::from_millis(250);
/// How often retention is looked at.
const RETENTION_EVERY: Duration = Duration::from_secs(2);
/// A segment is old when it has this part of the shortest age that a rule names, so that what is in it can go.
const AGE_PARTS: u32 = 8;
/// But no younger than this.
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
            // A panic in there has been reported by itself.
            let _ = thread.join();
        }
    }
}

/// Waits until somebody rings or the time is over; answers whether the store is being closed.
fn wait(bell: &Bell, time: Duration, answer: bool) -> bool {
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
            // What failed fails again at once, as a rule.
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
            let mut appender = self.log.appender();
            if appender.end > SEGMENT_HEADER {
                appender.roll(self.shared(), wall_clock(), 0)?;
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
            let mut appender = self.log.appender();
            if appender.abandoned {
                appender.roll(self.shared(), wall_clock(), 0)?;
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

    /// Writes the index files of sealed segments.
    fn write_sidecars(&self) -> Result<(), StoreError> {
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
                let (max_ts, bytes) = (run.max_ts, run.bytes);
                runs.push(NewRun { topic: log.number, first: run.first, max_ts, bytes, offsets });
            }
        }
        let end_at = Position::new(segment.number, *end);
        let (sidecar, entries) = sidecar::write(&*self.shared().disk, self.shared().store, end_at, &runs, ids)?;
        // The rest of its space was never needed.
        segment.file.set_len((*end).into())?;
        let index = SegmentIndex::File(*end, sidecar);
        let (number, file, made_at) = (segment.number, Arc::clone(&segment.file), segment.made_at);
        let mut state = self.shared().write();
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
            let first = |log: &TopicLog| {
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
}
