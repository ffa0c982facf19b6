//! The log in a MongoDB replica set: for more than one machine, and for events that other tools query.
//!
//! ```text
//!   commit ── plan.rs ──► commit.rs ── one transaction ──► topics    {_id: topic, epoch, first, seq, max_ts, max_at, bytes}
//!                │                                         events    {id: event id, topic, seq, ts, key, payload, …}
//!                ▼                                         cursors   {_id: "topic::group", lastId, lastTs, lastSeq, …}
//!             cache.rs   where topics stand, the newest events
//!                ▲
//!   read ──── read.rs        follow.rs   other hubs' commits       trim.rs   retention       lease.rs   who does what
//!
//!   remove.rs    takes topics and groups out      full.rs   whether there is room, and again
//!   migrate.rs   what older hubs wrote
//!   connect.rs   opens and prepares the database      document.rs, cursor.rs   events and cursors as documents
//! ```
//!
//! Any number of hubs may write one database. A topic's counter and its events change in one transaction, so seqs have no
//! gaps and follow the order of commits whoever writes. What is read was committed by a majority.

mod cache;
mod commit;
mod connect;
mod cursor;
mod document;
mod follow;
mod full;
#[doc(hidden)]
pub mod fuzzing;
mod lease;
mod migrate;
mod plan;
mod read;
mod remove;
#[cfg(test)]
mod tests;
mod trim;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use mongodb::{
    Client, ClientSession, Collection, Database,
    bson::{RawDocumentBuf, Timestamp, doc},
    options::{Acknowledgment, CollectionOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern},
};
use prom_protocol::{Group, Refusal, Topic};
use prom_store::{
    Appended, Batch, Changed, Cursor, Durability, LatestPage, Page, Retention, Store, StoreError, Stored, Tail,
};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::connect::{OpenError, existing, parse, redact};
use self::{cache::Cache, full::Full};

/// The collections of a hub's database that are the store's own.
pub const COLLECTIONS: [&str; 5] = ["events", "topics", "cursors", "meta", "leases"];
/// The databases that are MongoDB's own.
pub const SYSTEM_DATABASES: [&str; 3] = ["admin", "local", "config"];

/// Longest time to connect, and to wait for a server's heartbeat.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Everything about opening together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(14);
/// Least time between two log lines that something is tried again.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// How a MongoDB store works.
#[derive(Clone)]
pub struct Options {
    /// Where: `mongodb://user:password@host1,host2/database?replicaSet=rs0`. Database `prom` if it names none.
    pub url: String,
    /// When a commit counts as done; default [`Durability::Commit`]: on the disks of a majority. `Interval` is in the
    /// memory of a majority, each of which journals every 100 ms unless its `commitIntervalMs` says otherwise. `Os` is
    /// in the memory of the primary: an election may take what was acknowledged.
    pub durability: Durability,
    /// What is kept for how long; default: everything.
    pub retention: Retention,
    /// Retained events beyond which the oldest settled ones make room, in bytes of JSON; default none.
    pub max_bytes: Option<u64>,
    /// Memory for the newest events, in bytes; default 64 MiB.
    pub cache_bytes: usize,
    /// Longest time a commit is tried, through elections and lost connections; default 20 s.
    pub commit_deadline: Duration,
    /// How often the rules of retention are applied; default 15 s.
    pub upkeep_every: Duration,
}

impl Options {
    /// Everything at its default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            durability: Durability::default(),
            retention: Retention::default(),
            max_bytes: None,
            cache_bytes: 64 * 1024 * 1024,
            commit_deadline: Duration::from_secs(20),
            upkeep_every: trim::UPKEEP_EVERY,
        }
    }
}

// Not its password.
impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("url", &redact(&self.url))
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

/// A store in a MongoDB replica set.
#[derive(Debug)]
pub struct MongoStore {
    inner: Arc<Inner>,
    closed: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    events: Collection<RawDocumentBuf>,
    topics: Collection<RawDocumentBuf>,
    cursors: Collection<RawDocumentBuf>,
    write_concern: WriteConcern,
    options: Options,
    cache: Mutex<Cache>,
    /// Bytes retained by all hubs, as last counted, and what this one has added since.
    bytes: AtomicU64,
    /// See [`read::jumps`].
    jumps: bool,
    /// The cluster's time of this hub's last commit: see [`Inner::session`].
    committed: Mutex<Option<Timestamp>>,
    /// The writer's.
    writer: tokio::sync::Mutex<Option<ClientSession>>,
    /// The last commit failed.
    failing: AtomicBool,
    /// The hub is ending: nothing is to take long.
    hurry: CancellationToken,
    said: Mutex<Option<Instant>>,
    /// The logs that this hub removes, or has removed lately and the stream of changes has yet to tell.
    removed: Mutex<VecDeque<remove::Removed>>,
    /// It has removed one, or has given that up.
    resolved: Notify,
    /// There is a removal to be finished.
    removing: Notify,
    full: Mutex<Option<Full>>,
    /// It has become full.
    filled: Notify,
    /// See [`lease`].
    owner: Box<str>,
}

impl MongoStore {
    /// Connects, makes the collections and indexes that are missing, and starts what runs behind the commits.
    ///
    /// # Errors
    /// Within 30 seconds: what keeps this from being a store, naming the URL without its password. A database that an older
    /// hub wrote is first brought to today's format, which takes as long as it takes.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let url = redact(&options.url);
        let database = connect::open(&options.url).await?;
        match tokio::time::timeout(OPEN_TIMEOUT, Self::connect(database, options)).await {
            Ok(opened) => opened,
            Err(_) => Err(OpenError::Unreachable { url, reason: "it does not answer".into() }),
        }
    }

    async fn connect(database: Database, options: Options) -> Result<Self, OpenError> {
        let write_concern = match options.durability {
            Durability::Commit => WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build(),
            Durability::Interval(_) => WriteConcern::builder().w(Acknowledgment::Majority).journal(false).build(),
            Durability::Os => WriteConcern::builder().w(Acknowledgment::Nodes(1)).journal(false).build(),
        };
        let read_concern = match options.durability {
            // What one node has acknowledged is not known to a majority yet.
            Durability::Os => ReadConcern::local(),
            _ => ReadConcern::majority(),
        };
        let collection = |name: &str| {
            let options = CollectionOptions::builder()
                .read_concern(read_concern.clone())
                .write_concern(write_concern.clone())
                .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
                .build();
            database.collection_with_options(name, options)
        };
        let (events, topics, cursors) = (collection("events"), collection("topics"), collection("cursors"));
        let cache = Mutex::new(Cache::new(options.cache_bytes));
        let bytes = AtomicU64::new(0);
        let lost = |error: mongodb::error::Error| OpenError::Unreachable {
            url: redact(&options.url),
            reason: connect::reason(&error),
        };
        let jumps = read::jumps(&database).await.map_err(lost)?;
        if !jumps {
            tracing::warn!("this MongoDB looks at every event to find the newest of each key; snapshots are slow");
        }
        let inner = Arc::new(Inner {
            database,
            events,
            topics,
            cursors,
            write_concern,
            cache,
            bytes,
            jumps,
            committed: Mutex::default(),
            writer: tokio::sync::Mutex::default(),
            failing: AtomicBool::new(false),
            hurry: CancellationToken::new(),
            said: Mutex::default(),
            removed: Mutex::default(),
            resolved: Notify::new(),
            removing: Notify::new(),
            full: Mutex::default(),
            filled: Notify::new(),
            owner: lease::owner(),
            options: options.clone(),
        });
        for (topic, known) in inner.load_topics(doc! {}).await.map_err(lost)? {
            inner.cache().learn(&topic, known);
        }
        if inner.options.max_bytes.is_some() {
            inner.count_bytes().await.map_err(lost)?;
        }
        let (closed, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (upkeep, end) = (Arc::clone(&inner), closed.clone());
        tasks.spawn(async move { upkeep.keep_up(&end).await });
        let (removals, end) = (Arc::clone(&inner), closed.clone());
        tasks.spawn(async move { removals.keep_removing(&end).await });
        let (looks, end) = (Arc::clone(&inner), closed.clone());
        tasks.spawn(async move { looks.look_for_room(&end).await });
        Ok(Self { inner, closed, tasks })
    }
}

impl MongoStore {
    /// The database that everything is in.
    pub fn database(&self) -> &Database {
        &self.inner.database
    }
}

impl Drop for MongoStore {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl Inner {
    fn client(&self) -> &Client {
        self.database.client()
    }

    // Nothing that runs under the lock can panic halfway.
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self) -> MutexGuard<'_, Option<Full>> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn committed_at(&self, time: Option<Timestamp>) {
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        *committed = time.max(*committed);
    }

    /// A session that reads what this hub has committed: by itself a new primary may not know yet that what the old one
    /// acknowledged is committed, and answer from before.
    async fn session(&self) -> Result<ClientSession, mongodb::error::Error> {
        let mut session = self.client().start_session().await?;
        if let Some(time) = *self.committed.lock().unwrap_or_else(PoisonError::into_inner) {
            session.advance_operation_time(time);
        }
        Ok(session)
    }

    /// Says that something did not work and is tried again, now and then.
    fn retrying(&self, why: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            *said = Some(Instant::now());
            tracing::warn!(why, "MongoDB does not do what it should; trying again");
        }
    }

    /// Counts bytes that came in.
    fn grow(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }
}

#[async_trait]
impl Store for MongoStore {
    fn name(&self) -> &'static str {
        "mongodb"
    }

    fn durability(&self) -> String {
        match self.inner.options.durability {
            Durability::Commit => "commit: on the disks of a majority before it is acknowledged".into(),
            Durability::Interval(_) => {
                "interval: in the memory of a majority, journaled by each within its commitIntervalMs (100 ms)".into()
            }
            Durability::Os => "os: in the memory of the primary; an election may lose it".into(),
        }
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<Result<Appended, Refusal>>, StoreError> {
        self.inner.commit(batch).await
    }

    async fn read(&self, topic: &Topic, after: u64, limit: usize, max_bytes: usize) -> Result<Page, StoreError> {
        self.inner.read(topic, after, limit, max_bytes).await
    }

    async fn salvage(&self, topic: &Topic, after: u64, limit: usize, max_bytes: usize) -> Result<Page, StoreError> {
        self.inner.salvage(topic, after, limit, max_bytes).await
    }

    async fn tail(&self, topic: &Topic) -> Result<Option<Tail>, StoreError> {
        self.inner.tail(topic).await
    }

    async fn topics(&self) -> Result<Vec<(Topic, Tail)>, StoreError> {
        self.inner.topics().await
    }

    async fn all_topics(&self) -> Result<Vec<(Topic, Tail)>, StoreError> {
        self.inner.all_topics().await
    }

    async fn seq_of(&self, topic: &Topic, id: &str) -> Result<Option<u64>, StoreError> {
        self.inner.seq_of(topic, id).await
    }

    async fn seq_before_ts(&self, topic: &Topic, ts: u64) -> Result<u64, StoreError> {
        self.inner.seq_before_ts(topic, ts).await
    }

    async fn latest(&self, topic: &Topic, key: &str) -> Result<Option<Stored>, StoreError> {
        self.inner.latest(topic, key).await
    }

    async fn latest_page(
        &self,
        topic: &Topic,
        after: Option<&str>,
        at: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<LatestPage, StoreError> {
        self.inner.latest_page(topic, after, at, limit, max_bytes).await
    }

    async fn cursor(&self, topic: &Topic, group: &Group) -> Result<Option<Cursor>, StoreError> {
        self.inner.cursor(topic, group).await
    }

    async fn cursors(&self, topic: &Topic) -> Result<Vec<(Group, Cursor)>, StoreError> {
        self.inner.cursors(topic).await
    }

    async fn topics_of(&self, group: &Group) -> Result<Vec<Topic>, StoreError> {
        self.inner.topics_of(group).await
    }

    async fn remove_topic(&self, topic: &Topic, only: Option<Tail>) -> Result<bool, StoreError> {
        self.inner.remove_topic(topic, only).await
    }

    async fn remove_cursors(&self, cursors: &[(Topic, Group)]) -> Result<(), StoreError> {
        self.inner.remove_cursors(cursors).await
    }

    fn hurry(&self) {
        self.inner.hurry.cancel();
    }

    async fn ready(&self) -> Result<(), String> {
        self.inner.ready().await
    }

    fn full(&self) -> Option<String> {
        self.inner.why_full()
    }

    async fn follow(&self, changed: Changed) {
        self.inner.follow(&self.closed, &changed).await;
    }

    async fn lease(&self, name: &str, ttl: Duration) -> Result<bool, StoreError> {
        self.inner.lease(name, ttl).await
    }

    async fn release(&self, name: &str) {
        self.inner.release(name).await;
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.closed.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        Ok(())
    }
}
