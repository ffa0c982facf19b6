//! What both kinds of upkeep need: `upkeep.rs` (index, index files, retention) and `reclaim.rs` (space).

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use prom_store::StoreError;

use crate::{
    append::Appender,
    format::Position,
    log::Log,
    record::TopicRecord,
    shared::{Shared, index_failed},
};

/// How old the index may be.
pub(crate) const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Index entries that are taken out of memory in one hold of the state's lock.
const CHUNK: usize = 4096;

/// Does the work of the upkeep.
pub(crate) struct Keeper<'a> {
    pub(crate) log: &'a Log,
    /// The index has all of the log before this position.
    pub(crate) flushed: Position,
    flushed_at: Instant,
    /// When retention was last applied.
    pub(crate) retained_at: Instant,
    /// Segments that cannot be read whole: they stay as they are.
    pub(crate) damaged: HashSet<u32>,
    /// By segment: what was kept for keys alone when the segment was last read through.
    pub(crate) measured: HashMap<u32, Measured>,
    /// Copies no faster than `COPY_RATE` of `reclaim.rs`, so that publishers do not feel it.
    pub(crate) gentle: bool,
    /// Segments from this number on are left alone.
    pub(crate) below: u32,
}

/// What of a segment was kept for keys alone when it was last read through.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Measured {
    /// How many entries of the index pointed into it.
    pub(crate) pointed: u64,
    /// Bytes of those events that are not retained anyway.
    pub(crate) bytes: u64,
}

impl Measured {
    /// An estimate of those bytes now that `pointed` entries point into the segment: in proportion.
    pub(crate) fn bytes_of(&self, pointed: u64) -> u64 {
        if self.pointed == 0 {
            0
        } else {
            (u128::from(self.bytes) * u128::from(pointed) / u128::from(self.pointed)) as u64
        }
    }
}

impl<'a> Keeper<'a> {
    pub(crate) fn new(log: &'a Log) -> Self {
        let flushed = Position(log.shared.indexed.load(Ordering::SeqCst));
        let now = Instant::now();
        Self {
            log,
            flushed,
            flushed_at: now,
            retained_at: now,
            gentle: true,
            below: u32::MAX,
            damaged: HashSet::new(),
            measured: HashMap::new(),
        }
    }

    /// What readers see too. It outlives the borrow of the keeper itself.
    pub(crate) fn shared(&self) -> &'a Shared {
        &self.log.shared
    }

    pub(crate) fn flush_if_due(&mut self) -> Result<(), StoreError> {
        let shared = self.shared();
        let records = shared.read().records;
        if records >= shared.options.flush_records || (records > 0 && self.flushed_at.elapsed() >= FLUSH_EVERY) {
            self.flush(false, None)?;
        }
        Ok(())
    }

    /// Brings the index forward to the end of the log. `closed`: the store is being closed there. Whoever holds the
    /// appender passes it.
    pub(crate) fn flush(&mut self, closed: bool, mut appender: Option<&mut Appender>) -> Result<(), StoreError> {
        let shared = self.shared();
        // The log first: the index must not know of what the log may lose in a crash.
        let synced = sync_log(self.log, appender.as_deref_mut())?;
        let mut flush = shared.write().take_dirty();
        if flush.position > synced {
            // More was appended in between.
            if let Err(error) = sync_log(self.log, appender) {
                shared.write().not_flushed(&flush);
                return Err(error);
            }
        }
        flush.closed = closed;
        flush.sort();
        if let Err(error) = shared.index.flush(&flush) {
            shared.write().not_flushed(&flush);
            if let Err(error) = shared.index.reopen(&*shared.disk, shared.store) {
                tracing::warn!(%error, "the index cannot be opened again yet");
            }
            return Err(index_failed(&error));
        }
        for part in flush.latest.chunks(CHUNK) {
            shared.write().flushed(part);
        }
        self.flushed = flush.position;
        shared.indexed.store(flush.position.0, Ordering::SeqCst);
        self.flushed_at = Instant::now();
        Ok(())
    }

    /// Trims topics, given by number, to these first seqs.
    pub(crate) fn trim(&self, appender: &mut Appender, now: u64, trims: &[(u32, u64)]) -> Result<(), StoreError> {
        let shared = self.shared();
        let records: Vec<_> = {
            let state = shared.read();
            let record = |(number, first): &(u32, u64)| {
                let log = &state.topics[*number as usize];
                TopicRecord { first: *first, ..log.record() }.into_owned()
            };
            trims.iter().map(record).collect()
        };
        appender.put_topics(shared, now, &records)
    }
}

/// Makes the log durable up to where readers see it; returns that position. Whoever holds the appender passes it, because
/// a failed sync is noted there.
pub(crate) fn sync_log(log: &Log, appender: Option<&mut Appender>) -> Result<Position, StoreError> {
    let shared = &log.shared;
    let (end, segment) = {
        let state = shared.read();
        (state.end, state.segments.get(&state.end.segment()).map(Arc::clone))
    };
    if shared.synced.load(Ordering::SeqCst) >= end.0 {
        return Ok(end);
    }
    let Some(segment) = segment else { return Ok(end) };
    if let Err(error) = segment.file.sync() {
        let abandon = |appender: &mut Appender| appender.abandoned |= appender.segment.number == segment.number;
        match appender {
            Some(appender) => abandon(appender),
            None => abandon(&mut log.appender()),
        }
        return Err(StoreError::Unavailable(format!("the log cannot be written: {error}")));
    }
    shared.synced.fetch_max(end.0, Ordering::SeqCst);
    Ok(end)
}
