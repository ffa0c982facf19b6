//! Writes what became of claimed rows: one command for a batch.

use std::{collections::HashMap, time::Duration};

use futures_util::TryStreamExt;
use mongodb::{
    bson::{Bson, DateTime, doc},
    error::Result,
    options::Hint,
};

use super::{MongoOutbox, document, shape, take};
use crate::{Mark, Settle};

pub(super) async fn settle(outbox: &MongoOutbox, fence: u64, marks: &[Mark]) -> Result<usize> {
    if marks.is_empty() {
        return Ok(0);
    }
    let namespace = outbox.rows.namespace();
    let command = doc! {
        "update": &namespace.coll,
        "updates": updates(fence, marks),
        "ordered": false,
        "writeConcern": {"w": "majority"},
    };
    take::ask(outbox, command).await?.whole()
}

/// The statements of the command: one for all rows of which the same became.
fn updates(fence: u64, marks: &[Mark]) -> Vec<Bson> {
    let mut together: HashMap<&Settle, Vec<Bson>> = HashMap::new();
    for mark in marks {
        together.entry(&mark.settle).or_default().extend(document::id(&mark.id));
    }
    let fence = i64::try_from(fence).unwrap_or(i64::MAX);
    let statement = |(settle, ids): (&Settle, Vec<Bson>)| {
        let claimed = doc! {"_id": {"$in": ids}, "status": "claimed", "fence": fence};
        Bson::from(doc! {"q": claimed, "u": update(settle), "multi": true, "hint": {"_id": 1}})
    };
    together.into_iter().map(statement).collect()
}

fn update(settle: &Settle) -> Bson {
    match settle {
        Settle::Sent => doc! {
            "$set": {"status": "sent"},
            "$currentDate": {"lease_until": true},
            "$unset": {"last_err": "", "next_try_at": ""},
        }
        .into(),
        Settle::Released => shape::unclaimed().into(),
        Settle::Retry { error, attempts, after } => vec![
            doc! {"$set": {
                "status": "pending",
                "last_err": {"$literal": error},
                "attempts": attempts,
                "next_try_at": {"$add": ["$$NOW", i64::try_from(after.as_millis()).unwrap_or(i64::MAX)]},
            }},
            doc! {"$unset": ["claimed_by", "lease_until"]},
        ]
        .into(),
        Settle::Parked { error, attempts } => vec![
            doc! {"$set": {"status": "error", "last_err": {"$literal": error}, "attempts": attempts}},
            doc! {"$unset": ["claimed_by", "lease_until", "next_try_at"]},
        ]
        .into(),
    }
}

pub(super) async fn remove_sent(outbox: &MongoOutbox, age: Duration, limit: usize) -> Result<usize> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let find = async |lease_until: Bson| -> Result<Vec<Bson>> {
        let found = outbox
            .rows
            .find(doc! {"status": "sent", "lease_until": lease_until})
            .projection(doc! {"_id": 1})
            .hint(Hint::Keys(shape::leases()))
            .limit(limit)
            .await?;
        let rows: Vec<_> = found.try_collect().await?;
        Ok(rows.iter().filter_map(|row| Bson::try_from(row.get("_id").ok()??).ok()).collect())
    };
    // Rows that were marked as sent by others than a drainer have no time: they are kept for `age` from now on.
    let undated = find(Bson::Null).await?;
    if !undated.is_empty() {
        let date = doc! {"$currentDate": {"lease_until": true}};
        outbox
            .rows
            .update_many(doc! {"_id": {"$in": undated}, "status": "sent", "lease_until": Bson::Null}, date)
            .await?;
    }
    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let before = DateTime::from_millis(outbox.now().await?.timestamp_millis().saturating_sub(age));
    let old = find(doc! {"$lte": before}.into()).await?;
    if old.is_empty() {
        return Ok(0);
    }
    let gone = outbox.rows.delete_many(doc! {"_id": {"$in": old}, "status": "sent"}).await?;
    Ok(usize::try_from(gone.deleted_count).unwrap_or(usize::MAX))
}
