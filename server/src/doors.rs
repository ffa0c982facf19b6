//! The public port: which path leads where.
//!
//! ```text
//!   / with Upgrade, /ws ──► gateway     / and files ──► the page     /publish, /replay, /export ──► http
//! ```

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, Uri, header},
    response::Response,
    routing::get,
};

use crate::{gateway, http, node::Node, web::page};

/// The routes of the public port.
pub(crate) fn router(node: Arc<Node>) -> Router {
    let http = http::router(Arc::clone(&node));
    Router::new().route("/", get(root)).route("/ws", get(socket)).fallback(asset).with_state(node).merge(http)
}

/// `/` is the page for a browser and the WebSocket for a client.
async fn root(state: State<Arc<Node>>, request: Request) -> Response {
    if request.headers().contains_key(header::UPGRADE) {
        socket(state, request).await
    } else {
        page::serve(state.page, "", request.headers(), state.secure)
    }
}

async fn asset(State(node): State<Arc<Node>>, uri: Uri, headers: HeaderMap) -> Response {
    page::serve(node.page, uri.path().trim_start_matches('/'), &headers, node.secure)
}

async fn socket(State(node): State<Arc<Node>>, request: Request) -> Response {
    gateway::accept(node, request)
}
