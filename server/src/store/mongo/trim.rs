//! Retention: a trim moves a topic's first seq in a transaction, then deletes what is before it.
//!
//! Whoever reads looks at the first seq, so what is not deleted yet is gone all the same; a hub that ends in between
//! leaves the rest to the next pass, by whichever hub. The newest event of each key stays where its rule says so.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::Ordering,
    time::Duration,
};

use mongodb::{
    ClientSession,
    bson::{Bson, doc},
    error::Error,
};
use prom_protocol::Topic;
use tokio_util::sync::CancellationToken;

use super::{Inner, cache::Known, connect::reason, cursor, document::long, plan::Move, read::newest_of_each_key};
use crate::{
    store::{Batch, Rule},
    writer::wall_clock,
};

/// Events that are looked at and deleted at once.
const AT_ONCE: i64 = 2_000;
/// Topics that are looked at to make room in one commit, the largest first.
const LARGEST: i64 = 100;

impl Inner {
    /// Makes room for `wanted` bytes by moving topics' first seqs, as part of the commit that needs it; what is moved,
    /// and the bytes that may come in. Without a limit there is nothing to do.
    pub(super) async fn make_room(&self, batch: &Batch, wanted: u64) -> Result<(BTreeMap<Topic, Move>, u64), Error> {
        let Some(most) = self.options.max_bytes else { return Ok((BTreeMap::new(), u64::MAX)) };
        let held = self.bytes.load(Ordering::SeqCst);
        if wanted == 0 || held + wanted <= most {
            return Ok((BTreeMap::new(), most.saturating_sub(held)));
        }
        let mut held = self.count_bytes().await?;
        // Somewhat more than is needed, so that this is rare.
        let target = most.saturating_sub(wanted).saturating_sub(most / 16);
        let mut trims = BTreeMap::new();
        let largest = self.topics.find(doc! { "bytes": { "$gt": 0 } }).sort(doc! { "bytes": -1 }).limit(LARGEST);
        let mut largest = largest.projection(doc! { "_id": 1 }).await?;
        let mut names = Vec::new();
        while largest.advance().await? {
            names.extend(largest.current().get_str("_id").map(str::to_owned));
        }
        let mut topics = self.load_topics(doc! { "_id": { "$in": names } }).await?;
        topics.sort_by_key(|(_, known)| std::cmp::Reverse(known.bytes));
        for (topic, known) in topics {
            if held <= target {
                break;
            }
            let settled = self.settled(&topic, batch, None).await?.min(known.seq);
            let is = known.without(held - target, settled);
            if is.first > known.first {
                held -= known.bytes - is.bytes;
                trims.insert(topic, Move { was: Some(known), is });
            }
        }
        Ok((trims, most.saturating_sub(held)))
    }

    /// Highest seq that every group has settled, those of this batch included.
    async fn settled(&self, topic: &Topic, batch: &Batch, session: Option<&mut ClientSession>) -> Result<u64, Error> {
        let mut floors: HashMap<String, u64> = HashMap::new();
        let find = self.cursors.find(cursor::of_topic(topic)).projection(doc! { "group": 1, "lastSeq": 1 });
        let mut take = |document: &mongodb::bson::raw::RawDocument| {
            if let (Ok(group), Ok(floor)) = (document.get_str("group"), document.get_i64("lastSeq")) {
                floors.insert(group.to_owned(), u64::try_from(floor).unwrap_or(0));
            }
        };
        match session {
            Some(session) => {
                let mut found = find.session(&mut *session).await?;
                while found.advance(session).await? {
                    take(found.current());
                }
            }
            None => {
                let mut found = find.await?;
                while found.advance().await? {
                    take(found.current());
                }
            }
        }
        for put in batch.cursors.iter().filter(|put| put.topic == *topic) {
            floors.insert(put.group.as_str().to_owned(), put.cursor.floor);
        }
        Ok(floors.into_values().min().unwrap_or(u64::MAX))
    }

    /// Counts what is retained, by every hub.
    pub(super) async fn count_bytes(&self) -> Result<u64, Error> {
        let sum = doc! { "$group": { "_id": Bson::Null, "bytes": { "$sum": "$bytes" } } };
        let mut found = self.topics.aggregate([sum]).await?;
        let counted = if found.advance().await? { found.current().get_i64("bytes").unwrap_or(0) } else { 0 };
        let counted = u64::try_from(counted).unwrap_or(0);
        self.bytes.store(counted, Ordering::SeqCst);
        Ok(counted)
    }

    /// Deletes what trims have taken from the log.
    pub(super) async fn trimmed(&self, topics: Vec<(Topic, u64)>) {
        for (topic, first) in topics {
            if let Err(error) = self.delete_before(&topic, first).await {
                tracing::warn!(%topic, error = reason(&error), "trimmed events are deleted later");
            }
        }
    }

    /// Deletes a topic's events before `first`, but for the newest of each key where these stay.
    pub(super) async fn delete_before(&self, topic: &Topic, first: u64) -> Result<(), Error> {
        let mut after = 0;
        loop {
            let filter = doc! { "topic": topic.as_str(), "seq": { "$gt": after, "$lt": long(first) } };
            let some = self.events.find(filter).sort(doc! { "seq": 1 }).limit(AT_ONCE);
            let mut some = some.projection(doc! { "seq": 1, "key": 1 }).await?;
            let (mut seqs, mut keys) = (Vec::new(), HashSet::new());
            while some.advance().await? {
                let event = some.current();
                seqs.extend(event.get_i64("seq"));
                keys.extend(event.get_str("key").map(str::to_owned));
            }
            let (Some(from), Some(to)) = (seqs.first().copied(), seqs.last().copied()) else { return Ok(()) };
            let mut kept = Vec::new();
            if self.options.retention.compacts(topic) && !keys.is_empty() {
                let keys: Vec<String> = keys.into_iter().collect();
                let mut newest = newest_of_each_key(topic, doc! { "$in": keys });
                newest.push(doc! { "$match": { "event.seq": { "$lte": to } } });
                newest.push(doc! { "$project": { "_id": 0, "seq": "$event.seq" } });
                let mut newest = self.events.aggregate(newest).await?;
                while newest.advance().await? {
                    kept.extend(newest.current().get_i64("seq"));
                }
            }
            let filter = doc! { "topic": topic.as_str(), "seq": { "$gte": from, "$lte": to, "$nin": kept } };
            self.events.delete_many(filter).await?;
            after = to;
            if i64::try_from(seqs.len()).is_ok_and(|found| found < AT_ONCE) {
                return Ok(());
            }
        }
    }

    /// Applies the rules again and again, until the store is closed.
    pub(super) async fn keep_up(&self, closed: &CancellationToken) {
        // Up to where each topic was swept.
        let mut swept = HashMap::new();
        loop {
            // Hubs that started together do not do this together.
            let pause = self.options.upkeep_every.mul_f64(0.75 + fastrand::f64() / 2.0);
            tokio::select! {
                () = closed.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let done = tokio::select! {
                () = closed.cancelled() => return,
                done = self.pass(&mut swept) => done,
            };
            if let Err(error) = done {
                self.retrying(&reason(&error));
            }
        }
    }

    /// One round over all topics.
    async fn pass(&self, swept: &mut HashMap<Topic, u64>) -> Result<(), Error> {
        if self.options.max_bytes.is_some() {
            self.count_bytes().await?;
        }
        for (topic, known) in self.load_topics(doc! {}).await? {
            let mut first = known.first;
            if let Some(rule) = self.options.retention.rule(&topic) {
                let wanted = self.wanted(&topic, known, rule).await?;
                if wanted > first && worth(known, wanted) {
                    first = self.trim(&topic, wanted, rule.drop_unsettled).await?;
                }
            }
            if first > 1 && swept.get(&topic) != Some(&first) {
                self.delete_before(&topic, first).await?;
                swept.insert(topic, first);
            }
        }
        Ok(())
    }

    /// The first seq that a rule keeps.
    async fn wanted(&self, topic: &Topic, known: Known, rule: &Rule) -> Result<u64, Error> {
        let mut first = known.first;
        if let Some(most) = rule.max_events {
            first = first.max((known.seq + 1).saturating_sub(most));
        }
        if let Some(most) = rule.max_bytes {
            first = first.max(known.without(known.bytes.saturating_sub(most), known.seq).first);
        }
        if let Some(age) = rule.max_age {
            let oldest = wall_clock().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            let young = doc! {
                "topic": topic.as_str(), "seq": { "$gte": long(known.first) }, "ts": { "$gte": long(oldest) },
            };
            let young = self.events.find_one(young).sort(doc! { "seq": 1 }).projection(doc! { "seq": 1 }).await?;
            let young = young.and_then(|event| event.get_i64("seq").ok()).and_then(|seq| u64::try_from(seq).ok());
            first = first.max(young.unwrap_or(known.seq + 1));
        }
        Ok(first)
    }

    /// Moves a topic's first seq to `wanted`, or as far as its groups have settled; where it then is.
    async fn trim(&self, topic: &Topic, wanted: u64, drop_unsettled: bool) -> Result<u64, Error> {
        let mut session = self.client().start_session().await?;
        session.start_transaction().write_concern(self.write_concern.clone()).await?;
        let settled = match drop_unsettled {
            true => u64::MAX,
            false => self.settled(topic, &Batch::default(), Some(&mut session)).await?,
        };
        let first = wanted.min(settled.saturating_add(1));
        let Some(known) = self.load_topics(doc! { "_id": topic.as_str() }).await?.pop().map(|(_, known)| known) else {
            return Ok(1);
        };
        let is = known.to(first);
        if is.first > known.first {
            let update = doc! {
                "q": known.still(topic, true),
                "u": { "$set": { "first": long(is.first), "bytes": long(is.bytes) } },
            };
            let moved = self.update("topics", vec![update], &mut session).await?;
            if moved.get_i32("n").is_ok_and(|n| n == 0) {
                session.abort_transaction().await?;
                return Ok(known.first);
            }
        }
        session.commit_transaction().await?;
        // What this hub knows of the topic is behind now; its next commit finds out, and need not.
        self.cache().forget(topic);
        Ok(is.first)
    }
}

/// A trim is a transaction and deletes: not for a few events at a time.
fn worth(known: Known, wanted: u64) -> bool {
    let (dead, all) = (wanted - known.first, known.seq + 1 - known.first);
    dead >= 1_000 || dead * 10 >= all
}

impl Known {
    /// As it is when the events before `first` are gone. Bytes go in proportion.
    fn to(self, first: u64) -> Self {
        let first = first.clamp(self.first, self.seq + 1);
        let (all, left) = (self.seq + 1 - self.first, self.seq + 1 - first);
        let bytes = if all == 0 { 0 } else { u128::from(self.bytes) * u128::from(left) / u128::from(all) };
        Self { first, bytes: u64::try_from(bytes).unwrap_or(self.bytes), ..self }
    }

    /// As it is without about so many bytes of its oldest events, and without none after `last`.
    fn without(self, bytes: u64, last: u64) -> Self {
        let all = self.seq + 1 - self.first;
        let each = (self.bytes / all.max(1)).max(1);
        self.to((self.first + bytes.div_ceil(each)).min(last.saturating_add(1)))
    }
}

/// Default of [`super::Options::upkeep_every`].
pub(super) const UPKEEP_EVERY: Duration = Duration::from_secs(15);
