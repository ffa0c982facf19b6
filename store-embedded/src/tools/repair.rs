//! Makes a log usable again of which a part is damaged: everything that is whole stays where it is, and what is not gives
//! way to records that say so.
//!
//! A damaged segment is copied, the copy is mended and takes its place in one step, and the original stays as
//! `*.damaged`. Then the log is read as if there were no index, and what it has lost is written at its end: the holes of
//! each topic, and the topics and cursors that only the old index had. The old index goes last. So whenever this is cut
//! short, it is done by doing it again.
//!
//! A topic of which nobody can say any more how far it went gets a new epoch: seqs that were given once may be given
//! again, to other events, and whoever remembers a position of the old epoch must be able to tell.

use std::{borrow::Cow, sync::Arc};

use prom_protocol::{Group, Topic};
use prom_store::{Cursor, StoreError, wall_clock};
use serde::Serialize;

use super::survey::{Segment, Survey, survey};
use crate::{
    append::{create_segment, segment_name},
    check::{Known, NEW_INDEX},
    disk::{Disk, read_exact},
    format::{
        COMMIT_HEADER, CommitHeader, Kind, Position, RECORD_HEADER, SegmentHeader, aligned, begin_record,
        decode_record, end_record, record_length,
    },
    index::{NAME, placed},
    log::Log,
    open::open_with,
    opening::{OpenError, Opening},
    options::Options,
    record::{CursorRecord, TopicRecord},
    shared::{index_failed, unreadable},
    sidecar,
};

/// What a topic has lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Which topic.
    pub topic: String,
    /// Seqs of events that are gone, first and last of each range.
    pub events: Vec<(u64, u64)>,
    /// Newest events of keys that are gone although they would have outlived the log before them.
    pub newest: u64,
    /// The seq behind which more may be gone; the topic has a new epoch then.
    pub unsure_after: Option<u64>,
}

/// The file a damaged one is kept as.
fn kept_name(disk: &dyn Disk, name: &str) -> String {
    let free = |kept: &String| disk.open(kept).is_err();
    let numbered = (2..).map(|n| format!("{name}.{n}.damaged"));
    std::iter::once(format!("{name}.damaged")).chain(numbered).find(free).unwrap_or_default()
}

/// Mends the log and opens it. `keep`: the damaged originals stay beside.
///
/// # Errors
/// The folder cannot be used, or is of another version.
pub(super) fn repair(
    disk: &Arc<dyn Disk>,
    found: &Survey,
    options: Options,
    keep: bool,
) -> Result<(Arc<Log>, Vec<Lost>), OpenError> {
    let opening = Opening { disk: &**disk };
    let failed = |error: std::io::Error| opening.io(error);
    for segment in found.segments.iter().filter(|segment| !segment.is_whole()) {
        mend(&**disk, found.store, segment, keep).map_err(failed)?;
    }
    if let Some(number) = found.next_missing {
        let previous = found.segments.last();
        let previous_end = previous.map_or(Position::default(), |last| Position::new(last.number, last.end));
        let (made_at, size) = (wall_clock(), options.segment_bytes);
        let header = SegmentHeader { store: found.store, number, previous_end, made_at, size };
        create_segment(&**disk, &header).map_err(failed)?;
    }
    // What is in the mended parts.
    let mended = survey(disk)?;
    let known = known(found, &mended);
    let made_up: Vec<u32> = known.topics.iter().filter(|(_, (_, at))| at.0 == 0).map(|(number, _)| *number).collect();
    let log = open_with(disk, options, Some(known))?;
    for number in made_up {
        let mut state = log.shared.write();
        if let Some(log) = state.topics.get_mut(number as usize).filter(|log| log.record_at.0 == 0) {
            let first = log.runs.keys().next().copied();
            log.first = log.first.max(first.unwrap_or(log.tail + 1));
        }
    }
    let lost = declare(&log, found, &mended).map_err(|error| failed(std::io::Error::other(error)))?;
    disk.rename(NEW_INDEX, NAME).map_err(failed)?;
    disk.sync().map_err(failed)?;
    Ok((log, lost))
}

/// Puts a mended copy in the place of a damaged segment.
fn mend(disk: &dyn Disk, store: u64, segment: &Segment, keep: bool) -> std::io::Result<()> {
    let name = segment_name(segment.number);
    let mut bytes = vec![0; segment.length as usize];
    read_exact(&*segment.file, &mut bytes, 0)?;
    if keep {
        let kept = disk.create(&kept_name(disk, &name), bytes.len() as u64)?;
        kept.write(&bytes, 0)?;
        kept.sync()?;
    }
    // It may know of events that are no more.
    if disk.open(&sidecar::name(segment.number)).is_ok() {
        disk.remove(&sidecar::name(segment.number))?;
    }
    disk.sync()?;
    let size = u32::try_from(segment.header.size).unwrap_or(u32::MAX);
    let size = if segment.cut_off { segment.length.max(segment.end).max(size.min(1 << 30)) } else { segment.length };
    bytes.resize(size.max(segment.end) as usize, 0);
    if segment.broken_header.is_some() {
        let header = SegmentHeader { size: 0, ..segment.header };
        bytes[..header.encode().len()].copy_from_slice(&header.encode());
    }
    for (from, to) in &segment.damaged {
        let part = &mut bytes[*from as usize..*to as usize];
        let mended = mended(part, store, Position::new(segment.number, *from));
        part.copy_from_slice(&mended);
    }
    let temporary = format!("{name}.tmp");
    let file = disk.create(&temporary, bytes.len() as u64)?;
    file.write(&bytes, 0)?;
    file.sync()?;
    disk.rename(&temporary, &name)?;
    disk.sync()
}

/// One commit in the place of damaged bytes: the records among them that are whole, where they were, and between them
/// records that say that something was lost.
fn mended(bytes: &[u8], store: u64, at: Position) -> Vec<u8> {
    let place = |offset: usize| Position(at.0 + offset as u64);
    let mut whole: Vec<(usize, usize)> = Vec::new();
    let mut offset = COMMIT_HEADER;
    while offset + RECORD_HEADER <= bytes.len() {
        let fits = record_length(&bytes[offset..]).is_some_and(|length| length <= bytes.len() - offset);
        match decode_record(&bytes[offset..], store, place(offset)).filter(|_| fits) {
            Some(record) => {
                whole.push((offset, record.length));
                offset += record.length;
            }
            None => offset += 1,
        }
    }
    let mut out = vec![0; COMMIT_HEADER];
    let mut records = 0;
    let fill = |out: &mut Vec<u8>, to: usize| {
        let start = begin_record(out, Kind::Lost, 0);
        out.resize(to, 0);
        end_record(out, start, store, at_start(at, start));
    };
    for (start, length) in whole {
        if start > out.len() {
            if start - out.len() < RECORD_HEADER {
                // No room to say so: then this one is lost too. Such gaps are between commits only.
                continue;
            }
            fill(&mut out, start);
            records += 1;
        }
        out.extend_from_slice(&bytes[start..start + length]);
        records += 1;
    }
    if aligned(out.len()) < bytes.len() && bytes.len() - out.len() >= RECORD_HEADER {
        fill(&mut out, bytes.len());
        records += 1;
    }
    let body = (out.len() - COMMIT_HEADER) as u32;
    let header = CommitHeader { body, records, synced: at, time: 0 };
    out[..COMMIT_HEADER].copy_from_slice(&header.encode(store, at));
    out.resize(bytes.len(), 0);
    out
}

fn at_start(base: Position, start: usize) -> Position {
    Position(base.0 + start as u64)
}

/// What is known of the log from elsewhere.
fn known(found: &Survey, mended: &Survey) -> Known {
    let mut known = Known { tails: found.tails.clone(), ..Known::default() };
    for body in found.index.iter().flat_map(|index| &index.topics) {
        let Some((body, at)) = placed(body) else { continue };
        let Some(own) = TopicRecord::decode(body) else { continue };
        known.tails.entry(own.number).and_modify(|tail| *tail = own.tail.max(*tail)).or_insert(own.tail);
        known.topics.insert(own.number, (own.into_owned(), at));
    }
    for body in found.index.iter().flat_map(|index| &index.cursors) {
        let Some((body, at)) = placed(body) else { continue };
        let Some(own) = CursorRecord::decode(body) else { continue };
        let Ok(group) = Group::new(own.group) else { continue };
        known.cursors.push((own.topic, group, Arc::new(own.cursor.into_owned()), at));
    }
    // Numbers are given in their order, so every one below the highest was.
    let numbers = mended.topics.iter().chain(mended.names.keys()).chain(known.topics.keys());
    let count = numbers.max().map_or(0, |last| last + 1);
    for number in 0..count {
        if mended.topics.contains(&number) || known.topics.contains_key(&number) {
            continue;
        }
        let name = mended.names.get(&number).filter(|name| Topic::new(name).is_ok());
        let name = Cow::Owned(name.cloned().unwrap_or_else(|| format!("lost.{number}")));
        let epoch = fastrand::u64(1..=prom_protocol::limits::TS_MAX);
        let record = TopicRecord { number, name, epoch, first: 1, tail: 0, holes: Cow::Borrowed(&[]) };
        known.topics.insert(number, (record, Position::default()));
    }
    known
}

/// Writes at the end of the log what it has lost, with all topics and cursors as they are now.
fn declare(log: &Log, found: &Survey, mended: &Survey) -> Result<Vec<Lost>, StoreError> {
    let shared = &log.shared;
    let lost_to = found.lost_to.max(mended.lost_to);
    let told = found.index.as_ref().is_some_and(|index| index.closed || index.position > lost_to);
    let mut newest = std::collections::HashMap::<u32, u64>::new();
    for (topic, place) in &found.places {
        let state = shared.read();
        let Some(log) = state.topics.get(*topic as usize) else { continue };
        if place.seq >= log.first || place.seq < shared.kept_from(log) {
            continue;
        }
        let segment = state.segments.get(&place.at.segment());
        let is_there = |segment| shared.event_at(segment, place.at.offset(), |event| event.seq == place.seq);
        if !segment.is_some_and(|segment| is_there(segment).unwrap_or(false)) {
            *newest.entry(*topic).or_default() += 1;
        }
    }
    let mut lost = Vec::new();
    let mut records = Vec::new();
    {
        let mut state = shared.write();
        let segments = Arc::clone(&state.segments);
        for log in &mut state.topics {
            let after_it = log.record_at >= lost_to || {
                let last = log.runs.values().next_back();
                last.is_some_and(|run| {
                    let segment = segments.get(&run.segment);
                    let offset = segment.and_then(|segment| shared.offsets(segment, run, run.last, 1).ok());
                    offset.is_some_and(|offset| Position::new(run.segment, offset[0]) >= lost_to)
                })
            };
            let sure = told || after_it;
            let missing = log.missing();
            let events: Vec<_> = missing.iter().filter(|gap| !log.holes.contains(gap)).copied().collect();
            log.holes = missing;
            if !sure {
                log.epoch = fastrand::u64(1..=prom_protocol::limits::TS_MAX);
            }
            let newest = newest.get(&log.number).copied().unwrap_or_default();
            let unsure_after = (!sure).then_some(log.tail);
            if !events.is_empty() || newest > 0 || !sure {
                lost.push(Lost { topic: log.topic.to_string(), events, newest, unsure_after });
            }
            records.push(log.record().into_owned());
        }
    }
    let mut appender = log.appender();
    let now = wall_clock();
    appender.put_topics(shared, now, &records)?;
    let cursors: Vec<_> = {
        let state = shared.read();
        let all = state.topics.iter().flat_map(|log| {
            log.cursors.iter().map(|(group, own)| {
                let cursor = Cursor { epoch: log.epoch, ..(*own.cursor).clone() };
                (log.number, group.clone(), Arc::new(cursor))
            })
        });
        all.collect()
    };
    appender.put_cursors(shared, now, &cursors)?;
    appender.segment.file.sync().map_err(|error| unreadable(&error))?;
    drop(appender);
    let mut flush = shared.write().take_dirty();
    flush.sort();
    shared.index.flush(&flush).map_err(|error| index_failed(&error))?;
    shared.write().flushed(&flush.latest);
    Ok(lost)
}
