//! Ephemeral subscriptions: nothing stored, nothing acknowledged, pulled from the log at the pace of their connection.
//!
//! A [`Live`] is a state machine: it says what to read next, and turns what was read into what to send. Nothing is
//! queued for a slow connection: it reads on when it can send on, so memory does not grow with its lag. A *watch*
//! (`from: "snapshot"`) first pages through the newest event of each key, then goes on in rounds: a round takes all that
//! came since the last one and sends the newest event of each key, so it is never behind by more than one round.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use prom_protocol::{Event, Filter, StartFrom, TopicOrPattern};

use crate::{
    store::{LatestPage, Page, Store, StoreError, Stored},
    topics::{Link, TopicState},
};

/// Most events of one read.
const LIMIT: usize = 512;
/// Most bytes of one read.
const BYTES: usize = 256 * 1024;

/// What to read for a subscription.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// Events of this topic after this seq.
    Events { topic: usize, after: u64 },
    /// The newest event of each key after this key, as of this seq.
    Latest { topic: usize, after: Option<Box<str>>, at: u64 },
}

/// What was read.
#[derive(Debug)]
pub enum Got {
    /// For [`Wanted::Events`].
    Events(usize, Page),
    /// For [`Wanted::Latest`].
    Latest(usize, LatestPage),
}

/// Something to send.
#[derive(Debug)]
pub enum Item {
    /// This event.
    Event(Stored),
    /// Events of this topic were gone before they could be sent, trimmed or damaged and given up: first and last seq.
    Gap(Arc<TopicState>, u64, u64),
    /// The snapshot is complete.
    Live,
}

/// What to do for a subscription.
#[derive(Debug)]
pub enum Next {
    /// Send this, in this order, and ask again.
    Send(Vec<Item>),
    /// Read this, answer with [`Live::got`] or [`Live::failed`], and ask again.
    Read(Wanted),
}

#[derive(Debug)]
struct Source {
    state: Arc<TopicState>,
    link: Link,
    phase: Phase,
    /// Last seq that was read.
    position: u64,
    /// A round under way: the newest event of each key since the last round, and the seq it goes up to.
    round: HashMap<Box<str>, Stored>,
    round_to: u64,
    /// Where the log ended when the snapshot's last page was read.
    caught_up: u64,
}

#[derive(Debug)]
enum Phase {
    /// The newest event of each key as of `at`, but for those at or below `known`, which were sent before.
    Snapshot {
        at: u64,
        after: Option<Box<str>>,
        known: u64,
    },
    Following,
}

/// An ephemeral subscription.
#[derive(Debug)]
pub struct Live {
    /// What it subscribes to.
    pub target: TopicOrPattern,
    filter: Filter,
    watch: bool,
    announced: bool,
    sources: Vec<Source>,
    /// Source to look at first, so that none starves.
    turn: usize,
    reading: bool,
    /// Read, and not sent yet.
    backlog: VecDeque<Item>,
}

impl Live {
    /// A subscription without topics yet.
    pub fn new(target: TopicOrPattern, from: &StartFrom, filter: Filter) -> Self {
        let watch = *from == StartFrom::Snapshot;
        Self {
            target,
            filter,
            watch,
            announced: !watch,
            sources: Vec::new(),
            turn: 0,
            reading: false,
            backlog: VecDeque::new(),
        }
    }

    /// Takes on a topic, from after `position`; a watch takes a snapshot as of `position`.
    pub fn add(&mut self, state: Arc<TopicState>, link: Link, position: u64) {
        if self.sources.iter().any(|source| Arc::ptr_eq(&source.state, &state)) {
            return;
        }
        let phase = if self.watch { Phase::Snapshot { at: position, after: None, known: 0 } } else { Phase::Following };
        self.sources.push(Source { state, link, phase, position, round: HashMap::new(), round_to: 0, caught_up: 0 });
    }

    /// Whether it has this topic.
    pub fn has(&self, state: &Arc<TopicState>) -> bool {
        self.sources.iter().any(|source| Arc::ptr_eq(&source.state, state))
    }

    /// What to do next, if anything.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Next> {
        let mut items = Vec::new();
        let mut bytes = 0;
        while bytes < BYTES
            && let Some(item) = self.backlog.pop_front()
        {
            if let Item::Event(event) = &item {
                bytes += event.json.len();
            }
            items.push(item);
        }
        if self.announce() {
            items.push(Item::Live);
        }
        if items.is_empty() { self.next_read().map(Next::Read) } else { Some(Next::Send(items)) }
    }

    /// What to read next; one read at a time.
    fn next_read(&mut self) -> Option<Wanted> {
        if self.reading {
            return None;
        }
        // Snapshots first: LIVE is sent when all of them are complete.
        let mut wanted = self.sources.iter().enumerate().find_map(|(topic, source)| match &source.phase {
            Phase::Snapshot { at, after, .. } => Some(Wanted::Latest { topic, after: after.clone(), at: *at }),
            Phase::Following => None,
        });
        let topics = self.sources.len();
        for topic in (self.turn..topics).chain(0..self.turn.min(topics)) {
            if wanted.is_some() {
                break;
            }
            let source = &self.sources[topic];
            // Asked again before the tail is read, so that no growth is missed.
            source.link.rearm();
            if source.position < source.state.tail() {
                wanted = Some(Wanted::Events { topic, after: source.position });
                self.turn = topic + 1;
            }
        }
        self.reading = wanted.is_some();
        wanted
    }

    /// A read did not succeed; it is asked for again.
    pub fn failed(&mut self) {
        self.reading = false;
    }

    /// Takes what was read, for [`Live::next`] to send.
    pub fn got(&mut self, got: Got) {
        self.reading = false;
        let mut events = Vec::new();
        match got {
            Got::Latest(topic, mut page) => {
                let source = &mut self.sources[topic];
                let Phase::Snapshot { after, known, .. } = &mut source.phase else { return };
                if page.more
                    && let Some(last) = page.events.last()
                {
                    after.clone_from(&last.key);
                    page.events.retain(|event| event.seq > *known);
                } else {
                    page.events.retain(|event| event.seq > *known);
                    // What changed while the pages were read was left out of them and comes from the log.
                    source.caught_up = source.state.tail();
                    source.phase = Phase::Following;
                }
                events = page.events;
            }
            Got::Events(topic, page) => {
                let source = &mut self.sources[topic];
                if page.first > source.position + 1 && source.position < page.read_to.max(page.first - 1) {
                    let to = page.first - 1;
                    if self.watch {
                        // The newest event of a key may be among those that are gone: they are looked for once more.
                        source.start_over(to.max(page.read_to), &mut events);
                    } else {
                        self.backlog.push_back(Item::Gap(Arc::clone(&source.state), source.position + 1, to));
                        source.position = to;
                    }
                }
                if page.read_to > source.position {
                    if self.watch {
                        source.position = page.read_to;
                        source.collect(page.events, &mut events);
                    } else {
                        source.follow(page, &self.filter, &mut self.backlog);
                    }
                }
            }
        }
        events.retain(|event| passes(&self.filter, event));
        self.backlog.extend(events.into_iter().map(Item::Event));
    }

    /// Whether the snapshot has just become complete: every key of every topic is sent as it was when the last page of
    /// its snapshot was read, or newer. Answers yes once.
    fn announce(&mut self) -> bool {
        let complete = |source: &Source| {
            matches!(source.phase, Phase::Following) && source.position >= source.caught_up && source.round.is_empty()
        };
        let now = !self.announced && self.backlog.is_empty() && self.sources.iter().all(complete);
        self.announced |= now;
        now
    }
}

fn passes(filter: &Filter, event: &Stored) -> bool {
    filter.is_empty() || Event::parse(event.text()).is_ok_and(|event| filter.passes(&event))
}

impl Source {
    /// Takes on the events of a page, and says which are missing between them.
    fn follow(&mut self, page: Page, filter: &Filter, out: &mut VecDeque<Item>) {
        for event in page.events {
            if event.seq > self.position + 1 {
                out.push_back(Item::Gap(Arc::clone(&self.state), self.position + 1, event.seq - 1));
            }
            self.position = self.position.max(event.seq);
            if passes(filter, &event) {
                out.push_back(Item::Event(event));
            }
        }
        if page.read_to > self.position {
            out.push_back(Item::Gap(Arc::clone(&self.state), self.position + 1, page.read_to));
            self.position = page.read_to;
        }
    }

    /// Adds events to the round under way and ends it when it has caught up with where the topic ended at its start.
    fn collect(&mut self, events: Vec<Stored>, out: &mut Vec<Stored>) {
        if self.round.is_empty() {
            self.round_to = self.state.tail();
        }
        for event in events {
            // Only what has a key has a newest event.
            if let Some(key) = &event.key {
                self.round.insert(key.clone(), event);
            }
        }
        if self.position >= self.round_to {
            self.end_round(out);
        }
    }

    fn end_round(&mut self, out: &mut Vec<Stored>) {
        let from = out.len();
        out.extend(self.round.drain().map(|(_, event)| event));
        out[from..].sort_unstable_by_key(|event| event.seq);
    }

    /// Takes another snapshot, of what came after `position`, because the log was trimmed up to `lost`.
    fn start_over(&mut self, lost: u64, out: &mut Vec<Stored>) {
        self.end_round(out);
        let at = self.state.tail().max(lost);
        self.phase = Phase::Snapshot { at, after: None, known: self.position };
        self.position = at;
    }
}

/// Where a subscription that starts at `from` begins in a topic: the seq after which it reads.
///
/// # Errors
/// `None` inside: the position is not in the log.
pub async fn position(store: &dyn Store, state: &TopicState, from: &StartFrom) -> Result<Option<u64>, StoreError> {
    let topic = &state.topic;
    Ok(match from {
        StartFrom::Latest | StartFrom::Snapshot => Some(state.tail()),
        StartFrom::Earliest => Some(store.tail(topic).await?.map_or(0, |tail| tail.first - 1)),
        StartFrom::Ts(ts) => Some(store.seq_before_ts(topic, *ts).await?),
        StartFrom::AfterId(id) => store.seq_of(topic, id).await?,
        StartFrom::AfterSeq(seq) => {
            let last = store.tail(topic).await?.map_or(0, |tail| tail.seq);
            (*seq <= last).then_some(*seq)
        }
    })
}

/// Reads what is wanted.
///
/// # Errors
/// What the store says.
pub async fn read(store: &dyn Store, state: &TopicState, wanted: Wanted) -> Result<Got, StoreError> {
    Ok(match wanted {
        Wanted::Events { topic, after } => Got::Events(topic, store.read(&state.topic, after, LIMIT, BYTES).await?),
        Wanted::Latest { topic, after, at } => {
            Got::Latest(topic, store.latest_page(&state.topic, after.as_deref(), at, LIMIT, BYTES).await?)
        }
    })
}

impl Wanted {
    fn topic(&self) -> usize {
        match self {
            Self::Events { topic, .. } | Self::Latest { topic, .. } => *topic,
        }
    }
}

impl Live {
    /// The topic a read is about.
    pub fn state_of(&self, wanted: &Wanted) -> Arc<TopicState> {
        Arc::clone(&self.sources[wanted.topic()].state)
    }
}

#[cfg(test)]
mod tests {
    use prom_protocol::{EventOptions, Text, Topic, encode_event_body};
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        store::{Append, Batch, MemoryStore},
        topics::{SignalSender, Topics},
    };

    struct Hub {
        store: MemoryStore,
        topics: Topics,
        signals: SignalSender,
    }

    impl Hub {
        fn new() -> Self {
            let (signals, _) = mpsc::unbounded_channel();
            Self { store: MemoryStore::new(1024 * 1024), topics: Topics::default(), signals }
        }

        async fn publish(&self, topic: &str, key: Option<&str>, bytes: usize) {
            let options = EventOptions { key: key.map(Text::from), ..EventOptions::default() };
            let mut body = Vec::new();
            encode_event_body(&mut body, topic, &options, &format!("\"{}\"", "x".repeat(bytes)));
            let topic = Topic::new(topic).unwrap();
            let append = Append { topic: topic.clone(), id: None, ts: None, key: key.map(Into::into), body };
            let outcome =
                self.store.commit(Batch { now: 1, appends: vec![append], cursors: Vec::new() }).await.unwrap();
            self.topics.grown(&topic, outcome[0].as_ref().unwrap().seq, 1);
        }

        async fn live(&self, target: &str, from: StartFrom) -> Live {
            let target = TopicOrPattern::new(target).unwrap();
            let mut live = Live::new(target.clone(), &from, Filter::default());
            for state in self.topics.follow(&target, &self.signals) {
                let position = position(&self.store, &state, &from).await.unwrap().unwrap();
                let link = state.listen(1, self.signals.clone());
                live.add(state, link, position);
            }
            live
        }

        /// Does the next thing; answers what is sent by it, and whether there was anything to do.
        async fn step(&self, live: &mut Live) -> (Vec<String>, bool) {
            match live.next() {
                Some(Next::Send(items)) => (items.iter().map(name).collect(), true),
                Some(Next::Read(wanted)) => {
                    let state = live.state_of(&wanted);
                    live.got(read(&self.store, &state, wanted).await.unwrap());
                    (Vec::new(), true)
                }
                None => (Vec::new(), false),
            }
        }

        async fn all(&self, live: &mut Live) -> Vec<String> {
            let mut all = Vec::new();
            while let (sent, true) = self.step(live).await {
                all.extend(sent);
            }
            all
        }
    }

    fn name(item: &Item) -> String {
        match item {
            Item::Event(event) => format!("{}@{}", event.key.as_deref().unwrap_or_default(), event.seq),
            Item::Gap(_, from, to) => format!("gap {from}..={to}"),
            Item::Live => "live".into(),
        }
    }

    #[tokio::test]
    async fn a_watch_is_the_newest_of_each_key_then_live_once_then_rounds() {
        let hub = Hub::new();
        for key in ["a", "b", "a"] {
            hub.publish("t", Some(key), 1).await;
        }
        let mut live = hub.live("t", StartFrom::Snapshot).await;
        // It changes before the snapshot is read.
        hub.publish("t", Some("b"), 1).await;
        hub.publish("t", None, 1).await;
        assert_eq!(hub.all(&mut live).await, ["a@3", "b@4", "live"]);
        for key in ["a", "b", "a", "c", "a"] {
            hub.publish("t", Some(key), 1).await;
        }
        assert_eq!(hub.all(&mut live).await, ["b@7", "c@9", "a@10"], "one round, conflated");
        let mut empty = hub.live("nothing.*", StartFrom::Snapshot).await;
        assert_eq!(hub.all(&mut empty).await, ["live"]);
        assert_eq!(hub.all(&mut empty).await, [""; 0]);
    }

    #[tokio::test]
    async fn a_watch_finds_the_newest_of_a_key_also_when_the_log_before_it_was_trimmed() {
        // The trimmed part of the log was passed over as if every key in it had come again since.
        let hub = Hub::new();
        hub.publish("t", Some("a"), 1).await;
        hub.publish("t", Some("old"), 1).await;
        let mut live = hub.live("t", StartFrom::Snapshot).await;
        assert_eq!(hub.all(&mut live).await, ["a@1", "old@2", "live"]);
        hub.publish("t", Some("a"), 1).await;
        hub.publish("t", Some("b"), 1).await;
        for _ in 0..300 {
            hub.publish("t", Some("c"), 10_000).await;
        }
        let first = hub.store.tail(&Topic::new("t").unwrap()).await.unwrap().unwrap().first;
        assert!(first > 5, "trimmed");
        let sent = hub.all(&mut live).await;
        for newest in ["a@3", "b@4", "c@304"] {
            assert_eq!(sent.iter().filter(|own| *own == newest).count(), 1, "{newest} in {sent:?}");
        }
        assert!(!sent.iter().any(|own| own == "old@2" || own == "live" || own.starts_with("gap")), "{sent:?}");
        // One that does not watch is told.
        let mut all = hub.live("t", StartFrom::AfterSeq(2)).await;
        let sent = hub.all(&mut all).await;
        assert_eq!(sent[0], format!("gap 3..={}", first - 1));
        assert_eq!(sent[1], format!("c@{first}"));
    }

    #[tokio::test]
    async fn events_that_are_missing_between_others_are_told_as_a_gap() {
        let hub = Hub::new();
        for _ in 0..9 {
            hub.publish("t", Some("a"), 1).await;
        }
        let mut live = hub.live("t", StartFrom::Earliest).await;
        let Some(Next::Read(wanted)) = live.next() else { panic!("nothing to read") };
        let Got::Events(topic, mut page) = read(&hub.store, &live.state_of(&wanted), wanted).await.unwrap() else {
            panic!("no events")
        };
        // As a store reads over what was damaged and given up.
        page.events.retain(|event| ![3, 4, 8, 9].contains(&event.seq));
        live.got(Got::Events(topic, page));
        let expected = ["a@1", "a@2", "gap 3..=4", "a@5", "a@6", "a@7", "gap 8..=9"];
        assert_eq!(hub.all(&mut live).await, expected);
    }

    #[tokio::test]
    async fn a_busy_topic_does_not_keep_the_others_of_a_pattern_waiting() {
        // The first topic with something to read always came first.
        let hub = Hub::new();
        hub.publish("t.a", None, 1).await;
        hub.publish("t.b", Some("b"), 1).await;
        let mut live = hub.live("t.*", StartFrom::Earliest).await;
        let mut seen = Vec::new();
        for _ in 0..10 {
            for _ in 0..600 {
                hub.publish("t.a", Some("a"), 1).await;
            }
            seen.extend(hub.step(&mut live).await.0);
        }
        assert!(seen.iter().any(|own| own == "b@1"), "starved");
    }

    #[tokio::test]
    async fn what_is_sent_at_once_is_bounded() {
        // A round, or a page of a snapshot, left in one piece however large it was.
        let hub = Hub::new();
        for i in 0..15 {
            hub.publish("t", Some(&i.to_string()), 60_000).await;
        }
        let mut live = hub.live("t", StartFrom::Snapshot).await;
        let mut sent = 0;
        for round in 0..2 {
            while let Some(next) = live.next() {
                match next {
                    Next::Send(items) => {
                        assert!(items.len() <= BYTES / 60_000 + 2, "{} events at once", items.len());
                        sent += items.iter().filter(|item| matches!(item, Item::Event(_))).count();
                    }
                    Next::Read(wanted) => {
                        let state = live.state_of(&wanted);
                        live.got(read(&hub.store, &state, wanted).await.unwrap());
                    }
                }
            }
            assert_eq!(sent, 15 * (round + 1));
            if round == 0 {
                for i in 0..15 {
                    hub.publish("t", Some(&i.to_string()), 60_000).await;
                }
            }
        }
    }
}
