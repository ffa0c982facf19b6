//! One delivery, and what to say about it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use prom_sdk_core::SubscriptionId;
use serde::Deserialize;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Error, Event,
    command::{Command, Inner, Reply, Settle, SettleCommand},
    feed::{Feed, Link, Raw},
    lease::Lease,
    shared::Held,
};

/// About a delivery rather than its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context {
    /// How often the event was delivered to the group, from 1.
    pub attempt: u32,
    /// The attempt after which it becomes a dead letter.
    pub max_attempts: u32,
    /// Whether it was delivered before.
    pub redelivered: bool,
}

impl Context {
    pub(crate) fn new(attempt: u32, max_attempts: u32, redelivered: bool) -> Self {
        Self { attempt, max_attempts, redelivered }
    }
}

/// One delivery of an event to this member of its group.
///
/// It is this client's to settle until the lease ends, the connection is lost, or the subscription is dropped; after that
/// the hub gives the event to somebody, and settling fails with [`crate::ErrorKind::LeaseLost`]. Dropping a delivery
/// without settling it leaves it to its lease.
#[must_use = "a delivery that is not settled comes again when its lease has ended"]
#[derive(Debug)]
pub struct Delivery {
    event: Event,
    context: Context,
    ticket: Ticket,
}

/// What it takes to settle a delivery.
pub(crate) struct Ticket {
    inner: Arc<Inner>,
    link: Arc<Link>,
    subscription: SubscriptionId,
    connection: u32,
    lease: Option<Lease>,
    deadline: Option<Instant>,
    /// None: the hub has settled it already.
    _held: Option<Held>,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("lease", &self.lease)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl Delivery {
    pub(crate) fn new(inner: &Arc<Inner>, feed: &Feed, event: Event, raw: Raw) -> Self {
        let Raw { connection, context, lease, deadline, .. } = raw;
        let held = lease.is_some().then(|| Held::new(&inner.shared));
        let (inner, link, subscription) = (Arc::clone(inner), Arc::clone(&feed.link), feed.id);
        let ticket = Ticket { inner, link, subscription, connection, lease, deadline, _held: held };
        Self { event, context, ticket }
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The payload as a `T`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Payload`]. The delivery can still be settled, for instance with [`Self::dead`].
    pub fn payload<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        self.event.payload()
    }

    /// About this delivery.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// What is left of the lease; none where there is nothing to settle. [`Self::extend`] does not change it.
    pub fn time_left(&self) -> Option<Duration> {
        self.ticket.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The event is done with: resolves when the hub has stored that, after which the group never gets it again. Several
    /// can be under way at once; [`Self::ack_unconfirmed`] does not wait. An event that somebody else has settled
    /// meanwhile is done with, too.
    ///
    /// # Errors
    /// [`crate::ErrorKind::LeaseLost`]: it was not this client's any more and comes again. [`crate::ErrorKind::Timeout`],
    /// [`crate::ErrorKind::ConnectionLost`]: it may have been stored, or it comes again.
    pub async fn ack(self) -> Result<(), Error> {
        let (event, ticket) = (self.event, self.ticket);
        ticket.settle(event.id, Settle::Ack).await
    }

    /// The same without waiting for the hub: resolves when it is on its way. Should it not arrive, the event comes again;
    /// what the hub refuses is reported by [`crate::Client::events`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::Closed`]: the client was closed, nothing was sent.
    pub async fn ack_unconfirmed(self) -> Result<(), Error> {
        let (event, ticket) = (self.event, self.ticket);
        ticket.settle_quietly(event.id, Settle::Ack).await
    }

    /// The event goes back to the group: it is delivered again after the hub's backoff. `reason` is kept with the dead
    /// letter it becomes after the last attempt.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn nack(self, reason: impl Into<String>) -> Result<(), Error> {
        self.give_back(Settle::Nack { reason: Some(reason.into()), delay: None, dead: false }).await
    }

    /// The same, to be delivered again after `delay`.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn nack_after(self, reason: impl Into<String>, delay: Duration) -> Result<(), Error> {
        self.give_back(Settle::Nack { reason: Some(reason.into()), delay: Some(delay), dead: false }).await
    }

    /// No further delivery: the event goes to the dead letters, `dlq.<topic>`, with this reason.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn dead(self, reason: impl Into<String>) -> Result<(), Error> {
        self.give_back(Settle::Nack { reason: Some(reason.into()), delay: None, dead: true }).await
    }

    async fn give_back(self, settle: Settle) -> Result<(), Error> {
        let (event, ticket) = (self.event, self.ticket);
        ticket.settle(event.id, settle).await
    }

    /// The lease is to end `lease` from now, at least a second and at most twelve hours.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn extend(&self, lease: Duration) -> Result<(), Error> {
        self.ticket.settle(self.event.id.as_str(), Settle::Extend(lease)).await
    }

    pub(crate) fn into_parts(self) -> (Event, Context, Ticket) {
        (self.event, self.context, self.ticket)
    }
}

impl Ticket {
    async fn send(&self, id: impl Into<Box<str>>, settle: Settle, reply: Option<Reply<()>>) -> Result<(), Error> {
        let command = SettleCommand {
            subscription: self.subscription,
            connection: self.connection,
            id: id.into(),
            lease: self.lease.clone(),
            settle,
            reply,
        };
        self.inner.send(Command::Settle(command)).await?;
        // Before the program can do anything that should come after it, like dropping the subscription.
        self.link.said.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Waits for the hub's answer. Where the hub has settled it already there is nothing to say.
    pub(crate) async fn settle(&self, id: impl Into<Box<str>>, settle: Settle) -> Result<(), Error> {
        if self.lease.is_none() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.send(id, settle, Some(reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.inner.ended()))
    }

    pub(crate) async fn settle_quietly(&self, id: impl Into<Box<str>>, settle: Settle) -> Result<(), Error> {
        if self.lease.is_none() {
            return Ok(());
        }
        self.send(id, settle, None).await
    }
}
