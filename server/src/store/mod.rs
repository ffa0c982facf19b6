//! The log and what stands beside it: the [`Store`] contract and its backends.
//!
//! ```text
//!   writer task ──commit(Batch)──► Store ◄──read, tail, latest, cursor── delivery, live subscriptions, ops
//!                                    │
//!                        embedded, mongodb, memory
//! ```
//!
//! There is one writer (see [`crate::writer`]) and any number of readers. Everything a reader gets is shared, not copied.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod embedded;
pub mod memory;
pub mod mongo;
mod retention;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use prom_protocol::{ErrorCode, Group, Topic};

pub use embedded::{EmbeddedStore, OpenError};
pub use memory::MemoryStore;
pub use mongo::MongoStore;
pub use retention::{Retention, Rule};

/// A committed event: what delivery needs to know of it, and its wire JSON as every subscriber gets it.
#[derive(Debug)]
pub struct Record {
    /// Unique in the hub.
    pub id: Arc<str>,
    /// Position in its topic, from 1.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub ts: u64,
    /// What the event is about.
    pub key: Option<Box<str>>,
    /// The event's wire JSON, one line.
    pub json: Bytes,
}

impl Record {
    /// The event's wire JSON as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.json).unwrap_or_default()
    }
}

/// A committed event, shared.
pub type Stored = Arc<Record>;

/// An event to be appended.
#[derive(Debug)]
pub struct Append {
    /// Where.
    pub topic: Topic,
    /// Chosen by the publisher; `None`: the store makes one.
    pub id: Option<Arc<str>>,
    /// Chosen by the publisher; `None`: [`Batch::now`].
    pub ts: Option<u64>,
    /// What the event is about.
    pub key: Option<Box<str>>,
    /// The second part of the wire JSON: see [`prom_protocol::encode_event_body`].
    pub body: Vec<u8>,
}

/// What became of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The event's id.
    pub id: Arc<str>,
    /// Its position.
    pub seq: u64,
    /// An event of that id stood there before; nothing was appended.
    pub duplicate: bool,
}

/// A group's position in a topic: every event at or below `floor` is settled, and so are those in `settled`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The log this position belongs to.
    pub epoch: u64,
    /// Every event at or below is settled.
    pub floor: u64,
    /// Id of the event at `floor`; none while nothing is settled.
    pub last_id: Option<Arc<str>>,
    /// Its `ts`.
    pub last_ts: u64,
    /// Highest seq that was ever delivered; what is unsettled at or below it was delivered once unless `attempts` says
    /// otherwise.
    pub delivered: u64,
    /// Settled ranges above `floor`, first and last seq of each, ascending and apart.
    pub settled: Vec<(u64, u64)>,
    /// Deliveries so far of unsettled events at or below `delivered` that did not have exactly one, by seq, ascending:
    /// more, or none for those that later events passed by.
    pub attempts: Vec<(u64, u32)>,
}

impl Cursor {
    /// About how many bytes it takes beside its names: 20,000 ranges and attempts are some hundred kilobytes.
    pub(crate) fn bytes(&self) -> usize {
        self.settled.len() * 16 + self.attempts.len() * 12
    }
}

/// A cursor to be stored.
#[derive(Debug, Clone)]
pub struct CursorPut {
    /// Of which topic.
    pub topic: Topic,
    /// Of which group.
    pub group: Group,
    /// The whole cursor; it replaces the stored one.
    pub cursor: Cursor,
}

/// What one commit writes.
#[derive(Debug, Default)]
pub struct Batch {
    /// The hub's clock, milliseconds since the Unix epoch.
    pub now: u64,
    /// Events, appended in this order.
    pub appends: Vec<Append>,
    /// Cursors.
    pub cursors: Vec<CursorPut>,
}

/// The end of a topic's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Identity of the log.
    pub epoch: u64,
    /// First seq that is retained; `seq + 1` when nothing is.
    pub first: u64,
    /// Last seq that was committed; 0 when nothing was.
    pub seq: u64,
}

/// Told of a topic and the last seq it is known to have.
pub type Grown = Box<dyn Fn(&Topic, u64) + Send + Sync>;

/// Some events of a topic in seq order.
#[derive(Debug, Default)]
pub struct Page {
    /// The events.
    pub events: Vec<Stored>,
    /// First seq that is retained: if it is above what was asked for, the events between are gone.
    pub first: u64,
    /// Last seq this page has looked at; reading goes on after it.
    pub read_to: u64,
}

/// Some of the newest events per key of a topic, in key order.
#[derive(Debug, Default)]
pub struct LatestPage {
    /// The newest event of each key.
    pub events: Vec<Stored>,
    /// Whether there are keys behind the last of these.
    pub more: bool,
}

/// Why an append was refused while the rest of its batch went on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// The code to answer with.
    pub code: ErrorCode,
    /// The message to answer with.
    pub message: String,
}

/// Why a store could not do what was asked. Nothing of a commit is shown to readers then; it may turn out later to be
/// there whole, as after a crash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be reached or cannot write, for the moment.
    #[error("{0}")]
    Unavailable(String),
    /// What it holds is not what was written.
    #[error("{0}")]
    Damaged(String),
}

impl StoreError {
    /// What a client is told: not where the store keeps what.
    pub fn told(&self) -> String {
        match self {
            Self::Unavailable(message) => message.clone(),
            Self::Damaged(_) => "the store cannot read what it has written; the hub's own log says more".into(),
        }
    }
}

/// A durable log of events per topic, with the cursors of its groups.
///
/// # Contract
/// - **Atomicity.** [`commit`](Store::commit) does all of a batch or none of it; an append that is [`Refused`] by itself
///   counts as done. Readers see a commit whole or not at all.
/// - **Order.** Within a topic, seq is 1, 2, 3… without gaps, in the order of the appends; commit order is seq order.
/// - **Payload.** What comes back is what was published, byte for byte.
/// - **Idempotence.** Ids are unique in the hub. An append whose id stands on the same topic is answered with that
///   event's id and seq and `duplicate`, and stores nothing, for as long as that event is retained; also within one batch.
///   An id that stands on another topic is refused.
/// - **Durability.** When `commit` returns, the batch is as durable as the backend's level says.
/// - **Epoch.** A topic's epoch is set when its log is made and never changes while the log lives.
/// - **Latest.** The newest event of each key stays readable, also when the log before it is trimmed, unless a [`Rule`]
///   that does not `compact` trimmed it.
/// - **One writer.** `commit` is called by one task at a time; reads run beside it. Where several hubs share a store, each
///   has one writer.
/// - **Retention.** A trim takes events from the front only, and never one that a stored cursor has not settled, unless
///   the [`Rule`] of the topic says so.
/// - **Room.** A store that is full refuses events one by one, with a temporary code, and takes them again once groups have
///   settled what fills it. Duplicates, cursors, and events whose id starts with `$` are not refused: these are dead
///   letters, committed with the cursor that settles what they are about, and that is what makes room.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// For people and for `/healthz`: `memory`, `embedded`, `mongodb`.
    fn name(&self) -> &'static str;

    /// What "committed" means here, for people.
    fn durability(&self) -> String;

    /// Writes a batch; answers one result per append, in their order. May block its thread for as long as the disk takes.
    async fn commit(&self, batch: Batch) -> Result<Vec<Result<Appended, Refused>>, StoreError>;

    /// Events of `topic` after `after`, at most `limit` of them and about `max_bytes`, but at least one if there is one.
    /// Past the end: none. Before the first that is retained: from the first.
    async fn read(&self, topic: &Topic, after: u64, limit: usize, max_bytes: usize) -> Result<Page, StoreError>;

    /// The end of the topic's log; `None` for a topic nobody has published to.
    async fn tail(&self, topic: &Topic) -> Result<Option<Tail>, StoreError>;

    /// Every topic with its tail, in name order.
    async fn topics(&self) -> Result<Vec<(Topic, Tail)>, StoreError>;

    /// The seq of the event of that id, if it stands on `topic` and is retained.
    async fn seq_of(&self, topic: &Topic, id: &str) -> Result<Option<u64>, StoreError>;

    /// The seq before the first retained event whose `ts` is at or after `ts`; the tail when there is none.
    async fn seq_before_ts(&self, topic: &Topic, ts: u64) -> Result<u64, StoreError>;

    /// The newest event of `key`.
    async fn latest(&self, topic: &Topic, key: &str) -> Result<Option<Stored>, StoreError>;

    /// The newest event of each key after `after` in byte order, at most `limit` of them and about `max_bytes`, but at
    /// least one if there is one. A key whose newest event came after `at` is left out: whoever reads a snapshot at `at`
    /// gets that event from the log behind it.
    async fn latest_page(
        &self,
        topic: &Topic,
        after: Option<&str>,
        at: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<LatestPage, StoreError>;

    /// The cursor of a group in a topic.
    async fn cursor(&self, topic: &Topic, group: &Group) -> Result<Option<Cursor>, StoreError>;

    /// Every cursor of a topic, in group order.
    async fn cursors(&self, topic: &Topic) -> Result<Vec<(Group, Cursor)>, StoreError>;

    /// Whether it can be read and written now; what keeps it from that, for operators.
    async fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    /// Tells `grown` of every topic that somebody else has written to, with its last seq, until the store is closed. It
    /// may be told of this hub's own commits too, and twice. A store that has no other writers never ends and tells
    /// nothing.
    async fn follow(&self, grown: Grown) {
        let _ = grown;
        std::future::pending::<()>().await;
    }

    /// Finishes what is done behind the commits. Nothing can be written afterwards.
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
