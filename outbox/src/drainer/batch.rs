//! Publishes the rows of one claim and settles them.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{context::Context, options::Backoff};
use crate::{Claim, Mark, OutboxEvent, Outcome, PublishError, RowId, Settle, store::short};

/// How much longer than its time limit a publisher is waited for.
const GRACE: Duration = Duration::from_millis(250);

/// The outcome of a batch.
pub(super) struct Report {
    pub(super) published: usize,
    /// Some rows were not published in time.
    pub(super) late: bool,
    /// The error of a publisher that could not be reached, for some of the rows at least.
    pub(super) down: Option<PublishError>,
    /// The time until the first of its rows is to be tried again.
    pub(super) due: Option<Duration>,
}

impl Report {
    fn due_after(&mut self, after: Duration) {
        self.due = Some(self.due.map_or(after, |due| due.min(after)));
    }
}

/// A row that becomes an event.
struct Part {
    id: RowId,
    attempts: u32,
    fresh: bool,
}

impl Context {
    pub(super) async fn publish(
        &self,
        claim: Claim,
        since: Instant,
        stopped: watch::Receiver<Option<Instant>>,
    ) -> Report {
        let mut marks = Vec::with_capacity(claim.rows.len());
        let (mut parts, mut events) = (Vec::new(), Vec::new());
        for row in claim.rows {
            match row.event {
                Ok(event) => {
                    parts.push(Part { id: row.id, attempts: row.attempts, fresh: row.fresh });
                    events.push(event);
                }
                Err(problem) => {
                    let error = format!("{}: {problem}", problem.code());
                    marks.push(self.park(row.id, &error, row.attempts));
                }
            }
        }
        let lease_end = since + self.options.lease;
        let mut report = Report { published: 0, late: false, down: None, due: None };
        if !events.is_empty() {
            let outcomes = self.outcomes(&events, lease_end, stopped).await;
            self.judge(parts, outcomes, &mut marks, &mut report);
        }
        if report.down.is_some() {
            self.counts.publisher_errors.fetch_add(1, Relaxed);
        }
        self.settle(claim.fence, &marks, lease_end).await;
        report
    }

    /// Publishes the events; an error if the publisher does not answer in time.
    async fn outcomes(
        &self,
        events: &[OutboxEvent],
        lease_end: Instant,
        mut stopped: watch::Receiver<Option<Instant>>,
    ) -> Result<Vec<Outcome>, PublishError> {
        let now = Instant::now();
        // Stops before the lease ends: whoever claims these rows next must not publish beside us.
        let last = lease_end - self.options.lease / 10;
        let until = (now + self.options.publish_timeout + GRACE).min(last);
        let within = until.saturating_duration_since(now).saturating_sub(GRACE);
        if within.is_zero() {
            return Err(PublishError::new("timeout", "the lease had run out before anything was published", true));
        }
        let stopping = async {
            // If the sender is gone, nobody stops us any more.
            let stop = stopped.wait_for(Option::is_some).await.ok().and_then(|stop| *stop);
            match stop {
                Some(stop) => sleep_until(stop).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outcomes = self.publisher.publish(events, within) => Ok(outcomes),
            () = sleep_until(until) => Err(PublishError::new("timeout", "the publisher did not answer in time", true)),
            () = stopping => Err(PublishError::new("shutting_down", "the drainer was stopped", true)),
        }
    }

    /// Decides for each row what becomes of it.
    fn judge(
        &self,
        parts: Vec<Part>,
        outcomes: Result<Vec<Outcome>, PublishError>,
        marks: &mut Vec<Mark>,
        report: &mut Report,
    ) {
        let mut outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => vec![Outcome::Failed(error); parts.len()],
        };
        let missing = || PublishError::new("unavailable", "the publisher did not say what became of an event", true);
        outcomes.resize_with(parts.len(), || Outcome::Failed(missing()));
        report.published = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Published(_))).count();
        self.counts.published.fetch_add(report.published as u64, Relaxed);
        let late = |outcome: &Outcome| matches!(outcome, Outcome::Failed(error) if error.code == "timeout");
        report.late = outcomes.iter().any(late);
        let mut unexpected = Vec::new();
        for (Part { id, attempts, fresh }, outcome) in parts.into_iter().zip(outcomes) {
            let settle = match outcome {
                Outcome::Published(published) => {
                    self.counts.duplicates.fetch_add(u64::from(published.duplicate), Relaxed);
                    if published.duplicate && fresh {
                        unexpected.push(id.clone());
                    }
                    Settle::Sent
                }
                // Held back by an earlier row of its key. If that waits, claims leave this one out; if that was parked,
                // this one is next.
                Outcome::Held => {
                    report.due_after(Duration::ZERO);
                    self.release()
                }
                Outcome::Failed(error) if error.permanent() => {
                    marks.push(self.park(id, &error.to_string(), attempts.saturating_add(1)));
                    continue;
                }
                // If other events of the batch were published, a timeout says nothing about the publisher.
                Outcome::Failed(error)
                    if error.of_publisher() && !(error.code == "timeout" && report.published > 0) =>
                {
                    report.down.get_or_insert(error);
                    self.release()
                }
                Outcome::Failed(error) => {
                    let mut attempts = attempts.saturating_add(1);
                    if error.code == "timeout" {
                        // The hub is slow, which is not the row's fault: it waits longer each time and is never parked.
                        attempts = attempts.min(self.options.max_attempts.saturating_sub(1));
                    } else if attempts >= self.options.max_attempts {
                        marks.push(self.park(id, &error.to_string(), attempts));
                        continue;
                    }
                    self.counts.retried.fetch_add(1, Relaxed);
                    let after = self.options.backoff(attempts).max(error.retry_after.unwrap_or_default());
                    report.due_after(after);
                    Settle::Retry { error: short(&error.to_string()), attempts, after }
                }
            };
            marks.push(Mark { id, settle });
        }
        if let Some(first) = unexpected.first() {
            self.counts.unexpected.fetch_add(unexpected.len() as u64, Relaxed);
            tracing::warn!(
                rows = unexpected.len(), %first,
                "the hub had events of these rows' ids before they were first claimed: if they are others, these are lost"
            );
        }
    }

    fn release(&self) -> Settle {
        self.counts.released.fetch_add(1, Relaxed);
        Settle::Released
    }

    fn park(&self, id: RowId, error: &str, attempts: u32) -> Mark {
        self.counts.parked.fetch_add(1, Relaxed);
        tracing::warn!(row = %id, %error, attempts, "a row of the outbox is parked");
        Mark { id, settle: Settle::Parked { error: short(error), attempts } }
    }

    /// Gives back the rows of a claim that ended after the drainer was told to stop.
    pub(super) async fn give_back(&self, claim: Claim, since: Instant) -> Report {
        let marks: Vec<_> = claim.rows.into_iter().map(|row| Mark { id: row.id, settle: self.release() }).collect();
        self.settle(claim.fence, &marks, since + self.options.lease).await;
        Report { published: 0, late: false, down: None, due: None }
    }

    /// Writes the marks, and tries again until the lease ends: a row that is published and not marked is published again.
    async fn settle(&self, fence: u64, marks: &[Mark], lease_end: Instant) {
        let mut backoff = Backoff::new(self.options.pause_first, self.options.pause_most);
        let mut first = true;
        loop {
            match self.limited(self.store.settle(fence, marks)).await {
                Ok(made) => {
                    let refused = marks.len().saturating_sub(made);
                    // If the answer to an earlier try was lost, that try may have written the marks: then this says nothing.
                    if first && refused > 0 {
                        self.counts.refused.fetch_add(refused as u64, Relaxed);
                        tracing::warn!(refused, "rows of the outbox were claimed by others before they were marked");
                    }
                    return;
                }
                Err(error) => {
                    let wait = backoff.next();
                    if Instant::now() + wait >= lease_end {
                        tracing::warn!(%error, rows = marks.len(), "rows of the outbox cannot be marked; their claim runs out");
                        return;
                    }
                    tracing::debug!(%error, ?wait, "rows of the outbox cannot be marked; trying again");
                    first = false;
                    sleep(wait).await;
                }
            }
        }
    }
}
