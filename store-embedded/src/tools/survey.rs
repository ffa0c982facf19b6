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
    format::{self, COMMIT_HEADER, CommitHeader, Kind, Position, RawRecord, SEGMENT_HEADER, SegmentHeader, aligned},
    index::{Index, Loaded, NAME, Place},
    open::{OpenError, Opening},
    record::{EventRecord, TopicRecord},
    scan::{Scanner, later_commit, written_end},
    sidecar,
};

/// A segment's file as it was found.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) length: u32,
    /// As it is, or as it must have been.
    pub(super) header: SegmentHeader,
    /// What is wrong with the header.
    pub(super) broken_header: Option<String>,
    /// Where what was written to it ends.
    pub(super) end: u32,
    /// Bytes that are not what was written, first and behind the last.
    pub(super) damaged: Vec<(u32, u32)>,
    /// Bytes at the end of the log of a commit that was never finished.
    pub(super) torn: u32,
    /// It is shorter than it must be.
    pub(super) cut_off: bool,
    /// It has an index file, and that is whole.
    pub(super) indexed: bool,
}

impl Segment {
    pub(super) fn is_whole(&self) -> bool {
        self.broken_header.is_none() && self.damaged.is_empty() && !self.cut_off
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) store: u64,
    pub(super) segments: Vec<Segment>,
    /// The log went on in a segment of this number, which is not there.
    pub(super) next_missing: Option<u32>,
    /// What the index says, if it is whole.
    pub(super) index: Option<Loaded>,
    /// What is wrong with it.
    pub(super) broken_index: Option<String>,
    /// Where it has the newest events, if something in the log is damaged.
    pub(super) places: Vec<(u32, Place)>,
    /// Index files that are not whole.
    pub(super) broken_sidecars: Vec<String>,
    pub(super) records: u64,
    pub(super) events: u64,
    /// Behind this nothing is lost.
    pub(super) lost_to: Position,
    /// Highest seqs that index files know of, by topic number.
    pub(super) tails: HashMap<u32, u64>,
    /// Topics that the log has records of, and those it has only events of, with their names.
    pub(super) topics: HashSet<u32>,
    pub(super) names: BTreeMap<u32, String>,
}

impl Survey {
    /// Whether every file of the log that is there is whole.
    pub(super) fn is_whole(&self) -> bool {
        self.next_missing.is_none() && self.segments.iter().all(Segment::is_whole)
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
            Kind::Lost => self.lost_to = self.lost_to.max(Position(at.0 + record.length as u64)),
        }
    }
}

/// Reads everything; changes nothing.
///
/// # Errors
/// The folder cannot be read, or is of another version.
pub(super) fn survey(disk: &Arc<dyn Disk>) -> Result<Survey, OpenError> {
    let opening = Opening { disk: &**disk };
    let failed = |error: io::Error| opening.io(error);
    let mut survey = Survey::default();
    let mut found = BTreeMap::new();
    for name in disk.list().map_err(failed)? {
        let number = name.strip_suffix(".log").and_then(|number| number.parse::<u32>().ok());
        let Some(number) = number.filter(|number| segment_name(*number) == name) else { continue };
        let file = disk.open(&name).map_err(failed)?;
        let mut bytes = [0; SEGMENT_HEADER as usize];
        let read = file.read(&mut bytes, 0).map_err(failed)?;
        let header = SegmentHeader::decode(&bytes[..read]);
        // A hub of another version can read it.
        if let Err(what) = &header
            && what.contains("version")
        {
            return Err(opening.damaged(format!("{name}: {what}")));
        }
        let header = header.and_then(|header| {
            if header.number == number {
                Ok(header)
            } else {
                Err(format!("it is segment {} by its header", header.number))
            }
        });
        found.insert(number, (file, header));
    }

    // Opening an index may change it.
    let copy = Overlay::new(Arc::clone(disk));
    let index = Index::open(&copy, None);
    let by_index = index.as_ref().ok().map(|(_, loaded)| loaded.store);
    let by_header = majority(found.values().filter_map(|(_, header)| header.as_ref().ok().map(|header| header.store)));
    let mut by_commit = None;
    for (number, (file, _)) in &found {
        if by_header.is_none() && by_index.is_none() && by_commit.is_none() {
            by_commit = store_of(&**file, *number).map_err(failed)?;
        }
    }
    let Some(store) = by_header.or(by_index).or(by_commit) else {
        return if found.is_empty() { Ok(survey) } else { Err(opening.damaged("nothing of it can be read")) };
    };
    survey.store = store;
    match index {
        Ok((index, loaded)) if loaded.store == store => {
            survey.index = Some(loaded).filter(|loaded| loaded.position > Position::default());
            survey.places = index.places().unwrap_or_default();
        }
        Ok(_) => survey.broken_index = Some("index.redb: it belongs to another store".into()),
        Err(error) => {
            let is_there = disk.list().map_err(failed)?.iter().any(|name| name == NAME);
            survey.broken_index = is_there.then(|| error.to_string());
        }
    }

    let last = found.keys().next_back().copied();
    // Where each ends by the header of the next one.
    let ends: HashMap<u32, u32> = found
        .values()
        .filter_map(|(_, header)| header.as_ref().ok().filter(|header| header.store == store))
        .map(|header| (header.previous_end.segment(), header.previous_end.offset()))
        .collect();
    let mut before: Option<(u32, u32)> = None;
    for (number, (file, header)) in found {
        if before.is_some_and(|(before, _)| before + 1 < number) {
            // What stood between was dropped, or is missing.
            survey.lost_to = survey.lost_to.max(Position::new(number, 0));
        }
        let (header, broken_header) = match header {
            Ok(header) if header.store == store => (header, None),
            header => {
                let what = header.err().unwrap_or_else(|| "it belongs to another store".into());
                let previous_end = before.map_or(Position::default(), |(number, end)| Position::new(number, end));
                (SegmentHeader { store, number, previous_end, made_at: 0, size: 0 }, Some(what))
            }
        };
        let length = u32::try_from(file.len().map_err(failed)?).unwrap_or(u32::MAX);
        let name = sidecar::name(number);
        let sidecar = sidecar::open(&**disk, store, number);
        if sidecar.is_none() && disk.open(&name).is_ok() {
            survey.broken_sidecars.push(name);
        }
        let (end, damaged, torn, cut_off) = (0, Vec::new(), 0, false);
        let indexed = sidecar.is_some();
        let mut segment = Segment { number, file, length, header, broken_header, end, damaged, torn, cut_off, indexed };
        for entry in sidecar.iter().flat_map(|(.., runs)| runs) {
            let tail = survey.tails.entry(entry.topic).or_default();
            *tail = (*tail).max(entry.first + u64::from(entry.count) - 1);
        }
        let told = ends.get(&number).copied().or(sidecar.map(|(_, end, _)| end.offset()));
        let told = told.filter(|end| *end >= SEGMENT_HEADER);
        walk(&mut survey, &mut segment, told, last == Some(number)).map_err(failed)?;
        before = Some((number, segment.end));
        if let Some((_, to)) = segment.damaged.last() {
            survey.lost_to = survey.lost_to.max(Position::new(number, *to));
        }
        if segment.cut_off && last == Some(number) {
            // How much stood behind it nobody knows.
            survey.lost_to = Position(u64::MAX);
        }
        survey.segments.push(segment);
    }
    let position = survey.index.as_ref().map_or(0, |index| index.position.segment());
    let last_is_sealed = survey.segments.last().is_some_and(|segment| segment.indexed);
    let after = last.map_or(1, |last| last + u32::from(last_is_sealed));
    if position.max(after) > last.unwrap_or_default() {
        survey.next_missing = Some(position.max(after));
        survey.lost_to = Position(u64::MAX);
    }
    Ok(survey)
}

/// Finds out where a segment ends and what of it is damaged.
fn walk(survey: &mut Survey, segment: &mut Segment, told: Option<u32>, last: bool) -> io::Result<()> {
    let (file, store, number) = (Arc::clone(&segment.file), survey.store, segment.number);
    let limit = told.unwrap_or(segment.length).min(segment.length);
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
        }
        at = scanner.at().offset().max(at);
        if told.is_some_and(|end| at >= end) {
            break;
        }
        let place = Position::new(number, at);
        let next = later_commit(&*file, store, place, limit, |_| true)?.map(|(at, _)| at.offset());
        let written = written_end(&*file, at, limit)?;
        // Nothing is left of one that reaches beyond the end of what was there when it was last known to be durable.
        let torn = last && told.is_none() && at >= durable_to && {
            later_commit(&*file, store, place, limit, |header| header.synced > place)?.is_none()
        };
        if torn || (told.is_none() && next.is_none() && written == at && at >= durable_to) {
            segment.torn = written - at;
            break;
        }
        let least = aligned(at as usize + COMMIT_HEADER + 16) as u32;
        let to = next.or(told).unwrap_or_else(|| (aligned(written as usize) as u32).max(least).max(durable_to));
        segment.damaged.push((at, to));
        at = to;
    }
    segment.end = at;
    let size = u32::try_from(segment.header.size).unwrap_or(u32::MAX);
    segment.cut_off = if last && told.is_none() {
        segment.length < size && !(closed && segment.length >= durable_to)
    } else {
        segment.length < at
    };
    Ok(())
}

fn majority(stores: impl Iterator<Item = u64>) -> Option<u64> {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    stores.for_each(|store| *counts.entry(store).or_default() += 1);
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(store, _)| store)
}

/// Which store a segment belongs to by its first commit: the one for which the checksum of that is right, if that of its
/// records is then right too.
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
