//! Where a reader wants to start.

use prom_protocol::{ErrorCode, StartFrom, Topic, limits};

use super::{Failure, Params};
use crate::store::{Store, Tail};

/// A place in a log.
#[derive(Debug)]
pub(super) struct Start {
    /// Reading begins after it.
    pub(super) after: u64,
    /// First event that is retained.
    pub(super) first: u64,
    /// Last event.
    pub(super) last: u64,
}

impl Start {
    /// Events behind `after` that are gone: first and last seq.
    pub(super) fn gap(&self) -> Option<(u64, u64)> {
        (self.after + 1 < self.first).then(|| (self.after + 1, self.first - 1))
    }
}

/// What the parameters say. Without `from`, the position that is given counts, else the log's start.
pub(super) fn from(params: &Params<'_>) -> Result<StartFrom, Failure> {
    let seq = || params.integer("afterSeq", 0..=limits::TS_MAX);
    let ts = || params.integer("ts", 0..=limits::TS_MAX);
    let missing = |name: &str| Failure::bad(format!("{name} required"));
    match params.value("from")? {
        Some("earliest") => Ok(StartFrom::Earliest),
        Some("latest") => Ok(StartFrom::Latest),
        Some("ts") => ts()?.map(StartFrom::Ts).ok_or_else(|| missing("ts")),
        Some("afterId") => id(params)?.map(StartFrom::AfterId).ok_or_else(|| missing("afterId")),
        Some("afterSeq") => seq()?.map(StartFrom::AfterSeq).ok_or_else(|| missing("afterSeq")),
        Some(_) => Err(Failure::bad("from must be earliest, latest, ts, afterId or afterSeq")),
        None => Ok(match (seq()?, id(params)?, ts()?) {
            (Some(seq), ..) => StartFrom::AfterSeq(seq),
            (_, Some(id), _) => StartFrom::AfterId(id),
            (.., Some(ts)) => StartFrom::Ts(ts),
            (None, None, None) => StartFrom::Earliest,
        }),
    }
}

fn id(params: &Params<'_>) -> Result<Option<String>, Failure> {
    match params.value("afterId")? {
        Some(id) if id.len() > limits::KEY_BYTES => {
            Err(Failure::bad(format!("afterId must be 1 to {} bytes", limits::KEY_BYTES)))
        }
        id => Ok(id.map(str::to_owned)),
    }
}

/// Finds it in the log.
pub(super) async fn find(store: &dyn Store, topic: &Topic, from: &StartFrom) -> Result<Start, Failure> {
    let gone = |message: String| Failure::new(ErrorCode::PositionGone, message);
    let (first, last) = store.tail(topic).await?.map_or((1, 0), |Tail { first, seq, .. }| (first, seq));
    let after = match from {
        StartFrom::Earliest => first - 1,
        StartFrom::Ts(ts) => store.seq_before_ts(topic, *ts).await?,
        StartFrom::AfterId(id) => {
            store.seq_of(topic, id).await?.ok_or_else(|| gone("afterId is not in the log".into()))?
        }
        StartFrom::AfterSeq(seq) if *seq > last => {
            return Err(gone(format!("afterSeq is after the log's end, {last}")));
        }
        StartFrom::AfterSeq(seq) => *seq,
        _ => last,
    };
    Ok(Start { after, first, last })
}
