//! What a connection has to write.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
};

use axum::extract::ws::{Message, Utf8Bytes};
use bytes::Bytes;
use futures_util::{Sink, SinkExt};
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(super) struct Out<S> {
    sink: S,
    /// With the bytes that count against the groups' reserve.
    frames: VecDeque<(Message, usize)>,
    bytes: usize,
    flushed: bool,
    /// When something was last taken by the socket, or nothing waited.
    progress: Instant,
    /// Reserved bytes that have left. Kept here and not by who polls, who may stop halfway.
    left: usize,
}

impl<S: Sink<Message, Error = axum::Error> + Unpin> Out<S> {
    pub(super) fn new(sink: S) -> Self {
        Self { sink, frames: VecDeque::new(), bytes: 0, flushed: true, progress: Instant::now(), left: 0 }
    }

    /// Adds a text frame; `reserved` bytes are free again when it has left.
    pub(super) fn push(&mut self, frame: Vec<u8>, reserved: usize) {
        self.bytes += frame.len();
        // Every frame is made of validated text and our own encoders.
        let text = Utf8Bytes::try_from(Bytes::from(frame)).unwrap_or_default();
        self.add(Message::Text(text), reserved);
    }

    /// Adds a ping or a close frame.
    pub(super) fn control(&mut self, message: Message) {
        self.add(message, 0);
    }

    fn add(&mut self, message: Message, reserved: usize) {
        if self.is_idle() {
            self.progress = Instant::now();
        }
        self.frames.push_back((message, reserved));
    }

    /// Counts reserved bytes that are not sent after all.
    pub(super) fn skip(&mut self, reserved: usize) {
        self.left += reserved;
    }

    /// Reserved bytes that have left since the last call.
    pub(super) fn take_left(&mut self) -> usize {
        std::mem::take(&mut self.left)
    }

    /// Bytes of text that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_idle(&self) -> bool {
        self.frames.is_empty() && self.flushed
    }

    pub(super) fn progress(&self) -> Instant {
        self.progress
    }

    /// Hands everything to the socket and flushes once.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        while !self.frames.is_empty() {
            ready!(self.sink.poll_ready_unpin(cx))?;
            if let Some((message, reserved)) = self.frames.pop_front() {
                if let Message::Text(text) = &message {
                    self.bytes -= text.len();
                }
                self.left += reserved;
                self.flushed = false;
                self.progress = Instant::now();
                self.sink.start_send_unpin(message)?;
            }
        }
        if !self.flushed {
            ready!(self.sink.poll_flush_unpin(cx))?;
            self.flushed = true;
        }
        self.progress = Instant::now();
        Poll::Ready(Ok(()))
    }

    /// Drops what waits and flushes what the socket has, such as its own answer to a close frame.
    pub(super) async fn abandon(&mut self) {
        self.frames.clear();
        // The peer may be gone.
        let _ = self.sink.flush().await;
    }
}
