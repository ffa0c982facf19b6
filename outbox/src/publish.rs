//! The publisher that a drainer hands its events to.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, timeout_at};

use crate::OutboxEvent;

/// A committed event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its position in its topic.
    pub seq: u64,
    /// An event of that id stood there before.
    pub duplicate: bool,
}

/// Why an event was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct PublishError {
    /// One of the hub's codes, or the publisher's own.
    pub code: Cow<'static, str>,
    /// One sentence for people.
    pub message: String,
    /// Whether the same publish may succeed later.
    pub temporary: bool,
    /// When to try again, if the hub said so.
    pub retry_after: Option<Duration>,
}

impl PublishError {
    /// An error of `code`.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>, temporary: bool) -> Self {
        Self { code: code.into(), message: message.into(), temporary, retry_after: None }
    }

    /// Whether the error is about the publisher and not about the event. Then no other event would be published either,
    /// so this does not count as a try of the event.
    pub fn of_publisher(&self) -> bool {
        const CODES: [&str; 13] = [
            "unauthorized",
            "no_token",
            "jwt_invalid",
            "token_expired",
            "rate_limited",
            "overloaded",
            "store_unavailable",
            "shutting_down",
            "connection_lost",
            "timeout",
            "closed",
            "config",
            "unavailable",
        ];
        CODES.contains(&&*self.code)
    }

    /// Whether the event will never be published: it is parked at once. What is forbidden today may be allowed when a
    /// token or a policy is corrected, so it is tried as often as any other.
    pub fn permanent(&self) -> bool {
        !self.temporary && !self.of_publisher() && self.code != "forbidden"
    }
}

/// What became of one event of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed.
    Published(Published),
    /// It was refused, or nobody knows whether it was committed.
    Failed(PublishError),
    /// It was not tried, because an earlier one of its key was not published.
    Held,
}

/// Publishes events. A hub's client is one (feature `sdk`), the hub itself is another.
///
/// # Contract
/// - The answer has one outcome per event, in their order.
/// - `Published` means committed as durably as the hub commits. An event whose id stands there already is published, as a
///   duplicate.
/// - **Keys.** The events of one key are committed in their order. After one that failed, unless for good
///   ([`PublishError::permanent`]), the later ones of its key are not published: [`Outcome::Held`]. So a publisher that
///   pipelines has at most one event per key under way, or a hub that refuses the rest: see [`in_key_order`].
/// - It returns after `within` at the latest; a drainer waits no longer, and drops the future. Events may have been
///   published nevertheless; they are published again, with the same ids.
#[async_trait]
pub trait Publish: Send + Sync + 'static {
    /// Publishes a batch.
    async fn publish(&self, events: &[OutboxEvent], within: Duration) -> Vec<Outcome>;
}

#[async_trait]
impl<P: Publish + ?Sized> Publish for Arc<P> {
    async fn publish(&self, events: &[OutboxEvent], within: Duration) -> Vec<Outcome> {
        (**self).publish(events, within).await
    }
}

/// Publishes a batch by a function for one event and the time it has: those of one key one after another, all keys at
/// once.
///
/// It returns after `within` at the latest: an event that is under way then has failed with `timeout`, and those behind it
/// are held.
pub async fn in_key_order<'a, F, Fut>(events: &'a [OutboxEvent], within: Duration, publish: F) -> Vec<Outcome>
where
    F: Fn(&'a OutboxEvent, Duration) -> Fut,
    Fut: Future<Output = Result<Published, PublishError>>,
{
    let mut chains: Vec<Vec<usize>> = Vec::new();
    let mut of_key: HashMap<&str, usize> = HashMap::new();
    for (at, event) in events.iter().enumerate() {
        let chain = event.key().map(|key| *of_key.entry(key).or_insert(chains.len()));
        match chain.and_then(|chain| chains.get_mut(chain)) {
            Some(chain) => chain.push(at),
            None => chains.push(vec![at]),
        }
    }
    let end = Instant::now() + within;
    let one = async |event: &'a OutboxEvent| {
        let left = end.saturating_duration_since(Instant::now());
        let late = |_| Err(PublishError::new("timeout", "the hub did not answer in time", true));
        timeout_at(end, publish(event, left)).await.unwrap_or_else(late)
    };
    let one = &one;
    let mut running: FuturesUnordered<_> = chains
        .into_iter()
        .map(|chain| async move {
            let mut outcomes = Vec::with_capacity(chain.len());
            let mut held = false;
            for at in chain {
                held |= Instant::now() >= end;
                let outcome = match events.get(at) {
                    Some(event) if !held => match one(event).await {
                        Ok(published) => Outcome::Published(published),
                        Err(error) => {
                            held = !error.permanent();
                            Outcome::Failed(error)
                        }
                    },
                    _ => Outcome::Held,
                };
                outcomes.push((at, outcome));
            }
            outcomes
        })
        .collect();
    let mut outcomes = vec![Outcome::Held; events.len()];
    while let Some(chain) = running.next().await {
        for (at, outcome) in chain {
            if let Some(place) = outcomes.get_mut(at) {
                *place = outcome;
            }
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use prom_protocol::{ErrorCode, EventOptions, RawValue};

    use super::*;

    fn event(id: &str, key: Option<&str>) -> OutboxEvent {
        let options = EventOptions { key: key.map(|key| key.to_owned().into()), ..EventOptions::default() };
        OutboxEvent::new("t", id.to_owned(), options, RawValue::NULL.to_owned()).unwrap()
    }

    #[tokio::test]
    async fn a_key_stops_at_its_first_failure_that_may_pass() {
        let events = [
            event("a1", Some("a")),
            event("b1", Some("b")),
            event("a2", Some("a")),
            event("x", None),
            event("b2", Some("b")),
            event("a3", Some("a")),
        ];
        let tried = Mutex::new(Vec::new());
        let outcomes = in_key_order(&events, Duration::from_secs(60), |event, _| {
            tried.lock().unwrap().push(event.id());
            async move {
                tokio::task::yield_now().await;
                match event.id() {
                    "a2" => Err(PublishError::new("internal", "", true)),
                    "b1" => Err(PublishError::new("bad_payload", "", false)),
                    _ => Ok(Published { seq: 1, duplicate: false }),
                }
            }
        })
        .await;
        let short: Vec<_> = outcomes
            .iter()
            .map(|outcome| match outcome {
                Outcome::Published(_) => 'p',
                Outcome::Failed(_) => 'f',
                Outcome::Held => 'h',
            })
            .collect();
        assert_eq!(short, ['p', 'f', 'f', 'p', 'p', 'h']);
        let tried = tried.into_inner().unwrap();
        assert!(!tried.contains(&"a3"), "{tried:?}");
        let place = |id| tried.iter().position(|tried| *tried == id);
        assert!(place("a1") < place("a2") && place("b1") < place("b2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_chain_of_one_key_ends_in_time_and_says_what_it_did() {
        // Bug: each event had the whole time for itself, so the chain outlived the drainer's patience and all was lost.
        let events: Vec<_> = (0..500).map(|n| event(&format!("a{n}"), Some("a"))).collect();
        let since = Instant::now();
        let outcomes = in_key_order(&events, Duration::from_secs(10), |_, left| async move {
            assert!(left <= Duration::from_secs(10) - since.elapsed());
            tokio::time::sleep(Duration::from_millis(26)).await;
            Ok(Published { seq: 1, duplicate: false })
        })
        .await;
        assert_eq!(since.elapsed().as_secs(), 10);
        let published = outcomes.iter().take_while(|outcome| matches!(outcome, Outcome::Published(_))).count();
        assert!((350..=385).contains(&published), "{published}");
        assert!(matches!(&outcomes[published], Outcome::Failed(error) if error.code == "timeout"));
        assert!(outcomes[published + 1..].iter().all(|outcome| *outcome == Outcome::Held));
    }

    #[test]
    fn the_codes_that_park_are_those_that_say_something_about_the_event() {
        let permanent = |code: &ErrorCode| PublishError::new(code.as_str(), "", code.temporary()).permanent();
        let parked: Vec<_> = ErrorCode::ALL.iter().filter(|code| permanent(code)).map(|code| code.as_str()).collect();
        for code in ["bad_topic", "bad_payload", "too_large", "publish_failed", "bad_frame"] {
            assert!(parked.contains(&code), "{code}");
        }
        for code in [
            "forbidden",
            "unauthorized",
            "token_expired",
            "overloaded",
            "store_unavailable",
            "internal",
            "shutting_down",
        ] {
            assert!(!parked.contains(&code), "{code}");
        }
    }
}
