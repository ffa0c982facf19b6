//! Topics and groups are removed. What would go can be looked at first, and nothing that somebody works with goes unless it is
//! asked for twice.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{StatusCode, Uri},
};
use prom_protocol::{ErrorCode, Group, Topic};
use serde_json::json;

use super::reads::{Answer, Ops, unsettled};
use crate::web::{Failure, Params, json};

/// How a removal is asked for.
struct Wanted {
    /// Only say what would go.
    dry_run: bool,
    /// Also what groups have members on.
    force: bool,
}

impl Wanted {
    fn of(params: &Params<'_>) -> Result<Self, Failure> {
        Ok(Self { dry_run: params.flag("dryRun")?, force: params.flag("force")? })
    }
}

/// `DELETE /topics/{topic}`.
pub(super) async fn topic(State(ops): State<Arc<Ops>>, Path(name): Path<String>, uri: Uri) -> Answer {
    let wanted = Wanted::of(&Params::of(&uri))?;
    let topic = Topic::new(&name)?;
    if topic.is_reserved() {
        return Err(own("topics"));
    }
    let node = &ops.node;
    let tail = node.store.tail(&topic).await?;
    let cursors = node.store.cursors(&topic).await?;
    if tail.is_none() && cursors.is_empty() {
        return Err(Failure::status(StatusCode::NOT_FOUND, format!("there is no topic {topic}")));
    }
    let mut busy = Vec::new();
    for (group, _) in &cursors {
        let members = node.groups.members(group, Some(&topic)).await;
        if members > 0 {
            busy.push(format!("{group} ({members})"));
        }
    }
    if !busy.is_empty() && !wanted.force && !wanted.dry_run {
        return Err(conflict(&format!("groups have members on {topic}: {}", busy.join(", "))));
    }
    let events = tail.map_or(0, |tail| tail.seq + 1 - tail.first);
    let deleted = !wanted.dry_run && node.writer.remove_topic(topic.clone(), None).await?;
    if deleted {
        tracing::info!(%topic, events, groups = cursors.len(), "topic removed");
    }
    let groups: Vec<_> = cursors.iter().map(|(group, _)| group.as_str()).collect();
    let row = json!({ "topic": topic, "events": events, "groups": groups, "busy": busy, "deleted": deleted });
    Ok(json(StatusCode::OK, &row))
}

/// `DELETE /groups/{group}`, with `topic` in that topic alone.
pub(super) async fn group(State(ops): State<Arc<Ops>>, Path(name): Path<String>, uri: Uri) -> Answer {
    let params = Params::of(&uri);
    let wanted = Wanted::of(&params)?;
    let only = params.value("topic")?.map(Topic::new).transpose()?;
    let group = Group::stored(&name)?;
    if group.is_reserved() {
        return Err(own("groups"));
    }
    let node = &ops.node;
    let mut topics = node.store.topics_of(&group).await?;
    topics.retain(|topic| only.as_ref().is_none_or(|only| only == topic));
    if topics.is_empty() {
        let on = only.map(|topic| format!(" in {topic}")).unwrap_or_default();
        return Err(Failure::status(StatusCode::NOT_FOUND, format!("group {group} has no position{on}")));
    }
    let members = node.groups.members(&group, only.as_ref()).await;
    if members > 0 && !wanted.force && !wanted.dry_run {
        let on = only.map(|topic| format!(" on {topic}")).unwrap_or_default();
        return Err(conflict(&format!("group {group} has members{on}: {members}")));
    }
    let mut rows = Vec::with_capacity(topics.len());
    for topic in &topics {
        let Some(cursor) = node.store.cursor(topic, &group).await? else { continue };
        let lag = node.store.tail(topic).await?.map_or(0, |tail| unsettled(&cursor, &tail));
        rows.push(json!({ "topic": topic, "lastSeq": cursor.floor, "lagEvents": lag }));
    }
    if !wanted.dry_run {
        let count = topics.len();
        node.groups.remove(&group, only, topics).await?;
        tracing::info!(%group, topics = count, "group removed");
    }
    let row = json!({ "group": group, "topics": rows, "members": members, "deleted": !wanted.dry_run });
    Ok(json(StatusCode::OK, &row))
}

/// The hub's own are not for operators to remove.
fn own(what: &str) -> Failure {
    Failure::new(ErrorCode::BadTopic, format!("{what} that begin with $ are the hub's own and are not removed"))
}

fn conflict(what: &str) -> Failure {
    Failure::status(StatusCode::CONFLICT, format!("{what}; end them, or ask with force=1 and their subscriptions end"))
}
