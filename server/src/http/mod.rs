//! Plain HTTP on the public port: publish, replay, export.
//!
//! ```text
//!   POST /publish/{topic} ──► writer          a Bearer token, checked by the same verifier and the same
//!   GET  /replay, /export ◄── store           policy as on the WebSocket; errors carry the same codes
//! ```
//!
//! Events leave as their stored bytes: nothing here parses a payload.

mod export;
mod holder;
pub(crate) mod position;
mod publish;
mod replay;
mod turns;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, Method, header, request::Parts},
    routing::{get, post},
};
use prom_protocol::Topic;
use tower_http::cors::{AllowOrigin, CorsLayer};

use self::turns::Turns;
use crate::{
    auth::{Access, Refused},
    flow::bounds::Limit,
    node::Node,
    rights,
    web::{Caller, Failure, bearer},
};

/// For so long a browser need not ask again whether it may.
const PREFLIGHT: Duration = Duration::from_secs(600);

/// What the requests share.
#[derive(Debug)]
struct Http {
    node: Arc<Node>,
    exports: Turns,
    replays: Turns,
    publishes: Turns,
}

/// The routes.
pub(crate) fn router(node: Arc<Node>) -> Router {
    let turns = |what, most, limit| Turns::new(what, most, limit, Arc::clone(&node.metrics));
    let exports = turns("exports", node.limits.exports, Limit::Exports);
    let replays = turns("replays", node.limits.replays, Limit::Replays);
    let publishes = turns("publishes", node.limits.publishes, Limit::Publishes);
    let http = Arc::new(Http { node, exports, replays, publishes });
    let reads = Router::new()
        .route("/replay", get(replay::replay))
        .route("/export", get(export::export))
        .method_not_allowed_fallback(async || Failure::method())
        .layer(cors(&http.node));
    Router::new()
        .route("/publish/{topic}", post(publish::publish))
        .method_not_allowed_fallback(async || Failure::method())
        .merge(reads)
        .with_state(http)
}

/// Lets pages read what they may ask for by WebSocket: the origins are the same.
fn cors(node: &Arc<Node>) -> CorsLayer {
    let node = Arc::clone(node);
    let admits = move |origin: &HeaderValue, request: &Parts| {
        origin.to_str().is_ok_and(|origin| node.admits(origin, &request.headers))
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(admits))
        .allow_methods([Method::GET, Method::HEAD])
        .allow_headers([header::AUTHORIZATION])
        .expose_headers([export::END, export::GAP, header::RETRY_AFTER])
        .max_age(PREFLIGHT)
}

impl Http {
    /// What the request's token stands for.
    async fn access(&self, caller: &Caller, headers: &HeaderMap) -> Result<Access, Failure> {
        let access = self.node.access("HTTP", bearer(headers, ""), caller.address()).await?;
        caller.is_known();
        Ok(access)
    }

    /// Refuses a token that was revoked since its request began, or whose time is over.
    fn check_still_good(&self, access: &Access) -> Result<(), Failure> {
        let checked = if access.has_ended() {
            Err(Refused::expired("the token has expired since the request began"))
        } else {
            self.node.verifier.revocations().check(access)
        };
        checked.map_err(|refused| {
            self.node.refused_token("HTTP", &refused);
            refused.into()
        })
    }

    /// Refuses a token that may not read `topic`.
    fn check_may_read(&self, access: &Access, topic: &Topic) -> Result<(), Failure> {
        Ok(rights::read(&access.policy, topic)?)
    }
}
