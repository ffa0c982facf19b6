//! What a commit is going to write, worked out from what this hub knows; the transaction finds out if that is still so.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use mongodb::bson::RawDocumentBuf;
use prom_protocol::{ErrorCode, Refusal, Topic, limits};
use prom_store::{Append, Appended, Batch, admit_append, admit_topic, is_exempt};

use crate::{
    cache::Known,
    document::{self, MAX_BYTES, Position},
};

/// The message for an event that `max_bytes` leaves no room for.
pub(super) const FULL: &str = "the store is full of events that are not settled or are to be kept (max_bytes)";

/// Seqs of the events that stand in the database under topics and ids of this batch.
pub(super) type Taken = HashMap<Topic, HashMap<Arc<str>, u64>>;

/// A topic that a commit moves: from `was`, if it has events, to `is`.
#[derive(Debug, Clone)]
pub(super) struct Move {
    pub(super) was: Option<Known>,
    pub(super) is: Known,
}

/// An event that is going to be stored.
#[derive(Debug)]
pub(super) struct Planned {
    /// Which append of the batch.
    pub(super) append: usize,
    pub(super) seq: u64,
    pub(super) ts: u64,
}

/// The documents and updates that a commit writes, and the outcome of each append.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) outcomes: Vec<Result<Appended, Refusal>>,
    pub(super) moves: BTreeMap<Topic, Move>,
    pub(super) documents: Vec<RawDocumentBuf>,
    pub(super) events: Vec<Planned>,
    /// What the largest event takes that was refused for want of room; 0: none was.
    pub(super) refused: u64,
    /// Bytes that may still come in.
    room: u64,
    /// Topics there are, those of this plan included.
    topics: usize,
}

/// What a plan is made from.
pub(super) struct Inputs<'a> {
    pub(super) batch: &'a Batch,
    /// The id of each append.
    pub(super) ids: &'a [Arc<str>],
    /// Where the batch's topics stand; a topic that is missing has no events.
    pub(super) known: &'a HashMap<Topic, Known>,
    /// Those of them that are being removed: there is no other log of that name until they are gone.
    pub(super) going: &'a HashSet<Topic>,
    /// Ids that were looked up and found.
    pub(super) taken: Option<&'a Taken>,
    /// Seqs that appends, by index, got in an attempt whose outcome is not known: what is found there is not a duplicate
    /// but this batch.
    pub(super) unsure: &'a HashMap<usize, u64>,
    /// Topics that the trim before these appends moves.
    pub(super) trims: BTreeMap<Topic, Move>,
    /// Bytes that may still come in.
    pub(super) room: u64,
    /// Topics there are.
    pub(super) topics: usize,
}

impl Plan {
    pub(super) fn new(inputs: Inputs<'_>) -> Self {
        let mut plan = Self { moves: inputs.trims, room: inputs.room, topics: inputs.topics, ..Self::default() };
        let mut here: HashMap<(&Topic, &str), u64> = HashMap::new();
        for (index, (append, id)) in inputs.batch.appends.iter().zip(inputs.ids).enumerate() {
            if inputs.going.contains(&append.topic) {
                let message = "the topic is being removed: publish again in a moment";
                plan.outcomes.push(Err(Refusal::new(ErrorCode::StoreUnavailable, message)));
                continue;
            }
            let earlier = here.get(&(&append.topic, &**id)).map(|seq| (*seq, true));
            let stored = inputs.taken.and_then(|taken| taken.get(&append.topic)?.get(id));
            let stored = stored.map(|seq| (*seq, inputs.unsure.get(&index) != Some(seq)));
            let outcome = match earlier.or(stored) {
                Some((seq, duplicate)) => Ok(Appended { id: id.clone(), seq, duplicate }),
                None => plan.append(index, append, id, inputs.batch.now, inputs.known),
            };
            if let Ok(Appended { seq, duplicate: false, .. }) = outcome {
                here.insert((&append.topic, &**id), seq);
            }
            plan.outcomes.push(outcome);
        }
        plan
    }

    fn append(
        &mut self,
        index: usize,
        append: &Append,
        id: &Arc<str>,
        now: u64,
        known: &HashMap<Topic, Known>,
    ) -> Result<Appended, Refusal> {
        admit_append(append)?;
        let cost = cost(append, id);
        let exempt = is_exempt(append);
        if !exempt && cost > self.room {
            // Nor for those behind it that are smaller: what one publisher sends stays in order.
            self.room = 0;
            self.refused = self.refused.max(cost);
            return Err(Refusal::new(ErrorCode::StoreUnavailable, FULL));
        }
        // Before anything is counted; the position is that which it will have.
        let to = if let Some(to) = self.moves.get_mut(&append.topic) {
            to
        } else {
            let was = known.get(&append.topic).copied();
            if was.is_none() {
                admit_topic(self.topics, exempt)?;
                self.topics += 1;
            }
            let fresh = || Known {
                epoch: fastrand::u64(1..=limits::TS_MAX),
                first: 1,
                seq: 0,
                max_ts: 0,
                max_at: 0,
                bytes: 0,
                groups: 0,
            };
            self.moves.entry(append.topic.clone()).or_insert(Move { was, is: was.unwrap_or_else(fresh) })
        };
        let ts = append.ts.unwrap_or(now);
        let (seq, max_ts, max_at) = (to.is.seq + 1, to.is.max_ts.max(ts), to.is.max_at.max(now));
        let position = Position { id, seq, ts, max_ts, at: max_at };
        let Some(document) = document::encode(position, append.topic.as_str(), append.key.as_deref(), &append.body)
        else {
            if to.is.seq == 0 {
                self.moves.remove(&append.topic);
                self.topics -= 1;
            }
            let message = format!("the event is larger than {} MiB, the most MongoDB takes", MAX_BYTES >> 20);
            return Err(Refusal::new(ErrorCode::TooLarge, message));
        };
        self.room = self.room.saturating_sub(cost);
        to.is = Known { seq, max_ts, max_at, bytes: to.is.bytes + cost, ..to.is };
        self.documents.push(document);
        self.events.push(Planned { append: index, seq, ts });
        Ok(Appended { id: id.clone(), seq, duplicate: false })
    }
}

/// The length of an event's wire JSON, about.
pub(super) fn cost(append: &Append, id: &str) -> u64 {
    (append.body.len() + id.len() + 48) as u64
}
