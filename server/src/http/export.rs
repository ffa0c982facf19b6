//! `GET /export`: a topic's events as a stream, read from the log at the pace of the client.
//!
//! Nothing is read ahead: the next page is read when the socket has taken most of the last one. So an export holds
//! about one page, whatever the topic's size and however slow its reader.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Extension, State},
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, Version},
};
use bytes::Bytes;
use prom_protocol::{StartFrom, Topic, limits};
use prom_store::start;

use super::{
    Http,
    holder::{Aborted, Holder},
    position,
    turns::Turn,
};
use crate::{
    node::Node,
    web::{Caller, Failure, JSON, Params, answer},
};

/// Header: the seq that the export ends at.
pub(super) const END: HeaderName = HeaderName::from_static("prom-end");
/// Header: first and last seq of what was gone before it began.
pub(super) const GAP: HeaderName = HeaderName::from_static("prom-gap");

/// Most events of one read.
const PAGE: usize = 512;
/// Most bytes of one read, but for a single larger event.
const PAGE_BYTES: usize = 64 * 1024;

pub(super) async fn export(
    State(http): State<Arc<Http>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let (access, token) = http.access(&caller, &headers).await?;
    if version < Version::HTTP_11 {
        // Where an abort looks like an end.
        return Err(Failure::status(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "an export needs HTTP/1.1"));
    }
    let params = Params::of(&uri);
    let topic = params.topic()?;
    http.check_may_read(&access, &topic)?;
    let ndjson = params.flag("ndjson")?;
    let from_ts = params.integer("fromTs", 0..=limits::TS_MAX)?;
    let to_ts = params.integer("toTs", 0..=limits::TS_MAX)?;
    let from = match (position::from(&params)?, from_ts) {
        (StartFrom::Earliest, Some(ts)) => StartFrom::Ts(ts),
        (from, _) => from,
    };
    // They may last long, so nobody waits for one to end.
    let turn = http.exports.take(token, Duration::ZERO).await?;
    let start = start(&*http.node.store, &topic, &from).await?;

    let export = Export {
        node: Arc::clone(&http.node),
        topic,
        epoch: start.epoch,
        // A gap before the first event is named in a header.
        after: start.after.max(start.first - 1),
        end: start.last,
        ts: (from_ts.unwrap_or(0), to_ts.unwrap_or(u64::MAX)),
        holder: Holder::new(&http.node, access),
        ndjson,
        begun: false,
        over: false,
        _turn: turn,
    };
    let chunks = futures_util::stream::unfold(export, async |mut export| {
        let chunk = export.next().await.transpose()?;
        export.over |= chunk.is_err();
        Some((chunk, export))
    });
    let content_type = if ndjson { HeaderValue::from_static("application/x-ndjson") } else { JSON };
    let mut response = answer(StatusCode::OK, content_type, Body::from_stream(chunks));
    response.headers_mut().insert(END, HeaderValue::from(start.last));
    if let Some((from, to)) = start.gap()
        && let Ok(gap) = HeaderValue::try_from(format!("{from}-{to}"))
    {
        response.headers_mut().insert(GAP, gap);
    }
    Ok(response)
}

#[derive(Debug)]
struct Export {
    node: Arc<Node>,
    topic: Topic,
    /// Identity of the log; 0: of one without events.
    epoch: u64,
    after: u64,
    /// Last seq of the log when the export began.
    end: u64,
    /// Least and largest `ts` that is wanted.
    ts: (u64, u64),
    holder: Holder,
    ndjson: bool,
    /// Something was sent.
    begun: bool,
    over: bool,
    _turn: Turn,
}

impl Export {
    /// What to send next; `None` after the last of it.
    async fn next(&mut self) -> Result<Option<Bytes>, Aborted> {
        let mut chunk = Vec::new();
        if self.over {
            return Ok(None);
        }
        if !self.ndjson && !self.begun {
            chunk.push(b'[');
        }
        while self.after < self.end {
            self.read(&mut chunk).await?;
            if chunk.len() > 1 {
                break;
            }
            // A filter may pass over much.
            tokio::task::yield_now().await;
        }
        if self.after >= self.end {
            self.over = true;
            if !self.ndjson {
                chunk.push(b']');
            }
        }
        Ok((!chunk.is_empty()).then(|| chunk.into()))
    }

    /// Reads one page.
    async fn read(&mut self, chunk: &mut Vec<u8>) -> Result<(), Aborted> {
        self.holder.check()?;
        let read = self.node.store.read(&self.topic, self.after, PAGE, PAGE_BYTES);
        let page = tokio::select! {
            biased;
            () = self.node.ending.cancelled() => return Err(Aborted("the hub is shutting down")),
            page = read => page.map_err(|error| {
                tracing::warn!(topic = %self.topic, %error, "export cannot read on");
                Aborted("the store cannot be read")
            })?,
        };
        if page.epoch != self.epoch {
            return Err(Aborted("the topic was removed"));
        }
        if page.first > self.after + 1 {
            return Err(Aborted("events were trimmed before they were exported"));
        }
        if page.read_to <= self.after {
            return Err(Aborted("the log ends too early"));
        }
        let bytes: usize = page.events.iter().map(|event| event.json.len() + 1).sum();
        chunk.reserve(bytes + 1);
        let wanted = page.events.iter().take_while(|event| event.seq <= self.end);
        for event in wanted.filter(|event| (self.ts.0..=self.ts.1).contains(&event.ts)) {
            if !self.ndjson && self.begun {
                chunk.push(b',');
            }
            self.begun = true;
            chunk.extend_from_slice(&event.json);
            if self.ndjson {
                chunk.push(b'\n');
            }
        }
        self.after = page.read_to;
        Ok(())
    }
}
