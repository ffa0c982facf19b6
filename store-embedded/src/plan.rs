//! What a batch comes to, before anything is written: which events get which seqs and ids, which are refused, and what is
//! trimmed to make room for them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    hash::BuildHasherDefault,
    sync::Arc,
};

use prom_protocol::{ErrorCode, Group, Refusal, Topic};
use prom_store::{Append, Appended, Batch, CursorPut, admit_append, admit_topic, is_exempt, new_id};

use crate::{
    full::Lack,
    ids::{Identity, Maker},
    record::EVENT_OVERHEAD,
    shared::Shared,
    state::State,
    topic_log::TopicLog,
};

/// About how many bytes the id, seq and `ts` of an event take in its JSON.
const POSITION_BYTES: usize = 96;

/// About how many bytes the record of an event with this body takes.
pub(crate) fn record_bytes(body: &[u8]) -> usize {
    body.len() + EVENT_OVERHEAD + POSITION_BYTES
}

/// The message for an event that `max_bytes` leaves no room for.
fn over_budget(shared: &Shared) -> String {
    format!(
        "the store is full: store.max_bytes, {} MiB, of events that a group has not settled; /groups on the ops port tells \
         which",
        shared.options.max_bytes.unwrap_or_default() >> 20
    )
}

/// An event whose seq and id are given; only its bytes are not made yet.
pub(crate) struct Planned {
    /// By number.
    pub(crate) topic: u32,
    pub(crate) seq: u64,
    pub(crate) ts: u64,
    pub(crate) id: Arc<str>,
    pub(crate) key: Option<Box<str>>,
    /// See [`Append::body`].
    pub(crate) body: Vec<u8>,
    /// The segment's id table must have it.
    pub(crate) listed: bool,
}

/// What a batch comes to.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) events: Vec<Planned>,
    /// One for each append of the batch, in its order.
    pub(crate) outcomes: Vec<Result<Appended, Refusal>>,
    /// Number, name and epoch.
    pub(crate) new_topics: Vec<(u32, Topic, u64)>,
    new_by_name: HashMap<Topic, u32>,
    /// By topic number: its tail with the events of this batch.
    tails: HashMap<u32, u64, BuildHasherDefault<Identity>>,
    /// How many topics get their first event with this batch.
    begun: usize,
    /// With the numbers of their topics.
    pub(crate) cursors: Vec<(u32, CursorPut)>,
    /// Seqs of the ids that publishers chose in this batch, by topic number.
    ids: HashMap<u32, HashMap<Arc<str>, u64>, BuildHasherDefault<Identity>>,
    /// By topic number, of the topics that are trimmed to make room: the first seq that stays.
    pub(crate) trims: BTreeMap<u32, u64>,
    /// Bytes of all retained events' records, with this batch and without what it trims.
    bytes: u64,
    /// Nothing more can be trimmed.
    exhausted: bool,
    /// What the largest event takes that was refused because of `max_bytes`; 0: none was.
    refused: u64,
    /// Why the disk takes no events. Exempt ones, and what is not written at all, still go on.
    full: Option<String>,
    /// By topic number: the floors of the cursors of this batch.
    floors: HashMap<u32, HashMap<Group, u64>, BuildHasherDefault<Identity>>,
}

impl Plan {
    /// The plan for a batch. `full`: why the disk takes no events, if it does not.
    pub(crate) fn new(shared: &Shared, state: &State, batch: Batch, full: Option<String>) -> Self {
        let Batch { now, appends, cursors } = batch;
        let mut plan = Self { bytes: state.bytes, full, ..Self::default() };
        for put in cursors {
            // Of a log that was removed, by a group that did not know it yet.
            let epoch = state.topic(&put.topic).map_or(0, |log| log.epoch);
            if put.cursor.epoch != 0 && put.cursor.epoch != epoch {
                tracing::debug!(topic = %put.topic, group = %put.group, "a position in a topic that was removed");
                continue;
            }
            let topic = plan.number(state, &put.topic).unwrap_or_else(|| plan.make(state, &put.topic));
            plan.floors.entry(topic).or_default().insert(put.group.clone(), put.cursor.floor);
            plan.cursors.push((topic, put));
        }
        let maker = Maker::new(&shared.cipher, now);
        plan.events.reserve(appends.len());
        plan.outcomes.reserve(appends.len());
        for append in appends {
            let outcome = admit_append(&append).and_then(|()| match plan.known(shared, state, &append) {
                Some(outcome) => outcome,
                None => plan.admit(shared, state, &append).map(|topic| plan.add(state, &maker, topic, append, now)),
            });
            plan.outcomes.push(outcome);
        }
        if plan.refused > 0 {
            shared.full.note(Lack::Budget(plan.refused), over_budget(shared));
        }
        // Events of a topic together, so that reading one topic reads few places.
        plan.events.sort_by_key(|event| event.topic);
        plan
    }

    /// Whether an event of so many bytes would be taken within `max_bytes`.
    pub(crate) fn has_room(shared: &Shared, state: &State, bytes: u64) -> bool {
        Self { bytes: state.bytes, ..Self::default() }.make_room(shared, state, bytes)
    }

    /// Nothing has to be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.cursors.is_empty() && self.trims.is_empty()
    }

    /// Makes a topic; its number.
    fn make(&mut self, state: &State, topic: &Topic) -> u32 {
        let number = state.free_number(self.new_topics.len());
        let epoch = fastrand::u64(1..=prom_protocol::limits::TS_MAX);
        self.new_topics.push((number, topic.clone(), epoch));
        self.new_by_name.insert(topic.clone(), number);
        number
    }

    /// The number of a topic that is there or new in this batch.
    fn number(&self, state: &State, topic: &Topic) -> Option<u32> {
        state.by_name.get(topic).or_else(|| self.new_by_name.get(topic)).copied()
    }

    /// The outcome of an append whose id is there already, in the log or in this batch.
    fn known(&self, shared: &Shared, state: &State, append: &Append) -> Option<Result<Appended, Refusal>> {
        let id = append.id.as_ref()?;
        // A topic that is not there has no ids.
        let topic = self.number(state, &append.topic)?;
        let found = match self.ids.get(&topic).and_then(|ids| ids.get(id)) {
            Some(seq) => Ok(Some(*seq)),
            None => shared.find_id(state, topic, id),
        };
        match found {
            Ok(found) => found.map(|seq| Ok(Appended { id: id.clone(), seq, duplicate: true })),
            // It may be a duplicate or not: refuse this one, the rest of the batch goes on.
            Err(error) => {
                tracing::error!(%error, "an id cannot be looked up");
                let message = "the store cannot tell whether that id is there";
                Some(Err(Refusal::new(ErrorCode::StoreUnavailable, message)))
            }
        }
    }

    /// The topic number of an append for which there is room, by all limits.
    fn admit(&mut self, shared: &Shared, state: &State, append: &Append) -> Result<u32, Refusal> {
        let exempt = is_exempt(append);
        if let Some(message) = self.full.as_ref().filter(|_| !exempt) {
            return Err(Refusal::new(ErrorCode::StoreUnavailable, message.clone()));
        }
        let bytes = record_bytes(&append.body) as u64;
        if !exempt && !self.make_room(shared, state, bytes) {
            self.refused = self.refused.max(bytes);
            return Err(Refusal::new(ErrorCode::StoreUnavailable, over_budget(shared)));
        }
        let number = self.number(state, &append.topic);
        if number.is_none_or(|number| !self.has_events(state, number)) {
            admit_topic(state.count() + self.begun, exempt)?;
        }
        Ok(number.unwrap_or_else(|| self.make(state, &append.topic)))
    }

    /// Whether a topic has or had events, those of this batch too. One that has not may be there for its groups alone.
    fn has_events(&self, state: &State, topic: u32) -> bool {
        state.topics.get(topic as usize).is_some_and(|log| log.tail > 0) || self.tails.contains_key(&topic)
    }

    /// Gives an append its seq and id.
    fn add(&mut self, state: &State, maker: &Maker<'_>, topic: u32, append: Append, now: u64) -> Appended {
        // Nothing of a removed topic whose number it has.
        let log = || state.topics.get(topic as usize).filter(|log| !log.is_removed());
        let before = || log().map_or(0, |log| log.tail);
        let tail = self.tails.entry(topic).or_insert_with(before);
        self.begun += usize::from(*tail == 0);
        *tail += 1;
        let seq = *tail;
        let (id, listed) = match append.id {
            Some(id) => {
                self.ids.entry(topic).or_default().insert(id.clone(), seq);
                (id, true)
            }
            None => match maker.make(topic, seq) {
                Some(id) => (id, false),
                None => (new_id(now), true),
            },
        };
        self.bytes += record_bytes(&append.body) as u64;
        let appended = Appended { id: id.clone(), seq, duplicate: false };
        let ts = append.ts.unwrap_or(now);
        self.events.push(Planned { topic, seq, ts, id, key: append.key, body: append.body, listed });
        appended
    }

    /// Whether `cost` more bytes fit into `max_bytes`. If need be, the oldest settled events of the largest topics go.
    fn make_room(&mut self, shared: &Shared, state: &State, cost: u64) -> bool {
        let Some(max_bytes) = shared.options.max_bytes else { return true };
        if self.bytes + cost <= max_bytes {
            return true;
        }
        if self.exhausted {
            return false;
        }
        // Somewhat below the limit, so that this walk over the topics is rare.
        let target = (max_bytes - max_bytes / 16).saturating_sub(cost);
        let mut logs: Vec<_> = state.topics.iter().collect();
        logs.sort_by_key(|log| Reverse(log.bytes));
        for log in logs {
            let drops_unsettled = shared.options.retention.rule(&log.topic).is_some_and(|rule| rule.drop_unsettled);
            let settled = if drops_unsettled { u64::MAX } else { self.settled(log) };
            for run in log.runs.values() {
                if self.bytes <= target || run.last > settled || run.segment == state.end.segment() {
                    break;
                }
                if self.trims.get(&log.number).is_none_or(|first| *first <= run.last) {
                    self.bytes -= run.bytes.min(self.bytes);
                    self.trims.insert(log.number, run.last + 1);
                }
            }
        }
        self.exhausted = self.bytes + cost > max_bytes;
        !self.exhausted
    }

    /// Highest seq that every group has settled with the cursors of this batch, in which a group may have its first.
    fn settled(&self, log: &TopicLog) -> u64 {
        let put = self.floors.get(&log.number);
        let stored = log.cursors.iter().filter(|(group, _)| put.is_none_or(|put| !put.contains_key(*group)));
        let floors = stored.map(|(_, own)| own.cursor.floor);
        floors.chain(put.into_iter().flat_map(|put| put.values().copied())).min().unwrap_or(u64::MAX)
    }
}
