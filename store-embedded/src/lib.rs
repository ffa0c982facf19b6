//! The log on this machine's disk: append-only segments, all topics interleaved, so that one sequential write and one
//! `fdatasync` commit everything that was waiting.
//!
//! ```text
//!             plan.rs   which events get which seqs, which are refused
//!                │
//!   commit ── append.rs ──► 0000000007.log     the truth: commits of records      format.rs, record.rs, scan.rs
//!                │              │
//!                │              ├─ sealed ──► 0000000006.idx   offsets, chosen ids      sidecar.rs, ids.rs
//!                ▼              └─ behind ──► index.redb       topics, cursors, newest  index.rs
//!             state.rs   what is in memory: the newest events, where the others stand
//!                ▲       topic_log.rs
//!   read ──── read.rs                upkeep.rs, reclaim.rs   one thread: index, retention, room on disk
//! ```
//!
//! `remove.rs` takes topics and cursors out. `log.rs` is all of that, open: what everybody reads (`shared.rs`) and the one appender. `keeper.rs` is what upkeep and
//! reclaim share, `full.rs` says when there is no room, `options.rs` and `opening.rs` what an open begins with, `check.rs` what an opened log must have, `disk.rs`
//! the files behind a trait, `tools/` what is done with a store that is closed.
//!
//! Only the `.log` files matter: whatever else is missing or damaged is made again from them when the store is opened
//! (`open.rs`, `recover.rs`), which also cuts off a commit that was not whole when the machine went down.

mod append;
mod check;
mod disk;
mod format;
mod full;
#[doc(hidden)]
pub mod fuzzing;
mod ids;
mod index;
mod keeper;
mod log;
mod open;
mod opening;
mod options;
mod plan;
mod read;
mod reclaim;
mod record;
mod recover;
mod remove;
mod scan;
mod shared;
mod sidecar;
#[cfg(test)]
mod sim;
mod state;
pub mod tools;
mod topic_log;
mod upkeep;

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use prom_protocol::{Group, Refusal, Topic};
use prom_store::{Appended, Batch, Cursor, Durability, LatestPage, Page, Store, StoreError, Stored, Tail};

use self::{
    disk::{Disk, Folder, TakeError},
    log::Log,
    shared::lock,
    upkeep::Upkeep,
};
pub use self::{opening::OpenError, options::Options};

/// The log in a folder of this machine's disk, open.
#[derive(Debug)]
pub struct EmbeddedStore {
    log: Arc<Log>,
    /// Its threads; none once the store is closed.
    upkeep: Mutex<Option<Upkeep>>,
}

impl EmbeddedStore {
    /// Opens the store in a folder, or makes one; the folder is locked until the store is dropped. Blocks.
    ///
    /// # Errors
    /// The folder is in use, cannot be used, or what is in it is damaged.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let folder = path.display().to_string();
        let disk = Folder::take(path).map_err(|error| match error {
            TakeError::Taken => OpenError::Taken(folder),
            TakeError::Io(source) => OpenError::Io { folder, source },
        })?;
        Self::open_on(&(Arc::new(disk) as Arc<dyn Disk>), options)
    }

    fn open_on(disk: &Arc<dyn Disk>, options: Options) -> Result<Self, OpenError> {
        let log = open::open(disk, options.with_segments_that_fit())?;
        let upkeep = Upkeep::start(Arc::clone(&log))
            .map_err(|source| OpenError::Io { folder: disk.path().display().to_string(), source })?;
        Ok(Self { log, upkeep: Mutex::new(Some(upkeep)) })
    }

    /// Runs what may read from the disk on a thread that may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Log) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let log = Arc::clone(&self.log);
        let done = tokio::task::spawn_blocking(move || read(&log)).await;
        done.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("a read ended early: {error}"))))
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn durability(&self) -> String {
        match self.log.shared.options.durability {
            Durability::Commit => "commit: on disk before it is acknowledged".into(),
            Durability::Interval(interval) => {
                format!("interval:{}ms: on disk at most so much after it is acknowledged", interval.as_millis())
            }
            Durability::Os => "os: on disk when the operating system writes it".into(),
        }
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<Result<Appended, Refusal>>, StoreError> {
        self.log.appender().commit(&self.log.shared, batch)
    }

    fn full(&self) -> Option<String> {
        self.log.shared.full.why()
    }

    async fn read(&self, topic: &Topic, after: u64, limit: usize, max_bytes: usize) -> Result<Page, StoreError> {
        if let Some(page) = self.log.shared.read_cached(topic, after, limit, max_bytes) {
            return Ok(page);
        }
        let topic = topic.clone();
        self.blocking(move |log| log.shared.read_page(&topic, after, limit, max_bytes)).await
    }

    async fn salvage(&self, topic: &Topic, after: u64, limit: usize, max_bytes: usize) -> Result<Page, StoreError> {
        let topic = topic.clone();
        self.blocking(move |log| log.shared.salvage_page(&topic, after, limit, max_bytes)).await
    }

    async fn tail(&self, topic: &Topic) -> Result<Option<Tail>, StoreError> {
        Ok(self.log.shared.read().topic(topic).map(topic_log::TopicLog::tail).filter(|tail| tail.seq > 0))
    }

    async fn topics(&self) -> Result<Vec<(Topic, Tail)>, StoreError> {
        Ok(self.log.shared.topics(|log| log.tail > 0))
    }

    async fn all_topics(&self) -> Result<Vec<(Topic, Tail)>, StoreError> {
        Ok(self.log.shared.topics(|log| log.tail > 0 || !log.cursors.is_empty()))
    }

    async fn seq_of(&self, topic: &Topic, id: &str) -> Result<Option<u64>, StoreError> {
        let (topic, id) = (topic.clone(), id.to_owned());
        self.blocking(move |log| {
            let state = log.shared.read();
            let Some(number) = state.by_name.get(&topic) else { return Ok(None) };
            log.shared.find_id(&state, *number, &id)
        })
        .await
    }

    async fn seq_before_ts(&self, topic: &Topic, ts: u64) -> Result<u64, StoreError> {
        let topic = topic.clone();
        self.blocking(move |log| log.shared.seq_before_ts(&topic, ts)).await
    }

    async fn latest(&self, topic: &Topic, key: &str) -> Result<Option<Stored>, StoreError> {
        self.log.shared.latest(topic, key)
    }

    async fn latest_page(
        &self,
        topic: &Topic,
        after: Option<&str>,
        at: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<LatestPage, StoreError> {
        let (topic, after) = (topic.clone(), after.map(str::to_owned));
        self.blocking(move |log| log.shared.latest_page(&topic, after.as_deref(), at, limit, max_bytes)).await
    }

    async fn cursor(&self, topic: &Topic, group: &Group) -> Result<Option<Cursor>, StoreError> {
        Ok(self.log.shared.read().topic(topic).and_then(|log| log.cursors.get(group)).map(|own| (*own.cursor).clone()))
    }

    async fn cursors(&self, topic: &Topic) -> Result<Vec<(Group, Cursor)>, StoreError> {
        let state = self.log.shared.read();
        let cursors = state.topic(topic).map(|log| log.cursors.iter());
        Ok(cursors.into_iter().flatten().map(|(group, own)| (group.clone(), (*own.cursor).clone())).collect())
    }

    async fn topics_of(&self, group: &Group) -> Result<Vec<Topic>, StoreError> {
        let state = self.log.shared.read();
        let own = state.topics.iter().filter(|log| log.cursors.contains_key(group));
        let mut topics: Vec<_> = own.map(|log| log.topic.clone()).collect();
        drop(state);
        topics.sort_unstable();
        Ok(topics)
    }

    async fn remove_topic(&self, topic: &Topic, only: Option<Tail>) -> Result<bool, StoreError> {
        self.log.appender().remove_topic(&self.log.shared, topic, only)
    }

    async fn remove_cursors(&self, cursors: &[(Topic, Group)]) -> Result<(), StoreError> {
        self.log.appender().remove_cursors(&self.log.shared, cursors)
    }

    async fn close(&self) -> Result<(), StoreError> {
        let upkeep = lock(&self.upkeep).take();
        self.blocking(move |log| {
            // Its thread closes the store before it ends.
            drop(upkeep);
            if log.appender().closed.is_some() {
                Ok(())
            } else {
                Err(StoreError::Unavailable("the index is behind the log".into()))
            }
        })
        .await
    }
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod older;
#[cfg(test)]
mod tests;
