//! Who wants to know when a topic grows: one wake-up per commit, topic and listener, however many events it brought.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use prom_protocol::{Topic, TopicOrPattern};
use prom_store::{Store, StoreError};
use tokio::sync::mpsc;

use super::metrics::{Counter, Metrics};

/// Says which listener, and which of its topics, a signal is for. The listener chooses both numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenerKey {
    /// Which of those that share one queue of signals.
    pub listener: u64,
    /// Which of its topics.
    pub topic: usize,
}

/// What a listener is sent. It then reads [`TopicState::tail`], which may be further on by then.
#[derive(Debug)]
pub(crate) enum Signal {
    /// A topic that it listens to has grown, or was removed.
    Grown(ListenerKey),
    /// A topic has come that may match one of its patterns.
    New(Arc<TopicState>),
}

/// Where signals go. Unbounded, but never holds more than one signal per topic listened to: see [`Link`].
pub(crate) type SignalSender = mpsc::UnboundedSender<Signal>;

/// One listener's interest in one topic. The listener calls [`Link::rearm`] before it reads the tail; until then no
/// further signal is sent.
#[derive(Debug, Clone)]
pub(crate) struct Link(Arc<AtomicBool>);

impl Link {
    /// Allows the next signal.
    pub(crate) fn rearm(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct Listener {
    sent: Arc<AtomicBool>,
    key: ListenerKey,
    signals: SignalSender,
}

impl Listener {
    /// A count of 1 means that only we hold the flag: the listener has dropped its link.
    fn is_wanted(&self) -> bool {
        Arc::strong_count(&self.sent) > 1
    }
}

/// A topic as the hub knows it: its name, its end, its listeners.
#[derive(Debug)]
pub(crate) struct TopicState {
    /// The name.
    pub topic: Topic,
    tail: AtomicU64,
    /// How often it was removed: seqs of before are not of the log that is there now.
    removals: AtomicU64,
    /// It was removed and nothing was published since: for a pattern it is not there.
    gone: AtomicBool,
    /// Its series, from its first event on.
    published: OnceLock<Counter>,
    listeners: Mutex<Vec<Listener>>,
}

impl TopicState {
    /// Last seq that is committed.
    pub(crate) fn tail(&self) -> u64 {
        self.tail.load(Ordering::SeqCst)
    }

    /// How often it was removed. To be looked at before the tail, and after a read: it changes before there is another log.
    pub(crate) fn removals(&self) -> u64 {
        self.removals.load(Ordering::SeqCst)
    }

    /// Sends `Signal::Grown(key)` when the topic grows or is removed, for as long as the returned link lives.
    pub(crate) fn listen(&self, key: ListenerKey, signals: SignalSender) -> Link {
        let sent = Arc::new(AtomicBool::new(false));
        let mut listeners = lock(&self.listeners);
        // Dropped listeners are removed when the topic grows. One that never grows would keep them, so they are removed
        // here before the list gets longer.
        if listeners.len() == listeners.capacity() {
            listeners.retain(Listener::is_wanted);
        }
        listeners.push(Listener { sent: Arc::clone(&sent), key, signals });
        Link(sent)
    }

    fn grow(&self, tail: u64) {
        self.tail.fetch_max(tail, Ordering::SeqCst);
        self.signal();
    }

    fn signal(&self) {
        lock(&self.listeners).retain(|listener| {
            listener.is_wanted()
                && (listener.sent.swap(true, Ordering::SeqCst)
                    || listener.signals.send(Signal::Grown(listener.key)).is_ok())
        });
    }
}

/// Every topic of the hub.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    inner: Mutex<Inner>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Inner {
    topics: HashMap<Topic, Arc<TopicState>>,
    /// Who wants to hear of new topics.
    patterns: Vec<(TopicOrPattern, SignalSender)>,
    /// At this many topics, those without events and without listeners are dropped.
    sweep_at: usize,
}

/// Least number of topics that are looked through for some to drop.
const SWEEP_MIN: usize = 1024;

impl Topics {
    /// The topics a store has.
    ///
    /// # Errors
    /// The store's error.
    pub(crate) async fn load(store: &dyn Store, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        let topics = Self { inner: Mutex::default(), metrics };
        for (topic, tail) in store.topics().await? {
            topics.state(&topic).tail.store(tail.seq, Ordering::SeqCst);
        }
        Ok(topics)
    }

    /// The state of a topic, which may have no events yet.
    pub(crate) fn state(&self, topic: &Topic) -> Arc<TopicState> {
        let mut inner = lock(&self.inner);
        if let Some(state) = inner.topics.get(topic) {
            return Arc::clone(state);
        }
        inner.sweep();
        let state = Arc::new(TopicState {
            topic: topic.clone(),
            tail: AtomicU64::new(0),
            removals: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            published: OnceLock::new(),
            listeners: Mutex::default(),
        });
        inner.topics.insert(topic.clone(), Arc::clone(&state));
        inner.announce(&state);
        state
    }

    /// Whether somebody has published to it, and it was not removed.
    pub(crate) fn has(&self, topic: &Topic) -> bool {
        lock(&self.inner).topics.get(topic).is_some_and(|state| state.tail() > 0)
    }

    /// The topics that `target` means now; those that come later, or again after they were removed, are signalled, until
    /// `signals` is dropped.
    pub(crate) fn follow(&self, target: &TopicOrPattern, signals: &SignalSender) -> Vec<Arc<TopicState>> {
        match target {
            TopicOrPattern::Topic(topic) => vec![self.state(topic)],
            TopicOrPattern::Pattern(pattern) => {
                let mut inner = lock(&self.inner);
                inner.unfollow(target, signals);
                inner.patterns.push((target.clone(), signals.clone()));
                let mut states: Vec<_> = inner.topics.values().map(Arc::clone).collect();
                // Every publish takes the lock too, and there may be very many topics to look at.
                drop(inner);
                states.retain(|state| pattern.matches(&state.topic) && !state.gone.load(Ordering::SeqCst));
                states
            }
        }
    }

    /// Signals new topics of `target` no more.
    pub(crate) fn unfollow(&self, target: &TopicOrPattern, signals: &SignalSender) {
        lock(&self.inner).unfollow(target, signals);
    }

    /// Tells everybody that `topic` has grown by `events` to `tail`.
    pub(crate) fn grown(&self, topic: &Topic, tail: u64, events: u64) {
        let state = self.state(topic);
        state.published.get_or_init(|| self.metrics.published(topic)).add(events);
        self.grow(&state, tail);
    }

    fn grow(&self, state: &Arc<TopicState>, tail: u64) {
        state.grow(tail);
        if state.gone.load(Ordering::Relaxed) && state.gone.swap(false, Ordering::SeqCst) {
            lock(&self.inner).announce(state);
        }
    }

    /// Tells everybody that `topic` was removed. To be called before there is another log of that name.
    pub(crate) fn removed(&self, topic: &Topic) {
        let state = lock(&self.inner).topics.get(topic).map(Arc::clone);
        if let Some(state) = state {
            state.tail.store(0, Ordering::SeqCst);
            state.gone.store(true, Ordering::SeqCst);
            state.removals.fetch_add(1, Ordering::SeqCst);
            state.signal();
        }
    }

    /// Tells everybody that `topic` has grown to `tail`, if that is news: another hub may have written to it.
    pub(crate) fn grown_elsewhere(&self, topic: &Topic, tail: u64) {
        let state = self.state(topic);
        if tail > state.tail() {
            self.grow(&state, tail);
        }
    }
}

impl Inner {
    /// Tells those whose patterns match that a topic has come.
    fn announce(&mut self, state: &Arc<TopicState>) {
        self.patterns.retain(|(target, signals)| {
            if target.matches(&state.topic) {
                signals.send(Signal::New(Arc::clone(state))).is_ok()
            } else {
                !signals.is_closed()
            }
        });
    }

    fn unfollow(&mut self, target: &TopicOrPattern, signals: &SignalSender) {
        self.patterns.retain(|(known, s)| !(s.is_closed() || known == target && s.same_channel(signals)));
    }

    /// Forgets topics that were only ever subscribed to, so that names cannot fill the memory. Whoever holds a state
    /// got it under the lock, so what only the map holds is nobody's.
    fn sweep(&mut self) {
        if self.topics.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.topics.retain(|_, state| state.tail() > 0 || Arc::strong_count(state) > 1);
            self.sweep_at = self.topics.len() * 2;
        }
    }
}

// Nothing that runs under these locks can panic halfway, so a poisoned one is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ListenerKey = ListenerKey { listener: 7, topic: 3 };

    #[test]
    fn a_listener_is_told_once_until_it_asks_again() {
        let topics = Topics::default();
        let topic = Topic::new("a.b").unwrap();
        let (signals, mut received) = mpsc::unbounded_channel();
        let link = topics.state(&topic).listen(KEY, signals);
        topics.grown(&topic, 1, 1);
        topics.grown(&topic, 2, 1);
        assert!(matches!(received.try_recv(), Ok(Signal::Grown(KEY))));
        assert!(received.try_recv().is_err());
        link.rearm();
        topics.grown(&topic, 3, 1);
        assert!(matches!(received.try_recv(), Ok(Signal::Grown(KEY))));
        assert_eq!(topics.state(&topic).tail(), 3);
        drop(link);
        topics.grown(&topic, 4, 1);
        assert!(received.try_recv().is_err(), "a dropped link is forgotten");
    }

    #[test]
    fn topics_nobody_published_to_are_forgotten_with_their_last_subscriber() {
        let topics = Topics::default();
        let kept = topics.state(&Topic::new("kept").unwrap());
        topics.grown(&Topic::new("grown").unwrap(), 1, 1);
        for i in 0..10 * SWEEP_MIN {
            topics.state(&Topic::new(&format!("t{i}")).unwrap());
        }
        let inner = lock(&topics.inner);
        assert!(inner.topics.len() <= 2 * SWEEP_MIN, "{} topics", inner.topics.len());
        assert!(inner.topics.contains_key(&kept.topic) && inner.topics.contains_key(&Topic::new("grown").unwrap()));
    }

    #[test]
    fn listeners_of_a_topic_that_never_grows_are_forgotten() {
        let topics = Topics::default();
        let state = topics.state(&Topic::new("quiet").unwrap());
        let (signals, _received) = mpsc::unbounded_channel();
        for _ in 0..10_000 {
            drop(state.listen(KEY, signals.clone()));
        }
        assert!(lock(&state.listeners).len() < 100);
        let target = TopicOrPattern::new("a.*").unwrap();
        topics.follow(&target, &signals);
        topics.unfollow(&target, &signals);
        assert!(lock(&topics.inner).patterns.is_empty());
    }

    #[test]
    fn a_pattern_hears_of_topics_that_come_later() {
        let topics = Topics::default();
        topics.state(&Topic::new("a.x").unwrap());
        let (signals, mut received) = mpsc::unbounded_channel();
        let now = topics.follow(&TopicOrPattern::new("a.*").unwrap(), &signals);
        assert_eq!(now.len(), 1);
        let later = Topic::new("a.y").unwrap();
        topics.state(&later);
        topics.state(&Topic::new("b.y").unwrap());
        assert!(matches!(received.try_recv(), Ok(Signal::New(state)) if state.topic == later));
        assert!(received.try_recv().is_err());
        // One that was removed is none, until it is published to again.
        topics.removed(&later);
        assert_eq!(topics.follow(&TopicOrPattern::new("a.*").unwrap(), &signals).len(), 1);
        assert!(received.try_recv().is_err());
        topics.grown(&later, 1, 1);
        assert!(matches!(received.try_recv(), Ok(Signal::New(state)) if state.topic == later));
        topics.grown(&later, 2, 1);
        assert!(received.try_recv().is_err());
    }

    #[test]
    fn a_topic_that_was_removed_is_told_and_counts_from_nothing() {
        let topics = Topics::default();
        let topic = Topic::new("a").unwrap();
        topics.removed(&topic);
        let (signals, mut received) = mpsc::unbounded_channel();
        let state = topics.state(&topic);
        let link = state.listen(KEY, signals);
        topics.grown(&topic, 7, 7);
        assert!(matches!(received.try_recv(), Ok(Signal::Grown(KEY))));
        link.rearm();
        topics.removed(&topic);
        assert!(matches!(received.try_recv(), Ok(Signal::Grown(KEY))));
        assert_eq!((state.removals(), state.tail()), (1, 0));
        topics.grown(&topic, 1, 1);
        assert_eq!((state.removals(), state.tail()), (1, 1), "of the new log");
    }
}
