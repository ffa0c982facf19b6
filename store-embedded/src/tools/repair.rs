//! Repairs a log of which a part is damaged: everything that is whole stays where it is, and records that say so take the
//! place of what is not.
//!
//! A damaged segment is copied, the copy is repaired and takes its place in one step, and the original stays as
//! `*.damaged`. Then the log is read as if there were no index, and what it has lost is written at its end: the holes of
//! each topic, and the topics and cursors that only the old index had. The old index goes last. So whenever this is cut
//! short, it is done by doing it again.
//!
//! A topic gets a new epoch if it is unknown how far it went: seqs that were given once may then be given again, to other
//! events, and a reader that goes on from a seq of the old epoch must be told.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

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
    record::{CursorRecord, NO_TOPIC, TopicRecord, is_sound},
    shared::{Shared, index_failed, unreadable},
    sidecar,
    state::Segments,
    topic_log::TopicLog,
};

/// What a topic has lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The topic's name.
    pub topic: String,
    /// Seqs of events that are gone, first and last of each range.
    pub events: Vec<(u64, u64)>,
    /// Newest events of keys that are gone although they would have outlived the log before them.
    pub newest: u64,
    /// The seq behind which more may be gone; the topic has a new epoch then.
    pub unsure_after: Option<u64>,
}

/// The name under which a damaged file is kept, one that is free.
fn kept_name(disk: &dyn Disk, name: &str) -> String {
    let free = |kept: &String| disk.open(kept).is_err();
    let numbered = (2..).map(|n| format!("{name}.{n}.damaged"));
    std::iter::once(format!("{name}.damaged")).chain(numbered).find(free).unwrap_or_default()
}

/// Repairs the log and opens it. `keep`: the damaged originals stay beside.
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
        repair_segment(&**disk, found.store, segment, keep).map_err(failed)?;
    }
    if let Some(number) = found.next_missing {
        let previous = found.segments.last();
        let previous_end = previous.map_or(Position::default(), |last| Position::new(last.number, last.end));
        let (made_at, size) = (wall_clock(), options.segment_bytes);
        let header = SegmentHeader { store: found.store, number, previous_end, made_at, size };
        create_segment(&**disk, &header).map_err(failed)?;
    }
    // Once more: the repaired parts have records that were not found before.
    let repaired = survey(disk)?;
    let known = known(found, &repaired);
    // Topics whose record is lost.
    let made_up: Vec<u32> = known.topics.iter().filter(|(_, (_, at))| at.0 == 0).map(|(number, _)| *number).collect();
    let log = open_with(disk, options, Some(known))?;
    for number in made_up {
        let mut state = log.shared.write();
        if let Some(log) = state.topics.get_mut(number as usize).filter(|log| log.record_at.0 == 0) {
            let first = log.runs.keys().next().copied();
            log.first = log.first.max(first.unwrap_or(log.tail + 1));
        }
    }
    let lost = declare(&log, found, &repaired).map_err(|error| failed(std::io::Error::other(error)))?;
    disk.rename(NEW_INDEX, NAME).map_err(failed)?;
    disk.sync().map_err(failed)?;
    Ok((log, lost))
}

/// Puts a repaired copy in the place of a damaged segment.
fn repair_segment(disk: &dyn Disk, store: u64, segment: &Segment, keep: bool) -> std::io::Result<()> {
    let name = segment_name(segment.number);
    let mut bytes = vec![0; segment.length as usize];
    read_exact(&*segment.file, &mut bytes, 0)?;
    if keep {
        let kept = disk.create(&kept_name(disk, &name), bytes.len() as u64)?;
        kept.write(&bytes, 0)?;
        kept.sync()?;
    }
    // The index file may have events that are lost.
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
    for (from, to) in segment.bad() {
        let part = &mut bytes[from as usize..to as usize];
        let commit = repaired_commit(part, store, Position::new(segment.number, from));
        part.copy_from_slice(&commit);
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
fn repaired_commit(bytes: &[u8], store: u64, at: Position) -> Vec<u8> {
    let position = |offset: usize| Position(at.0 + offset as u64);
    let mut whole: Vec<(usize, usize)> = Vec::new();
    let mut offset = COMMIT_HEADER;
    while offset + RECORD_HEADER <= bytes.len() {
        let fits = record_length(&bytes[offset..]).is_some_and(|length| length <= bytes.len() - offset);
        match decode_record(&bytes[offset..], store, position(offset)).filter(|record| fits && is_sound(record)) {
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
        end_record(out, start, store, position(start));
    };
    for (start, length) in whole {
        if start > out.len() {
            if start - out.len() < RECORD_HEADER {
                // No room for a record that says so: then this one is lost too. Such gaps are between commits only.
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

/// What the old index, the index files and the events say beside the log itself.
fn known(found: &Survey, repaired: &Survey) -> Known {
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
        let Ok(group) = Group::stored(own.group) else { continue };
        known.cursors.push((own.topic, group, Arc::new(own.cursor.into_owned()), at));
    }
    // Numbers are given in their order, so every one below the highest was.
    let numbers = repaired.topics.iter().chain(repaired.names.keys()).chain(known.topics.keys());
    let count = numbers.max().map_or(0, |last| last + 1);
    for number in 0..count {
        if repaired.topics.contains(&number) || known.topics.contains_key(&number) {
            continue;
        }
        let name = repaired.names.get(&number).filter(|name| Topic::new(name).is_ok());
        // No event has it: the number is that of a topic that was removed, or of one of which nothing is left either way.
        let epoch = name.map_or(NO_TOPIC, |_| fastrand::u64(1..=prom_protocol::limits::TS_MAX));
        let name = Cow::Owned(name.cloned().unwrap_or_else(|| format!("lost.{number}")));
        let record = TopicRecord { number, name, epoch, first: 1, tail: 0, holes: Cow::Borrowed(&[]) };
        known.topics.insert(number, (record, Position::default()));
    }
    known
}

/// Writes at the end of the log what it has lost, with all topics and cursors as they are now.
fn declare(log: &Log, found: &Survey, repaired: &Survey) -> Result<Vec<Lost>, StoreError> {
    let shared = &log.shared;
    let newest = lost_newest(shared, found);
    let lost_to = found.lost_to.max(repaired.lost_to);
    let index_is_later = found.index.as_ref().is_some_and(|index| index.closed || index.position > lost_to);
    let (lost, topics) = give_up_events(shared, &newest, |segments, log| {
        index_is_later
            || log.record_at >= lost_to
            || last_event_at(shared, segments, log).is_some_and(|at| at >= lost_to)
    });
    let mut appender = log.appender();
    let now = wall_clock();
    appender.put_topics(shared, now, &topics)?;
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

/// By topic number: how many newest events of keys are gone that would have outlived the log before them.
fn lost_newest(shared: &Shared, found: &Survey) -> HashMap<u32, u64> {
    let mut lost = HashMap::new();
    let state = shared.read();
    for (topic, latest) in &found.latest {
        let Some(log) = state.topics.get(*topic as usize) else { continue };
        if latest.seq >= log.first || latest.seq < shared.kept_from(log) {
            continue;
        }
        let segment = state.segments.get(&latest.at.segment());
        let is_there = |segment| shared.event_at(segment, latest.at.offset(), |event| event.seq == latest.seq);
        if !segment.is_some_and(|segment| is_there(segment).unwrap_or(false)) {
            *lost.entry(*topic).or_default() += 1;
        }
    }
    lost
}

/// Where the last event of a topic stands.
fn last_event_at(shared: &Shared, segments: &Segments, log: &TopicLog) -> Option<Position> {
    let run = log.runs.values().next_back()?;
    let offsets = shared.offsets(segments.get(&run.segment)?, run, run.last, 1).ok()?;
    Some(Position::new(run.segment, offsets[0]))
}

/// Makes holes of the events that are missing. A topic whose end is not `sure` gets a new epoch. Returns what is lost, and
/// the records of all topics.
fn give_up_events(
    shared: &Shared,
    newest: &HashMap<u32, u64>,
    sure: impl Fn(&Segments, &TopicLog) -> bool,
) -> (Vec<Lost>, Vec<TopicRecord<'static>>) {
    let mut lost = Vec::new();
    let mut records = Vec::new();
    let mut state = shared.write();
    let segments = Arc::clone(&state.segments);
    for log in &mut state.topics {
        if log.is_removed() {
            records.push(log.record().into_owned());
            continue;
        }
        let sure = sure(&segments, log);
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
    (lost, records)
}
