//! Reads all of a log, whatever state it is in: what is whole, and which bytes are not.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::Arc,
};

use xxhash_rust::xxh3::xxh3_64;

use super::overlay::Overlay;
use crate::{
    append::segment_name,
    disk::{Disk, DiskFile},
    format::{
        self, COMMIT_HEADER, CommitHeader, HeaderError, Kind, Position, RawRecord, SEGMENT_HEADER, SegmentHeader,
        aligned, decode_record, record_length,
    },
    index::{Index, LatestAt, Loaded, NAME},
    opening::{OpenError, Opening},
    record::{EventRecord, TopicRecord, is_sound},
    scan::{Scanner, later_commit, written_end},
    sidecar,
};

/// A segment's file and what is damaged of it.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) file: Arc<dyn DiskFile>,
    /// Bytes of the file.
    pub(super) length: u32,
    /// If it is broken: as it must have been.
    pub(super) header: SegmentHeader,
    /// What is wrong with the header, if it is broken.
    pub(super) broken_header: Option<String>,
    /// Where the commits end that were written to it.
    pub(super) end: u32,
    /// Ranges of bytes that are not what was written: the first byte, and the one behind the last.
    pub(super) damaged: Vec<(u32, u32)>,
    /// Ranges of bytes of commits that are as they were written, with an event that is none.
    pub(super) unsound: Vec<(u32, u32)>,
    /// Bytes behind `end` of a commit that was never finished.
    pub(super) torn: u32,
    /// The file is shorter than it must be.
    pub(super) cut_off: bool,
    /// It has an index file that is whole.
    pub(super) indexed: bool,
}

impl Segment {
    pub(super) fn is_whole(&self) -> bool {
        self.broken_header.is_none() && self.damaged.is_empty() && self.unsound.is_empty() && !self.cut_off
    }

    /// What must be given up of it, in part at least.
    pub(super) fn bad(&self) -> impl Iterator<Item = (u32, u32)> {
        self.damaged.iter().chain(&self.unsound).copied()
    }
}

/// What was found in a log.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Identity of the store.
    pub(super) store: u64,
    /// By number.
    pub(super) segments: Vec<Segment>,
    /// Number of the segment that the log went on in, if that is not there.
    pub(super) next_missing: Option<u32>,
    /// What the index says, if it is whole.
    pub(super) index: Option<Loaded>,
    /// What is wrong with the index, if it is there and cannot be used.
    pub(super) broken_index: Option<String>,
    /// By topic number: where the newest events of its keys stand as the index says.
    pub(super) latest: Vec<(u32, LatestAt)>,
    /// How many of them do not stand there, and are in a part of the log that is whole.
    pub(super) misplaced: u64,
    /// Names of the index files that are not whole.
    pub(super) broken_sidecars: Vec<String>,
    /// Records that are whole.
    pub(super) records: u64,
    /// Events among them.
    pub(super) events: u64,
    /// From this position on, nothing is lost.
    pub(super) lost_to: Position,
    /// By topic number: the highest seq that an index file has.
    pub(super) tails: HashMap<u32, u64>,
    /// Numbers of the topics that the log has records of.
    pub(super) topics: HashSet<u32>,
    /// By number: the names of other topics, as their events say.
    pub(super) names: BTreeMap<u32, String>,
}

impl Survey {
    /// Whether every file of the log that is there is whole.
    pub(super) fn is_whole(&self) -> bool {
        self.next_missing.is_none() && self.misplaced == 0 && self.segments.iter().all(Segment::is_whole)
    }

    /// Notes that what stands before `to` may be lost.
    fn lost_before(&mut self, to: Position) {
        self.lost_to = self.lost_to.max(to);
    }

    fn count(&mut self, at: Position, record: &RawRecord<'_>) {
        self.records += 1;
        match record.kind {
            Kind::Event => {
                self.events += 1;
                if let Some(event) = EventRecord::decode(record)
                    && !self.topics.contains(&event.topic)
                    && !self.names.contains_key(&event.topic)
                    && let Some(event_json) = std::str::from_utf8(event.json).ok()
                    && let Ok(parsed) = prom_protocol::Event::parse(event_json)
                {
                    self.names.insert(event.topic, parsed.topic.to_string());
                }
            }
            Kind::Topic => self.topics.extend(TopicRecord::decode(record.body).map(|topic| topic.number)),
            Kind::Cursor => {}
            Kind::Lost => self.lost_before(Position(at.0 + record.length as u64)),
        }
    }
}

/// A segment's file before it is read, and its header, or what is wrong with that.
type Unread = (Arc<dyn DiskFile>, Result<SegmentHeader, String>);

/// Reads everything; changes nothing.
///
/// # Errors
/// The folder cannot be read, or is of another version.
pub(super) fn survey(disk: &Arc<dyn Disk>) -> Result<Survey, OpenError> {
    let opening = Opening { disk: &**disk };
    let failed = |error: io::Error| opening.io(error);
    let mut survey = Survey::default();
    let found = find_segments(opening)?;
    // On a copy, because opening an index may change it.
    let index = Index::open(&Overlay::new(Arc::clone(disk)), None);
    let by_index = index.as_ref().ok().map(|(_, loaded)| loaded.store);
    let Some(store) = identify(&found, by_index).map_err(failed)? else {
        return if found.is_empty() { Ok(survey) } else { Err(opening.damaged("nothing of it can be read")) };
    };
    survey.store = store;
    match &index {
        Ok((index, loaded)) if loaded.store == store => {
            let loaded = loaded.clone();
            survey.index = Some(loaded).filter(|loaded| loaded.position > Position::default());
            survey.latest = index.all_latest().unwrap_or_default();
        }
        Ok(_) => survey.broken_index = Some("index.redb: it belongs to another store".into()),
        Err(error) => {
            let is_there = disk.list().map_err(failed)?.iter().any(|name| name == NAME);
            survey.broken_index = is_there.then(|| error.to_string());
        }
    }
    let last = found.keys().next_back().copied();
    read_segments(&mut survey, &**disk, found).map_err(failed)?;
    if let Some((index, _)) = index.as_ref().ok().filter(|_| survey.index.is_some()) {
        survey.misplaced = misplaced(&survey, index).map_err(failed)?;
    }
    // A segment with an index file was sealed, so there was another one behind it.
    let last_is_sealed = survey.segments.last().is_some_and(|segment| segment.indexed);
    let by_files = last.map_or(1, |last| last + u32::from(last_is_sealed));
    let by_index = survey.index.as_ref().map_or(0, |index| index.position.segment());
    let expected = by_index.max(by_files);
    if expected > last.unwrap_or_default() {
        survey.next_missing = Some(expected);
        survey.lost_before(Position(u64::MAX));
    }
    Ok(survey)
}

/// The segments by number.
fn find_segments(opening: Opening<'_>) -> Result<BTreeMap<u32, Unread>, OpenError> {
    let failed = |error: io::Error| opening.io(error);
    let mut found = BTreeMap::new();
    for name in opening.disk.list().map_err(failed)? {
        let number = name.strip_suffix(".log").and_then(|number| number.parse::<u32>().ok());
        let Some(number) = number.filter(|number| segment_name(*number) == name) else { continue };
        let file = opening.disk.open(&name).map_err(failed)?;
        let mut bytes = [0; SEGMENT_HEADER as usize];
        let read = file.read(&mut bytes, 0).map_err(failed)?;
        let header = match SegmentHeader::decode(&bytes[..read]) {
            Ok(header) if header.number == number => Ok(header),
            Ok(header) => Err(format!("it is segment {} by its header", header.number)),
            // It is not damaged: a hub of that version can read it.
            Err(error @ HeaderError::Version(_)) => return Err(opening.damaged(format!("{name}: {error}"))),
            Err(error @ (HeaderError::NoSegment | HeaderError::Damaged)) => Err(error.to_string()),
        };
        found.insert(number, (file, header));
    }
    Ok(found)
}

/// The identity of the store: that of most headers, else of the index, else of the first commit that can be read.
fn identify(found: &BTreeMap<u32, Unread>, by_index: Option<u64>) -> io::Result<Option<u64>> {
    let headers = found.values().filter_map(|(_, header)| header.as_ref().ok());
    if let Some(store) = majority(headers.map(|header| header.store)).or(by_index) {
        return Ok(Some(store));
    }
    for (number, (file, _)) in found {
        if let Some(store) = store_of(&**file, *number)? {
            return Ok(Some(store));
        }
    }
    Ok(None)
}

/// Reads the segments in their order.
fn read_segments(survey: &mut Survey, disk: &dyn Disk, found: BTreeMap<u32, Unread>) -> io::Result<()> {
    let last = found.keys().next_back().copied();
    // By segment number: where it ends as the header of the next one says.
    let ends: HashMap<u32, u32> = found
        .values()
        .filter_map(|(_, header)| header.as_ref().ok().filter(|header| header.store == survey.store))
        .map(|header| (header.previous_end.segment(), header.previous_end.offset()))
        .collect();
    let mut before = None;
    for (number, unread) in found {
        if before.is_some_and(|before: Position| before.segment() + 1 < number) {
            // The segments between them were dropped, or are missing.
            survey.lost_before(Position::new(number, 0));
        }
        let (segment, end_by_index_file) = begin_segment(survey, disk, number, unread, before)?;
        let stated_end = ends.get(&number).copied().or(end_by_index_file).filter(|end| *end >= SEGMENT_HEADER);
        let is_last = last == Some(number);
        let segment = read_segment(survey, segment, stated_end, is_last)?;
        before = Some(Position::new(number, segment.end));
        if let Some(to) = segment.bad().map(|(_, to)| to).max() {
            survey.lost_before(Position::new(number, to));
        }
        if segment.cut_off && is_last {
            // Nobody knows how much stood behind it.
            survey.lost_before(Position(u64::MAX));
        }
        survey.segments.push(segment);
    }
    Ok(())
}

/// A segment before its commits are read, and where it ends as its index file says. `before`: the end of the one before.
fn begin_segment(
    survey: &mut Survey,
    disk: &dyn Disk,
    number: u32,
    (file, header): Unread,
    before: Option<Position>,
) -> io::Result<(Segment, Option<u32>)> {
    let store = survey.store;
    let (header, broken_header) = match header {
        Ok(header) if header.store == store => (header, None),
        header => {
            let what = header.err().unwrap_or_else(|| "it belongs to another store".into());
            let previous_end = before.unwrap_or_default();
            (SegmentHeader { store, number, previous_end, made_at: 0, size: 0 }, Some(what))
        }
    };
    let length = u32::try_from(file.len()?).unwrap_or(u32::MAX);
    let index_file = sidecar::open(disk, store, number);
    let name = sidecar::name(number);
    if index_file.is_none() && disk.open(&name).is_ok() {
        survey.broken_sidecars.push(name);
    }
    for run in index_file.iter().flat_map(|(.., runs)| runs) {
        let tail = survey.tails.entry(run.topic).or_default();
        *tail = (*tail).max(run.first + u64::from(run.count) - 1);
    }
    let (end, damaged, unsound, torn, cut_off) = (0, Vec::new(), Vec::new(), 0, false);
    let indexed = index_file.is_some();
    let segment =
        Segment { number, file, length, header, broken_header, end, damaged, unsound, torn, cut_off, indexed };
    Ok((segment, index_file.map(|(_, end, _)| end.offset())))
}

/// Finds out where a segment ends and what of it is damaged. `stated_end`: where it ends as another file says.
fn read_segment(
    survey: &mut Survey,
    mut segment: Segment,
    stated_end: Option<u32>,
    is_last: bool,
) -> io::Result<Segment> {
    let (file, store, number) = (Arc::clone(&segment.file), survey.store, segment.number);
    let limit = stated_end.unwrap_or(segment.length).min(segment.length);
    let index = survey.index.as_ref().filter(|index| index.position.segment() == number);
    let durable_to = index.map_or(0, |index| index.position.offset());
    let closed = index.is_some_and(|index| index.closed);
    let mut at = SEGMENT_HEADER;
    loop {
        let mut scanner = Scanner::new(&*file, store, Position::new(number, at), limit);
        while let Some(commit) = scanner.next()? {
            for (at, record) in &commit.records {
                survey.count(*at, record);
            }
            if !commit.records.iter().all(|(_, record)| is_sound(record))
                && let Some((first, _)) = commit.records.first()
            {
                let from = first.offset() - COMMIT_HEADER as u32;
                let body = commit.records.iter().map(|(_, record)| record.length).sum::<usize>();
                segment.unsound.push((from, from + aligned(COMMIT_HEADER + body) as u32));
            }
        }
        at = scanner.at().offset().max(at);
        if stated_end.is_some_and(|end| at >= end) {
            break;
        }
        let from = Position::new(number, at);
        let next = later_commit(&*file, store, from, limit, |_| true)?.map(|(at, _)| at.offset());
        let written = written_end(&*file, at, limit)?;
        // The end of the log is torn, and not damaged, if no later commit says that what stood here was durable.
        let torn = is_last && stated_end.is_none() && at >= durable_to && {
            later_commit(&*file, store, from, limit, |header| header.synced > from)?.is_none()
        };
        if torn || (stated_end.is_none() && next.is_none() && written == at && at >= durable_to) {
            segment.torn = written - at;
            break;
        }
        // A commit is damaged here, and even the smallest takes this much: its header and one record.
        let least = aligned(at as usize + COMMIT_HEADER + 16) as u32;
        let to = next.or(stated_end).unwrap_or_else(|| (aligned(written as usize) as u32).max(least).max(durable_to));
        segment.damaged.push((at, to));
        at = to;
    }
    segment.end = at;
    let size = u32::try_from(segment.header.size).unwrap_or(u32::MAX);
    segment.cut_off = if is_last && stated_end.is_none() {
        segment.length < size && !(closed && segment.length >= durable_to)
    } else {
        segment.length < at
    };
    Ok(segment)
}

/// How many newest events do not stand where the index says, though nothing is damaged there.
fn misplaced(survey: &Survey, index: &Index) -> io::Result<u64> {
    let segments: HashMap<u32, &Segment> = survey.segments.iter().map(|segment| (segment.number, segment)).collect();
    let (mut count, mut failed) = (0, Ok(()));
    let read = index.each_latest(|topic, key, latest| {
        // What is not there, or is damaged, is told by itself; an entry that is not wanted may point to what was dropped.
        let segment = segments.get(&latest.at.segment()).filter(|segment| {
            let at = latest.at.offset();
            at < segment.end && !segment.bad().any(|(from, to)| (from..to).contains(&at))
        });
        let Some(segment) = segment.filter(|_| failed.is_ok()) else { return };
        match record_at(&*segment.file, latest.at.offset()) {
            Ok(bytes) => {
                let record = decode_record(&bytes, survey.store, latest.at);
                let event = record.as_ref().and_then(EventRecord::decode);
                let is = |event: EventRecord<'_>| (event.topic, event.seq, event.key) == (topic, latest.seq, Some(key));
                count += u64::from(!event.is_some_and(is));
            }
            Err(error) => failed = Err(error),
        }
    });
    read.map_err(io::Error::other)?;
    failed.map(|()| count)
}

/// The bytes at an offset for as far as a record there says it goes; fewer if none begins there.
fn record_at(file: &dyn DiskFile, offset: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 512];
    let read = file.read(&mut bytes, offset.into())?;
    bytes.truncate(read);
    match record_length(&bytes) {
        Some(length) if length > read && length as u64 + u64::from(offset) <= file.len()? => {
            bytes.resize(length, 0);
            let read = file.read(&mut bytes, offset.into())?;
            bytes.truncate(read);
            Ok(bytes)
        }
        _ => Ok(bytes),
    }
}

/// The store that most headers name.
fn majority(stores: impl Iterator<Item = u64>) -> Option<u64> {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    stores.for_each(|store| *counts.entry(store).or_default() += 1);
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(store, _)| store)
}

/// The identity of the store by a segment's first commit: the one for which the checksum of the commit's header is right,
/// if those of its records are then right too.
fn store_of(file: &dyn DiskFile, number: u32) -> io::Result<Option<u64>> {
    let at = Position::new(number, SEGMENT_HEADER);
    let mut bytes = [0; COMMIT_HEADER];
    if file.read(&mut bytes, SEGMENT_HEADER.into())? < COMMIT_HEADER {
        return Ok(None);
    }
    let [.., a, b, c, d, e, f, g, h] = bytes;
    let store = format::store_of(xxh3_64(&bytes[..32]), u64::from_le_bytes([a, b, c, d, e, f, g, h]), at);
    if CommitHeader::decode(&bytes, store, at).is_none() {
        return Ok(None);
    }
    let length = u32::try_from(file.len()?).unwrap_or(u32::MAX);
    Ok(Scanner::new(file, store, at, length).next()?.map(|_| store))
}
