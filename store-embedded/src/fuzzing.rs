//! Records and logs in memory, for `fuzz/targets`: what reads them is not public and is called from here. No part of the
//! store uses it, and nobody else should.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    path::Path,
    sync::{Arc, Mutex},
};

use prom_protocol::{Event, EventOptions, Group, Text, Topic, encode_event_body, encode_event_position};
use prom_store::{Append, Batch, Cursor, CursorPut, StoreError, Stored};

use crate::{
    append::segment_name,
    disk::{Disk, DiskFile},
    format::{
        COMMIT_HEADER, CommitHeader, Kind, Position, RawRecord, SEGMENT_HEADER, SegmentHeader, aligned, begin_record,
        decode_record, end_record,
    },
    keeper::Keeper,
    log,
    open::open,
    opening::OpenError,
    options::Options,
    record::{self, CursorRecord, EventRecord, NewEvent, TopicRecord, encode_moved},
    shared::lock,
    tools,
};

/// The files of a store, by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Identity of every store that is made here, so that an input always does the same.
const STORE: u64 = 0x5eed;
/// Bytes of a segment: small, so that a small log has several.
const SEGMENT: u64 = 12 * 1024;
/// When everything here begins, in milliseconds since the Unix epoch.
const BEGUN: u64 = 1_000_000;

/// What a record says, before and after it was written again.
#[derive(Debug)]
pub struct Said {
    /// Its fields.
    pub fields: String,
    /// The same of the record that was written from what was read; none for a kind that nothing is written of.
    pub again: Option<String>,
    /// For an event: its JSON, and whether that is what the record says it is.
    pub event: Option<(Vec<u8>, bool)>,
    /// The same record, with one bit of it wrong, was taken for whole.
    pub blind: bool,
}

/// Reads a record of this kind that says this, with the right checksum. None: it is none of its kind.
pub fn record(kind: u8, flags: u8, body: &[u8], wrong_bit: usize) -> Option<Said> {
    let at = Position::new(4, 104);
    let mut bytes = Vec::with_capacity(body.len() + 16);
    begin_record(&mut bytes, Kind::Event, flags);
    bytes[8] = kind;
    bytes.extend_from_slice(body);
    end_record(&mut bytes, 0, STORE, at);
    let record = decode_record(&bytes, STORE, at)?;
    let mut flipped = bytes.clone();
    let bit = wrong_bit % (flipped.len() * 8);
    flipped[bit / 8] ^= 1 << (bit % 8);
    let blind = decode_record(&flipped, STORE, at).is_some();
    let mut said = read(&record, at)?;
    said.blind = blind;
    Some(said)
}

fn read(record: &RawRecord<'_>, at: Position) -> Option<Said> {
    let said = |fields, again| Some(Said { fields, again, event: None, blind: false });
    let mut out = Vec::new();
    match record.kind {
        Kind::Event => {
            let event = EventRecord::decode(record)?;
            let sound = record::is_sound(record);
            let mut again = None;
            if sound && let Some((topic, body)) = parts(&event) {
                let EventRecord { topic: number, seq, ts, id, key, listed, .. } = event;
                let new = NewEvent { topic: number, topic_name: &topic, seq, ts, id, key, body: &body, listed };
                new.encode(&mut out, STORE, at);
                let written = decode_record(&out, STORE, at);
                let written = written.and_then(|record| Some(format!("{:?}", EventRecord::decode(&record)?)));
                // Only a copy says that it is one.
                let mut own = event.clone();
                own.moved = false;
                again = Some((format!("{own:?}"), written));
            }
            let mut copy = Vec::new();
            encode_moved(&mut copy, record, STORE, at);
            let copied = decode_record(&copy, STORE, at).is_some_and(|copy| {
                EventRecord::decode(&copy)
                    .is_some_and(|copy| copy.moved && copy.json == event.json && copy.id == event.id)
            });
            let (fields, again) = match again {
                Some((own, written)) => (own, Some(written.unwrap_or_else(|| "no event".into()))),
                None => (format!("{event:?}"), None),
            };
            let again = if copied { again } else { Some("its copy is another event".into()) };
            Some(Said { fields, again, event: Some((event.json.to_vec(), sound)), blind: false })
        }
        Kind::Topic => {
            let topic = TopicRecord::decode(record.body)?;
            topic.encode(&mut out, STORE, at);
            let again = decode_record(&out, STORE, at)
                .and_then(|record| Some(format!("{:?}", TopicRecord::decode(record.body)?)));
            said(format!("{topic:?}"), Some(again.unwrap_or_else(|| "no topic".into())))
        }
        Kind::Cursor => {
            let cursor = CursorRecord::decode(record.body)?;
            cursor.encode(&mut out, STORE, at);
            let again = decode_record(&out, STORE, at)
                .and_then(|record| Some(format!("{:?}", CursorRecord::decode(record.body)?)));
            said(format!("{cursor:?}"), Some(again.unwrap_or_else(|| "no cursor".into())))
        }
        Kind::Lost => said("lost".into(), None),
    }
}

/// Topic and second part of the JSON of an event whose JSON begins as this store writes it.
fn parts(event: &EventRecord<'_>) -> Option<(String, Vec<u8>)> {
    let mut start = Vec::new();
    encode_event_position(&mut start, event.id, event.seq, event.ts);
    let body = event.json.strip_prefix(&*start)?.to_vec();
    let topic = Event::parse(std::str::from_utf8(event.json).ok()?).ok()?.topic.into_owned();
    Some((topic.as_str().to_owned(), body))
}

/// What stands in a log that lies: its checksums are right, whatever it says.
#[derive(Debug, Clone)]
pub enum Lie {
    /// A topic.
    Topic {
        /// Its number.
        number: u32,
        /// Its name.
        name: String,
        /// Epoch, first and last seq.
        numbers: [u64; 3],
        /// Seqs that were given up.
        holes: Vec<(u64, u64)>,
    },
    /// An event.
    Event {
        /// Number of its topic.
        topic: u32,
        /// Name of its topic, as it says.
        name: String,
        /// Its position.
        seq: u64,
        /// Its time.
        ts: u64,
        /// Its id.
        id: String,
        /// What it is about.
        key: Option<String>,
        /// The id stands in the segment's table.
        listed: bool,
        /// It was copied forward.
        moved: bool,
    },
    /// A cursor.
    Cursor {
        /// Number of its topic.
        topic: u32,
        /// Its group.
        group: String,
        /// Epoch, floor, delivered.
        numbers: [u64; 3],
    },
    /// Any record.
    Raw {
        /// What it is about.
        kind: u8,
        /// Its flags.
        flags: u8,
        /// What it says.
        body: Vec<u8>,
    },
}

impl Lie {
    fn encode(&self, out: &mut Vec<u8>, base: Position) {
        match self {
            Self::Topic { number, name, numbers: [epoch, first, tail], holes } => {
                let (name, holes) = (name.as_str().into(), holes.as_slice().into());
                let topic = TopicRecord { number: *number, name, epoch: *epoch, first: *first, tail: *tail, holes };
                topic.encode(out, STORE, base);
            }
            Self::Event { topic, name, seq, ts, id, key, listed, moved } => {
                let options = EventOptions { key: key.as_deref().map(Text::from), ..EventOptions::default() };
                let mut body = Vec::new();
                encode_event_body(&mut body, name, &options, "1");
                let (key, body) = (key.as_deref(), &*body);
                let event =
                    NewEvent { topic: *topic, topic_name: name, seq: *seq, ts: *ts, id, key, body, listed: *listed };
                if !moved {
                    event.encode(out, STORE, base);
                    return;
                }
                let (mut bytes, at) = (Vec::new(), Position::new(1, 64));
                event.encode(&mut bytes, STORE, at);
                if let Some(record) = decode_record(&bytes, STORE, at) {
                    encode_moved(out, &record, STORE, base);
                }
            }
            Self::Cursor { topic, group, numbers: [epoch, floor, delivered] } => {
                let cursor = Cursor { epoch: *epoch, floor: *floor, delivered: *delivered, ..Cursor::default() };
                let record = CursorRecord { topic: *topic, group, cursor: std::borrow::Cow::Owned(cursor) };
                record.encode(out, STORE, base);
            }
            Self::Raw { kind, flags, body } => {
                let start = begin_record(out, Kind::Event, *flags);
                out[start + 8] = *kind;
                out.extend_from_slice(body);
                end_record(out, start, STORE, Position(base.0 + start as u64));
            }
        }
    }
}

/// The files of a log of these segments of commits.
pub fn lying(segments: &[Vec<Vec<Lie>>]) -> Files {
    let mut files = Files::new();
    let mut previous_end = Position::default();
    for (number, commits) in (1..).zip(segments) {
        let header = SegmentHeader { store: STORE, number, previous_end, made_at: BEGUN, size: 0 };
        let mut bytes = header.encode().to_vec();
        for (n, lies) in (0..).zip(commits) {
            let at = Position::new(number, bytes.len() as u32);
            let mut body = Vec::new();
            for lie in lies {
                lie.encode(&mut body, Position(at.0 + COMMIT_HEADER as u64));
            }
            let (records, time) = (lies.len() as u32, BEGUN + n);
            let header = CommitHeader { body: body.len() as u32, records, synced: at, time };
            bytes.extend_from_slice(&header.encode(STORE, at));
            bytes.extend_from_slice(&body);
            bytes.resize(SEGMENT_HEADER as usize + aligned(bytes.len() - SEGMENT_HEADER as usize), 0);
        }
        previous_end = Position::new(number, bytes.len() as u32);
        files.insert(segment_name(number), bytes);
    }
    files
}

/// A store in memory.
#[derive(Debug)]
pub struct Log {
    disk: Memory,
    log: Arc<log::Log>,
}

fn options() -> Options {
    Options { cache_bytes: 1024, segment_bytes: SEGMENT, flush_records: 1 << 20, ..Options::default() }
}

impl Log {
    /// An empty one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self, OpenError> {
        let header =
            SegmentHeader { store: STORE, number: 1, previous_end: Position::default(), made_at: BEGUN, size: SEGMENT };
        let mut bytes = header.encode().to_vec();
        bytes.resize(SEGMENT as usize, 0);
        Self::open(&Files::from([(segment_name(1), bytes)]))
    }

    /// The store of these files.
    ///
    /// # Errors
    /// They are damaged.
    pub fn open(files: &Files) -> Result<Self, OpenError> {
        let disk = Memory::with(files);
        let log = open(&(Arc::new(disk.clone()) as Arc<dyn Disk>), options())?;
        Ok(Self { disk, log })
    }

    /// Commits one event on each of these topics, with a key or without, and a cursor where a group is named.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn commit(
        &self,
        now: u64,
        events: &[(&'static str, Option<&'static str>)],
        group: Option<&str>,
    ) -> Result<(), StoreError> {
        let mut batch = Batch { now: BEGUN + now, ..Batch::default() };
        for (n, (name, key)) in events.iter().enumerate() {
            let options = EventOptions {
                id: (n % 2 == 1).then(|| Text::from(format!("mine-{now}-{n}"))),
                key: key.map(Text::from),
                ..EventOptions::default()
            };
            let payload = format!("[\"{}\"]", "x".repeat((now as usize * 37 + n * 11) % 400));
            batch.appends.push(Append::new(Topic::from_static(name), &options, &payload));
        }
        if let (Some(group), Some((name, _))) = (group, events.first()) {
            let topic = Topic::from_static(name);
            let floor = self.log.shared.read().topic(&topic).map_or(0, |log| log.tail);
            let cursor = Cursor { floor, delivered: floor, last_ts: now, ..Cursor::default() };
            if let Ok(group) = Group::new(group) {
                batch.cursors.push(CursorPut { topic, group, cursor });
            }
        }
        self.log.appender().commit(&self.log.shared, batch)?;
        Ok(())
    }

    /// Brings the index forward and writes the tables of sealed segments.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn tidy(&self) -> Result<(), StoreError> {
        let mut keeper = Keeper::new(&self.log);
        keeper.flush(false, None)?;
        keeper.write_sidecars()
    }

    /// The files as they are.
    pub fn files(&self) -> Files {
        lock(&self.disk.0).iter().map(|(name, file)| (name.clone(), lock(file).clone())).collect()
    }

    /// Where the log ends: file and byte.
    pub fn end(&self) -> (String, usize) {
        let end = self.log.shared.read().end;
        (segment_name(end.segment()), end.offset() as usize)
    }

    /// The topics that it has.
    pub fn topics(&self) -> Vec<Topic> {
        self.log.shared.read().by_name.keys().cloned().collect()
    }

    /// A topic's events in front of the first that cannot be read, and the error there.
    pub fn events(&self, topic: &Topic) -> (Vec<Stored>, Option<StoreError>) {
        let (mut events, mut after) = (Vec::new(), 0);
        loop {
            match self.log.shared.read_page(topic, after, 50, usize::MAX) {
                Ok(page) if page.read_to <= after => return (events, None),
                Ok(page) => {
                    after = page.read_to;
                    events.extend(page.events);
                }
                Err(error) => return (events, Some(error)),
            }
        }
    }

    /// Asks what else there is to ask of a topic.
    pub fn ask(&self, topic: &Topic, key: &str, id: &str, ts: u64) {
        let shared = &self.log.shared;
        let _ = (shared.latest(topic, key), shared.latest_page(topic, None, u64::MAX, 50, usize::MAX));
        let _ = (shared.seq_before_ts(topic, ts), shared.salvage_page(topic, 0, 50, usize::MAX));
        let state = shared.read();
        if let Some(number) = state.by_name.get(topic) {
            let _ = shared.find_id(&state, *number, id);
        }
    }
}

/// Whether `prom store verify` finds these files whole.
///
/// # Errors
/// It cannot say.
pub fn verify(files: &Files) -> Result<bool, OpenError> {
    tools::verify_on(Arc::new(Memory::with(files))).map(|report| report.is_whole())
}

type Shared = Arc<Mutex<Vec<u8>>>;

/// A folder in memory.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<String, Shared>>>);

impl Memory {
    fn with(files: &Files) -> Self {
        let files = files.iter().map(|(name, bytes)| (name.clone(), Arc::new(Mutex::new(bytes.clone()))));
        Self(Arc::new(Mutex::new(files.collect())))
    }
}

#[derive(Debug)]
struct File(Shared);

impl DiskFile for File {
    fn read(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let bytes = lock(&self.0);
        let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write(&self, buf: &[u8], at: u64) -> io::Result<()> {
        let mut bytes = lock(&self.0);
        let (at, end) = (at as usize, at as usize + buf.len());
        let length = bytes.len().max(end);
        bytes.resize(length, 0);
        bytes[at..end].copy_from_slice(buf);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        lock(&self.0).resize(len as usize, 0);
        Ok(())
    }

    fn zero_from(&self, at: u64, size: u64) -> io::Result<()> {
        self.set_len(at)?;
        self.set_len(size)
    }
}

impl Disk for Memory {
    fn path(&self) -> &Path {
        Path::new("memory")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0).keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = lock(&self.0).get(name).map(Arc::clone).ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(File(file)))
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file: Shared = Arc::new(Mutex::new(vec![0; size as usize]));
        lock(&self.0).insert(name.into(), Arc::clone(&file));
        Ok(Arc::new(File(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.0);
        let file = files.remove(from).ok_or(ErrorKind::NotFound)?;
        files.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.0).remove(name).map(drop).ok_or(ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
