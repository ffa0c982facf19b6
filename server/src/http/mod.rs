//! Plain HTTP on the public port: publish, replay, export. And what the ops port shares with it.
//!
//! ```text
//!   POST /publish/{topic} ──► writer          a Bearer token, checked by the same verifier and the same
//!   GET  /replay, /export ◄── store           policy as on the WebSocket; errors carry the same codes
//! ```
//!
//! Events leave as their stored bytes: nothing here parses a payload.

mod ahead;
mod export;
mod failure;
mod params;
mod patient;
mod position;
mod publish;
mod replay;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
    routing::{get, post},
};
use prom_protocol::{ErrorCode, Topic};
use tokio::sync::Semaphore;

pub(crate) use failure::Failure;
pub(crate) use params::Params;
pub(crate) use patient::PatientListener;

use crate::{auth::Access, gateway::Gateway};

/// Publishes whose body is read or that wait for their commit; more than these wait for their turn.
const PUBLISHES: usize = 256;

/// What the requests share.
#[derive(Debug)]
struct Http {
    gateway: Arc<Gateway>,
    exports: Arc<Semaphore>,
    publishes: Semaphore,
}

/// The routes.
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    let exports = Arc::new(Semaphore::new(gateway.limits.exports));
    let http = Arc::new(Http { gateway, exports, publishes: Semaphore::new(PUBLISHES) });
    Router::new()
        .route("/publish/{topic}", post(publish::publish))
        .route("/replay", get(replay::replay))
        .route("/export", get(export::export))
        .method_not_allowed_fallback(async || Failure::method())
        .with_state(http)
}

impl Http {
    /// What the request's token stands for.
    fn access(&self, headers: &HeaderMap) -> Result<Access, Failure> {
        let token = match headers.get(header::AUTHORIZATION) {
            None => "",
            Some(value) => {
                let bearer = value.to_str().ok().and_then(|value| value.split_once(' '));
                let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                let Some((_, token)) = bearer else {
                    return Err(Failure::new(ErrorCode::JwtInvalid, "Authorization must be `Bearer <token>`"));
                };
                token.trim()
            }
        };
        if token.is_empty() {
            return Err(Failure::new(ErrorCode::NoToken, "the header Authorization: Bearer <token> is required"));
        }
        self.gateway.verifier.verify(token).map_err(|error| {
            tracing::debug!(%error, "request refused");
            Failure::new(error.code, error.message)
        })
    }

    /// What the request's token stands for, if it may read `topic`.
    fn reader(&self, access: &Access, topic: &Topic) -> Result<(), Failure> {
        if access.policy.may_read(topic, None) {
            Ok(())
        } else {
            Err(Failure::new(ErrorCode::Forbidden, format!("reading {topic} is not allowed")))
        }
    }
}

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer that nobody keeps and nobody takes for something else.
pub(crate) fn answer(status: StatusCode, content_type: HeaderValue, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// `value` as JSON.
pub(crate) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    // Plain structs of strings and numbers.
    answer(status, JSON, serde_json::to_vec(value).unwrap_or_default())
}
