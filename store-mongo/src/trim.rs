//! Retention: a trim moves a topic's first seq, then deletes what is before it.
//!
//! Whoever reads looks at the first seq, so what is not deleted yet is gone all the same; a hub that ends in between
//! leaves the rest to the next pass, by whichever hub. The newest event of each key stays where its rule says so.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use mongodb::{
    ClientSession,
    bson::{Bson, doc},
    error::Error,
};
use prom_protocol::Topic;
use prom_store::{Batch, Rule, wall_clock};
use tokio_util::sync::CancellationToken;

use crate::{
    Inner,
    cache::Known,
    connect::reason,
    cursor,
    document::{long, whole},
    plan::Move,
    read::newest_of_each_key,
};

/// Events that are looked at and deleted at once.
const AT_ONCE: i64 = 2_000;
/// How long a commit waits for that, for each topic it has trimmed.
const AT_ONCE_TIMEOUT: Duration = Duration::from_millis(500);
/// Most bytes that a commit trims beyond those it needs.
const SLACK: u64 = 64 * 1024 * 1024;
/// Longest time the server may work on one step of upkeep.
const LONGEST_STEP: Duration = Duration::from_secs(10);
/// Longest time for one topic in a round.
const LONGEST_TOPIC: Duration = Duration::from_secs(60);
/// How often events before a topic's first are all looked at again.
const SWEEP_ALL_EVERY: Duration = Duration::from_secs(24 * 3600);
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
        let target = most.saturating_sub(wanted).saturating_sub((most / 16).min(SLACK));
        let mut trims = BTreeMap::new();
        let largest = self.topics.find(doc! { "bytes": { "$gt": 0 } }).sort(doc! { "bytes": -1 }).limit(LARGEST);
        let mut largest = largest.projection(doc! { "_id": 1 }).await?;
        let mut names = Vec::new();
        while largest.advance().await? {
            names.extend(largest.current().get_str("_id").map(str::to_owned));
        }
        let mut topics = self.load_topics(doc! { "_id": { "$in": names } }).await?;
        topics.sort_by_key(|(_, known)| std::cmp::Reverse(known.bytes));
        // Behind the topics, whose counts of groups say so if one begins meanwhile.
        let mut session = self.session().await?;
        for (topic, known) in topics {
            if held <= target {
                break;
            }
            let settled = self.settled(&topic, known.epoch, batch, &mut session).await?.min(known.seq);
            let is = known.without(held - target, settled);
            if is.first > known.first {
                held -= known.bytes - is.bytes;
                trims.insert(topic, Move { was: Some(known), is });
            }
        }
        Ok((trims, most.saturating_sub(held)))
    }

    /// Highest seq that every group has settled, those of this batch included. A position that cannot be read, or that has
    /// no seq, has settled nothing: what it may need stays.
    async fn settled(
        &self,
        topic: &Topic,
        epoch: u64,
        batch: &Batch,
        session: &mut ClientSession,
    ) -> Result<u64, Error> {
        let mut floors: HashMap<String, u64> = HashMap::new();
        let find = self.cursors.find(cursor::of_topic(topic)).projection(doc! { "lastSeq": 1, "epoch": 1 });
        let mut found = find.session(&mut *session).await?;
        while found.advance(session).await? {
            let document = found.current();
            if whole(document, "epoch").is_some_and(|own| own != 0 && own != epoch) {
                continue;
            }
            let group = cursor::group(document).unwrap_or_default().to_owned();
            floors.insert(group, whole(document, "lastSeq").unwrap_or(0));
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
        let counted = if found.advance().await? { whole(found.current(), "bytes").unwrap_or(0) } else { 0 };
        self.bytes.store(counted, Ordering::SeqCst);
        Ok(counted)
    }

    /// Deletes what the trims of a commit have taken from the log, or begins to: whoever published waits. The next pass
    /// does the rest.
    pub(super) async fn trimmed(&self, topics: Vec<(Topic, u64)>) {
        for (topic, first) in topics {
            match tokio::time::timeout(AT_ONCE_TIMEOUT, self.delete_some(&topic, 0, first)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%topic, error = reason(&error), "trimmed events are deleted later"),
                Err(_) => tracing::debug!(%topic, "trimmed events are deleted later"),
            }
        }
    }

    /// Deletes a topic's events before `first` and after `after`, but for the newest of each key where these stay.
    async fn delete_before(&self, topic: &Topic, after: u64, first: u64) -> Result<(), Error> {
        let mut after = after;
        while let Some(last) = self.delete_some(topic, after, first).await? {
            after = last;
        }
        Ok(())
    }

    /// The same for the first of them; the last one it looked at, if there are more behind it.
    async fn delete_some(&self, topic: &Topic, after: u64, first: u64) -> Result<Option<u64>, Error> {
        let filter = doc! { "topic": topic.as_str(), "seq": { "$gt": long(after), "$lt": long(first) } };
        let some = self.events.find(filter).sort(doc! { "seq": 1 }).limit(AT_ONCE).max_time(LONGEST_STEP);
        let mut some = some.projection(doc! { "seq": 1, "key": 1 }).await?;
        let (mut seqs, mut keys) = (Vec::new(), HashSet::new());
        while some.advance().await? {
            let event = some.current();
            seqs.extend(whole(event, "seq"));
            keys.extend(event.get_str("key").map(str::to_owned));
        }
        let (Some(from), Some(to)) = (seqs.first().copied(), seqs.last().copied()) else { return Ok(None) };
        let mut kept = Vec::new();
        if self.options.retention.compacts(topic) && !keys.is_empty() {
            let keys: Vec<String> = keys.into_iter().collect();
            let mut newest = newest_of_each_key(topic, doc! { "$in": keys });
            newest.push(doc! { "$match": { "event.seq": { "$lte": long(to) } } });
            newest.push(doc! { "$project": { "_id": 0, "seq": "$event.seq" } });
            let mut newest = self.events.aggregate(newest).max_time(LONGEST_STEP).await?;
            while newest.advance().await? {
                kept.extend(whole(newest.current(), "seq").map(long));
            }
        }
        let filter = doc! { "topic": topic.as_str(), "seq": { "$gte": long(from), "$lte": long(to), "$nin": kept } };
        self.events.delete_many(filter).await?;
        Ok(i64::try_from(seqs.len()).is_ok_and(|found| found >= AT_ONCE).then_some(to))
    }

    /// Applies the rules again and again, until the store is closed.
    pub(super) async fn keep_up(&self, closed: &CancellationToken) {
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
    async fn pass(&self, swept: &mut HashMap<Topic, Swept>) -> Result<(), Error> {
        if self.options.max_bytes.is_some() {
            self.count_bytes().await?;
        }
        for (topic, known) in self.load_topics(doc! {}).await? {
            // What keeps one topic from being trimmed keeps no other from it.
            let done = tokio::time::timeout(LONGEST_TOPIC, self.keep_up_topic(&topic, known, swept)).await;
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.retrying(&format!("retention of {topic}: {}", reason(&error))),
                Err(_) => self.retrying(&format!("retention of {topic} takes long, and goes on in the next round")),
            }
        }
        Ok(())
    }

    async fn keep_up_topic(
        &self,
        topic: &Topic,
        mut known: Known,
        swept: &mut HashMap<Topic, Swept>,
    ) -> Result<(), Error> {
        if let Some(rule) = self.options.retention.rule(topic) {
            known.first = self.apply(topic, known, rule).await?;
        }
        let before = swept.get(topic).copied();
        if known.first == 1 || before.is_some_and(|before| before.first == known.first) {
            return Ok(());
        }
        // Of what was swept before, newer events of the same keys may have made some dead: that is seen once a day.
        let now = Instant::now();
        let all = before.filter(|before| now.duration_since(before.all) < SWEEP_ALL_EVERY);
        self.delete_before(topic, all.map_or(0, |before| before.first - 1), known.first).await?;
        swept.insert(topic.clone(), Swept { first: known.first, all: all.map_or(now, |before| before.all) });
        Ok(())
    }

    /// Trims a topic as its rule says and its groups allow; its first seq then.
    async fn apply(&self, topic: &Topic, known: Known, rule: &Rule) -> Result<u64, Error> {
        // Behind the topic, whose count of groups says so if one begins meanwhile.
        let mut session = self.session().await?;
        let settled = match rule.drop_unsettled {
            true => known.seq,
            false => self.settled(topic, known.epoch, &Batch::default(), &mut session).await?.min(known.seq),
        };
        if settled < known.first {
            return Ok(known.first);
        }
        let wanted = self.wanted(topic, known, rule).await?.min(settled + 1);
        if wanted <= known.first || !worth(known, wanted) {
            return Ok(known.first);
        }
        let is = known.to(wanted);
        // By itself and not in a transaction: it waits for those of publishers, where a transaction would lose to them
        // again and again. Whoever publishes at the same time finds the topic moved, and looks again.
        let found = doc! {
            "_id": topic.as_str(), "epoch": long(known.epoch), "first": long(known.first), "groups": known.begun(),
        };
        let freed = long(known.bytes - is.bytes);
        let update = doc! { "$set": { "first": long(is.first) }, "$inc": { "bytes": -freed } };
        let moved = self.topics.update_one(found, update).await?;
        if moved.matched_count == 0 {
            // A group has begun, or another hub has trimmed: in the next round.
            return Ok(known.first);
        }
        // What this hub knows of the topic is behind now; its next commit finds out, and need not.
        self.cache().forget(topic);
        Ok(is.first)
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
            first = first.max(self.find_commit(topic, known, oldest).await?);
        }
        Ok(first)
    }
}

/// Up to where a topic was swept, and when the whole of it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Swept {
    first: u64,
    all: Instant,
}

/// A trim makes a publisher under way look again, and deletes: not for a few events at a time.
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
