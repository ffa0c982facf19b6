//! The contract of an outbox.

use std::{convert::Infallible, fmt, time::Duration};

use async_trait::async_trait;
use prom_protocol::Refusal;
use serde::Serialize;
use tokio::sync::Notify;

use crate::{OutboxEvent, Row, RowId, Status};

/// Who wants how many rows for how long.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// Name of the drainer, for people: `claimed_by` of the rows.
    pub by: String,
    /// How many rows at most.
    pub limit: usize,
    /// About how many bytes the rows may have together. One row is claimed however large it is.
    pub max_bytes: usize,
    /// How long the rows belong to this claim. After that, others may claim them.
    pub lease: Duration,
}

/// A row that is claimed.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The id of the row.
    pub id: RowId,
    /// Tries that failed so far.
    pub attempts: u32,
    /// Whether no claim had it before.
    pub fresh: bool,
    /// The event it becomes. An error names the field that keeps it from being one: the row is to be parked.
    pub event: Result<OutboxEvent, Refusal>,
}

/// The rows of one claim.
#[derive(Debug, Default)]
pub struct Claim {
    /// Number of the claim: marks are made with it.
    pub fence: u64,
    /// The rows, in order.
    pub rows: Vec<Claimed>,
    /// Whether there may be more rows to claim, because a limit ended this claim.
    pub more: bool,
    /// Whether rows were left out because other claims have rows of the same key.
    pub busy: bool,
    /// Time until the first row that waits to be tried again.
    pub next_due: Option<Duration>,
    /// How many rows whose lease had run out were made pending again, whether or not this claim got them.
    pub requeued: usize,
}

/// What becomes of a claimed row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Settle {
    /// It is published.
    Sent,
    /// It goes back as if it had not been claimed.
    Released,
    /// The try failed; the next is due after a while.
    Retry {
        /// The reason of the failure, for people.
        error: String,
        /// Tries that failed, this one included.
        attempts: u32,
        /// How long it waits before the next try.
        after: Duration,
    },
    /// It is parked.
    Parked {
        /// The reason, for people.
        error: String,
        /// Tries that failed, this one included.
        attempts: u32,
    },
}

/// A settled row.
#[derive(Debug, Clone)]
pub struct Mark {
    /// The id of the row.
    pub id: RowId,
    /// What becomes of the row.
    pub settle: Settle,
}

/// An error as it is stored with a row: what fits into 1 KiB of it.
pub(crate) fn short(error: &str) -> String {
    const MOST: usize = 1024;
    let fits = error.floor_char_boundary(MOST);
    if fits == error.len() { error.to_owned() } else { format!("{}…", &error[..fits]) }
}

/// Selects the rows that an operator means: those that match every field that is set. The default selects every row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Rows with one of these ids, as text.
    pub ids: Option<Vec<String>>,
    /// Rows of this status.
    pub status: Option<Status>,
    /// Rows for this topic.
    pub topic: Option<String>,
    /// Rows with this key.
    pub key: Option<String>,
}

impl Filter {
    /// The row of that id.
    pub fn id(id: impl Into<String>) -> Self {
        Self { ids: Some(vec![id.into()]), ..Self::default() }
    }

    /// The rows of that status.
    pub fn status(status: Status) -> Self {
        Self { status: Some(status), ..Self::default() }
    }

    /// Whether the row matches.
    pub fn matches(&self, row: &Row) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.contains(&row.id))
            && self.status.is_none_or(|status| status == row.status)
            && self.topic.as_ref().is_none_or(|topic| *topic == row.topic)
            && self.key.as_ref().is_none_or(|key| Some(key) == row.key.as_ref())
    }
}

/// How many rows an outbox has in each state, and how late it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Rows that wait, those that wait to be tried again included.
    pub pending: u64,
    /// Of these: those that wait to be tried again.
    pub waiting: u64,
    /// Rows that drainers have claimed.
    pub claimed: u64,
    /// Of these: those whose lease ran out and that nobody has claimed again yet.
    pub stuck: u64,
    /// Rows that are published and still kept. Where counting them would read them all: an estimate.
    pub sent: u64,
    /// Parked rows.
    pub error: u64,
    /// Age of the oldest pending row that has a time, in milliseconds.
    pub oldest_pending_ms: Option<u64>,
    /// Age of the oldest row that is neither published nor parked, in milliseconds; 0 when there is none.
    pub lag_ms: u64,
}

/// Why a store could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be reached or cannot write, for the moment.
    #[error("{0}")]
    Unavailable(String),
    /// What was read is not what was written: the store is damaged.
    #[error("{0}")]
    Damaged(String),
    /// The request makes no sense, or the store is not ready for it.
    #[error("{0}")]
    Invalid(String),
}

/// Rows that are written with a business change and published later. Any number of drainers, in any processes, use one.
///
/// Rows are written by each implementation's own `add`, inside the caller's transaction: a row is there when the
/// transaction is committed, and never otherwise.
///
/// # Contract
/// - **Order.** A claim takes rows in the order of `ts`, then `_id`, of the rows that are committed.
/// - **Keys.** Rows of one key are claimed by one claim at a time, across all drainers. None is claimed while another of
///   its key is claimed or an earlier one waits to be tried again. Parked and sent rows hold nothing up. Rows without a key
///   are free.
/// - **Atomic claim.** No row is in two claims whose leases run. A claim that failed, or whose answer is lost, may have
///   taken rows: it counts as one that ran out.
/// - **Fencing.** Every claim has a number, higher than all before it. A mark is made only if the row is still claimed by
///   the claim of that number; otherwise the row stays as it is. Marks of one call stand each for itself.
/// - **Expiry.** Rows whose lease has run out are pending again at the next claim, with the attempts they had: a drainer
///   that died says nothing about its rows. Time is the store's, not the drainers'.
/// - **Durability.** What a call has done when it returns is as durable as the backend makes it: a majority's journals, the
///   disk, or memory.
/// - **Bounded.** No call but those of an operator reads or writes sent rows beyond a limit it was given.
#[async_trait]
pub trait OutboxStore: Send + Sync + fmt::Debug + 'static {
    /// The name of the kind of store, for people: `memory`, `embedded`, `mongodb`.
    fn name(&self) -> &'static str;

    /// Makes what claims need, if it is not there: indexes, tables. Harmless when repeated.
    async fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Takes rows for a while.
    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, StoreError>;

    /// Writes what became of rows of claim `fence`; returns how many marks were made. The other rows no longer belong to
    /// that claim.
    async fn settle(&self, fence: u64, marks: &[Mark]) -> Result<usize, StoreError>;

    /// Deletes rows that were sent longer ago than `age`, at most `limit` of them; returns how many.
    async fn remove_sent(&self, age: Duration, limit: usize) -> Result<usize, StoreError>;

    /// Counts its rows. Does not read sent ones.
    async fn stats(&self) -> Result<Stats, StoreError>;

    /// Rows an operator asks for, oldest first, at most `limit`.
    async fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Row>, StoreError>;

    /// How many rows match.
    async fn count(&self, filter: &Filter) -> Result<u64, StoreError> {
        Ok(self.list(filter, usize::MAX).await?.len() as u64)
    }

    /// Parked rows that match become pending, with no attempts; returns how many.
    async fn retry(&self, filter: &Filter) -> Result<u64, StoreError>;

    /// Deletes rows that match and are not claimed; returns how many.
    async fn drop_rows(&self, filter: &Filter) -> Result<u64, StoreError>;

    /// Notifies `wake` when rows may have been written, and once when it begins to watch. Returns only when it cannot watch
    /// any more. It may miss rows, so a drainer also polls. Default: watches nothing.
    async fn watch(&self, wake: &Notify) -> Result<Infallible, StoreError> {
        _ = wake;
        std::future::pending().await
    }
}
