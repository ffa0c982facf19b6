//! The public port: which path leads where.
//!
//! ```text
//!   / with Upgrade, /ws ──► gateway     / and files ──► the page     /publish, /replay, /export ──► http
//! ```

use std::sync::Arc;

use axum::{
    Router,
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{gateway, http, node::Node, web::page};

/// The routes of the public port.
pub(crate) fn router(node: Arc<Node>) -> Router {
    let http = http::router(Arc::clone(&node));
    Router::new().route("/", get(root)).route("/ws", get(socket)).fallback(asset).with_state(node).merge(http)
}

/// `/` is the page for a browser and the WebSocket for a client.
async fn root(
    state: State<Arc<Node>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    if headers.contains_key(header::UPGRADE) {
        socket(state, headers, upgrade).await
    } else {
        page::serve(state.page, "")
    }
}

async fn asset(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    page::serve(node.page, uri.path().trim_start_matches('/'))
}

async fn socket(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    match upgrade {
        Ok(upgrade) => gateway::accept(node, &headers, upgrade),
        Err(rejection) => {
            (StatusCode::BAD_REQUEST, format!("a WebSocket is expected here: {rejection}\n")).into_response()
        }
    }
}
