//! Rows in a collection of a MongoDB replica set or sharded cluster.
//!
//! ```text
//!   claim.rs     one claim:  turn.rs    waits for the right to claim, takes a snapshot
//!     │                      stray.rs   parks rows of unknown status
//!     │                      page.rs    finds the next rows whose keys are free
//!     │                      take.rs    marks them as claimed
//!   settle.rs    writes what became of claimed rows
//!   operate.rs   counts, lists and changes rows for operators
//!     │
//!   shape.rs     indexes and filters      document.rs, json.rs, text.rs   rows as documents
//! ```
//!
//! Claims come one after another, each on a snapshot that has the marks of all before it. Settling needs no turn: each
//! write has the condition that the row still belongs to this claim.

mod claim;
mod document;
mod operate;
mod page;
mod settle;
mod shape;
mod stray;
mod take;
#[cfg(all(test, unix))]
mod tests;
mod text;
mod turn;

use std::{convert::Infallible, time::Duration};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use mongodb::{
    ClientSession, Collection, IndexModel,
    bson::{DateTime, Document, RawDocumentBuf, doc},
    options::{Acknowledgment, CollectionOptions, IndexOptions, ReadPreference, SelectionCriteria, WriteConcern},
};
use prom_protocol::Refusal;
use tokio::sync::{Mutex, Notify};

use crate::{Claim, ClaimRequest, Filter, Mark, NewRow, OutboxStore, Row, Stats, StoreError, ledger};

/// An outbox in a MongoDB collection. See [the crate's page](crate) for what rows may look like.
///
/// Beside the collection there is one of the same name with `_claims` behind it, with one document.
#[derive(Debug)]
pub struct MongoOutbox {
    /// For writes in the transactions of callers, which have their own read and write concern.
    plain: Collection<Document>,
    /// For reads from the primary and writes that a majority acknowledges.
    rows: Collection<RawDocumentBuf>,
    claims: Collection<Document>,
    /// Claims of this process wait for each other here, so that they need not ask MongoDB for a turn again and again.
    turn: Mutex<()>,
}

/// Why a row could not be added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// The hub would not accept the event.
    #[error(transparent)]
    Row(#[from] Refusal),
    /// The driver's error, with the labels that tell whether a transaction can be tried again.
    #[error(transparent)]
    Mongo(#[from] mongodb::error::Error),
}

impl From<mongodb::error::Error> for StoreError {
    fn from(error: mongodb::error::Error) -> Self {
        Self::Unavailable(format!("the outbox's MongoDB: {error}"))
    }
}

fn majority() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).build()
}

impl MongoOutbox {
    /// The outbox in `collection`.
    pub fn new(collection: Collection<Document>) -> Self {
        let namespace = collection.namespace();
        let database = collection.client().database(&namespace.db);
        let options = CollectionOptions::builder()
            .write_concern(majority())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        Self {
            rows: database.collection_with_options(&namespace.coll, options.clone()),
            claims: database.collection_with_options(&format!("{}_claims", namespace.coll), options),
            plain: collection,
            turn: Mutex::default(),
        }
    }

    /// Makes the indexes that are missing, and the counter of claims. A drainer does so when it starts.
    ///
    /// `{status, lease_until}` finds claimed rows and sent ones to delete, `{status, ts, _id, key}` what is next,
    /// `{next_try_at}` what waits to be tried again; `{ts}` is for people.
    ///
    /// # Errors
    /// MongoDB refuses, or there is a document with lists in two of `status`, `ts` and `key`, which MongoDB cannot index.
    /// The error names its id.
    pub async fn ensure_indexes(&self) -> Result<(), mongodb::error::Error> {
        let sparse = IndexOptions::builder().sparse(true).build();
        let indexes = [
            IndexModel::builder().keys(shape::leases()).build(),
            IndexModel::builder().keys(doc! {"ts": 1}).build(),
            IndexModel::builder().keys(shape::order()).build(),
            IndexModel::builder().keys(shape::waiting()).options(sparse).build(),
        ];
        match self.rows.create_indexes(indexes).await {
            Ok(_) => self.ensure_counter().await,
            Err(error) => Err(stray::unindexable(self).await?.unwrap_or(error)),
        }
    }

    /// The server's time, so that drainers and tools whose clocks differ agree on what is old.
    async fn now(&self) -> Result<DateTime, mongodb::error::Error> {
        let database = self.rows.client().database(&self.rows.namespace().db);
        let hello = database.run_command(doc! {"hello": 1}).await?;
        hello.get_datetime("localTime").copied().map_err(mongodb::error::Error::custom)
    }

    async fn ensure_counter(&self) -> Result<(), mongodb::error::Error> {
        let start = doc! {"$setOnInsert": {"fence": 0_i64}};
        self.claims.update_one(doc! {"_id": turn::COUNTER}, start).upsert(true).await.map(drop)
    }

    /// Adds a row in the caller's transaction; returns its id. The row is there once the transaction is committed.
    ///
    /// The commit is as durable as the transaction's own write concern: take `majority`, the default.
    ///
    /// # Errors
    /// The hub would not accept the event: names the field. Or MongoDB refuses, for instance because the id is taken.
    pub async fn add(&self, session: &mut ClientSession, row: NewRow) -> Result<String, AddError> {
        let (document, id) = document::write(row, ledger::now())?;
        // Inserted as raw bytes: a `Document` would lose all but one of the fields of a payload that have the same name.
        self.plain.clone_with_type::<RawDocumentBuf>().insert_one(document).session(session).await?;
        Ok(id)
    }

    /// Adds several rows in the caller's transaction, by one command; returns their ids in the order of the rows.
    ///
    /// Rows without a `ts` of their own get the same one, and are published in the order in which they are given here. One
    /// exception: the counter in the ids of MongoDB's driver begins anew once in 16 million rows, and rows around that
    /// point may change places. Where that matters, give the rows a `ts` or ids in their order.
    ///
    /// # Errors
    /// As [`MongoOutbox::add`]; nothing of the transaction may be committed then.
    pub async fn add_many(
        &self,
        session: &mut ClientSession,
        rows: impl IntoIterator<Item = NewRow>,
    ) -> Result<Vec<String>, AddError> {
        let now = ledger::now();
        let written: Result<Vec<_>, _> = rows.into_iter().map(|row| document::write(row, now)).collect();
        let (documents, ids): (Vec<_>, Vec<_>) = written?.into_iter().unzip();
        if !documents.is_empty() {
            self.plain.clone_with_type::<RawDocumentBuf>().insert_many(documents).session(session).await?;
        }
        Ok(ids)
    }
}

#[async_trait]
impl OutboxStore for MongoOutbox {
    fn name(&self) -> &'static str {
        "mongodb"
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        Ok(self.ensure_indexes().await?)
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, StoreError> {
        let _turn = self.turn.lock().await;
        Ok(claim::claim(self, request).await?)
    }

    async fn settle(&self, fence: u64, marks: &[Mark]) -> Result<usize, StoreError> {
        Ok(settle::settle(self, fence, marks).await?)
    }

    async fn remove_sent(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        Ok(settle::remove_sent(self, age, limit).await?)
    }

    async fn stats(&self) -> Result<Stats, StoreError> {
        match operate::stats(self).await {
            Err(error) if operate::misses_index(&error) => {
                Err(StoreError::Invalid("the outbox has not its indexes yet: nothing has drained it so far".into()))
            }
            stats => Ok(stats?),
        }
    }

    async fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Row>, StoreError> {
        Ok(operate::list(self, filter, limit).await?)
    }

    async fn count(&self, filter: &Filter) -> Result<u64, StoreError> {
        Ok(operate::count(self, filter).await?)
    }

    async fn retry(&self, filter: &Filter) -> Result<u64, StoreError> {
        Ok(operate::retry(self, filter).await?)
    }

    async fn drop_rows(&self, filter: &Filter) -> Result<u64, StoreError> {
        Ok(operate::drop_rows(self, filter).await?)
    }

    /// By a change stream. It begins at the present and is not resumed: its start is notified too, and leads to a claim
    /// that finds what was added before.
    async fn watch(&self, wake: &Notify) -> Result<Infallible, StoreError> {
        let only = [
            doc! {"$match": {"operationType": {"$in": ["insert", "replace", "invalidate"]}}},
            doc! {"$project": {"_id": 1}},
        ];
        let mut changes = self.plain.watch().pipeline(only).await?.with_type::<RawDocumentBuf>();
        wake.notify_one();
        while changes.try_next().await?.is_some() {
            wake.notify_one();
        }
        Err(StoreError::Unavailable("the outbox's change stream has ended".into()))
    }
}
