//! Ephemeral subscriptions: nothing stored, nothing acknowledged, pulled from the log at the pace of their connection.
//!
//! A [`Live`] is a state machine: it says what to read next, and turns what was read into what to send. Nothing is
//! queued for a slow connection: it reads on when it can send on, so memory does not grow with its lag. A *watch*
//! (`from: "snapshot"`) first pages through the newest event of each key, then goes on in rounds: a round takes all that
//! came since the last one and sends the newest event of each key, so it is never behind by more than one round.

use std::collections::{HashMap, VecDeque};

use prom_protocol::{Event, Filter, StartFrom};
use prom_store::{LatestPage, Page, Stored};

/// Most bytes of events that are sent at once; the last event may go over it.
const SEND_BYTES: usize = 256 * 1024;

/// What to read for a subscription.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// Events of a topic.
    Events {
        /// Index of the topic.
        topic: usize,
        /// Reading begins after this seq.
        after: u64,
    },
    /// The newest event of each key of a topic.
    Latest {
        /// Index of the topic.
        topic: usize,
        /// Reading begins after this key; none: at the first.
        after: Option<Box<str>>,
        /// Keys whose newest event came after this seq are left out.
        at: u64,
    },
}

impl Wanted {
    /// Index of the topic to read.
    pub fn topic(&self) -> usize {
        match self {
            Self::Events { topic, .. } | Self::Latest { topic, .. } => *topic,
        }
    }
}

/// What was read, and the index of the topic.
#[derive(Debug)]
pub enum Found {
    /// For [`Wanted::Events`].
    Events(usize, Page),
    /// For [`Wanted::Latest`].
    Latest(usize, LatestPage),
}

impl Found {
    /// Index of the topic that was read.
    pub fn topic(&self) -> usize {
        match self {
            Self::Events(topic, _) | Self::Latest(topic, _) => *topic,
        }
    }

    /// How many events were passed over because they cannot be read.
    pub fn damaged(&self) -> u64 {
        match self {
            Self::Events(_, page) => page.damaged.iter().map(|(first, last)| last - first + 1).sum(),
            Self::Latest(_, page) => page.damaged,
        }
    }
}

/// Something to send.
#[derive(Debug)]
pub enum Item {
    /// This event.
    Event(Stored),
    /// Events of the topic with this index were gone before they could be sent, trimmed or damaged and given up: first
    /// and last seq. Or the topic was removed, with all up to the last seq, if the first is not behind what was sent.
    Gap(usize, u64, u64),
    /// The snapshot is complete.
    Live,
}

/// What to do for a subscription.
#[derive(Debug)]
pub enum Next {
    /// Send this, in this order, and ask again.
    Send(Vec<Item>),
    /// Read this, answer with [`Live::found`] or [`Live::failed`], and ask again.
    Read(Wanted),
}

#[derive(Debug)]
struct Source {
    phase: Phase,
    /// Last seq that is committed, as far as is known here.
    tail: u64,
    /// Last seq that was read.
    position: u64,
    /// A round under way: the newest event of each key since the last round, and the seq it goes up to.
    round: HashMap<Box<str>, Stored>,
    round_to: u64,
    /// Where the log ended when the snapshot's last page was read.
    caught_up: u64,
    /// It is among [`Live::grown`].
    queued: bool,
    /// It is among those that are counted in [`Live::incomplete`].
    incomplete: bool,
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
    filter: Filter,
    watch: bool,
    announced: bool,
    /// Nothing below looks through all of them: a pattern may have a hundred thousand.
    sources: Vec<Source>,
    /// Sources whose snapshot is to be read. One that is done with it leaves when it comes first.
    snapshots: VecDeque<usize>,
    /// Sources with something to read, each once, in turns, so that none starves.
    grown: VecDeque<usize>,
    /// How many sources are not as far yet as LIVE says.
    incomplete: usize,
    /// The topic that is read now.
    reading: Option<usize>,
    /// Read, and not sent yet.
    backlog: VecDeque<Item>,
}

impl Live {
    /// A subscription without topics yet.
    pub fn new(from: &StartFrom, filter: Filter) -> Self {
        let watch = *from == StartFrom::Snapshot;
        Self {
            filter,
            watch,
            announced: !watch,
            sources: Vec::new(),
            snapshots: VecDeque::new(),
            grown: VecDeque::new(),
            incomplete: 0,
            reading: None,
            backlog: VecDeque::new(),
        }
    }

    /// Takes on a topic whose log ends at `tail`, from after `position`; a watch takes a snapshot as of `position`.
    /// Answers the topic's index: 0, 1, 2… in the order of these calls.
    pub fn add(&mut self, position: u64, tail: u64) -> usize {
        let phase = if self.watch { Phase::Snapshot { at: position, after: None, known: 0 } } else { Phase::Following };
        let index = self.sources.len();
        self.sources.push(Source::new(phase, position, tail, false, false));
        if self.watch {
            self.snapshots.push_back(index);
        }
        self.changed(index);
        index
    }

    /// The log of a topic now ends at `tail`.
    pub fn tail(&mut self, topic: usize, tail: u64) {
        let source = &mut self.sources[topic];
        source.tail = source.tail.max(tail);
        self.changed(topic);
    }

    /// The topic with this index was removed: what of its log was not sent is gone, and of a log that follows everything is
    /// sent. The whole of the old one is told as a [`Item::Gap`] that begins at 1. A read of it that is under way is to be
    /// answered with [`Live::failed`].
    pub fn restart(&mut self, topic: usize) {
        let source = &mut self.sources[topic];
        let last = source.tail.max(source.position);
        *source = Source::new(Phase::Following, 0, 0, source.queued, source.incomplete);
        if last > 0 {
            self.backlog.push_back(Item::Gap(topic, 1, last));
        }
        self.changed(topic);
    }

    /// Takes note of what has become of a source.
    fn changed(&mut self, topic: usize) {
        let source = &mut self.sources[topic];
        if !source.queued && source.position < source.tail && self.reading != Some(topic) {
            source.queued = true;
            self.grown.push_back(topic);
        }
        let incomplete = !source.is_complete();
        if incomplete != source.incomplete {
            source.incomplete = incomplete;
            self.incomplete = if incomplete { self.incomplete + 1 } else { self.incomplete - 1 };
        }
    }

    /// Whether [`Live::next`] has something to do without a look at the tails: a read is under way, or what was read waits
    /// to be sent.
    pub fn is_busy(&self) -> bool {
        self.reading.is_some() || !self.backlog.is_empty()
    }

    /// What to do next, if anything.
    #[expect(clippy::should_implement_trait, reason = "it goes on after a `None`, when something has come")]
    pub fn next(&mut self) -> Option<Next> {
        let mut items = Vec::new();
        let mut bytes = 0;
        while bytes < SEND_BYTES
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
        if self.reading.is_some() {
            return None;
        }
        let wanted = self.next_snapshot().or_else(|| self.next_events());
        self.reading = wanted.as_ref().map(Wanted::topic);
        wanted
    }

    /// Snapshots come first: LIVE is sent when all of them are complete.
    fn next_snapshot(&mut self) -> Option<Wanted> {
        while let Some(&topic) = self.snapshots.front() {
            if let Phase::Snapshot { at, after, .. } = &self.sources[topic].phase {
                return Some(Wanted::Latest { topic, after: after.clone(), at: *at });
            }
            self.snapshots.pop_front();
        }
        None
    }

    fn next_events(&mut self) -> Option<Wanted> {
        while let Some(topic) = self.grown.pop_front() {
            let source = &mut self.sources[topic];
            source.queued = false;
            // It may have taken a snapshot that goes further.
            if source.position < source.tail {
                return Some(Wanted::Events { topic, after: source.position });
            }
        }
        None
    }

    /// A read did not succeed; it is asked for again.
    pub fn failed(&mut self) {
        if let Some(topic) = self.reading.take() {
            self.changed(topic);
        }
    }

    /// Takes what was read, for [`Live::next`] to send. Tell it the topic's [`tail`](Live::tail) first: a snapshot is
    /// complete when everything is sent that was there when its last page was read.
    pub fn found(&mut self, found: Found) {
        self.reading = None;
        let index = found.topic();
        let mut events = Vec::new();
        match found {
            Found::Latest(topic, mut page) => {
                let source = &mut self.sources[topic];
                let Phase::Snapshot { after, known, .. } = &mut source.phase else {
                    return self.changed(index);
                };
                if page.more
                    && let Some(last) = page.events.last()
                {
                    after.clone_from(&last.key);
                    page.events.retain(|event| event.seq > *known);
                } else {
                    page.events.retain(|event| event.seq > *known);
                    // What changed while the pages were read was left out of them and comes from the log.
                    source.caught_up = source.tail;
                    source.phase = Phase::Following;
                }
                events = page.events;
            }
            Found::Events(topic, page) => {
                let source = &mut self.sources[topic];
                if page.first > source.position + 1 && source.position < page.read_to.max(page.first - 1) {
                    let to = page.first - 1;
                    if self.watch {
                        // The newest event of a key may be among those that are gone: they are looked for once more.
                        source.start_over(to.max(page.read_to), &mut events);
                        self.snapshots.push_back(topic);
                    } else {
                        self.backlog.push_back(Item::Gap(topic, source.position + 1, to));
                        source.position = to;
                    }
                }
                if page.read_to > source.position {
                    if self.watch {
                        // Whose newest events these were, nobody knows.
                        let damaged = page.damaged.iter().map(|(first, last)| Item::Gap(topic, *first, *last));
                        self.backlog.extend(damaged);
                        source.position = page.read_to;
                        source.collect(page.events, &mut events);
                    } else {
                        source.follow(topic, page, &self.filter, &mut self.backlog);
                    }
                }
            }
        }
        self.changed(index);
        events.retain(|event| passes(&self.filter, event));
        self.backlog.extend(events.into_iter().map(Item::Event));
    }

    /// Whether the snapshot has just become complete: every key of every topic is sent as it was when the last page of
    /// its snapshot was read, or newer. Answers yes once.
    fn announce(&mut self) -> bool {
        let now = !self.announced && self.backlog.is_empty() && self.incomplete == 0;
        self.announced |= now;
        now
    }
}

fn passes(filter: &Filter, event: &Stored) -> bool {
    filter.is_empty() || Event::parse(event.text()).is_ok_and(|event| filter.passes(&event))
}

impl Source {
    fn new(phase: Phase, position: u64, tail: u64, queued: bool, incomplete: bool) -> Self {
        Self { phase, tail, position, round: HashMap::new(), round_to: 0, caught_up: 0, queued, incomplete }
    }

    /// Whether every key is sent as it was when the last page of the snapshot was read, or newer.
    fn is_complete(&self) -> bool {
        matches!(self.phase, Phase::Following) && self.position >= self.caught_up && self.round.is_empty()
    }

    /// Takes on the events of a page, with a gap for those that are missing between them.
    fn follow(&mut self, topic: usize, page: Page, filter: &Filter, out: &mut VecDeque<Item>) {
        for event in page.events {
            if event.seq > self.position + 1 {
                out.push_back(Item::Gap(topic, self.position + 1, event.seq - 1));
            }
            self.position = self.position.max(event.seq);
            if passes(filter, &event) {
                out.push_back(Item::Event(event));
            }
        }
        if page.read_to > self.position {
            out.push_back(Item::Gap(topic, self.position + 1, page.read_to));
            self.position = page.read_to;
        }
    }

    /// Adds events to the round under way and ends it when it has caught up with where the topic ended at its start.
    fn collect(&mut self, events: Vec<Stored>, out: &mut Vec<Stored>) {
        if self.round.is_empty() {
            self.round_to = self.tail;
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
        let at = self.tail.max(lost);
        self.phase = Phase::Snapshot { at, after: None, known: self.position };
        self.position = at;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use prom_protocol::{EventOptions, Text, Topic, TopicOrPattern};
    use prom_store::{Append, Batch, MemoryStore, Store, start};

    use super::*;

    /// Most events and bytes of one read, as the hub reads.
    const READ: (usize, usize) = (512, 256 * 1024);

    /// What a memory store is asked is answered at once.
    fn now<T>(answer: impl Future<Output = T>) -> T {
        answer.now_or_never().expect("a memory store waits for nothing")
    }

    struct Hub {
        store: MemoryStore,
    }

    /// A subscription, and the topics it has, by their index.
    struct Watched {
        live: Live,
        topics: Vec<Topic>,
    }

    impl Hub {
        fn new() -> Self {
            Self { store: MemoryStore::new(1024 * 1024) }
        }

        fn publish(&self, topic: &str, key: Option<&str>, bytes: usize) {
            let options = EventOptions { key: key.map(Text::from), ..EventOptions::default() };
            let payload = format!("\"{}\"", "x".repeat(bytes));
            let append = Append::new(Topic::new(topic).unwrap(), &options, &payload);
            let outcome = now(self.store.commit(Batch { now: 1, appends: vec![append], cursors: Vec::new() })).unwrap();
            outcome[0].as_ref().unwrap();
        }

        fn live(&self, target: &str, from: &StartFrom) -> Watched {
            let target = TopicOrPattern::new(target).unwrap();
            let mut watched = Watched { live: Live::new(from, Filter::default()), topics: Vec::new() };
            for (topic, tail) in now(self.store.topics()).unwrap() {
                if target.matches(&topic) {
                    let begin = now(start(&self.store, &topic, from)).unwrap();
                    watched.live.add(begin.after, tail.seq);
                    watched.topics.push(topic);
                }
            }
            watched
        }

        /// Says where all topics end now.
        fn tails(&self, watched: &mut Watched) {
            for (index, topic) in watched.topics.iter().enumerate() {
                let tail = now(self.store.tail(topic)).unwrap();
                watched.live.tail(index, tail.map_or(0, |tail| tail.seq));
            }
        }

        fn read(&self, watched: &Watched, wanted: Wanted) -> Found {
            let (limit, bytes) = READ;
            let name = &watched.topics[wanted.topic()];
            match wanted {
                Wanted::Events { topic, after } => {
                    Found::Events(topic, now(self.store.read(name, after, limit, bytes)).unwrap())
                }
                Wanted::Latest { topic, after, at } => {
                    Found::Latest(topic, now(self.store.latest_page(name, after.as_deref(), at, limit, bytes)).unwrap())
                }
            }
        }

        /// Does the next thing; answers what is sent by it, and whether there was anything to do.
        fn step(&self, watched: &mut Watched) -> (Vec<String>, bool) {
            self.tails(watched);
            match watched.live.next() {
                Some(Next::Send(items)) => (items.iter().map(name).collect(), true),
                Some(Next::Read(wanted)) => {
                    let found = self.read(watched, wanted);
                    watched.live.found(found);
                    (Vec::new(), true)
                }
                None => (Vec::new(), false),
            }
        }

        fn all(&self, watched: &mut Watched) -> Vec<String> {
            let mut all = Vec::new();
            while let (sent, true) = self.step(watched) {
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

    #[test]
    fn a_watch_is_the_newest_of_each_key_then_live_once_then_rounds() {
        let hub = Hub::new();
        for key in ["a", "b", "a"] {
            hub.publish("t", Some(key), 1);
        }
        let mut live = hub.live("t", &StartFrom::Snapshot);
        // It changes before the snapshot is read.
        hub.publish("t", Some("b"), 1);
        hub.publish("t", None, 1);
        assert_eq!(hub.all(&mut live), ["a@3", "b@4", "live"]);
        for key in ["a", "b", "a", "c", "a"] {
            hub.publish("t", Some(key), 1);
        }
        assert_eq!(hub.all(&mut live), ["b@7", "c@9", "a@10"], "one round, conflated");
        let mut empty = hub.live("nothing.*", &StartFrom::Snapshot);
        assert_eq!(hub.all(&mut empty), ["live"]);
        assert_eq!(hub.all(&mut empty), [""; 0]);
    }

    #[test]
    fn a_watch_finds_the_newest_of_a_key_also_when_the_log_before_it_was_trimmed() {
        // The trimmed part of the log was passed over as if every key in it had come again since.
        let hub = Hub::new();
        hub.publish("t", Some("a"), 1);
        hub.publish("t", Some("old"), 1);
        let mut live = hub.live("t", &StartFrom::Snapshot);
        assert_eq!(hub.all(&mut live), ["a@1", "old@2", "live"]);
        hub.publish("t", Some("a"), 1);
        hub.publish("t", Some("b"), 1);
        for _ in 0..300 {
            hub.publish("t", Some("c"), 10_000);
        }
        let first = now(hub.store.tail(&Topic::new("t").unwrap())).unwrap().unwrap().first;
        assert!(first > 5, "trimmed");
        let sent = hub.all(&mut live);
        for newest in ["a@3", "b@4", "c@304"] {
            assert_eq!(sent.iter().filter(|own| *own == newest).count(), 1, "{newest} in {sent:?}");
        }
        assert!(!sent.iter().any(|own| own == "old@2" || own == "live" || own.starts_with("gap")), "{sent:?}");
        // One that does not watch is told.
        let mut all = hub.live("t", &StartFrom::AfterSeq(2));
        let sent = hub.all(&mut all);
        assert_eq!(sent[0], format!("gap 3..={}", first - 1));
        assert_eq!(sent[1], format!("c@{first}"));
    }

    #[test]
    fn events_that_are_missing_between_others_are_told_as_a_gap() {
        let hub = Hub::new();
        for _ in 0..9 {
            hub.publish("t", Some("a"), 1);
        }
        let mut live = hub.live("t", &StartFrom::Earliest);
        let Some(Next::Read(wanted)) = live.live.next() else { panic!("nothing to read") };
        let Found::Events(topic, mut page) = hub.read(&live, wanted) else { panic!("no events") };
        // As a store reads over what was damaged and given up.
        page.events.retain(|event| ![3, 4, 8, 9].contains(&event.seq));
        live.live.found(Found::Events(topic, page));
        let expected = ["a@1", "a@2", "gap 3..=4", "a@5", "a@6", "a@7", "gap 8..=9"];
        assert_eq!(hub.all(&mut live), expected);
    }

    #[test]
    fn damaged_events_are_told_to_a_watch_too() {
        let hub = Hub::new();
        let mut live = hub.live("t", &StartFrom::Snapshot);
        live.live.add(0, 0);
        live.topics.push(Topic::new("t").unwrap());
        assert_eq!(hub.all(&mut live), ["live"]);
        for key in ["a", "b", "c"] {
            hub.publish("t", Some(key), 1);
        }
        hub.tails(&mut live);
        let Some(Next::Read(wanted)) = live.live.next() else { panic!("nothing to read") };
        let Found::Events(topic, mut page) = hub.read(&live, wanted) else { panic!("no events") };
        page.events.remove(1);
        page.damaged.push((2, 2));
        let found = Found::Events(topic, page);
        assert_eq!(found.damaged(), 1);
        live.live.found(found);
        assert_eq!(hub.all(&mut live), ["gap 2..=2", "a@1", "c@3"]);
    }

    #[test]
    fn a_busy_topic_does_not_keep_the_others_of_a_pattern_waiting() {
        // The first topic with something to read always came first.
        let hub = Hub::new();
        hub.publish("t.a", None, 1);
        hub.publish("t.b", Some("b"), 1);
        let mut live = hub.live("t.*", &StartFrom::Earliest);
        let mut seen = Vec::new();
        for _ in 0..10 {
            for _ in 0..600 {
                hub.publish("t.a", Some("a"), 1);
            }
            seen.extend(hub.step(&mut live).0);
        }
        assert!(seen.iter().any(|own| own == "b@1"), "starved");
    }

    #[test]
    fn a_pattern_over_very_many_topics_costs_the_same_for_each() {
        // Each step looked through all topics: 31 s of a worker for a hundred thousand.
        const TOPICS: usize = 200_000;
        let begun = std::time::Instant::now();
        let mut live = Live::new(&StartFrom::Snapshot, Filter::default());
        for _ in 0..TOPICS {
            live.add(0, 0);
        }
        let mut announced = false;
        while let Some(next) = live.next() {
            match next {
                Next::Read(wanted) => {
                    let page = LatestPage { events: Vec::new(), more: false, ..LatestPage::default() };
                    live.found(Found::Latest(wanted.topic(), page));
                }
                Next::Send(items) => announced |= items.iter().any(|item| matches!(item, Item::Live)),
            }
            assert!(begun.elapsed().as_secs() < 60, "this goes on for hours");
        }
        assert!(announced);
        for topic in 0..TOPICS {
            live.tail(topic, 1);
            assert!(matches!(live.next(), Some(Next::Read(Wanted::Events { topic: own, .. })) if own == topic));
            let page = Page { first: 1, read_to: 1, ..Page::default() };
            live.found(Found::Events(topic, page));
            assert!(begun.elapsed().as_secs() < 60, "this goes on for hours");
        }
    }

    #[test]
    fn a_topic_that_was_removed_is_told_and_followed_from_its_new_beginning() {
        for from in [StartFrom::Earliest, StartFrom::Snapshot] {
            let page = |seqs: std::ops::RangeInclusive<u64>| {
                let record = |seq: u64| {
                    let json = format!("{{\"seq\":{seq}}}").into();
                    Stored::new(prom_store::Record {
                        id: seq.to_string().into(),
                        seq,
                        ts: 1,
                        key: Some("k".into()),
                        json,
                    })
                };
                let (first, read_to) = (1, *seqs.end());
                Found::Events(0, Page { events: seqs.map(record).collect(), first, read_to, ..Page::default() })
            };
            let told = |live: &mut Live| match live.next() {
                Some(Next::Send(items)) => items
                    .iter()
                    .map(|item| match item {
                        Item::Event(event) => format!("{}", event.seq),
                        Item::Gap(_, first, last) => format!("gap {first}-{last}"),
                        Item::Live => "live".to_owned(),
                    })
                    .collect(),
                other => vec![format!("{other:?}")],
            };
            let mut live = Live::new(&from, Filter::default());
            live.add(0, 3);
            if from == StartFrom::Snapshot {
                assert!(matches!(live.next(), Some(Next::Read(Wanted::Latest { .. }))));
                live.found(Found::Latest(0, LatestPage::default()));
            }
            assert!(matches!(live.next(), Some(Next::Read(Wanted::Events { after: 0, .. }))));
            live.found(page(1..=2));
            if from == StartFrom::Earliest {
                assert_eq!(told(&mut live), ["1", "2"]);
            }
            // The third was never sent. A read is under way, of nobody knows which log.
            let _ = live.next();
            live.restart(0);
            live.failed();
            let seen = told(&mut live);
            assert_eq!(seen[0], "gap 1-3", "{seen:?}");
            assert_eq!(
                seen.len(),
                if from == StartFrom::Snapshot { 2 } else { 1 },
                "a snapshot of nothing is complete"
            );
            assert!(live.next().is_none(), "there is no new log yet");
            live.tail(0, 2);
            assert!(matches!(live.next(), Some(Next::Read(Wanted::Events { after: 0, .. }))), "from its beginning");
            live.found(page(1..=2));
            assert_eq!(told(&mut live), if from == StartFrom::Snapshot { vec!["2"] } else { vec!["1", "2"] });
        }
    }

    #[test]
    fn what_is_sent_at_once_is_bounded() {
        // A round, or a page of a snapshot, left in one piece however large it was.
        let hub = Hub::new();
        for i in 0..15 {
            hub.publish("t", Some(&i.to_string()), 60_000);
        }
        let mut live = hub.live("t", &StartFrom::Snapshot);
        let mut sent = 0;
        for round in 0..2 {
            hub.tails(&mut live);
            while let Some(next) = live.live.next() {
                match next {
                    Next::Send(items) => {
                        assert!(items.len() <= SEND_BYTES / 60_000 + 2, "{} events at once", items.len());
                        sent += items.iter().filter(|item| matches!(item, Item::Event(_))).count();
                    }
                    Next::Read(wanted) => {
                        let found = hub.read(&live, wanted);
                        live.live.found(found);
                    }
                }
            }
            assert_eq!(sent, 15 * (round + 1));
            if round == 0 {
                for i in 0..15 {
                    hub.publish("t", Some(&i.to_string()), 60_000);
                }
            }
        }
    }
}
