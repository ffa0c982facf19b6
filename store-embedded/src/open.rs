//! Opening a store: find the log's end, cut a torn commit off, bring the index forward.

use std::sync::{Arc, RwLock, atomic::AtomicU64};

use crate::{
    append::{Appender, segment_name},
    check::{self, Known},
    disk::Disk,
    format::Position,
    full::Shortage,
    ids::Cipher,
    index::{Index, Loaded, NAME},
    log::Log,
    opening::{Found, OpenError, Opening},
    options::Options,
    recover::{End, Recovery},
    shared::{Bell, Shared},
    sidecar,
    state::State,
    topic_log::TopicLog,
};

/// Opens the store of a folder, or makes one.
pub(crate) fn open(disk: &Arc<dyn Disk>, options: Options) -> Result<Arc<Log>, OpenError> {
    open_with(disk, options, None)
}

/// The same. With what a repair knows, an index is made beside the old one, which stays as it is, and it is no error that
/// something is missing.
pub(crate) fn open_with(disk: &Arc<dyn Disk>, options: Options, repair: Option<Known>) -> Result<Arc<Log>, OpenError> {
    let opening = Opening { disk: &**disk };
    let Files { sealed, active, index, loaded } = find_files(opening, &options, repair.is_some())?;
    let store = active.header.store;
    let active_length = active.length;
    let from = loaded.as_ref().map_or(Position::default(), |loaded| loaded.position);

    let recovery = Recovery::new(opening, store, &index, from, options.cache_bytes);
    let (mut state, end) = recover(recovery, sealed, active, loaded.as_ref(), repair.as_ref())?;
    match repair {
        Some(known) => known.complete(&mut state),
        None => check::complete(&state).map_err(|what| opening.damaged(what))?,
    }
    let size = u64::from(active_length).max(options.segment_bytes);
    ready_for_appends(opening, &end, active_length, size)?;
    let indexed = bring_forward(opening, store, &index, loaded.as_ref(), &mut state)?;
    let kept_from = |log: &TopicLog| if options.retention.compacts(&log.topic) { 0 } else { log.first };
    check::newest(&state, &index, kept_from).map_err(|what| opening.damaged(what))?;
    check::tidy(&**disk, &state).map_err(|error| opening.io(error))?;

    let shared = Shared {
        disk: Arc::clone(disk),
        store,
        cipher: Cipher::new(store),
        options,
        index,
        state: RwLock::new(state),
        synced: AtomicU64::new(end.at.0),
        indexed: AtomicU64::new(indexed.0),
        bell: Bell::default(),
        full: Shortage::default(),
    };
    let appender = Appender { segment: end.segment, end: end.at.offset(), size, abandoned: false, closed: None };
    Ok(Arc::new(Log::new(shared, appender)))
}

/// The files of a store.
struct Files {
    /// By number.
    sealed: Vec<Found>,
    active: Found,
    index: Index,
    /// What the index says; none if it is new.
    loaded: Option<Loaded>,
}

/// Finds the segments and the index, or makes the first ones, and checks that no segment is missing at the end.
fn find_files(opening: Opening<'_>, options: &Options, repair: bool) -> Result<Files, OpenError> {
    let mut sealed = opening.segments()?;
    let (active, fresh) = match sealed.pop() {
        Some(last) => (last, false),
        None if opening.disk.open(NAME).is_ok() => return Err(opening.damaged("its segments are missing")),
        None => (opening.make_first(options)?, true),
    };
    let (store, last) = (active.header.store, active.header.number);
    let (index, loaded) =
        if repair { (opening.new_index(check::NEW_INDEX, store)?, None) } else { opening.index(store, fresh)? };
    let index_is_further = loaded.as_ref().is_some_and(|loaded| loaded.position.segment() > last);
    // Only a segment behind which there is another one has an index file.
    if index_is_further || sidecar::open(opening.disk, store, last).is_some() {
        return Err(opening.damaged(format!("the segment behind {} is missing", segment_name(last))));
    }
    Ok(Files { sealed, active, index, loaded })
}

/// Reads the log up to its end.
fn recover(
    mut recovery: Recovery<'_>,
    sealed: Vec<Found>,
    active: Found,
    loaded: Option<&Loaded>,
    repair: Option<&Known>,
) -> Result<(State, End), OpenError> {
    match loaded {
        Some(loaded) => recovery.restore(loaded)?,
        None => {
            let topics = repair.map(|known| known.topics.clone()).unwrap_or_default();
            recovery.find_topics(sealed.iter().chain([&active]), topics)?;
        }
    }
    for found in sealed {
        recovery.read_sealed(found)?;
    }
    if repair.is_none() {
        recovery.check_length(&active, loaded)?;
    }
    let end = recovery.read_active(active, loaded)?;
    Ok((recovery.into_state(end.at)?, end))
}

/// Cuts off what is torn, gives the active segment its full `size`, and makes durable what was found. `length`: bytes of
/// its file.
fn ready_for_appends(opening: Opening<'_>, end: &End, length: u32, size: u64) -> Result<(), OpenError> {
    let ready = || {
        let file = &end.segment.file;
        // With zeros, and never shorter in between: a segment that is too short counts as cut off.
        file.write(&vec![0; end.torn as usize], end.at.offset().into())?;
        if u64::from(length) < size {
            file.zero_from(length.into(), size)?;
        }
        // What was found may not be on disk yet, if it was the process that ended and not the machine.
        file.sync()?;
        opening.disk.sync()
    };
    ready().map_err(|error| opening.io(error))
}

/// Brings the index forward to the end of the log, and notes in it that the store is open; returns up to where it has the
/// log then.
fn bring_forward(
    opening: Opening<'_>,
    store: u64,
    index: &Index,
    loaded: Option<&Loaded>,
    state: &mut State,
) -> Result<Position, OpenError> {
    let failed = |error| opening.io(std::io::Error::other(error));
    let mut flush = state.take_dirty();
    flush.sort();
    match index.flush(&flush) {
        Ok(()) => {
            state.flushed(&flush.latest);
            Ok(state.end)
        }
        // For instance on a full disk: the upkeep tries again. Unless the index says that the store was closed: it must
        // not say so once there is more in the log.
        Err(error) if loaded.is_some_and(|loaded| !loaded.closed) => {
            tracing::warn!(%error, "the index is behind the log for now");
            state.not_flushed(&flush);
            index.reopen(opening.disk, store).map_err(failed)?;
            Ok(loaded.map_or(Position::default(), |loaded| loaded.position))
        }
        Err(error) => Err(failed(error)),
    }
}
