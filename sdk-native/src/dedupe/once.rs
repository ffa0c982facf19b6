//! A handler that is called only for events without a mark.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    panic::{AssertUnwindSafe, resume_unwind},
    time::Duration,
};

use futures_util::FutureExt;

use crate::{Claim, DedupeStore, Stopping, handle::reason};

/// A claim lasts at most so long: how long others wait for a member that died.
const CLAIM: Duration = Duration::from_secs(10);
/// A store that takes longer for an answer is tried again.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);
/// Waits between two tries while the store fails: the first, doubling up to the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The same while somebody else is at the event.
const HELD: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Guards the events of one consumer.
pub(crate) struct Once<S> {
    store: S,
    scope: String,
    claim: Duration,
}

impl<S: DedupeStore> Once<S> {
    /// `lease`: that of the subscription.
    pub(crate) fn new(store: S, scope: String, lease: Duration) -> Self {
        Self { store, scope, claim: lease.min(CLAIM) }
    }

    /// Runs `handler` unless the event is marked, and marks it then. `Ok`: the event is to be acknowledged.
    pub(crate) async fn run(
        &self,
        id: &str,
        mut stopping: Stopping,
        handler: impl Future<Output = Result<(), String>>,
    ) -> Result<(), String> {
        let holder = holder();
        let mut wait = HELD.0;
        loop {
            let claim = || self.store.claim(&self.scope, id, &holder, self.claim);
            match insist("the event could not be claimed", &mut stopping, claim).await? {
                Claim::Granted => break,
                Claim::Marked => return Ok(()),
                Claim::Held if stopping.is_requested() => return Err("another member is at the event".to_owned()),
                Claim::Held => pause(&mut wait, HELD.1, &mut stopping).await,
            }
        }
        let handler = AssertUnwindSafe(handler).catch_unwind();
        let result = tokio::select! {
            biased;
            result = handler => result,
            () = self.renew(id, &holder) => unreachable!("renewing ends with the handler"),
        };
        if let Ok(Ok(())) = result {
            let mark = || self.store.mark(&self.scope, id);
            return insist("the event was handled and could not be marked", &mut stopping, mark).await;
        }
        // It is only to spare others the wait.
        if let Err(error) = attempt(self.store.release(&self.scope, id, &holder)).await {
            tracing::debug!(event = id, error, "a claim could not be released and lasts until its end");
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Keeps the claim, as well as the store allows.
    async fn renew(&self, id: &str, holder: &str) {
        loop {
            tokio::time::sleep(self.claim / 2).await;
            match attempt(self.store.claim(&self.scope, id, holder, self.claim)).await {
                Ok(Claim::Granted) => {}
                Ok(claim) => tracing::warn!(event = id, ?claim, "a handler runs on after its claim was lost"),
                Err(error) => tracing::warn!(event = id, error, "a claim could not be renewed"),
            }
        }
    }
}

/// Asks the store until it answers. Nothing is lost meanwhile: the lease of the delivery is extended. While the handling is
/// stopping it is asked once.
async fn insist<T, E: std::error::Error + 'static, Fut: Future<Output = Result<T, E>>>(
    what: &'static str,
    stopping: &mut Stopping,
    mut call: impl FnMut() -> Fut,
) -> Result<T, String> {
    let mut wait = RETRY.0;
    loop {
        let error = match attempt(call()).await {
            Ok(value) => return Ok(value),
            Err(error) => format!("{what}: {error}"),
        };
        if stopping.is_requested() {
            return Err(error);
        }
        tracing::warn!(error, "the dedupe store is asked again");
        pause(&mut wait, RETRY.1, stopping).await;
    }
}

/// Asks the store once, with the limit of time.
async fn attempt<T, E: std::error::Error + 'static>(call: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(STORE_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|error| reason(&error)),
        Err(_) => Err(format!("no answer of the dedupe store within {STORE_TIMEOUT:?}")),
    }
}

/// Waits, longer the next time, and no longer than until the handling is stopping.
async fn pause(wait: &mut Duration, longest: Duration, stopping: &mut Stopping) {
    tokio::select! {
        () = tokio::time::sleep(*wait) => {}
        () = stopping.requested() => {}
    }
    *wait = (*wait * 2).min(longest);
}

/// A name no other delivery has. The standard library keys its hash maps by the system's randomness.
fn holder() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}
