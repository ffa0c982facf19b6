//! Taking topics and groups out.
//!
//! ```text
//!   topics {_id, epoch, seq, …} ── claimed ──► {…, epoch: 0, removed: its epoch} ── cursors, events deleted ──► no document
//! ```
//!
//! From the claim on nobody sees the topic, and until its document is gone nobody can make one of its name: so what is
//! deleted is never of another log. A hub that ends in between leaves the rest to the next pass of any hub.

use std::time::Duration;

use mongodb::{
    bson::{Bson, Document, doc},
    error::Error,
};
use prom_protocol::{Group, Topic};
use prom_store::{StoreError, Tail};
use tokio_util::sync::CancellationToken;

use crate::{
    Inner,
    connect::reason,
    cursor,
    document::{long, whole},
};

/// The field that says that a topic is being removed, and which log it had.
pub(super) const REMOVED: &str = "removed";
/// Events that are looked at and deleted at once.
const AT_ONCE: i64 = 2_000;
/// Cursors that are deleted at once.
const CURSORS: usize = 1_000;
/// How long the writer waits for a small topic's events to be deleted; those of a large one go behind its answer.
const AT_ONCE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one large topic's events are deleted before the next one's are.
const LONGEST_TURN: Duration = Duration::from_secs(10);
/// Most removals of this hub that are remembered until the stream of changes tells them.
const REMEMBERED: usize = 10_000;

/// What is left of a topic that is being removed.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    More,
}

impl Inner {
    /// See [`Store::topics_of`](prom_store::Store::topics_of).
    pub(super) async fn topics_of(&self, group: &Group) -> Result<Vec<Topic>, StoreError> {
        let end = format!("{}{group}", cursor::BETWEEN);
        let found = async {
            let mut session = self.session().await?;
            let find = self.cursors.find(doc! {}).projection(doc! { "_id": 1 }).sort(doc! { "_id": 1 });
            let mut found = find.session(&mut session).await?;
            let mut topics = Vec::new();
            while found.advance(&mut session).await? {
                let name = found.current().get_str("_id").ok().and_then(|id| id.strip_suffix(&end));
                topics.extend(name.and_then(|name| Topic::new(name).ok()));
            }
            Ok(topics)
        };
        let mut topics = Vec::new();
        for topic in self.reading(found).await? {
            if self.cursor(&topic, group).await?.is_some() {
                topics.push(topic);
            }
        }
        topics.sort_unstable();
        Ok(topics)
    }

    /// See [`Store::remove_topic`](prom_store::Store::remove_topic).
    pub(super) async fn remove_topic(&self, topic: &Topic, only: Option<Tail>) -> Result<bool, StoreError> {
        if only.is_some() && !self.cursors(topic).await?.is_empty() {
            return Ok(false);
        }
        let claimed = self.reading(self.claim(topic, only)).await?;
        self.cache().drop_topic(topic);
        if !claimed {
            return Ok(false);
        }
        match tokio::time::timeout(AT_ONCE_TIMEOUT, self.delete_some_of(topic)).await {
            Ok(Ok(Left::Nothing)) => return Ok(true),
            Ok(Ok(Left::More)) | Err(_) => tracing::debug!(%topic, "a removed topic's events are deleted later"),
            Ok(Err(error)) => {
                tracing::warn!(%topic, error = reason(&error), "a removed topic's events are deleted later");
            }
        }
        self.removing.notify_one();
        Ok(true)
    }

    /// Makes a topic one that is being removed, and deletes its cursors; whether there was one.
    async fn claim(&self, topic: &Topic, only: Option<Tail>) -> Result<bool, Error> {
        let mut session = self.session().await?;
        let own = doc! { "_id": topic.as_str(), REMOVED: { "$exists": false } };
        let found = self.topics.find_one(own.clone()).session(&mut session).await?;
        let Some(found) = found else {
            // The original's cursors have no topic beside them.
            let cursors = self.cursors.delete_many(cursor::of_topic(topic)).await?;
            return Ok(only.is_none() && cursors.deleted_count > 0);
        };
        let number = |name: &str| whole(&found, name);
        let is = Tail {
            epoch: number("epoch").unwrap_or(0),
            first: number("first").unwrap_or(1),
            seq: number("seq").unwrap_or(0),
        };
        if only.is_some_and(|only| only != is) {
            return Ok(false);
        }
        // As it was found, where that matters: a group that begins counts itself there.
        let mut still = own;
        still.insert("epoch", number("epoch").map_or(Bson::Null, |epoch| Bson::Int64(long(epoch))));
        if only.is_some() {
            still.insert("seq", long(is.seq));
            let groups = found.get_i32("groups").map_or(Bson::Null, Bson::Int32);
            still.insert("groups", groups);
        }
        self.remember_removal(is.epoch);
        let gone = doc! { "$set": { REMOVED: long(is.epoch), "epoch": 0_i64, "seq": long(is.seq), "bytes": 0_i64 } };
        let claimed = self.topics.update_one(still, gone).await?;
        if claimed.matched_count == 0 {
            return Ok(false);
        }
        self.cursors.delete_many(cursor::of_topic(topic)).await?;
        Ok(true)
    }

    /// Deletes what is left of topics that are being removed, by this hub or by one that ended before it had, until the
    /// store is closed.
    pub(super) async fn keep_removing(&self, closed: &CancellationToken) {
        loop {
            // Hubs that started together do not do this together.
            let pause = self.options.upkeep_every.mul_f64(0.75 + fastrand::f64() / 2.0);
            tokio::select! {
                () = closed.cancelled() => return,
                () = self.removing.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            let done = tokio::select! {
                () = closed.cancelled() => return,
                done = self.finish_removals() => done,
            };
            if let Err(error) = done {
                self.retrying(&reason(&error));
            }
        }
    }

    /// One round over the topics that are being removed. What keeps one from it keeps no other.
    async fn finish_removals(&self) -> Result<(), Error> {
        for topic in self.load_all(doc! { REMOVED: { "$exists": true } }).await?.1 {
            let deleted = async {
                while self.delete_some_of(&topic).await? == Left::More {}
                Ok::<_, Error>(())
            };
            match tokio::time::timeout(LONGEST_TURN, deleted).await {
                Ok(Ok(())) => tracing::debug!(%topic, "a removed topic's events are deleted"),
                Ok(Err(error)) => self.retrying(&format!("the removal of {topic}: {}", reason(&error))),
                // The others, then this one again.
                Err(_) => self.removing.notify_one(),
            }
        }
        Ok(())
    }

    /// Deletes some events of a topic that is being removed, and behind the last ones its document.
    async fn delete_some_of(&self, topic: &Topic) -> Result<Left, Error> {
        let own = doc! { "_id": topic.as_str(), REMOVED: { "$exists": true } };
        let Some(found) = self.topics.find_one(own).await? else { return Ok(Left::Nothing) };
        let Some(epoch) = whole(&found, REMOVED) else { return Ok(Left::Nothing) };
        let own = doc! { "_id": topic.as_str(), REMOVED: long(epoch) };
        // Of a hub that ended before it had deleted them. Groups that have begun since stand at the beginning.
        let mut cursors = cursor::of_topic(topic);
        cursors.insert("$nor", [doc! { "epoch": 0_i64, "lastSeq": 0_i64 }]);
        self.cursors.delete_many(cursors).await?;
        let some = self.events.find(doc! { "topic": topic.as_str() }).sort(doc! { "seq": 1 }).limit(AT_ONCE);
        let mut some = some.projection(doc! { "_id": 1 }).await?;
        let mut ids = Vec::new();
        while some.advance().await? {
            ids.extend(Document::try_from(some.current()).ok().and_then(|mut event| event.remove("_id")));
        }
        let more = i64::try_from(ids.len()).is_ok_and(|found| found >= AT_ONCE);
        if !ids.is_empty() {
            // Another hub may be done with it, and there be another log: but not while this document is there, so what was
            // found before is of the one that goes.
            if self.topics.find_one(own.clone()).await?.is_none() {
                return Ok(Left::Nothing);
            }
            self.events.delete_many(doc! { "_id": { "$in": ids } }).await?;
        }
        if more {
            return Ok(Left::More);
        }
        self.topics.delete_one(own).await?;
        Ok(Left::Nothing)
    }

    /// See [`Store::remove_cursors`](prom_store::Store::remove_cursors).
    pub(super) async fn remove_cursors(&self, cursors: &[(Topic, Group)]) -> Result<(), StoreError> {
        for some in cursors.chunks(CURSORS) {
            let ids: Vec<String> = some.iter().map(|(topic, group)| cursor::id(topic, group)).collect();
            let deleted = async { self.cursors.delete_many(doc! { "_id": { "$in": ids } }).await };
            self.reading(deleted).await?;
        }
        Ok(())
    }

    fn remember_removal(&self, epoch: u64) {
        let mut removed = self.removed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if removed.len() == REMEMBERED {
            removed.pop_front();
        }
        removed.push_back(epoch);
    }

    /// Whether this hub removed the log of that epoch. It is asked once.
    pub(super) fn removed_here(&self, epoch: u64) -> bool {
        let mut removed = self.removed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = removed.iter().position(|own| *own == epoch);
        found.is_some_and(|at| removed.remove(at).is_some())
    }
}
