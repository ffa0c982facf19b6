//! Why a store could not do what was asked.

use prom_protocol::{ErrorCode, Refusal};

/// Why a store could not do what was asked. Nothing of a commit is shown to readers then; it may turn out later to be
/// there whole, as after a crash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be reached or cannot write, for the moment.
    #[error("{0}")]
    Unavailable(String),
    /// What it holds is not what was written.
    #[error("{0}")]
    Damaged(String),
}

impl StoreError {
    /// The message for clients: without the places and names that only operators may see.
    pub fn told(&self) -> String {
        match self {
            Self::Unavailable(message) => message.clone(),
            Self::Damaged(_) => "the store cannot read what it has written; the hub's own log says more".into(),
        }
    }
}

impl From<&StoreError> for Refusal {
    fn from(error: &StoreError) -> Self {
        Self::new(ErrorCode::StoreUnavailable, error.told())
    }
}
