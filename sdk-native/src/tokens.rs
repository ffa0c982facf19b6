//! Where a client gets tokens.

use std::{pin::Pin, sync::Arc};

use tokio::task::JoinHandle;

use crate::BoxError;

type Asking = Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>;

/// The program's function that fetches a token.
#[derive(Clone)]
pub(crate) struct TokenSource(Arc<dyn Fn() -> Asking + Send + Sync>);

impl TokenSource {
    pub(crate) fn new<F, Fut>(provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, BoxError>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(provider())))
    }

    /// Calls it in a task of its own, so that neither slowness nor a panic of it reaches the caller.
    pub(crate) fn ask(&self) -> JoinHandle<Result<String, BoxError>> {
        let provider = Arc::clone(&self.0);
        tokio::spawn(async move { provider().await })
    }
}
