//! Rows that are in nobody's way and in nobody's sight: whose status is none, which are parked so that somebody sees them,
//! and those that no index can hold.

use mongodb::{
    bson::{Bson, Document, doc},
    error::{Error, Result},
    options::Hint,
};

use super::{MongoOutbox, document, page};
use crate::{Status, store::short};

/// Most of them that are parked at once.
const TOGETHER: i64 = 100;

/// Rows of none of the statuses.
pub(super) fn filter() -> Document {
    let mut known: Vec<Bson> = Status::ALL.iter().map(|status| Bson::from(status.as_str())).collect();
    known.push(Bson::Null);
    doc! {"status": {"$nin": known}}
}

/// The first of them: their ids, and what is wrong with them.
pub(super) async fn find(outbox: &MongoOutbox) -> Result<Vec<(Bson, String)>> {
    let mut found = outbox
        .rows
        .find(filter())
        .projection(doc! {"status": 1})
        .hint(Hint::Keys(page::order()))
        .limit(TOGETHER)
        .await?;
    let mut strays = Vec::new();
    while found.advance().await? {
        let row = found.current();
        if let Some(Ok(id)) = row.get("_id").ok().flatten().map(Bson::try_from) {
            strays.push((id, format!("bad_frame: {}", document::no_status(row.get("status").ok().flatten()))));
        }
    }
    Ok(strays)
}

/// Parks them, unless somebody has given them a status since.
pub(super) async fn park(outbox: &MongoOutbox, strays: Vec<(Bson, String)>) {
    for (id, error) in strays {
        let mut still = filter();
        still.insert("_id", &id);
        let park = doc! {"$set": {"status": "error", "last_err": short(&error)}};
        match outbox.rows.update_one(still, park).await {
            Ok(done) if done.modified_count == 0 => {}
            Ok(_) => tracing::warn!(row = %id, %error, "a row of the outbox is parked"),
            // It holds nothing up.
            Err(failed) => tracing::warn!(row = %id, %error, %failed, "a row of the outbox cannot be parked"),
        }
    }
}

/// Names a document that keeps the index of the order from being made.
pub(super) async fn unindexable(outbox: &MongoOutbox) -> Result<Option<Error>> {
    let lists = |one: &str, other: &str| doc! {one: {"$type": "array"}, other: {"$type": "array"}};
    let filter = doc! {"$or": [lists("ts", "key"), lists("status", "ts"), lists("status", "key")]};
    let found = outbox.rows.find_one(filter).projection(doc! {"_id": 1}).await?;
    Ok(found.map(|row| {
        let id = document::read(&row).id;
        Error::custom(format!(
            "row `{id}` has lists in two of status, ts and key, so that MongoDB cannot index the outbox: mend or delete it"
        ))
    }))
}
