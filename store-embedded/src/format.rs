//! The bytes of a segment.
//!
//! ```text
//!   segment   header 64 | commit | commit | … | zeros
//!   commit    header 40: magic 4, body length 4, records 4, reserved 4, synced 8, time 8, checksum 8
//!             body: record | record | …, filled up to a multiple of 8
//!   record    length 4, checksum 4, kind 1, flags 1, and what the kind says
//! ```
//!
//! Numbers are little-endian. Every checksum covers the place it stands at and the store it belongs to, so that nothing
//! that was copied, moved or left over is ever taken for what should stand there. A commit counts when its header and
//! every record of it are whole.
//!
//! Offsets within a segment have 32 bits, and that is enough: a segment has 64 MiB by default, and only one whose first
//! commit is larger has more. The hub commits a few MiB at a time. So `as u32` on an offset, a length or a count within a
//! segment cuts nothing off.

use xxhash_rust::xxh3::xxh3_64;

/// First bytes of a segment.
const SEGMENT_MAGIC: &[u8; 8] = b"PROMLOG\n";
/// The only version there is.
pub(crate) const VERSION: u32 = 1;
/// Bytes before the first commit.
pub(crate) const SEGMENT_HEADER: u32 = 64;
/// Bytes before a commit's first record.
pub(crate) const COMMIT_HEADER: usize = 40;
/// Bytes before what the kind of a record says.
pub(crate) const RECORD_HEADER: usize = 10;
/// Commits begin at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// First bytes of a commit.
const COMMIT_MAGIC: u32 = 0x544d_4350;

/// A place in the log: segment number and offset in one number, so that later places are greater. In this crate a
/// `Position` is never where a group is in a topic; that is its cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Position(pub(crate) u64);

impl Position {
    pub(crate) fn new(segment: u32, offset: u32) -> Self {
        Self(u64::from(segment) << 32 | u64::from(offset))
    }

    pub(crate) fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) fn offset(self) -> u32 {
        self.0 as u32
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "segment {} at byte {}", self.segment(), self.offset())
    }
}

/// The checksum of `bytes` at a place of a store.
fn checksum(store: u64, at: Position, bytes: &[u8]) -> u64 {
    // The multiplication spreads neighbouring places over all bits.
    xxh3_64(bytes) ^ (store ^ at.0).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
}

/// The store for which `check` is the checksum, at a place, of bytes whose hash is `hash`.
pub(crate) fn store_of(hash: u64, check: u64, at: Position) -> u64 {
    // The inverse of what the checksum multiplies by, modulo 2^64.
    (hash ^ check).rotate_right(31).wrapping_mul(0xf1de_83e1_9937_733d) ^ at.0
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The start of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Identity of the store it belongs to.
    pub(crate) store: u64,
    pub(crate) number: u32,
    /// Where the log ended when this segment was made. What stands behind that in an earlier segment does not count.
    pub(crate) previous_end: Position,
    /// Milliseconds since the Unix epoch.
    pub(crate) made_at: u64,
    /// Bytes of its file when it was made. The file is not shortened before the segment is sealed, so a shorter one was
    /// cut off.
    pub(crate) size: u64,
}

/// Why bytes are not the start of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("it does not begin like a segment")]
    NoSegment,
    #[error("its header is damaged")]
    Damaged,
    /// It is whole, and a hub of that version can read it.
    #[error("its format is version {0}, and this is a hub for version {VERSION}")]
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER as usize] {
        let mut bytes = [0; SEGMENT_HEADER as usize];
        bytes[..8].copy_from_slice(SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.store.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.previous_end.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.made_at.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.size.to_le_bytes());
        let check = xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let broken = || HeaderError::Damaged;
        if bytes.len() < SEGMENT_HEADER as usize || &bytes[..8] != SEGMENT_MAGIC {
            return Err(HeaderError::NoSegment);
        }
        if u64_at(bytes, 56) != Some(xxh3_64(&bytes[..56])) {
            return Err(broken());
        }
        let version = u32_at(bytes, 8).ok_or_else(broken)?;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        Ok(Self {
            number: u32_at(bytes, 12).ok_or_else(broken)?,
            store: u64_at(bytes, 16).ok_or_else(broken)?,
            previous_end: Position(u64_at(bytes, 24).ok_or_else(broken)?),
            made_at: u64_at(bytes, 32).ok_or_else(broken)?,
            size: u64_at(bytes, 40).ok_or_else(broken)?,
        })
    }
}

/// The start of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommitHeader {
    /// Bytes of its records, without the filling.
    pub(crate) body: u32,
    pub(crate) records: u32,
    /// Everything before this place was durable when the commit was written.
    pub(crate) synced: Position,
    /// When it was made by the hub's clock, in milliseconds since the Unix epoch.
    pub(crate) time: u64,
}

/// `length` filled up to where the next commit may begin.
pub(crate) fn aligned(length: usize) -> usize {
    length.next_multiple_of(ALIGN)
}

impl CommitHeader {
    /// Bytes from this commit's start to the next one's.
    pub(crate) fn size(&self) -> usize {
        aligned(COMMIT_HEADER + self.body as usize)
    }

    pub(crate) fn encode(&self, store: u64, at: Position) -> [u8; COMMIT_HEADER] {
        let mut bytes = [0; COMMIT_HEADER];
        bytes[..4].copy_from_slice(&COMMIT_MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.body.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.records.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.synced.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.time.to_le_bytes());
        let check = checksum(store, at, &bytes[..32]);
        bytes[32..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8], store: u64, at: Position) -> Option<Self> {
        if u32_at(bytes, 0)? != COMMIT_MAGIC || u64_at(bytes, 32)? != checksum(store, at, bytes.get(..32)?) {
            return None;
        }
        Some(Self {
            body: u32_at(bytes, 4)?,
            records: u32_at(bytes, 8)?,
            synced: Position(u64_at(bytes, 16)?),
            time: u64_at(bytes, 24)?,
        })
    }
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// See [`EventRecord`](crate::record::EventRecord).
    Event = 1,
    /// See [`TopicRecord`](crate::record::TopicRecord).
    Topic = 2,
    /// See [`CursorRecord`](crate::record::CursorRecord).
    Cursor = 3,
    /// Stands where a repair gave up damaged records; its body is zeros.
    Lost = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Event, Self::Topic, Self::Cursor, Self::Lost].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Begins a record at the end of `out`; [`end_record`] completes it.
pub(crate) fn begin_record(out: &mut Vec<u8>, kind: Kind, flags: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.push(kind as u8);
    out.push(flags);
    start
}

/// Writes length and checksum of the record that begins at `start` of `out` and will stand at `at`.
pub(crate) fn end_record(out: &mut [u8], start: usize, store: u64, at: Position) {
    let length = out.len() - start;
    let check = checksum(store, at, &out[start + 8..]) as u32;
    out[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&check.to_le_bytes());
}

/// A record in a buffer: its kind, its flags, and what follows them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawRecord<'a> {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) body: &'a [u8],
    /// Bytes of the whole record.
    pub(crate) length: usize,
}

/// The length a record that begins `bytes` says it has.
pub(crate) fn record_length(bytes: &[u8]) -> Option<usize> {
    u32_at(bytes, 0).map(|length| length as usize).filter(|length| *length >= RECORD_HEADER)
}

/// The record that begins `bytes` and stands at `at`; `None` if it is not whole.
pub(crate) fn decode_record(bytes: &[u8], store: u64, at: Position) -> Option<RawRecord<'_>> {
    let length = record_length(bytes)?;
    let whole = bytes.get(..length)?;
    if u32_at(whole, 4)? != checksum(store, at, &whole[8..]) as u32 {
        return None;
    }
    Some(RawRecord { kind: Kind::from_byte(whole[8])?, flags: whole[9], body: &whole[RECORD_HEADER..], length })
}

/// Reads numbers and bytes off a record's body, front to back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes(2)?.try_into().ok()?))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    /// Text behind its length in two bytes.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let length = self.u16()?;
        std::str::from_utf8(self.bytes(length.into())?).ok()
    }
}

/// Longest text of a record, in bytes. Names of topics and groups are far shorter, and so are the ids and keys that
/// [`admit_append`](prom_store::admit_append) takes.
pub(crate) const TEXT_BYTES: usize = u16::MAX as usize;

/// The length of a text as a record holds it: at most [`TEXT_BYTES`].
pub(crate) fn text_length(text: &str) -> [u8; 2] {
    debug_assert!(text.len() <= TEXT_BYTES, "a text of {} bytes was let in", text.len());
    (text.len() as u16).to_le_bytes()
}

/// Writes text behind its length in two bytes.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(TEXT_BYTES)];
    out.extend_from_slice(&text_length(text));
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_any_bit_flipped_is_refused() {
        let header =
            SegmentHeader { store: 7, number: 3, previous_end: Position::new(2, 640), made_at: 1_700, size: 4096 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        let commit = CommitHeader { body: 100, records: 2, synced: Position::new(3, 64), time: 5 };
        let at = Position::new(3, 128);
        let commit_bytes = commit.encode(7, at);
        assert_eq!(CommitHeader::decode(&commit_bytes, 7, at), Some(commit));
        for bit in 0..64 * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
        }
        for bit in 0..COMMIT_HEADER * 8 {
            let mut flipped = commit_bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(CommitHeader::decode(&flipped, 7, at), None, "bit {bit}");
        }
        assert_eq!(CommitHeader::decode(&commit_bytes, 7, Position::new(3, 136)), None, "elsewhere");
        assert_eq!(CommitHeader::decode(&commit_bytes, 8, at), None, "of another store");
    }

    #[test]
    fn a_record_counts_only_where_it_was_written_and_whole() {
        let mut out = vec![9; 5];
        let at = Position::new(1, 69);
        let start = begin_record(&mut out, Kind::Topic, 3);
        out.extend_from_slice(b"body");
        end_record(&mut out, start, 7, at);
        let record = decode_record(&out[start..], 7, at).unwrap();
        assert_eq!((record.kind, record.flags, record.body, record.length), (Kind::Topic, 3, &b"body"[..], 14));
        assert!(decode_record(&out[start..], 7, Position::new(2, 69)).is_none());
        assert!(decode_record(&out[start..out.len() - 1], 7, at).is_none());
        for bit in 0..14 * 8 {
            let mut flipped = out.clone();
            flipped[start + bit / 8] ^= 1 << (bit % 8);
            assert!(decode_record(&flipped[start..], 7, at).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn later_places_are_greater() {
        assert!(Position::new(1, u32::MAX) < Position::new(2, 0));
        let at = Position::new(5, 77);
        assert_eq!((at.segment(), at.offset()), (5, 77));
    }
}
