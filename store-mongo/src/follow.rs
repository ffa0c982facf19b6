//! Other hubs' commits: a change stream over the topics says that there is something to read, and no more than that.

use std::time::Duration;

use mongodb::{
    bson::{Document, doc},
    error::Error,
    options::ReadConcern,
};
use prom_protocol::Topic;
use prom_store::Grown;
use tokio_util::sync::CancellationToken;

use crate::{Inner, connect::reason};

/// Before a broken stream is opened again: the first time, and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

impl Inner {
    /// Tells of topics that have grown, until the store is closed. What a stream missed, because it broke or its place
    /// is no longer in the oplog, the topics themselves tell when the next one is open.
    pub(super) async fn follow(&self, closed: &CancellationToken, grown: &Grown) {
        let mut pause = PAUSES[0];
        loop {
            let error = tokio::select! {
                () = closed.cancelled() => return,
                error = self.stream(grown, &mut pause) => error,
            };
            if let Err(error) = error {
                self.retrying(&reason(&error));
            }
            tokio::select! {
                () = closed.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    async fn stream(&self, grown: &Grown, pause: &mut Duration) -> Result<(), Error> {
        let wanted = doc! { "$match": { "operationType": { "$in": ["insert", "update", "replace"] } } };
        // A change stream shows only what a majority has, whatever the read concern of reads is.
        let topics = self.database.collection::<Document>("topics");
        let mut changes = topics.watch().pipeline([wanted]).read_concern(ReadConcern::majority()).await?;
        // Behind the opening: nothing falls between the two.
        for (topic, known) in self.load_topics(doc! {}).await? {
            grown(&topic, known.seq);
        }
        *pause = PAUSES[0];
        while changes.is_alive() {
            let Some(change) = changes.next_if_any().await? else { continue };
            self.committed_at(change.cluster_time);
            let name = change.document_key.as_ref().and_then(|key| key.get_str("_id").ok());
            let seq = match (&change.update_description, &change.full_document) {
                (Some(update), _) => update.updated_fields.get_i64("seq").ok(),
                (None, Some(document)) => document.get_i64("seq").ok(),
                (None, None) => None,
            };
            let topic = name.and_then(|name| Topic::new(name).ok());
            if let (Some(topic), Some(seq)) = (topic, seq.and_then(|seq| u64::try_from(seq).ok())) {
                grown(&topic, seq);
            }
        }
        Ok(())
    }
}
