//! The answers of the ops port.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Bound,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, Response, StatusCode, Uri},
};
use prom_protocol::{Group, Topic, limits};
use prom_store::{Cursor, Store, StoreError, Stored, Tail};
use serde::Serialize;
use serde_json::json;

use super::{certificates, guard::Guard, key_sets, outboxes, revoked};
use crate::{
    flow::metrics::{Now, OfPort},
    members::outbox::{Drained, Report},
    node::Node,
    web::{CertificateFigures, Cut, Failure, JSON, Params, Sockets, answer, json},
};

/// Rows of a page where the request names no `limit`.
const LIMIT: u64 = 1000;
/// Most rows of a page.
const MAX_LIMIT: u64 = 10_000;
/// How long the store may take to show that it is there.
const READY_TIMEOUT: Duration = Duration::from_secs(4);

/// What the ops port needs of the hub.
#[derive(Debug)]
pub(crate) struct Ops {
    pub(crate) node: Arc<Node>,
    pub(crate) guard: Guard,
    pub(crate) outboxes: Arc<[Drained]>,
    /// Where the WebSocket is.
    pub(crate) address: SocketAddr,
    pub(crate) started: Instant,
    /// Those of the public port and of this one.
    pub(crate) sockets: [Arc<Sockets>; 2],
    /// Of the ports that speak TLS.
    pub(crate) certificates: Vec<Arc<CertificateFigures>>,
}

pub(super) type Answer = Result<Response<Body>, Failure>;

impl Ops {
    fn store(&self) -> &dyn Store {
        &*self.node.store
    }

    async fn outbox_reports(&self) -> Vec<Report<'_>> {
        futures_util::future::join_all(self.outboxes.iter().map(Drained::report)).await
    }
}

pub(super) async fn healthz(State(ops): State<Arc<Ops>>) -> Response<Body> {
    let uptime = u64::try_from(ops.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    json(
        StatusCode::OK,
        &json!({
            "status": "ok",
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "store": ops.store().name(),
            "durability": ops.store().durability(),
            "ws": ops.address.to_string(),
            "uptimeMs": uptime,
        }),
    )
}

pub(super) async fn readyz(State(ops): State<Arc<Ops>>) -> Response<Body> {
    let Some(reason) = not_ready(&ops).await else {
        return json(StatusCode::OK, &json!({ "status": "ready" }));
    };
    json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "unavailable", "reason": reason }))
}

async fn not_ready(ops: &Ops) -> Option<String> {
    if ops.node.ending.is_cancelled() {
        return Some("the hub is shutting down".into());
    }
    if let Some(reason) = ops.node.verifier.not_ready() {
        return Some(reason);
    }
    match tokio::time::timeout(READY_TIMEOUT, ops.store().ready()).await {
        Ok(Ok(())) => ops.store().full().map(|reason| format!("the store takes no events: {reason}")),
        Ok(Err(reason)) => Some(format!("the store cannot be read: {reason}")),
        Err(_) => Some("the store does not answer".into()),
    }
}

#[derive(Serialize)]
struct TopicRow {
    topic: Topic,
    first: u64,
    seq: u64,
    epoch: u64,
}

pub(super) async fn topics(State(ops): State<Arc<Ops>>, uri: Uri) -> Answer {
    let params = Params::of(&uri);
    let limit = limit(&params)?;
    let after = params.value("after")?.map(Topic::new).transpose()?;
    let all = ops.store().topics().await?;
    let begin = after.map_or(0, |after| all.partition_point(|(topic, _)| *topic <= after));
    let more = all.len() - begin > limit;
    let rows = all.into_iter().skip(begin).take(limit);
    let rows = rows.map(|(topic, Tail { epoch, first, seq })| TopicRow { topic, first, seq, epoch });
    let rows: Vec<_> = rows.collect();
    let next = rows.last().filter(|_| more).map(|row| row.topic.clone());
    Ok(json(StatusCode::OK, &json!({ "topics": rows, "next": next })))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupTopic {
    topic: Topic,
    last_seq: u64,
    lag_events: u64,
}

#[derive(Serialize)]
struct GroupRow {
    group: Group,
    topics: Vec<GroupTopic>,
}

/// Goes through the positions of all topics, but holds no more of them than it answers with.
pub(super) async fn groups(State(ops): State<Arc<Ops>>, uri: Uri) -> Answer {
    let params = Params::of(&uri);
    let limit = limit(&params)?;
    let after = params.value("after")?.map(Group::stored).transpose()?;
    let after = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut groups: BTreeMap<Group, Vec<GroupTopic>> = BTreeMap::new();
    for (topic, tail) in ops.store().all_topics().await? {
        for (group, cursor) in ops.store().cursors(&topic).await? {
            // The hub's own are there before anybody has published.
            let waits = tail.seq == 0 && group.is_reserved();
            if !cursor.is_retired() && !waits && std::ops::RangeBounds::contains(&(after, Bound::Unbounded), &group) {
                let lag_events = unsettled(&cursor, &tail);
                let row = GroupTopic { topic: topic.clone(), last_seq: cursor.floor, lag_events };
                groups.entry(group).or_default().push(row);
            }
        }
        // One more than the page holds, to know that there are more. What is dropped stands behind them all.
        while groups.len() > limit + 1 {
            groups.pop_last();
        }
        tokio::task::yield_now().await;
    }
    let more = groups.len() > limit;
    let rows: Vec<_> = groups.into_iter().take(limit).map(|(group, topics)| GroupRow { group, topics }).collect();
    let next = rows.last().filter(|_| more).map(|row| row.group.as_str().to_owned());
    Ok(json(StatusCode::OK, &json!({ "groups": rows, "next": next })))
}

pub(super) fn limit(params: &Params<'_>) -> Result<usize, Failure> {
    Ok(params.integer("limit", 1..=MAX_LIMIT)?.unwrap_or(LIMIT) as usize)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CursorRow {
    group: Group,
    last_id: Arc<str>,
    last_ts: u64,
    last_seq: u64,
    /// How many events above `lastSeq` are settled.
    #[serde(skip_serializing_if = "is_zero")]
    settled_above: u64,
    delivered: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

pub(super) async fn cursors(State(ops): State<Arc<Ops>>, uri: Uri) -> Answer {
    let topic = Params::of(&uri).topic()?;
    // A group that has settled nothing has a position all the same; those are under `/groups` and `/lag`.
    let cursors = ops.store().cursors(&topic).await?.into_iter().filter_map(|(group, cursor)| {
        Some(CursorRow {
            group,
            last_ts: cursor.last_ts,
            last_seq: cursor.floor,
            settled_above: settled_above(&cursor, cursor.floor, u64::MAX),
            delivered: cursor.delivered,
            last_id: cursor.last_id?,
        })
    });
    Ok(json(StatusCode::OK, &json!({ "topic": topic, "cursors": cursors.collect::<Vec<_>>() })))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LastCursor<'a> {
    last_id: &'a str,
    last_ts: u64,
    last_seq: u64,
}

/// `null` for what is not known: a group whose name was mistyped must not look like one that has caught up.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LagRow<'a> {
    topic: &'a Topic,
    group: &'a Group,
    last_cursor: Option<LastCursor<'a>>,
    /// The id of the newest event.
    tail: Option<&'a str>,
    tail_ts: Option<u64>,
    tail_seq: Option<u64>,
    lag_ms: Option<u64>,
    lag_events: Option<u64>,
}

pub(super) async fn lag(State(ops): State<Arc<Ops>>, uri: Uri) -> Answer {
    let params = Params::of(&uri);
    let (topic, group) = params.both("topic", "group")?;
    let (topic, group) = (Topic::new(topic)?, Group::stored(group)?);
    let store = ops.store();
    // In this order: a cursor is never ahead of a tail that is read after it.
    let cursor = store.cursor(&topic, &group).await?.filter(|cursor| !cursor.is_retired());
    let tail = store.tail(&topic).await?.filter(|tail| tail.seq > 0);
    let newest = match &tail {
        Some(tail) => event(store, &topic, tail.seq).await?,
        None => None,
    };
    let lag_events = cursor.as_ref().map(|cursor| tail.as_ref().map_or(0, |tail| unsettled(cursor, tail)));
    let lag_ms = match (&cursor, &newest) {
        (Some(_), Some(_)) if lag_events == Some(0) => Some(0),
        (Some(cursor), Some(newest)) => {
            Some(newest.ts.saturating_sub(reached(store, &topic, cursor).await?.unwrap_or(newest.ts)))
        }
        _ => None,
    };
    let last_cursor = cursor.as_ref().and_then(|cursor| {
        let last_id = cursor.last_id.as_deref()?;
        Some(LastCursor { last_id, last_ts: cursor.last_ts, last_seq: cursor.floor })
    });
    let row = LagRow {
        topic: &topic,
        group: &group,
        last_cursor,
        tail: newest.as_ref().map(|event| &*event.id),
        tail_ts: newest.as_ref().map(|event| event.ts),
        tail_seq: tail.map(|tail| tail.seq),
        lag_ms,
        lag_events,
    };
    Ok(json(StatusCode::OK, &row))
}

/// The `ts` up to which a group has settled. A group that has settled nothing yet began where its cursor is, so the event
/// there counts, or the next one if that is gone.
async fn reached(store: &dyn Store, topic: &Topic, cursor: &Cursor) -> Result<Option<u64>, StoreError> {
    if cursor.last_id.is_some() {
        return Ok(Some(cursor.last_ts));
    }
    let page = store.read(topic, cursor.floor.saturating_sub(1), 1, 1).await?;
    Ok(page.events.first().map(|event| event.ts))
}

async fn event(store: &dyn Store, topic: &Topic, seq: u64) -> Result<Option<Stored>, StoreError> {
    let page = store.read(topic, seq.saturating_sub(1), 1, 1).await?;
    Ok(page.events.into_iter().next().filter(|event| event.seq == seq))
}

/// How many events of the log a group has not settled.
pub(super) fn unsettled(cursor: &Cursor, tail: &Tail) -> u64 {
    let floor = cursor.floor.max(tail.first - 1);
    tail.seq.saturating_sub(floor).saturating_sub(settled_above(cursor, floor, tail.seq))
}

/// How many events above `floor` and up to `last` are settled.
fn settled_above(cursor: &Cursor, floor: u64, last: u64) -> u64 {
    let within = |(from, to): &(u64, u64)| (*to).min(last).saturating_sub((*from).max(floor + 1) - 1);
    cursor.settled.iter().map(within).sum()
}

pub(super) async fn latest_by_key(State(ops): State<Arc<Ops>>, uri: Uri) -> Answer {
    let params = Params::of(&uri);
    let (topic, key) = params.both("topic", "key")?;
    let topic = Topic::new(topic)?;
    if key.len() > limits::KEY_BYTES {
        return Err(Failure::bad(format!("key must be 1 to {} bytes", limits::KEY_BYTES)));
    }
    let event = ops.store().latest(&topic, key).await?;
    Ok(answer(StatusCode::OK, JSON, event.map_or(Body::from("null"), |event| event.json.clone().into())))
}

pub(super) async fn outbox(State(ops): State<Arc<Ops>>) -> Response<Body> {
    let reports = ops.outbox_reports().await;
    json(StatusCode::OK, &json!({ "outboxes": reports }))
}

pub(super) async fn metrics(State(ops): State<Arc<Ops>>) -> Response<Body> {
    let sockets = ops
        .sockets
        .each_ref()
        .map(|sockets| (sockets.port, sockets.open(), Cut::ALL.map(|why| (why.as_str(), sockets.count(why)))));
    let sockets = sockets.each_ref().map(|(port, open, cut)| OfPort { port, open: *open, cut });
    let now = Now {
        sockets: &sockets,
        connections: ops.node.connections.load(Ordering::Relaxed),
        store: ops.store().name(),
        durability: &ops.store().durability(),
        full: ops.store().full().is_some(),
    };
    let mut text = ops.node.metrics.render(&now);
    key_sets::render(&mut text, &ops.node.verifier.key_sets());
    ops.node.quotas.render(&mut text, &ops.node.metrics.bounds);
    certificates::render(&mut text, &ops.certificates);
    revoked::render(&mut text, ops.node.verifier.revocations().told_if_kept());
    outboxes::render(&mut text, &ops.outbox_reports().await);
    answer(StatusCode::OK, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_settled_above_the_floor_is_no_lag() {
        let tail = Tail { epoch: 1, first: 1, seq: 100 };
        let mut cursor = Cursor { floor: 10, settled: vec![(12, 12), (20, 29)], ..Cursor::default() };
        assert_eq!(unsettled(&cursor, &tail), 90 - 11);
        assert_eq!(
            unsettled(&cursor, &Tail { first: 25, ..tail }),
            76 - 5,
            "what is trimmed cannot be settled any more"
        );
        cursor.floor = 100;
        cursor.settled.clear();
        assert_eq!(unsettled(&cursor, &tail), 0);
        assert_eq!(unsettled(&cursor, &Tail { seq: 99, ..tail }), 0);
    }
}
