//! The public port: WebSocket connections, and the page.
//!
//! ```text
//!   socket ──frames──► Connection ──Write──► writer         one task per connection owns its socket, its
//!     ▲                  │    ▲  ──ToGroup──► groups        subscriptions and the order of its answers
//!     └── one write ─────┘    └── ToConnection ──┘
//! ```
//!
//! All that a wake-up of a connection produces, answers and events, leaves in one write.

mod connection;
mod feed;
mod handle;
mod out;
mod publish;
mod session;
mod subscribe;
mod subscriptions;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::{
        State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prom_protocol::{CloseCode, limits};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use handle::{ConnectionHandle, ToConnection};

use crate::{
    auth::Verifier, config::Limits, delivery::Groups, http, page, store::Store, topics::Topics, writer::Writer,
};

/// Bytes of a connection's own read buffer, which it has also while it is idle. What reads far ahead is below it: see
/// [`crate::http`].
const READ_BUFFER: usize = 1024;

/// What every connection needs of the hub.
#[derive(Debug)]
pub struct Gateway {
    /// The log.
    pub store: Arc<dyn Store>,
    /// The topics.
    pub topics: Arc<Topics>,
    /// The way to the log.
    pub writer: Writer,
    /// The durable groups.
    pub groups: Groups,
    /// Who checks tokens.
    pub verifier: Verifier,
    /// Limits.
    pub limits: Limits,
    /// Origins of pages that may connect; none: any.
    pub origins: Option<Vec<String>>,
    /// Owner of the connections' tasks.
    pub tasks: TaskTracker,
    /// The hub has begun to end.
    pub ending: CancellationToken,
    /// Connections now.
    pub connections: AtomicUsize,
}

/// The routes of the public port.
pub fn router(gateway: Arc<Gateway>) -> Router {
    let http = http::router(Arc::clone(&gateway));
    Router::new().route("/", get(root)).route("/ws", get(socket)).fallback(asset).with_state(gateway).merge(http)
}

/// `/` is the page for a browser and the WebSocket for a client.
async fn root(
    state: State<Arc<Gateway>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    if headers.contains_key(header::UPGRADE) { socket(state, headers, upgrade).await } else { page::serve("") }
}

async fn asset(uri: Uri) -> Response {
    page::serve(uri.path().trim_start_matches('/'))
}

async fn socket(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => {
            return (StatusCode::BAD_REQUEST, format!("a WebSocket is expected here: {rejection}\n")).into_response();
        }
    };
    let refusal = gateway.refusal(&headers);
    upgrade
        .max_message_size(limits::FRAME_BYTES)
        .max_frame_size(limits::FRAME_BYTES)
        .read_buffer_size(READ_BUFFER)
        .on_upgrade(move |mut socket| async move {
            match refusal {
                // After the handshake, so that the browser's client is told why.
                Some(code) => close(&mut socket, code).await,
                None => {
                    let tasks = gateway.tasks.clone();
                    tasks.track_future(connection::run(gateway, socket)).await;
                }
            }
        })
}

impl Gateway {
    /// Why a connection must not be taken, if so.
    fn refusal(&self, headers: &HeaderMap) -> Option<CloseCode> {
        let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
        if let (Some(allowed), Some(origin)) = (&self.origins, origin)
            && !allowed.iter().any(|own| own == origin)
            && !is_own(origin, headers)
        {
            tracing::warn!(origin, "connection refused: origin not on the list");
            return Some(CloseCode::Origin);
        }
        if self.connections.load(Ordering::Relaxed) >= self.limits.connections {
            tracing::warn!(limit = self.limits.connections, "connection refused: too many");
            return Some(CloseCode::ConnectionLimit);
        }
        self.ending.is_cancelled().then_some(CloseCode::Shutdown)
    }
}

/// Whether a page of this hub's own is connecting: its origin is where it connects to.
fn is_own(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some() && origin.split_once("://").map(|(_, authority)| authority) == host
}

async fn close(socket: &mut WebSocket, code: CloseCode) {
    let frame = CloseFrame { code: code.code(), reason: code.reason().into() };
    // The peer may be gone already.
    let _ = socket.send(Message::Close(Some(frame))).await;
}
