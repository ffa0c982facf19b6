//! The routes of the ops port, and who may use them.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};

use super::{
    guard::Right,
    reads::{self, Ops},
    removals, revocations,
};
use crate::web::{Caller, Failure};

/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(10);

const UNKNOWN: &str = "no such path; there are /healthz, /readyz, /topics, /groups, /cursors, /lag, /latest-by-key, /outbox, /revocations and /metrics, and DELETE /topics/{topic} and /groups/{group}";

/// The routes of the ops port.
pub(crate) fn router(ops: Arc<Ops>) -> Router {
    // Who watches whether the hub lives has no token, and learns nothing of what it carries.
    let health = Router::new().route("/healthz", get(reads::healthz)).route("/readyz", get(reads::readyz));
    let payloads = Router::new()
        .route("/latest-by-key", get(reads::latest_by_key))
        .route_layer(middleware::from_fn_with_state((Arc::clone(&ops), Right::READ_PAYLOADS), permitted));
    let reads = Router::new()
        .route("/topics", get(reads::topics))
        .route("/groups", get(reads::groups))
        .route("/cursors", get(reads::cursors))
        .route("/lag", get(reads::lag))
        .route("/outbox", get(reads::outbox))
        .route("/metrics", get(reads::metrics))
        .route("/revocations", get(revocations::list))
        .route_layer(middleware::from_fn_with_state((Arc::clone(&ops), Right::READ), permitted));
    let changes = Router::new()
        .route("/topics/{topic}", delete(removals::topic))
        .route("/groups/{group}", delete(removals::group))
        .route_layer(middleware::from_fn_with_state((Arc::clone(&ops), Right::CHANGE), permitted));
    let revokes = Router::new()
        .route("/revocations", post(revocations::revoke))
        .route_layer(middleware::from_fn_with_state((Arc::clone(&ops), Right::REVOKE), permitted));
    health
        .merge(payloads)
        .merge(reads)
        .merge(changes)
        .merge(revokes)
        .fallback(async || Failure::status(StatusCode::NOT_FOUND, UNKNOWN))
        .method_not_allowed_fallback(async || Failure::method())
        .layer(middleware::from_fn_with_state(Arc::clone(&ops), guard))
        .with_state(ops)
}

/// Lets through who has the right.
async fn permitted(
    State((ops, right)): State<(Arc<Ops>, Right)>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    match ops.guard.check(&ops.node, request.headers(), caller.address(), right).await {
        Ok(()) => {
            caller.is_known();
            next.run(request).await
        }
        // Perhaps late, and until then its socket makes room for others.
        Err(refused) => refused.into_response(),
    }
}

/// On loopback, refuses pages that reach this port under a name of their own (DNS rebinding); elsewhere they would need a
/// token. Ends what takes too long.
async fn guard(State(ops): State<Arc<Ops>>, request: Request, next: Next) -> Response {
    if ops.guard.loopback && !is_local(request.headers(), request.uri()) {
        let message = "this port answers only to Host localhost, 127.0.0.1 or [::1]";
        return Failure::status(StatusCode::FORBIDDEN, message).into_response();
    }
    match tokio::time::timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure::status(StatusCode::SERVICE_UNAVAILABLE, "the store did not answer in time").into_response(),
    }
}

/// Whether the request was meant for this machine: by its one `Host`, and by its URI if that has an authority too.
fn is_local(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return false,
    };
    is_local_name(host) && uri.authority().is_none_or(|authority| is_local_name(authority.as_str()))
}

pub(crate) fn is_local_name(host: &str) -> bool {
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| {
        let Some((start, port)) = host.split_at_checked(name.len()) else { return false };
        let port = port.strip_prefix(':').map_or(port.is_empty(), |port| port.parse::<u16>().is_ok());
        start.eq_ignore_ascii_case(name) && port
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in ["localhost", "LocalHost:8082", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8082"] {
            assert!(is_local_name(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example:8082",
            "localhost:",
            "localhost:80:80",
            "localhost:x",
            "localhost@evil.example",
            "evil@localhost",
            "127.0.0.2",
            "::1",
            "lokalhöst",
        ] {
            assert!(!is_local_name(host), "{host}");
        }
    }
}
