//! Exactly once: marks of what was handled, and the way a handler is guarded by them.
//!
//! ```text
//!   delivery ──► claim ──► handler ──► mark ──► ack
//!                  │          │ fails
//!                  │ marked   └──► release ──► nack
//!                  ├──► ack
//!                  │ held by somebody
//!                  └──► wait and claim again
//! ```

mod memory;
mod once;

use std::{sync::Arc, time::Duration};

pub use memory::MemoryDedupe;
pub(crate) use once::Once;

/// What became of a [`DedupeStore::claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The event is the holder's to handle.
    Granted,
    /// Somebody else is at it.
    Held,
    /// It was handled.
    Marked,
}

/// Remembers which events were handled, for consumers that must not handle one twice.
///
/// # What exactly once means
///
/// A hub delivers at least once: an event comes again when its acknowledgement got lost or its lease ended. With a store a
/// consumer marks an event after its handler has returned `Ok` and before it is acknowledged, and an event with a mark is
/// acknowledged without the handler. So **the handler is not called again once the mark is stored**, for as long as the
/// store keeps marks.
///
/// - A crash *between the effect and the mark* runs the handler again: the effect happens at least once. Only a mark that
///   is committed together with the effect closes that gap, for instance in one database transaction; see
///   `prom_outbox::MongoDedupe`.
/// - Two members can have the same event *at the same time*: the first lost its connection while its handler still runs,
///   and the hub gave the event to the second. A store that implements [`Self::claim`] keeps them apart: the second waits,
///   and then finds the mark, or takes over if the first failed or is gone. A claim lasts ten seconds (a shorter lease of
///   the subscription: as long as that) and is renewed at half of it while the handler runs; a member that cannot renew
///   for so long, because it is cut off from the store or its process stands still, loses its claim while its handler may
///   still run. With a store that only has `seen` and `mark`, both run.
/// - A store that forgets too early lets a late repeat through. Marks must live longer than a group may be behind plus the
///   time its events may be redelivered.
///
/// # Contract
///
/// - `scope` names the consumer, `id` the event: on a pattern it begins with the event's topic and `::`. Marks of different scopes have nothing to do with each other.
/// - `Ok` from [`Self::mark`] means that the mark is there to stay: a crash or a failover right after does not lose it
///   (as far as the store survives crashes at all).
/// - All of it may be called any number of times, also after a call that failed or was cancelled and may have come
///   through: nothing but the last state counts.
/// - Cancel safe: a dropped future did either all or nothing.
pub trait DedupeStore: Send + Sync + 'static {
    /// Why a call to the store failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Whether there is a mark.
    ///
    /// # Errors
    /// When the store cannot be reached: whether there is a mark is then not known.
    fn seen(&self, scope: &str, id: &str) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Marks the event as handled, whoever holds a claim on it, for as long as the store keeps marks.
    ///
    /// # Errors
    /// When the store cannot be reached: the mark may or may not be there.
    fn mark(&self, scope: &str, id: &str) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Takes the right to handle the event for `lease`, or renews it, atomically: as long as one holder's claim lasts no
    /// other gets one, and nobody gets one on an event that is marked. `holder` is different for each delivery.
    ///
    /// What is provided only looks for the mark, and keeps nobody apart.
    ///
    /// # Errors
    /// The claim may or may not have been taken.
    fn claim(
        &self,
        scope: &str,
        id: &str,
        holder: &str,
        lease: Duration,
    ) -> impl Future<Output = Result<Claim, Self::Error>> + Send {
        let (_, _) = (holder, lease);
        async { Ok(if self.seen(scope, id).await? { Claim::Marked } else { Claim::Granted }) }
    }

    /// Ends the claim of `holder`, if it has one, so that the next does not wait for its end.
    ///
    /// # Errors
    /// The claim lasts until its end.
    fn release(&self, scope: &str, id: &str, holder: &str) -> impl Future<Output = Result<(), Self::Error>> + Send {
        let (_, _, _) = (scope, id, holder);
        async { Ok(()) }
    }
}

/// A store that several subscriptions share.
impl<S: DedupeStore> DedupeStore for Arc<S> {
    type Error = S::Error;

    fn seen(&self, scope: &str, id: &str) -> impl Future<Output = Result<bool, Self::Error>> + Send {
        S::seen(self, scope, id)
    }

    fn mark(&self, scope: &str, id: &str) -> impl Future<Output = Result<(), Self::Error>> + Send {
        S::mark(self, scope, id)
    }

    fn claim(
        &self,
        scope: &str,
        id: &str,
        holder: &str,
        lease: Duration,
    ) -> impl Future<Output = Result<Claim, Self::Error>> + Send {
        S::claim(self, scope, id, holder, lease)
    }

    fn release(&self, scope: &str, id: &str, holder: &str) -> impl Future<Output = Result<(), Self::Error>> + Send {
        S::release(self, scope, id, holder)
    }
}
