//! What is in memory: where each topic stands as far as this hub knows, and the newest events that it committed.

use std::collections::{BTreeMap, HashMap, VecDeque};

use mongodb::bson::{Bson, Document, doc};
use prom_protocol::Topic;
use prom_store::{Page, Stored};

use crate::document::long;

/// What an event costs beside its JSON.
const OVERHEAD: usize = 256;

/// A topic's document, as this hub last saw it. Another hub may have moved it since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) epoch: u64,
    pub(super) first: u64,
    pub(super) seq: u64,
    /// The greatest `ts` ever.
    pub(super) max_ts: u64,
    /// When its last event was committed, by the clock of the hub that was furthest.
    pub(super) max_at: u64,
    /// Bytes of wire JSON that are retained, about.
    pub(super) bytes: u64,
    /// How many groups ever began here.
    pub(super) groups: i32,
}

impl Known {
    /// Matches the topic's document if nobody has moved it, and, for a trim, if no group has begun.
    pub(super) fn still(&self, topic: &Topic, trim: bool) -> Document {
        let mut still = doc! {
            "_id": topic.as_str(), "epoch": long(self.epoch), "first": long(self.first), "seq": long(self.seq),
        };
        if trim {
            still.insert("groups", self.begun());
        }
        still
    }

    /// What the document says of its groups: nothing, while there was none.
    pub(super) fn begun(&self) -> Bson {
        if self.groups == 0 { Bson::Null } else { Bson::Int32(self.groups) }
    }
}

/// The newest events of each topic, in one run without gaps, up to a number of bytes over all topics.
#[derive(Debug)]
pub(super) struct Cache {
    known: HashMap<Topic, Known>,
    runs: HashMap<Topic, Run>,
    /// Which run was filled when, so that the one that was quiet for longest goes first.
    order: BTreeMap<u64, Topic>,
    turn: u64,
    bytes: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Run {
    /// Of the log that they are of.
    epoch: u64,
    events: VecDeque<Stored>,
    bytes: usize,
    turn: u64,
}

impl Cache {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { known: HashMap::new(), runs: HashMap::new(), order: BTreeMap::new(), turn: 0, bytes: 0, max_bytes }
    }

    pub(super) fn known(&self, topic: &Topic) -> Option<Known> {
        self.known.get(topic).copied()
    }

    pub(super) fn learn(&mut self, topic: &Topic, known: Known) {
        // What is of a log that was removed, or trimmed from this one, is not read any more.
        if self.runs.get(topic).is_some_and(|run| run.epoch != known.epoch) {
            self.drop_topic(topic);
        }
        if let Some(run) = self.runs.get_mut(topic) {
            while let Some(event) = run.events.pop_front_if(|event| event.seq < known.first) {
                run.bytes -= event.json.len() + OVERHEAD;
                self.bytes -= event.json.len() + OVERHEAD;
            }
        }
        match self.known.get_mut(topic) {
            Some(old) => *old = known,
            None => drop(self.known.insert(topic.clone(), known)),
        }
    }

    pub(super) fn forget(&mut self, topic: &Topic) {
        self.known.remove(topic);
    }

    /// Drops all of a topic that was removed.
    pub(super) fn drop_topic(&mut self, topic: &Topic) {
        self.known.remove(topic);
        if let Some(run) = self.runs.remove(topic) {
            self.bytes -= run.bytes;
            self.order.remove(&run.turn);
        }
    }

    pub(super) fn topics(&self) -> usize {
        self.known.len()
    }

    /// Takes in events that were just committed, in the order of their seqs.
    pub(super) fn push(&mut self, topic: &Topic, events: impl IntoIterator<Item = Stored>) {
        self.turn += 1;
        let run = match self.runs.get_mut(topic) {
            Some(run) => run,
            None => {
                let epoch = self.known.get(topic).map_or(0, |known| known.epoch);
                self.runs.entry(topic.clone()).or_insert(Run { epoch, ..Run::default() })
            }
        };
        for event in events {
            // Another hub's events lie between: what is before them is a run of its own.
            if run.events.back().is_some_and(|last| last.seq + 1 != event.seq) {
                self.bytes -= run.bytes;
                (run.bytes, _) = (0, run.events.clear());
            }
            let cost = event.json.len() + OVERHEAD;
            run.bytes += cost;
            self.bytes += cost;
            run.events.push_back(event);
        }
        self.order.remove(&run.turn);
        run.turn = self.turn;
        self.order.insert(self.turn, topic.clone());
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.bytes > self.max_bytes {
            let Some(oldest) = self.order.first_entry() else { return };
            let Some(run) = self.runs.get_mut(oldest.get()) else {
                oldest.remove();
                continue;
            };
            // The run being filled loses its oldest events, one that is quiet goes whole.
            if run.turn == self.turn {
                let Some(event) = run.events.pop_front() else { return };
                run.bytes -= event.json.len() + OVERHEAD;
                self.bytes -= event.json.len() + OVERHEAD;
            } else {
                self.bytes -= run.bytes;
                let topic = oldest.remove();
                self.runs.remove(&topic);
            }
        }
    }

    /// Events after `after`, if all of those that this hub knows of are here. At the end, where there are none here,
    /// another hub may have more: `None`.
    pub(super) fn read(&self, topic: &Topic, after: u64, limit: usize, max_bytes: usize) -> Option<Page> {
        let run = self.runs.get(topic)?;
        let front = run.events.front()?.seq;
        let start = usize::try_from((after.checked_add(1)?).checked_sub(front)?).ok()?;
        if start >= run.events.len() {
            return None;
        }
        let first = self.known.get(topic).map_or(1, |known| known.first);
        let mut page = Page { epoch: run.epoch, first, read_to: after, ..Page::default() };
        let mut bytes = 0;
        for event in run.events.range(start..).take(limit) {
            bytes += event.json.len();
            if bytes > max_bytes && !page.events.is_empty() {
                break;
            }
            page.read_to = event.seq;
            page.events.push(Stored::clone(event));
        }
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use prom_store::Record;

    fn event(seq: u64) -> Stored {
        Arc::new(Record { id: format!("e{seq}").into(), seq, ts: 1, key: None, json: vec![b'x'; 744].into() })
    }

    fn seqs(page: Option<Page>) -> Option<Vec<u64>> {
        page.map(|page| page.events.iter().map(|event| event.seq).collect())
    }

    #[test]
    fn a_run_ends_where_another_hub_has_written() {
        let topic = Topic::new("t").unwrap();
        let mut cache = Cache::new(1_000_000);
        cache.push(&topic, [event(1), event(2)]);
        cache.push(&topic, [event(3)]);
        assert_eq!(seqs(cache.read(&topic, 1, 10, 10_000)), Some(vec![2, 3]));
        cache.push(&topic, [event(5), event(6)]);
        assert_eq!(cache.read(&topic, 3, 10, 10_000).map(|page| page.read_to), None, "4 is not here");
        assert_eq!(seqs(cache.read(&topic, 4, 1, 10_000)), Some(vec![5]));
        assert_eq!(seqs(cache.read(&topic, 4, 10, 1)), Some(vec![5]), "at least one");
        assert_eq!(seqs(cache.read(&topic, 6, 10, 10_000)), None, "another hub may have more");
        assert_eq!(cache.bytes, 2_000);
    }

    #[test]
    fn the_quietest_topic_goes_first() {
        let [a, b] = ["a", "b"].map(|name| Topic::new(name).unwrap());
        let mut cache = Cache::new(4_000);
        cache.push(&a, [event(1)]);
        cache.push(&b, [event(1), event(2), event(3)]);
        assert!(cache.read(&a, 0, 1, 1).is_some());
        cache.push(&b, [event(4)]);
        assert!(cache.read(&a, 0, 1, 1).is_none());
        cache.push(&b, (5..10).map(event));
        assert_eq!(seqs(cache.read(&b, 5, 10, 10_000)), Some(vec![6, 7, 8, 9]));
        assert!(cache.read(&b, 4, 10, 10_000).is_none() && cache.bytes == 4_000);
    }
}
