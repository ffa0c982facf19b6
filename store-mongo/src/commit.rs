//! A commit is one transaction: the topics' counters, the cursors, the events.
//!
//! ```text
//!   plan (from what this hub knows) ──► update topics where they stand as known ──► cursors ──► insert events ──► commit
//!      ▲                                          │ moved                              id taken │          │ no answer
//!      └──── look up: where topics stand, which ids are taken ◄──────────────────────────────────────────┘
//! ```
//!
//! Counters are guessed, not read: a hub that writes a topic alone is always right, and saves a round trip per topic. Ids
//! are not looked up either: the unique index refuses the one batch in which one comes twice, which is then planned with
//! what stands there. That makes trying again safe too, when a commit's answer was lost.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mongodb::{
    ClientSession,
    bson::{Document, doc},
    error::{Error, ErrorKind, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
    options::{ReadConcern, ReadPreference, SelectionCriteria},
};
use prom_protocol::{Refusal, Topic, encode_event_position};
use prom_store::{Appended, Batch, Record, StoreError, new_id};

use crate::{
    Inner,
    cache::Known,
    connect::{code, reason},
    cursor,
    document::{long, whole},
    plan::{Inputs, Plan, Taken, cost},
};

/// Longest time one step of a transaction may take: a primary that hangs answers nothing.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Longest time to end a transaction that failed, before its session is given up too.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time for a commit behind one that failed.
const WHILE_FAILING: Duration = Duration::from_secs(5);
/// Longest time for a commit once the hub is ending.
const LONGEST_WHEN_ENDING: Duration = Duration::from_secs(3);
/// Most updates of one command, and their bytes: a command is a document of 16 MiB at most.
const UPDATES: usize = 1_000;
const UPDATE_BYTES: usize = 8 * 1024 * 1024;

/// Most topics whose ids are looked up at once.
const TOPICS: usize = 200;

const DUPLICATE_KEY: i32 = 11000;
const OUT_OF_DISK_SPACE: i32 = 14031;

/// Why an attempt did not commit.
#[derive(Debug)]
enum Failed {
    /// A topic does not stand where this hub thought.
    Moved,
    /// A position of another log is there, or one of no log any more is to be stored.
    Stale,
    /// An id is taken, or may be: what there is no room for may be there already.
    Taken,
    /// It may work the next time; nothing was written.
    Transient(String),
    /// It may be committed.
    Unknown(String),
    /// The server has no space for it.
    NoSpace(String),
    /// It will not work the next time either.
    Fatal(String),
}

impl Inner {
    pub(super) async fn commit(&self, batch: Batch) -> Result<Vec<Result<Appended, Refusal>>, StoreError> {
        if batch.appends.is_empty() && batch.cursors.is_empty() {
            return Ok(Vec::new());
        }
        let ending = async {
            self.hurry.cancelled().await;
            tokio::time::sleep(LONGEST_WHEN_ENDING).await;
        };
        let done = tokio::select! {
            done = self.try_until_done(batch) => done,
            () = ending => Err(unavailable("the hub is ending", true)),
        };
        self.failing.store(done.is_err(), Ordering::SeqCst);
        done
    }

    async fn try_until_done(&self, batch: Batch) -> Result<Vec<Result<Appended, Refusal>>, StoreError> {
        let ids: Vec<Arc<str>> =
            batch.appends.iter().map(|append| append.id.clone().unwrap_or_else(|| new_id(batch.now))).collect();
        // Not looked up yet.
        let mut taken: Option<Taken> = None;
        let mut unsure = HashMap::new();
        // Positions are guessed to be of the log that is there until one is not.
        let mut sure = true;
        // Whoever comes behind a commit that failed has waited for that one already.
        let patience = self.options.commit_deadline;
        let failing = self.failing.load(Ordering::SeqCst);
        let deadline = Instant::now() + if failing { patience.min(WHILE_FAILING) } else { patience };
        let mut pause = Duration::from_millis(1);
        loop {
            let failed = match self.attempt(&batch, &ids, taken.as_ref(), &unsure, sure, deadline).await {
                Ok(plan) => {
                    if plan.refused > 0 {
                        self.note_refused(plan.refused);
                    }
                    if !plan.events.is_empty() {
                        self.note_space();
                    }
                    return Ok(self.show(batch, plan).await);
                }
                Err((failed, plan)) => {
                    self.forget(&batch, plan.as_ref());
                    if let (Failed::Unknown(_), Some(plan)) = (&failed, plan) {
                        unsure.extend(plan.events.iter().map(|event| (event.append, event.seq)));
                    }
                    failed
                }
            };
            let why = match failed {
                Failed::Moved => None,
                Failed::Stale => {
                    sure = false;
                    None
                }
                Failed::Taken => {
                    match self.look_up(&batch, &ids, deadline).await {
                        Ok(found) => {
                            let news = taken.as_ref().is_none_or(|taken| count(&found) > count(taken));
                            taken = Some(found);
                            if news {
                                continue;
                            }
                            // Whoever had it is gone again, or it was a position that was taken.
                            None
                        }
                        Err(why) => Some(why),
                    }
                }
                Failed::Transient(why) => Some(why),
                Failed::Unknown(why) => {
                    self.retrying(&why);
                    match self.look_up(&batch, &ids, deadline).await {
                        Ok(found) => taken = Some(found),
                        Err(_) if Instant::now() < deadline => {}
                        Err(why) => return Err(unavailable(&why, true)),
                    }
                    Some(why)
                }
                Failed::NoSpace(why) => {
                    if !batch.appends.is_empty() {
                        self.note_no_space(&why);
                    }
                    return Err(unavailable(&why, false));
                }
                Failed::Fatal(why) => {
                    tracing::error!(why, "MongoDB refuses a commit");
                    return Err(unavailable(&why, false));
                }
            };
            if Instant::now() + pause >= deadline {
                return Err(unavailable(why.as_deref().unwrap_or("others write the same topics"), !unsure.is_empty()));
            }
            if let Some(why) = why {
                self.retrying(&why);
            }
            // Two hubs that write one topic must not meet again and again.
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Plans the batch and tries to commit that; with the plan, if it came to one.
    async fn attempt(
        &self,
        batch: &Batch,
        ids: &[Arc<str>],
        taken: Option<&Taken>,
        unsure: &HashMap<usize, u64>,
        sure: bool,
        deadline: Instant,
    ) -> Result<Plan, (Failed, Option<Plan>)> {
        let limit = soon(deadline);
        let (known, going, topics) = within(limit, self.known(batch)).await.map_err(|failed| (failed, None))?;
        let wanted = batch.appends.iter().zip(ids).map(|(append, id)| cost(append, id)).sum();
        let (trims, room) = within(limit, self.make_room(batch, wanted)).await.map_err(|failed| (failed, None))?;
        let cut: Vec<(Topic, u64)> = trims.iter().map(|(topic, to)| (topic.clone(), to.is.first)).collect();
        let plan = Plan::new(Inputs { batch, ids, known: &known, going: &going, taken, unsure, trims, room, topics });
        if plan.refused > 0 && taken.is_none() {
            return Err((Failed::Taken, Some(plan)));
        }
        match self.write(batch, &plan, sure, deadline).await {
            Ok(()) => {
                self.trimmed(cut).await;
                Ok(plan)
            }
            Err(failed) => Err((failed, Some(plan))),
        }
    }

    /// Where the topics of a batch stand, which of them are being removed, and how many topics there are.
    async fn known(&self, batch: &Batch) -> Result<(HashMap<Topic, Known>, HashSet<Topic>, usize), Error> {
        let mut known = HashMap::new();
        let mut unknown: BTreeSet<&Topic> = BTreeSet::new();
        let topics = {
            let cache = self.cache();
            for append in &batch.appends {
                if known.contains_key(&append.topic) {
                    continue;
                }
                match cache.known(&append.topic) {
                    Some(stand) => drop(known.insert(append.topic.clone(), stand)),
                    None => drop(unknown.insert(&append.topic)),
                }
            }
            cache.topics()
        };
        if unknown.is_empty() {
            return Ok((known, HashSet::new(), topics));
        }
        let names: Vec<&str> = unknown.into_iter().map(Topic::as_str).collect();
        let (there, going) = self.load_all(doc! { "_id": { "$in": names } }).await?;
        for (topic, stand) in there {
            self.cache().learn(&topic, stand);
            known.insert(topic, stand);
        }
        Ok((known, going.into_iter().collect(), topics))
    }

    /// Where the ids of a batch stand.
    async fn look_up(&self, batch: &Batch, ids: &[Arc<str>], deadline: Instant) -> Result<Taken, String> {
        within(soon(deadline), self.find_ids(batch, ids)).await.map_err(|failed| match failed {
            Failed::Transient(why) | Failed::Unknown(why) | Failed::NoSpace(why) | Failed::Fatal(why) => why,
            Failed::Moved | Failed::Stale | Failed::Taken => String::new(),
        })
    }

    async fn find_ids(&self, batch: &Batch, ids: &[Arc<str>]) -> Result<Taken, Error> {
        let mut wanted: BTreeMap<&Topic, Vec<&str>> = BTreeMap::new();
        for (append, id) in batch.appends.iter().zip(ids) {
            wanted.entry(&append.topic).or_default().push(id);
        }
        let each = |(topic, ids): (&Topic, Vec<&str>)| doc! { "topic": topic.as_str(), "id": { "$in": ids } };
        // What is in a log that goes is taken no more. Looked at before the events: who has none then may have them anew.
        let names: Vec<&str> = wanted.keys().map(|topic| topic.as_str()).collect();
        for topic in self.load_all(doc! { "_id": { "$in": names } }).await?.1 {
            wanted.remove(&topic);
        }
        let wanted: Vec<Document> = wanted.into_iter().map(each).collect();
        let mut taken = Taken::new();
        for some in wanted.chunks(TOPICS) {
            let found = self.events.find(doc! { "$or": some }).projection(doc! { "topic": 1, "id": 1, "seq": 1 });
            let mut found = found.await?;
            while found.advance().await? {
                let event = found.current();
                let topic = event.get_str("topic").ok().and_then(|name| Topic::new(name).ok());
                let (Some(topic), Ok(id), Some(seq)) = (topic, event.get_str("id"), whole(event, "seq")) else {
                    continue;
                };
                taken.entry(topic).or_default().insert(id.into(), seq);
            }
        }
        Ok(taken)
    }

    async fn write(&self, batch: &Batch, plan: &Plan, sure: bool, deadline: Instant) -> Result<(), Failed> {
        if plan.moves.is_empty() && batch.cursors.is_empty() {
            return Ok(());
        }
        // Always the same one: its next transaction ends the one before, should that have been left open by a step that was
        // given up.
        let mut own = self.writer.lock().await;
        let session = match &mut *own {
            Some(session) => session,
            None => own.insert(within(soon(deadline), async { self.client().start_session().await }).await?),
        };
        let done = self.transaction(session, batch, plan, sure, deadline).await;
        // So that the next attempt does not meet this one.
        if done.is_err() && tokio::time::timeout(ABORT_TIMEOUT, session.abort_transaction()).await.is_err() {
            *own = None;
        }
        done
    }

    async fn transaction(
        &self,
        session: &mut ClientSession,
        batch: &Batch,
        plan: &Plan,
        sure: bool,
        deadline: Instant,
    ) -> Result<(), Failed> {
        // Not what the URL says about reads: a transaction reads from the primary.
        let start = session.start_transaction().write_concern(self.write_concern.clone());
        let start = start.read_concern(ReadConcern::local());
        let start = start.selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        within(soon(deadline), async { start.await }).await?;
        self.move_topics(session, plan, deadline).await?;
        self.put_cursors(session, batch, sure, deadline).await?;
        if !plan.documents.is_empty() {
            // A copy of pointers; the driver serialises them on the way out.
            let insert = self.events.insert_many(&plan.documents).ordered(true).session(&mut *session);
            within(soon(deadline), async { insert.await.map(drop) }).await?;
        }
        // A commit without an answer is sent again, to the next primary if need be: the server knows whether it was done.
        let mut lost = false;
        loop {
            let unknown = match tokio::time::timeout_at(soon(deadline).into(), session.commit_transaction()).await {
                Ok(Ok(())) => {
                    self.committed_at(session.operation_time());
                    return Ok(());
                }
                Ok(Err(error)) if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => reason(&error),
                // Only this error means that nothing was done, and only if no earlier answer was lost.
                Ok(Err(error)) if error.contains_label(TRANSIENT_TRANSACTION_ERROR) && !lost => {
                    return Err(Failed::Transient(reason(&error)));
                }
                Ok(Err(error)) => return Err(Failed::Unknown(reason(&error))),
                Err(_) => "no answer to a commit".into(),
            };
            if Instant::now() >= deadline {
                return Err(Failed::Unknown(unknown));
            }
            lost = true;
            self.retrying(&unknown);
            tokio::time::sleep(LONGEST_PAUSE).await;
        }
    }

    /// Moves the topics from where they are thought to stand.
    async fn move_topics(&self, session: &mut ClientSession, plan: &Plan, deadline: Instant) -> Result<(), Failed> {
        let mut updates = Vec::with_capacity(plan.moves.len());
        for (topic, to) in &plan.moves {
            let is = to.is;
            let fields = doc! {
                "epoch": long(is.epoch), "first": long(is.first), "seq": long(is.seq), "max_ts": long(is.max_ts), "max_at": long(is.max_at),
                "bytes": long(is.bytes),
            };
            let update = match to.was {
                Some(was) => doc! { "q": was.still(topic, is.first > was.first), "u": { "$set": fields } },
                // It may be there with groups alone.
                None => doc! {
                    "q": { "_id": topic.as_str(), "seq": { "$exists": false } },
                    "u": { "$set": fields },
                    "upsert": true,
                },
            };
            updates.push((update, 0));
        }
        let done = self.update("topics", updates, session, deadline).await?;
        if done.matched == plan.moves.len() { Ok(()) } else { Err(Failed::Moved) }
    }

    /// `sure`: they are of the logs that are there, but for what is then found to be of another one.
    async fn put_cursors(
        &self,
        session: &mut ClientSession,
        batch: &Batch,
        sure: bool,
        deadline: Instant,
    ) -> Result<(), Failed> {
        // The last of each group counts.
        let mut last = BTreeMap::new();
        for put in &batch.cursors {
            last.insert((put.topic.as_str(), put.group.as_str()), put);
        }
        if !sure {
            let names = last.values().map(|put| put.topic.as_str()).collect();
            let epochs = within(soon(deadline), self.epochs(names, session)).await?;
            last.retain(|(topic, _), put| put.cursor.epoch == 0 || epochs.get(*topic) == Some(&put.cursor.epoch));
        }
        let updates = last.values().map(|put| {
            let (id, cursor) = cursor::encode(put);
            let mut own = doc! { "_id": id };
            if sure && put.cursor.epoch != 0 {
                own.insert("epoch", cursor::of_log(put.cursor.epoch));
            }
            // A number in a BSON array takes about three times as much.
            (doc! { "q": own, "u": { "$set": cursor }, "upsert": true }, put.cursor.bytes() * 3)
        });
        let done = self.update("cursors", updates.collect(), session, deadline).await;
        let done = done.map_err(|failed| if matches!(failed, Failed::Moved) { Failed::Stale } else { failed })?;
        // A group that begins meets a trim under way at its topic, so that one of them waits for the other.
        let last: Vec<_> = last.into_values().collect();
        let begun: BTreeSet<&str> =
            done.created.into_iter().filter_map(|index| last.get(index).map(|put| put.topic.as_str())).collect();
        let updates = begun
            .into_iter()
            .map(|topic| (doc! { "q": { "_id": topic }, "u": { "$inc": { "groups": 1 } }, "upsert": true }, 0));
        self.update("topics", updates.collect(), session, deadline).await.map(drop)
    }

    /// The logs that topics have, as the transaction sees them; one that is being removed has none.
    async fn epochs(&self, names: BTreeSet<&str>, session: &mut ClientSession) -> Result<HashMap<String, u64>, Error> {
        let names: Vec<&str> = names.into_iter().collect();
        let find = self.topics.find(doc! { "_id": { "$in": names } }).projection(doc! { "epoch": 1 });
        let mut found = find.session(&mut *session).await?;
        let mut epochs = HashMap::new();
        while found.advance(session).await? {
            let document = found.current();
            if let (Ok(name), Some(epoch)) = (document.get_str("_id"), whole(document, "epoch")) {
                epochs.insert(name.to_owned(), epoch);
            }
        }
        Ok(epochs)
    }

    /// Many updates in few commands, in the transaction. Each has about so many bytes beside its names.
    async fn update(
        &self,
        collection: &str,
        mut updates: Vec<(Document, usize)>,
        session: &mut ClientSession,
        deadline: Instant,
    ) -> Result<Updated, Failed> {
        let mut all = Updated::default();
        let mut before = 0;
        while !updates.is_empty() {
            let mut bytes = 0;
            let fit = updates.iter().take_while(|(_, more)| {
                bytes += more;
                bytes <= UPDATE_BYTES
            });
            let count = fit.take(UPDATES).count().max(1);
            let some: Vec<Document> = updates.drain(..count).map(|(update, _)| update).collect();
            let command = doc! { "update": collection, "updates": some, "ordered": true };
            let run = self.database.run_command(command).session(&mut *session);
            let done = within(soon(deadline), async { run.await }).await?;
            match done.get_array("writeErrors").ok().and_then(|errors| errors.first()?.as_document()) {
                // A topic that was not there before is there now.
                Some(error) if error.get_i32("code").is_ok_and(|code| code == DUPLICATE_KEY) => {
                    return Err(Failed::Moved);
                }
                Some(error) => return Err(Failed::Fatal(format!("update of {collection} failed: {error}"))),
                None => {}
            }
            all.matched += done.get_i32("n").ok().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            let created = done.get_array("upserted").into_iter().flatten();
            let created = created.filter_map(|created| created.as_document()?.get_i32("index").ok());
            all.created.extend(created.filter_map(|index| usize::try_from(index).ok()).map(|index| before + index));
            before += count;
        }
        Ok(all)
    }

    /// Makes a commit visible to readers in this hub, and gives the outcomes.
    async fn show(&self, batch: Batch, plan: Plan) -> Vec<Result<Appended, Refusal>> {
        let Plan { outcomes, moves, events, .. } = plan;
        let mut events = events.into_iter().peekable();
        // By topic, in the order of their seqs.
        let mut runs: HashMap<Topic, Vec<_>> = HashMap::new();
        let mut bytes = 0;
        for (index, append) in batch.appends.into_iter().enumerate() {
            let Some(event) = events.next_if(|event| event.append == index) else { continue };
            let Some(Ok(appended)) = outcomes.get(index) else { continue };
            bytes += cost(&append, &appended.id);
            let mut json = Vec::with_capacity(append.body.len() + appended.id.len() + 64);
            encode_event_position(&mut json, &appended.id, event.seq, event.ts);
            json.extend_from_slice(&append.body);
            let id = appended.id.clone();
            let record = Arc::new(Record { id, seq: event.seq, ts: event.ts, key: append.key, json: json.into() });
            match runs.get_mut(&append.topic) {
                Some(run) => run.push(record),
                None => drop(runs.insert(append.topic, vec![record])),
            }
        }
        let mut cache = self.cache();
        for (topic, to) in &moves {
            cache.learn(topic, to.is);
        }
        for (topic, run) in runs {
            cache.push(&topic, run);
        }
        drop(cache);
        self.grow(bytes);
        outcomes
    }

    /// Whatever was guessed is read before the next attempt.
    fn forget(&self, batch: &Batch, plan: Option<&Plan>) {
        let mut cache = self.cache();
        for append in &batch.appends {
            cache.forget(&append.topic);
        }
        for topic in plan.into_iter().flat_map(|plan| plan.moves.keys()) {
            cache.forget(topic);
        }
    }
}

/// How many ids were found.
fn count(taken: &Taken) -> usize {
    taken.values().map(HashMap::len).sum()
}

/// What updates did.
#[derive(Debug, Default)]
struct Updated {
    matched: usize,
    /// Which of them made a document.
    created: Vec<usize>,
}

/// When a step that begins now is given up.
fn soon(deadline: Instant) -> Instant {
    (Instant::now() + STEP_TIMEOUT).min(deadline)
}

/// One step, within its time.
async fn within<T>(limit: Instant, step: impl Future<Output = Result<T, Error>>) -> Result<T, Failed> {
    match tokio::time::timeout_at(limit.into(), step).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(Failed::Transient("it does not answer".into())),
    }
}

/// What an error of a step before the commit means.
fn failed(error: &Error) -> Failed {
    match &*error.kind {
        ErrorKind::InsertMany(insert) => match insert.write_errors.as_ref().and_then(|errors| errors.first()) {
            Some(first) if first.code == DUPLICATE_KEY => return Failed::Taken,
            Some(first) if first.code == OUT_OF_DISK_SPACE => return Failed::NoSpace(first.message.clone()),
            Some(first) => return Failed::Fatal(first.message.clone()),
            None => {}
        },
        ErrorKind::Command(_) if code(error) == Some(DUPLICATE_KEY) => return Failed::Taken,
        _ => {}
    }
    let passing = error.contains_label(TRANSIENT_TRANSACTION_ERROR)
        || matches!(
            &*error.kind,
            ErrorKind::Io(_) | ErrorKind::ServerSelection { .. } | ErrorKind::ConnectionPoolCleared { .. }
        )
        || code(error).is_some_and(|code| RETRYABLE.contains(&code));
    match code(error) {
        _ if passing => Failed::Transient(reason(error)),
        Some(OUT_OF_DISK_SPACE) => Failed::NoSpace(reason(error)),
        _ => Failed::Fatal(reason(error)),
    }
}

/// The server's codes for "not now": not primary, shutting down, interrupted, no such transaction.
const RETRYABLE: [i32; 17] = [6, 7, 50, 89, 91, 112, 133, 134, 189, 251, 262, 9001, 10107, 11600, 11602, 13435, 13436];

fn unavailable(why: &str, unknown: bool) -> StoreError {
    tracing::debug!(why, unknown, "a commit is given up");
    StoreError::Unavailable(if unknown {
        "the store did not answer in time; whether the event is stored is not known: publish it again with the same id"
            .into()
    } else {
        "the store cannot be written at the moment".into()
    })
}
