//! Taking topics and cursors out: a record at the log's end says that what stands before it counts no more.
//!
//! ```text
//!   … event t | cursor t g | … | topic t, NO_TOPIC | … | topic t, of another number or of this one again
//! ```
//!
//! What the record is about stays where it is until its segment goes, which is soon, for it is dead. Until the last such
//! segment is gone the record is copied forward like any that is wanted; with it goes the number of a topic, which can then
//! be given again.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prom_protocol::{Group, Topic};
use prom_store::{StoreError, Tail, wall_clock};

use crate::{
    append::Appender,
    record::{NO_TOPIC, TopicRecord, gone},
    shared::Shared,
    topic_log::TopicLog,
};

impl Appender {
    /// See [`Store::remove_topic`](prom_store::Store::remove_topic).
    pub(crate) fn remove_topic(
        &mut self,
        shared: &Shared,
        topic: &Topic,
        only: Option<Tail>,
    ) -> Result<bool, StoreError> {
        self.is_open()?;
        let record = {
            let state = shared.read();
            let as_asked = |log: &Tail, groups: usize| only.is_none_or(|only| *log == only && groups == 0);
            match state.topic(topic).filter(|log| as_asked(&log.tail(), log.cursors.len())) {
                Some(log) => no_topic(log),
                None => return Ok(false),
            }
        };
        self.put_topics(shared, wall_clock(), &[record])?;
        // Segments of which nothing is wanted any more are dropped soon.
        shared.bell.ring();
        Ok(true)
    }

    /// See [`Store::remove_cursors`](prom_store::Store::remove_cursors).
    pub(crate) fn remove_cursors(&mut self, shared: &Shared, cursors: &[(Topic, Group)]) -> Result<(), StoreError> {
        self.is_open()?;
        let (mut topics, mut records) = (Vec::new(), Vec::new());
        {
            let state = shared.read();
            let mut own: BTreeMap<u32, BTreeSet<&Group>> = BTreeMap::new();
            for (topic, group) in cursors {
                if let Some(log) = state.topic(topic).filter(|log| log.cursors.contains_key(group)) {
                    own.entry(log.number).or_default().insert(group);
                }
            }
            for (number, groups) in own {
                let log = &state.topics[number as usize];
                // It was made for these positions alone, and takes them with it.
                if log.tail == 0 && groups.len() == log.cursors.len() {
                    topics.push(no_topic(log));
                } else {
                    records.extend(groups.into_iter().map(|group| (number, group.clone(), Arc::new(gone()))));
                }
            }
        }
        self.put_topics(shared, wall_clock(), &topics)?;
        if !topics.is_empty() {
            shared.bell.ring();
        }
        self.put_cursors(shared, wall_clock(), &records)
    }

    fn is_open(&self) -> Result<(), StoreError> {
        match self.closed {
            Some(_) => Err(StoreError::Unavailable("the store is closed".into())),
            None => Ok(()),
        }
    }
}

/// What says that a topic was removed.
fn no_topic(log: &TopicLog) -> TopicRecord<'static> {
    let name = log.topic.as_str().to_owned().into();
    TopicRecord { number: log.number, name, epoch: NO_TOPIC, first: 1, tail: 0, holes: Cow::Borrowed(&[]) }
}

#[cfg(test)]
mod tests {
    use prom_store::{Append, Batch, Cursor, CursorPut};

    use super::*;
    use crate::{disk::Disk, index::NAME, keeper::Keeper, log::Log, open::open, options::Options, sim::SimDisk};

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn options() -> Options {
        Options { segment_bytes: 8 * 1024, flush_records: 40, cache_bytes: 1024, ..Options::default() }
    }

    fn log(disk: &SimDisk) -> Arc<Log> {
        open(&(Arc::new(disk.clone()) as Arc<dyn Disk>), options()).unwrap()
    }

    /// Publishes one event of about so many bytes, with a key.
    fn publish(log: &Log, on: &str, bytes: usize) -> u64 {
        let options = prom_protocol::EventOptions { key: Some("k".into()), ..Default::default() };
        let append = Append::new(topic(on), &options, &format!("\"{}\"", "x".repeat(bytes)));
        let batch = Batch { now: 1_000, appends: vec![append], cursors: Vec::new() };
        log.appender().commit(&log.shared, batch).unwrap().remove(0).unwrap().seq
    }

    fn settle(log: &Log, on: &str, floor: u64) {
        let cursor = Cursor { floor, delivered: floor, ..Cursor::default() };
        let put = CursorPut { topic: topic(on), group: Group::new("g").unwrap(), cursor };
        log.appender().commit(&log.shared, Batch { now: 1_000, appends: Vec::new(), cursors: vec![put] }).unwrap();
    }

    fn remove(log: &Log, on: &str) {
        assert!(log.appender().remove_topic(&log.shared, &topic(on), None).unwrap());
    }

    fn upkeep(log: &Log) {
        for _ in 0..2 {
            Keeper::new(log).everything().unwrap();
        }
    }

    /// What is known of a topic: its last seq and the newest event of the key, and the group's floor.
    fn known(log: &Log, on: &str) -> Option<(u64, Option<u64>, Option<u64>)> {
        let newest = log.shared.latest(&topic(on), "k").unwrap().map(|event| event.seq);
        let state = log.shared.read();
        let own = state.topic(&topic(on))?;
        Some((own.tail, newest, own.cursors.values().next().map(|own| own.cursor.floor)))
    }

    /// The same log without what is made again from it.
    fn without_index(disk: &SimDisk) -> Arc<Log> {
        let mut files = disk.contents();
        files.retain(|name, _| name != NAME && !name.ends_with(".idx"));
        log(&SimDisk::with(&files))
    }

    #[test]
    fn what_was_removed_does_not_come_back_however_little_is_left_of_the_log() {
        let disk = SimDisk::default();
        let own = log(&disk);
        for round in 0..40 {
            publish(&own, "kept", 100);
            publish(&own, "gone", 300);
            settle(&own, "gone", round);
            settle(&own, "kept", round / 2);
        }
        remove(&own, "gone");
        let cursor = (topic("kept"), Group::new("g").unwrap());
        own.appender().remove_cursors(&own.shared, &[cursor]).unwrap();
        // Segment by segment goes, in any order, and is looked at with and without the index at each step.
        for _ in 0..60 {
            for again in [&own, &log(&SimDisk::with(&disk.contents())), &without_index(&disk)] {
                assert_eq!(known(again, "gone"), None);
                assert_eq!(again.shared.read().count(), 1);
                assert!(
                    known(again, "kept")
                        .is_some_and(|(tail, newest, floor)| { tail >= 40 && newest == Some(tail) && floor.is_none() })
                );
            }
            publish(&own, "kept", 700);
            upkeep(&own);
        }
        assert_eq!(publish(&own, "gone", 10), 1);
        for again in [&own, &log(&SimDisk::with(&disk.contents())), &without_index(&disk)] {
            assert_eq!(known(again, "gone"), Some((1, Some(1), None)));
            assert_eq!(again.shared.read().count(), 2);
        }
    }

    #[test]
    fn the_number_of_a_removed_topic_is_given_again_once_nothing_of_it_is_left() {
        let disk = SimDisk::default();
        let mut own = log(&disk);
        publish(&own, "kept", 10);
        for round in 0..500 {
            let name = format!("t{round}");
            assert_eq!(publish(&own, &name, 500), 1, "nothing of whose number it has");
            assert_eq!(known(&own, &name), Some((1, Some(1), None)));
            remove(&own, &name);
            if round % 10 == 0 {
                upkeep(&own);
            }
            if round % 50 == 25 {
                own = if round % 100 == 25 { log(&SimDisk::with(&disk.contents())) } else { without_index(&disk) };
                // Only looked at: the log goes on where it was.
                assert_eq!(known(&own, &name), None);
                own = log(&disk);
            }
        }
        upkeep(&own);
        let numbers = own.shared.read().topics.len();
        assert!(numbers < 150, "{numbers} numbers for one topic");
        assert_eq!(own.shared.read().count(), 1);
        assert_eq!(known(&without_index(&disk), "kept"), Some((1, Some(1), None)));
    }

    /// Topics of which nobody had ever published stayed for ever, and nobody saw them.
    #[test]
    fn a_topic_that_was_made_for_positions_goes_with_the_last_of_them() {
        let disk = SimDisk::default();
        let mut own = log(&disk);
        let g = Group::new("g").unwrap();
        publish(&own, "kept", 10);
        settle(&own, "kept", 0);
        for round in 0..500 {
            let name = format!("t{round}");
            settle(&own, &name, 0);
            let second = CursorPut { topic: topic(&name), group: Group::new("h").unwrap(), cursor: Cursor::default() };
            own.appender()
                .commit(&own.shared, Batch { now: 1_000, appends: Vec::new(), cursors: vec![second] })
                .unwrap();
            let both = [g.clone(), Group::new("h").unwrap()].map(|group| (topic(&name), group));
            if round % 2 == 0 {
                own.appender().remove_cursors(&own.shared, &both[..1]).unwrap();
                assert_eq!(known(&own, &name), Some((0, None, Some(0))), "one is left");
                own.appender().remove_cursors(&own.shared, &both[1..]).unwrap();
            } else {
                own.appender().remove_cursors(&own.shared, &[&both[..], &both[..]].concat()).unwrap();
            }
            assert_eq!(known(&own, &name), None);
            if round % 10 == 0 {
                upkeep(&own);
            }
            if round % 100 == 50 {
                own = if round % 200 == 50 { log(&SimDisk::with(&disk.contents())) } else { without_index(&disk) };
                assert_eq!(own.shared.topics(|log| !log.is_removed()).len(), 1, "also when it was opened again");
                own = log(&disk);
            }
        }
        upkeep(&own);
        let numbers = own.shared.read().topics.len();
        assert!(numbers < 150, "{numbers} numbers for one topic");
        assert_eq!(own.shared.read().by_name.len(), 1);
        // With events it stays without groups.
        own.appender().remove_cursors(&own.shared, &[(topic("kept"), g)]).unwrap();
        assert_eq!(known(&own, "kept"), Some((1, Some(1), None)));
    }

    #[test]
    fn the_index_forgets_what_it_had_of_a_removed_topic() {
        let disk = SimDisk::default();
        let own = log(&disk);
        publish(&own, "kept", 10);
        for round in 0..30 {
            publish(&own, &format!("t{round}"), 500);
        }
        upkeep(&own);
        assert_eq!(own.shared.index.all_latest().unwrap().len(), 31);
        for round in 0..30 {
            remove(&own, &format!("t{round}"));
        }
        upkeep(&own);
        assert_eq!(own.shared.index.all_latest().unwrap().len(), 1);
        let space = |log: &Log| log.shared.read().segments.len();
        assert!(space(&own) <= 3, "{} segments for one event", space(&own));
        assert_eq!(own.shared.read().bytes, own.shared.read().topics.iter().map(|log| log.bytes).sum::<u64>());
    }
}
