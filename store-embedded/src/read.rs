//! Reading: from the newest events in memory, else from the segments.

use std::{ops::Bound, sync::Arc};

use prom_protocol::Topic;
use prom_store::{LatestPage, Page, StoreError, Stored, Tail};

use crate::{
    format::{Position, decode_record, record_length},
    index::LatestAt,
    record::EventRecord,
    shared::{Shared, cached, index_failed, unreadable},
    state::{Segment, Segments},
    topic_log::{Offsets, TopicLog},
};

/// Most events whose offsets are looked up at once.
const BLOCK: usize = 2048;
/// Events that stand at most this far apart are read at once, with what stands between them.
const GAP: u32 = 2048;
/// Most bytes read at once, but for one larger event.
const WINDOW: u32 = 256 * 1024;
/// Most ranges of damaged events that one read passes over.
const DAMAGED: usize = 1024;
/// Most bytes of a key that a log line shows.
const SHOWN: usize = 128;
/// Most newest events that are not yet in the index and are looked at together.
const RECENT: usize = 1024;

/// What is to be read from one segment.
struct Block {
    segment: Arc<Segment>,
    offsets: Vec<u32>,
    /// Seq of the first event; they are consecutive.
    first: u64,
}

impl Shared {
    /// The topics that `are` so with their tails, in name order.
    pub(crate) fn topics(&self, are: impl Fn(&TopicLog) -> bool) -> Vec<(Topic, Tail)> {
        let state = self.read();
        let mut topics: Vec<_> =
            state.topics.iter().filter(|log| are(log)).map(|log| (log.topic.clone(), log.tail())).collect();
        drop(state);
        topics.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        topics
    }

    /// The page if it can be had from memory alone.
    pub(crate) fn read_cached(&self, topic: &Topic, after: u64, limit: usize, max_bytes: usize) -> Option<Page> {
        let state = self.read();
        let Some(log) = state.topic(topic) else {
            return Some(Page { first: 1, read_to: after, ..Page::default() });
        };
        let mut page = Page { epoch: log.epoch, first: log.first, read_to: after, ..Page::default() };
        if log.tail < log.first || after >= log.tail {
            return Some(page);
        }
        let from = after.max(log.first - 1) + 1;
        if log.cache.front().is_none_or(|event| event.seq > from) {
            return None;
        }
        take_cached(log, from, limit, max_bytes, 0, &mut page);
        Some(page)
    }

    /// See [`Store::read`](prom_store::Store::read).
    pub(crate) fn read_page(
        &self,
        topic: &Topic,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        self.read_log(topic, after, limit, max_bytes, false)
    }

    /// See [`Store::salvage`](prom_store::Store::salvage).
    pub(crate) fn salvage_page(
        &self,
        topic: &Topic,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        self.read_log(topic, after, limit, max_bytes, true)
    }

    /// `salvage`: what is damaged is passed over, else the page ends in front of it.
    fn read_log(
        &self,
        topic: &Topic,
        after: u64,
        limit: usize,
        max_bytes: usize,
        salvage: bool,
    ) -> Result<Page, StoreError> {
        let page = Page { first: 1, read_to: after, ..Page::default() };
        let mut reading = Reading { page, topic: 0, bytes: 0, limit, max_bytes, salvage, passed_over: None };
        self.fill(topic, &mut reading)?;
        if let Some(error) = reading.passed_over {
            let (ranges, first) = (reading.page.damaged.len(), reading.page.damaged.first());
            tracing::warn!(%error, %topic, ranges, ?first, "events are passed over");
        }
        Ok(reading.page)
    }

    fn fill(&self, topic: &Topic, reading: &mut Reading) -> Result<(), StoreError> {
        while reading.page.events.len() < reading.limit && reading.page.damaged.len() < DAMAGED {
            let page = &mut reading.page;
            let (block, seqs) = {
                let state = self.read();
                let Some(log) = state.topic(topic) else { return Ok(()) };
                // Of one log, not of two.
                if page.epoch != 0 && page.epoch != log.epoch {
                    return Ok(());
                }
                page.epoch = log.epoch;
                reading.topic = log.number;
                if page.events.is_empty() {
                    page.first = log.first;
                }
                let from = page.read_to.saturating_add(1).max(log.first);
                if from > log.tail {
                    return Ok(());
                }
                if log.cache.front().is_some_and(|event| event.seq <= from) {
                    take_cached(log, from, reading.limit, reading.max_bytes, reading.bytes, page);
                    return Ok(());
                }
                let Some(run) = log.run_at(from) else {
                    // What stood there was damaged and given up.
                    page.read_to = log.tail;
                    return Ok(());
                };
                let from = from.max(run.first);
                let room = (reading.limit - page.events.len()) as u64;
                let count = (run.last - from + 1).min(BLOCK as u64).min(room) as usize;
                let seqs = (from, from + count as u64 - 1);
                let block = match state.segments.get(&run.segment).map(Arc::clone) {
                    None => Err(self.damaged("a segment that is missing", Position::new(run.segment, 0))),
                    Some(segment) => {
                        let offsets = if matches!(run.offsets, Offsets::Memory(_)) {
                            self.offsets(&segment, run, from, count)
                        } else {
                            let run = run.clone();
                            drop(state);
                            self.offsets(&segment, &run, from, count)
                        };
                        offsets.map(|offsets| Block { segment, offsets, first: from })
                    }
                };
                (block, seqs)
            };
            let more = match block {
                Ok(block) => self.read_block(&block, reading)?,
                Err(error) => reading.pass_over(seqs, error)?,
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// Adds the events of a block to the page; returns whether there is room for more.
    fn read_block(&self, block: &Block, reading: &mut Reading) -> Result<bool, StoreError> {
        let segment = &*block.segment;
        let mut window = Window::default();
        for (index, offset) in block.offsets.iter().enumerate() {
            let seq = block.first + index as u64;
            let at = Position::new(segment.number, *offset);
            let record = window.record(segment, &block.offsets[index..])?;
            let event = record
                .and_then(|record| decode_record(record, self.store, at))
                .and_then(|record| EventRecord::decode(&record))
                .filter(|event| event.topic == reading.topic && event.seq == seq);
            let Some(event) = event else {
                if reading.pass_over((seq, seq), self.damaged("an event, or its segment's index,", at))? {
                    continue;
                }
                return Ok(false);
            };
            reading.bytes += event.json.len();
            if reading.bytes > reading.max_bytes && !reading.page.events.is_empty() {
                return Ok(false);
            }
            reading.page.read_to = seq;
            reading.page.events.push(event.stored());
        }
        Ok(true)
    }

    /// See [`Store::seq_before_ts`](prom_store::Store::seq_before_ts).
    pub(crate) fn seq_before_ts(&self, topic: &Topic, ts: u64) -> Result<u64, StoreError> {
        let mut from = 0;
        loop {
            // Whole runs are passed over by their highest `ts`.
            let run = {
                let state = self.read();
                let Some(log) = state.topic(topic) else { return Ok(0) };
                let run = log.runs.values().find(|run| run.last >= from && run.max_ts >= ts);
                match run {
                    Some(run) => (run.first.max(from).max(log.first), run.last),
                    None => return Ok(log.tail.max(log.first - 1)),
                }
            };
            let mut after = run.0 - 1;
            while after < run.1 {
                let page = self.read_page(topic, after, BLOCK.min((run.1 - after) as usize), usize::MAX)?;
                if let Some(event) = page.events.iter().find(|event| event.ts >= ts) {
                    return Ok(event.seq - 1);
                }
                if page.read_to <= after {
                    break;
                }
                after = page.read_to;
            }
            from = run.1 + 1;
        }
    }

    /// See [`Store::latest`](prom_store::Store::latest).
    pub(crate) fn latest(&self, topic: &Topic, key: &str) -> Result<Option<Stored>, StoreError> {
        let (number, recent, segments, index, kept_from) = {
            let state = self.read();
            let Some(log) = state.topic(topic) else { return Ok(None) };
            let recent = log.latest.get(key).copied().filter(|own| own.seq >= self.kept_from(log));
            if let Some(event) = recent.and_then(|own| cached(log, own.seq)) {
                return Ok(Some(Arc::clone(event)));
            }
            // While the state is locked: an entry leaves `latest` only after the index has it.
            let index =
                if recent.is_none() { Some(self.index.latest().map_err(|error| index_failed(&error))?) } else { None };
            (log.number, recent, Arc::clone(&state.segments), index, self.kept_from(log))
        };
        let latest = match index {
            Some(index) => index.get(number, key).map_err(|error| index_failed(&error))?,
            None => recent,
        };
        match latest.filter(|latest| latest.seq >= kept_from) {
            Some(latest) => self.newest(&segments, number, key, latest).map(Some),
            None => Ok(None),
        }
    }

    /// Lowest seq whose event may be a newest event: the topic's first where what is trimmed is gone for good.
    pub(crate) fn kept_from(&self, log: &TopicLog) -> u64 {
        if self.options.retention.compacts(&log.topic) { 0 } else { log.first }
    }

    /// The newest event of a key, read where it stands.
    fn newest(&self, segments: &Segments, topic: u32, key: &str, latest: LatestAt) -> Result<Stored, StoreError> {
        let wrong = || self.damaged("the newest event of a key, or the index of them,", latest.at);
        let segment = segments.get(&latest.at.segment()).ok_or_else(wrong)?;
        let event = self.event_at(segment, latest.at.offset(), |event| {
            let own = event.topic == topic && event.seq == latest.seq && event.key == Some(key);
            own.then(|| event.stored())
        })?;
        event.ok_or_else(wrong)
    }

    /// See [`Store::latest_page`](prom_store::Store::latest_page).
    pub(crate) fn latest_page(
        &self,
        topic: &Topic,
        after: Option<&str>,
        at: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<LatestPage, StoreError> {
        let mut page = LatestPage::default();
        let mut bytes = 0;
        let mut after: Option<Box<str>> = after.map(Into::into);
        loop {
            let (number, mut recent, segments, index, kept_from) = {
                let state = self.read();
                let Some(log) = state.topic(topic) else { return Ok(page) };
                let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                let recent = log.latest.range::<str, _>((start, Bound::Unbounded)).take(RECENT);
                let recent: Vec<_> = recent.map(|(key, latest)| (key.clone(), *latest)).collect();
                let index = self.index.latest().map_err(|error| index_failed(&error))?;
                (log.number, recent, Arc::clone(&state.segments), index, self.kept_from(log))
            };
            // Only up to the key that both, the state and the index, have been read to.
            let last = if recent.len() == RECENT { recent.last().map(|(key, _)| key.clone()) } else { None };
            let (mut older, more_in_index) =
                index.page(number, after.as_deref(), last.as_deref()).map_err(|error| index_failed(&error))?;
            let end = if more_in_index { older.last().map(|(key, _)| key.clone()) } else { last.clone() };
            if let Some(end) = &end {
                recent.retain(|(key, _)| key <= end);
            }
            older.retain(|(key, _)| recent.binary_search_by(|(own, _)| own.cmp(key)).is_err());
            let mut all = recent;
            all.append(&mut older);
            all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            for (key, latest) in all.into_iter().filter(|(_, latest)| latest.seq <= at && latest.seq >= kept_from) {
                if page.events.len() >= limit {
                    page.more = true;
                    return Ok(page);
                }
                let event = match self.newest(&segments, number, &key, latest) {
                    Ok(event) => event,
                    // One key does not keep everybody from all the others.
                    Err(error @ StoreError::Damaged(_)) => {
                        let start = &key[..key.floor_char_boundary(SHOWN)];
                        tracing::warn!(%error, %topic, key = start, "the newest event of a key is left out of a snapshot");
                        page.damaged += 1;
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                bytes += event.json.len();
                if bytes > max_bytes && !page.events.is_empty() {
                    page.more = true;
                    return Ok(page);
                }
                page.events.push(event);
            }
            match end {
                Some(end) => after = Some(end),
                None => return Ok(page),
            }
        }
    }
}

/// A page that is being read.
struct Reading {
    page: Page,
    /// By number.
    topic: u32,
    /// Of the page's events.
    bytes: usize,
    limit: usize,
    max_bytes: usize,
    /// See [`Shared::salvage_page`].
    salvage: bool,
    /// Why the last seqs were passed over that were.
    passed_over: Option<StoreError>,
}

impl Reading {
    /// What becomes of the page at seqs that cannot be read, first and last: whether it goes on behind them. If not, it
    /// ends in front of them, unless it is empty.
    fn pass_over(&mut self, (first, last): (u64, u64), error: StoreError) -> Result<bool, StoreError> {
        match error {
            StoreError::Damaged(_) if self.salvage => {
                self.page.read_to = last;
                match self.page.damaged.last_mut() {
                    Some(before) if before.1 + 1 == first => before.1 = last,
                    _ => self.page.damaged.push((first, last)),
                }
                self.passed_over = Some(error);
                Ok(true)
            }
            StoreError::Damaged(_) if !self.page.events.is_empty() => Ok(false),
            error => Err(error),
        }
    }
}

/// Adds cached events from `from` on to the page.
fn take_cached(log: &TopicLog, from: u64, limit: usize, max_bytes: usize, mut bytes: usize, page: &mut Page) {
    let first = log.cache.front().map_or(from, |event| event.seq);
    let skip = usize::try_from(from - first).unwrap_or(usize::MAX).min(log.cache.len());
    for event in log.cache.range(skip..) {
        bytes += event.json.len();
        if page.events.len() >= limit || (bytes > max_bytes && !page.events.is_empty()) {
            break;
        }
        page.read_to = event.seq;
        page.events.push(Arc::clone(event));
    }
}

/// The bytes of a segment that were read last.
#[derive(Default)]
struct Window {
    /// Their first one's offset in the segment.
    start: u32,
    bytes: Vec<u8>,
    /// Length of the last record, which the next one's is likely to be.
    usual: u32,
}

impl Window {
    /// The bytes of the record at the first of `offsets`, with the next ones read along if they stand near.
    fn record(&mut self, segment: &Segment, offsets: &[u32]) -> Result<Option<&[u8]>, StoreError> {
        let offset = offsets[0];
        let usual = self.usual.max(512);
        if self.have(offset, 8).is_none() {
            let mut end = offset + usual;
            for next in &offsets[1..] {
                if *next < end.saturating_add(GAP) && *next >= offset && next - offset < WINDOW {
                    end = next.saturating_add(usual);
                } else {
                    break;
                }
            }
            self.fill(segment, offset, (end - offset) as usize)?;
        }
        let Some(length) = self.have(offset, 8).and_then(record_length) else { return Ok(None) };
        if self.have(offset, length).is_none() {
            if length as u64 + u64::from(offset) > segment.file.len().map_err(|error| unreadable(&error))? {
                return Ok(None);
            }
            let next = offsets.get(1).map_or(0, |next| next.saturating_sub(offset)).min(WINDOW) as usize;
            self.fill(segment, offset, length.max(next))?;
        }
        self.usual = length as u32 + 64;
        Ok(self.have(offset, length))
    }

    /// `length` bytes at `offset`, if the window has them.
    fn have(&self, offset: u32, length: usize) -> Option<&[u8]> {
        let from = offset.checked_sub(self.start)? as usize;
        self.bytes.get(from..from + length)
    }

    fn fill(&mut self, segment: &Segment, offset: u32, length: usize) -> Result<(), StoreError> {
        self.bytes.clear();
        self.bytes.resize(length, 0);
        let read = segment.file.read(&mut self.bytes, offset.into()).map_err(|error| unreadable(&error))?;
        self.bytes.truncate(read);
        self.start = offset;
        Ok(())
    }
}
