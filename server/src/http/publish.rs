//! `POST /publish/{topic}`: one event, whose payload is the request's body.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Extension, Path, State, rejection::PathRejection},
    http::{HeaderMap, Response, StatusCode, Uri, header},
};
use futures_util::StreamExt;
use prom_protocol::{ErrorCode, EventOptions, RawValue, Text, Topic, check_payload, limits};
use prom_store::Append;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::Http;
use crate::{
    auth::Access,
    quota::pause,
    rights,
    web::{Caller, Failure, Params, json},
};

/// How long the body may take, and how long it is waited for its turn.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// For so long a body may come as slowly as it likes.
const BODY_GRACE: Duration = Duration::from_secs(5);
/// After that it comes at least at this rate, from its beginning on: bytes a second.
const BODY_RATE: usize = 4 * 1024;

/// When a body of which so many bytes have come must have more.
fn body_deadline(began: Instant, bytes: usize) -> Instant {
    let earned = Duration::from_secs_f64(bytes as f64 / BODY_RATE as f64);
    began + earned.max(BODY_GRACE).min(BODY_TIMEOUT)
}

#[derive(Serialize)]
struct Published<'a> {
    id: &'a str,
    seq: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

pub(super) async fn publish(
    State(http): State<Arc<Http>>,
    Extension(caller): Extension<Caller>,
    topic: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Failure> {
    let access = http.access(&caller, &headers).await?;
    let published = async {
        let Path(topic) = topic.map_err(|error| Failure::new(ErrorCode::BadTopic, error.body_text()))?;
        http.publish(&access, &caller, &topic, &Params::of(&uri), &headers, body).await
    };
    published.await.inspect_err(|failure| {
        if let Some(code) = failure.code() {
            http.node.metrics.refused(code);
        }
    })
}

impl Http {
    async fn publish(
        &self,
        access: &Access,
        caller: &Caller,
        topic: &str,
        params: &Params<'_>,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response<Body>, Failure> {
        let topic = Topic::new(topic)?;
        rights::publish(&access.policy, &topic)?;
        let options = EventOptions {
            id: params.value("id")?.map(Text::from),
            key: params.value("key")?.map(Text::from),
            ..EventOptions::default()
        };
        options.check()?;
        if self.node.ending.is_cancelled() {
            return Err(Failure::new(ErrorCode::ShuttingDown, "the hub is shutting down"));
        }
        self.node.quotas.topic_of(access.holder, &topic, &self.node.topics)?;
        // Slowed, not refused, like a publisher on the WebSocket.
        let turn = self.publishes.take(access.holder, BODY_TIMEOUT).await?;
        let bytes = read(headers, body).await?;
        let payload: &RawValue = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::new(ErrorCode::BadJson, format!("the body must be one JSON value: {error}")))?;
        check_payload(payload.get())?;
        let append = Append::published_by(topic, &options, access.sub.as_deref(), payload.get());
        let whose = self.node.quotas.whose(access.holder, caller.address());
        let mut pace = self.node.quotas.pace(whose);
        let mut wait = Duration::ZERO;
        let checked = || {
            self.check_still_good(access)?;
            // Again: it counts from when it is made, and a body may take its time.
            self.node.quotas.topic_of(access.holder, &append.topic, &self.node.topics)?;
            wait = pace.take_or_refuse(&append.topic, append.body.len())?;
            Ok::<_, Failure>(vec![append])
        };
        let outcome = self.node.writer.commit_if(checked, Vec::new()).await?.pop();
        let outcome = outcome.ok_or_else(|| Failure::new(ErrorCode::Internal, "the writer gave no answer"))??;
        // What is waited for here is the answer, so that who gives up has not waited in vain. Few of its subject wait at a
        // time, and none of the others for them.
        let _own = turn.rest();
        pause(wait).await;
        Ok(json(StatusCode::OK, &Published { id: &outcome.id, seq: outcome.seq, duplicate: outcome.duplicate }))
    }
}

/// The body, if it is not too large.
async fn read(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Failure> {
    let too_large =
        || Failure::new(ErrorCode::TooLarge, format!("the body may be at most {} bytes", limits::FRAME_BYTES));
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: usize| length > limits::FRAME_BYTES) {
        return Err(too_large());
    }
    // Not all that it declares: that costs its sender nothing.
    let mut bytes = Vec::with_capacity(declared.unwrap_or(0).min(64 * 1024));
    let mut chunks = body.into_data_stream();
    let began = Instant::now();
    loop {
        let chunk = timeout_at(body_deadline(began, bytes.len()), chunks.next()).await;
        let late = |_| Failure::status(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
        let Some(chunk) = chunk.map_err(late)? else { break };
        let chunk = chunk.map_err(|error| Failure::bad(format!("the body cannot be read: {error}")))?;
        if bytes.len() + chunk.len() > limits::FRAME_BYTES {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
