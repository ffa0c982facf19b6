//! Where a reader wants to start.

use prom_protocol::{StartFrom, limits};

use crate::web::{Failure, Params};

/// What the parameters say. Without `from`, the position that is given counts, else the log's start.
pub(crate) fn from(params: &Params<'_>) -> Result<StartFrom, Failure> {
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
