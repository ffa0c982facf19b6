//! Other hubs' commits: a change stream over the topics says that there is something to read, or no longer, and no more
//! than that.

use std::{collections::HashMap, time::Duration};

use mongodb::{
    bson::{Document, doc},
    error::Error,
    options::ReadConcern,
};
use prom_protocol::Topic;
use prom_store::{Change, Changed};
use tokio_util::sync::CancellationToken;

use crate::{Inner, connect::reason, remove::REMOVED};

/// Before a broken stream is opened again: the first time, and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

impl Inner {
    /// Tells of topics that have grown or were removed, until the store is closed. What a stream missed, because it broke or
    /// its place is no longer in the oplog, the topics themselves tell when the next one is open.
    pub(super) async fn follow(&self, closed: &CancellationToken, changed: &Changed) {
        let mut pause = PAUSES[0];
        let mut epochs = HashMap::new();
        loop {
            let error = tokio::select! {
                () = closed.cancelled() => return,
                error = self.stream(changed, &mut epochs, &mut pause) => error,
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

    /// `epochs`: those of the topics that were told of.
    async fn stream(
        &self,
        changed: &Changed,
        epochs: &mut HashMap<Topic, u64>,
        pause: &mut Duration,
    ) -> Result<(), Error> {
        let wanted = doc! { "$match": { "operationType": { "$in": ["insert", "update", "replace"] } } };
        // A change stream shows only what a majority has, whatever the read concern of reads is.
        let topics = self.database.collection::<Document>("topics");
        let mut changes = topics.watch().pipeline([wanted]).read_concern(ReadConcern::majority()).await?;
        // Behind the opening: nothing falls between the two.
        let there = self.load_topics(doc! {}).await?;
        // Only now: had that failed, the next opening would have nothing to compare with.
        let before = std::mem::take(epochs);
        epochs.extend(there.iter().map(|(topic, known)| (topic.clone(), known.epoch)));
        for (topic, epoch) in before {
            if epochs.get(&topic) != Some(&epoch) {
                // If this hub did it, the stream may yet tell that.
                self.unless_removed_here(&topic, epoch, || self.removed_elsewhere(&topic, changed)).await;
            }
        }
        for (topic, known) in there {
            self.unless_removed_here(&topic, known.epoch, || changed(&topic, Change::Grown(known.seq))).await;
        }
        *pause = PAUSES[0];
        while changes.is_alive() {
            let Some(change) = changes.next_if_any().await? else { continue };
            self.committed_at(change.cluster_time);
            let name = change.document_key.as_ref().and_then(|key| key.get_str("_id").ok());
            let Some(topic) = name.and_then(|name| Topic::new(name).ok()) else { continue };
            let fields = match (&change.update_description, &change.full_document) {
                (Some(update), _) => &update.updated_fields,
                (None, Some(document)) => document,
                (None, None) => continue,
            };
            let number = |name: &str| fields.get_i64(name).ok().and_then(|number| u64::try_from(number).ok());
            if let Some(epoch) = number(REMOVED) {
                epochs.remove(&topic);
                self.unless_removed_here(&topic, epoch, || self.removed_elsewhere(&topic, changed)).await;
                self.removal_was_told(&topic, epoch);
                continue;
            }
            if let Some(epoch) = number("epoch") {
                epochs.insert(topic.clone(), epoch);
            }
            // What this hub has removed meanwhile has grown for nobody.
            if let Some(seq) = number("seq") {
                let epoch = epochs.get(&topic).copied().unwrap_or(0);
                self.unless_removed_here(&topic, epoch, || changed(&topic, Change::Grown(seq))).await;
            }
        }
        Ok(())
    }

    /// Tells that a topic was removed by another hub. If this one did it, everybody knows.
    fn removed_elsewhere(&self, topic: &Topic, changed: &Changed) {
        self.cache().drop_topic(topic);
        changed(topic, Change::Removed);
    }
}
