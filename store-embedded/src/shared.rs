//! What the writer, the readers and the upkeep of a store share.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64},
    },
};

use prom_store::{StoreError, Stored};

use crate::{
    disk::{Disk, read_exact},
    format::{Position, decode_record, record_length},
    full::Shortage,
    ids::{self, Cipher, Wanted},
    index::{Index, IndexError},
    options::Options,
    record::EventRecord,
    state::{Segment, SegmentIndex, State},
    topic_log::{Offsets, Run, TopicLog},
};

/// Bytes that are read at first for a record whose length is not known.
const GUESS: usize = 1024;

/// What the writer, the readers and the upkeep of a store share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    /// Identity of the store. It is also the secret that masks the ids the store makes.
    pub(crate) store: u64,
    /// Made of it.
    pub(crate) cipher: Cipher,
    pub(crate) options: Options,
    pub(crate) index: Index,
    /// Taken after the appender, never before it: see [`Log`](crate::log::Log).
    pub(crate) state: RwLock<State>,
    /// Everything before this [`Position`] is durable.
    pub(crate) synced: AtomicU64,
    /// The index has all of the log before this [`Position`].
    pub(crate) indexed: AtomicU64,
    /// Wakes the upkeep.
    pub(crate) bell: Bell,
    /// Events are refused for want of room. Changed by whoever has the appender.
    pub(crate) full: Shortage,
}

/// Wakes the threads of the upkeep.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    pub(crate) rung: Mutex<bool>,
    pub(crate) waiting: Condvar,
    /// The store is being closed.
    pub(crate) closing: AtomicBool,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *lock(&self.rung) = true;
        self.waiting.notify_all();
    }
}

// What runs under these locks changes memory in steps that cannot fail halfway, so a poisoned one is whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The message for a part of the log that is not what was written.
    pub(crate) fn damaged(&self, what: &str, at: Position) -> StoreError {
        StoreError::Damaged(format!(
            "{what} is damaged ({at} in {}); stop the hub, and `prom store verify` lists what is lost",
            self.disk.path().display()
        ))
    }

    /// Gives `then` the event at an offset of a segment.
    pub(crate) fn event_at<T>(
        &self,
        segment: &Segment,
        offset: u32,
        then: impl FnOnce(EventRecord<'_>) -> T,
    ) -> Result<T, StoreError> {
        let at = Position::new(segment.number, offset);
        let mut buffer = [0; GUESS];
        let read = segment.file.read(&mut buffer, offset.into()).map_err(|error| unreadable(&error))?;
        let whole = || self.damaged("an event", at);
        let length = record_length(&buffer[..read]).ok_or_else(whole)?;
        let mut long = Vec::new();
        let mut bytes = &buffer[..read];
        if length > read {
            // A damaged length may be any number: do not reserve memory for it.
            if length as u64 > segment.file.len().map_err(|error| unreadable(&error))? {
                return Err(whole());
            }
            long.resize(length, 0);
            read_exact(&*segment.file, &mut long, offset.into()).map_err(|error| unreadable(&error))?;
            bytes = &long;
        }
        let event = decode_record(bytes, self.store, at).and_then(|record| EventRecord::decode(&record));
        event.map(then).ok_or_else(whole)
    }

    /// The seq of a topic's retained event with that id.
    pub(crate) fn find_id(&self, state: &State, topic: u32, id: &str) -> Result<Option<u64>, StoreError> {
        let Some(log) = state.topics.get(topic as usize) else { return Ok(None) };
        let found = |segment: &Segment, offset: u32| {
            self.event_at(segment, offset, |event| (event.topic == topic && event.id == id).then_some(event.seq))
        };
        let own = ids::topic_and_seq(&self.cipher, id).filter(|(number, _)| *number == topic).map(|(_, seq)| seq);
        for seq in own.filter(|seq| (log.first..=log.tail).contains(seq)) {
            // Mostly in the cache: a publish is repeated soon or never.
            if let Some(event) = cached(log, seq) {
                if &*event.id == id {
                    return Ok(Some(seq));
                }
            } else if let Some(run) = log.run_at(seq).filter(|run| run.first <= seq)
                && let Some(segment) = state.segments.get(&run.segment)
            {
                let offset = self.offsets(segment, run, seq, 1)?[0];
                let own = self.event_at(segment, offset, |event| {
                    ((event.topic, event.seq) == (topic, seq)).then(|| event.id == id)
                })?;
                let at = Position::new(run.segment, offset);
                if own.ok_or_else(|| self.damaged("the index of a segment", at))? {
                    return Ok(Some(seq));
                }
            }
        }
        let wanted = Wanted::new(self.store, topic, id);
        for segment in state.segments.values().rev() {
            let offsets = match &segment.index {
                SegmentIndex::Active => state.ids.find(wanted.hash).collect(),
                SegmentIndex::Sealed(_, ids) => ids.find(wanted.hash).collect(),
                SegmentIndex::File(_, sidecar) => sidecar.find(&wanted).map_err(|error| unreadable(&error))?,
            };
            for offset in offsets {
                if let Some(seq) = found(segment, offset)?.filter(|seq| *seq >= log.first) {
                    return Ok(Some(seq));
                }
            }
        }
        Ok(None)
    }

    /// The offsets of `count` events of a run, from `seq` on.
    pub(crate) fn offsets(&self, segment: &Segment, run: &Run, seq: u64, count: usize) -> Result<Vec<u32>, StoreError> {
        let index = run.skip + (seq - run.first) as u32;
        match (&run.offsets, &segment.index) {
            (Offsets::Memory(offsets), _) => {
                let index = index as usize;
                Ok(offsets.get(index..index + count).map(<[u32]>::to_vec).unwrap_or_default())
            }
            (Offsets::File(at), SegmentIndex::File(_, sidecar)) => {
                sidecar.offsets(*at, index, count).map_err(|error| unreadable(&error))
            }
            _ => Ok(Vec::new()),
        }
        .and_then(|offsets| {
            if offsets.len() == count {
                Ok(offsets)
            } else {
                Err(self.damaged("the index of a segment", Position::new(segment.number, 0)))
            }
        })
    }
}

/// The event of that seq, if it is in the cache.
pub(crate) fn cached(log: &TopicLog, seq: u64) -> Option<&Stored> {
    let first = log.cache.front()?.seq;
    log.cache.get(usize::try_from(seq.checked_sub(first)?).ok()?)
}

pub(crate) fn unreadable(error: &io::Error) -> StoreError {
    StoreError::Unavailable(format!("the log cannot be read: {error}"))
}

pub(crate) fn index_failed(error: &IndexError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
