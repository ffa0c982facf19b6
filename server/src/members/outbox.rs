//! Outboxes that the hub drains by itself: a service writes a row in its own transaction, the hub publishes it.
//!
//! ```text
//!   service ──transaction──► collection ◄──claim, settle── Drainer ──publish──► writer ──► store
//! ```

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use prom_outbox::{
    Drainer, Options, OutboxEvent, OutboxStore, Outcome, Publish, PublishError, Published, Stats, Tally,
};
use prom_store::{Append, StoreError};
use serde::Serialize;

use crate::flow::writer::Writer;

/// Longest time an outbox may take to say how it is doing.
const STATS_TIMEOUT: Duration = Duration::from_secs(2);

/// An outbox that this hub drains.
#[derive(Debug)]
pub(crate) struct Drained {
    name: String,
    store: Arc<dyn OutboxStore>,
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
    /// The outbox `store`, by the name that operators know it by.
    pub(crate) fn new(name: String, store: Arc<dyn OutboxStore>, writer: Writer) -> Self {
        let drainer = Drainer::new(Arc::clone(&store), Arc::new(Own(writer)), Options::default());
        Self { name, store, drainer }
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
                        refused.code().as_str(),
                        refused.message(),
                        refused.code().temporary(),
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
    Append::new(event.topic().clone(), event.options(), event.payload().get())
}
