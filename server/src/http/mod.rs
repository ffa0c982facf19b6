//! Plain HTTP on the public port: publish, replay, export.
//!
//! ```text
//!   POST /publish/{topic} ──► writer          a Bearer token, checked by the same verifier and the same
//!   GET  /replay, /export ◄── store           policy as on the WebSocket; errors carry the same codes
//! ```
//!
//! Events leave as their stored bytes: nothing here parses a payload.

mod export;
mod position;
mod publish;
mod replay;

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderMap, header},
    routing::{get, post},
};
use prom_protocol::{ErrorCode, Topic};
use tokio::sync::Semaphore;

use crate::{auth::Access, node::Node, web::Failure};

/// Publishes whose body is read or that wait for their commit; more than these wait for their turn.
const PUBLISHES: usize = 256;

/// What the requests share.
#[derive(Debug)]
struct Http {
    node: Arc<Node>,
    exports: Arc<Semaphore>,
    publishes: Semaphore,
}

/// The routes.
pub(crate) fn router(node: Arc<Node>) -> Router {
    let exports = Arc::new(Semaphore::new(node.limits.exports));
    let http = Arc::new(Http { node, exports, publishes: Semaphore::new(PUBLISHES) });
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
        self.node.verifier.verify(token).map_err(|error| {
            tracing::debug!(%error, "request refused");
            Failure::from(error)
        })
    }

    /// Refuses a token that may not read `topic`.
    fn check_may_read(&self, access: &Access, topic: &Topic) -> Result<(), Failure> {
        if access.policy.may_read(topic, None) {
            Ok(())
        } else {
            Err(Failure::new(ErrorCode::Forbidden, format!("reading {topic} is not allowed")))
        }
    }
}
