//! Ephemeral subscriptions: nothing stored, nothing acknowledged, pulled from the log at the pace of their connection.
//!
//! A [`Live`] is a state machine: it says what to read next, and turns what was read into what to send. Nothing is
//! queued for a slow connection: it reads on when it can send on, so memory does not grow with its lag. A *watch*
//! (`from: "snapshot"`) first pages through the newest event of each key, then goes on in rounds: a round takes all that
//! came since the last one and sends the newest event of each key, so it is never behind by more than one round.

use std::{collections::HashMap, sync::Arc};

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

/// What to send.
#[derive(Debug, Default)]
pub struct Step {
    /// These events, in this order.
    pub events: Vec<Stored>,
    /// Events of this topic were trimmed before they could be sent: first and last seq.
    pub gap: Option<(Arc<TopicState>, u64, u64)>,
    /// The snapshot is complete.
    pub live: bool,
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
    Snapshot { at: u64, after: Option<Box<str>> },
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
    reading: bool,
}

impl Live {
    /// A subscription without topics yet.
    pub fn new(target: TopicOrPattern, from: &StartFrom, filter: Filter) -> Self {
        let watch = *from == StartFrom::Snapshot;
        Self { target, filter, watch, announced: !watch, sources: Vec::new(), reading: false }
    }

    /// Takes on a topic, from after `position`; a watch takes a snapshot as of `position`.
    pub fn add(&mut self, state: Arc<TopicState>, link: Link, position: u64) {
        if self.sources.iter().any(|source| Arc::ptr_eq(&source.state, &state)) {
            return;
        }
        let phase = if self.watch { Phase::Snapshot { at: position, after: None } } else { Phase::Following };
        self.sources.push(Source { state, link, phase, position, round: HashMap::new(), round_to: 0, caught_up: 0 });
    }

    /// Whether it has this topic.
    pub fn has(&self, state: &Arc<TopicState>) -> bool {
        self.sources.iter().any(|source| Arc::ptr_eq(&source.state, state))
    }

    /// What to read next, if anything; one read at a time, answered with [`Live::got`] or [`Live::failed`].
    pub fn next_read(&mut self) -> Option<Wanted> {
        if self.reading {
            return None;
        }
        // Snapshots first: LIVE is sent when all of them are complete.
        let wanted = self.sources.iter().enumerate().find_map(|(topic, source)| match &source.phase {
            Phase::Snapshot { at, after } => Some(Wanted::Latest { topic, after: after.clone(), at: *at }),
            Phase::Following => None,
        });
        let wanted = wanted.or_else(|| {
            self.sources.iter().enumerate().find_map(|(topic, source)| {
                // Asked again before the tail is read, so that no growth is missed.
                source.link.rearm();
                (source.position < source.state.tail()).then_some(Wanted::Events { topic, after: source.position })
            })
        });
        self.reading = wanted.is_some();
        wanted
    }

    /// A read did not succeed; it is asked for again.
    pub fn failed(&mut self) {
        self.reading = false;
    }

    /// Turns what was read into what to send.
    pub fn got(&mut self, got: Got) -> Step {
        self.reading = false;
        let mut step = Step::default();
        match got {
            Got::Latest(topic, page) => {
                let source = &mut self.sources[topic];
                if page.more
                    && let Some(last) = page.events.last()
                {
                    if let Phase::Snapshot { after, .. } = &mut source.phase {
                        after.clone_from(&last.key);
                    }
                } else {
                    // What changed while the pages were read was left out of them and comes from the log.
                    source.caught_up = source.state.tail();
                    source.phase = Phase::Following;
                }
                step.events = page.events;
            }
            Got::Events(topic, page) => {
                let source = &mut self.sources[topic];
                if page.first > source.position + 1 && source.position < page.read_to.max(page.first - 1) {
                    let to = page.first - 1;
                    // A watch wants the newest event of each key, and that one is never trimmed away unseen.
                    if !self.watch {
                        step.gap = Some((Arc::clone(&source.state), source.position + 1, to));
                    }
                    source.position = to;
                }
                source.position = source.position.max(page.read_to);
                if self.watch {
                    source.collect(page.events, &mut step.events);
                } else {
                    step.events = page.events;
                }
            }
        }
        if !self.filter.is_empty() {
            step.events.retain(|event| Event::parse(event.text()).is_ok_and(|event| self.filter.passes(&event)));
        }
        step.live = self.announce();
        step
    }

    /// Whether the snapshot has just become complete: every key of every topic is sent as it was when the last page of
    /// its snapshot was read, or newer. Answers yes once.
    pub fn announce(&mut self) -> bool {
        let complete = |source: &Source| {
            matches!(source.phase, Phase::Following) && source.position >= source.caught_up && source.round.is_empty()
        };
        let now = !self.announced && self.sources.iter().all(complete);
        self.announced |= now;
        now
    }
}

impl Source {
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
            let from = out.len();
            out.extend(self.round.drain().map(|(_, event)| event));
            out[from..].sort_unstable_by_key(|event| event.seq);
        }
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
