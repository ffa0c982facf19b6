//! Work that one hub does for all: only while it holds the lease of that name.

use std::{sync::Arc, time::Duration};

use prom_store::Store;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// How long a lease is held, counted from the request that took or renewed it.
const TTL: Duration = Duration::from_secs(10);
/// How often a lease that is held is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How often a hub tries to take a lease that another hub has, or that the store could not give.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A lease that this hub may or may not have.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Arc<dyn Store>,
    name: &'static str,
}

impl Lease {
    /// The lease `name`, which this hub does not have yet.
    pub(crate) fn new(store: Arc<dyn Store>, name: &'static str) -> Self {
        Self { store, name }
    }

    /// Waits until this hub has it; until when, unless it is renewed.
    pub(crate) async fn taken(&self) -> Instant {
        let mut said = false;
        loop {
            let asked = Instant::now();
            match self.store.lease(self.name, TTL).await {
                Ok(true) => return asked + TTL,
                Ok(false) => {}
                Err(error) if !said => {
                    said = true;
                    tracing::warn!(%error, "waiting for the store");
                }
                Err(_) => {}
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// Renews it, and returns when another hub has it or may have it. A renewal counts from when it was requested, not from
    /// when it was answered.
    pub(crate) async fn lost(&self, mut until: Instant) {
        let mut next = until - TTL + RENEW_EVERY;
        loop {
            let renewal = async {
                sleep_until(next).await;
                (Instant::now(), self.store.lease(self.name, TTL).await)
            };
            match timeout_at(until, renewal).await {
                Ok((asked, Ok(true))) => {
                    until = asked + TTL;
                    next = asked + RENEW_EVERY;
                }
                Ok((_, Ok(false))) | Err(_) => return,
                Ok((_, Err(error))) => {
                    tracing::warn!(%error, "trying again");
                    next = Instant::now() + ASK_EVERY;
                }
            }
        }
    }

    /// Gives it back, if this hub has it.
    pub(crate) async fn release(&self) {
        self.store.release(self.name).await;
    }
}
