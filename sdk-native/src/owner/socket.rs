//! The transport: one WebSocket, polled by the owner.

use std::{
    collections::VecDeque,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Sink, SinkExt, Stream};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{
        Error as WsError, Message, Utf8Bytes,
        protocol::{CloseFrame, WebSocketConfig},
    },
};

use crate::{Error, host::Host};

/// Largest frame a hub may send: an event of 1 MiB and its envelope, with room to spare.
const FRAME_BYTES: usize = 4 * 1024 * 1024;
/// Most that is read at once. All of it is zeroed before, however little comes.
const READ_BYTES: usize = 32 * 1024;
/// Most messages of one turn, so that sending is never starved by receiving.
const MESSAGES_PER_TURN: usize = 1024;
/// A message of several frames that is sent is no longer than this; a longer frame goes alone.
const MESSAGE_BYTES: usize = 64 * 1024;
/// How long a close may take.
const CLOSING: Duration = Duration::from_secs(1);

type Ws = WebSocketStream<MaybeTlsStream<TcpStream>>;
/// A socket being opened; an error is the message of the transport.
pub(super) type Opening = Pin<Box<dyn Future<Output = Result<Socket, String>> + Send>>;

/// Where to connect, and how.
pub(crate) struct Transport {
    url: String,
    host: Arc<Host>,
}

impl Transport {
    /// # Errors
    /// See [`Host::of`].
    pub(crate) fn new(url: &str, trust: Option<&Path>) -> Result<Self, Error> {
        Ok(Self { url: url.to_owned(), host: Arc::new(Host::of(url, trust)?) })
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    pub(super) fn open(&self) -> Opening {
        let url = self.url.clone();
        let config = WebSocketConfig::default()
            .max_message_size(Some(FRAME_BYTES))
            .max_frame_size(Some(FRAME_BYTES))
            .read_buffer_size(READ_BYTES);
        #[cfg(feature = "tls")]
        let connector = self.host.tls.clone().map(tokio_tungstenite::Connector::Rustls);
        Box::pin(async move {
            // Frames are written in batches; waiting to fill a packet would only delay them.
            const NO_DELAY: bool = true;
            #[cfg(feature = "tls")]
            let connected =
                tokio_tungstenite::connect_async_tls_with_config(url, Some(config), NO_DELAY, connector).await;
            #[cfg(not(feature = "tls"))]
            let connected = tokio_tungstenite::connect_async_with_config(url, Some(config), NO_DELAY).await;
            match connected {
                Ok((ws, _)) => Ok(Socket { ws, out: VecDeque::new(), unflushed: false }),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

/// How a socket ended.
pub(super) struct End {
    pub(super) code: Option<u16>,
    pub(super) reason: String,
}

impl End {
    fn of(error: &WsError) -> Self {
        Self { code: None, reason: error.to_string() }
    }
}

/// What one turn read from the socket.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) messages: Vec<Utf8Bytes>,
    /// A ping, a pong, or a frame that is no text.
    pub(super) sign_of_life: bool,
    pub(super) end: Option<End>,
}

impl Inbox {
    fn is_empty(&self) -> bool {
        self.messages.is_empty() && !self.sign_of_life && self.end.is_none()
    }
}

/// An open socket and the messages that wait to be sent on it.
pub(super) struct Socket {
    ws: Ws,
    out: VecDeque<String>,
    unflushed: bool,
}

impl Socket {
    /// Sends a frame; `batching`: together with those that wait already.
    pub(super) fn send(&mut self, frame: &str, batching: bool) {
        queue(&mut self.out, frame, batching);
    }

    /// Sends what it can and receives what is there; ready when there is something to look at.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Poll<()> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            inbox.end = Some(End::of(&error));
            return Poll::Ready(());
        }
        while inbox.messages.len() < MESSAGES_PER_TURN && inbox.end.is_none() {
            match Pin::new(&mut self.ws).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(Message::Text(text)))) => inbox.messages.push(text),
                Poll::Ready(Some(Ok(Message::Close(frame)))) => {
                    inbox.end = Some(match frame {
                        Some(frame) => End { code: Some(frame.code.into()), reason: frame.reason.to_string() },
                        None => End { code: None, reason: String::new() },
                    });
                }
                Poll::Ready(Some(Ok(_))) => inbox.sign_of_life = true,
                Poll::Ready(Some(Err(error))) => inbox.end = Some(End::of(&error)),
                Poll::Ready(None) => inbox.end = Some(End { code: None, reason: String::new() }),
            }
        }
        if inbox.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Everything that waits goes out in as few writes as possible.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        let mut ws = Pin::new(&mut self.ws);
        while !self.out.is_empty() {
            std::task::ready!(ws.as_mut().poll_ready(cx))?;
            if let Some(frame) = self.out.pop_front() {
                ws.as_mut().start_send(Message::Text(frame.into()))?;
                self.unflushed = true;
            }
        }
        if self.unflushed {
            std::task::ready!(ws.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what waits, says goodbye, and waits for the answer, all within a second.
    pub(super) async fn close(mut self, code: u16, reason: &'static str) {
        let goodbye = async {
            while let Some(frame) = self.out.pop_front() {
                self.ws.feed(Message::Text(frame.into())).await?;
            }
            self.ws.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).await?;
            while std::future::poll_fn(|cx| Pin::new(&mut self.ws).poll_next(cx)).await.is_some_and(|next| next.is_ok())
            {
            }
            Ok::<(), WsError>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(CLOSING, goodbye).await {
            tracing::trace!(%error, "the socket did not close cleanly");
        }
    }
}

/// Adds a frame to the messages that wait: to the last of them, where several may go in one and there is room.
fn queue(messages: &mut VecDeque<String>, frame: &str, batching: bool) {
    match messages.back_mut() {
        Some(message) if batching && message.len() + 1 + frame.len() <= MESSAGE_BYTES => {
            message.push('\n');
            message.push_str(frame);
        }
        _ => messages.push_back(frame.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_wait_together_leave_in_one_message_up_to_its_limit() {
        let mut messages = VecDeque::new();
        let large = "x".repeat(MESSAGE_BYTES);
        for frame in ["a", "b", &large, "c", &large[..MESSAGE_BYTES - 2], "d"] {
            queue(&mut messages, frame, true);
        }
        let lengths: Vec<usize> = messages.iter().map(String::len).collect();
        assert_eq!(lengths, [3, MESSAGE_BYTES, MESSAGE_BYTES, 1], "full to the last byte, and no further");
        assert_eq!(messages[0], "a\nb");

        let mut messages = VecDeque::new();
        for frame in ["a", "b"] {
            queue(&mut messages, frame, false);
        }
        assert_eq!(messages, ["a", "b"]);
    }
}
