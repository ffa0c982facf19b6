//! The index file next to a sealed segment: where each topic's events stand, and the table of chosen ids.
//!
//! ```text
//!   header 96 | directory: runs, buckets of ids, filter | offsets of each run, 4 bytes each | ids, 12 bytes each
//! ```
//!
//! It can be made again from its segment at any time, and is when it is not whole at open. What is damaged later is noticed
//! when it is read: a part of the id table has a checksum, and an offset is checked by the record that must stand there.

use std::{io, sync::Arc};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{
    disk::{Disk, DiskFile, read_exact, write_whole},
    format::{Position, Reader},
    ids::{BUCKETS, ENTRY, Filter, Hashed, IdMap, IdTable, Span, Wanted},
};

/// First bytes of an index file.
const MAGIC: &[u8; 8] = b"PROMIDX\n";
/// The version that is written. In files of version 1 the hashes are of ids alone.
const VERSION: u32 = 2;
/// Bytes of its header.
const HEADER: usize = 96;
/// Bytes of a run in its directory.
const RUN: usize = 48;

/// The name of a segment's index file.
pub(crate) fn name(segment: u32) -> String {
    format!("{segment:010}.idx")
}

/// Consecutive events of one topic in one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunEntry {
    pub(crate) topic: u32,
    /// Seq of the first event.
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// Highest `ts` among them.
    pub(crate) max_ts: u64,
    /// See [`Run::committed`](crate::topic_log::Run::committed); 0 in files of older hubs.
    pub(crate) committed: u64,
    /// Bytes of their records.
    pub(crate) bytes: u64,
    /// Where their offsets stand in the index file.
    pub(crate) offsets_at: u64,
}

/// An index file that is open.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) ids: IdTable,
    /// Where the entries of the id table begin.
    ids_at: u64,
}

impl Sidecar {
    /// Offsets in the segment at which an event of that id may stand.
    pub(crate) fn find(&self, wanted: &Wanted) -> io::Result<Vec<u32>> {
        if self.ids.may_have(wanted) { self.ids.find(&*self.file, self.ids_at, wanted) } else { Ok(Vec::new()) }
    }

    /// `count` offsets of a run, from the one with that index in the run. `at`: where the run's offsets begin in the file.
    pub(crate) fn offsets(&self, at: u64, index: u32, count: usize) -> io::Result<Vec<u32>> {
        let mut bytes = vec![0; count * 4];
        read_exact(&*self.file, &mut bytes, at + u64::from(index) * 4)?;
        Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

/// A run and its offsets, to be written.
#[derive(Debug)]
pub(crate) struct NewRun {
    pub(crate) topic: u32,
    pub(crate) first: u64,
    pub(crate) max_ts: u64,
    pub(crate) committed: u64,
    pub(crate) bytes: u64,
    pub(crate) offsets: Vec<u32>,
}

/// Writes the index file of the segment that ends at `end`; returns where each run's offsets stand.
pub(crate) fn write(
    disk: &dyn Disk,
    store: u64,
    end: Position,
    runs: &[NewRun],
    ids: &IdMap,
) -> io::Result<(Sidecar, Vec<RunEntry>)> {
    let (table, entries) = ids.table();
    let directory = runs.len() * RUN + table.buckets.len() * 8 + table.filter.0.len();
    let mut at = (HEADER + directory) as u64;
    let mut bytes = vec![0; HEADER];
    let mut written = Vec::with_capacity(runs.len());
    for run in runs {
        let entry = RunEntry {
            topic: run.topic,
            first: run.first,
            count: run.offsets.len() as u32,
            max_ts: run.max_ts,
            committed: run.committed,
            bytes: run.bytes,
            offsets_at: at,
        };
        at += run.offsets.len() as u64 * 4;
        bytes.extend_from_slice(&entry.topic.to_le_bytes());
        bytes.extend_from_slice(&entry.count.to_le_bytes());
        for number in [entry.first, entry.max_ts, entry.bytes, entry.offsets_at, entry.committed] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        written.push(entry);
    }
    let ids_at = at;
    for (start, check) in &table.buckets {
        bytes.extend_from_slice(&start.to_le_bytes());
        bytes.extend_from_slice(&check.to_le_bytes());
    }
    bytes.extend_from_slice(&table.filter.0);
    let mut rest = Vec::new();
    for run in runs {
        for offset in &run.offsets {
            rest.extend_from_slice(&offset.to_le_bytes());
        }
    }
    rest.extend_from_slice(&entries);
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    for number in [VERSION, runs.len() as u32, table.entries, table.span.others] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    let check = xxh3_64(&bytes[HEADER..]);
    let filter = table.filter.0.len() as u64;
    let rest_check = xxh3_64(&rest);
    for number in [store, end.0, table.span.from, table.span.to, ids_at, filter, check, rest_check] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    let check = xxh3_64(&header);
    header.extend_from_slice(&check.to_le_bytes());
    bytes[..HEADER].copy_from_slice(&header);
    bytes.append(&mut rest);
    let file = write_whole(disk, &name(end.segment()), &bytes)?;
    Ok((Sidecar { file, ids: table, ids_at }, written))
}

/// Opens the index file of a segment and says where the segment ends; `None` if it is not there or not whole.
pub(crate) fn open(disk: &dyn Disk, store: u64, segment: u32) -> Option<(Sidecar, Position, Vec<RunEntry>)> {
    let file = disk.open(&name(segment)).ok()?;
    let mut header = [0; HEADER];
    read_exact(&*file, &mut header, 0).ok()?;
    let mut reader = Reader(&header[..HEADER - 8]);
    if reader.bytes(8)? != MAGIC || xxh3_64(&header[..HEADER - 8]).to_le_bytes() != header[HEADER - 8..] {
        return None;
    }
    let (version, runs, entries, others) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    let (own_store, own_end, from, to) = (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
    let (ids_at, filter, check, rest) = (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
    let hashed = match version {
        1 => Hashed::Ids,
        VERSION => Hashed::TopicsAndIds,
        _ => return None,
    };
    if own_store != store || Position(own_end).segment() != segment {
        return None;
    }
    let buckets = if entries == 0 { 0 } else { BUCKETS };
    let directory = runs as usize * RUN + buckets * 8 + usize::try_from(filter).ok()?;
    let end = ids_at + u64::from(entries) * ENTRY as u64;
    if file.len().ok()? < end || end < (HEADER + directory) as u64 {
        return None;
    }
    let mut directory = vec![0; directory];
    read_exact(&*file, &mut directory, HEADER as u64).ok()?;
    if xxh3_64(&directory) != check || checksum(&*file, (HEADER + directory.len()) as u64, end).ok()? != rest {
        return None;
    }
    let mut reader = Reader(&directory);
    let mut written = Vec::with_capacity(runs as usize);
    for _ in 0..runs {
        let (topic, count) = (reader.u32()?, reader.u32()?);
        let (first, max_ts, bytes, offsets_at) = (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
        let committed = reader.u64()?;
        written.push(RunEntry { topic, first, count, max_ts, committed, bytes, offsets_at });
    }
    let buckets = (0..buckets).map(|_| Some((reader.u32()?, reader.u32()?))).collect::<Option<_>>()?;
    let filter = Filter(reader.0.to_vec());
    let ids = IdTable { span: Span { from, to, others }, filter, buckets, entries, hashed };
    Some((Sidecar { file, ids, ids_at }, Position(own_end), written))
}

/// The checksum of a part of a file.
fn checksum(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<u64> {
    let mut hash = Xxh3::new();
    let mut chunk = vec![0; 256 * 1024];
    let mut at = from;
    while at < to {
        let length = chunk.len().min((to - at) as usize);
        read_exact(file, &mut chunk[..length], at)?;
        hash.update(&chunk[..length]);
        at += length as u64;
    }
    Ok(hash.digest())
}
