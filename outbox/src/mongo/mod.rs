//! Rows in a collection of a MongoDB replica set or sharded cluster.
//!
//! Claims come one after another, each on a snapshot that holds all before it: see `claim.rs`. Marks need nothing of the
//! kind: each is one conditional write on a row that is claimed by this claim and no other.

mod claim;
mod document;
mod operate;
mod page;
mod settle;
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
    /// For the caller's transactions, which have concerns of their own.
    plain: Collection<Document>,
    /// Acknowledged by a majority.
    rows: Collection<RawDocumentBuf>,
    claims: Collection<Document>,
    /// Claims of this process wait here, not by asking again and again.
    turn: Mutex<()>,
}

/// Why a row could not be added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// The hub would not take it.
    #[error(transparent)]
    Row(#[from] Refusal),
    /// MongoDB's; with its labels, by which a transaction is tried again.
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
    /// MongoDB's; a document with lists in two of `status`, `ts` and `key`, by its id: MongoDB cannot index such a one.
    pub async fn ensure_indexes(&self) -> Result<(), mongodb::error::Error> {
        let sparse = IndexOptions::builder().sparse(true).build();
        let indexes = [
            IndexModel::builder().keys(claim::leases()).build(),
            IndexModel::builder().keys(doc! {"ts": 1}).build(),
            IndexModel::builder().keys(page::order()).build(),
            IndexModel::builder().keys(claim::waiting()).options(sparse).build(),
        ];
        match self.rows.create_indexes(indexes).await {
            Ok(_) => self.ensure_counter().await,
            Err(error) => Err(stray::unindexable(self).await?.unwrap_or(error)),
        }
    }

    /// The server's time: drainers and tools whose clocks differ agree on what is old.
    async fn now(&self) -> Result<DateTime, mongodb::error::Error> {
        let database = self.rows.client().database(&self.rows.namespace().db);
        let hello = database.run_command(doc! {"hello": 1}).await?;
        hello.get_datetime("localTime").copied().map_err(mongodb::error::Error::custom)
    }

    async fn ensure_counter(&self) -> Result<(), mongodb::error::Error> {
        let start = doc! {"$setOnInsert": {"fence": 0_i64}};
        self.claims.update_one(doc! {"_id": turn::COUNTER}, start).upsert(true).await.map(drop)
    }

    /// Adds a row in the caller's transaction; answers its id. It is there once the transaction is committed.
    ///
    /// The commit is as durable as the transaction's own write concern: take `majority`, the default.
    ///
    /// # Errors
    /// What the hub would not take, naming the field; MongoDB's, a taken id among them.
    pub async fn add(&self, session: &mut ClientSession, row: NewRow) -> Result<String, AddError> {
        let (document, id) = document::write(row, ledger::now())?;
        // As it is: a document by name would lose what a payload says twice.
        self.plain.clone_with_type::<RawDocumentBuf>().insert_one(document).session(session).await?;
        Ok(id)
    }

    /// Adds several rows in the caller's transaction, by one command; answers their ids in the rows' order.
    ///
    /// Rows without a `ts` of their own have the same one then, and are published in the order they are given here, except
    /// that once in 16 million rows the ids MongoDB's driver makes begin anew: rows of one key that must not change places
    /// have a `ts` or an id that says so.
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

    /// By a change stream. It starts at the present and is not resumed: what came before is found by the claim that its
    /// first notification leads to.
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
