//! Claims rows, publishes them and writes back what became of them.
//!
//! ```text
//!   wake, poll, more ──► claim ──► batch: publish, settle ──┐     at most `in_flight` batches
//!          ▲               ▲                                │
//!          └── watch       └── pause while the hub is away ◄┘     cleanup: sent rows after the retention
//! ```
//!
//! All of it is one future: no task of its own outlives [`Drainer::run`]. `plan.rs` decides when to claim, `batch.rs`
//! publishes what was claimed and settles it.

mod batch;
mod context;
mod options;
mod plan;
mod tally;

use std::{
    fmt,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};

pub use options::Options;
pub use tally::Tally;

use self::{batch::Report, context::Context, options::Backoff, plan::Plan, tally::Counts};
use crate::{Claim, ClaimRequest, OutboxStore, Publish, StoreError};

/// How long giving rows back may take at the end.
const GIVING_BACK: Duration = Duration::from_secs(1);
/// How many sent rows are deleted by one call.
const CLEANUP: usize = 1000;
/// The pause between two deletions, so that they do not keep the database busy.
const CLEANUP_GAP: Duration = Duration::from_millis(20);

/// Publishes the rows of an outbox, for as long as it runs.
///
/// Any number of drainers may run on one outbox, in one process or many.
///
/// - A row that may be published later is tried again after 100 ms, then twice as long each time, up to 30 s. After
///   [`Options::max_attempts`] tries, or at once when it will never be published, it is parked as `error`; it holds its key
///   back until then, and other keys never. What is forbidden may be allowed later; what only timed out while other rows
///   were published is tried for as long as it takes.
/// - A batch that was not published in time is followed by smaller ones.
/// - While the hub cannot be reached nothing counts as a try: the drainer gives its rows back, waits and tries again.
/// - A drainer that dies leaves its rows claimed for [`Options::lease`] at most; then others publish them, with the same
///   ids.
pub struct Drainer {
    context: Context,
}

impl fmt::Debug for Drainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drainer")
            .field("store", &self.context.store)
            .field("options", &self.context.options)
            .finish_non_exhaustive()
    }
}

/// A piece of work that has ended.
enum Done {
    Claimed { since: Instant, beside_others: bool, result: Result<Claim, StoreError> },
    Batch(Report),
}

impl Drainer {
    /// A drainer of `store` that publishes by `publisher`.
    pub fn new(store: Arc<dyn OutboxStore>, publisher: Arc<dyn Publish>, options: Options) -> Self {
        Self { context: Context { store, publisher, options, counts: Counts::default() } }
    }

    /// Counts of what it has done since it was made.
    pub fn tally(&self) -> Tally {
        self.context.counts.read()
    }

    /// Drains until `cancel` is done. Then it claims nothing more, finishes what it has or gives it back, and returns: a
    /// second after [`Options::stop_within`] at the latest, whatever the store does.
    ///
    /// Rows it could not give back by then stay claimed until their leases end; so do all it has when the future is
    /// dropped instead, which is like killing the drainer.
    pub async fn run(&self, cancel: impl Future<Output = ()>) {
        let mut cancel = pin!(cancel);
        tokio::select! {
            () = &mut cancel => return,
            () = self.prepare() => {}
        }
        let (stop, stopped) = watch::channel(None);
        let wake = Notify::new();
        let mut watching = pin!(self.watch(&wake));
        let mut cleaning = pin!(self.clean());
        let mut work: FuturesUnordered<BoxFuture<'_, Done>> = FuturesUnordered::new();
        let mut plan = Plan::new(&self.context.options);
        let mut end: Option<Instant> = None;
        while !(end.is_some() && work.is_empty()) {
            let stopping = end.is_some();
            let may_claim = !stopping && plan.may_claim(&self.context.options);
            tokio::select! {
                biased;
                () = &mut cancel, if !stopping => {
                    let batches_end = Instant::now() + self.context.options.stop_within;
                    _ = stop.send(Some(batches_end));
                    end = Some(batches_end + GIVING_BACK);
                }
                () = sleep_until(end.unwrap_or_else(Instant::now)), if stopping => {
                    tracing::warn!(unfinished = work.len(), "the outbox did not answer in time; what is claimed runs out");
                    return;
                }
                Some(done) = work.next(), if !work.is_empty() => match done {
                    Done::Batch(report) => plan.settled(&report, self.context.options.batch),
                    Done::Claimed { since, result: Ok(claim), .. } if stopping => {
                        plan.in_flight += 1;
                        work.push(Box::pin(async move { Done::Batch(self.context.give_back(claim, since).await) }));
                    }
                    Done::Claimed { since, beside_others, result } => {
                        if let Some(claim) = plan.claimed(&self.context, since, beside_others, result) {
                            work.push(Box::pin(self.batch(claim, since, stopped.clone())));
                        }
                    }
                },
                () = wake.notified(), if !stopping => plan.wake(),
                () = sleep_until(plan.next), if may_claim => {
                    let beside_others = plan.begin();
                    work.push(Box::pin(self.claim(beside_others, plan.size)));
                }
                () = &mut watching, if !stopping => {}
                () = &mut cleaning, if !stopping => {}
            }
        }
    }

    async fn prepare(&self) {
        let mut backoff = Backoff::new(self.context.options.pause_first, self.context.options.pause_most);
        while let Err(error) = self.context.limited(self.context.store.prepare()).await {
            let wait = backoff.next();
            tracing::warn!(%error, ?wait, "the outbox cannot be prepared; trying again");
            sleep(wait).await;
        }
    }

    async fn claim(&self, beside_others: bool, limit: usize) -> Done {
        let since = Instant::now();
        let request = ClaimRequest {
            by: self.context.options.name.clone(),
            limit,
            max_bytes: self.context.options.max_bytes,
            lease: self.context.options.lease,
        };
        self.context.counts.claims.fetch_add(1, Relaxed);
        Done::Claimed { since, beside_others, result: self.context.limited(self.context.store.claim(&request)).await }
    }

    async fn batch(&self, claim: Claim, since: Instant, stopped: watch::Receiver<Option<Instant>>) -> Done {
        Done::Batch(self.context.publish(claim, since, stopped).await)
    }

    async fn watch(&self, wake: &Notify) {
        let mut backoff = Backoff::new(self.context.options.pause_first, self.context.options.backoff_most);
        loop {
            let since = Instant::now();
            let Err(error) = self.context.store.watch(wake).await;
            if since.elapsed() > self.context.options.backoff_most {
                backoff.reset();
            }
            let wait = backoff.next();
            tracing::debug!(%error, ?wait, "the outbox cannot be watched; it is polled");
            sleep(wait).await;
        }
    }

    async fn clean(&self) {
        let Some(retention) = self.context.options.retention else { return std::future::pending().await };
        loop {
            // A random part, so that drainers that started together do not clean at the same time.
            sleep(self.context.options.cleanup_every.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            loop {
                match self.context.limited(self.context.store.remove_sent(retention, CLEANUP)).await {
                    Ok(gone) => {
                        self.context.counts.removed.fetch_add(gone as u64, Relaxed);
                        if gone < CLEANUP {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "sent rows cannot be deleted from the outbox for now");
                        break;
                    }
                }
                sleep(CLEANUP_GAP).await;
            }
        }
    }
}
