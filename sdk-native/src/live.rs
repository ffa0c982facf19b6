//! Ephemeral subscriptions: a stream of events without a group.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use prom_protocol::{Filter, StartFrom, SubscribeOptions};

use crate::{
    Error, Event,
    command::{Command, Inner, SubscribeCommand},
    feed::{Feed, Gap, Item},
    subscription::{BUFFER, to_json},
};

/// Options of a live subscription. Await it for a [`Live`].
#[derive(Debug, Clone)]
#[must_use = "nothing is subscribed before this is awaited"]
pub struct LiveBuilder {
    inner: Arc<Inner>,
    topic: String,
    options: SubscribeOptions,
    buffer: usize,
    timeout: Option<Duration>,
}

impl LiveBuilder {
    pub(crate) fn new(inner: &Arc<Inner>, topic: String) -> Self {
        let options = SubscribeOptions::default();
        Self { inner: Arc::clone(inner), topic, options, buffer: BUFFER, timeout: None }
    }

    /// Where to start, on this and every later connection; default [`StartFrom::Latest`].
    pub fn from(mut self, from: StartFrom) -> Self {
        self.options.from = from;
        self
    }

    /// Which events are wanted.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.options.filter = filter;
        self
    }

    /// Events that may wait for a slow consumer before the hub is asked to hold the others back; default 1024. They are
    /// not lost: they stay in the hub's log until the consumer has caught up.
    pub fn buffer(mut self, events: usize) -> Self {
        self.buffer = events;
        self
    }

    /// How long to wait for the hub's answer; default: the client's request timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn open(self) -> Result<Live, Error> {
        let Self { inner, topic, options, buffer, timeout } = self;
        let json = to_json(&options)?;
        let ask = |reply| {
            let (group, credit) = (None, None);
            Command::Subscribe(Box::new(SubscribeCommand { topic, group, json, credit, timeout, buffer, reply }))
        };
        let feed = inner.ask(ask).await?;
        Ok(Live { feed, inner, connection: 0, waiting: None })
    }
}

impl IntoFuture for LiveBuilder {
    type Output = Result<Live, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

/// What a [`Live`] yields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LiveItem {
    /// An event.
    Event(Event),
    /// With [`StartFrom::Snapshot`]: the newest event of every key has come; what follows are changes. Comes again after a
    /// reconnect; keys that did not come since are gone.
    SnapshotComplete,
    /// What follows came by a new connection, which started at its [`LiveBuilder::from`] again: events may be missing
    /// before it, or come again after it.
    Reconnected,
    /// Events were removed by retention before they could be sent.
    Gap(Gap),
    /// So many events were dropped because the consumer was too slow, in spite of the hub being asked to wait.
    Lagged(u64),
}

/// A live subscription: a stream of what happens, over reconnects, until it ends for good.
///
/// Dropping it unsubscribes. A slow consumer is waited for: the events stay in the hub's log.
#[derive(Debug)]
pub struct Live {
    feed: Feed,
    inner: Arc<Inner>,
    /// By which the last item came.
    connection: u32,
    /// Comes after a [`LiveItem::Reconnected`].
    waiting: Option<LiveItem>,
}

impl Live {
    /// The next item; none when the subscription has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<LiveItem> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Stops delivery, also over reconnects. What was sent already still comes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotSubscribed`]: the subscription has ended. [`crate::ErrorKind::Timeout`].
    pub async fn pause(&self) -> Result<(), Error> {
        self.inner.ask(|reply| Command::Pause(self.feed.id, true, reply)).await
    }

    /// Starts delivery again, where it stopped.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn resume(&self) -> Result<(), Error> {
        self.inner.ask(|reply| Command::Pause(self.feed.id, false, reply)).await
    }

    /// Ends it, as dropping does, and waits for the hub's answer.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn unsubscribe(self) -> Result<(), Error> {
        self.inner.ask(|reply| Command::Unsubscribe(self.feed.id, reply)).await
    }

    /// Why the stream has ended.
    pub fn error(&self) -> Option<Error> {
        self.feed.end()
    }

    /// Which connection the last item came by.
    pub(crate) fn connection(&self) -> u32 {
        self.connection
    }
}

impl Stream for Live {
    type Item = LiveItem;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<LiveItem>> {
        if let Some(item) = self.waiting.take() {
            return Poll::Ready(Some(item));
        }
        loop {
            let (connection, item) = match ready!(self.feed.poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(Item::Event(raw)) => match Event::parse(&raw.event) {
                    Ok(event) => (raw.connection, LiveItem::Event(event)),
                    Err(error) => {
                        tracing::error!(%error, "an event from the hub cannot be read");
                        continue;
                    }
                },
                Some(Item::Live(connection)) => (connection, LiveItem::SnapshotComplete),
                Some(Item::Gap(gap)) => (self.connection, LiveItem::Gap(gap)),
                Some(Item::Lagged(events)) => (self.connection, LiveItem::Lagged(events)),
            };
            let earlier = std::mem::replace(&mut self.connection, connection);
            if earlier != 0 && earlier != connection {
                self.waiting = Some(item);
                return Poll::Ready(Some(LiveItem::Reconnected));
            }
            return Poll::Ready(Some(item));
        }
    }
}
