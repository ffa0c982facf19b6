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
//!   read.rs            what comes                   socket.rs      the WebSocket itself
//! ```
//!
//! All that a wake-up of a connection produces, answers and events, leaves in one write.

mod auth;
mod connection;
mod feed;
mod live;
mod out;
mod publish;
mod read;
mod session;
mod socket;
mod subscribe;
mod subscriptions;

use std::{
    future::poll_fn,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, Response, StatusCode, header},
    response::IntoResponse,
};
use prom_protocol::CloseCode;
use tungstenite::{Message, protocol::CloseFrame};

use self::socket::{Socket, Wire};
use crate::{
    node::{Node, WRITE_GRACE},
    web::Caller,
};

/// How long a peer that is refused may take to be told why.
const REFUSING: Duration = Duration::from_secs(3);

/// Most characters of a refused origin in the log.
const ORIGIN_SHOWN: usize = 128;

/// Takes a connection, or closes it with the code that says why not.
pub(crate) fn accept(node: Arc<Node>, mut request: Request) -> Response<Body> {
    let (upgrade, response) = match socket::upgrade(&mut request) {
        Ok(upgrade) => upgrade,
        Err(lacks) => {
            return (StatusCode::BAD_REQUEST, format!("a WebSocket is expected here: {lacks}\n")).into_response();
        }
    };
    let refusal = refusal(&node, request.headers());
    let address = request.extensions().get::<Caller>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), Caller::address);
    let (most, stuck) =
        (node.limits.frame_bytes_before_auth, node.limits.write_timeout + connection::PARTING + WRITE_GRACE);
    node.tasks.clone().spawn(async move {
        let socket = tokio::select! {
            biased;
            socket = upgrade.socket(most, stuck) => socket,
            () = node.ending.cancelled() => None,
        };
        match (socket, refusal) {
            (None, _) => {}
            // After the handshake, so that the browser's client is told why.
            (Some(socket), Some(code)) => {
                node.metrics.closed(code);
                let _ = tokio::time::timeout(REFUSING, close(socket, code)).await;
            }
            (Some(socket), None) => connection::run(node, socket, address).await,
        }
    });
    response
}

/// Why a connection must not be taken, if so.
fn refusal(node: &Node, headers: &HeaderMap) -> Option<CloseCode> {
    // One that is no text is on no list.
    let origin = headers.get(header::ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()));
    if let Some(origin) = origin
        && !node.admits(&origin, headers)
    {
        if let Some(left_out) = node.refused.origins.turn() {
            // A stranger's text: with `?`, which escapes it, and no more of it than shows whose page it is.
            let origin: String = origin.chars().take(ORIGIN_SHOWN).collect();
            tracing::warn!(?origin, left_out, "connection refused: origin not on the list");
        }
        return Some(CloseCode::Origin);
    }
    node.ending.is_cancelled().then_some(CloseCode::Shutdown)
}

async fn close(mut socket: Socket, code: CloseCode) {
    let frame = CloseFrame { code: code.code().into(), reason: code.reason().into() };
    let mut frame = Some(Message::Close(Some(frame)));
    let sent = poll_fn(|cx| {
        if let Some(frame) = frame.take()
            && let Err(lost) = socket.send(cx, frame)
        {
            return std::task::Poll::Ready(Err(lost));
        }
        socket.poll_flush(cx)
    });
    // The peer may be gone already. At a shutdown it connects again either way.
    if sent.await.is_ok() && code != CloseCode::Shutdown {
        socket.hang_up().await;
    }
}
