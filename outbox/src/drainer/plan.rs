//! When a drainer claims next, and how much.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use super::{
    batch::Report,
    context::Context,
    options::{Backoff, Options},
};
use crate::{Claim, StoreError};

/// First wait when all rows there are have keys that other drainers are publishing.
const BUSY: Duration = Duration::from_millis(20);
/// If a claim beside batches that are being published takes longer than this and brings few rows, the next ones wait
/// until the batches are done.
const SLOW_CLAIM: Duration = Duration::from_millis(100);
/// How many claims in a row wait in that way at most.
const APART: u32 = 64;

/// The state that decides when to claim next.
pub(super) struct Plan {
    claiming: bool,
    pub(super) in_flight: usize,
    pub(super) next: Instant,
    /// Rows were written after the claim that is under way began.
    woken: bool,
    /// The last claim left out rows because this drainer is publishing others of their keys: claim when a batch is done.
    again: bool,
    paused_until: Option<Instant>,
    publisher: Backoff,
    store: Backoff,
    busy: Backoff,
    /// How many more claims wait for the batches under way, and how many will after the next poor claim.
    apart: u32,
    apart_next: u32,
    /// Most rows of the next claim.
    pub(super) size: usize,
}

impl Plan {
    pub(super) fn new(options: &Options) -> Self {
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

    pub(super) fn may_claim(&self, options: &Options) -> bool {
        let room = if self.apart > 0 { 1 } else { options.in_flight.max(1) };
        !self.claiming && self.in_flight < room
    }

    /// A claim begins; returns whether batches are under way meanwhile.
    pub(super) fn begin(&mut self) -> bool {
        (self.claiming, self.woken) = (true, false);
        self.paused_until = None;
        self.in_flight > 0
    }

    pub(super) fn wake(&mut self) {
        self.woken = true;
        if self.paused_until.is_none() {
            self.next = Instant::now();
        }
    }

    /// A claim has ended; returns it if it has rows to publish.
    pub(super) fn claimed(
        &mut self,
        context: &Context,
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
                    // Perhaps it failed because it searched too long for keys that are not being published.
                    self.judge(true);
                }
                let wait = self.store.next();
                tracing::warn!(%error, ?wait, "rows of the outbox cannot be claimed; trying again");
                self.next = now + wait;
                return None;
            }
        };
        self.store.reset();
        let options = &context.options;
        context.counts.claimed.fetch_add(claim.rows.len() as u64, Relaxed);
        context.counts.requeued.fetch_add(claim.requeued as u64, Relaxed);
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
        // If a batch found the hub away while the claim was under way, the pause counts.
        self.next = self.paused_until.unwrap_or(now + wait);
        (!claim.rows.is_empty()).then_some(claim)
    }

    /// Remembers whether a claim beside batches was worth its time. If most rows have one key, such a claim searches the
    /// whole backlog for other keys.
    fn judge(&mut self, poor: bool) {
        if poor {
            self.apart = self.apart_next;
            self.apart_next = (self.apart_next * 2).min(APART);
        } else {
            self.apart_next = 1;
        }
    }

    pub(super) fn settled(&mut self, report: &Report, most: usize) {
        self.in_flight -= 1;
        if report.late {
            // The batch was too large to be published in time, so the next one is smaller.
            self.size = (self.size / 2).max(1);
        } else if report.published > 0 {
            self.size = self.size.saturating_mul(2).min(most.max(1));
        }
        let now = Instant::now();
        match &report.down {
            Some(down) => {
                // Several batches that fail together fail for the same reason: one pause is enough.
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
