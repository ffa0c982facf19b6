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
    format::{ALIGN, COMMIT_HEADER, Position, RawRecord, SEGMENT_HEADER},
    index::LatestAt,
    keeper::{Keeper, Measured, sync_log},
    record::{EventRecord, encode_moved, gone},
    scan::Scanner,
    shared::{index_failed, unreadable},
    sidecar,
    state::{Segment, SegmentIndex},
    topic_log::Run,
};

/// Most bytes copied forward in one commit, but for one larger event.
const COPY: usize = 256 * 1024;
/// What a commit takes beside its records, in bytes.
const COPIED: usize = COMMIT_HEADER + ALIGN;
/// Most bytes copied forward a second while the hub works.
const COPY_RATE: usize = 32 * 1024 * 1024;
/// A segment is small if it has less than this part of [`Options::segment_bytes`](crate::Options::segment_bytes).
const SMALL: u64 = 4;
/// Small segments are put together once there are this many.
const MANY: usize = 16;
/// Most segments that are measured in one round.
const MEASURES: usize = 4;
/// Records that are looked at in one hold of the state's lock.
const PART: usize = 256;

/// A segment that may be dropped.
struct Candidate {
    segment: Arc<Segment>,
    /// Where its commits end.
    end: u32,
    /// Bytes of its records that are retained.
    retained: u64,
    /// How many newest events of keys stand in it.
    pointed: u64,
}

impl Candidate {
    /// No event of it is wanted.
    fn is_dead(&self) -> bool {
        self.retained == 0 && self.pointed == 0
    }
}

/// An event that must not go with its segment.
struct Wanted<'r> {
    event: EventRecord<'r>,
    record: RawRecord<'r>,
    retained: bool,
    /// It is the newest of its key, and wanted for that.
    newest: bool,
}

impl Keeper<'_> {
    /// Gives the space of dead and mostly dead segments back.
    pub(crate) fn reclaim(&mut self) -> Result<(), StoreError> {
        let shared = self.shared();
        let candidates = self.candidates()?;
        // Segments that were sealed early are put together, once there are many.
        let small = |end: u32| u64::from(end) < shared.options.segment_bytes / SMALL;
        let many_small = candidates.iter().filter(|candidate| small(candidate.end)).count() >= MANY;
        let mut failed = Ok(());
        let mut measures = MEASURES;
        for candidate in candidates {
            self.flush_if_due()?;
            if shared.bell.closing.load(Ordering::SeqCst) {
                return Ok(());
            }
            let number = candidate.segment.number;
            // Until the index has all of a segment, the segment must stay: the index is brought forward from it.
            if self.flushed < Position::new(number, candidate.end) || self.damaged.contains(&number) {
                continue;
            }
            if !candidate.is_dead() {
                let gather = many_small && small(candidate.end);
                match self.rewrite(&candidate, gather, &mut measures) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    // It stays, and so does what is still whole in it.
                    Err(error @ StoreError::Damaged(_)) => {
                        tracing::error!(%error, "a segment cannot be cleaned");
                        self.damaged.insert(number);
                        continue;
                    }
                    // Go on: on a full disk there may be other segments that can go without a copy.
                    Err(error) => {
                        failed = Err(error);
                        continue;
                    }
                }
            }
            self.copy_names(number)?;
            self.drop_segment(&candidate.segment)?;
        }
        failed
    }

    /// The sealed segments that have an index file, dead ones first: copies of others may need their space.
    fn candidates(&self) -> Result<Vec<Candidate>, StoreError> {
        let shared = self.shared();
        // By segment: bytes that are retained, and newest events that the index does not have yet.
        let mut retained: HashMap<u32, u64> = HashMap::new();
        let mut recent: HashMap<u32, u64> = HashMap::new();
        let sealed: Vec<(Arc<Segment>, u32)> = {
            let state = shared.read();
            for log in &state.topics {
                for run in log.runs.values() {
                    *retained.entry(run.segment).or_default() += run.bytes;
                }
                for latest in log.latest.values() {
                    *recent.entry(latest.at.segment()).or_default() += 1;
                }
            }
            let old = state.segments.range(..self.below).map(|(_, segment)| segment);
            let sealed = old.filter_map(|segment| match &segment.index {
                SegmentIndex::File(end, _) => Some((Arc::clone(segment), *end)),
                _ => None,
            });
            sealed.collect()
        };
        let mut candidates = Vec::with_capacity(sealed.len());
        for (segment, end) in sealed {
            let pointed = shared.index.pointed(segment.number).map_err(|error| index_failed(&error))?
                + recent.get(&segment.number).copied().unwrap_or_default();
            let retained = retained.get(&segment.number).copied().unwrap_or_default();
            candidates.push(Candidate { segment, end, retained, pointed });
        }
        candidates.sort_by_key(|candidate| !candidate.is_dead());
        Ok(candidates)
    }

    /// Copies forward what is still wanted of a segment if that is little, or if it is to be put together with others;
    /// returns whether nothing is wanted of it any more. `measures`: how many segments may still be read through for that.
    fn rewrite(&mut self, candidate: &Candidate, gather: bool, measures: &mut usize) -> Result<bool, StoreError> {
        let Candidate { segment, end, retained, pointed } = candidate;
        let (end, retained, pointed) = (*end, *retained, *pointed);
        // It is worth the copy if less than half is wanted.
        let much = |kept: u64| (retained + kept) * 2 >= u64::from(end);
        // Measuring reads the whole segment, so it is done again only when far fewer entries point into it.
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
                let copied = self.copy_part(part, commit.time, &mut forgotten)?;
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
        // First make durable the trims that let these events go: the index must not forget what a crash brings back.
        sync_log(self.log, None)?;
        shared.index.forget(&forgotten).map_err(|error| index_failed(&error))
    }

    /// Copies forward what is wanted of some records, which were committed at `time`; returns how many bytes that were. The
    /// copies' commit has that time too: they are no younger for having been copied.
    fn copy_part(
        &self,
        records: &[(Position, RawRecord<'_>)],
        time: u64,
        forgotten: &mut Vec<(u32, Box<str>, LatestAt)>,
    ) -> Result<usize, StoreError> {
        let shared = self.shared();
        let mut appender = self.log.appender();
        let wanted = self.wanted(records, forgotten)?;
        if wanted.is_empty() {
            return Ok(0);
        }
        let room = wanted.iter().map(|wanted| wanted.record.length).sum::<usize>();
        let now = wall_clock();
        // A repair has made commits without a time.
        let time = if time > 0 { time } else { now };
        // Here, because a segment that is made for them is made now.
        appender.make_room(shared, now, room + reserve(shared) + COPIED)?;
        appender.put_records(
            shared,
            time,
            room,
            |out, base| {
                let encode = |wanted: &Wanted<'_>| encode_moved(out, &wanted.record, shared.store, base);
                wanted.iter().map(encode).map(|offset| Position::new(base.segment(), offset)).collect()
            },
            |state, positions| {
                for (Wanted { event, record, retained, newest }, at) in wanted.iter().zip(positions) {
                    state.apply_moved(event, time, at, record.length as u64, *retained, *newest);
                    if event.listed {
                        state.ids.add(shared.store, event.topic, event.id, at.offset(), now);
                    }
                }
            },
        )?;
        Ok(room)
    }

    /// What is wanted of some records. Newest events that the index has and that are not wanted any more are added to
    /// `forgotten`.
    fn wanted<'r>(
        &self,
        records: &'r [(Position, RawRecord<'r>)],
        forgotten: &mut Vec<(u32, Box<str>, LatestAt)>,
    ) -> Result<Vec<Wanted<'r>>, StoreError> {
        let shared = self.shared();
        let latest = shared.index.latest().map_err(|error| index_failed(&error))?;
        let state = shared.read();
        let mut wanted = Vec::new();
        for (at, record) in records {
            let Some(event) = EventRecord::decode(record) else { continue };
            let log = state.topics.get(event.topic as usize).filter(|log| !log.is_removed());
            let Some(log) = log else { continue };
            let here = |run: &&Run| run.segment == at.segment() && (run.first..=run.last).contains(&event.seq);
            let retained = event.seq >= log.first && log.run_at(event.seq).filter(here).is_some();
            let mut newest = false;
            if let Some(key) = event.key {
                let known = match log.latest.get(key) {
                    Some(own) => Some(*own),
                    None => latest.get(event.topic, key).map_err(|error| index_failed(&error))?,
                };
                let own = LatestAt { at: *at, seq: event.seq };
                newest = known == Some(own);
                if newest && !retained && event.seq < shared.kept_from(log) {
                    newest = false;
                    forgotten.push((event.topic, key.into(), own));
                }
            }
            if retained || newest {
                wanted.push(Wanted { event, record: *record, retained, newest });
            }
        }
        Ok(wanted)
    }

    /// Copies forward the topics and cursors whose last record stands in a segment. That something was removed must be known
    /// for as long as there are older segments, in which it may stand.
    fn copy_names(&self, segment: u32) -> Result<(), StoreError> {
        let shared = self.shared();
        let mut appender = self.log.appender();
        let (topics, cursors, forgotten) = {
            let state = shared.read();
            let older = state.has_older(segment);
            let (mut topics, mut cursors, mut forgotten) = (Vec::new(), Vec::new(), Vec::new());
            for log in &state.topics {
                if log.record_at.segment() == segment && (older || !log.is_removed()) {
                    topics.push((log.number, log.first));
                }
                for (group, at) in log.gone.iter().filter(|(_, at)| at.segment() == segment) {
                    if older {
                        cursors.push((log.number, group.clone(), Arc::new(gone())));
                    } else {
                        forgotten.push((log.number, group.clone(), *at));
                    }
                }
                for (group, own) in log.cursors.iter().filter(|(_, own)| own.at.segment() == segment) {
                    cursors.push((log.number, group.clone(), Arc::clone(&own.cursor)));
                }
            }
            (topics, cursors, forgotten)
        };
        self.trim(&mut appender, wall_clock(), &topics)?;
        appender.put_cursors(shared, wall_clock(), &cursors)?;
        let mut state = shared.write();
        for (topic, group, at) in forgotten {
            state.forget_gone(topic, group, at);
        }
        Ok(())
    }

    /// Removes a segment of which nothing is wanted any more.
    fn drop_segment(&self, segment: &Segment) -> Result<(), StoreError> {
        // First make the copies durable.
        sync_log(self.log, None)?;
        let number = segment.number;
        Arc::make_mut(&mut self.shared().write().segments).remove(&number);
        let failed = |error: io::Error| {
            let mut state = self.shared().write();
            state.stuck = Some(state.stuck.map_or(number, |stuck| stuck.min(number)));
            StoreError::Unavailable(format!("segment {number} cannot be removed: {error}"))
        };
        for name in [segment_name(number), sidecar::name(number)] {
            match self.shared().disk.remove(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        self.shared().disk.sync().map_err(failed)?;
        self.shared().write().find_free();
        Ok(())
    }
}
