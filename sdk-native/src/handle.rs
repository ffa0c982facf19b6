//! Handlers: a function called for each delivery.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::{BoxError, Context, Error, Event, Subscription, command::Settle, delivery::Ticket, shared::Shared};

/// What a handler is given.
#[derive(Debug)]
#[non_exhaustive]
pub struct Received<T> {
    /// The payload, deserialised.
    pub payload: T,
    /// The event it came in.
    pub event: Event,
    /// Attempt and limits of this delivery.
    pub context: Context,
    /// Whether the handling comes to its end.
    pub stopping: Stopping,
}

/// Tells a handler that nothing new is taken any more: [`Handling::stop`] was called, or the subscription has ended. What
/// runs may finish; what waits for something that may never come, like a database that is away, should fail now, so that
/// its event goes back to the group.
#[derive(Debug, Clone)]
pub struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Whether nothing new is taken any more.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until nothing new is taken any more. Cancel safe.
    pub async fn requested(&mut self) {
        // A sender that is gone has nobody left to stop.
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }
}

tokio::task_local! {
    static WITHIN: Within;
}

/// Whose handler a task is.
#[derive(Clone, Copy)]
struct Within {
    /// The task of its [`Handling`].
    handling: tokio::task::Id,
    /// Address of what the handles of its client share; it stays there while the handler runs.
    client: usize,
}

/// Whether a handler of that client is asking: what waits for all its handlers would wait for the one that waits.
pub(crate) fn within_handler_of(client: &Arc<Shared>) -> bool {
    WITHIN.try_with(|within| within.client == Arc::as_ptr(client).addr()).unwrap_or(false)
}

/// Handlers at work on a subscription. Dropping it leaves the group and cancels the handlers that run.
#[must_use = "dropping it ends the handling"]
#[derive(Debug)]
pub struct Handling {
    task: JoinHandle<Option<Error>>,
    stop: mpsc::Sender<()>,
    /// It comes to its end by itself.
    released: bool,
}

impl Handling {
    /// Calls `job` for each delivery; what fails in it is the reason of a NACK.
    pub(crate) fn start<J, Fut>(subscription: Subscription, limit: Option<Duration>, job: J) -> Self
    where
        J: Fn(Event, Context, Stopping) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        let (stop, stopped) = mpsc::channel(1);
        let task = tokio::spawn(work(subscription, job, stopped, limit));
        Self { task, stop, released: false }
    }

    /// Takes nothing new, waits for the handlers that run, then leaves the group.
    ///
    /// Called by one of its own handlers it does not wait: that handler is one of those. They finish and acknowledge all the
    /// same, and the group is left after the last.
    pub async fn stop(mut self) {
        let _ = self.stop.try_send(());
        if WITHIN.try_with(|within| within.handling == self.task.id()).unwrap_or(false) {
            self.released = true;
            return;
        }
        let _ = (&mut self.task).await;
    }

    /// Waits for the end of the subscription: the hub revoked it, or the client was closed. Tells why.
    pub async fn finished(mut self) -> Error {
        match (&mut self.task).await {
            Ok(Some(error)) => error,
            _ => Error::closed(),
        }
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        if !self.released {
            self.task.abort();
        }
    }
}

async fn work<J, Fut>(
    mut subscription: Subscription,
    job: J,
    mut stopped: mpsc::Receiver<()>,
    limit: Option<Duration>,
) -> Option<Error>
where
    J: Fn(Event, Context, Stopping) -> Fut,
    Fut: Future<Output = Result<(), String>> + Send + 'static,
{
    let (lease, most) = (subscription.lease(), subscription.max_in_flight());
    let within = Within { handling: tokio::task::id(), client: subscription.client().addr() };
    let (tell_stopping, stopping) = watch::channel(false);
    let mut running = JoinSet::new();
    // By topic and id: events of several topics may have the same id.
    let mut tickets: HashMap<Key, Tickets> = HashMap::new();
    loop {
        tokio::select! {
            delivery = subscription.next(), if running.len() < most => match delivery {
                Some(delivery) => {
                    let left = delivery.time_left();
                    let (event, context, ticket) = delivery.into_parts();
                    let key = key_of(&event);
                    let Some(ticket) = unless_handled(&tickets, &key, ticket) else { continue };
                    let own = Tickets::new(ticket);
                    tickets.insert(key.clone(), own.clone());
                    let run = job(event, context, Stopping(stopping.clone()));
                    running.spawn(WITHIN.scope(within, one(run, key, context, own, left, lease, limit)));
                }
                None => break,
            },
            _ = stopped.recv() => {
                // Nothing new while the last ones finish; if it fails, what comes is left to other members.
                let _ = subscription.pause().await;
                break;
            }
            Some(ended) = running.join_next() => {
                if let Ok((key, own)) = ended
                    && tickets.get(&key).is_some_and(|other| Arc::ptr_eq(&other.0, &own.0))
                {
                    tickets.remove(&key);
                }
            }
        }
    }
    let _ = tell_stopping.send(true);
    loop {
        tokio::select! {
            ended = running.join_next() => if ended.is_none() { break },
            // It was on its way here. Others can have it now, and need not wait for the last handler.
            Some(delivery) = subscription.next() => {
                let (event, _, ticket) = delivery.into_parts();
                if let Some(ticket) = unless_handled(&tickets, &key_of(&event), ticket) {
                    let reason = Some("the handling is ending".to_owned());
                    let _ = ticket.settle_quietly(event.id, Settle::Nack { reason, delay: None, dead: false }).await;
                }
            }
        }
    }
    let error = subscription.error();
    // Not by dropping it, which may overtake the last acknowledgements: the hub would give those events to others.
    let _ = subscription.unsubscribe().await;
    error
}

/// An event's topic and id.
type Key = (Box<str>, Box<str>);

fn key_of(event: &Event) -> Key {
    (event.topic.as_str().into(), event.id.as_str().into())
}

/// The hub gives an event again whose handler still runs here, after a lost connection or a lease that ran out. It is not
/// handled beside itself: what becomes of the first settles this one, and then there is none.
fn unless_handled(tickets: &HashMap<Key, Tickets>, key: &Key, ticket: Ticket) -> Option<Ticket> {
    match tickets.get(key) {
        Some(own) => own.adopt(ticket),
        None => Some(ticket),
    }
}

/// The newest delivery of an event that is being handled; none once it is being settled.
#[derive(Clone)]
struct Tickets(Arc<Mutex<Option<Arc<Ticket>>>>);

impl Tickets {
    fn new(ticket: Ticket) -> Self {
        Self(Arc::new(Mutex::new(Some(Arc::new(ticket)))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Ticket>>> {
        // Nothing is left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a newer delivery; gives it back if the handler has come to its end.
    fn adopt(&self, ticket: Ticket) -> Option<Ticket> {
        let mut newest = self.lock();
        if newest.is_none() {
            return Some(ticket);
        }
        *newest = Some(Arc::new(ticket));
        None
    }
}

/// Runs the job of one delivery, keeps its lease, and settles it. Gives back whose it was.
async fn one(
    run: impl Future<Output = Result<(), String>>,
    key: Key,
    context: Context,
    tickets: Tickets,
    left: Option<Duration>,
    lease: Duration,
    limit: Option<Duration>,
) -> (Key, Tickets) {
    let mut run = std::pin::pin!(AssertUnwindSafe(run).catch_unwind());
    let mut extend_at = Instant::now() + left.unwrap_or(lease) / 2;
    let over_at = limit.and_then(|limit| Instant::now().checked_add(limit));
    let result = loop {
        tokio::select! {
            biased;
            result = &mut run => break result,
            () = sleep_until(over_at) => {
                break Ok(Err(format!("the handler took longer than {} ms", limit.unwrap_or_default().as_millis())));
            }
            () = tokio::time::sleep_until(extend_at), if left.is_some() => {
                // What comes of it shows when the delivery is settled.
                let newest = tickets.lock().clone();
                if let Some(ticket) = newest {
                    let _ = ticket.settle_quietly(key.1.clone(), Settle::Extend(lease)).await;
                }
                extend_at = Instant::now() + lease / 2;
            }
        }
    };
    let settle = match result {
        Ok(Ok(())) => Settle::Ack,
        Ok(Err(reason)) => Settle::Nack { reason: Some(reason), delay: None, dead: false },
        Err(_) => Settle::Nack { reason: Some("the handler panicked".to_owned()), delay: None, dead: false },
    };
    if let Settle::Nack { reason: Some(reason), .. } = &settle {
        tracing::warn!(event = &*key.1, reason, attempt = context.attempt, "a handler failed");
    }
    let newest = tickets.lock().take();
    if let Some(ticket) = newest {
        let _ = ticket.settle_quietly(key.1.clone(), settle).await;
    }
    (key, tickets)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Reads the payload and calls the handler.
pub(crate) async fn call<T, F, Fut, E>(
    handler: Arc<F>,
    event: Event,
    context: Context,
    stopping: Stopping,
) -> Result<(), String>
where
    T: DeserializeOwned,
    F: Fn(Received<T>) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Into<BoxError> + 'static,
{
    let payload = event.payload::<T>().map_err(|error| reason(&error))?;
    handler(Received { payload, event, context, stopping }).await.map_err(|error| reason(&*error.into()))
}

/// An error and its causes in one line.
pub(crate) fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
