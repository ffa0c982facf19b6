//! Rows that no query of a drainer would ever find.
//!
//! Rows with an unknown status are parked, so that people see them. A document that MongoDB cannot index keeps the indexes
//! from being made; it is named in the error.

use mongodb::{
    bson::{Bson, doc},
    error::{Error, Result},
    options::Hint,
};

use super::{
    MongoOutbox, document,
    shape::{order, unknown_status},
};
use crate::store::short;

/// How many rows are parked at once.
const TOGETHER: i64 = 100;

/// The first rows with an unknown status: their ids, and what is wrong with them.
pub(super) async fn find(outbox: &MongoOutbox) -> Result<Vec<(Bson, String)>> {
    let mut found = outbox
        .rows
        .find(unknown_status())
        .projection(doc! {"status": 1})
        .hint(Hint::Keys(order()))
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

/// Parks these rows, except those that were given a known status meanwhile.
pub(super) async fn park(outbox: &MongoOutbox, strays: Vec<(Bson, String)>) {
    for (id, error) in strays {
        let mut still = unknown_status();
        still.insert("_id", &id);
        let park = doc! {"$set": {"status": "error", "last_err": short(&error)}};
        match outbox.rows.update_one(still, park).await {
            Ok(done) if done.modified_count == 0 => {}
            Ok(_) => tracing::warn!(row = %id, %error, "a row of the outbox is parked"),
            // Other rows do not wait for this one, so draining goes on.
            Err(failed) => tracing::warn!(row = %id, %error, %failed, "a row of the outbox cannot be parked"),
        }
    }
}

/// An error that names a document which MongoDB cannot index, if there is one: one with lists in two fields of an index.
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
