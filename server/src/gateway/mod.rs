//! WebSocket connections.
//!
//! ```text
//!   socket ──frames──► Connection ──Write──► writer         one task per connection owns its socket, its
//!     ▲                  │    ▲  ──ToGroup──► groups        subscriptions and the order of its answers
//!     └── one write ─────┘    └── ToConsumer ──┘
//!
//!   connection.rs      the task                     publish.rs     its publishes, answered in their order
//!   subscribe.rs       begins and ends              live.rs        feeds subscriptions without a group
//!   subscriptions.rs   which there are              feed.rs        one of them, with its topics
//!   session.rs         who it is                    out.rs         what waits to be written
//! ```
//!
//! All that a wake-up of a connection produces, answers and events, leaves in one write.

mod connection;
mod feed;
mod live;
mod out;
mod publish;
mod read;
mod session;
mod subscribe;
mod subscriptions;

use std::sync::{Arc, atomic::Ordering};

use axum::{
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade},
    http::{HeaderMap, header},
    response::Response,
};
use prom_protocol::{CloseCode, limits};

use crate::node::Node;

/// Bytes of a connection's own read buffer, which it has also while it is idle. What reads far ahead is below it: see
/// `web/read_ahead.rs`.
const READ_BUFFER: usize = 1024;

/// Takes a connection, or closes it with the code that says why not.
pub(crate) fn accept(node: Arc<Node>, headers: &HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    let refusal = refusal(&node, headers);
    upgrade
        .max_message_size(limits::FRAME_BYTES)
        .max_frame_size(limits::FRAME_BYTES)
        .read_buffer_size(READ_BUFFER)
        .on_upgrade(move |mut socket| async move {
            match refusal {
                // After the handshake, so that the browser's client is told why.
                Some(code) => close(&mut socket, code).await,
                None => {
                    let tasks = node.tasks.clone();
                    tasks.track_future(connection::run(node, socket)).await;
                }
            }
        })
}

/// Why a connection must not be taken, if so.
fn refusal(node: &Node, headers: &HeaderMap) -> Option<CloseCode> {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    if let Some(origin) = origin
        && !node.admits(origin, headers)
    {
        tracing::warn!(origin, "connection refused: origin not on the list");
        return Some(CloseCode::Origin);
    }
    if node.connections.load(Ordering::Relaxed) >= node.limits.connections {
        tracing::warn!(limit = node.limits.connections, "connection refused: too many");
        return Some(CloseCode::ConnectionLimit);
    }
    node.ending.is_cancelled().then_some(CloseCode::Shutdown)
}

async fn close(socket: &mut WebSocket, code: CloseCode) {
    let frame = CloseFrame { code: code.code(), reason: code.reason().into() };
    // The peer may be gone already.
    let _ = socket.send(Message::Close(Some(frame))).await;
}
