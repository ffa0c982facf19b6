//! Opening a store: find the log's end, cut a torn commit off, bring the index forward.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, RwLock, atomic::AtomicU64},
};

use prom_protocol::Group;
use prom_store::wall_clock;

use crate::{
    append::{Appender, create_segment, segment_name},
    check::{self, Known, Topics},
    disk::{Disk, DiskFile},
    format::{CommitHeader, Kind, Position, RawRecord, SEGMENT_HEADER, SegmentHeader},
    ids::IdMap,
    index::{Index, Loaded, NAME, placed},
    log::Log,
    options::Options,
    record::{CursorRecord, EventRecord, TopicRecord},
    scan::{Scanner, later_commit, written_end},
    shared::{Bell, Shared},
    sidecar,
    state::{Offsets, Run, Segment, SegmentIndex, Segments, State, TopicLog},
};

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the folder.
    #[error(
        "the data folder {0} is in use by another hub; stop that one, or choose another folder with PROM_DATA or --data"
    )]
    Taken(String),
    /// It cannot be read or written.
    #[error("the data folder {folder} cannot be used: {source}; choose another with PROM_DATA or --data")]
    Io {
        /// Which.
        folder: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The log is not what was written. Nothing was changed.
    #[error(
        "the log in {folder} is damaged: {what}. Nothing was changed. `prom store verify --data {folder}` lists what is lost, \
             and `prom store compact --drop-damaged --data {folder}` goes on without it"
    )]
    Damaged {
        /// Where.
        folder: String,
        /// What is wrong.
        what: String,
    },
}

/// A segment's file and what its header says.
pub(crate) struct Found {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) header: SegmentHeader,
}

impl Found {
    /// Where the segment of that number ends, if this is the next one.
    fn told(&self, number: u32) -> Option<u32> {
        Some(self.header.previous_end).filter(|end| end.segment() == number).map(Position::offset)
    }
}

/// What of an open goes wrong, and how.
pub(crate) struct Opening<'a> {
    pub(crate) disk: &'a dyn Disk,
}

impl Opening<'_> {
    pub(crate) fn io(&self, source: std::io::Error) -> OpenError {
        OpenError::Io { folder: self.disk.path().display().to_string(), source }
    }

    pub(crate) fn damaged(&self, what: impl Into<String>) -> OpenError {
        OpenError::Damaged { folder: self.disk.path().display().to_string(), what: what.into() }
    }

    /// The segments in their order.
    pub(crate) fn segments(&self) -> Result<Vec<Found>, OpenError> {
        let mut found = BTreeMap::new();
        for name in self.disk.list().map_err(|error| self.io(error))? {
            let Some(number) = name.strip_suffix(".log").and_then(|number| number.parse::<u32>().ok()) else {
                continue;
            };
            let file = self.disk.open(&name).map_err(|error| self.io(error))?;
            let mut bytes = [0; SEGMENT_HEADER as usize];
            let read = file.read(&mut bytes, 0).map_err(|error| self.io(error))?;
            let header =
                SegmentHeader::decode(&bytes[..read]).map_err(|what| self.damaged(format!("{name}: {what}")))?;
            if header.number != number {
                return Err(self.damaged(format!("{name} is segment {} by its header", header.number)));
            }
            found.insert(number, Found { file, header });
        }
        let found: Vec<Found> = found.into_values().collect();
        if let Some(other) = found.iter().find(|other| other.header.store != found[0].header.store) {
            return Err(self.damaged(format!("{} belongs to another store", segment_name(other.header.number))));
        }
        Ok(found)
    }
}

/// What a scan of a segment finds for its index.
#[derive(Debug, Default)]
struct Contents {
    /// Topic, seq, `ts`, place, bytes of the record.
    events: Vec<(u32, u64, u64, Position, u64)>,
    ids: IdMap,
}

/// Brings a state to where the log ends.
struct Recovery<'a> {
    opening: Opening<'a>,
    store: u64,
    index: &'a Index,
    /// The index has all of the log before this place.
    from: Position,
    state: State,
}

impl Recovery<'_> {
    /// Reads a segment up to `end`, or to the first commit that is not whole; answers where that is. Records the index
    /// does not have are taken on; with `contents`, all events are collected.
    fn scan(&mut self, found: &Found, end: u32, mut contents: Option<&mut Contents>) -> Result<Position, OpenError> {
        let number = found.header.number;
        let start = Position::new(number, SEGMENT_HEADER);
        let start = if contents.is_none() { start.max(self.from) } else { start };
        let mut scanner = Scanner::new(&*found.file, self.store, start, end);
        loop {
            let commit = scanner.next().map_err(|error| self.opening.io(error))?;
            let Some(commit) = commit else { return Ok(scanner.at()) };
            for (at, record) in &commit.records {
                if let Some(contents) = &mut contents
                    && let Some(event) = EventRecord::decode(record)
                {
                    contents.events.push((event.topic, event.seq, event.ts, *at, record.length as u64));
                    if event.listed {
                        contents.ids.add(self.store, event.id, at.offset(), commit.time);
                    }
                }
                if *at >= self.from {
                    let applied = self.apply(*at, record);
                    applied.map_err(|what| self.opening.damaged(format!("{what} ({at})")))?;
                }
            }
        }
    }

    fn apply(&mut self, at: Position, record: &RawRecord<'_>) -> Result<(), String> {
        let unknown = || "a record is not what its kind says".to_owned();
        match record.kind {
            Kind::Event => {
                let event = EventRecord::decode(record).ok_or_else(unknown)?;
                let index = self.index;
                let known = |topic, key: &str| {
                    index.latest().and_then(|latest| latest.get(topic, key)).map_err(|error| error.to_string())
                };
                self.state.apply_scanned(&event, at, known)
            }
            Kind::Topic => self.state.apply_topic(&TopicRecord::decode(record.body).ok_or_else(unknown)?, at),
            Kind::Cursor => {
                let CursorRecord { topic, group, cursor } = CursorRecord::decode(record.body).ok_or_else(unknown)?;
                let group = Group::new(group).map_err(|error| format!("a group in the log is none: {error}"))?;
                if topic as usize >= self.state.topics.len() {
                    return Err("a cursor comes before its topic".into());
                }
                self.state.apply_cursor(topic, group, Arc::new(cursor.into_owned()), at);
                Ok(())
            }
            Kind::Lost => Ok(()),
        }
    }

    /// Takes on what the index has.
    fn restore(&mut self, loaded: &Loaded) -> Option<()> {
        for body in &loaded.topics {
            let (body, at) = placed(body)?;
            self.state.apply_topic(&TopicRecord::decode(body)?, at).ok()?;
        }
        for body in &loaded.cursors {
            let (body, at) = placed(body)?;
            let record = CursorRecord::decode(body)?;
            let group = Group::new(record.group).ok()?;
            self.state.apply_cursor(record.topic, group, Arc::new(record.cursor.into_owned()), at);
        }
        Some(())
    }

    /// Without an index, events may stand before the record of their topic, which was copied forward. What the log does
    /// not say of topics, `topics` may.
    fn find_topics(&mut self, segments: &[(Found, u32)], mut topics: Topics) -> Result<(), OpenError> {
        for (found, end) in segments {
            let start = Position::new(found.header.number, SEGMENT_HEADER);
            let mut scanner = Scanner::new(&*found.file, self.store, start, *end);
            while let Some(commit) = scanner.next().map_err(|error| self.opening.io(error))? {
                for (at, record) in commit.records.iter().filter(|(_, record)| record.kind == Kind::Topic) {
                    let decoded = TopicRecord::decode(record.body);
                    let own = decoded.ok_or_else(|| self.opening.damaged(format!("a topic record is none ({at})")))?;
                    let (name, holes) = (own.name.into_owned().into(), own.holes.into_owned().into());
                    if topics.get(&own.number).is_none_or(|(_, known)| known < at) {
                        topics.insert(own.number, (TopicRecord { name, holes, ..own }, *at));
                    }
                }
            }
        }
        for (record, at) in topics.values() {
            self.state.apply_topic(record, *at).map_err(|what| self.opening.damaged(what))?;
        }
        Ok(())
    }

    /// Where the active segment really ends, and how many bytes behind that are a commit that is not whole.
    fn check_end(&self, found: &Found, end: Position, length: u32, loaded: Option<&Loaded>) -> Result<u64, OpenError> {
        let opening = &self.opening;
        if let Some(index) = loaded.filter(|index| index.position.segment() == end.segment()) {
            if end < index.position {
                return Err(opening
                    .damaged(format!("the commit in {end} is not whole, and it was when the store was last open")));
            }
            if index.closed && end != index.position {
                return Err(
                    opening.damaged(format!("it goes on behind {}, where it ended when closed", index.position))
                );
            }
        }
        let durable = |header: &CommitHeader| header.synced > end;
        let later = later_commit(&*found.file, self.store, end, length, durable).map_err(|error| opening.io(error))?;
        if let Some((later, _)) = later {
            let what =
                format!("the commit in {end} is not whole, and it was durable before the one in {later} was made");
            return Err(opening.damaged(what));
        }
        self.rest(found, end, length)
    }

    /// How many bytes of a segment behind `end` are not just zeros.
    fn rest(&self, found: &Found, end: Position, length: u32) -> Result<u64, OpenError> {
        let written = written_end(&*found.file, end.offset(), length).map_err(|error| self.opening.io(error))?;
        Ok(u64::from(written - end.offset()))
    }
}

/// Opens the store of a folder, or makes one.
pub(crate) fn open(disk: &Arc<dyn Disk>, options: Options) -> Result<Arc<Log>, OpenError> {
    open_with(disk, options, None)
}

/// The same. With what a repair knows, an index is made beside the old one, which stays as it is, and it is no error that
/// something is missing.
pub(crate) fn open_with(disk: &Arc<dyn Disk>, options: Options, repair: Option<Known>) -> Result<Arc<Log>, OpenError> {
    let opening = Opening { disk: &**disk };
    let mut found = opening.segments()?;
    let mut fresh = false;
    if found.is_empty() {
        if disk.open(NAME).is_ok() {
            return Err(opening.damaged("its segments are missing"));
        }
        found.push(opening.make_first(&options)?);
        fresh = true;
    }
    let store = found[0].header.store;
    let (index, loaded) = match &repair {
        Some(_) => (opening.new_index(check::NEW_INDEX, store)?, None),
        None => opening.index(store, fresh)?,
    };
    let last = found.last().map_or(0, |found| found.header.number);
    let behind = loaded.as_ref().is_some_and(|loaded| loaded.position.segment() > last);
    // Only a segment behind which there is another one has an index file.
    if behind || sidecar::open(&**disk, store, last).is_some() {
        return Err(opening.damaged(format!("the segment behind {} is missing", segment_name(last))));
    }

    // Where each ends: as the next one says, or its index file, or where its file ends.
    let ends: Vec<Option<u32>> = found.windows(2).map(|pair| pair[1].told(pair[0].header.number)).collect();
    let mut segments = Vec::with_capacity(found.len());
    for found in found {
        let length = u32::try_from(found.file.len().map_err(|error| opening.io(error))?).unwrap_or(u32::MAX);
        segments.push((found, length));
    }

    let from = loaded.as_ref().map_or(Position::default(), |loaded| loaded.position);
    let mut recovery = Recovery { opening, store, index: &index, from, state: State::new(options.cache_bytes) };
    match &loaded {
        Some(loaded) => {
            recovery
                .restore(loaded)
                .ok_or_else(|| Opening { disk: &**disk }.damaged("its index holds what no hub wrote"))?;
            recovery.state.take_dirty();
        }
        None => {
            let topics = repair.as_ref().map(|known| known.topics.clone()).unwrap_or_default();
            recovery.find_topics(&segments, topics)?;
        }
    }

    let mut runs = Vec::new();
    let mut opened = BTreeMap::new();
    let (active, length) = segments.pop().ok_or_else(|| recovery.opening.damaged("it has no segments"))?;
    for ((found, length), told) in segments.into_iter().zip(ends) {
        let number = found.header.number;
        let written = sidecar::open(&**disk, store, number);
        // Once it has an index file it is as long as what is in it; before, the next one says how long that is.
        let written = written.filter(|(_, own, _)| told.is_none_or(|told| own.offset() == told));
        let mut end = written.as_ref().map(|(_, own, _)| own.offset()).or(told).unwrap_or(length);
        if end > length {
            let what = format!("{} is cut off at byte {length}, and it went to {end}", segment_name(number));
            return Err(recovery.opening.damaged(what));
        }
        let mut contents = Contents::default();
        if written.is_none() || from < Position::new(number, end) {
            let wanted = if written.is_none() { Some(&mut contents) } else { None };
            let reached = recovery.scan(&found, end, wanted)?;
            // Where nothing says where it ends, it ends with zeros.
            let untold = told.is_none() && written.is_none();
            if reached.offset() < end && !(untold && recovery.rest(&found, reached, end)? == 0) {
                return Err(recovery.opening.damaged(format!("the commit in {reached} is not whole")));
            }
            end = reached.offset();
        }
        let index = match written {
            Some((sidecar, own, entries)) => {
                runs.extend(entries.iter().map(|entry| (entry.topic, Run::from_entry(entry, number))));
                SegmentIndex::File(own.offset(), sidecar)
            }
            None => {
                runs.extend(collect_runs(&contents, number));
                SegmentIndex::Sealed(end, Arc::new(contents.ids))
            }
        };
        opened.insert(number, Arc::new(Segment { number, file: found.file, made_at: found.header.made_at, index }));
    }
    let closed = loaded.as_ref().is_some_and(|index| index.closed && index.position.segment() == active.header.number);
    if u64::from(length) < active.header.size && !closed && repair.is_none() {
        let name = segment_name(active.header.number);
        let what = format!("{name} is cut off at byte {length}, and it had {}", active.header.size);
        return Err(recovery.opening.damaged(what));
    }
    let mut contents = Contents::default();
    let end = recovery.scan(&active, length, Some(&mut contents))?;
    let torn = recovery.check_end(&active, end, length, loaded.as_ref())?;
    runs.extend(collect_runs(&contents, active.header.number));
    let Recovery { opening, mut state, .. } = recovery;
    state.ids = contents.ids;
    if torn > 0 {
        tracing::warn!(
            bytes = torn,
            "the last commit was not whole and never acknowledged as durable; cut off in {end}"
        );
    }
    state.add_runs(runs).map_err(|what| opening.damaged(what))?;
    let number = active.header.number;
    let active_file = Arc::clone(&active.file);
    let active = Segment { number, file: active.file, made_at: active.header.made_at, index: SegmentIndex::Active };
    let active = Arc::new(active);
    opened.insert(number, Arc::clone(&active));
    state.segments = Segments::new(opened);
    state.end = end;
    match repair {
        Some(known) => known.complete(&mut state),
        None => check::complete(&state).map_err(|what| opening.damaged(what))?,
    }

    // Never shorter in between: a segment that is too short was cut off.
    let size = u64::from(length).max(options.segment_bytes);
    active_file.write(&vec![0; torn as usize], end.offset().into()).map_err(|error| opening.io(error))?;
    if u64::from(length) < size {
        active_file.zero_from(length.into(), size).map_err(|error| opening.io(error))?;
    }
    // What was found may not be on disk yet, if it was a process that ended and not the machine.
    active_file.sync().map_err(|error| opening.io(error))?;
    disk.sync().map_err(|error| opening.io(error))?;
    let mut flush = state.take_dirty();
    flush.sort();
    // From now on it is open, and goes on behind this place.
    let mut indexed = from;
    match index.flush(&flush) {
        Ok(()) => {
            state.flushed(&flush.latest);
            indexed = end;
        }
        // On a full disk, for one: it is brought forward later. What says that the log was closed must go now.
        Err(error) if loaded.as_ref().is_some_and(|loaded| !loaded.closed) => {
            tracing::warn!(%error, "the index is behind the log for now");
            state.not_flushed(&flush);
            index.reopen(&**disk, store).map_err(|error| opening.io(std::io::Error::other(error)))?;
        }
        Err(error) => return Err(opening.io(std::io::Error::other(error))),
    }
    let kept_from = |log: &TopicLog| if options.retention.compacts(&log.topic) { 0 } else { log.first };
    check::newest(&state, &index, kept_from).map_err(|what| opening.damaged(what))?;
    check::tidy(&**disk, &state).map_err(|error| opening.io(error))?;
    let shared = Shared {
        disk: Arc::clone(disk),
        store,
        options,
        index,
        state: RwLock::new(state),
        synced: AtomicU64::new(end.0),
        indexed: AtomicU64::new(indexed.0),
        bell: Bell::default(),
    };
    let appender = Appender { segment: active, end: end.offset(), size, abandoned: false, closed: None };
    Ok(Arc::new(Log::new(shared, appender)))
}

/// The runs that events in their order make.
fn collect_runs(contents: &Contents, segment: u32) -> Vec<(u32, Run)> {
    let mut runs: Vec<(u32, Run)> = Vec::new();
    // The run of each topic that may go on.
    let mut open: HashMap<u32, usize> = HashMap::new();
    for (topic, seq, ts, at, bytes) in &contents.events {
        if let Some((_, run)) = open.get(topic).map(|index| &mut runs[*index])
            && run.last + 1 == *seq
            && let Offsets::Memory(offsets) = &mut run.offsets
        {
            offsets.push(at.offset());
            run.last = *seq;
            run.max_ts = run.max_ts.max(*ts);
            run.bytes += bytes;
            continue;
        }
        open.insert(*topic, runs.len());
        let offsets = Offsets::Memory(vec![at.offset()]);
        let run = Run { first: *seq, last: *seq, segment, skip: 0, offsets, max_ts: *ts, bytes: *bytes };
        runs.push((*topic, run));
    }
    runs
}

impl Opening<'_> {
    fn make_first(&self, options: &Options) -> Result<Found, OpenError> {
        let store = fastrand::u64(1..);
        let (previous_end, made_at, size) = (Position::default(), wall_clock(), options.segment_bytes);
        let header = SegmentHeader { store, number: 1, previous_end, made_at, size };
        let file = create_segment(self.disk, &header).map_err(|error| self.io(error))?;
        Ok(Found { file, header })
    }

    fn index(&self, store: u64, fresh: bool) -> Result<(Index, Option<Loaded>), OpenError> {
        match Index::open(self.disk, Some(store)) {
            // One that was never brought forward says nothing, not even that there are no topics.
            Ok((index, loaded)) => Ok((index, Some(loaded).filter(|loaded| loaded.position > Position::default()))),
            Err(error) => {
                if !fresh {
                    tracing::warn!(%error, "the index is made again from the log");
                }
                Ok((self.new_index(NAME, store)?, None))
            }
        }
    }

    fn new_index(&self, name: &str, store: u64) -> Result<Index, OpenError> {
        Index::make(self.disk, name, store).map_err(|error| self.io(std::io::Error::other(error)))
    }
}
