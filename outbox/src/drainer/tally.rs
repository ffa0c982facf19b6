//! What a drainer has done.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

macro_rules! tally {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What a drainer has done since it was made.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct Tally { $($(#[doc = $doc])+ pub $name: u64,)+ }

        #[derive(Debug, Default)]
        pub(super) struct Counts { $(pub(super) $name: AtomicU64,)+ }

        impl Counts {
            pub(super) fn read(&self) -> Tally {
                Tally { $($name: self.$name.load(Relaxed),)+ }
            }
        }
    };
}

tally! {
    /// Claims it asked for.
    claims,
    /// Rows it got.
    claimed,
    /// Rows of claims that had run out, found by its claims.
    requeued,
    /// Rows it published, duplicates included.
    published,
    /// Of these: those whose event was there.
    duplicates,
    /// Of these: those that no drainer had claimed before. Their ids may be those of other events.
    unexpected,
    /// Tries that failed and will be made again.
    retried,
    /// Rows it parked.
    parked,
    /// Rows it gave back untried, or without counting the try.
    released,
    /// Marks that were not made because the claim was lost.
    refused,
    /// Calls of the store that failed.
    store_errors,
    /// Batches that met a publisher that could not be reached.
    publisher_errors,
    /// Sent rows it deleted.
    removed,
}
