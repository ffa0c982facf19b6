//! How an embedded store works.

use prom_store::{Durability, Retention};

/// A store with a limit ([`Options::max_bytes`]) has at least this many segments, because only sealed segments can go.
const SEGMENTS: u64 = 16;
/// No segment is made smaller than this for that, in bytes.
const LEAST_SEGMENT: u64 = 64 * 1024;

/// How an embedded store works.
#[derive(Debug, Clone)]
pub struct Options {
    /// When a commit counts as done; default [`Durability::Commit`].
    pub durability: Durability,
    /// What is kept for how long; default: everything.
    pub retention: Retention,
    /// Retained events beyond which the oldest settled ones make room, in bytes; default none: as far as the disk goes.
    pub max_bytes: Option<u64>,
    /// Memory for the newest events, in bytes; default 64 MiB.
    pub cache_bytes: usize,
    /// Size of a segment, in bytes, but for one larger commit; default 64 MiB. Must be well below 4 GiB.
    pub segment_bytes: u64,
    /// Records after which the index is brought forward at once; default 64k.
    pub flush_records: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            retention: Retention::default(),
            max_bytes: None,
            cache_bytes: 64 * 1024 * 1024,
            segment_bytes: 64 * 1024 * 1024,
            flush_records: 64 * 1024,
        }
    }
}

impl Options {
    /// The same, with segments that are small enough for `max_bytes`.
    pub(crate) fn with_segments_that_fit(mut self) -> Self {
        if let Some(most) = self.max_bytes {
            self.segment_bytes = self.segment_bytes.min((most / SEGMENTS).max(LEAST_SEGMENT));
        }
        self
    }
}
