//! What must hold between any two calls of the [`Engine`]: its indices agree with its events. For tests.

use std::collections::{BTreeMap, BTreeSet};

use prom_protocol::{Ordering, Topic};

use crate::{
    engine::Engine,
    track::{MemberId, State, Track},
};

impl Engine {
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn in_flight(&self, id: MemberId) -> u32 {
        self.members.get(&id).map_or(0, |member| member.in_flight)
    }

    pub(crate) fn is_settled(&self, topic: &Topic, seq: u64) -> bool {
        self.track_of(topic).is_some_and(|track| self.tracks[track].is_settled(seq))
    }

    /// Panics if an index does not agree with the events.
    pub(crate) fn check(&self) {
        let mut timers = BTreeSet::new();
        let mut in_flight: BTreeMap<MemberId, u32> = BTreeMap::new();
        let mut ids = 0;
        for (index, track) in self.tracks.iter().enumerate() {
            for (seq, unsettled) in &track.unsettled {
                assert_eq!(*seq, unsettled.event.seq);
                assert!(self.ids.of(&unsettled.event.id).any(|place| place == (index, *seq)), "the id of {seq}");
                match unsettled.state {
                    State::Leased { member, lease, deadline } => {
                        assert!(lease < self.next_lease);
                        timers.insert((deadline, index, *seq));
                        *in_flight.entry(member).or_default() += 1;
                    }
                    State::Waiting { due } => {
                        timers.insert((due, index, *seq));
                    }
                    State::Due => {
                        let aside = !track.wanted_by(*seq).is_empty();
                        assert!(track.due.contains(seq) != aside, "{seq} is due, or set aside");
                    }
                }
            }
            ids += track.unsettled.len() + track.unstored.len() + track.storing.len();
            track.check(track.ordered == Ordering::Key);
        }
        assert_eq!(timers, self.timers, "timers");
        assert_eq!(self.leases, in_flight.values().sum::<u32>() as usize, "leases");
        assert_eq!(ids, self.ids.len(), "ids");
        for (id, member) in &self.members {
            assert_eq!(member.in_flight, in_flight.remove(id).unwrap_or(0), "in flight with {id}");
            assert!(member.in_flight <= member.options.max_in_flight);
        }
        assert!(in_flight.is_empty(), "leases of members that are gone: {in_flight:?}");
    }

    /// Panics if something is left when everything is settled and stored.
    pub(crate) fn check_at_rest(&self) {
        self.check();
        assert!(self.is_idle() || !self.is_empty());
        assert!(self.timers.is_empty() && self.ids.len() == 0);
        for track in &self.tracks {
            assert_eq!(track.held(), 0);
            assert!(!track.has_work() && track.busy.is_empty() && track.parked.is_empty() && track.restored.is_empty());
            assert!(!track.dirty && !track.persisting && !track.reading && track.dead.is_empty());
        }
    }
}

impl Track {
    fn check(&self, ordered: bool) {
        let state = |seq: &u64| self.unsettled.get(seq).map(|unsettled| unsettled.state);
        assert!(self.due.iter().all(|seq| state(seq) == Some(State::Due)), "due");
        self.check_stalled();
        let mut seen = BTreeSet::new();
        let parked = self.parked.values().flatten();
        for seq in self.unsettled.keys().copied().chain(self.ready.iter().chain(parked).map(|event| event.seq)) {
            assert!(seen.insert(seq), "{seq} is held twice");
            assert!(!self.is_settled(seq) && seq <= self.read_to, "{seq} is held and settled, or was not read");
        }
        assert_eq!(self.parked.values().map(std::collections::VecDeque::len).sum::<usize>(), self.parked_count);
        for (key, seq) in &self.busy {
            assert_eq!(self.unsettled[seq].event.key.as_ref(), Some(key), "the unsettled event of {key}");
        }
        if ordered {
            let keyed = self.unsettled.values().filter_map(|unsettled| unsettled.event.key.as_ref());
            assert_eq!(keyed.clone().count(), self.busy.len(), "one unsettled event a key");
            assert!(keyed.clone().all(|key| self.busy.contains_key(key)));
            for (key, events) in &self.parked {
                let first =
                    self.busy.get(key).copied().or_else(|| {
                        self.ready.iter().find(|event| event.key.as_ref() == Some(key)).map(|event| event.seq)
                    });
                assert!(!events.is_empty() && first.is_some_and(|first| first < events[0].seq), "parked behind {key}");
                assert!(events.iter().is_sorted_by_key(|event| event.seq), "{key} is parked in order");
            }
        }
        for seq in self.restored.keys() {
            assert!(*seq > self.read_to || (seen.contains(seq) && !self.unsettled.contains_key(seq)), "restored {seq}");
        }
        assert!(self.delivered >= self.cursor().attempts.last().map_or(0, |(seq, _)| *seq));
    }

    fn check_stalled(&self) {
        let by_seq: BTreeSet<(MemberId, u64)> =
            self.stalled.iter().flat_map(|(seq, members)| members.iter().map(|id| (*id, *seq))).collect();
        assert_eq!(by_seq, self.stalled_for, "who waits for what");
        for (seq, members) in &self.stalled {
            assert!(self.unsettled.get(seq).is_some_and(|unsettled| unsettled.state == State::Due));
            assert!(!members.is_empty() && members.iter().all(|id| self.members.contains(id)), "members of {seq}");
        }
    }
}

#[test]
fn a_group_goes_on_over_events_that_were_given_up() {
    // Seqs that never come once kept the floor where it was for ever.
    use std::sync::Arc;

    use prom_protocol::{SubscribeOptions, TopicOrPattern};

    use prom_store::{Cursor, Page, Record};

    let event = |seq: u64| {
        let id = format!("e{seq}").as_str().into();
        Arc::new(Record { id, seq, ts: 1, key: None, json: bytes::Bytes::new() })
    };
    let mut engine = Engine::new(1, 1);
    let topic = Topic::new("t").unwrap();
    let track = engine.add_topic(topic, Cursor::default(), 9);
    engine.join(1, TopicOrPattern::new("t").unwrap(), SubscribeOptions::default());
    assert_eq!(engine.next_read().map(|read| read.after), Some(0));
    let events = [1, 2, 5, 6].map(event).to_vec();
    let gaps = engine.loaded(track, Page { events, first: 1, read_to: 9, ..Page::default() });
    assert_eq!(gaps, [(3, 4), (7, 9)]);
    while let Some(delivery) = engine.next_delivery(1) {
        engine.ack(1, &delivery.event.id, None);
        engine.check();
    }
    assert_eq!(engine.next_persist().map(|persist| persist.cursor.floor), Some(9));
    assert_eq!(engine.next_read(), None);
}

#[test]
fn events_of_several_topics_may_have_the_same_id() {
    // The second one's place was forgotten with the first one's, and its ACK settled another topic's event.
    use std::sync::Arc;

    use prom_protocol::{SubscribeOptions, TopicOrPattern};

    use prom_store::{Cursor, Page, Record};

    use crate::Settled;

    for named in [false, true] {
        let mut engine = Engine::new(1, 1);
        engine.join(1, TopicOrPattern::new("t.*").unwrap(), SubscribeOptions::default());
        for name in ["t.a", "t.b", "t.c"] {
            let track = engine.add_topic(Topic::new(name).unwrap(), Cursor::default(), 2);
            let event = |seq| {
                Arc::new(Record {
                    id: format!("{seq}").as_str().into(),
                    seq,
                    ts: 1,
                    key: None,
                    json: bytes::Bytes::new(),
                })
            };
            engine.next_read();
            engine.loaded(track, Page { events: vec![event(1), event(2)], first: 1, read_to: 2, ..Page::default() });
        }
        let held: Vec<_> = std::iter::from_fn(|| engine.next_delivery(1)).collect();
        assert_eq!(held.len(), 6);
        engine.check();
        // In another order than they came.
        for delivery in held.iter().rev() {
            let lease = delivery.lease.map(|(lease, _)| lease).filter(|_| named);
            let settled = engine.ack(1, &delivery.event.id, lease);
            assert!(matches!(settled, Settled::Done(track) if !named || track == delivery.track), "{settled:?}");
            engine.check();
        }
        assert!(held.iter().all(|delivery| engine.is_settled(engine.topic(delivery.track), delivery.event.seq)));
        // Once more, also when the settles of some are stored.
        for _ in 0..3 {
            let again = held[0].lease.map(|(lease, _)| lease);
            assert!(matches!(engine.ack(1, &held[0].event.id, again), Settled::Done(_)));
            let persist = engine.next_persist().unwrap();
            engine.persisted(persist.track);
            engine.check();
        }
        let last = engine.ack(1, &held[0].event.id, None);
        assert_eq!(last, Settled::Unknown);
    }
}
