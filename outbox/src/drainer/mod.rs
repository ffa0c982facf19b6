//! Claims rows, publishes them, says what became of them.
//!
//! ```text
//!   wake, poll, more ──► claim ──► batch: publish, settle ──┐     at most `in_flight` batches
//!          ▲               ▲                                │
//!          └── watch       └── pause while the hub is away ◄┘     cleanup: sent rows after the retention
//! ```
//!
//! All of it is one future: no task of its own outlives [`Drainer::run`].

mod batch;
mod options;
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
    time::{Instant, sleep, sleep_until, timeout},
};

pub use options::Options;
pub use tally::Tally;

use self::{batch::Report, options::Backoff, tally::Counts};
use crate::{Claim, ClaimRequest, OutboxStore, Publish, StoreError};

/// First wait for keys that other drainers have.
const BUSY: Duration = Duration::from_millis(20);
/// A claim that takes longer while others of this drainer are under way, and brings little, is not worth making.
const SLOW_CLAIM: Duration = Duration::from_millis(100);
/// Most claims in a row that wait for those under way.
const APART: u32 = 64;
/// How long rows that are given back at the end have for it.
const GIVING_BACK: Duration = Duration::from_secs(1);
/// Rows deleted at once.
const CLEANUP: usize = 1000;
/// Between two deletions, so that they leave room for others.
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
    store: Arc<dyn OutboxStore>,
    publisher: Arc<dyn Publish>,
    options: Options,
    counts: Counts,
}

impl fmt::Debug for Drainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drainer").field("store", &self.store).field("options", &self.options).finish_non_exhaustive()
    }
}

/// What has come to its end.
enum Done {
    Claimed { since: Instant, beside_others: bool, result: Result<Claim, StoreError> },
    Batch(Report),
}

/// When to claim next, and why not now.
struct Plan {
    claiming: bool,
    in_flight: usize,
    next: Instant,
    /// Something was written since the claim under way began.
    woken: bool,
    /// Keys were busy with batches of ours: claim when one is done.
    again: bool,
    paused_until: Option<Instant>,
    publisher: Backoff,
    store: Backoff,
    busy: Backoff,
    /// Claims that are still to wait for the batches under way, and how many next time.
    apart: u32,
    apart_next: u32,
    /// Most rows of the next claim.
    size: usize,
}

impl Drainer {
    /// A drainer of `store` that publishes by `publisher`.
    pub fn new(store: Arc<dyn OutboxStore>, publisher: Arc<dyn Publish>, options: Options) -> Self {
        Self { store, publisher, options, counts: Counts::default() }
    }

    /// What it has done so far.
    pub fn tally(&self) -> Tally {
        self.counts.read()
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
        let mut plan = Plan::new(&self.options);
        let mut end: Option<Instant> = None;
        while !(end.is_some() && work.is_empty()) {
            let stopping = end.is_some();
            let may_claim = !stopping && plan.may_claim(&self.options);
            tokio::select! {
                biased;
                () = &mut cancel, if !stopping => {
                    let batches_end = Instant::now() + self.options.stop_within;
                    _ = stop.send(Some(batches_end));
                    end = Some(batches_end + GIVING_BACK);
                }
                () = sleep_until(end.unwrap_or_else(Instant::now)), if stopping => {
                    tracing::warn!(unfinished = work.len(), "the outbox did not answer in time; what is claimed runs out");
                    return;
                }
                Some(done) = work.next(), if !work.is_empty() => match done {
                    Done::Batch(report) => plan.settled(&report, self.options.batch),
                    Done::Claimed { since, result: Ok(claim), .. } if stopping => {
                        plan.in_flight += 1;
                        work.push(Box::pin(async move { Done::Batch(self.give_back(claim, since).await) }));
                    }
                    Done::Claimed { since, beside_others, result } => {
                        if let Some(claim) = plan.claimed(self, since, beside_others, result) {
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
        let mut backoff = Backoff::new(self.options.pause_first, self.options.pause_most);
        while let Err(error) = self.limited(self.store.prepare()).await {
            let wait = backoff.next();
            tracing::warn!(%error, ?wait, "the outbox cannot be prepared; trying again");
            sleep(wait).await;
        }
    }

    /// A call of the store that has an end.
    async fn limited<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let limit = self.options.store_timeout;
        let late = || StoreError::Unavailable(format!("the {} outbox did not answer in {limit:?}", self.store.name()));
        let result = timeout(limit, call).await.unwrap_or_else(|_| Err(late()));
        if result.is_err() {
            self.counts.store_errors.fetch_add(1, Relaxed);
        }
        result
    }

    async fn claim(&self, beside_others: bool, limit: usize) -> Done {
        let since = Instant::now();
        let request = ClaimRequest {
            by: self.options.name.clone(),
            limit,
            max_bytes: self.options.max_bytes,
            lease: self.options.lease,
        };
        self.counts.claims.fetch_add(1, Relaxed);
        Done::Claimed { since, beside_others, result: self.limited(self.store.claim(&request)).await }
    }

    async fn batch(&self, claim: Claim, since: Instant, stopped: watch::Receiver<Option<Instant>>) -> Done {
        Done::Batch(self.publish(claim, since, stopped).await)
    }

    async fn watch(&self, wake: &Notify) {
        let mut backoff = Backoff::new(self.options.pause_first, self.options.backoff_most);
        loop {
            let since = Instant::now();
            let Err(error) = self.store.watch(wake).await;
            if since.elapsed() > self.options.backoff_most {
                backoff.reset();
            }
            let wait = backoff.next();
            tracing::debug!(%error, ?wait, "the outbox cannot be watched; it is polled");
            sleep(wait).await;
        }
    }

    async fn clean(&self) {
        let Some(retention) = self.options.retention else { return std::future::pending().await };
        loop {
            // Drainers that started together do not clean together.
            sleep(self.options.cleanup_every.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            loop {
                match self.limited(self.store.remove_sent(retention, CLEANUP)).await {
                    Ok(gone) => {
                        self.counts.removed.fetch_add(gone as u64, Relaxed);
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

impl Plan {
    fn new(options: &Options) -> Self {
        Self {
            claiming: false,
            in_flight: 0,
            next: Instant::now(),
            woken: false,
            again: false,
            paused_until: None,
            publisher: Backoff::new(options.pause_first, options.pause_most),
            store: Backoff::new(options.pause_first, options.pause_most),
            busy: Backoff::new(BUSY, options.poll),
            apart: 0,
            apart_next: 1,
            size: options.batch.max(1),
        }
    }

    fn may_claim(&self, options: &Options) -> bool {
        let room = if self.apart > 0 { 1 } else { options.in_flight.max(1) };
        !self.claiming && self.in_flight < room
    }

    /// Answers whether batches are under way.
    fn begin(&mut self) -> bool {
        (self.claiming, self.woken) = (true, false);
        self.paused_until = None;
        self.in_flight > 0
    }

    fn wake(&mut self) {
        self.woken = true;
        if self.paused_until.is_none() {
            self.next = Instant::now();
        }
    }

    /// A claim has ended: what there is to publish.
    fn claimed(
        &mut self,
        drainer: &Drainer,
        since: Instant,
        beside_others: bool,
        result: Result<Claim, StoreError>,
    ) -> Option<Claim> {
        self.claiming = false;
        let now = Instant::now();
        let claim = match result {
            Ok(claim) => claim,
            Err(error) => {
                if beside_others {
                    // The search for keys that no batch of ours has may be what failed.
                    self.judge(true);
                }
                let wait = self.store.next();
                tracing::warn!(%error, ?wait, "rows of the outbox cannot be claimed; trying again");
                self.next = now + wait;
                return None;
            }
        };
        self.store.reset();
        let options = &drainer.options;
        drainer.counts.claimed.fetch_add(claim.rows.len() as u64, Relaxed);
        drainer.counts.requeued.fetch_add(claim.requeued as u64, Relaxed);
        if beside_others {
            self.judge(now.duration_since(since) > SLOW_CLAIM && claim.rows.len() < self.size / 4);
        } else {
            self.apart = self.apart.saturating_sub(1);
        }
        let mut wait = options.poll;
        if let Some(due) = claim.next_due {
            wait = wait.min(due);
        }
        if claim.rows.is_empty() {
            if claim.busy && self.in_flight == 0 {
                wait = wait.min(self.busy.next());
            }
        } else {
            self.busy.reset();
            self.in_flight += 1;
        }
        self.again |= claim.busy && self.in_flight > 0;
        if claim.more || self.woken {
            wait = Duration::ZERO;
        }
        // A batch may have paused us while the claim was under way.
        self.next = self.paused_until.unwrap_or(now + wait);
        (!claim.rows.is_empty()).then_some(claim)
    }

    /// Whether a claim beside others was worth its time. One hot key makes it search the whole backlog for other keys.
    fn judge(&mut self, poor: bool) {
        if poor {
            self.apart = self.apart_next;
            self.apart_next = (self.apart_next * 2).min(APART);
        } else {
            self.apart_next = 1;
        }
    }

    fn settled(&mut self, report: &Report, most: usize) {
        self.in_flight -= 1;
        if report.late {
            // What is too much for one publish is too much again next time.
            self.size = (self.size / 2).max(1);
        } else if report.published > 0 {
            self.size = self.size.saturating_mul(2).min(most.max(1));
        }
        let now = Instant::now();
        match &report.down {
            Some(down) => {
                // Batches that were under way together have met the same trouble.
                if self.paused_until.is_none() {
                    if report.published > 0 {
                        self.publisher.reset();
                    }
                    let wait = self.publisher.next().max(down.retry_after.unwrap_or_default());
                    tracing::warn!(error = %down, ?wait, "the outbox cannot be published; trying again");
                    self.paused_until = Some(now + wait);
                    self.next = now + wait;
                }
            }
            None => {
                self.publisher.reset();
                if self.paused_until.is_none() {
                    let again = std::mem::take(&mut self.again).then_some(Duration::ZERO);
                    if let Some(wait) = [again, report.due].into_iter().flatten().min() {
                        self.next = self.next.min(now + wait);
                    }
                }
            }
        }
    }
}
