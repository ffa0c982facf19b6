//! Brings a database of format 1 to format 2: there an event's id was its `_id`, so ids were unique over all topics, and
//! nothing said when an event was committed.

use mongodb::{
    Database,
    bson::{RawDocumentBuf, doc},
    error::Error,
};
use prom_store::wall_clock;

use crate::document::{ids, long};

/// Gives every event its `id`, and as the time of its commit the greatest `ts` up to it, but none that is still to come.
/// Can be cut short, and done again. Hubs of the older version must not run: the index of topics and ids refuses what
/// they write.
pub(super) async fn bring_forward(database: &Database) -> Result<(), Error> {
    tracing::info!("the events of this database are brought to format 2, once; a hub of an older version must not run");
    let events = database.collection::<RawDocumentBuf>("events");
    let at = doc! { "$min": ["$max_ts", long(wall_clock())] };
    let set = vec![doc! { "$set": { "id": "$_id", "at": at } }];
    let done = events.update_many(doc! { "id": { "$exists": false } }, set).await?;
    // Here, where it may take as long as it takes.
    events.create_index(ids()).await?;
    tracing::info!(events = done.modified_count, "they are");
    Ok(())
}
