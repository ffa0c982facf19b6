//! What all parts of a drainer work with.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::time::timeout;

use super::{options::Options, tally::Counts};
use crate::{OutboxStore, Publish, StoreError};

/// The store and the publisher of a drainer, its options and its counts.
pub(super) struct Context {
    pub(super) store: Arc<dyn OutboxStore>,
    pub(super) publisher: Arc<dyn Publish>,
    pub(super) options: Options,
    pub(super) counts: Counts,
}

impl Context {
    /// Runs a call of the store, for [`Options::store_timeout`] at most.
    pub(super) async fn limited<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let limit = self.options.store_timeout;
        let late = || StoreError::Unavailable(format!("the {} outbox did not answer in {limit:?}", self.store.name()));
        let result = timeout(limit, call).await.unwrap_or_else(|_| Err(late()));
        if result.is_err() {
            self.counts.store_errors.fetch_add(1, Relaxed);
        }
        result
    }
}
