//! Handlers: a function called for each delivery.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::{BoxError, Context, Delivery, Error, Event, Subscription, shared::Settle};

/// What a handler is given.
#[derive(Debug)]
#[non_exhaustive]
pub struct Received<T> {
    /// The payload.
    pub payload: T,
    /// The event.
    pub event: Event,
    /// About this delivery.
    pub context: Context,
}

/// Handlers at work on a subscription. Dropping it leaves the group and cancels the handlers that run.
#[must_use = "dropping it ends the handling"]
#[derive(Debug)]
pub struct Handling {
    task: JoinHandle<Option<Error>>,
    stop: mpsc::Sender<()>,
}

impl Handling {
    pub(crate) fn start<T, F, Fut, E>(subscription: Subscription, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(Received<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let (stop, stopped) = mpsc::channel(1);
        Self { task: tokio::spawn(work(subscription, Arc::new(handler), stopped)), stop }
    }

    /// Takes nothing new, waits for the handlers that run, then leaves the group.
    pub async fn stop(mut self) {
        let _ = self.stop.try_send(());
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
        self.task.abort();
    }
}

async fn work<T, F, Fut, E>(
    mut subscription: Subscription,
    handler: Arc<F>,
    mut stopped: mpsc::Receiver<()>,
) -> Option<Error>
where
    T: DeserializeOwned + Send + 'static,
    F: Fn(Received<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    let (lease, most) = (subscription.lease(), subscription.max_in_flight());
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            delivery = subscription.next(), if running.len() < most => match delivery {
                Some(delivery) => {
                    running.spawn(one(Arc::clone(&handler), delivery, lease));
                }
                None => break,
            },
            _ = stopped.recv() => {
                // Nothing new while the last ones finish; if it fails, what comes is left to other members.
                let _ = subscription.pause().await;
                break;
            }
            Some(_) = running.join_next() => {}
        }
    }
    while running.join_next().await.is_some() {}
    subscription.error()
}

/// Runs the handler on one delivery and settles it.
async fn one<T, F, Fut, E>(handler: Arc<F>, delivery: Delivery, lease: Duration)
where
    T: DeserializeOwned,
    F: Fn(Received<T>) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Into<BoxError> + 'static,
{
    let left = delivery.time_left();
    let (event, context, ticket) = delivery.into_parts();
    let id: Box<str> = event.id.as_str().into();
    let run = async {
        let payload = event.payload::<T>().map_err(|error| reason(&error))?;
        handler(Received { payload, event, context }).await.map_err(|error| reason(&*error.into()))
    };
    let mut run = std::pin::pin!(AssertUnwindSafe(run).catch_unwind());
    let mut extend_at = Instant::now() + left.unwrap_or(lease) / 2;
    let result = loop {
        tokio::select! {
            biased;
            result = &mut run => break result,
            () = tokio::time::sleep_until(extend_at), if left.is_some() => {
                // What comes of it shows when the delivery is settled.
                let _ = ticket.settle_quietly(id.clone(), Settle::Extend(lease)).await;
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
        tracing::warn!(event = &*id, reason, attempt = context.attempt, "a handler failed");
    }
    let _ = ticket.settle_quietly(id, settle).await;
}

/// An error and its causes in one line.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
