//! Leases: which of several hubs does what only one may do.
//!
//! ```text
//!   leases    {_id: name, owner: a hub, until}
//! ```
//!
//! Taking, keeping and finding out that another has it are one update, whose time is the server's: hubs need not agree on
//! what time it is.

use std::{future::IntoFuture, time::Duration};

use mongodb::{
    Collection,
    bson::{Document, doc},
    error::Error,
    options::{Acknowledgment, CollectionOptions, ReadPreference, ReturnDocument, SelectionCriteria, WriteConcern},
};
use prom_store::{StoreError, new_id, wall_clock};

use crate::{Inner, connect::reason};

/// Longest time for taking, renewing or giving back a lease. A later answer would be of no use: the lease was renewed
/// again by then, or is over.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Who this store is to others on the same database; no two of them are the same.
pub(super) fn owner() -> Box<str> {
    (&*new_id(wall_clock())).into()
}

impl Inner {
    pub(super) async fn lease(&self, name: &str, ttl: Duration) -> Result<bool, StoreError> {
        let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        // One that is not there is neither after now nor anybody's.
        let over = doc! { "$not": [{ "$gt": ["$until", "$$NOW"] }] };
        let mine = doc! { "$or": [{ "$eq": ["$owner", &*self.owner] }, over] };
        let take = doc! { "$set": {
            "owner": { "$cond": [&mine, &*self.owner, "$owner"] },
            "until": { "$cond": [&mine, { "$add": ["$$NOW", ttl] }, "$until"] },
        } };
        let leases = self.leases();
        let taken = leases.find_one_and_update(doc! { "_id": name }, vec![take]);
        let taken = taken.upsert(true).return_document(ReturnDocument::After);
        match within(taken).await {
            Ok(lease) => Ok(lease.is_some_and(|lease| lease.get_str("owner").is_ok_and(|owner| owner == &*self.owner))),
            Err(why) => Err(StoreError::Unavailable(format!("the lease {name} cannot be had: {why}"))),
        }
    }

    pub(super) async fn release(&self, name: &str) {
        let leases = self.leases();
        let release = leases.delete_one(doc! { "_id": name, "owner": &*self.owner });
        if let Err(why) = within(release).await {
            tracing::warn!(name, why, "a lease is not given back; it ends by itself");
        }
    }

    /// What one node has acknowledged another may never hear of, whatever the events' durability.
    fn leases(&self) -> Collection<Document> {
        let options = CollectionOptions::builder()
            .write_concern(WriteConcern::builder().w(Acknowledgment::Majority).build())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        self.database.collection_with_options("leases", options)
    }
}

async fn within<T>(work: impl IntoFuture<Output = Result<T, Error>>) -> Result<T, String> {
    match tokio::time::timeout(TIMEOUT, work.into_future()).await {
        Ok(done) => done.map_err(|error| reason(&error)),
        Err(_) => Err(format!("no answer in {} s", TIMEOUT.as_secs())),
    }
}
