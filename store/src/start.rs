//! Where a reader that names a [`StartFrom`] begins in a topic.

use prom_protocol::{ErrorCode, Refusal, StartFrom, Topic};

use crate::{contract::Store, error::StoreError};

/// A place in a topic's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Identity of the log; 0 for a topic without events.
    pub epoch: u64,
    /// Reading begins with the event after this seq.
    pub after: u64,
    /// First seq that is retained; `last + 1` when nothing is.
    pub first: u64,
    /// Last seq that was committed; 0 when nothing was.
    pub last: u64,
}

impl Start {
    /// First and last seq of the events behind `after` that are gone, if any are.
    pub fn gap(&self) -> Option<(u64, u64)> {
        (self.after + 1 < self.first).then(|| (self.after + 1, self.first - 1))
    }
}

/// Why there is no such place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No event of that id is retained in this topic.
    #[error("opts.afterId is not in the log")]
    UnknownId,
    /// The log has not come that far, so it is not the log that the position is of.
    #[error("opts.afterSeq is after the log's end, {last}")]
    BeyondEnd {
        /// Last seq of the log.
        last: u64,
    },
    /// The store cannot tell.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<StartError> for Refusal {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => Self::from(&error),
            gone => Self::new(ErrorCode::PositionGone, gone.to_string()),
        }
    }
}

/// Finds the place that `from` means in `topic`. A snapshot begins where the log ends now: what was before is in the
/// newest event of each key.
///
/// # Errors
/// See [`StartError`].
pub async fn start(store: &dyn Store, topic: &Topic, from: &StartFrom) -> Result<Start, StartError> {
    let tail = store.tail(topic).await?;
    let (epoch, first, last) = tail.map_or((0, 1, 0), |tail| (tail.epoch, tail.first, tail.seq));
    let after = match from {
        StartFrom::Latest | StartFrom::Snapshot => last,
        StartFrom::Earliest => first - 1,
        StartFrom::AfterSeq(seq) if *seq > last => return Err(StartError::BeyondEnd { last }),
        StartFrom::AfterSeq(seq) => *seq,
        StartFrom::Ts(ts) => store.seq_before_ts(topic, *ts).await?,
        StartFrom::AfterId(id) => seq_of(store, topic, id).await?,
    };
    Ok(Start { epoch, after, first, last })
}

/// The seq after which [`start`] begins, alone: without a read of the topic's end where that does not matter.
///
/// # Errors
/// See [`StartError`].
pub async fn start_after(store: &dyn Store, topic: &Topic, from: &StartFrom) -> Result<u64, StartError> {
    match from {
        StartFrom::Ts(ts) => Ok(store.seq_before_ts(topic, *ts).await?),
        StartFrom::AfterId(id) => seq_of(store, topic, id).await,
        from => Ok(start(store, topic, from).await?.after),
    }
}

async fn seq_of(store: &dyn Store, topic: &Topic, id: &str) -> Result<u64, StartError> {
    store.seq_of(topic, id).await?.ok_or(StartError::UnknownId)
}
