//! What a connection has to write.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::time::Instant;
use tungstenite::{Message, Utf8Bytes};

use super::socket::{Lost, Wire};

/// A message of several frames is no longer than this; a longer frame goes alone.
const MESSAGE_BYTES: usize = 64 * 1024;

/// The frames that wait for a socket, and when it last took one.
#[derive(Debug)]
pub(super) struct Out<S> {
    pub(super) socket: S,
    /// Each with the bytes that a group reserved for it (`ConsumerHandle::reserve`); 0 for other frames.
    frames: VecDeque<(Message, usize)>,
    bytes: usize,
    /// Whether the peer takes several frames in one message.
    batching: bool,
    /// So many of the first frames go alone all the same: they were there when it was agreed, and its answer is one of them.
    alone: usize,
    flushed: bool,
    /// The socket has the answer to a ping that it did not send yet. Another ping is not read before it is gone: a peer
    /// that pings and does not read must not fill the hub with answers.
    pong: bool,
    /// When something was last taken by the socket, or nothing waited.
    progress: Instant,
    /// Reserved bytes handed to the socket since the last `take_left`. Counted here because the caller may drop
    /// `poll_write` before it is done.
    left: usize,
}

impl<S: Wire> Out<S> {
    pub(super) fn new(socket: S) -> Self {
        Self {
            socket,
            frames: VecDeque::new(),
            bytes: 0,
            batching: false,
            alone: 0,
            flushed: true,
            pong: false,
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

    /// A ping was read, and the socket holds its answer.
    pub(super) fn owe_pong(&mut self) {
        if self.is_idle() {
            self.progress = Instant::now();
        }
        self.flushed = false;
        self.pong = true;
    }

    /// Whether the answer to a ping waits.
    pub(super) fn owes_pong(&self) -> bool {
        self.pong
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
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        while !self.frames.is_empty() {
            ready!(self.socket.poll_ready(cx))?;
            if let Some(message) = self.next_message() {
                self.flushed = false;
                self.progress = Instant::now();
                self.socket.send(cx, message)?;
            }
        }
        if !self.flushed {
            ready!(self.socket.poll_flush(cx))?;
            self.flushed = true;
            self.pong = false;
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

    /// Drops what waits. What the socket has is still sent, such as its own answer to a close frame.
    pub(super) fn abandon(&mut self) {
        self.frames.clear();
        self.bytes = 0;
        self.alone = 0;
        self.flushed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket that takes `room` frames, and flushes when it is told to.
    #[derive(Default)]
    struct Slow {
        room: usize,
        flushes: bool,
        taken: Vec<String>,
    }

    impl Wire for Slow {
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Lost>> {
            if self.room > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn send(&mut self, _: &mut Context<'_>, message: Message) -> Result<(), Lost> {
            self.room -= 1;
            let text = if let Message::Text(text) = message { text.as_str().to_owned() } else { "control".to_owned() };
            self.taken.push(text);
            Ok(())
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Lost>> {
            if self.flushes { Poll::Ready(Ok(())) } else { Poll::Pending }
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
        out.socket.room = 1;
        assert!(out.poll_write(&mut cx).is_pending(), "not flushed");
        out.socket.flushes = true;
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
        assert_eq!(out.socket.taken, ["before", "the answer", "a\nb", &large, "c\nd", "control", "e"]);
        assert_eq!((out.bytes(), out.take_left()), (0, 8));

        out.socket.taken.clear();
        let half = "y".repeat(MESSAGE_BYTES / 2);
        for text in [&half[1..], &half, &half, "f"] {
            push(&mut out, text);
        }
        assert!(out.poll_write(&mut cx).is_ready());
        let lengths: Vec<usize> = out.socket.taken.iter().map(String::len).collect();
        assert_eq!(lengths, [MESSAGE_BYTES, MESSAGE_BYTES / 2 + 2], "full to the last byte, and no further");

        out.socket.taken.clear();
        push(&mut out, "g");
        out.set_batching(false);
        push(&mut out, "h");
        push(&mut out, "i");
        assert!(out.poll_write(&mut cx).is_ready());
        assert_eq!(out.socket.taken, ["g", "h", "i"]);
    }

    #[test]
    fn one_pong_waits_and_is_what_the_connection_is_stuck_on() {
        // They were no part of what waits, so neither a limit nor the time for a stuck peer knew of them.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut out = Out::new(Slow::default());
        out.owe_pong();
        assert!(out.owes_pong() && !out.is_idle());
        assert!(out.poll_write(&mut cx).is_pending());
        assert!(out.owes_pong());
        out.socket.flushes = true;
        assert!(out.poll_write(&mut cx).is_ready());
        assert!(!out.owes_pong() && out.is_idle());
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
