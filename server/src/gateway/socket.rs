//! A WebSocket: the protocol of `tungstenite` on a socket of ours, without a task or a lock between the two.
//!
//! Its own task alone reads and writes it, so reading and writing need no wakers of their own, and its limits can be
//! changed when the peer has said who it is.

use std::{
    future::poll_fn,
    io::{self, Read, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use prom_protocol::limits;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tungstenite::{
    Error, Message,
    error::{CapacityError, ProtocolError},
    handshake::derive_accept_key,
    protocol::{Role, WebSocketConfig, WebSocketContext},
};

use crate::web::{Peer, Seat};

/// Bytes of a connection's own read buffer, which it has also while it is idle. What reads far ahead is below it: see
/// `web/read_ahead.rs`.
const READ_BUFFER: usize = 1024;
/// Bytes of frames that are put together to one write.
const WRITE_BUFFER: usize = 128 * 1024;
/// More than any frame beside a full buffer. Nothing reaches it, as `Out` hands over no frame while one waits.
const MOST_WRITE_BUFFER: usize = WRITE_BUFFER + 8 * 1024 * 1024;

/// Bytes that are read at once, and frames in them: then it is the turn of others. A message may come in any number of
/// parts, also empty ones, and each costs time to look at.
const TURN_BYTES: usize = 256 * 1024;
/// What a peer may send before it has said who it is: enough to be refused three times with the longest tokens, and to send
/// the pings of any client meanwhile. What more costs is paid by those who have a token.
const BEFORE_TRUST: Allowance = Allowance { bytes: 128 * 1024, messages: 64 };

/// How long a peer has to answer a close frame.
const DRAIN: Duration = Duration::from_secs(1);
/// So much is read meanwhile of one whose bytes are no frames any more.
const MOST_DISCARDED: usize = 1024 * 1024;

/// What a peer may still send.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    /// Of frames, their heads included.
    bytes: usize,
    /// Pings and pongs included.
    messages: usize,
}

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// A frame or message is longer than this connection may send.
    TooLarge,
    /// What came is no frame.
    Violation,
    /// A text is none.
    NotText,
    /// It has not said who it is, and sent more than one may who has not.
    TooMuch,
    /// The peer is gone.
    Gone,
}

/// What a socket gave.
pub(super) type Incoming = Result<Message, Lost>;

/// What [`Out`](super::out::Out) writes to.
pub(super) trait Wire {
    /// Ready when `send` may be called.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>>;
    /// Hands a message over.
    fn send(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Lost>;
    /// Ready when the system has all there is, the answer to a ping included.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>>;
}

/// A WebSocket.
pub(super) struct Socket {
    peer: Peer,
    protocol: WebSocketContext,
    /// None: the peer is trusted.
    allowance: Option<Allowance>,
    /// The last message was not taken whole.
    blocked: bool,
    ended: bool,
}

impl Socket {
    /// Takes messages of at most `most` bytes.
    fn new(peer: Peer, read: Vec<u8>, most: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_write_buffer_size(MOST_WRITE_BUFFER)
            .max_message_size(Some(most))
            .max_frame_size(Some(most));
        let protocol = WebSocketContext::from_partially_read(read, Role::Server, Some(config));
        Self { peer, protocol, allowance: Some(BEFORE_TRUST), blocked: false, ended: false }
    }

    /// The peer has a good token: it may send what is large, and keeps its place.
    pub(super) fn trust(&mut self) {
        self.peer.seat().keep();
        self.allowance = None;
        self.protocol.set_config(|config| {
            config.max_message_size = Some(limits::FRAME_BYTES);
            config.max_frame_size = Some(limits::FRAME_BYTES);
        });
    }

    /// Its place among the sockets of its port.
    pub(super) fn seat(&self) -> &Arc<Seat> {
        self.peer.seat()
    }

    /// From now on it is asked to leave where others need its place.
    pub(super) fn distrust(&mut self) {
        self.peer.seat().wait();
    }

    /// Waits for a moment until the peer has its close frame, which was sent. Closed with unread bytes the socket is reset,
    /// and the peer may lose the frame that tells it why.
    pub(super) async fn hang_up(&mut self) {
        let _ = tokio::time::timeout(DRAIN, async {
            while !self.ended {
                if let Err(Lost::Gone) = poll_fn(|cx| self.poll_next(cx)).await {
                    return;
                }
            }
            self.discard().await;
        })
        .await;
    }

    /// Ends the connection with a peer that has closed it, while there is still work for it. Others may take its place.
    pub(super) async fn leave(&mut self) {
        self.ended = true;
        self.distrust();
        self.hang_up().await;
    }

    /// Reads what are no frames any more, until the peer has understood that it is closed.
    async fn discard(&mut self) {
        let _ = self.peer.shutdown().await;
        let mut bytes = vec![0; 32 * 1024];
        let mut left = MOST_DISCARDED;
        while left > 0 {
            match self.peer.read(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(read) => left = left.saturating_sub(read),
            }
            tokio::task::yield_now().await;
        }
    }

    /// The next message.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Lost>> {
        if self.ended {
            return Poll::Ready(Err(Lost::Gone));
        }
        let most = self.allowance.map_or(TURN_BYTES, |left| left.bytes.min(TURN_BYTES));
        let mut now = Now::new(&mut self.peer, cx, most);
        let message = self.protocol.read(&mut now);
        let read = now.read;
        if let Some(left) = &mut self.allowance {
            if left.bytes <= read || left.messages == 0 && message.is_ok() {
                self.ended = true;
                return Poll::Ready(Err(Lost::TooMuch));
            }
            left.bytes -= read;
            left.messages -= usize::from(message.is_ok());
        }
        match message {
            Ok(message) => Poll::Ready(Ok(message)),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                if read == most {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Err(error) => {
                self.ended = true;
                Poll::Ready(Err(lost(&error)))
            }
        }
    }
}

/// What an error means to who has to say it to the peer.
fn lost(error: &Error) -> Lost {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Lost::TooLarge,
        Error::Utf8(_) => Lost::NotText,
        // Nobody is there any more, or waits for anything.
        Error::Protocol(
            ProtocolError::ResetWithoutClosingHandshake
            | ProtocolError::ReceivedAfterClosing
            | ProtocolError::SendAfterClosing,
        ) => Lost::Gone,
        Error::Protocol(_) => Lost::Violation,
        _ => Lost::Gone,
    }
}

impl Wire for Socket {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        if self.blocked { self.poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    fn send(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Lost> {
        match self.protocol.write(&mut Now::new(&mut self.peer, cx, 0), message) {
            Ok(()) => Ok(()),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = true;
                Ok(())
            }
            Err(_) => Err(Lost::Gone),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        match self.protocol.flush(&mut Now::new(&mut self.peer, cx, 0)) {
            // Closed by both sides, and all that is to be said is said.
            Ok(()) | Err(Error::ConnectionClosed) => {
                self.blocked = false;
                Poll::Ready(Ok(()))
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(_) => Poll::Ready(Err(Lost::Gone)),
        }
    }
}

/// The socket for one call: what is not ready now would block.
struct Now<'a, 'b> {
    peer: &'a mut Peer,
    cx: &'a mut Context<'b>,
    /// Bytes that may be read, and those that were.
    most: usize,
    read: usize,
}

impl<'a, 'b> Now<'a, 'b> {
    /// Reads at most so many bytes.
    fn new(peer: &'a mut Peer, cx: &'a mut Context<'b>, most: usize) -> Self {
        Self { peer, cx, most, read: 0 }
    }
}

fn now<T>(done: Poll<io::Result<T>>) -> io::Result<T> {
    match done {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Read for Now<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.most - self.read;
        if left == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = buf.len().min(left);
        let mut buf = ReadBuf::new(&mut buf[..length]);
        now(Pin::new(&mut *self.peer).poll_read(self.cx, &mut buf))?;
        self.read += buf.filled().len();
        Ok(buf.filled().len())
    }
}

impl Write for Now<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        now(Pin::new(&mut *self.peer).poll_write(self.cx, buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        now(Pin::new(&mut *self.peer).poll_flush(self.cx))
    }
}

/// A request that becomes a WebSocket once it is answered.
pub(super) struct Upgrade(OnUpgrade);

/// The upgrade that `request` asks for, and the answer to it.
///
/// # Errors
/// What it lacks, for people.
pub(super) fn upgrade(request: &mut Request) -> Result<(Upgrade, Response<Body>), &'static str> {
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return Err("it begins with a GET of HTTP/1.1");
    }
    let headers = request.headers();
    if !has_token(headers, header::CONNECTION, "upgrade") {
        return Err("the header Connection must be `Upgrade`");
    }
    if !has_token(headers, header::UPGRADE, "websocket") {
        return Err("the header Upgrade must be `websocket`");
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err("the header Sec-WebSocket-Version must be 13");
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return Err("the header Sec-WebSocket-Key is missing");
    };
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()));
    let accept = accept.map_err(|_| "the header Sec-WebSocket-Key cannot be used")?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let own = response.headers_mut();
    own.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    own.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    own.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok((Upgrade(hyper::upgrade::on(request)), response))
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|own| own.trim().eq_ignore_ascii_case(token))
}

impl Upgrade {
    /// The WebSocket, once its answer is written; none when the peer is gone. It takes messages of at most `most` bytes,
    /// and fails when its peer takes nothing for `stuck`.
    pub(super) async fn socket(self, most: usize, stuck: Duration) -> Option<Socket> {
        let upgraded = self.0.await.ok()?;
        let Ok(parts) = upgraded.downcast::<TokioIo<Peer>>() else {
            tracing::error!("a socket of an unknown kind was upgraded");
            return None;
        };
        let mut peer = parts.io.into_inner();
        peer.set_write_limit(stuck);
        Some(Socket::new(peer, parts.read_buf.into(), most))
    }
}
