//! Reads a segment front to back, commit by commit.

use std::io;

use crate::{
    disk::{DiskFile, read_exact},
    format::{ALIGN, COMMIT_HEADER, CommitHeader, Position, RawRecord, decode_record},
};

/// Bytes read at once.
const CHUNK: usize = 1024 * 1024;

/// Reads a segment front to back, commit by commit.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    file: &'a dyn DiskFile,
    store: u64,
    at: Position,
    /// Nothing is read from here on.
    end: u32,
    buffer: Vec<u8>,
    /// Offset in the file of the buffer's first byte.
    buffer_at: u32,
}

/// One commit that is whole, and its records with their positions.
#[derive(Debug)]
pub(crate) struct ScannedCommit<'a> {
    /// When it was made, in milliseconds since the Unix epoch.
    pub(crate) time: u64,
    pub(crate) records: Vec<(Position, RawRecord<'a>)>,
}

impl<'a> Scanner<'a> {
    /// Reads from `from`, which is where a commit begins, up to `end`.
    pub(crate) fn new(file: &'a dyn DiskFile, store: u64, from: Position, end: u32) -> Self {
        Self { file, store, at: from, end, buffer: Vec::new(), buffer_at: from.offset() }
    }

    /// Where the next commit would begin.
    pub(crate) fn at(&self) -> Position {
        self.at
    }

    /// The next commit; `None` where there is none that is whole.
    pub(crate) fn next(&mut self) -> io::Result<Option<ScannedCommit<'_>>> {
        if !self.fill(COMMIT_HEADER)? {
            return Ok(None);
        }
        let at = self.at;
        let start = (at.offset() - self.buffer_at) as usize;
        let Some(header) = CommitHeader::decode(&self.buffer[start..], self.store, at) else { return Ok(None) };
        if !self.fill(COMMIT_HEADER + header.body as usize)? {
            return Ok(None);
        }
        let start = (at.offset() - self.buffer_at) as usize + COMMIT_HEADER;
        let mut body = &self.buffer[start..start + header.body as usize];
        let mut at_record = Position(at.0 + COMMIT_HEADER as u64);
        let mut records = Vec::with_capacity((header.records as usize).min(body.len() / 16));
        while !body.is_empty() {
            let Some(record) = decode_record(body, self.store, at_record) else { return Ok(None) };
            records.push((at_record, record));
            at_record = Position(at_record.0 + record.length as u64);
            body = &body[record.length..];
        }
        if records.len() != header.records as usize {
            return Ok(None);
        }
        self.at = Position(at.0 + header.size() as u64);
        Ok(Some(ScannedCommit { time: header.time, records }))
    }

    /// Makes sure that `count` bytes from the current place are in the buffer.
    fn fill(&mut self, count: usize) -> io::Result<bool> {
        let left = self.end.saturating_sub(self.at.offset()) as usize;
        if left < count {
            return Ok(false);
        }
        let skip = (self.at.offset() - self.buffer_at) as usize;
        if self.buffer.len() < skip + count {
            self.buffer_at = self.at.offset();
            self.buffer.clear();
            self.buffer.resize(left.min(count.max(CHUNK)), 0);
            let read = self.file.read(&mut self.buffer, self.at.offset().into())?;
            self.buffer.truncate(read);
        }
        Ok(self.buffer.len() >= (self.at.offset() - self.buffer_at) as usize + count)
    }
}

/// The first commit header behind `from` that is whole and `wanted`: by such a one, damage differs from a torn end. A
/// header at `from` itself does not count, because its commit is not whole.
pub(crate) fn later_commit(
    file: &dyn DiskFile,
    store: u64,
    from: Position,
    end: u32,
    wanted: impl Fn(&CommitHeader) -> bool,
) -> io::Result<Option<(Position, CommitHeader)>> {
    let mut at = (from.offset() + 1).next_multiple_of(ALIGN as u32);
    let mut chunk = vec![0; CHUNK + COMMIT_HEADER];
    let zeros = vec![0; CHUNK + COMMIT_HEADER];
    while at < end {
        let length = chunk.len().min((end - at) as usize);
        read_exact(file, &mut chunk[..length], at.into())?;
        // Most of what is reserved was never written.
        if chunk[..length] == zeros[..length] {
            at += CHUNK as u32;
            continue;
        }
        for offset in (0..length.min(CHUNK)).step_by(ALIGN) {
            let found = Position::new(from.segment(), at + offset as u32);
            let header = CommitHeader::decode(&chunk[offset..length], store, found);
            if let Some(header) = header.filter(&wanted) {
                return Ok(Some((found, header)));
            }
        }
        at = at.saturating_add(CHUNK as u32);
    }
    Ok(None)
}

/// Where only zeros follow up to `end`: behind the last byte from `from` on that is none.
pub(crate) fn written_end(file: &dyn DiskFile, from: u32, end: u32) -> io::Result<u32> {
    let (mut chunk, zeros) = (vec![0; CHUNK], vec![0; CHUNK]);
    let (mut at, mut written) = (from, from);
    while at < end {
        let length = CHUNK.min((end - at) as usize);
        read_exact(file, &mut chunk[..length], at.into())?;
        if chunk[..length] != zeros[..length] {
            let last = chunk[..length].iter().rposition(|byte| *byte != 0);
            written = last.map_or(written, |last| at + last as u32 + 1);
        }
        at += length as u32;
    }
    Ok(written)
}
