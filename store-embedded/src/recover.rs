//! Brings the state in memory to where the log ends: from the index, the index files, and the segments themselves.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use prom_protocol::Group;

use crate::{
    append::segment_name,
    check::Topics,
    format::{CommitHeader, Kind, Position, RawRecord, SEGMENT_HEADER},
    ids::IdMap,
    index::{Index, Loaded, placed},
    opening::{Found, OpenError, Opening},
    record::{CursorRecord, EventRecord, TopicRecord},
    scan::{Scanner, later_commit, written_end},
    sidecar,
    state::{Segment, SegmentIndex, Segments, State},
    topic_log::{Offsets, Run},
};

/// The events of a segment, for a segment without an index file.
#[derive(Debug, Default)]
struct Contents {
    /// Topic number, seq, `ts`, when it was committed, position, bytes of the record.
    events: Vec<(u32, u64, u64, u64, Position, u64)>,
    ids: IdMap,
}

/// A state that is being brought to where the log ends.
pub(crate) struct Recovery<'a> {
    opening: Opening<'a>,
    store: u64,
    index: &'a Index,
    /// The index has all of the log before this position.
    from: Position,
    state: State,
    /// Runs of the segments that were read, with the numbers of their topics.
    runs: Vec<(u32, Run)>,
    segments: BTreeMap<u32, Arc<Segment>>,
}

/// Where the log ends.
pub(crate) struct End {
    /// The active segment.
    pub(crate) segment: Arc<Segment>,
    /// Behind the last commit that is whole.
    pub(crate) at: Position,
    /// Bytes behind that of a commit that is not whole, to be overwritten with zeros.
    pub(crate) torn: u64,
}

impl<'a> Recovery<'a> {
    pub(crate) fn new(opening: Opening<'a>, store: u64, index: &'a Index, from: Position, cache_bytes: usize) -> Self {
        let state = State::new(cache_bytes);
        Self { opening, store, index, from, state, runs: Vec::new(), segments: BTreeMap::new() }
    }

    /// The state, with every segment that was read.
    pub(crate) fn into_state(mut self, end: Position) -> Result<State, OpenError> {
        self.state.add_runs(self.runs).map_err(|what| self.opening.damaged(what))?;
        self.state.segments = Segments::new(self.segments);
        self.state.end = end;
        self.state.find_free();
        Ok(self.state)
    }

    /// Takes over the topics and cursors of the index.
    pub(crate) fn restore(&mut self, loaded: &Loaded) -> Result<(), OpenError> {
        self.apply_index(loaded).ok_or_else(|| self.opening.damaged("its index holds what no hub wrote"))?;
        self.state.take_dirty();
        Ok(())
    }

    fn apply_index(&mut self, loaded: &Loaded) -> Option<()> {
        for body in &loaded.topics {
            let (body, at) = placed(body)?;
            self.state.apply_topic(&TopicRecord::decode(body)?, at).ok()?;
        }
        for body in &loaded.cursors {
            let (body, at) = placed(body)?;
            let record = CursorRecord::decode(body)?;
            let group = Group::stored(record.group).ok()?;
            self.state.apply_cursor(record.topic, group, Arc::new(record.cursor.into_owned()), at);
        }
        Some(())
    }

    /// Finds the topics without an index. The whole log is read for them first: an event may stand before the record of
    /// its topic, which was copied forward. `topics` adds what the log itself does not say.
    pub(crate) fn find_topics<'f>(
        &mut self,
        segments: impl Iterator<Item = &'f Found>,
        mut topics: Topics,
    ) -> Result<(), OpenError> {
        for found in segments {
            let start = Position::new(found.header.number, SEGMENT_HEADER);
            let mut scanner = Scanner::new(&*found.file, self.store, start, found.length);
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
            // The numbers of topics that were removed, and of which nothing is left.
            while self.state.topics.len() < record.number as usize {
                self.state.push_removed();
            }
            self.state.apply_topic(record, *at).map_err(|what| self.opening.damaged(what))?;
        }
        Ok(())
    }

    /// Reads a sealed segment as far as it must be: the index may be behind it, or its index file may be missing.
    pub(crate) fn read_sealed(&mut self, found: Found) -> Result<(), OpenError> {
        let number = found.header.number;
        let index_file = sidecar::open(self.opening.disk, self.store, number);
        // The header of the next segment is right about where this one ends, so an index file that says something else
        // is not used.
        let index_file = index_file.filter(|(_, end, _)| found.end_by_next.is_none_or(|next| end.offset() == next));
        let stated_end = index_file.as_ref().map(|(_, end, _)| end.offset()).or(found.end_by_next);
        let mut end = stated_end.unwrap_or(found.length);
        if end > found.length {
            let name = segment_name(number);
            let what = format!("{name} is cut off at byte {}, and it went to {end}", found.length);
            return Err(self.opening.damaged(what));
        }
        let mut contents = Contents::default();
        if index_file.is_none() || self.from < Position::new(number, end) {
            let wanted = if index_file.is_none() { Some(&mut contents) } else { None };
            let reached = self.scan(&found, end, wanted)?;
            // A segment whose end is stated nowhere ends with zeros.
            let only_zeros = || -> Result<bool, OpenError> {
                Ok(stated_end.is_none() && self.written_behind(&found, reached, end)? == 0)
            };
            if reached.offset() < end && !only_zeros()? {
                return Err(self.opening.damaged(format!("the commit in {reached} is not whole")));
            }
            end = reached.offset();
        }
        let index = match index_file {
            Some((sidecar, own, entries)) => {
                // An older hub did not write when its events were committed: before the next segment was made.
                let unknown = found.next_made_at.unwrap_or(u64::MAX);
                let run = |entry| {
                    let run = Run::from_entry(entry, number);
                    Run { committed: if run.committed == 0 { unknown } else { run.committed }, ..run }
                };
                self.runs.extend(entries.iter().map(|entry| (entry.topic, run(entry))));
                SegmentIndex::File(own.offset(), sidecar)
            }
            None => {
                self.runs.extend(collect_runs(&contents, number));
                SegmentIndex::Sealed(end, Arc::new(contents.ids))
            }
        };
        self.keep(found, index);
        Ok(())
    }

    /// The active segment's file has at least the bytes it was made with, unless the store was closed: a shorter one was
    /// cut off, and nobody knows what stood behind.
    pub(crate) fn check_length(&self, active: &Found, loaded: Option<&Loaded>) -> Result<(), OpenError> {
        let number = active.header.number;
        let closed = loaded.is_some_and(|index| index.closed && index.position.segment() == number);
        if u64::from(active.length) < active.header.size && !closed {
            let name = segment_name(number);
            let what = format!("{name} is cut off at byte {}, and it had {}", active.length, active.header.size);
            return Err(self.opening.damaged(what));
        }
        Ok(())
    }

    /// Reads the active segment up to where the log ends, and makes sure that it did not go on from there.
    pub(crate) fn read_active(&mut self, found: Found, loaded: Option<&Loaded>) -> Result<End, OpenError> {
        let mut contents = Contents::default();
        let at = self.scan(&found, found.length, Some(&mut contents))?;
        let torn = self.check_end(&found, at, loaded)?;
        self.runs.extend(collect_runs(&contents, found.header.number));
        self.state.ids = contents.ids;
        if torn > 0 {
            tracing::warn!(
                bytes = torn,
                "the last commit was not whole and never acknowledged as durable; cut off in {at}"
            );
        }
        Ok(End { segment: self.keep(found, SegmentIndex::Active), at, torn })
    }

    /// Adds a segment that was read to the state to be.
    fn keep(&mut self, found: Found, index: SegmentIndex) -> Arc<Segment> {
        let number = found.header.number;
        let segment = Arc::new(Segment { number, file: found.file, made_at: found.header.made_at, index });
        self.segments.insert(number, Arc::clone(&segment));
        segment
    }

    /// Reads a segment up to `end`, or to the first commit that is not whole; returns where that is. Records that the index
    /// does not have are applied to the state. `contents` collects all events.
    fn scan(&mut self, found: &Found, end: u32, mut contents: Option<&mut Contents>) -> Result<Position, OpenError> {
        let number = found.header.number;
        let start = Position::new(number, SEGMENT_HEADER);
        let start = if contents.is_none() { start.max(self.from) } else { start };
        let mut scanner = Scanner::new(&*found.file, self.store, start, end);
        // A commit that was repaired has no time: it is as old as the one before it.
        let mut time = found.header.made_at;
        loop {
            let commit = scanner.next().map_err(|error| self.opening.io(error))?;
            let Some(commit) = commit else { return Ok(scanner.at()) };
            if commit.time > 0 {
                time = commit.time;
            }
            for (at, record) in &commit.records {
                if let Some(contents) = &mut contents
                    && let Some(event) = EventRecord::decode(record)
                {
                    let bytes = record.length as u64;
                    contents.events.push((event.topic, event.seq, event.ts, time, *at, bytes));
                    if event.listed {
                        // A copy is of a time that would stretch the segment's.
                        let now = if event.moved { found.header.made_at } else { commit.time };
                        contents.ids.add(self.store, event.topic, event.id, at.offset(), now);
                    }
                }
                if *at >= self.from {
                    let applied = self.apply(*at, record);
                    applied.map_err(|what| self.opening.damaged(format!("{what} ({at})")))?;
                }
            }
        }
    }

    /// Applies one record to the state.
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
                let group = Group::stored(group).map_err(|error| format!("a group in the log is none: {error}"))?;
                if topic as usize >= self.state.topics.len() {
                    return Err("a cursor comes before its topic".into());
                }
                self.state.apply_cursor(topic, group, Arc::new(cursor.into_owned()), at);
                Ok(())
            }
            Kind::Lost => Ok(()),
        }
    }

    /// Whether the log may end at `end`: a commit that was durable must not be missing behind it. Returns how many bytes
    /// there are of a commit that is not whole.
    fn check_end(&self, found: &Found, end: Position, loaded: Option<&Loaded>) -> Result<u64, OpenError> {
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
        let later =
            later_commit(&*found.file, self.store, end, found.length, durable).map_err(|error| opening.io(error))?;
        if let Some((later, _)) = later {
            let what =
                format!("the commit in {end} is not whole, and it was durable before the one in {later} was made");
            return Err(opening.damaged(what));
        }
        self.written_behind(found, end, found.length)
    }

    /// How many bytes of a segment stand between `end` and the zeros in front of `limit`.
    fn written_behind(&self, found: &Found, end: Position, limit: u32) -> Result<u64, OpenError> {
        let written = written_end(&*found.file, end.offset(), limit).map_err(|error| self.opening.io(error))?;
        Ok(u64::from(written - end.offset()))
    }
}

/// The runs of a segment's events, which are in the order of the log.
fn collect_runs(contents: &Contents, segment: u32) -> Vec<(u32, Run)> {
    let mut runs: Vec<(u32, Run)> = Vec::new();
    // By topic: the run that its next event may belong to.
    let mut open: HashMap<u32, usize> = HashMap::new();
    for (topic, seq, ts, committed, at, bytes) in &contents.events {
        if let Some((_, run)) = open.get(topic).map(|index| &mut runs[*index])
            && run.last + 1 == *seq
            && let Offsets::Memory(offsets) = &mut run.offsets
        {
            offsets.push(at.offset());
            run.last = *seq;
            run.max_ts = run.max_ts.max(*ts);
            run.committed = run.committed.max(*committed);
            run.bytes += bytes;
            continue;
        }
        open.insert(*topic, runs.len());
        let offsets = Offsets::Memory(vec![at.offset()]);
        let (first, last, max_ts, committed, bytes) = (*seq, *seq, *ts, *committed, *bytes);
        let run = Run { first, last, segment, skip: 0, offsets, max_ts, committed, bytes };
        runs.push((*topic, run));
    }
    runs
}
