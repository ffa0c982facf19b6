//! Outboxes that the hub drains by itself: a service writes a row in its own transaction, the hub publishes it.
//!
//! ```text
//!   service ──transaction──► collection ◄──claim, settle── Drainer ──publish──► writer ──► store
//! ```

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use mongodb::{Collection, Database, bson::Document};
use prom_outbox::{
    Drainer, MongoOutbox, Options, OutboxEvent, OutboxStore, Outcome, Publish, PublishError, Published, Stats, Tally,
};
use prom_protocol::encode_event_body;
use serde::Serialize;

use crate::{
    store::{Append, StoreError},
    writer::Writer,
};

/// Longest time an outbox may take to say how it is doing.
const STATS_TIMEOUT: Duration = Duration::from_secs(2);

/// A collection of rows: `outbox` in the store's database, or `shop.outbox` in another one of the same deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    database: Option<String>,
    collection: String,
}

/// The hub's own collections, and MongoDB's databases.
const OWN: [&str; 5] = ["events", "topics", "cursors", "meta", "leases"];
pub(crate) const SYSTEM: [&str; 3] = ["admin", "local", "config"];

impl Place {
    /// Reads `collection` or `database.collection`.
    ///
    /// # Errors
    /// What is wrong with the name, for people.
    pub fn new(name: &str) -> Result<Self, String> {
        let place = match name.split_once('.') {
            Some((database, collection)) => {
                Self { database: Some(database.to_owned()), collection: collection.to_owned() }
            }
            None => Self { database: None, collection: name.to_owned() },
        };
        let bad = |c: char| c.is_whitespace() || c.is_control() || "/\\\"$*<>:|?".contains(c);
        let empty = place.collection.is_empty() || place.database.as_ref().is_some_and(String::is_empty);
        if empty || name.len() > 120 || name.contains(bad) {
            return Err(format!(
                "`{name}` is no collection: it is like outbox, or shop.outbox for one of another database"
            ));
        }
        // In whichever database: it may be this hub's, or another's.
        let own = OWN.contains(&&*place.collection) || place.collection.ends_with("_claims");
        let system = place.database.as_deref().is_some_and(|name| SYSTEM.contains(&name));
        if own || system || place.collection.starts_with("system.") {
            return Err(format!("`{name}` is a collection of the hub's or of MongoDB's own, not an outbox"));
        }
        Ok(place)
    }

    /// The collection itself; `own` is the database of a place that names none.
    pub(crate) fn collection(&self, own: &Database) -> Collection<Document> {
        let database = self.database.as_ref().map_or_else(|| own.clone(), |name| own.client().database(name));
        database.collection(&self.collection)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.database {
            Some(database) => write!(f, "{database}.{}", self.collection),
            None => f.write_str(&self.collection),
        }
    }
}

/// An outbox that this hub drains.
#[derive(Debug)]
pub(crate) struct Drained {
    name: String,
    store: Arc<MongoOutbox>,
    drainer: Drainer,
}

/// How an outbox is doing, and what this hub has done for it.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    pub(crate) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unavailable: Option<String>,
    #[serde(flatten)]
    pub(crate) stats: Option<Stats>,
    pub(crate) drainer: Tally,
}

impl Drained {
    /// The outboxes at these places, each once.
    pub(crate) fn all(places: &[Place], own: &Database, writer: &Writer) -> Vec<Self> {
        let mut seen = HashSet::new();
        let new = places.iter().filter(|place| seen.insert(place.collection(own).namespace().to_string()));
        new.map(|place| Self::new(place, own, writer.clone())).collect()
    }

    fn new(place: &Place, own: &Database, writer: Writer) -> Self {
        let store = Arc::new(MongoOutbox::new(place.collection(own)));
        let rows: Arc<dyn OutboxStore> = Arc::<MongoOutbox>::clone(&store);
        let drainer = Drainer::new(rows, Arc::new(Own(writer)), Options::default());
        Self { name: place.to_string(), store, drainer }
    }

    /// Drains until `ending`.
    pub(crate) async fn run(&self, ending: impl Future<Output = ()>) {
        self.drainer.run(ending).await;
    }

    pub(crate) async fn report(&self) -> Report<'_> {
        let stats = tokio::time::timeout(STATS_TIMEOUT, self.store.stats()).await;
        let (stats, unavailable) = match stats {
            Ok(Ok(stats)) => (Some(stats), None),
            Ok(Err(error)) => (None, Some(error.to_string())),
            Err(_) => (None, Some("it does not answer".into())),
        };
        Report { name: &self.name, unavailable, stats, drainer: self.drainer.tally() }
    }
}

/// The hub as its own publisher: a batch of rows is one request to the writer, so that what a full store refuses is the
/// end of the batch and not something in its middle.
struct Own(Writer);

#[async_trait]
impl Publish for Own {
    async fn publish(&self, events: &[OutboxEvent], within: Duration) -> Vec<Outcome> {
        let appends = events.iter().map(append).collect();
        let failed = |error: &PublishError| vec![Outcome::Failed(error.clone()); events.len()];
        match tokio::time::timeout(within, self.0.commit(appends, Vec::new())).await {
            Ok(Ok(outcomes)) => outcomes
                .into_iter()
                .map(|outcome| match outcome {
                    Ok(done) => Outcome::Published(Published { seq: done.seq, duplicate: done.duplicate }),
                    Err(refused) => Outcome::Failed(PublishError::new(
                        refused.code.as_str(),
                        refused.message,
                        refused.code.temporary(),
                    )),
                })
                .collect(),
            Ok(Err(error)) => failed(&unavailable(&error)),
            Err(_) => failed(&PublishError::new("timeout", "the store did not take it in time", true)),
        }
    }
}

fn unavailable(error: &StoreError) -> PublishError {
    PublishError::new("store_unavailable", error.told(), true)
}

fn append(event: &OutboxEvent) -> Append {
    let (options, payload) = (event.options(), event.payload().get());
    let mut body = Vec::with_capacity(payload.len() + 96);
    encode_event_body(&mut body, event.topic().as_str(), options, payload);
    Append {
        topic: event.topic().clone(),
        id: Some(event.id().into()),
        ts: options.ts,
        key: event.key().map(Into::into),
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_collection_here_or_in_another_database() {
        for name in ["outbox", "shop.outbox", "shop.outbox.eu"] {
            assert_eq!(Place::new(name).unwrap().to_string(), name);
        }
        for name in [
            "",
            ".",
            "shop.",
            ".outbox",
            "a b",
            "a$b",
            "a/b.c",
            "events",
            "prom.events",
            "shop.outbox_claims",
            "admin.x",
            "shop.system.x",
        ] {
            assert!(Place::new(name).is_err(), "{name}");
        }
    }
}
