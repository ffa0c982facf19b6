//! The writer task: everything that is committed goes through it, in groups.
//!
//! While one commit is under way, requests queue up; the next commit takes all of them, up to a count and a byte limit,
//! so that one transaction or one `fdatasync` serves thousands of requests. Then it wakes the topics, then it answers.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use prom_protocol::{ErrorCode, Group, Refusal, Topic};
use prom_store::{Append, Appended, Batch, CursorPut, MAX_TOPICS, Store, StoreError, Tail, wall_clock};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    bounds::Limit,
    metrics::Metrics,
    room::{Fullness, Tell},
    topics::Topics,
};

/// Requests that may wait for the writer.
const QUEUE: usize = 1024;
/// Removals that may wait for the writer.
const REMOVALS: usize = 16;
/// Most events of one commit; the last request may go over it.
const BATCH_EVENTS: usize = 4096;
/// Most bytes of one commit; the last request may go over it.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long a request may wait for a place in the queue.
const ENQUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Least time between two log lines about commits that fail.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// How often a store that is full is looked at while nothing is committed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What became of each append of a request, in order.
pub(crate) type Outcomes = Vec<Result<Appended, Refusal>>;

/// A request to the writer. Its appends and cursors are committed together.
#[derive(Debug)]
pub(crate) struct Write {
    /// Events to append, in this order.
    pub appends: Vec<Append>,
    /// Cursors of groups to store.
    pub cursors: Vec<CursorPut>,
    /// Where the outcome goes.
    pub reply: Reply,
}

/// Where the outcome of a request goes.
#[derive(Debug)]
pub(crate) enum Reply {
    /// To one caller.
    Once(oneshot::Sender<Result<Outcomes, StoreError>>),
    /// To the queue of a caller with many requests, which are answered in the order they were made.
    Queue(Arc<dyn Answer>),
}

/// Takes the outcomes of requests.
pub(crate) trait Answer: fmt::Debug + Send + Sync {
    /// Takes the outcomes of the oldest request that is not answered. Must not wait, or the writer would.
    fn answer(&self, outcomes: Outcomes);
}

/// Something to be taken out of the log. Events and cursors that are queued when it is asked for may be committed before
/// or after.
#[derive(Debug)]
enum Removal {
    /// A topic; with its end: if it still ends there, and has no groups.
    Topic(Topic, Option<Tail>, oneshot::Sender<Result<bool, StoreError>>),
    /// Positions of groups in topics.
    Cursors(Vec<(Topic, Group)>, oneshot::Sender<Result<(), StoreError>>),
}

/// The way to the writer. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    writes: mpsc::Sender<Write>,
    removals: mpsc::Sender<Removal>,
}

impl Writer {
    /// Makes the writer of `store`: the way to it, and the task itself. The task ends when `over` is cancelled, after it has
    /// committed what has come by then, or when the last way to it is gone.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        topics: Arc<Topics>,
        metrics: Arc<Metrics>,
        over: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (writes, requests) = mpsc::channel(QUEUE);
        let (removals, wanted) = mpsc::channel(REMOVALS);
        (Self { writes, removals }, run(store, topics, metrics, requests, wanted, over))
    }

    /// Queues a request if there is room, else gives it back.
    ///
    /// # Errors
    /// The request, when the queue is full or the writer has ended.
    pub(crate) fn try_send(&self, write: Write) -> Result<(), Write> {
        self.writes.try_send(write).map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Waits for room in the queue, at most ten seconds; `None` when none came or the writer has ended. Keeps its place
    /// in the line for as long as the future lives.
    pub(crate) fn room(&self) -> impl Future<Output = Option<mpsc::OwnedPermit<Write>>> + Send + use<> {
        let sender = self.writes.clone();
        async move { tokio::time::timeout(ENQUEUE_TIMEOUT, sender.reserve_owned()).await.ok()?.ok() }
    }

    /// Commits and waits for the outcome.
    ///
    /// # Errors
    /// The store's error, or `Unavailable` when the queue stays full or the hub is ending.
    pub(crate) async fn commit(&self, appends: Vec<Append>, cursors: Vec<CursorPut>) -> Result<Outcomes, StoreError> {
        self.commit_if(|| Ok(appends), cursors).await
    }

    /// The same for events that `appends` gives once there is room for them in the queue. It may have been waited for long,
    /// and what was right before need not be so any more.
    ///
    /// # Errors
    /// What `appends` gives, and as [`Writer::commit`].
    pub(crate) async fn commit_if<E: From<StoreError>>(
        &self,
        appends: impl FnOnce() -> Result<Vec<Append>, E>,
        cursors: Vec<CursorPut>,
    ) -> Result<Outcomes, E> {
        let full = || StoreError::Unavailable("the hub has more to write than it can queue".into());
        let room = self.room().await.ok_or_else(full)?;
        let (reply, outcome) = oneshot::channel();
        room.send(Write { appends: appends()?, cursors, reply: Reply::Once(reply) });
        Ok(outcome.await.unwrap_or_else(|_| Err(ending()))?)
    }

    /// Removes a topic, tells its listeners, and answers whether there was one: see
    /// [`Store::remove_topic`](prom_store::Store::remove_topic).
    ///
    /// # Errors
    /// The store's error, or `Unavailable` when the hub is ending.
    pub(crate) async fn remove_topic(&self, topic: Topic, only: Option<Tail>) -> Result<bool, StoreError> {
        self.remove(|reply| Removal::Topic(topic, only, reply)).await
    }

    /// Removes the positions of groups in topics.
    ///
    /// # Errors
    /// As [`Writer::remove_topic`].
    pub(crate) async fn remove_cursors(&self, cursors: Vec<(Topic, Group)>) -> Result<(), StoreError> {
        self.remove(|reply| Removal::Cursors(cursors, reply)).await
    }

    async fn remove<T>(
        &self,
        removal: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Removal,
    ) -> Result<T, StoreError> {
        let (reply, outcome) = oneshot::channel();
        self.removals.send(removal(reply)).await.map_err(|_| ending())?;
        outcome.await.unwrap_or_else(|_| Err(ending()))
    }
}

fn ending() -> StoreError {
    StoreError::Unavailable("the hub is shutting down".into())
}

/// Takes something out of the log.
async fn remove(store: &dyn Store, topics: &Topics, removal: Removal) {
    match removal {
        Removal::Topic(topic, only, reply) => {
            let before = store.tail(&topic).await;
            let removed = store.remove_topic(&topic, only).await;
            let gone = match &removed {
                Ok(removed) => *removed,
                // Nobody knows, but for the log that is there.
                Err(_) => match (before, store.tail(&topic).await) {
                    (Ok(before), Ok(now)) => before.map(|tail| tail.epoch) != now.map(|tail| tail.epoch),
                    (Err(_), _) | (_, Err(_)) => true,
                },
            };
            // Before anybody can publish there again.
            if gone {
                topics.removed(&topic);
                if let (Err(_), Ok(Some(tail))) = (&removed, store.tail(&topic).await) {
                    topics.grown_elsewhere(&topic, tail.seq);
                }
            }
            let _ = reply.send(removed);
        }
        Removal::Cursors(cursors, reply) => drop(reply.send(store.remove_cursors(&cursors).await)),
    }
}

async fn run(
    store: Arc<dyn Store>,
    topics: Arc<Topics>,
    metrics: Arc<Metrics>,
    mut requests: mpsc::Receiver<Write>,
    mut removals: mpsc::Receiver<Removal>,
    over: CancellationToken,
) {
    let mut closed = false;
    // While commits fail: when the first of them did, and when the last log line about it was written.
    let mut failing: Option<(Instant, Instant)> = None;
    let mut room = Fullness::new();
    loop {
        let first = tokio::select! {
            first = requests.recv() => first,
            () = tokio::time::sleep(LOOK_EVERY), if room.is_full() => {
                look(&mut room, &*store, 0);
                continue;
            }
            Some(removal) = removals.recv() => {
                remove(&*store, &topics, removal).await;
                continue;
            }
            () = over.cancelled(), if !closed => {
                requests.close();
                removals.close();
                closed = true;
                continue;
            }
        };
        let Some(first) = first else { return };
        let mut batch = Batch { now: wall_clock(), ..Batch::default() };
        let mut replies = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(write) = next {
            bytes += write.appends.iter().map(|append| append.body.len()).sum::<usize>();
            bytes += write.cursors.iter().map(|put| put.cursor.bytes()).sum::<usize>();
            replies.push((write.reply, write.appends.len()));
            batch.appends.extend(write.appends);
            batch.cursors.extend(write.cursors);
            let full = batch.appends.len() >= BATCH_EVENTS || bytes >= BATCH_BYTES;
            next = if full { None } else { requests.try_recv().ok() };
        }
        let names: Vec<_> = batch.appends.iter().map(|append| append.topic.clone()).collect();
        let started = Instant::now();
        let committed = store.commit(batch).await;
        metrics.committed(names.len(), started.elapsed());
        match (&committed, &mut failing) {
            // On a full disk every commit fails: not a line each, which may go to the same disk.
            (Err(_), Some((_, logged))) if logged.elapsed() < LOG_EVERY => {}
            (Err(error), _) => {
                tracing::error!(%error, events = names.len(), "commit failed");
                failing = Some((failing.map_or(started, |(since, _)| since), Instant::now()));
            }
            // A commit of cursors alone may succeed on a full disk; only one with events shows that commits work again.
            (Ok(_), Some((since, _))) if !names.is_empty() => {
                tracing::info!(after_ms = since.elapsed().as_millis(), "commits go on");
                failing = None;
            }
            (Ok(_), _) => {}
        }
        let refused = |outcomes: &Outcomes| refused_with(outcomes, ErrorCode::StoreUnavailable);
        look(&mut room, &*store, committed.as_ref().map_or(names.len(), refused));
        // Before the answers: a client that has its answer and then subscribes must start behind that event.
        if let Ok(outcomes) = &committed {
            let without_topic = refused_with(outcomes, ErrorCode::Overloaded);
            metrics.bounds.reached(Limit::Topics, MAX_TOPICS, without_topic as u64);
            wake(&topics, &names, outcomes);
        }
        answer(replies, committed);
    }
}

/// How many events were refused with this code.
fn refused_with(outcomes: &Outcomes, code: ErrorCode) -> usize {
    outcomes.iter().filter(|outcome| outcome.as_ref().is_err_and(|refused| refused.code() == code)).count()
}

/// Says in the log that the store is full, and that it is not any more.
fn look(room: &mut Fullness, store: &dyn Store, refused: usize) {
    let full = store.full();
    match room.look(full.is_some(), if full.is_some() { refused as u64 } else { 0 }) {
        Some(Tell::Full(refused)) => {
            tracing::warn!(refused, reason = full, "the store is full: publishes are refused until there is room");
        }
        Some(Tell::Room(after, refused)) => {
            tracing::info!(after_ms = after.as_millis(), refused, "the store has room again");
        }
        None => {}
    }
}

/// Gives every request its share of the outcomes.
fn answer(replies: Vec<(Reply, usize)>, committed: Result<Outcomes, StoreError>) {
    let mut committed = committed.map(Vec::into_iter);
    for (reply, count) in replies {
        let outcome = match &mut committed {
            Ok(all) => Ok(all.by_ref().take(count).collect::<Outcomes>()),
            Err(error) => Err(error.clone()),
        };
        // The caller may be gone; the events are committed all the same.
        match reply {
            Reply::Once(sender) => drop(sender.send(outcome)),
            Reply::Queue(queue) => {
                queue.answer(outcome.unwrap_or_else(|error| vec![Err(Refusal::from(&error)); count]));
            }
        }
    }
}

/// Tells each topic's listeners how far it has grown. Runs of one topic are one call.
fn wake(topics: &Topics, names: &[Topic], outcomes: &Outcomes) {
    let mut grown: Option<(&Topic, u64)> = None;
    let mut events = 0;
    for (topic, outcome) in names.iter().zip(outcomes) {
        let Ok(Appended { seq, duplicate: false, .. }) = outcome else { continue };
        if let Some((last, tail)) = grown
            && last != topic
        {
            topics.grown(last, tail, std::mem::take(&mut events));
        }
        grown = Some((topic, *seq));
        events += 1;
    }
    if let Some((topic, tail)) = grown {
        topics.grown(topic, tail, events);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use prom_protocol::EventOptions;
    use prom_store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn one_topic_too_many_is_counted() {
        let (store, metrics) = (Arc::new(MemoryStore::new(1 << 30)), Arc::<Metrics>::default());
        let over = CancellationToken::new();
        let (writer, writing) = Writer::start(store, Arc::default(), Arc::clone(&metrics), over.clone());
        let writing = tokio::spawn(writing);
        let publish = async |topics: std::ops::Range<usize>| {
            let append = |n| Append::new(Topic::new(&format!("t.{n}")).unwrap(), &EventOptions::default(), "1");
            writer.commit(topics.map(append).collect(), Vec::new()).await.unwrap()
        };
        for from in (0..MAX_TOPICS).step_by(BATCH_EVENTS) {
            let outcomes = publish(from..MAX_TOPICS.min(from + BATCH_EVENTS)).await;
            assert!(outcomes.iter().all(Result::is_ok));
        }
        let counted = || {
            let mut text = String::new();
            metrics.bounds.render(&mut text);
            text.lines()
                .find_map(|line| line.strip_prefix("limited_total{limit=\"topics_of_hub\"} ")?.parse::<u64>().ok())
        };
        assert_eq!(counted(), Some(0));
        assert!(publish(MAX_TOPICS - 1..MAX_TOPICS + 2).await[1..].iter().all(Result::is_err));
        assert_eq!(counted(), Some(2));
        over.cancel();
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_written_is_asked_for_when_there_is_room_and_not_before() {
        // A token may expire, or be revoked, while its publish waits for the writer.
        let (writes, mut requests) = mpsc::channel(1);
        let (removals, _wanted) = mpsc::channel(1);
        let writer = Writer { writes, removals };
        let (reply, _) = oneshot::channel();
        writer.try_send(Write { appends: Vec::new(), cursors: Vec::new(), reply: Reply::Once(reply) }).unwrap();
        let asked = AtomicBool::new(false);
        let refuses = || {
            asked.store(true, Relaxed);
            Err(StoreError::Damaged("no".into()))
        };
        let mut commit = std::pin::pin!(writer.commit_if(refuses, Vec::new()));
        assert!(futures_util::poll!(&mut commit).is_pending());
        assert!(!asked.load(Relaxed));
        requests.recv().await.unwrap();
        commit.await.unwrap_err();
        assert!(asked.load(Relaxed));
        assert!(requests.try_recv().is_err(), "nothing of it is written, and its place is free again");
        assert!(writer.room().await.is_some());
    }
}
