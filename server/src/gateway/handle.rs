//! The way to a connection, for the writer and the groups. Nobody who uses it ever waits.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use prom_protocol::{ServerFrame, Topic};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    delivery::{Delivery, MemberId},
    writer::Outcomes,
};

/// A message to a connection. The queue is not bounded by itself but by what may be under way: publishes, settles and
/// credit are counted by the connection, delivered bytes by [`ConnectionHandle::reserve`].
#[derive(Debug)]
pub enum ToConnection {
    /// What became of its oldest unanswered publishes.
    Published(Outcomes),
    /// Events for one of its members.
    Deliver {
        /// Which.
        member: MemberId,
        /// The events, in order.
        deliveries: Vec<Delivery>,
        /// The zero of the deadlines.
        clock: Instant,
    },
    /// Events of a member's topic are gone.
    Gap {
        /// Which.
        member: MemberId,
        /// The concrete topic.
        topic: Topic,
        /// First seq.
        from: u64,
        /// Last seq.
        to: u64,
    },
    /// An answer, encoded.
    Answer(Vec<u8>),
}

/// Bytes delivered to a connection beyond which groups stop giving it more.
const HIGH: usize = 1024 * 1024;
/// Bytes below which they start again.
const LOW: usize = HIGH / 2;

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConnectionHandle {
    messages: mpsc::UnboundedSender<ToConnection>,
    load: Arc<Load>,
}

#[derive(Debug, Default)]
struct Load {
    bytes: AtomicUsize,
    /// A group has stopped for this connection.
    blocked: AtomicBool,
}

impl ConnectionHandle {
    /// A handle and the queue behind it.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<ToConnection>) {
        let (messages, received) = mpsc::unbounded_channel();
        (Self { messages, load: Arc::default() }, received)
    }

    /// Where the writer's answers go.
    pub fn sender(&self) -> mpsc::UnboundedSender<ToConnection> {
        self.messages.clone()
    }

    /// Queues a message. The connection may be gone; what it held is then given back by whoever it was leased from.
    pub fn send(&self, message: ToConnection) {
        let _ = self.messages.send(message);
    }

    /// Queues an answer.
    pub fn answer(&self, frame: &ServerFrame<'_>) {
        let mut bytes = Vec::with_capacity(128);
        frame.encode(&mut bytes);
        self.send(ToConnection::Answer(bytes));
    }

    /// Counts an event that is about to be sent. `false`: send this one, and no more until the connection says so.
    pub fn reserve(&self, bytes: usize) -> bool {
        let room = self.load.bytes.fetch_add(bytes, Ordering::SeqCst) + bytes <= HIGH;
        if !room {
            self.load.blocked.store(true, Ordering::SeqCst);
        }
        room
    }

    /// Counts events that were sent. `true`: groups have stopped and are to be told that there is room.
    pub fn release(&self, bytes: usize) -> bool {
        let left = self.load.bytes.fetch_sub(bytes, Ordering::SeqCst).saturating_sub(bytes);
        left <= LOW && self.load.blocked.swap(false, Ordering::SeqCst)
    }
}
