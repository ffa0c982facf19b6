//! `POST /publish/{topic}`: one event, whose payload is the request's body.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, Response, StatusCode, Uri, header},
};
use futures_util::StreamExt;
use prom_protocol::{ErrorCode, EventOptions, RawValue, Text, Topic, check_payload, limits};
use prom_store::Append;
use serde::Serialize;

use super::Http;
use crate::{
    auth::Access,
    rights,
    web::{Failure, Params, json},
};

/// How long the body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Published<'a> {
    id: &'a str,
    seq: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

pub(super) async fn publish(
    State(http): State<Arc<Http>>,
    topic: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Failure> {
    let access = http.access(&headers).await?;
    let published = async {
        let Path(topic) = topic.map_err(|error| Failure::new(ErrorCode::BadTopic, error.body_text()))?;
        http.publish(&access, &topic, &Params::of(&uri), &headers, body).await
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
        // Slowed, not refused, like a publisher on the WebSocket.
        let busy = |_| Failure::new(ErrorCode::Overloaded, "the hub has more to write than it can queue");
        let turn = tokio::time::timeout(BODY_TIMEOUT, self.publishes.acquire()).await;
        let _turn = turn.map_err(|_| ()).and_then(|turn| turn.map_err(|_| ())).map_err(busy)?;
        let bytes = tokio::time::timeout(BODY_TIMEOUT, read(headers, body))
            .await
            .map_err(|_| Failure::status(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))??;
        let payload: &RawValue = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::new(ErrorCode::BadJson, format!("the body must be one JSON value: {error}")))?;
        check_payload(payload.get())?;
        let append = Append::new(topic, &options, payload.get());
        let outcome = self.node.writer.commit(vec![append], Vec::new()).await?.pop();
        let outcome = outcome.ok_or_else(|| Failure::new(ErrorCode::Internal, "the writer gave no answer"))??;
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
    let mut bytes = Vec::with_capacity(declared.unwrap_or(0));
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Failure::bad(format!("the body cannot be read: {error}")))?;
        if bytes.len() + chunk.len() > limits::FRAME_BYTES {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
