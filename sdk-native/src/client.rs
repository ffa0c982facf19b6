//! The client: the handle programs hold.

use std::{sync::Arc, time::Duration};

use prom_protocol::RawValue;
use prom_sdk_core::State;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use crate::{
    BoxError, ClientBuilder, DedupeStore, Error, Gap, Handling, HistoryBuilder, LiveBuilder, PublishOptions, Published,
    Publishing, Received, SubscribeBuilder, Watch,
    command::{Command, Inner},
    handle::within_handler_of,
    payload,
};

/// Where the connection stands, and why.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// The state now.
    pub state: State,
    /// Why the connection was lost or closed; none when the program closed it.
    pub error: Option<Error>,
    /// While the connection is lost: time from the loss until the next try.
    pub retry_in: Option<Duration>,
}

/// What a client reports that is no answer to a call.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClientEvent {
    /// A subscription missed events.
    Gap(Gap),
    /// The hub ended a subscription, for instance because a new token does not allow it.
    Revoked {
        /// Topic or pattern of the subscription.
        topic: String,
        /// Its group; none: a live subscription.
        group: Option<String>,
        /// The reason that the hub gave.
        error: Error,
    },
    /// An error of no request, for instance of an unconfirmed acknowledgement.
    Error(Error),
}

/// A connection to a hub that makes itself again when it is lost. Cheap to clone; all clones share one connection.
///
/// The connection ends with [`Self::close`], or when the last clone is dropped together with the subscriptions, deliveries,
/// histories and futures made by them. Until then every call is answered: by the hub, by a time limit, or by the end.
///
/// ```no_run
/// # async fn example() -> Result<(), prom_sdk::Error> {
/// use futures_util::StreamExt;
/// use prom_sdk::Client;
///
/// let client = Client::builder("ws://127.0.0.1:8090/ws").token("a.b.c").connect().await?;
/// client.publish("orders.paid", &serde_json::json!({"order": 7})).await?;
///
/// let mut orders = client.subscribe("orders.*", "billing").await?;
/// while let Some(delivery) = orders.next().await {
///     let order: serde_json::Value = delivery.payload()?;
///     println!("{order}");
///     delivery.ack().await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

impl Client {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// Starts to build a client of the hub at `url`, for instance `ws://127.0.0.1:8090/ws`.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(url)
    }

    /// Publishes an event, from the moment of the call, and resolves when the hub has committed it.
    ///
    /// Without a connection it waits for one, as long as the request timeout allows. It is sent again with the same id on
    /// every connection until it is answered, so it is committed once.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Forbidden`], [`crate::ErrorKind::Invalid`], [`crate::ErrorKind::TooLarge`],
    /// [`crate::ErrorKind::Timeout`], [`crate::ErrorKind::Payload`] for a value that does not become JSON, or what else
    /// the hub says.
    pub fn publish<T: Serialize + ?Sized>(&self, topic: &str, payload: &T) -> Publishing {
        Publishing::new(&self.0, payload::write(topic, payload), None)
    }

    /// The same with a key, an id, headers, tags and what else an event may carry.
    ///
    /// ```no_run
    /// # async fn example(client: prom_sdk::Client) -> Result<(), prom_sdk::Error> {
    /// use prom_sdk::PublishOptions;
    /// let options = PublishOptions::new().key("order-7").tag("eu");
    /// let published = client.publish_with("orders.paid", &serde_json::json!({"order": 7}), options).await?;
    /// println!("{} at {}", published.id, published.seq);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_with<T: Serialize + ?Sized>(&self, topic: &str, payload: &T, options: PublishOptions) -> Publishing {
        Publishing::new(&self.0, payload::write(topic, payload), Some(options))
    }

    /// The same with a payload that is JSON already. White space between its tokens may be lost.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_raw(&self, topic: &str, payload: &RawValue, options: PublishOptions) -> Publishing {
        Publishing::new(&self.0, Ok(payload::copy(topic, payload)), Some(options))
    }

    /// Publishes several events of one topic in their order; resolves with their answers. They are committed one by one.
    ///
    /// # Errors
    /// The first error, as [`Self::publish`]; the others may have been committed.
    pub async fn publish_many<T: Serialize>(
        &self,
        topic: &str,
        payloads: impl IntoIterator<Item = T>,
    ) -> Result<Vec<Published>, Error> {
        let under_way: Vec<Publishing> = payloads.into_iter().map(|payload| self.publish(topic, &payload)).collect();
        let mut answers = Vec::with_capacity(under_way.len());
        for publishing in under_way {
            answers.push(publishing.await?);
        }
        Ok(answers)
    }

    /// Resolves when every publish and every acknowledgement that waits for an answer, made before this, has it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Timeout`], [`crate::ErrorKind::Closed`].
    pub async fn flush(&self) -> Result<(), Error> {
        self.0.ask(Command::Flush).await
    }

    /// Resolves as soon as there is a connection, however long it takes.
    ///
    /// # Errors
    /// Why the client has ended.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut status = self.state();
        let ended = |status: &Status| status.state == State::Ready || status.state == State::Closed;
        match status.wait_for(ended).await {
            Ok(status) if status.state == State::Ready => Ok(()),
            _ => Err(self.0.ended()),
        }
    }

    /// Resolves when the client has ended, with the error if there was one.
    pub async fn closed(&self) -> Option<Error> {
        let mut status = self.state();
        match status.wait_for(|status| status.state == State::Closed).await {
            Ok(status) => status.error.clone(),
            Err(_) => None,
        }
    }

    /// Joins a durable group: set options, then await it for a stream of deliveries. `topic` may be a pattern.
    pub fn subscribe(&self, topic: impl Into<String>, group: impl Into<String>) -> SubscribeBuilder {
        SubscribeBuilder::new(&self.0, topic.into(), group.into())
    }

    /// Joins a durable group and calls `handler` for each delivery, with the default options. See
    /// [`SubscribeBuilder::handle`].
    ///
    /// # Errors
    /// As awaiting [`Self::subscribe`].
    pub async fn handle<T, F, Fut, E>(
        &self,
        topic: impl Into<String>,
        group: impl Into<String>,
        handler: F,
    ) -> Result<Handling, Error>
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(Received<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.subscribe(topic, group).handle(handler).await
    }

    /// Joins a durable group and calls `handler` for each event that `store` has no mark of, with the default options. See
    /// [`SubscribeBuilder::handle_exactly_once`].
    ///
    /// ```no_run
    /// # async fn example(client: prom_sdk::Client) -> Result<(), prom_sdk::Error> {
    /// use std::time::Duration;
    /// use prom_sdk::{MemoryDedupe, Received};
    ///
    /// // Guards against repeats for as long as this process lives; `prom_outbox::MongoDedupe` outlives it.
    /// let store = MemoryDedupe::new(100_000, Duration::from_secs(3600));
    /// let handling = client
    ///     .subscribe_exactly_once("orders.paid", "mail", store, async |received: Received<String>| {
    ///         println!("a mail to {}", received.payload);
    ///         Ok::<_, std::io::Error>(())
    ///     })
    ///     .await?;
    /// handling.finished().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As awaiting [`Self::subscribe`].
    pub async fn subscribe_exactly_once<T, S, F, Fut, E>(
        &self,
        topic: impl Into<String>,
        group: impl Into<String>,
        store: S,
        handler: F,
    ) -> Result<Handling, Error>
    where
        T: DeserializeOwned + Send + 'static,
        S: DedupeStore,
        F: Fn(Received<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.subscribe(topic, group).handle_exactly_once(store, handler).await
    }

    /// Follows a topic or pattern without a group: set options, then await it for a stream of events. Nothing is
    /// acknowledged, and nothing is remembered about it by the hub.
    pub fn live(&self, topic: impl Into<String>) -> LiveBuilder {
        LiveBuilder::new(&self.0, topic.into())
    }

    /// Keeps the newest event of each key of `topic`, which may be a pattern: then of each `<topic>::<key>`. Resolves when
    /// all of them are there, and follows their changes.
    ///
    /// # Errors
    /// As awaiting [`Self::live`].
    pub async fn watch<T>(&self, topic: impl Into<String>) -> Result<Watch<T>, Error>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        Watch::start(&self.0, topic.into()).await
    }

    /// The past of `topic`, page by page over the hub's HTTP: from its first event, unless the builder says otherwise, to
    /// where the topic ends when it gets there. The HTTP is where the WebSocket is: `http://host:port` for
    /// `ws://host:port/ws`, `https` for `wss`. Needs a token that may subscribe to the topic without a group.
    ///
    /// ```no_run
    /// # async fn example(client: prom_sdk::Client) -> Result<(), prom_sdk::Error> {
    /// use prom_sdk::{HistoryItem, StartFrom};
    ///
    /// let mut history = client.history::<serde_json::Value>("orders.paid").from(StartFrom::AfterSeq(41)).limit(500).await?;
    /// while let Some(item) = history.next().await {
    ///     match item? {
    ///         HistoryItem::Event(order) => println!("{} {}", order.event.seq, order.payload),
    ///         HistoryItem::Gap(gap) => println!("{} to {} are no longer retained", gap.from, gap.to),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaiting the builder: [`crate::ErrorKind::Invalid`], before anything is sent, for what is no topic or a position out
    /// of range, [`crate::ErrorKind::Forbidden`], [`crate::ErrorKind::Unauthorized`],
    /// [`crate::ErrorKind::PositionGone`], [`crate::ErrorKind::Overloaded`] with [`Error::retry_after`],
    /// [`crate::ErrorKind::ConnectionLost`], [`crate::ErrorKind::Timeout`]. Later: see [`crate::History`].
    pub fn history<T>(&self, topic: impl Into<String>) -> HistoryBuilder<T> {
        HistoryBuilder::new(&self.0, topic.into(), false)
    }

    /// The same as one stream, for all of a large topic: to where the topic ended when it began, which
    /// [`crate::History::end`] tells. A hub has a limited number of exports under way (32); one more is
    /// [`crate::ErrorKind::Overloaded`].
    ///
    /// # Errors
    /// As [`Self::history`].
    pub fn export<T>(&self, topic: impl Into<String>) -> HistoryBuilder<T> {
        HistoryBuilder::new(&self.0, topic.into(), true)
    }

    /// Where the connection stands, now and from now on.
    pub fn state(&self) -> watch::Receiver<Status> {
        self.0.shared.status.subscribe()
    }

    /// The [`ClientEvent`]s from now on. A listener that is more than 256 behind misses the oldest.
    pub fn events(&self) -> broadcast::Receiver<ClientEvent> {
        self.0.shared.events.subscribe()
    }

    /// Closes the connection now and resolves when it is closed. What is open ends with [`crate::ErrorKind::Closed`],
    /// and unsettled deliveries go back to their groups.
    pub async fn close(&self) {
        if self.0.commands.send(Command::Close).await.is_ok() {
            self.0.commands.closed().await;
        }
    }

    /// Comes to an end first: streams end, handlers finish, what was published is answered, deliveries that are held are
    /// settled or dropped. Then closes; after `timeout` at the latest.
    ///
    /// Called by a handler of this client it does not wait, because that handler would have to finish first: it begins all
    /// that, and [`Self::closed`] tells the end.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Timeout`]: it closed before all had come to an end; or why the connection ended for good before.
    pub async fn close_drained(&self, timeout: Duration) -> Result<(), Error> {
        let until = Instant::now().checked_add(timeout).ok_or_else(|| Error::config("the time limit is too long"))?;
        if self.0.commands.send(Command::Drain(until)).await.is_ok() {
            if within_handler_of(&self.0.shared) {
                return Ok(());
            }
            self.0.commands.closed().await;
            let failed = self.0.shared.status.borrow().error.clone();
            if failed.is_none() && Instant::now() >= until {
                return Err(Error::timeout("closed before everything had come to its end"));
            }
            return failed.map_or(Ok(()), Err);
        }
        Ok(())
    }
}
