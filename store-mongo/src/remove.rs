//! Taking topics and groups out.
//!
//! ```text
//!   topics {_id, epoch, seq, …} ── claimed, ──► {…, epoch: 0, removed: its epoch} ── events deleted ──► no document
//!                            cursors deleted
//! ```
//!
//! From the claim on nobody sees the topic, and until its document is gone nobody can make one of its name: so what is
//! deleted is never of another log. A hub that ends in between leaves the rest to the next pass of any hub.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use mongodb::{
    ClientSession,
    bson::{Bson, Document, doc},
    error::{Error, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
    options::{ReadConcern, ReadPreference, SelectionCriteria},
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
/// Pause before a claim is tried again.
const PAUSE: Duration = Duration::from_millis(10);
/// Cursors that are looked at or deleted at once.
const CURSORS: usize = 1_000;
/// Topics that are looked at at once, each with a condition of its own.
const TOPICS: usize = 100;
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
        let found = async {
            let mut session = self.session().await?;
            let find = self.cursors.find(doc! { "group": group.as_str() }).projection(doc! { "epoch": 1 });
            let mut found = find.session(&mut session).await?;
            let mut positions = Vec::new();
            while found.advance(&mut session).await? {
                let document = found.current();
                let name =
                    document.get_str("_id").ok().and_then(|id| id.split_once(cursor::BETWEEN)).map(|(name, _)| name);
                let epoch = whole(document, "epoch").unwrap_or(0);
                positions.extend(name.and_then(|name| Topic::new(name).ok()).map(|topic| (topic, epoch)));
            }
            // Behind the positions: one in a log that is gone by now counts no more.
            let mut epochs = HashMap::new();
            for some in positions.chunks(CURSORS) {
                let names: Vec<&str> =
                    some.iter().filter(|(_, epoch)| *epoch != 0).map(|(topic, _)| topic.as_str()).collect();
                if !names.is_empty() {
                    epochs.extend(self.load_topics(doc! { "_id": { "$in": names } }).await?);
                }
            }
            positions.retain(|(topic, epoch)| *epoch == 0 || epochs.get(topic).is_some_and(|is| is.epoch == *epoch));
            Ok(positions)
        };
        let mut topics: Vec<Topic> = self.reading(found).await?.into_iter().map(|(topic, _)| topic).collect();
        topics.sort_unstable();
        Ok(topics)
    }

    /// See [`Store::remove_topic`](prom_store::Store::remove_topic).
    pub(super) async fn remove_topic(&self, topic: &Topic, only: Option<Tail>) -> Result<bool, StoreError> {
        let mut claim = Claim { inner: self, topic, epoch: None };
        let claimed = self.reading(self.claim(only, &mut claim)).await;
        if claimed == Ok(true) {
            claim.done();
        }
        drop(claim);
        self.cache().drop_topic(topic);
        if !claimed? {
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
    async fn claim(&self, only: Option<Tail>, claim: &mut Claim<'_>) -> Result<bool, Error> {
        let mut session = self.session().await?;
        loop {
            let claimed = self.claim_once(only, claim, &mut session).await;
            match claimed {
                // Somebody writes the topic or a position in it at the same time.
                Err(error) if error.contains_label(TRANSIENT_TRANSACTION_ERROR) => {
                    // The next one ends this one, should that not work.
                    let _ = session.abort_transaction().await;
                    tokio::time::sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
                }
                claimed => return claimed,
            }
        }
    }

    /// The same, in one transaction: no group begins between the look at the topic's groups and the claim, and of the
    /// positions that are there when it is done none is of the log that goes.
    async fn claim_once(
        &self,
        only: Option<Tail>,
        claim: &mut Claim<'_>,
        session: &mut ClientSession,
    ) -> Result<bool, Error> {
        let topic = claim.topic;
        let start = session.start_transaction().write_concern(self.write_concern.clone());
        let start = start.read_concern(ReadConcern::local());
        start.selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary)).await?;
        let own = doc! { "_id": topic.as_str(), REMOVED: { "$exists": false } };
        let found = self.topics.find_one(own.clone()).session(&mut *session).await?;
        let there = found.is_some();
        if let Some(found) = found {
            let number = |name: &str| whole(&found, name);
            let is = Tail {
                epoch: number("epoch").unwrap_or(0),
                first: number("first").unwrap_or(1),
                seq: number("seq").unwrap_or(0),
            };
            if only.is_some_and(|only| only != is)
                || (only.is_some() && self.has_groups(topic, is.epoch, session).await?)
            {
                session.abort_transaction().await?;
                return Ok(false);
            }
            claim.of(is.epoch);
            let gone =
                doc! { "$set": { REMOVED: long(is.epoch), "epoch": 0_i64, "seq": long(is.seq), "bytes": 0_i64 } };
            self.topics.update_one(own, gone).session(&mut *session).await?;
        } else if only.is_some() {
            session.abort_transaction().await?;
            return Ok(false);
        }
        // The original's cursors have no topic beside them.
        let cursors = self.cursors.delete_many(cursor::of_topic(topic)).session(&mut *session).await?;
        let mut done = session.commit_transaction().await;
        while done.as_ref().is_err_and(|error| error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT)) {
            tokio::time::sleep(PAUSE).await;
            done = session.commit_transaction().await;
        }
        done?;
        self.committed_at(session.operation_time());
        Ok(there || cursors.deleted_count > 0)
    }

    /// Whether a group has a position in a topic's log.
    async fn has_groups(&self, topic: &Topic, epoch: u64, session: &mut ClientSession) -> Result<bool, Error> {
        let mut group = cursor::of_topic(topic);
        group.insert("epoch", cursor::of_log(epoch));
        Ok(self.cursors.find_one(group).session(session).await?.is_some())
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
        // A position that was stored late. Those without a log are of groups that have begun since.
        if epoch != 0 {
            let mut late = cursor::of_topic(topic);
            late.insert("epoch", long(epoch));
            self.cursors.delete_many(late).await?;
        }
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
        for some in cursors.chunks(TOPICS) {
            let names = some.iter().map(|(topic, _)| topic.as_str()).collect();
            self.reading(self.delete_unused(names)).await?;
        }
        Ok(())
    }

    /// Deletes those of some topics' documents that were made for positions alone, and whose last one is gone. Each says how
    /// many groups ever began: if one begins between the looks, it is another document.
    async fn delete_unused(&self, names: Vec<&str>) -> Result<(), Error> {
        let mut session = self.session().await?;
        let quiet = doc! { "_id": { "$in": names }, "seq": { "$exists": false }, REMOVED: { "$exists": false } };
        let mut found = self.topics.find(quiet).session(&mut session).await?;
        let mut quiet = BTreeMap::new();
        while found.advance(&mut session).await? {
            let document = found.current();
            if let Some(topic) = document.get_str("_id").ok().and_then(|name| Topic::new(name).ok()) {
                quiet.insert(topic, document.get_i32("groups").map_or(Bson::Null, Bson::Int32));
            }
        }
        if quiet.is_empty() {
            return Ok(());
        }
        let positions: Vec<Document> = quiet.keys().map(cursor::of_topic).collect();
        let left = self.cursors.find(doc! { "$or": positions }).projection(doc! { "_id": 1 });
        let mut left = left.session(&mut session).await?;
        while left.advance(&mut session).await? {
            let id = left.current().get_str("_id").ok();
            let name = id.and_then(|id| Topic::new(id.split_once(cursor::BETWEEN)?.0).ok());
            name.and_then(|name| quiet.remove(&name));
        }
        let unused = quiet.into_iter().map(|(topic, groups)| {
            let never = doc! { "$exists": false };
            doc! { "_id": topic.as_str(), "groups": groups, "seq": never.clone(), REMOVED: never }
        });
        let unused: Vec<Document> = unused.collect();
        if !unused.is_empty() {
            self.topics.delete_many(doc! { "$or": unused }).await?;
        }
        Ok(())
    }

    fn removed(&self) -> MutexGuard<'_, VecDeque<Removed>> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of a log that this hub has not removed. It cannot begin to meanwhile; if it just does, that is waited for, which
    /// takes as long as a claim may.
    pub(super) async fn unless_removed_here(&self, topic: &Topic, epoch: u64, tell: impl FnOnce()) {
        loop {
            let resolved = self.resolved.notified();
            {
                let removed = self.removed();
                match removed.iter().find(|own| own.is(topic, epoch)) {
                    None => return tell(),
                    Some(own) if own.done => return,
                    Some(_) => {}
                }
            }
            resolved.await;
        }
    }

    /// The stream of changes has told that the log is removed, and tells nothing of it any more.
    pub(super) fn removal_was_told(&self, topic: &Topic, epoch: u64) {
        let mut removed = self.removed();
        if let Some(at) = removed.iter().position(|own| own.done && own.is(topic, epoch)) {
            removed.remove(at);
        }
    }
}

/// A log that this hub removes, or has removed.
#[derive(Debug)]
pub(super) struct Removed {
    topic: Topic,
    epoch: u64,
    /// It has; before that another hub may come first.
    done: bool,
}

impl Removed {
    fn is(&self, topic: &Topic, epoch: u64) -> bool {
        self.epoch == epoch && self.topic == *topic
    }
}

/// A removal by this hub under way, from before it can be done on. Whatever becomes of it, the stream of changes waits no
/// longer than this is there.
struct Claim<'a> {
    inner: &'a Inner,
    topic: &'a Topic,
    /// The log that it is of.
    epoch: Option<u64>,
}

impl Claim<'_> {
    fn of(&mut self, epoch: u64) {
        if self.epoch == Some(epoch) {
            return;
        }
        self.give_up();
        self.epoch = Some(epoch);
        let mut removed = self.inner.removed();
        if removed.len() == REMEMBERED {
            removed.pop_front();
        }
        removed.push_back(Removed { topic: self.topic.clone(), epoch, done: false });
    }

    /// This hub has removed it.
    fn done(&mut self) {
        let Some(epoch) = self.epoch.take() else { return };
        let mut removed = self.inner.removed();
        removed.iter_mut().filter(|own| own.is(self.topic, epoch)).for_each(|own| own.done = true);
        drop(removed);
        self.inner.resolved.notify_waiters();
    }

    /// Another hub may have, which the stream of changes is to tell.
    fn give_up(&mut self) {
        let Some(epoch) = self.epoch.take() else { return };
        self.inner.removed().retain(|own| own.done || !own.is(self.topic, epoch));
        self.inner.resolved.notify_waiters();
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}
