//! Durable subscriptions: the builder and the stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use prom_protocol::{AckMode, ErrorCode, Filter, Ordering, StartFrom, SubscribeOptions};
use serde::de::DeserializeOwned;

use crate::{
    BoxError, DedupeStore, Delivery, Error, Event, Handling, Received, Stopping,
    command::{Command, Credit, Inner, SubscribeCommand},
    dedupe::Once,
    feed::{Feed, Item},
    handle::call,
    owner::millis,
    shared::Shared,
};

/// Events that may wait for a consumer without credit.
pub(crate) const BUFFER: usize = 1024;

/// Options of a durable subscription. Await it for a [`Subscription`], or finish it with [`Self::handle`].
#[derive(Debug, Clone)]
#[must_use = "nothing is subscribed before this is awaited"]
pub struct SubscribeBuilder {
    inner: Arc<Inner>,
    topic: String,
    group: String,
    options: SubscribeOptions,
    timeout: Option<Duration>,
    handler_timeout: Option<Duration>,
}

impl SubscribeBuilder {
    pub(crate) fn new(inner: &Arc<Inner>, topic: String, group: String) -> Self {
        Self {
            inner: Arc::clone(inner),
            topic,
            group,
            options: SubscribeOptions::default(),
            timeout: None,
            handler_timeout: None,
        }
    }

    /// All options at once, as the protocol has them.
    pub fn options(mut self, options: SubscribeOptions) -> Self {
        self.options = options;
        self
    }

    /// Where the group starts if it has no cursor yet; default [`StartFrom::Latest`].
    pub fn from(mut self, from: StartFrom) -> Self {
        self.options.from = from;
        self
    }

    /// Unsettled deliveries this client may hold, 1 to 10,000; default 100. With [`Self::handle`]: how many handlers run at
    /// once.
    pub fn max_in_flight(mut self, events: u32) -> Self {
        self.options.max_in_flight = events;
        self
    }

    /// The lease on each delivery, one second to twelve hours; default 30 s.
    pub fn ack_timeout(mut self, lease: Duration) -> Self {
        self.options.ack_timeout_ms = millis(lease);
        self
    }

    /// Deliveries before an event becomes a dead letter, 1 to 1000; default 5.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.options.max_attempts = attempts;
        self
    }

    /// How many events the hub reads ahead; a hint. Default: the hub decides.
    pub fn batch_size(mut self, events: u32) -> Self {
        self.options.batch_size = Some(events);
        self
    }

    /// At most one unsettled event per key; events of a key never overtake one another.
    pub fn ordered_by_key(mut self) -> Self {
        self.options.ordered = Ordering::Key;
        self
    }

    /// The hub settles each event as it sends it: at most once, and nothing to acknowledge.
    pub fn without_acks(mut self) -> Self {
        self.options.ack = AckMode::None;
        self
    }

    /// Which events are wanted; the others count as settled.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.options.filter = filter;
        self
    }

    /// How long to wait for the hub's answer; default: the client's request timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// A handler that takes longer is cancelled, and its event given back. Default: no limit.
    pub fn handler_timeout(mut self, limit: Duration) -> Self {
        self.handler_timeout = Some(limit);
        self
    }

    /// Subscribes and calls `handler` for each delivery, in a task each, as many at once as `max_in_flight` says.
    ///
    /// `Ok` acknowledges. `Err`, a panic, and a payload that is no `T` give the event back with the reason: it is delivered
    /// again after a while, and becomes a dead letter after the last attempt. Leases are extended while a handler runs.
    ///
    /// ```no_run
    /// # async fn example(client: prom_sdk::Client) -> Result<(), prom_sdk::Error> {
    /// use prom_sdk::Received;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Order { order: u64 }
    ///
    /// let handling = client
    ///     .subscribe("orders.paid", "billing")
    ///     .max_in_flight(8)
    ///     .handle(async |received: Received<Order>| {
    ///         println!("{} was paid", received.payload.order);
    ///         Ok::<_, std::io::Error>(())
    ///     })
    ///     .await?;
    /// handling.finished().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As awaiting the builder.
    pub async fn handle<T, F, Fut, E>(self, handler: F) -> Result<Handling, Error>
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(Received<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let handler = Arc::new(handler);
        let job = move |event, context, stopping| call(Arc::clone(&handler), event, context, stopping);
        let limit = self.handler_timeout;
        Ok(Handling::start(self.open().await?, limit, job))
    }

    /// As [`Self::handle`], and an event that `store` has a mark of is acknowledged without calling `handler`. What that
    /// promises, and what it does not, is documented at [`DedupeStore`].
    ///
    /// The scope of the marks is `<topic>::<group>` with the topic or pattern of this subscription, as the hub names the
    /// group's cursor: groups of one name on two patterns are two consumers. The id of a mark is the event's; of a
    /// pattern `<topic>::<id>` with the event's own topic, for ids are unique within a topic.
    ///
    /// While the store fails the event is kept, its lease is extended and the store is tried again, until the handling is
    /// stopped: then the event goes back to the group. It uses up no attempts.
    ///
    /// # Errors
    /// As awaiting the builder; [`crate::ErrorKind::Invalid`] together with [`Self::without_acks`].
    pub async fn handle_exactly_once<T, S, F, Fut, E>(self, store: S, handler: F) -> Result<Handling, Error>
    where
        T: DeserializeOwned + Send + 'static,
        S: DedupeStore,
        F: Fn(Received<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.require_acks()?;
        let once = Arc::new(Once::new(store, self.scope(), Duration::from_millis(self.options.ack_timeout_ms)));
        let handler = Arc::new(handler);
        let several = self.topic.contains('*');
        let job = move |event: Event, context, stopping: Stopping| {
            // Ids are unique within a topic.
            let id = if several { format!("{}::{}", event.topic, event.id) } else { event.id.clone() };
            let once = Arc::clone(&once);
            let run = call(Arc::clone(&handler), event, context, stopping.clone());
            async move { once.run(&id, stopping, run).await }
        };
        let limit = self.handler_timeout;
        Ok(Handling::start(self.open().await?, limit, job))
    }

    /// Refuses a subscription without acknowledgements: what settles an event before it is handled can promise nothing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a subscription [without acknowledgements](Self::without_acks).
    pub fn require_acks(&self) -> Result<(), Error> {
        if self.options.ack == AckMode::None {
            let words = "exactly once needs acknowledgements: ack must be explicit";
            return Err(prom_sdk_core::Error::of(ErrorCode::BadFrame, words).into());
        }
        Ok(())
    }

    /// The scope of this consumer's marks in a [`DedupeStore`]: `<topic>::<group>`.
    pub fn scope(&self) -> String {
        format!("{}::{}", self.topic, self.group)
    }

    async fn open(self) -> Result<Subscription, Error> {
        let Self { inner, topic, group, options, timeout, .. } = self;
        let json = to_json(&options)?;
        let (lease, most) = (Duration::from_millis(options.ack_timeout_ms), options.max_in_flight as usize);
        let explicit = options.ack == AckMode::Explicit;
        let credit = explicit.then_some(Credit { events: options.max_in_flight, lease });
        let ask = |reply| {
            let (group, buffer) = (Some(group), BUFFER);
            Command::Subscribe(Box::new(SubscribeCommand { topic, group, json, credit, timeout, buffer, reply }))
        };
        let feed = inner.ask(ask).await?;
        Ok(Subscription { feed, inner, lease, most })
    }
}

/// The options as they stand on the wire. What is out of range is refused as the hub does, without asking it.
pub(crate) fn to_json(options: &SubscribeOptions) -> Result<String, Error> {
    let json =
        serde_json::to_string(options).map_err(|error| Error::payload("the options do not become JSON", error))?;
    SubscribeOptions::parse(&json).map_err(prom_sdk_core::Error::from)?;
    Ok(json)
}

impl IntoFuture for SubscribeBuilder {
    type Output = Result<Subscription, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

/// A membership in a durable group: a stream of deliveries, over reconnects, until it ends for good.
///
/// Dropping it leaves the group: what is unsettled, also deliveries the program still holds, goes to other members. The
/// stream ends when the hub revokes the subscription or the client is closed; [`Self::error`] says why.
///
/// The leases of deliveries that wait here are extended, for as long as they wait: nobody else gets them, and they have used an
/// attempt. So give it the [`SubscribeBuilder::max_in_flight`] you work at, and drop a stream that you do not read. The lease of
/// one that was taken is the program's to extend ([`Delivery::extend`]); taken, it has at least half of it left.
#[derive(Debug)]
pub struct Subscription {
    feed: Feed,
    inner: Arc<Inner>,
    lease: Duration,
    most: usize,
}

impl Subscription {
    /// The next delivery; none when the subscription has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Stops delivery to this client, also over reconnects. What was delivered already still comes, here and nowhere else.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotSubscribed`]: the subscription has ended. [`crate::ErrorKind::Timeout`].
    pub async fn pause(&self) -> Result<(), Error> {
        self.inner.ask(|reply| Command::Pause(self.feed.id, true, reply)).await
    }

    /// Starts delivery to this client again.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn resume(&self) -> Result<(), Error> {
        self.inner.ask(|reply| Command::Pause(self.feed.id, false, reply)).await
    }

    /// Leaves the group, as dropping does, and waits for the hub's answer: after it there is nothing more to come.
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

    /// What the handles of its client share.
    pub(crate) fn client(&self) -> *const Shared {
        Arc::as_ptr(&self.feed.shared)
    }

    pub(crate) fn lease(&self) -> Duration {
        self.lease
    }

    pub(crate) fn max_in_flight(&self) -> usize {
        self.most
    }
}

impl Stream for Subscription {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Delivery>> {
        loop {
            match ready!(self.feed.poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(Item::Event(raw)) => match Event::parse(&raw.event) {
                    Ok(event) => return Poll::Ready(Some(Delivery::new(&self.inner, &self.feed, event, raw))),
                    // A defect of the hub. The lease brings it back until it becomes a dead letter.
                    Err(error) => tracing::error!(%error, "an event from the hub cannot be read"),
                },
                // `Client::events` reports gaps; the others concern live subscriptions.
                Some(Item::Gap(_) | Item::Live(_) | Item::Lagged(_)) => {}
            }
        }
    }
}
