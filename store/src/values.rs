//! What goes into a store and what comes out of it.

use std::sync::Arc;

use bytes::Bytes;
use prom_protocol::{EventOptions, Group, Topic, encode_event_body_by};

/// A committed event: what delivery needs to know of it, and its wire JSON as every subscriber gets it.
#[derive(Debug)]
pub struct Record {
    /// Unique within its topic.
    pub id: Arc<str>,
    /// Position in its topic, from 1.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub ts: u64,
    /// What the event is about.
    pub key: Option<Box<str>>,
    /// The event's wire JSON, one line.
    pub json: Bytes,
}

impl Record {
    /// The event's wire JSON as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.json).unwrap_or_default()
    }
}

/// A committed event, shared.
pub type Stored = Arc<Record>;

/// An event to be appended.
#[derive(Debug)]
pub struct Append {
    /// The topic it is appended to.
    pub topic: Topic,
    /// Chosen by the publisher; `None`: the store makes one.
    pub id: Option<Arc<str>>,
    /// Chosen by the publisher; `None`: [`Batch::now`].
    pub ts: Option<u64>,
    /// What the event is about.
    pub key: Option<Box<str>>,
    /// The second part of the wire JSON: see [`prom_protocol::encode_event_body`].
    pub body: Vec<u8>,
}

impl Append {
    /// An event to append to `topic` that nobody's token published: its options (id, ts, key and those of the body) and its
    /// payload as JSON text. Both are taken as they are: the caller has checked them.
    pub fn new(topic: Topic, options: &EventOptions<'_>, payload: &str) -> Self {
        Self::published_by(topic, options, None, payload)
    }

    /// The same, published by this subject: the `sub` of the publisher's token, never what the publisher says itself. None:
    /// the token has no `sub`.
    pub fn published_by(topic: Topic, options: &EventOptions<'_>, by: Option<&str>, payload: &str) -> Self {
        // `,"by":""` are 8 bytes.
        let mut body = Vec::with_capacity(payload.len() + 96 + by.map_or(0, |by| by.len() + 8));
        encode_event_body_by(&mut body, topic.as_str(), options, by, payload);
        Self {
            topic,
            id: options.id.as_ref().map(|id| id.as_str().into()),
            ts: options.ts,
            key: options.key.as_ref().map(|key| key.as_str().into()),
            body,
        }
    }
}

/// What became of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The event's id.
    pub id: Arc<str>,
    /// Its position.
    pub seq: u64,
    /// An event of that id stood there before; nothing was appended.
    pub duplicate: bool,
}

/// Behind every seq: integers beyond 2^53 do not survive JavaScript.
const SEQ_MAX: u64 = (1 << 53) - 1;

/// How far a group is in a topic: every event at or below `floor` is settled, and so are those in `settled`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The log this cursor belongs to.
    pub epoch: u64,
    /// Every event at or below is settled.
    pub floor: u64,
    /// Id of the event at `floor`; none while nothing is settled.
    pub last_id: Option<Arc<str>>,
    /// Its `ts`.
    pub last_ts: u64,
    /// Highest seq that was ever delivered; what is unsettled at or below it was delivered once unless `attempts` says
    /// otherwise.
    pub delivered: u64,
    /// Settled ranges above `floor`, first and last seq of each, ascending and apart.
    pub settled: Vec<(u64, u64)>,
    /// Deliveries so far of unsettled events at or below `delivered` that did not have exactly one, by seq, ascending:
    /// more, or none for those that later events passed by.
    pub attempts: Vec<(u64, u32)>,
}

impl Cursor {
    /// A position behind every event there can be: it holds nothing back, and nobody goes on from it. For a group that has
    /// gone on under another name.
    pub fn retired(epoch: u64) -> Self {
        Self { epoch, floor: SEQ_MAX, delivered: SEQ_MAX, ..Self::default() }
    }

    /// Whether it is one that nobody goes on from.
    pub fn is_retired(&self) -> bool {
        self.floor == SEQ_MAX
    }

    /// About how many bytes it takes beside its names: 20,000 ranges and attempts are some hundred kilobytes.
    pub fn bytes(&self) -> usize {
        self.settled.len() * 16 + self.attempts.len() * 12
    }
}

/// A cursor to be stored.
#[derive(Debug, Clone)]
pub struct CursorPut {
    /// The topic.
    pub topic: Topic,
    /// The group.
    pub group: Group,
    /// The whole cursor; it replaces the stored one.
    pub cursor: Cursor,
}

/// What one commit writes.
#[derive(Debug, Default)]
pub struct Batch {
    /// The hub's clock, milliseconds since the Unix epoch.
    pub now: u64,
    /// Events, appended in this order.
    pub appends: Vec<Append>,
    /// Cursors to store; each replaces the one that stands.
    pub cursors: Vec<CursorPut>,
}

/// The end of a topic's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Identity of the log.
    pub epoch: u64,
    /// First seq that is retained; `seq + 1` when nothing is.
    pub first: u64,
    /// Last seq that was committed; 0 when nothing was.
    pub seq: u64,
}

/// Some events of a topic in seq order.
#[derive(Debug, Default)]
pub struct Page {
    /// The events.
    pub events: Vec<Stored>,
    /// The log they are of; 0 for a topic without one.
    pub epoch: u64,
    /// First seq that is retained: if it is above what was asked for, the events between are gone.
    pub first: u64,
    /// Last seq this page has looked at; reading goes on after it.
    pub read_to: u64,
    /// Ranges of seqs up to `read_to` whose events cannot be read, first and last of each, ascending: only of
    /// [`Store::salvage`](crate::Store::salvage).
    pub damaged: Vec<(u64, u64)>,
}

/// Some of the newest events per key of a topic, in key order.
#[derive(Debug, Default)]
pub struct LatestPage {
    /// The newest event of each key.
    pub events: Vec<Stored>,
    /// Whether there are keys behind the last of these.
    pub more: bool,
    /// Keys that were left out because their newest event cannot be read.
    pub damaged: u64,
}
