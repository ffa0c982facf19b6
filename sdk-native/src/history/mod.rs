//! The past of a topic: a page at a time, or as one stream.
//!
//! ```text
//!   Client::history ──► /replay, page after page ─┐
//!                                                 ├─ Reader ──► History, a Stream
//!   Client::export ───► /export, line after line ─┘
//! ```

mod lines;
mod reader;

use std::{fmt, marker::PhantomData, pin::Pin, sync::Arc, task::Poll};

use futures_util::{Stream, StreamExt};
use prom_protocol::{StartFrom, SubscribeOptions, Topic};
use serde::de::DeserializeOwned;

use self::reader::{Item, Reader, Source};
use crate::{Error, Event, Gap, command::Inner};

/// What to read of a topic's past. Await it for a [`History`]: that makes the first request, so what the hub refuses is told
/// there.
#[must_use = "nothing is asked for before this is awaited"]
pub struct HistoryBuilder<T> {
    inner: Arc<Inner>,
    topic: String,
    from: StartFrom,
    limit: Option<u64>,
    whole: bool,
    payload: PhantomData<fn() -> T>,
}

impl<T> HistoryBuilder<T> {
    pub(crate) fn new(inner: &Arc<Inner>, topic: String, whole: bool) -> Self {
        let inner = Arc::clone(inner);
        Self { inner, topic, from: StartFrom::Earliest, limit: None, whole, payload: PhantomData }
    }

    /// Where to start; default [`StartFrom::Earliest`]. [`StartFrom::Snapshot`] is refused.
    pub fn from(mut self, from: StartFrom) -> Self {
        self.from = from;
        self
    }

    /// Most events; default: all there is.
    pub fn limit(mut self, events: u64) -> Self {
        self.limit = Some(events);
        self
    }
}

impl<T: DeserializeOwned + 'static> HistoryBuilder<T> {
    async fn open(self) -> Result<History<T>, Error> {
        let Self { inner, topic, from, limit, whole, .. } = self;
        let topic = Topic::new(&topic)?;
        if from == StartFrom::Snapshot {
            return Err(refused("from must be earliest, latest, ts, afterId or afterSeq"));
        }
        // The hub's own limits, before it is asked.
        let options = SubscribeOptions { from, ..SubscribeOptions::default() };
        let json =
            serde_json::to_string(&options).map_err(|error| Error::payload("from does not become JSON", error))?;
        SubscribeOptions::parse(&json).map_err(|refusal| Error::of(refusal.code(), refusal.message_without_opts()))?;
        let source = if whole {
            Source::Export { lines: None, end: u64::MAX, fruitless: false }
        } else {
            Source::Pages { page: Vec::new().into_iter(), more: true }
        };
        let mut reader = Reader::new(inner, topic, options.from, limit.unwrap_or(u64::MAX), source);
        reader.open().await?;
        let end = reader.end();
        let items = futures_util::stream::unfold(reader, async |mut reader| {
            let item = match reader.next().await.transpose()? {
                Ok(Item::Event(event)) => Recorded::new(event).map(HistoryItem::Event),
                Ok(Item::Gap(gap)) => Ok(HistoryItem::Gap(gap)),
                Err(error) => Err(error),
            };
            Some((item, reader))
        });
        Ok(History { items: Box::pin(items.fuse()), end })
    }
}

impl<T: DeserializeOwned + 'static> IntoFuture for HistoryBuilder<T> {
    type Output = Result<History<T>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

impl<T> fmt::Debug for HistoryBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HistoryBuilder")
            .field("topic", &self.topic)
            .field("from", &self.from)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// What a [`History`] yields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HistoryItem<T> {
    /// An event.
    Event(Recorded<T>),
    /// Events between the last one and the next, or after the position that was asked for, are no longer retained.
    Gap(Gap),
}

/// An event of the past.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Recorded<T> {
    /// The payload, deserialised.
    pub payload: T,
    /// The event it came in.
    pub event: Event,
}

impl<T: DeserializeOwned> Recorded<T> {
    fn new(event: Event) -> Result<Self, Error> {
        match event.payload() {
            Ok(payload) => Ok(Self { payload, event }),
            Err(error) => Err(error.about(&format!("event {}: ", event.seq))),
        }
    }
}

/// The past of a topic, in seq order: a stream that ends.
///
/// It is read as it is taken, and no further than a page, or what a socket holds. When the connection breaks, the token expires
/// or the hub ends, it goes on after the last event on a new connection, with a new token, for as long as the client's
/// request timeout; then, and when the hub refuses, the error is the last item. An error of
/// [`crate::ErrorKind::Payload`] concerns one event, which it names, and the stream goes on.
///
/// Dropping it closes its connection. It needs no WebSocket, and ends with [`crate::ErrorKind::Closed`] when the client is
/// closed.
pub struct History<T> {
    items: Pin<Box<dyn Stream<Item = Result<HistoryItem<T>, Error>> + Send>>,
    end: Option<u64>,
}

impl<T> History<T> {
    /// The next event or gap; none at the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<HistoryItem<T>, Error>> {
        std::future::poll_fn(|cx| self.items.as_mut().poll_next(cx)).await
    }

    /// The seq that an export ends at: the last of the topic when it began, 0 for a topic without events. None for
    /// [`crate::Client::history`], which ends where the topic ends when it gets there.
    pub fn end(&self) -> Option<u64> {
        self.end
    }
}

impl<T> Stream for History<T> {
    type Item = Result<HistoryItem<T>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.as_mut().poll_next(cx)
    }
}

impl<T> fmt::Debug for History<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").field("end", &self.end).finish_non_exhaustive()
    }
}

fn refused(message: &str) -> Error {
    Error::of(prom_protocol::ErrorCode::BadFrame, message)
}
