//! Rows in a redb file: the service's own, so that its change and the event are one transaction.

use std::{convert::Infallible, fmt, ops::ControlFlow, sync::Arc, time::Duration};

use async_trait::async_trait;
use prom_protocol::Refusal;
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction,
};
use tokio::sync::{Mutex, Notify};

use crate::{
    Claim, ClaimRequest, Filter, Mark, NewRow, OutboxStore, Row, Stats, Status, StoreError,
    ledger::{self, Entry, Look, Rows, Visit, millis, now, place},
    memory::taken,
};

/// By id: the row's JSON.
const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("prom_outbox_rows");
/// By status, place and id: the key.
const ORDER: TableDefinition<'_, (u8, u64, &str), Option<&str>> = TableDefinition::new("prom_outbox_order");
/// `fence`: number of the last claim.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("prom_outbox_meta");

/// An outbox in a redb file, in tables whose names start with `prom_outbox_`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("shop.redb");
/// use std::sync::Arc;
/// use prom_outbox::{EmbeddedOutbox, NewRow};
///
/// let database = Arc::new(redb::Database::create(path)?);
/// let outbox = EmbeddedOutbox::new(Arc::clone(&database));
///
/// let change = database.begin_write()?;
/// // ... the service's own tables ...
/// outbox.add(&change, NewRow::new("orders.paid", &serde_json::json!({"order": 7}))?.key("order-7"))?;
/// change.commit()?;
/// outbox.wake();
/// # Ok(())
/// # }
/// ```
///
/// redb has one writer at a time: the drainer's claims and marks wait for the service's transactions, and the other way
/// round. Two processes cannot have the file open, so its drainer runs in the service.
#[derive(Clone)]
pub struct EmbeddedOutbox {
    database: Arc<Database>,
    added: Arc<Notify>,
    /// One claim at a time: those that wait for the file's writer would each hold a thread.
    claiming: Arc<Mutex<()>>,
}

impl fmt::Debug for EmbeddedOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmbeddedOutbox")
    }
}

/// redb has an error type for each thing one can do.
macro_rules! from_redb {
    ($($error:ident)*) => {
        $(impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Unavailable(format!("the outbox's redb file: {error}"))
            }
        })*
    };
}
from_redb!(TransactionError TableError StorageError CommitError);

/// Why a row could not be added to an embedded outbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedAddError {
    /// The hub would not take it, or its id is taken.
    #[error(transparent)]
    Row(#[from] Refusal),
    /// redb.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EmbeddedOutbox {
    /// The outbox in `database`.
    pub fn new(database: Arc<Database>) -> Self {
        Self { database, added: Arc::default(), claiming: Arc::default() }
    }

    /// Adds a row in the caller's transaction; answers its id. It is there once the transaction is committed.
    ///
    /// The caller must not have the outbox's tables open, and calls [`Self::wake`] after the commit, or the drainer finds
    /// the row at its next poll.
    ///
    /// # Errors
    /// What the hub would not take, naming the field; a row of that id is there; redb's.
    pub fn add(&self, transaction: &WriteTransaction, row: NewRow) -> Result<String, EmbeddedAddError> {
        let row = row.into_row(now(), || uuid::Uuid::now_v7().to_string())?;
        let mut tables = Tables::open(transaction)?;
        if tables.get(&row.id)?.is_some() {
            return Err(taken(&row.id).into());
        }
        tables.put(None, &row)?;
        Ok(row.id)
    }

    /// Tells the drainers of this process that a transaction with rows is committed.
    pub fn wake(&self) {
        self.added.notify_one();
    }

    /// Runs `work` in a transaction of its own. redb blocks: off the runtime's threads.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.database);
        blocking(move || {
            let transaction = database.begin_write()?;
            let done = work(&mut Tables::open(&transaction)?)?;
            transaction.commit()?;
            Ok(done)
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshot) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.database);
        blocking(move || {
            let transaction = database.begin_read()?;
            work(&Snapshot { rows: transaction.open_table(ROWS)?, order: transaction.open_table(ORDER)? })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("the outbox's redb file: {error}"))))
}

fn status_number(status: Status) -> u8 {
    match status {
        Status::Pending => 0,
        Status::Claimed => 1,
        Status::Sent => 2,
        Status::Error => 3,
    }
}

fn get(rows: &impl ReadableTable<&'static str, &'static [u8]>, id: &str) -> Result<Option<Row>, StoreError> {
    let Some(json) = rows.get(id)? else { return Ok(None) };
    let row = serde_json::from_slice(json.value());
    row.map(Some).map_err(|error| StoreError::Damaged(format!("row {id} of the outbox: {error}")))
}

fn scan(
    order: &impl ReadableTable<(u8, u64, &'static str), Option<&'static str>>,
    status: Status,
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    let status = status_number(status);
    for entry in order.range((status, 0, "")..(status + 1, 0, ""))? {
        let (place, key) = entry?;
        let (_, at, id) = place.value();
        if let ControlFlow::Break(()) = visit(Entry { at, id, key: key.value() })? {
            break;
        }
    }
    Ok(())
}

struct Tables<'txn> {
    rows: Table<'txn, &'static str, &'static [u8]>,
    order: Table<'txn, (u8, u64, &'static str), Option<&'static str>>,
    meta: Table<'txn, &'static str, u64>,
}

impl<'txn> Tables<'txn> {
    fn open(transaction: &'txn WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            rows: transaction.open_table(ROWS)?,
            order: transaction.open_table(ORDER)?,
            meta: transaction.open_table(META)?,
        })
    }
}

impl Look for Tables<'_> {
    fn count(&self) -> Result<u64, StoreError> {
        Ok(self.rows.len()?)
    }

    fn get(&self, id: &str) -> Result<Option<Row>, StoreError> {
        get(&self.rows, id)
    }

    fn scan(&self, status: Status, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        scan(&self.order, status, visit)
    }
}

impl Rows for Tables<'_> {
    fn next_fence(&mut self) -> Result<u64, StoreError> {
        let fence = self.meta.get("fence")?.map_or(0, |fence| fence.value()) + 1;
        self.meta.insert("fence", fence)?;
        Ok(fence)
    }

    fn put(&mut self, old: Option<&Row>, row: &Row) -> Result<(), StoreError> {
        let json = serde_json::to_vec(row)
            .map_err(|error| StoreError::Invalid(format!("row {} does not become JSON: {error}", row.id)))?;
        if let Some(old) = old {
            self.order.remove((status_number(old.status), place(old), old.id.as_str()))?;
        }
        self.order.insert((status_number(row.status), place(row), row.id.as_str()), row.key.as_deref())?;
        self.rows.insert(row.id.as_str(), json.as_slice())?;
        Ok(())
    }

    fn remove(&mut self, row: &Row) -> Result<(), StoreError> {
        self.order.remove((status_number(row.status), place(row), row.id.as_str()))?;
        self.rows.remove(row.id.as_str())?;
        Ok(())
    }
}

/// The tables as they were at one commit.
struct Snapshot {
    rows: redb::ReadOnlyTable<&'static str, &'static [u8]>,
    order: redb::ReadOnlyTable<(u8, u64, &'static str), Option<&'static str>>,
}

impl Look for Snapshot {
    fn count(&self) -> Result<u64, StoreError> {
        Ok(self.rows.len()?)
    }

    fn get(&self, id: &str) -> Result<Option<Row>, StoreError> {
        get(&self.rows, id)
    }

    fn scan(&self, status: Status, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        scan(&self.order, status, visit)
    }
}

#[async_trait]
impl OutboxStore for EmbeddedOutbox {
    fn name(&self) -> &'static str {
        "embedded"
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.write(|_| Ok(())).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, StoreError> {
        let request = request.clone();
        // It goes on in its thread when nobody waits for it any more: then it takes nothing.
        let caller = Arc::new(());
        let waiting = Arc::downgrade(&caller);
        let turn = Arc::clone(&self.claiming).lock_owned().await;
        let claimed = self.write(move |tables| {
            let claim = ledger::claim(tables, now(), &request)?;
            if waiting.strong_count() == 0 {
                return Err(StoreError::Unavailable("nobody waits for this claim any more".into()));
            }
            Ok((claim, turn))
        });
        let (claim, _turn) = claimed.await?;
        drop(caller);
        Ok(claim)
    }

    async fn settle(&self, fence: u64, marks: &[Mark]) -> Result<usize, StoreError> {
        let marks = marks.to_vec();
        self.write(move |tables| ledger::settle(tables, now(), fence, &marks)).await
    }

    async fn remove_sent(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.write(move |tables| ledger::remove_sent(tables, now().saturating_sub(millis(age)), limit)).await
    }

    async fn stats(&self) -> Result<Stats, StoreError> {
        self.read(|snapshot| ledger::stats(snapshot, now())).await
    }

    async fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Row>, StoreError> {
        let filter = filter.clone();
        self.read(move |snapshot| ledger::list(snapshot, &filter, limit)).await
    }

    async fn retry(&self, filter: &Filter) -> Result<u64, StoreError> {
        let filter = filter.clone();
        let retried = self.write(move |tables| ledger::retry(tables, &filter)).await?;
        self.wake();
        Ok(retried)
    }

    async fn drop_rows(&self, filter: &Filter) -> Result<u64, StoreError> {
        let filter = filter.clone();
        self.write(move |tables| ledger::drop_rows(tables, &filter)).await
    }

    async fn watch(&self, wake: &Notify) -> Result<Infallible, StoreError> {
        wake.notify_one();
        loop {
            self.added.notified().await;
            wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Fixture;

    fn database(folder: &tempfile::TempDir) -> Arc<Database> {
        Arc::new(Database::create(folder.path().join("t.redb")).unwrap())
    }

    async fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let outbox = EmbeddedOutbox::new(database(&folder));
        outbox.prepare().await.unwrap();
        let adding = outbox.clone();
        Fixture::new(Arc::new(outbox), move |row| {
            _ = &folder;
            let adding = adding.clone();
            Box::pin(async move {
                let transaction = adding.database.begin_write().unwrap();
                let added = adding.add(&transaction, row).map_err(|error| error.to_string());
                transaction.commit().unwrap();
                adding.wake();
                added
            })
        })
    }

    crate::outbox_conformance!(fixture);

    #[tokio::test]
    async fn a_claim_that_nobody_waits_for_takes_nothing() {
        // Bug: while a service held its transaction each claim that timed out left a thread, which then claimed for nobody.
        let folder = tempfile::tempdir().unwrap();
        let database = database(&folder);
        let outbox = EmbeddedOutbox::new(Arc::clone(&database));
        outbox.prepare().await.unwrap();
        let request = ClaimRequest { by: "t".into(), limit: 9, max_bytes: usize::MAX, lease: Duration::from_secs(60) };
        let held = database.begin_write().unwrap();
        outbox.add(&held, NewRow::new("a", &1).unwrap().id("a")).unwrap();
        for _ in 0..3 {
            let late = tokio::time::timeout(Duration::from_millis(50), outbox.claim(&request)).await;
            assert!(late.is_err());
        }
        // One thread at most waits for the writer: what it holds is the one turn.
        assert_eq!(Arc::strong_count(&outbox.claiming), 2);
        held.commit().unwrap();
        let claim = outbox.claim(&request).await.unwrap();
        assert_eq!(claim.rows.len(), 1, "a ghost has it");
    }

    #[tokio::test]
    async fn a_row_shares_the_fate_of_its_transaction() {
        let folder = tempfile::tempdir().unwrap();
        let database = database(&folder);
        let outbox = EmbeddedOutbox::new(Arc::clone(&database));
        outbox.prepare().await.unwrap();
        let row = || NewRow::new("a", &1).unwrap();
        let aborted = database.begin_write().unwrap();
        outbox.add(&aborted, row()).unwrap();
        aborted.abort().unwrap();
        assert_eq!(outbox.stats().await.unwrap(), Stats::default());
        let committed = database.begin_write().unwrap();
        outbox.add(&committed, row().id("kept")).unwrap();
        committed.commit().unwrap();
        drop((outbox, database));
        let again = EmbeddedOutbox::new(self::database(&folder));
        assert_eq!(again.list(&Filter::default(), 10).await.unwrap()[0].id, "kept");
    }
}
