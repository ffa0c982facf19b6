//! An ephemeral subscription with what it needs of the hub: its topics, and the links that signal their growth.

use std::{collections::HashSet, sync::Arc};

use prom_delivery::{Found, Live, MemberId, Next, Wanted};
use prom_protocol::{Filter, StartFrom, Topic, TopicOrPattern};
use prom_store::{Store, StoreError};

use crate::flow::topics::{Link, ListenerKey, SignalSender, TopicState};

/// Most events of one read.
const READ_EVENTS: usize = 512;
/// Most bytes of one read, but for a single larger event.
const READ_BYTES: usize = 256 * 1024;

/// A topic of a subscription.
#[derive(Debug)]
struct Followed {
    state: Arc<TopicState>,
    link: Link,
    /// Of these removals the subscription has been told.
    removals: u64,
}

impl Followed {
    /// Whether the topic was removed since this was last asked.
    fn was_removed(&mut self) -> bool {
        let removals = self.state.removals();
        std::mem::replace(&mut self.removals, removals) != removals
    }
}

/// The shell around a [`Live`].
#[derive(Debug)]
pub(super) struct Feed {
    live: Live,
    target: TopicOrPattern,
    /// By their index in `live`.
    topics: Vec<Followed>,
    /// The same by their addresses, which stay theirs while they are held above.
    known: HashSet<usize>,
    /// Topics that have grown since the last look, each once: no further signal comes until they are looked at.
    grown: Vec<usize>,
}

impl Feed {
    /// A subscription without topics yet.
    pub(super) fn new(target: TopicOrPattern, from: &StartFrom, filter: Filter) -> Self {
        Self { live: Live::new(from, filter), target, topics: Vec::new(), known: HashSet::new(), grown: Vec::new() }
    }

    /// Takes on a topic, from after `position`, which was found when the topic had been removed so often. Its growth is
    /// signalled to `member`.
    pub(super) fn add(
        &mut self,
        state: Arc<TopicState>,
        (position, removals): (u64, u64),
        member: MemberId,
        signals: &SignalSender,
    ) {
        if !self.known.insert(Arc::as_ptr(&state).addr()) {
            return;
        }
        let key = ListenerKey { listener: member, topic: self.topics.len() };
        let link = state.listen(key, signals.clone());
        // These are read after the link is there, so that nothing is missed.
        if state.removals() != removals {
            self.grown.push(self.topics.len());
        }
        self.live.add(position, state.tail());
        self.topics.push(Followed { state, link, removals });
    }

    /// Whether it subscribes to this topic and does not have it yet.
    pub(super) fn wants(&self, state: &Arc<TopicState>) -> bool {
        self.target.matches(&state.topic) && !self.has(state)
    }

    fn has(&self, state: &Arc<TopicState>) -> bool {
        self.known.contains(&Arc::as_ptr(state).addr())
    }

    /// How many topics it has.
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    /// A topic has grown.
    pub(super) fn grown(&mut self, topic: usize) {
        self.grown.push(topic);
    }

    /// What to do next, if anything.
    pub(super) fn next(&mut self) -> Option<Next> {
        // No sooner than the tails matter: until then further commits need not wake this connection.
        if !self.live.is_busy() {
            for topic in self.grown.drain(..) {
                let followed = &mut self.topics[topic];
                // Asked again before it is looked at, so that nothing is missed.
                followed.link.rearm();
                if followed.was_removed() {
                    self.live.restart(topic);
                }
                self.live.tail(topic, self.topics[topic].state.tail());
            }
        }
        self.live.next()
    }

    /// The topic of that index.
    pub(super) fn topic(&self, index: usize) -> &Topic {
        &self.topics[index].state.topic
    }

    /// Takes what was read.
    pub(super) fn found(&mut self, found: Found) {
        let topic = found.topic();
        if self.topics[topic].was_removed() {
            // Nobody knows which log that was of.
            self.live.restart(topic);
            self.live.failed();
            self.live.tail(topic, self.topics[topic].state.tail());
            return;
        }
        self.live.tail(topic, self.topics[topic].state.tail());
        self.live.found(found);
    }

    /// A read did not succeed; it is asked for again.
    pub(super) fn failed(&mut self) {
        self.live.failed();
    }
}

/// Reads what is wanted of `topic`, and passes over what cannot be read: nothing is settled here, and one damaged event
/// keeps nobody from all behind it.
pub(super) async fn read(store: &dyn Store, topic: &Topic, wanted: Wanted) -> Result<Found, StoreError> {
    Ok(match wanted {
        Wanted::Events { topic: index, after } => {
            Found::Events(index, store.salvage(topic, after, READ_EVENTS, READ_BYTES).await?)
        }
        Wanted::Latest { topic: index, after, at } => {
            let page = store.latest_page(topic, after.as_deref(), at, READ_EVENTS, READ_BYTES).await?;
            Found::Latest(index, page)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::sync::mpsc;

    use super::*;
    use crate::flow::topics::Topics;

    #[test]
    fn a_topic_is_taken_on_once_and_at_the_same_cost_however_many_there_are() {
        // Each was looked for among all the others.
        let (topics, target) = (Topics::default(), TopicOrPattern::new("t.*").unwrap());
        for i in 0..100_000 {
            topics.grown(&Topic::new(&format!("t.{i}")).unwrap(), 1, 1);
        }
        let (signals, _received) = mpsc::unbounded_channel();
        let mut feed = Feed::new(target.clone(), &StartFrom::Latest, Filter::default());
        let begun = Instant::now();
        for _ in 0..2 {
            for state in topics.follow(&target, &signals) {
                feed.add(state, (0, 0), 1, &signals);
                assert!(begun.elapsed().as_secs() < 60, "this goes on for long");
            }
        }
        assert_eq!(feed.len(), 100_000);
        assert!(!feed.wants(&topics.state(&Topic::new("t.7").unwrap())));
    }
}
