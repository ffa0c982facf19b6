//! Giving space back: segments of which nothing is wanted are dropped; what is still wanted of one that is mostly dead is
//! first copied forward, as commits like any other. So at every moment the log has everything, and a crash leaves at most
//! a copy too many.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use prom_store::{StoreError, wall_clock};

use crate::{
    append::{reserve, segment_name},
    format::{Position, RawRecord, SEGMENT_HEADER},
    index::Place,
    keeper::{Keeper, Measured, sync_log},
    record::{EventRecord, encode_moved},
    scan::Scanner,
    shared::{index_failed, unreadable},
    sidecar,
    state::{Run, Segment, SegmentIndex},
};

/// Bytes copied forward in one commit.
const COPY: usize = 256 * 1024;
/// Bytes copied forward a second.
const COPY_RATE: usize = 32 * 1024 * 1024;
/// A segment below this part of a whole one is small.
const SMALL: u64 = 4;
/// So many small segments are put together.
const MANY: usize = 16;

/// Segments that are looked through in one round.
const MEASURES: usize = 4;
/// Records that are looked at in one hold of the lock.
const PART: usize = 256;

/// An event that must not go with its segment.
struct Wanted<'r> {
    event: EventRecord<'r>,
    record: RawRecord<'r>,
    retained: bool,
    newest: bool,
}

impl Keeper<'_> {
    /// Gives the space of dead and mostly dead segments back.
    pub(crate) fn reclaim(&mut self) -> Result<(), StoreError> {
        let shared = self.shared();
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
            let old = state.segments.range(..self.below).map(|(_, segment)| segment);
            let sealed = old.filter_map(|segment| match &segment.index {
                SegmentIndex::File(end, _) => Some((Arc::clone(segment), *end)),
                _ => None,
            });
            sealed.collect()
        };
        // Segments that were sealed early are put together, once there are many.
        let small = |end: u32| u64::from(end) < shared.options.segment_bytes / SMALL;
        let many_small = sealed.iter().filter(|(_, end)| small(*end)).count() >= MANY;
        let mut counted = Vec::with_capacity(sealed.len());
        for (segment, end) in sealed {
            let pointed = shared.index.pointed(segment.number).map_err(|error| index_failed(&error))?
                + recent.get(&segment.number).copied().unwrap_or_default();
            let retained = live.get(&segment.number).copied().unwrap_or_default();
            counted.push((segment, end, retained, pointed));
        }
        // First those that go without a copy: it may be their space that copies need.
        counted.sort_by_key(|(_, _, retained, pointed)| *retained > 0 || *pointed > 0);
        let mut failed = Ok(());
        let mut measures = MEASURES;
        for (segment, end, retained, pointed) in counted {
            self.flush_if_due()?;
            if shared.bell.closing.load(Ordering::SeqCst) {
                return Ok(());
            }
            // The index is brought forward from the log, which must still be there.
            if self.flushed < Position::new(segment.number, end) {
                continue;
            }
            if self.damaged.contains(&segment.number) {
                continue;
            }
            if retained > 0 || pointed > 0 {
                let gather = many_small && small(end);
                match self.rewrite(&segment, end, retained, pointed, gather, &mut measures) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    // It stays, and so does what is still whole in it.
                    Err(error @ StoreError::Damaged(_)) => {
                        tracing::error!(%error, "a segment cannot be cleaned");
                        self.damaged.insert(segment.number);
                        continue;
                    }
                    // On a full disk there may be others that need no room.
                    Err(error) => {
                        failed = Err(error);
                        continue;
                    }
                }
            }
            self.copy_names(segment.number)?;
            self.drop_segment(&segment)?;
        }
        failed
    }

    /// Copies forward what is still wanted of a segment if that is little, or if it is to be put together with others;
    /// answers whether nothing is wanted of it any more.
    fn rewrite(
        &mut self,
        segment: &Segment,
        end: u32,
        retained: u64,
        pointed: u64,
        gather: bool,
        measures: &mut usize,
    ) -> Result<bool, StoreError> {
        let much = |kept: u64| (retained + kept) * 2 >= u64::from(end);
        // As long as not much less points into it than when it was measured, it is not measured again: that reads all
        // of it.
        let known = self.measured.get(&segment.number).copied().unwrap_or_default();
        if !gather && (much(0) || much(known.bytes_of(pointed))) {
            return Ok(false);
        }
        if !gather && pointed > 0 {
            if *measures == 0 {
                return Ok(false);
            }
            *measures -= 1;
            let bytes = self.measure(segment, end)?;
            self.measured.insert(segment.number, Measured { pointed, bytes });
            if much(bytes) {
                return Ok(false);
            }
        }
        self.copy_events(segment, end)?;
        self.measured.remove(&segment.number);
        Ok(true)
    }

    /// Bytes of a segment's events that are kept for their keys alone.
    fn measure(&mut self, segment: &Segment, end: u32) -> Result<u64, StoreError> {
        let shared = self.shared();
        let start = Position::new(segment.number, SEGMENT_HEADER);
        let mut scanner = Scanner::new(&*segment.file, shared.store, start, end);
        let mut bytes = 0;
        while let Some(commit) = scanner.next().map_err(|error| unreadable(&error))? {
            for part in commit.records.chunks(PART) {
                for wanted in self.wanted(part, &mut Vec::new())?.iter().filter(|wanted| !wanted.retained) {
                    bytes += wanted.record.length as u64;
                }
            }
            self.flush_if_due()?;
        }
        Ok(bytes)
    }

    /// Copies forward what is still wanted of a segment.
    fn copy_events(&mut self, segment: &Segment, end: u32) -> Result<(), StoreError> {
        let shared = self.shared();
        let start = Position::new(segment.number, SEGMENT_HEADER);
        let mut scanner = Scanner::new(&*segment.file, shared.store, start, end);
        let mut forgotten = Vec::new();
        while let Some(commit) = scanner.next().map_err(|error| unreadable(&error))? {
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
                self.flush_if_due()?;
                if copied > 0 && self.gentle {
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
        sync_log(self.log, None)?;
        shared.index.forget(&forgotten).map_err(|error| index_failed(&error))
    }

    /// Copies forward what is wanted of some records; answers how many bytes that were.
    fn copy_part(
        &self,
        records: &[(Position, RawRecord<'_>)],
        forgotten: &mut Vec<(u32, Box<str>, Place)>,
    ) -> Result<usize, StoreError> {
        let shared = self.shared();
        let mut appender = self.log.appender();
        let wanted = self.wanted(records, forgotten)?;
        if wanted.is_empty() {
            return Ok(0);
        }
        let room = wanted.iter().map(|wanted| wanted.record.length).sum::<usize>();
        appender.put_records(
            shared,
            wall_clock(),
            room + reserve(shared),
            |out, base| {
                let place = |wanted: &Wanted<'_>| encode_moved(out, &wanted.record, shared.store, base);
                wanted.iter().map(place).map(|offset| Position::new(base.segment(), offset)).collect()
            },
            |state, places| {
                for (Wanted { event, record, retained, newest }, at) in wanted.iter().zip(places) {
                    state.apply_moved(event, at, record.length as u64, *retained, *newest);
                    if event.listed {
                        state.ids.add(shared.store, event.id, at.offset(), wall_clock());
                    }
                }
            },
        )?;
        Ok(room)
    }

    /// What is wanted of some records. What is not, and the index still points to, is added to `forgotten`.
    fn wanted<'r>(
        &self,
        records: &'r [(Position, RawRecord<'r>)],
        forgotten: &mut Vec<(u32, Box<str>, Place)>,
    ) -> Result<Vec<Wanted<'r>>, StoreError> {
        let shared = self.shared();
        let latest = shared.index.latest().map_err(|error| index_failed(&error))?;
        let state = shared.read();
        let mut wanted = Vec::new();
        for (at, record) in records {
            let Some(event) = EventRecord::decode(record) else { continue };
            let Some(log) = state.topics.get(event.topic as usize) else { continue };
            let here = |run: &&Run| run.segment == at.segment() && (run.first..=run.last).contains(&event.seq);
            let retained = event.seq >= log.first && log.run_at(event.seq).filter(here).is_some();
            let mut newest = false;
            if let Some(key) = event.key {
                let place = match log.latest.get(key) {
                    Some(place) => Some(*place),
                    None => latest.get(event.topic, key).map_err(|error| index_failed(&error))?,
                };
                newest = place == Some(Place { at: *at, seq: event.seq });
                if newest && !retained && event.seq < shared.kept_from(log) {
                    newest = false;
                    forgotten.push((event.topic, key.into(), Place { at: *at, seq: event.seq }));
                }
            }
            if retained || newest {
                wanted.push(Wanted { event, record: *record, retained, newest });
            }
        }
        Ok(wanted)
    }

    /// Copies forward the topics and cursors whose last record stands in a segment.
    fn copy_names(&self, segment: u32) -> Result<(), StoreError> {
        let shared = self.shared();
        let mut appender = self.log.appender();
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
        appender.put_cursors(shared, wall_clock(), &cursors)
    }

    /// Removes a segment of which nothing is wanted any more.
    fn drop_segment(&self, segment: &Segment) -> Result<(), StoreError> {
        // Its copies first.
        sync_log(self.log, None)?;
        let number = segment.number;
        Arc::make_mut(&mut self.shared().write().segments).remove(&number);
        let failed = |error: io::Error| StoreError::Unavailable(format!("segment {number} cannot be removed: {error}"));
        for name in [segment_name(number), sidecar::name(number)] {
            match self.shared().disk.remove(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        self.shared().disk.sync().map_err(failed)
    }
}
