//! The [`Store`] contract.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use prom_protocol::{Group, Refusal, Topic};

use crate::{
    error::StoreError,
    values::{Appended, Batch, Cursor, LatestPage, Page, Stored, Tail},
};

/// What has become of a topic elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is known to have this last seq.
    Grown(u64),
    /// It was removed. If there is one of that name now, it is another log.
    Removed,
}

/// Told of a topic and what has become of it.
pub type Changed = Box<dyn Fn(&Topic, Change) + Send + Sync>;

/// A durable log of events per topic, with the cursors of its groups.
///
/// # Contract
/// - **Atomicity.** [`commit`](Store::commit) does all of a batch or none of it; an append that is refused by itself
///   counts as done. Readers see a commit whole or not at all.
/// - **Order.** Within a topic, seq is 1, 2, 3… without gaps, in the order of the appends; commit order is seq order.
/// - **Lengths.** An append with an id or a key that is empty or over 512 bytes, or with a body over
///   [`BODY_BYTES`](crate::BODY_BYTES), is refused by itself, the hub's own too: see
///   [`admit_append`](crate::admit_append).
/// - **Payload.** What comes back is what was published, byte for byte.
/// - **Idempotence.** Ids are unique within a topic. An append whose id stands on the same topic is answered with that
///   event's id and seq and `duplicate`, and stores nothing, for as long as that event is retained; also within one batch.
///   What stands on other topics changes nothing: who may not publish there can neither block nor find out their ids.
/// - **Durability.** When `commit` returns, the batch is as durable as the backend's level says.
/// - **Epoch.** A topic's epoch is set when its log is made and never changes while the log lives. A topic that was removed
///   and is published to again has a new log, whose seqs begin at 1. A cursor whose epoch is neither 0 nor that of the topic's log
///   is of a log that is gone: it is not stored, or at least never given to anybody.
/// - **Removal.** [`remove_topic`](Store::remove_topic) and [`remove_cursors`](Store::remove_cursors) are as durable as a
///   commit and survive a crash whole: what was removed does not come back.
/// - **Latest.** The newest event of each key stays readable, also when the log before it is trimmed, unless a
///   [`Rule`](crate::Rule) that does not `compact` trimmed it.
/// - **Damage.** [`read`](Store::read) gives what stands before an event that cannot be read, and fails at that event:
///   what a group must settle is never passed over. [`salvage`](Store::salvage) and
///   [`latest_page`](Store::latest_page) pass over it, say so in the log, and tell what they passed over.
/// - **One writer.** `commit` and the removals are called by one task at a time; reads run beside it. Where several hubs share a store, each
///   has one writer.
/// - **Retention.** A trim takes events from the front only, and never one that a stored cursor has not settled, unless
///   the [`Rule`](crate::Rule) of the topic says so.
/// - **Room.** A store that is full refuses events one by one, with a temporary code, and takes them again once groups have
///   settled what fills it. Duplicates, cursors, and events whose id starts with `$` are not refused: these are dead
///   letters, committed with the cursor that settles what they are about, and that is what makes room.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// For people and for `/healthz`: `memory`, `embedded`, `mongodb`.
    fn name(&self) -> &'static str;

    /// What "committed" means here, for people.
    fn durability(&self) -> String;

    /// Writes a batch; returns one result per append, in their order. May block its thread for as long as the disk takes.
    async fn commit(&self, batch: Batch) -> Result<Vec<Result<Appended, Refusal>>, StoreError>;

    /// Events of `topic` after `after`, at most `limit` of them and about `max_bytes`, but at least one if there is one.
    /// Past the end: none. Before the first that is retained: from the first.
    async fn read(&self, topic: &Topic, after: u64, limit: usize, max_bytes: usize) -> Result<Page, StoreError>;

    /// The same for a reader that settles nothing: what cannot be read is passed over, and told in [`Page::damaged`]. A
    /// store that cannot be damaged has nothing to pass over.
    async fn salvage(&self, topic: &Topic, after: u64, limit: usize, max_bytes: usize) -> Result<Page, StoreError> {
        self.read(topic, after, limit, max_bytes).await
    }

    /// The end of the topic's log; `None` for a topic nobody has published to.
    async fn tail(&self, topic: &Topic) -> Result<Option<Tail>, StoreError>;

    /// Every topic that has or had events, with its tail, in name order.
    async fn topics(&self) -> Result<Vec<(Topic, Tail)>, StoreError>;

    /// Beside [`topics`](Store::topics) those that have no events and in which groups have positions, in name order: their
    /// tail is at seq 0. Once their last position is removed they are not there any more.
    async fn all_topics(&self) -> Result<Vec<(Topic, Tail)>, StoreError>;

    /// The seq of the event of that id, if it stands on `topic` and is retained.
    async fn seq_of(&self, topic: &Topic, id: &str) -> Result<Option<u64>, StoreError>;

    /// The seq before the first retained event whose `ts` is at or after `ts`; the tail when there is none.
    async fn seq_before_ts(&self, topic: &Topic, ts: u64) -> Result<u64, StoreError>;

    /// The newest event of `key`.
    async fn latest(&self, topic: &Topic, key: &str) -> Result<Option<Stored>, StoreError>;

    /// The newest event of each key after `after` in byte order, at most `limit` of them and about `max_bytes`, but at
    /// least one if there is one. A key whose newest event came after `at` is left out: whoever reads a snapshot at `at`
    /// gets that event from the log behind it. A key whose newest event cannot be read is left out, and counted in
    /// [`LatestPage::damaged`].
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

    /// Every topic in which a group has a cursor, also those without events, in name order.
    async fn topics_of(&self, group: &Group) -> Result<Vec<Topic>, StoreError>;

    /// Removes a topic: its log, the newest events of its keys, its ids, and the cursors of all groups in it. `only`: if its
    /// log still ends there, and no group has begun in it. Answers whether there was something to remove, and it is gone.
    /// May block its thread as a commit may.
    async fn remove_topic(&self, topic: &Topic, only: Option<Tail>) -> Result<bool, StoreError>;

    /// Removes cursors: these groups have no position in these topics afterwards. May block its thread as a commit may.
    async fn remove_cursors(&self, cursors: &[(Topic, Group)]) -> Result<(), StoreError>;

    /// Whether it can be read and written now; what keeps it from that, for operators.
    async fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    /// Why events are refused for want of room, for operators; none: they are not. Answers from memory. It begins with the
    /// first event that is refused for it. That there is room again for what was refused a store finds out by itself, within
    /// some seconds; where it cannot, with the next commit of events that succeeds.
    fn full(&self) -> Option<String> {
        None
    }

    /// The hub is ending: what waits for something, waits a few seconds more at most.
    fn hurry(&self) {}

    /// Tells `changed` of every topic that somebody else has written to or removed, until the store is closed. It
    /// may be told of this hub's own commits too, and twice, but not of its own removals. A store that has no other writers
    /// never ends and tells nothing.
    async fn follow(&self, changed: Changed) {
        let _ = changed;
        std::future::pending::<()>().await;
    }

    /// Takes or keeps the lease `name` for this hub; whether this hub has it. After a `true` no other has it for `ttl`,
    /// counted from when this was called. An error, which takes at most three seconds, says neither. A store of one hub
    /// gives every lease.
    async fn lease(&self, name: &str, ttl: Duration) -> Result<bool, StoreError> {
        let _ = (name, ttl);
        Ok(true)
    }

    /// Gives the lease `name` back if this hub has it, so that another need not wait until it ends.
    async fn release(&self, name: &str) {
        let _ = name;
    }

    /// Finishes what is done behind the commits. Nothing can be written afterwards.
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
