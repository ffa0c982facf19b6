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
use prom_protocol::{Policy, Refusal};
use prom_store::{Append, StoreError};
use serde::Serialize;

use crate::{flow::writer::Writer, rights};

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
        let drainer =
            Drainer::new(Arc::clone(&store), Arc::new(Own { writer, policy: Policy::open() }), Options::default());
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
///
/// A row has no token. Whoever writes it may do what the widest wildcard allows, and no more.
struct Own {
    writer: Writer,
    policy: Policy,
}

#[async_trait]
impl Publish for Own {
    async fn publish(&self, events: &[OutboxEvent], within: Duration) -> Vec<Outcome> {
        let rights: Vec<_> = events.iter().map(|event| rights::publish(&self.policy, event.topic())).collect();
        let allowed = events.iter().zip(&rights).filter(|(_, right)| right.is_ok());
        let appends = allowed.map(|(event, _)| append(event)).collect();
        let committed = match tokio::time::timeout(within, self.writer.commit(appends, Vec::new())).await {
            Ok(Ok(outcomes)) => Ok(outcomes),
            Ok(Err(error)) => Err(unavailable(&error)),
            Err(_) => Err(PublishError::new("timeout", "the store did not take it in time", true)),
        };
        let (mut outcomes, lost) = match committed {
            Ok(outcomes) => (outcomes.into_iter(), unavailable(&StoreError::Unavailable("no answer".into()))),
            Err(error) => (Vec::new().into_iter(), error),
        };
        let outcome = |right: Result<(), Refusal>| match right {
            // For good: no token and no rule will change it.
            Err(refused) => Outcome::Failed(PublishError::new("publish_failed", refused.message(), false)),
            Ok(()) => match outcomes.next() {
                Some(Ok(done)) => Outcome::Published(Published { seq: done.seq, duplicate: done.duplicate }),
                Some(Err(refused)) => {
                    let code = refused.code();
                    Outcome::Failed(PublishError::new(code.as_str(), refused.message(), code.temporary()))
                }
                None => Outcome::Failed(lost.clone()),
            },
        };
        rights.into_iter().map(outcome).collect()
    }
}

fn unavailable(error: &StoreError) -> PublishError {
    PublishError::new("store_unavailable", error.told(), true)
}

fn append(event: &OutboxEvent) -> Append {
    Append::new(event.topic().clone(), event.options(), event.payload().get())
}

#[cfg(test)]
mod tests {
    use prom_protocol::{EventOptions, RawValue, Topic};
    use prom_store::{MemoryStore, Store};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::flow::topics::Topics;

    /// What a row may do, which comes without a token: what the widest wildcard allows.
    #[tokio::test]
    async fn a_row_may_be_of_any_topic_but_the_hubs_own_dead_letters_and_states() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(1024 * 1024));
        let topics = Arc::new(Topics::load(&*store, Arc::default()).await.unwrap());
        let over = CancellationToken::new();
        let (writer, writing) = Writer::start(Arc::clone(&store), topics, Arc::default(), over.clone());
        let writing = tokio::spawn(writing);
        let own = Own { writer, policy: Policy::open() };
        for (topic, allowed) in [
            ("a", true),
            ("secret.plans", true),
            ("heartbeat.received", true),
            ("process.states", true),
            ("process.state.x", true),
            ("dlqs.a", true),
            ("process.state", false),
            ("dlq.a", false),
            ("dlq.dlq.a", false),
            ("dlq.process.state", false),
            ("$audit", false),
            ("$process-projector", false),
        ] {
            let payload = RawValue::from_string("1".into()).unwrap();
            let done = match OutboxEvent::new(topic, "1".into(), EventOptions::default(), payload) {
                Ok(event) => {
                    let outcome = own.publish(&[event], Duration::from_secs(60)).await.remove(0);
                    matches!(outcome, Outcome::Published(Published { seq: 1, duplicate: false }))
                }
                Err(_) => false,
            };
            assert_eq!(done, allowed, "{topic}");
            let topic = Topic::new(topic).unwrap();
            // And if a row came to be for it all the same.
            assert_eq!(rights::publish(&own.policy, &topic).is_ok(), allowed, "{topic}");
            assert_eq!(store.tail(&topic).await.unwrap().is_some(), allowed, "{topic}");
        }
        drop(own);
        over.cancel();
        writing.await.unwrap();
    }

    /// Whoever may write rows could publish the states of processes, although nobody named them for it.
    #[tokio::test]
    async fn rows_of_topics_that_no_wildcard_reaches_are_refused_for_good_and_hold_nothing_up() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(1024 * 1024));
        let topics = Arc::new(Topics::load(&*store, Arc::default()).await.unwrap());
        let over = CancellationToken::new();
        let (writer, writing) = Writer::start(Arc::clone(&store), topics, Arc::default(), over.clone());
        let writing = tokio::spawn(writing);
        let event = |topic: &str, id: &str| {
            let payload = RawValue::from_string("1".into()).unwrap();
            OutboxEvent::new(topic, id.into(), EventOptions::default(), payload).unwrap()
        };
        let events = [event("a", "1"), event("process.state", "2"), event("a", "3")];
        let own = Own { writer, policy: Policy::open() };
        let outcomes = own.publish(&events, Duration::from_secs(60)).await;
        let [first, refused, last] = &outcomes[..] else { panic!("{outcomes:?}") };
        assert_eq!(first, &Outcome::Published(Published { seq: 1, duplicate: false }));
        assert!(matches!(refused, Outcome::Failed(error) if error.permanent()), "{refused:?}");
        assert_eq!(last, &Outcome::Published(Published { seq: 2, duplicate: false }));
        let page = store.read(&Topic::new("a").unwrap(), 0, 10, 1024 * 1024).await.unwrap();
        for event in &page.events {
            assert!(!event.text().contains("\"by\""), "a row has no token: {}", event.text());
        }
        assert!(store.tail(&Topic::new("process.state").unwrap()).await.unwrap().is_none());
        drop(own);
        over.cancel();
        writing.await.unwrap();
    }
}
