//! What every group needs of the hub.

use std::sync::Arc;

use prom_store::Store;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::flow::{metrics::Metrics, topics::Topics, writer::Writer};

/// What every group needs of the hub.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The log.
    pub store: Arc<dyn Store>,
    /// The topics.
    pub topics: Arc<Topics>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The way to the log.
    pub writer: Writer,
    /// Owner of the groups' tasks.
    pub tasks: TaskTracker,
    /// The hub has begun to end.
    pub ending: CancellationToken,
}
