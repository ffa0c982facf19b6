//! What a connection has to write.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
};

use axum::extract::ws::{Message, Utf8Bytes};
use bytes::Bytes;
use futures_util::{Sink, SinkExt};
use tokio::time::Instant;

/// The frames that wait for a socket, and when it last took one.
#[derive(Debug)]
pub(super) struct Out<S> {
    sink: S,
    /// Each with the bytes that a group reserved for it (`ConsumerHandle::reserve`); 0 for other frames.
    frames: VecDeque<(Message, usize)>,
    bytes: usize,
    flushed: bool,
    /// When something was last taken by the socket, or nothing waited.
    progress: Instant,
    /// Reserved bytes handed to the socket since the last `take_left`. Counted here because the caller may drop
    /// `poll_write` before it is done.
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

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    /// A socket that takes `room` frames, and flushes when it is told to.
    struct Slow {
        room: usize,
        flushes: bool,
    }

    impl Sink<Message> for Slow {
        type Error = axum::Error;

        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
            if self.room > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn start_send(mut self: Pin<&mut Self>, _: Message) -> Result<(), axum::Error> {
            self.room -= 1;
            Ok(())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
            if self.flushes { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn bytes_that_left_are_counted_also_when_a_write_is_given_up_halfway() {
        // They were counted by who polled. When something else woke the connection they were lost, and after a megabyte
        // of them its groups took it for full for ever.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut out = Out::new(Slow { room: 2, flushes: false });
        for reserved in [10, 20, 40] {
            out.push(vec![b'x'; 5], reserved);
        }
        assert!(out.poll_write(&mut cx).is_pending());
        // Here the connection turns to something else.
        assert_eq!((out.take_left(), out.bytes(), out.is_idle()), (30, 5, false));
        out.sink.room = 1;
        assert!(out.poll_write(&mut cx).is_pending(), "not flushed");
        out.sink.flushes = true;
        assert!(out.poll_write(&mut cx).is_ready());
        out.skip(80);
        assert_eq!((out.take_left(), out.take_left(), out.is_idle()), (120, 0, true));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_not_stuck_when_it_is_pinged() {
        // The time it had to take a ping was counted from the frame before it, however long ago that was.
        let mut out = Out::new(Slow { room: 0, flushes: false });
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        out.control(Message::Ping(Bytes::new()));
        assert_eq!(out.progress(), Instant::now());
    }
}
