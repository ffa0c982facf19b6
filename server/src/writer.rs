//! The writer task: everything that is committed goes through it, in groups.
//!
//! While one commit is under way, requests queue up; the next commit takes all of them, up to a count and a byte limit,
//! so that one transaction or one `fdatasync` serves thousands of requests. Then it wakes the topics, then it answers.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use prom_protocol::ErrorCode;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    store::{Append, Appended, Batch, CursorPut, Refused, Store, StoreError},
    topics::Topics,
};

/// Requests that may wait for the writer.
const QUEUE: usize = 1024;
/// Most events of one commit; the last request may go over it.
const BATCH_EVENTS: usize = 4096;
/// Most bytes of one commit; the last request may go over it.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long a request may wait for a place in the queue.
const ENQUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is said that commits fail.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// What became of each append of a request, in order.
pub type Outcomes = Vec<Result<Appended, Refused>>;

/// A request to the writer. Its appends and cursors are committed together.
#[derive(Debug)]
pub struct Write {
    /// Events.
    pub appends: Vec<Append>,
    /// Cursors.
    pub cursors: Vec<CursorPut>,
    /// Where the outcome goes.
    pub reply: Reply,
}

/// Where the outcome of a request goes.
#[derive(Debug)]
pub enum Reply {
    /// To one caller.
    Once(oneshot::Sender<Result<Outcomes, StoreError>>),
    /// To a connection, whose requests are answered in order.
    Connection(mpsc::UnboundedSender<crate::gateway::ToConnection>),
}

/// The way to the writer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Writer(mpsc::Sender<Write>);

impl Writer {
    /// Starts the writer of `store` and gives the way to it, with the task itself. It ends when it is told that all is
    /// `over`, after what has come by then, or when the last way to it is gone.
    pub fn start(
        store: Arc<dyn Store>,
        topics: Arc<Topics>,
        over: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (sender, requests) = mpsc::channel(QUEUE);
        (Self(sender), run(store, topics, requests, over))
    }

    /// Queues a request if there is room, else gives it back.
    ///
    /// # Errors
    /// The request, when the queue is full or the writer has ended.
    pub fn try_send(&self, write: Write) -> Result<(), Write> {
        self.0.try_send(write).map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Waits for room in the queue, at most ten seconds; `None` when none came or the writer has ended. Keeps its place
    /// in the line for as long as the future lives.
    pub fn room(&self) -> impl Future<Output = Option<mpsc::OwnedPermit<Write>>> + Send + use<> {
        let sender = self.0.clone();
        async move { tokio::time::timeout(ENQUEUE_TIMEOUT, sender.reserve_owned()).await.ok()?.ok() }
    }

    /// Commits and waits for the outcome.
    ///
    /// # Errors
    /// What the store says, or that the hub is overloaded or ending.
    pub async fn commit(&self, appends: Vec<Append>, cursors: Vec<CursorPut>) -> Result<Outcomes, StoreError> {
        let (reply, outcome) = oneshot::channel();
        let write = Write { appends, cursors, reply: Reply::Once(reply) };
        match self.room().await {
            Some(permit) => drop(permit.send(write)),
            None => return Err(StoreError::Unavailable("the hub has more to write than it can queue".into())),
        }
        outcome.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the hub is shutting down".into())))
    }
}

/// The hub's clock: milliseconds since the Unix epoch.
pub fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

async fn run(store: Arc<dyn Store>, topics: Arc<Topics>, mut requests: mpsc::Receiver<Write>, over: CancellationToken) {
    let mut closed = false;
    // Since when commits fail, and when that was last said.
    let mut failing: Option<(Instant, Instant)> = None;
    loop {
        let first = tokio::select! {
            first = requests.recv() => first,
            () = over.cancelled(), if !closed => {
                requests.close();
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
        topics.metrics().committed(names.len(), started.elapsed());
        match (&committed, &mut failing) {
            // On a full disk every commit fails: not a line each, which may go to the same disk.
            (Err(_), Some((_, said))) if said.elapsed() < SAY_EVERY => {}
            (Err(error), _) => {
                tracing::error!(%error, events = names.len(), "commit failed");
                failing = Some((failing.map_or(started, |(since, _)| since), Instant::now()));
            }
            // Positions may have room where events have none.
            (Ok(_), Some((since, _))) if !names.is_empty() => {
                tracing::info!(after_ms = since.elapsed().as_millis(), "commits go on");
                failing = None;
            }
            (Ok(_), _) => {}
        }
        // Before the answers: whoever has one, and subscribes, starts behind what was answered.
        if let Ok(outcomes) = &committed {
            wake(&topics, &names, outcomes);
        }
        answer(replies, committed);
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
        // Whoever asked may be gone; the events are committed all the same.
        match reply {
            Reply::Once(sender) => drop(sender.send(outcome)),
            Reply::Connection(sender) => {
                let outcomes = outcome.unwrap_or_else(|error| vec![Err(refusal(&error)); count]);
                drop(sender.send(crate::gateway::ToConnection::Published(outcomes)));
            }
        }
    }
}

/// How a store's error is told to a publisher.
pub fn refusal(error: &StoreError) -> Refused {
    Refused { code: ErrorCode::StoreUnavailable, message: error.told() }
}

/// Tells each topic's listeners how far it has grown. Runs of one topic are one call.
fn wake(topics: &Topics, names: &[prom_protocol::Topic], outcomes: &Outcomes) {
    let mut grown: Option<(&prom_protocol::Topic, u64)> = None;
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
