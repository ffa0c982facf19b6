//! `GET /replay`: one page of a topic's events.
//!
//! A page is made whole before it is sent, and is in memory until its reader has taken it. So there are so many at a time.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Extension, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header},
};
use bytes::Bytes;
use prom_store::start;

use super::{Http, holder::Holder, position, turns::Turn};
use crate::web::{Caller, Failure, JSON, Params, answer};

/// Events of a page where the request names no `limit`.
const LIMIT: u64 = 100;
/// Most events of a page.
const MAX_LIMIT: u64 = 1000;
/// Bytes of events beyond which a page ends early; it holds at least one event.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that are sent between two looks at whether the token still counts.
const PIECE: usize = 64 * 1024;
/// How long a page waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// A page, and its turn until all of it is sent.
struct Page {
    bytes: Vec<u8>,
    _turn: Turn,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pub(super) async fn replay(
    State(http): State<Arc<Http>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response<Body>, Failure> {
    let (access, token) = http.access(&caller, &headers).await?;
    let params = Params::of(&uri);
    let topic = params.topic()?;
    http.check_may_read(&access, &topic)?;
    let from = position::from(&params)?;
    let limit = params.integer("limit", 1..=MAX_LIMIT)?.unwrap_or(LIMIT) as usize;
    let turn = http.replays.take(token, PATIENCE).await?;

    let store = &*http.node.store;
    let mut start = start(store, &topic, &from).await?;
    let mut body = Vec::with_capacity(16 * 1024);
    body.extend_from_slice(b"\"events\":[");
    let (mut count, mut after) = (0, start.after);
    while count < limit && body.len() < MAX_BYTES {
        let page = store.read(&topic, after, limit - count, MAX_BYTES - body.len()).await?;
        if count == 0 {
            // What was trimmed since is part of the gap too.
            start.first = start.first.max(page.first);
        } else if page.first > after + 1 {
            // A page ends before events that are gone: the next one names them.
            break;
        }
        if page.events.is_empty() {
            // The last ones may have been given up by a repair.
            after = after.max(page.read_to);
            break;
        }
        for event in &page.events {
            if count > 0 {
                body.push(b',');
            }
            count += 1;
            body.extend_from_slice(&event.json);
        }
        after = page.read_to;
    }
    let last = store.tail(&topic).await?.map_or(0, |tail| tail.seq);
    let next = if after < last { after.to_string() } else { "null".into() };
    // A topic needs no escaping.
    let mut whole = format!("{{\"topic\":\"{topic}\",\"count\":{count},").into_bytes();
    whole.append(&mut body);
    whole.extend_from_slice(format!("],\"next\":{next}").as_bytes());
    if let Some((from, to)) = start.gap() {
        whole.extend_from_slice(format!(",\"gap\":{{\"from\":{from},\"to\":{to}}}").as_bytes());
    }
    whole.push(b'}');
    let (length, page) = (whole.len(), Bytes::from_owner(Page { bytes: whole, _turn: turn }));
    let holder = Holder::new(&http.node, access);
    // In pieces, so that it can end before its end, as its length shows.
    let pieces = futures_util::stream::unfold((page, holder), async |(mut rest, mut holder)| {
        if rest.is_empty() {
            return None;
        }
        let piece = holder.check().map(|()| rest.split_to(PIECE.min(rest.len())));
        if piece.is_err() {
            rest.clear();
        }
        Some((piece, (rest, holder)))
    });
    let mut response = answer(StatusCode::OK, JSON, Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}
