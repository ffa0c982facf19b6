//! The way to a consumer, which is what has members in groups: a connection, or the projector. The writer and the groups
//! use it, and never wait for it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use prom_delivery::{Delivery, MemberId};
use prom_protocol::{ServerFrame, Topic};
use tokio::{sync::mpsc, time::Instant};

use crate::flow::writer::{Answer, Outcomes};

/// A message to a consumer. The queue is not bounded by itself but by what may be under way: publishes, settles and
/// credit are counted by the consumer, delivered bytes by [`ConsumerHandle::reserve`].
#[derive(Debug)]
pub(crate) enum ToConsumer {
    /// What became of its oldest unanswered publishes.
    Published(Outcomes),
    /// Events for one of its members.
    Deliver {
        /// The member they are for.
        member: MemberId,
        /// The events, in order.
        deliveries: Vec<Delivery>,
        /// Lease deadlines are milliseconds after this instant.
        clock: Instant,
    },
    /// Events of a member's topic are gone.
    Gap {
        /// The member that will not have them.
        member: MemberId,
        /// The concrete topic.
        topic: Topic,
        /// First seq that is gone.
        from: u64,
        /// Last seq that is gone.
        to: u64,
    },
    /// One of its members is none any more: what it subscribed to was removed. It still has to say that it leaves.
    Revoked {
        /// The member.
        member: MemberId,
        /// Why, for people.
        why: &'static str,
    },
    /// An answer, encoded.
    Answer(Vec<u8>),
}

/// Bytes delivered to a consumer beyond which groups stop giving it more.
const HIGH: usize = 1024 * 1024;
/// Bytes below which they start again.
const LOW: usize = HIGH / 2;

/// The sending end of a consumer's queue. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ConsumerHandle {
    messages: mpsc::UnboundedSender<ToConsumer>,
    load: Arc<Load>,
}

#[derive(Debug, Default)]
struct Load {
    bytes: AtomicUsize,
    /// A group has stopped giving events to this consumer.
    blocked: AtomicBool,
}

impl ConsumerHandle {
    /// A handle and the queue behind it.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<ToConsumer>) {
        let (messages, received) = mpsc::unbounded_channel();
        (Self { messages, load: Arc::default() }, received)
    }

    /// Queues a message. The consumer may be gone; its leases then go back to their groups.
    pub(crate) fn send(&self, message: ToConsumer) {
        let _ = self.messages.send(message);
    }

    /// Queues an answer to a settle.
    pub(crate) fn reply(&self, frame: &ServerFrame<'_>) {
        let mut bytes = Vec::with_capacity(128);
        frame.encode(&mut bytes);
        self.send(ToConsumer::Answer(bytes));
    }

    /// Counts an event that is about to be sent. `false`: send this one, and no more until the
    /// consumer has room again ([`ToGroup::Unblock`](super::ToGroup::Unblock)).
    pub(crate) fn reserve(&self, bytes: usize) -> bool {
        let room = self.load.bytes.fetch_add(bytes, Ordering::SeqCst) + bytes <= HIGH;
        if !room {
            self.load.blocked.store(true, Ordering::SeqCst);
        }
        room
    }

    /// Counts events that were sent. `true`: groups have stopped for this consumer and must be unblocked.
    pub(crate) fn release(&self, bytes: usize) -> bool {
        let left = self.load.bytes.fetch_sub(bytes, Ordering::SeqCst).saturating_sub(bytes);
        left <= LOW && self.load.blocked.swap(false, Ordering::SeqCst)
    }
}

impl Answer for ConsumerHandle {
    fn answer(&self, outcomes: Outcomes) {
        self.send(ToConsumer::Published(outcomes));
    }
}
