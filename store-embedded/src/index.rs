//! What is small and changes: topics, cursors, where the newest event of each key stands. Kept in redb, brought forward
//! behind the acknowledgement, and made again from the log when it is missing or damaged.

use std::{
    collections::BTreeMap,
    fmt, io,
    ops::Bound::{self, Excluded, Included, Unbounded},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError, RwLock},
};

use redb::{Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use crate::{
    disk::{Disk, DiskFile, read_exact},
    format::Position,
};

/// The name of the index file.
pub(crate) const NAME: &str = "index.redb";
/// Raised when what the tables hold changes its meaning; another version is made again from the log.
const VERSION: u64 = 1;
/// Memory for its pages, in bytes.
const CACHE: usize = 16 * 1024 * 1024;
/// Entries read at once by [`Latest::page`].
const PAGE: usize = 1024;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// By number: the body of a topic record, and where that record stands ([`placed`]).
const TOPICS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("topics");
/// By topic number and group: the body of a cursor record, and where that record stands.
const CURSORS: TableDefinition<'_, (u32, &str), &[u8]> = TableDefinition::new("cursors");
/// By topic number and key: position and seq of the key's newest event.
const LATEST: TableDefinition<'_, (u32, &str), (u64, u64)> = TableDefinition::new("latest");
/// How many entries of `LATEST` point into a segment.
const POINTED: TableDefinition<'_, u32, u64> = TableDefinition::new("pointed");

/// Why the index could not be used.
#[derive(Debug, thiserror::Error)]
#[error("index.redb: {0}")]
pub(crate) struct IndexError(String);

/// redb has an error type for each operation.
macro_rules! from_redb {
    ($($error:ident)*) => {
        $(impl From<redb::$error> for IndexError {
            fn from(error: redb::$error) -> Self {
                Self(error.to_string())
            }
        })*
    };
}
from_redb!(DatabaseError TransactionError TableError StorageError CommitError SetDurabilityError);

/// Where the newest event of a key stands, and its seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LatestAt {
    pub(crate) at: Position,
    pub(crate) seq: u64,
}

/// What the index gets in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Flush {
    /// The index has all of the log before this position afterwards.
    pub(crate) position: Position,
    /// The store is being closed, and the log ends at `position`.
    pub(crate) closed: bool,
    /// By number: what the table of topics gets.
    pub(crate) topics: Vec<(u32, Vec<u8>)>,
    /// By number: topics of which nothing else is to stand in the index than what comes with this.
    pub(crate) removed: Vec<u32>,
    /// By topic number and group: what the table of cursors gets; none: nothing is to stand there.
    pub(crate) cursors: Vec<(u32, Box<str>, Option<Vec<u8>>)>,
    /// By topic number and key.
    pub(crate) latest: Vec<(u32, Box<str>, LatestAt)>,
    /// How many records of the log those came from.
    pub(crate) records: usize,
}

impl Flush {
    /// Sorts the newest events as their table is sorted: neighbours are then written together.
    pub(crate) fn sort(&mut self) {
        self.latest.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    }
}

/// Splits what the index has of a record: its body, and where it stands in the log, which follows in 8 bytes.
pub(crate) fn placed(body: &[u8]) -> Option<(&[u8], Position)> {
    let (body, at) = body.split_at_checked(body.len().checked_sub(8)?)?;
    Some((body, Position(u64::from_le_bytes(at.try_into().ok()?))))
}

/// What the index says when it is opened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loaded {
    /// Identity of the store it belongs to.
    pub(crate) store: u64,
    /// The index has all of the log before this.
    pub(crate) position: Position,
    /// The store was closed, and the log ends at `position`.
    pub(crate) closed: bool,
    /// Entries of the table of topics, by number.
    pub(crate) topics: Vec<Vec<u8>>,
    /// Entries of the table of cursors.
    pub(crate) cursors: Vec<Vec<u8>>,
}

/// The index, open.
///
/// After an I/O error, such as a disk that was full for a moment, redb refuses everything until it is opened again: see
/// [`Index::reopen`]. None: that has failed.
pub(crate) struct Index(RwLock<Option<Arc<Database>>>);

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Index")
    }
}

/// redb on a [`DiskFile`].
#[derive(Debug)]
struct Backend(Arc<dyn DiskFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_exact(&*self.0, out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let now = self.0.len()?;
        // Reserves the space, so that writes do not meet a full disk. If it cannot be reserved there may still be enough
        // for the few writes that come.
        if len > now && self.0.zero_from(now, len).is_ok() { Ok(()) } else { self.0.set_len(len) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(data, offset)
    }
}

impl Index {
    /// Opens the index of a store, or of any; every page of it is checked.
    ///
    /// # Errors
    /// It is missing, damaged, of another version or of another store: [`Index::make`] makes a new one.
    pub(crate) fn open(disk: &dyn Disk, store: Option<u64>) -> Result<(Self, Loaded), IndexError> {
        let file = disk.open(NAME).map_err(|error| IndexError(error.to_string()))?;
        if file.len().map_err(|error| IndexError(error.to_string()))? == 0 {
            return Err(IndexError("it is empty".into()));
        }
        let open = || {
            let database = builder().set_check_integrity_on_open(true).create_with_backend(Backend(file))?;
            let loaded = load(&database.begin_read()?, store)?;
            Ok((Self::of(database), loaded))
        };
        // On some damaged files redb does not return an error but panics.
        catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(IndexError("it is damaged".into())))
    }

    fn of(database: Database) -> Self {
        Self(RwLock::new(Some(Arc::new(database))))
    }

    fn database(&self) -> Result<Arc<Database>, IndexError> {
        let database = self.0.read().unwrap_or_else(PoisonError::into_inner);
        database.as_ref().map(Arc::clone).ok_or_else(|| IndexError("it could not be opened again".into()))
    }

    /// Opens it again after an error, as it was when it was last brought forward. What has come since is still in the
    /// state.
    pub(crate) fn reopen(&self, disk: &dyn Disk, store: u64) -> Result<(), IndexError> {
        let mut database = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Drop the old one first, so that two never have the file.
        *database = None;
        let (opened, _) = Self::open(disk, Some(store))?;
        *database = opened.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(())
    }

    /// Makes an empty one of that name, in the place of a file that is there.
    pub(crate) fn make(disk: &dyn Disk, name: &str, store: u64) -> Result<Self, IndexError> {
        let file = disk.create(name, 0).map_err(|error| IndexError(error.to_string()))?;
        let database = builder().create_with_backend(Backend(file))?;
        let write = database.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            meta.insert("version", VERSION)?;
            meta.insert("store", store)?;
            meta.insert("position", 0)?;
            meta.insert("closed", 0)?;
            write.open_table(TOPICS)?;
            write.open_table(CURSORS)?;
            write.open_table(LATEST)?;
            write.open_table(POINTED)?;
        }
        write.commit()?;
        disk.sync().map_err(|error| IndexError(error.to_string()))?;
        Ok(Self::of(database))
    }

    /// Brings the index forward, durably.
    pub(crate) fn flush(&self, flush: &Flush) -> Result<(), IndexError> {
        let write = self.database()?.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            meta.insert("position", flush.position.0)?;
            meta.insert("closed", u64::from(flush.closed))?;
            let mut topics = write.open_table(TOPICS)?;
            for (number, body) in &flush.topics {
                topics.insert(number, &**body)?;
            }
            let mut cursors = write.open_table(CURSORS)?;
            let mut pointed = write.open_table(POINTED)?;
            let mut change = BTreeMap::<u32, i64>::new();
            let mut latest = write.open_table(LATEST)?;
            for topic in &flush.removed {
                cursors.retain_in::<(u32, &str), _>(of_topic(*topic), |_, _| false)?;
                latest.retain_in::<(u32, &str), _>(of_topic(*topic), |_, (at, _)| {
                    *change.entry(Position(at).segment()).or_default() -= 1;
                    false
                })?;
            }
            for (topic, group, body) in &flush.cursors {
                match body {
                    Some(body) => drop(cursors.insert((*topic, &**group), &**body)?),
                    None => drop(cursors.remove((*topic, &**group))?),
                }
            }
            for (topic, key, new) in &flush.latest {
                let old = latest.insert((*topic, &**key), (new.at.0, new.seq))?;
                *change.entry(new.at.segment()).or_default() += 1;
                if let Some(old) = old {
                    *change.entry(Position(old.value().0).segment()).or_default() -= 1;
                }
            }
            for (segment, change) in change {
                let count = pointed.get(segment)?.map_or(0, |count| count.value());
                match count.saturating_add_signed(change) {
                    0 => drop(pointed.remove(segment)?),
                    count => drop(pointed.insert(segment, count)?),
                }
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Takes out newest events that are not wanted any more, unless their keys have newer ones by now.
    pub(crate) fn forget(&self, entries: &[(u32, Box<str>, LatestAt)]) -> Result<(), IndexError> {
        let write = self.database()?.begin_write()?;
        {
            let mut pointed = write.open_table(POINTED)?;
            let mut latest = write.open_table(LATEST)?;
            for (topic, key, old) in entries {
                let same = latest.get((*topic, &**key))?.is_some_and(|own| own.value() == (old.at.0, old.seq));
                if same {
                    latest.remove((*topic, &**key))?;
                    let segment = old.at.segment();
                    let count = pointed.get(segment)?.map_or(0, |count| count.value());
                    match count.saturating_sub(1) {
                        0 => drop(pointed.remove(segment)?),
                        count => drop(pointed.insert(segment, count)?),
                    }
                }
            }
        }
        write.commit()?;
        Ok(())
    }

    /// How many newest events stand in a segment, as far as the index has come.
    pub(crate) fn pointed(&self, segment: u32) -> Result<u64, IndexError> {
        let read = self.database()?.begin_read()?;
        Ok(read.open_table(POINTED)?.get(segment)?.map_or(0, |count| count.value()))
    }

    /// Numbers of the segments that newest events stand in.
    pub(crate) fn pointed_segments(&self) -> Result<Vec<u32>, IndexError> {
        let read = self.database()?.begin_read()?;
        let table = read.open_table(POINTED)?;
        table.iter()?.map(|entry| Ok(entry?.0.value())).collect()
    }

    /// Every newest event, with the number of its topic.
    pub(crate) fn all_latest(&self) -> Result<Vec<(u32, LatestAt)>, IndexError> {
        let mut all = Vec::new();
        self.each_latest(|topic, _, latest| all.push((topic, latest)))?;
        Ok(all)
    }

    /// Gives every newest event, with the number of its topic and its key, to `each`.
    pub(crate) fn each_latest(&self, mut each: impl FnMut(u32, &str, LatestAt)) -> Result<(), IndexError> {
        let read = self.database()?.begin_read()?;
        for entry in read.open_table(LATEST)?.iter()? {
            let (key, latest) = entry?;
            let ((topic, key), (at, seq)) = (key.value(), latest.value());
            each(topic, key, LatestAt { at: Position(at), seq });
        }
        Ok(())
    }

    /// The newest events as they are now.
    pub(crate) fn latest(&self) -> Result<Latest, IndexError> {
        Ok(Latest(self.database()?.begin_read()?))
    }
}

/// Where keys of a table begin or end that are a topic's number and a name.
type Border = Bound<(u32, &'static str)>;

/// The keys of a topic in such a table.
fn of_topic(topic: u32) -> (Border, Border) {
    (Included((topic, "")), topic.checked_add(1).map_or(Unbounded, |next| Excluded((next, ""))))
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

fn load(read: &ReadTransaction, store: Option<u64>) -> Result<Loaded, IndexError> {
    let meta = read.open_table(META)?;
    let number = |name: &str| -> Result<u64, IndexError> {
        meta.get(name)?.map(|value| value.value()).ok_or_else(|| IndexError(format!("{name} is missing")))
    };
    if number("version")? != VERSION {
        return Err(IndexError("it is of another version".into()));
    }
    let own = number("store")?;
    if store.is_some_and(|store| store != own) {
        return Err(IndexError("it belongs to another store".into()));
    }
    let (position, closed) = (Position(number("position")?), number("closed")? != 0);
    let mut loaded = Loaded { store: own, position, closed, ..Loaded::default() };
    for entry in read.open_table(TOPICS)?.iter()? {
        let (number, body) = entry?;
        if number.value() as usize != loaded.topics.len() {
            return Err(IndexError("a topic is missing".into()));
        }
        loaded.topics.push(body.value().to_vec());
    }
    for entry in read.open_table(CURSORS)?.iter()? {
        loaded.cursors.push(entry?.1.value().to_vec());
    }
    Ok(loaded)
}

/// Keys, and where the newest event of each stands.
pub(crate) type KeysLatest = Vec<(Box<str>, LatestAt)>;

/// The newest events at one moment.
pub(crate) struct Latest(ReadTransaction);

impl Latest {
    pub(crate) fn get(&self, topic: u32, key: &str) -> Result<Option<LatestAt>, IndexError> {
        let table = self.0.open_table(LATEST)?;
        let found = table.get((topic, key))?.map(|value| value.value());
        Ok(found.map(|(at, seq)| LatestAt { at: Position(at), seq }))
    }

    /// Some of the keys of a topic in byte order, after `after` and up to `last`, and whether there are more.
    pub(crate) fn page(
        &self,
        topic: u32,
        after: Option<&str>,
        last: Option<&str>,
    ) -> Result<(KeysLatest, bool), IndexError> {
        let table = self.0.open_table(LATEST)?;
        let start = after.map_or(Included((topic, "")), |after| Excluded((topic, after)));
        let end = match last {
            Some(last) => Included((topic, last)),
            None => of_topic(topic).1,
        };
        let mut page = Vec::new();
        for entry in table.range::<(u32, &str)>((start, end))? {
            if page.len() == PAGE {
                return Ok((page, true));
            }
            let (key, latest) = entry?;
            let (at, seq) = latest.value();
            page.push((key.value().1.into(), LatestAt { at: Position(at), seq }));
        }
        Ok((page, false))
    }
}
