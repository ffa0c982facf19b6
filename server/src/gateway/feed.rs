//! An ephemeral subscription with what it needs of the hub: its topics, and the links that signal their growth.

use std::sync::Arc;

use prom_delivery::{Found, Live, MemberId, Next, Wanted};
use prom_protocol::{Filter, StartFrom, Topic, TopicOrPattern};
use prom_store::{Store, StoreError};

use crate::flow::topics::{Link, ListenerKey, SignalSender, TopicState};

/// Most events of one read.
const READ_EVENTS: usize = 512;
/// Most bytes of one read, but for a single larger event.
const READ_BYTES: usize = 256 * 1024;

/// The shell around a [`Live`].
#[derive(Debug)]
pub(super) struct Feed {
    live: Live,
    target: TopicOrPattern,
    /// By their index in `live`.
    topics: Vec<(Arc<TopicState>, Link)>,
    /// Topics that have grown since the last look, each once: no further signal comes until they are looked at.
    grown: Vec<usize>,
}

impl Feed {
    /// A subscription without topics yet.
    pub(super) fn new(target: TopicOrPattern, from: &StartFrom, filter: Filter) -> Self {
        Self { live: Live::new(from, filter), target, topics: Vec::new(), grown: Vec::new() }
    }

    /// Takes on a topic, from after `position`. Its growth is signalled to `member`.
    pub(super) fn add(&mut self, state: Arc<TopicState>, position: u64, member: MemberId, signals: &SignalSender) {
        if self.has(&state) {
            return;
        }
        let key = ListenerKey { listener: member, topic: self.topics.len() };
        let link = state.listen(key, signals.clone());
        // The tail is read after the link is there, so that no growth is missed.
        self.live.add(position, state.tail());
        self.topics.push((state, link));
    }

    /// Whether it subscribes to this topic and does not have it yet.
    pub(super) fn wants(&self, state: &Arc<TopicState>) -> bool {
        self.target.matches(&state.topic) && !self.has(state)
    }

    fn has(&self, state: &Arc<TopicState>) -> bool {
        self.topics.iter().any(|(own, _)| Arc::ptr_eq(own, state))
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
                let (state, link) = &self.topics[topic];
                // Asked again before the tail is read, so that no growth is missed.
                link.rearm();
                self.live.tail(topic, state.tail());
            }
        }
        self.live.next()
    }

    /// The topic of that index.
    pub(super) fn topic(&self, index: usize) -> &Topic {
        &self.topics[index].0.topic
    }

    /// Takes what was read.
    pub(super) fn found(&mut self, found: Found) {
        let topic = found.topic();
        self.live.tail(topic, self.topics[topic].0.tail());
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
