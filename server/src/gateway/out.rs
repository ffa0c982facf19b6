//! What a connection has to write.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
};

use axum::extract::ws::{Message, Utf8Bytes};
use bytes::Bytes;
use futures_util::{Sink, SinkExt};
use tokio::time::Instant;

/// A message of several frames is no longer than this; a longer frame goes alone.
const MESSAGE_BYTES: usize = 64 * 1024;

/// The frames that wait for a socket, and when it last took one.
#[derive(Debug)]
pub(super) struct Out<S> {
    sink: S,
    /// Each with the bytes that a group reserved for it (`ConsumerHandle::reserve`); 0 for other frames.
    frames: VecDeque<(Message, usize)>,
    bytes: usize,
    /// Whether the peer takes several frames in one message.
    batching: bool,
    /// So many of the first frames go alone all the same: they were there when it was agreed, and its answer is one of them.
    alone: usize,
    flushed: bool,
    /// When something was last taken by the socket, or nothing waited.
    progress: Instant,
    /// Reserved bytes handed to the socket since the last `take_left`. Counted here because the caller may drop
    /// `poll_write` before it is done.
    left: usize,
}

impl<S: Sink<Message, Error = axum::Error> + Unpin> Out<S> {
    pub(super) fn new(sink: S) -> Self {
        Self {
            sink,
            frames: VecDeque::new(),
            bytes: 0,
            batching: false,
            alone: 0,
            flushed: true,
            progress: Instant::now(),
            left: 0,
        }
    }

    /// Whether the peer takes several frames in one message, and sends them.
    pub(super) fn is_batching(&self) -> bool {
        self.batching
    }

    /// Says so for the frames that are added from now on.
    pub(super) fn set_batching(&mut self, batching: bool) {
        self.batching = batching;
        self.alone = self.frames.len();
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
            if let Some(message) = self.next_message() {
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

    /// Takes the frames of the next message: one, or all text frames that have room in it where the peer takes several.
    fn next_message(&mut self) -> Option<Message> {
        let (first, reserved) = self.frames.pop_front()?;
        self.left += reserved;
        let Message::Text(first) = first else { return Some(first) };
        self.bytes -= first.len();
        if self.alone > 0 || !self.batching {
            self.alone = self.alone.saturating_sub(1);
            return Some(Message::Text(first));
        }
        let mut message = Vec::new();
        while let Some((Message::Text(text), _)) = self.frames.front()
            && message.len().max(first.len()) + 1 + text.len() <= MESSAGE_BYTES
        {
            if message.is_empty() {
                message.extend_from_slice(first.as_bytes());
            }
            message.push(b'\n');
            message.extend_from_slice(text.as_bytes());
            self.bytes -= text.len();
            if let Some((_, reserved)) = self.frames.pop_front() {
                self.left += reserved;
            }
        }
        if message.is_empty() {
            return Some(Message::Text(first));
        }
        // Texts and line breaks between them.
        Some(Message::Text(Utf8Bytes::try_from(Bytes::from(message)).unwrap_or_default()))
    }

    /// Drops what waits and flushes what the socket has, such as its own answer to a close frame.
    pub(super) async fn abandon(&mut self) {
        self.frames.clear();
        self.alone = 0;
        // The peer may be gone.
        let _ = self.sink.flush().await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    /// A socket that takes `room` frames, and flushes when it is told to.
    #[derive(Default)]
    struct Slow {
        room: usize,
        flushes: bool,
        taken: Vec<String>,
    }

    impl Sink<Message> for Slow {
        type Error = axum::Error;

        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
            if self.room > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), axum::Error> {
            self.room -= 1;
            let text = if let Message::Text(text) = message { text.as_str().to_owned() } else { "control".to_owned() };
            self.taken.push(text);
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
        let mut out = Out::new(Slow { room: 2, ..Slow::default() });
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

    #[test]
    fn what_leaves_in_one_wake_up_leaves_in_one_message_where_that_was_agreed() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut out = Out::new(Slow { room: 99, flushes: true, ..Slow::default() });
        let large = "x".repeat(MESSAGE_BYTES);
        let push = |out: &mut Out<Slow>, text: &str| out.push(text.as_bytes().to_vec(), 1);
        push(&mut out, "before");
        push(&mut out, "the answer");
        out.set_batching(true);
        for text in ["a", "b", &large, "c", "d"] {
            push(&mut out, text);
        }
        out.control(Message::Ping(Bytes::new()));
        push(&mut out, "e");
        assert!(out.poll_write(&mut cx).is_ready());
        assert_eq!(out.sink.taken, ["before", "the answer", "a\nb", &large, "c\nd", "control", "e"]);
        assert_eq!((out.bytes(), out.take_left()), (0, 8));

        out.sink.taken.clear();
        let half = "y".repeat(MESSAGE_BYTES / 2);
        for text in [&half[1..], &half, &half, "f"] {
            push(&mut out, text);
        }
        assert!(out.poll_write(&mut cx).is_ready());
        let lengths: Vec<usize> = out.sink.taken.iter().map(String::len).collect();
        assert_eq!(lengths, [MESSAGE_BYTES, MESSAGE_BYTES / 2 + 2], "full to the last byte, and no further");

        out.sink.taken.clear();
        push(&mut out, "g");
        out.set_batching(false);
        push(&mut out, "h");
        push(&mut out, "i");
        assert!(out.poll_write(&mut cx).is_ready());
        assert_eq!(out.sink.taken, ["g", "h", "i"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_not_stuck_when_it_is_pinged() {
        // The time it had to take a ping was counted from the frame before it, however long ago that was.
        let mut out = Out::new(Slow::default());
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        out.control(Message::Ping(Bytes::new()));
        assert_eq!(out.progress(), Instant::now());
    }
}
