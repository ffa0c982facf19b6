//! Marks of handled events in MongoDB, beside or inside the transaction of the effect.
//!
//! ```text
//!   MongoDedupe ─┬─ seen, mark, claim, release   prom_sdk::DedupeStore: the mark follows the effect      (feature `sdk`)
//!                ├─ once                         effect and mark in one transaction
//!                └─ handle_in_transaction        the same for the events of a subscription               (feature `sdk`)
//! ```
//!
//! A document is `{_id: {scope, id}, state: "claimed" | "marked", by?, markedAt?, expireAt}`. All times are the server's,
//! so clocks of members that differ do no harm.

mod once;
#[cfg(feature = "sdk")]
mod sdk;

use std::time::Duration;

use mongodb::{
    Client, ClientSession, Collection, IndexModel,
    bson::{Bson, Document, doc},
    error::{Error, Result},
    options::{
        Acknowledgment, CollectionOptions, IndexOptions, ReadConcern, ReadPreference, ReturnDocument,
        SelectionCriteria, WriteConcern,
    },
};

pub use once::{Effect, Once, OnceError};

/// Marks live so long unless told otherwise.
const TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long one effect is tried unless told otherwise: as long as the drivers' own transactions with retries.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long MongoDB may take to tell whether there is a mark: it asks a majority whether its primary still is one.
const SEEN_TIME: Duration = Duration::from_secs(10);

/// Remembers in a MongoDB collection which events were handled. Cheap to clone.
///
/// With the feature `sdk` it is a `prom_sdk::DedupeStore`, for effects outside this database: the effect happens at least
/// once, and not again once it is marked. For effects *in* this database there is more: [`Self::once`] and
/// `handle_in_transaction` (with that feature) commit effect and mark together, so the effect is there exactly once.
///
/// A scope is a consumer, `<topic>::<group>` where the SDK names it. Both ways share the marks of a scope: a consumer may
/// change from one to the other.
///
/// A mark lives seven days unless [`Self::ttl`] says otherwise. Longer than the group may be behind plus the time its
/// events may be redelivered: a mark that is gone lets a late repeat through.
#[derive(Debug, Clone)]
pub struct MongoDedupe {
    client: Client,
    marks: Collection<Document>,
    /// For transactions, which have concerns of their own.
    plain: Collection<Document>,
    ttl: Duration,
    patience: Duration,
}

/// What a document says after somebody tried to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Mine,
    /// Claimed by somebody else.
    Held,
    Marked,
}

impl MongoDedupe {
    /// Marks in `collection`, by custom `dedupe`.
    pub fn new(collection: &Collection<Document>) -> Self {
        let (client, namespace) = (collection.client().clone(), collection.namespace());
        let database = client.database(&namespace.db);
        let options = CollectionOptions::builder()
            .write_concern(majority())
            .read_concern(ReadConcern::majority())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        Self {
            marks: database.collection_with_options(&namespace.coll, options),
            plain: database.collection(&namespace.coll),
            client,
            ttl: TTL,
            patience: PATIENCE,
        }
    }

    /// How long marks live.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long the effect of one event is tried while its transactions fail; default two minutes. The last try may begin
    /// within it, and end after it.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Makes the index by which MongoDB removes marks that are over, `{expireAt: 1}`, if it is missing.
    ///
    /// # Errors
    /// MongoDB's; for instance an index of the same key with other options.
    pub async fn ensure_indexes(&self) -> Result<()> {
        let ttl = IndexOptions::builder().expire_after(Duration::ZERO).build();
        self.marks.create_index(IndexModel::builder().keys(doc! {"expireAt": 1}).options(ttl).build()).await?;
        Ok(())
    }

    /// Whether the event is marked.
    ///
    /// Costs a round trip to a majority of the nodes: what a primary knows by itself may leave out marks that were
    /// acknowledged, for a moment after an election.
    ///
    /// # Errors
    /// MongoDB's; for instance that no majority has answered within ten seconds.
    pub async fn seen(&self, scope: &str, id: &str) -> Result<bool> {
        // By nothing but the id: what is linearizable is the read of one document.
        let read = self.marks.find_one(doc! {"_id": key(scope, id)}).projection(doc! {"state": 1});
        let found = read.read_concern(ReadConcern::linearizable()).max_time(SEEN_TIME).await?;
        Ok(found.is_some_and(|found| found.get_str("state").is_ok_and(|state| state == "marked")))
    }

    /// Marks the event, whoever has a claim on it.
    ///
    /// # Errors
    /// MongoDB's. The mark may be there all the same.
    pub async fn mark(&self, scope: &str, id: &str) -> Result<()> {
        let mark = vec![doc! {"$replaceWith": marked(self.ttl)}];
        self.marks.update_one(doc! {"_id": key(scope, id)}, mark).upsert(true).await?;
        Ok(())
    }

    /// Ends the claim of `by`, if it has one.
    #[cfg(feature = "sdk")]
    async fn end_claim(&self, scope: &str, id: &str, by: &str) -> Result<()> {
        self.marks.delete_one(doc! {"_id": key(scope, id), "state": "claimed", "by": by}).await?;
        Ok(())
    }

    /// Claims or renews for `lease`.
    #[cfg(feature = "sdk")]
    async fn take_claim(&self, scope: &str, id: &str, by: &str, lease: Duration) -> Result<Taken> {
        let claimed = doc! {
            "_id": "$_id", "state": "claimed", "by": {"$literal": by}, "expireAt": after(lease),
        };
        self.take(scope, id, by, claimed, None).await
    }

    /// Marks in a transaction, unless it is marked or somebody is at it.
    async fn take_mark(&self, session: &mut ClientSession, scope: &str, id: &str, by: &str) -> Result<Taken> {
        let mut mark = marked(self.ttl);
        mark.insert("by", doc! {"$literal": by});
        self.take(scope, id, by, mark, Some(session)).await
    }

    /// Writes `document` if there is none, or a claim of `by`, or a claim that is over; and tells what is there now.
    async fn take(
        &self,
        scope: &str,
        id: &str,
        by: &str,
        document: Document,
        session: Option<&mut ClientSession>,
    ) -> Result<Taken> {
        // What is missing is less than every date.
        let mine_or_over = doc! {"$or": [
            {"$eq": ["$by", {"$literal": by}]},
            {"$lte": ["$expireAt", "$$NOW"]},
        ]};
        let free = doc! {"$and": [{"$ne": ["$state", "marked"]}, mine_or_over]};
        let update = vec![doc! {"$replaceWith": {"$cond": [free, document, "$$ROOT"]}}];
        let only = doc! {"_id": key(scope, id)};
        let collection = if session.is_some() { &self.plain } else { &self.marks };
        let action = collection.find_one_and_update(only, update).upsert(true).return_document(ReturnDocument::After);
        let found = match session {
            Some(session) => action.session(session).await?,
            None => action.await?,
        };
        // An upsert always leaves a document.
        let found = found.ok_or_else(|| Error::custom("MongoDB answered an upsert without a document"))?;
        Ok(match (found.get_str("by"), found.get_str("state")) {
            (Ok(found), _) if found == by => Taken::Mine,
            (_, Ok("marked")) => Taken::Marked,
            _ => Taken::Held,
        })
    }
}

fn key(scope: &str, id: &str) -> Document {
    doc! {"scope": scope, "id": id}
}

/// A mark, as an expression.
fn marked(ttl: Duration) -> Document {
    doc! {"_id": "$_id", "state": "marked", "markedAt": "$$NOW", "expireAt": after(ttl)}
}

/// That time from now on, by the server's clock.
fn after(time: Duration) -> Bson {
    /// A thousand years: within what a date can be.
    const LONGEST_MS: u128 = 31_556_952_000_000;
    let ms = i64::try_from(time.as_millis().min(LONGEST_MS)).unwrap_or(i64::MAX);
    Bson::Document(doc! {"$add": ["$$NOW", ms]})
}

fn majority() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}
