//! Reads: the newest events from memory, everything else from the primary, never by scanning the log.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use mongodb::{
    Database,
    bson::{Document, RawDocumentBuf, doc},
    error::Error,
    options::{ReadPreference, SelectionCriteria},
};
use prom_protocol::{Group, Topic};
use prom_store::{Cursor, LatestPage, Page, StoreError, Stored, Tail};

use crate::{
    Inner,
    cache::Known,
    connect::reason,
    cursor,
    document::{decode, long, whole},
    remove::REMOVED,
};

/// Longest time a read may take.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(8);
/// Longest time to find out whether there is a primary: less than `/readyz` waits.
const READY_TIMEOUT: Duration = Duration::from_millis(1500);
/// Events that are fetched at once; pages are filled from several of these.
const FETCH: u32 = 500;
/// How often what was just committed is looked for again after an election.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Known {
    fn tail(&self) -> Tail {
        Tail { epoch: self.epoch, first: self.first, seq: self.seq }
    }
}

impl Inner {
    /// A read, within its time.
    pub(super) async fn reading<T>(&self, read: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
        match tokio::time::timeout(READ_TIMEOUT, read).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                self.retrying(&reason(&error));
                Err(StoreError::Unavailable("the store cannot be read at the moment".into()))
            }
            Err(_) => Err(StoreError::Unavailable("the store does not answer at the moment".into())),
        }
    }

    pub(super) async fn read(
        &self,
        topic: &Topic,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        if let Some(page) = self.cache().read(topic, after, limit, max_bytes) {
            return Ok(page);
        }
        let since = Instant::now();
        loop {
            let page = self.read_log(topic, after, limit, max_bytes, false).await?;
            // A new primary may not know yet that what the old one acknowledged is committed.
            let missing = page.events.is_empty() && {
                let known = self.cache().known(topic);
                known.is_some_and(|known| known.seq > after.max(page.first - 1))
            };
            if !missing || limit == 0 {
                return Ok(page);
            }
            if since.elapsed() > READ_TIMEOUT {
                return Err(StoreError::Unavailable("the store has not caught up with its last commits".into()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// See [`Store::salvage`](prom_store::Store::salvage).
    pub(super) async fn salvage(
        &self,
        topic: &Topic,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        match self.read(topic, after, limit, max_bytes).await {
            Err(StoreError::Damaged(_)) => self.read_log(topic, after, limit, max_bytes, true).await,
            read => read,
        }
    }

    /// `salvage`: what cannot be read is passed over, else the page ends in front of it.
    async fn read_log(
        &self,
        topic: &Topic,
        after: u64,
        limit: usize,
        max_bytes: usize,
        salvage: bool,
    ) -> Result<Page, StoreError> {
        // Events that went from the log may still be there, as the newest of their keys or until they are deleted.
        let Some(known) = self.topic(topic).await? else {
            return Ok(Page { first: 1, read_to: after, ..Page::default() });
        };
        let mut page = Page { epoch: known.epoch, first: known.first, read_to: after, ..Page::default() };
        let from = after.max(known.first - 1);
        let filter = doc! { "topic": topic.as_str(), "seq": { "$gt": long(from) } };
        let fetch = u32::try_from(limit).unwrap_or(u32::MAX).min(FETCH);
        let documents = async {
            let find = self.events.find(filter).sort(doc! { "seq": 1 }).batch_size(fetch);
            let mut found = find.limit(i64::try_from(limit).unwrap_or(0)).await?;
            let (mut documents, mut bytes) = (Vec::new(), 0);
            while documents.len() < limit && (bytes < max_bytes || documents.is_empty()) && found.advance().await? {
                bytes += found.current().as_bytes().len();
                documents.push(found.current().to_owned());
            }
            Ok(documents)
        };
        let mut bytes = 0;
        for document in self.reading(documents).await? {
            let event = match decode(&document) {
                Ok(event) => Stored::new(event),
                Err(error) if salvage => {
                    let Some(seq) = whole(&document, "seq") else { return Err(error) };
                    tracing::warn!(%error, %topic, seq, "an event is passed over");
                    page.read_to = seq;
                    page.damaged.push((seq, seq));
                    continue;
                }
                // What is before it can be read.
                Err(_) if !page.events.is_empty() => break,
                Err(error) => return Err(error),
            };
            bytes += event.json.len();
            if bytes > max_bytes && !page.events.is_empty() {
                break;
            }
            page.read_to = event.seq;
            page.events.push(event);
        }
        Ok(page)
    }

    /// Where a topic stands.
    pub(super) async fn topic(&self, topic: &Topic) -> Result<Option<Known>, StoreError> {
        let mut found = self.reading(self.load_topics(doc! { "_id": topic.as_str() })).await?;
        Ok(found.pop().map(|(_, known)| known))
    }

    pub(super) async fn tail(&self, topic: &Topic) -> Result<Option<Tail>, StoreError> {
        Ok(self.topic(topic).await?.map(|known| known.tail()))
    }

    pub(super) async fn topics(&self) -> Result<Vec<(Topic, Tail)>, StoreError> {
        let all = self.reading(self.load_topics(doc! {})).await?;
        Ok(all.into_iter().map(|(topic, known)| (topic, known.tail())).collect())
    }

    /// See [`Store::all_topics`](prom_store::Store::all_topics).
    pub(super) async fn all_topics(&self) -> Result<Vec<(Topic, Tail)>, StoreError> {
        let all = async {
            let mut session = self.session().await?;
            let find = self.topics.find(doc! { REMOVED: { "$exists": false } }).sort(doc! { "_id": 1 });
            let mut found = find.projection(doc! { "epoch": 1, "first": 1, "seq": 1 }).session(&mut session).await?;
            let mut topics = Vec::new();
            while found.advance(&mut session).await? {
                let document = found.current();
                let number = |name: &str| whole(document, name);
                let tail = Tail {
                    epoch: number("epoch").unwrap_or(0),
                    first: number("first").unwrap_or(1),
                    seq: number("seq").unwrap_or(0),
                };
                let name = document.get_str("_id").ok().and_then(|name| Topic::new(name).ok());
                topics.extend(name.map(|name| (name, tail)));
            }
            Ok(topics)
        };
        self.reading(all).await
    }

    /// Topics with events, in name order.
    pub(super) async fn load_topics(&self, filter: Document) -> Result<Vec<(Topic, Known)>, Error> {
        Ok(self.load_all(filter).await?.0)
    }

    /// The same, and behind them the topics that are being removed.
    pub(super) async fn load_all(&self, filter: Document) -> Result<(Vec<(Topic, Known)>, Vec<Topic>), Error> {
        let mut session = self.session().await?;
        let mut found = self.topics.find(filter).sort(doc! { "_id": 1 }).session(&mut session).await?;
        let (mut topics, mut going) = (Vec::new(), Vec::new());
        while found.advance(&mut session).await? {
            let document = found.current();
            let number = |name: &str| whole(document, name);
            let name = document.get_str("_id").ok().and_then(|name| Topic::new(name).ok());
            if document.get(REMOVED).is_ok_and(|removed| removed.is_some()) {
                going.extend(name);
                continue;
            }
            // With groups alone it is no topic yet.
            let (Some(name), Some(seq)) = (name, number("seq")) else { continue };
            let (epoch, first) = (number("epoch").unwrap_or(0), number("first").unwrap_or(1));
            let (max_ts, bytes) = (number("max_ts").unwrap_or(0), number("bytes").unwrap_or(0));
            let max_at = number("max_at").unwrap_or(0);
            let groups = document.get_i32("groups").unwrap_or(0);
            topics.push((name, Known { epoch, first, seq, max_ts, max_at, bytes, groups }));
        }
        Ok((topics, going))
    }

    pub(super) async fn seq_of(&self, topic: &Topic, id: &str) -> Result<Option<u64>, StoreError> {
        let find = self.events.find_one(doc! { "topic": topic.as_str(), "id": id }).projection(doc! { "seq": 1 });
        let found = async {
            let mut session = self.session().await?;
            find.session(&mut session).await
        };
        let Some(event) = self.reading(found).await? else { return Ok(None) };
        let Some(seq) = whole(&event, "seq") else { return Ok(None) };
        // It may have gone from the log and be there as the newest of its key.
        Ok(self.topic(topic).await?.filter(|known| known.first <= seq).map(|_| seq))
    }

    /// The greatest `ts` up to an event never falls from one to the next, so the first event at or after a time is found
    /// by halving, and needs no index of its own.
    pub(super) async fn seq_before_ts(&self, topic: &Topic, ts: u64) -> Result<u64, StoreError> {
        match self.topic(topic).await? {
            Some(known) => self.reading(self.find_ts(topic, known, ts)).await,
            None => Ok(0),
        }
    }

    /// The seq before the first event of a topic whose `ts` is at or after `ts`; its last when there is none.
    pub(super) async fn find_ts(&self, topic: &Topic, known: Known, ts: u64) -> Result<u64, Error> {
        if known.max_ts < ts || known.first > known.seq {
            return Ok(known.seq);
        }
        let (mut low, mut high) = (known.first, known.seq);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.times(topic, middle).await? {
                Some((_, max_ts)) if max_ts >= ts => high = middle,
                Some(_) => low = middle + 1,
                // Trimmed meanwhile.
                None => low = middle + 1,
            }
        }
        match self.times(topic, low).await? {
            Some((own, _)) if own >= ts => return Ok(low - 1),
            // What came before it and is gone was later than what is asked for: see who else is.
            Some(_) | None => {}
        }
        let filter = doc! { "topic": topic.as_str(), "seq": { "$gte": long(low) }, "ts": { "$gte": long(ts) } };
        let find = self.events.find_one(filter).sort(doc! { "seq": 1 }).projection(doc! { "seq": 1 });
        let found = find.max_time(READ_TIMEOUT).await?;
        let seq = found.and_then(|event| whole(&event, "seq"));
        Ok(seq.map_or(known.seq, |seq| seq - 1))
    }

    /// The first seq of a topic that was committed at `oldest` or later; the one behind its last when there is none.
    pub(super) async fn find_commit(&self, topic: &Topic, known: Known, oldest: u64) -> Result<u64, Error> {
        // Of a topic that an older hub wrote last, only its events know.
        if known.first > known.seq || (known.max_at > 0 && known.max_at < oldest) {
            return Ok(known.seq + 1);
        }
        let (mut low, mut high) = (known.first, known.seq + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            // The next one that is there: one may have been trimmed meanwhile, or been deleted by hand.
            let filter = doc! { "topic": topic.as_str(), "seq": { "$gte": long(middle), "$lt": long(high) } };
            let found = self.events.find_one(filter).sort(doc! { "seq": 1 }).projection(doc! { "seq": 1, "at": 1 });
            match found.max_time(READ_TIMEOUT).await? {
                Some(event) if whole(&event, "at").is_some_and(|at| at < oldest) => {
                    low = whole(&event, "seq").unwrap_or(middle) + 1;
                }
                // Also where nothing tells: what may be young stays.
                Some(_) | None => high = middle,
            }
        }
        Ok(low)
    }

    /// `ts` and greatest `ts` so far of the event at `seq`.
    async fn times(&self, topic: &Topic, seq: u64) -> Result<Option<(u64, u64)>, Error> {
        let filter = doc! { "topic": topic.as_str(), "seq": long(seq) };
        let find = self.events.find_one(filter).projection(doc! { "ts": 1, "max_ts": 1 });
        let found = find.await?;
        Ok(found.and_then(|event| Some((whole(&event, "ts")?, whole(&event, "max_ts")?))))
    }

    pub(super) async fn latest(&self, topic: &Topic, key: &str) -> Result<Option<Stored>, StoreError> {
        let filter = doc! { "topic": topic.as_str(), "key": key };
        let find = self.events.find_one(filter).sort(doc! { "seq": -1 });
        let found = async {
            let mut session = self.session().await?;
            find.session(&mut session).await
        };
        let found = self.reading(found).await?;
        // Without the rest of its log it may be one that a trim has yet to delete.
        let Some(event) = found else { return Ok(None) };
        let event = Stored::new(decode(&event)?);
        let from = self.latest_from(topic).await?;
        Ok(from.filter(|from| *from <= event.seq).map(|_| event))
    }

    /// The lowest seq that a newest event of this topic may have; none where there is no topic.
    async fn latest_from(&self, topic: &Topic) -> Result<Option<u64>, StoreError> {
        let compacts = self.options.retention.compacts(topic);
        Ok(self.topic(topic).await?.map(|known| if compacts { 0 } else { known.first }))
    }

    pub(super) async fn latest_page(
        &self,
        topic: &Topic,
        after: Option<&str>,
        at: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<LatestPage, StoreError> {
        let mut damaged = 0;
        let mut after: Option<Box<str>> = after.map(Into::into);
        loop {
            let (mut page, last) = self.look_at_latest(topic, after.as_deref(), at, limit, max_bytes).await?;
            page.damaged += damaged;
            // A reader goes on after the last event it has got, so a page of damaged ones alone is not given.
            match last {
                Some(last) if page.more && page.events.is_empty() => (damaged, after) = (page.damaged, Some(last)),
                _ => return Ok(page),
            }
        }
    }

    /// One page, and the last key it has looked at.
    async fn look_at_latest(
        &self,
        topic: &Topic,
        after: Option<&str>,
        at: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<(LatestPage, Option<Box<str>>), StoreError> {
        let Some(from) = self.latest_from(topic).await? else { return Ok((LatestPage::default(), None)) };
        let most = limit.saturating_add(1);
        let mut pipeline = newest_of_each_key(topic, after.map_or(doc! { "$gte": "" }, |key| doc! { "$gt": key }));
        pipeline.push(doc! { "$match": { "event.seq": { "$lte": long(at), "$gte": long(from) } } });
        if !self.jumps {
            pipeline.push(doc! { "$sort": { "_id": 1 } });
        }
        pipeline.push(doc! { "$limit": i64::try_from(most).unwrap_or(i64::MAX) });
        let fetch = u32::try_from(most).unwrap_or(u32::MAX).min(FETCH);
        let documents = async {
            let mut session = self.session().await?;
            let mut found = self.events.aggregate(pipeline).batch_size(fetch).session(&mut session).await?;
            let (mut documents, mut bytes): (Vec<RawDocumentBuf>, usize) = (Vec::new(), 0);
            while documents.len() < limit && (bytes < max_bytes || documents.is_empty()) {
                if !found.advance(&mut session).await? {
                    return Ok((documents, false));
                }
                bytes += found.current().as_bytes().len();
                documents.push(found.current().to_owned());
            }
            Ok((documents, found.advance(&mut session).await?))
        };
        let (documents, more) = self.reading(documents).await?;
        let mut page = LatestPage { events: Vec::with_capacity(documents.len()), more, damaged: 0 };
        let mut last = None;
        for document in documents {
            let event = document.get_document("event").map_err(|error| StoreError::Damaged(error.to_string()))?;
            last = document.get_str("_id").ok().map(Into::into);
            match decode(event) {
                Ok(event) => page.events.push(Stored::new(event)),
                Err(error) => {
                    tracing::warn!(%error, %topic, key = ?last, "the newest event of a key is left out of a snapshot");
                    page.damaged += 1;
                }
            }
        }
        Ok((page, last))
    }

    pub(super) async fn cursor(&self, topic: &Topic, group: &Group) -> Result<Option<Cursor>, StoreError> {
        let found = async {
            let mut session = self.session().await?;
            self.cursors.find_one(doc! { "_id": cursor::id(topic, group) }).session(&mut session).await
        };
        let Some(document) = self.reading(found).await? else { return Ok(None) };
        let found = cursor::decode(&document)?;
        if found.cursor.epoch != 0 && self.epoch(topic).await? != found.cursor.epoch {
            return Ok(None);
        }
        Ok(Some(self.resolve(topic, found).await?))
    }

    /// Which log a topic has; 0 if it has none. A position in another one was stored by a hub that did not know yet that the
    /// topic was removed, and is none.
    async fn epoch(&self, topic: &Topic) -> Result<u64, StoreError> {
        Ok(self.topic(topic).await?.map_or(0, |known| known.epoch))
    }

    /// The position; where it has no seq, that of the event it names, or the last before its time.
    async fn resolve(&self, topic: &Topic, found: cursor::Found) -> Result<Cursor, StoreError> {
        let mut cursor = found.cursor;
        if found.without_seq
            && let Some(id) = &cursor.last_id
        {
            cursor.floor = match self.seq_of(topic, id).await? {
                Some(seq) => seq,
                None => self.seq_before_ts(topic, cursor.last_ts.saturating_add(1)).await?,
            };
            cursor.delivered = cursor.floor;
        }
        Ok(cursor)
    }

    pub(super) async fn cursors(&self, topic: &Topic) -> Result<Vec<(Group, Cursor)>, StoreError> {
        let documents = async {
            let mut session = self.session().await?;
            let find = self.cursors.find(cursor::of_topic(topic)).sort(doc! { "_id": 1 });
            let mut found = find.session(&mut session).await?;
            let mut documents = Vec::new();
            while found.advance(&mut session).await? {
                documents.push(found.current().to_owned());
            }
            Ok(documents)
        };
        let mut cursors = Vec::new();
        let documents = self.reading(documents).await?;
        let epoch = if documents.is_empty() { 0 } else { self.epoch(topic).await? };
        for document in documents {
            // One that nobody can read does not hide the others.
            match cursor::decode(&document) {
                Ok(found) if found.cursor.epoch != 0 && found.cursor.epoch != epoch => {}
                Ok(found) => cursors.push((found.group.clone(), self.resolve(topic, found).await?)),
                Err(error) => self.retrying(&error.to_string()),
            }
        }
        Ok(cursors)
    }

    /// Whether the primary answers; if the last commit failed, whether it takes writes again as durably as it should.
    pub(super) async fn ready(&self) -> Result<(), String> {
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
        let ping = self.database.run_command(doc! { "ping": 1 }).selection_criteria(primary);
        match tokio::time::timeout(READY_TIMEOUT, async { ping.await }).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(reason(&error)),
            Err(_) => return Err("no primary of the replica set answers".into()),
        }
        if !self.failing.load(Ordering::SeqCst) {
            return Ok(());
        }
        let meta = self.database.collection::<Document>("meta");
        let write = meta.update_one(doc! { "_id": "written" }, doc! { "$currentDate": { "at": true } }).upsert(true);
        let write = write.write_concern(self.write_concern.clone());
        match tokio::time::timeout(READY_TIMEOUT, async { write.await }).await {
            Ok(Ok(_)) => {
                self.failing.store(false, Ordering::SeqCst);
                self.note_space();
                Ok(())
            }
            Ok(Err(error)) => Err(format!("commits fail: {}", reason(&error))),
            Err(_) => Err("commits fail: a write is not acknowledged by a majority".into()),
        }
    }
}

/// The newest event of each key, in key order: MongoDB jumps from key to key in the index and looks at nothing else. It
/// does so for a range of keys or a list of them; see [`jumps`].
pub(super) fn newest_of_each_key(topic: &Topic, keys: Document) -> Vec<Document> {
    vec![
        doc! { "$match": { "topic": topic.as_str(), "key": keys } },
        doc! { "$sort": { "key": 1, "seq": -1 } },
        doc! { "$group": { "_id": "$key", "event": { "$first": "$$ROOT" } } },
    ]
}

/// Whether MongoDB does jump from key to key, which gives them in order and lets it stop early.
pub(super) async fn jumps(database: &Database) -> Result<bool, Error> {
    // Rules decide that, not what is there, so any topic will do.
    let topic = Topic::new("t").map_err(Error::custom)?;
    let pipeline = newest_of_each_key(&topic, doc! { "$gte": "" });
    let explain = doc! {
        "explain": { "aggregate": "events", "pipeline": pipeline, "cursor": {} }, "verbosity": "queryPlanner",
    };
    let plan = database.run_command(explain).await?;
    Ok(plan.to_string().contains("DISTINCT_SCAN"))
}
