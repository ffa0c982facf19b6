//! The same for subscriptions of the Rust SDK.

use std::{sync::Arc, time::Duration};

use mongodb::ClientSession;
use prom_sdk::{Claim, DedupeStore, Handling, Received, SubscribeBuilder};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{
    Effect, MongoDedupe, OnceError, Taken,
    once::{FIRST_WAIT, Failure, pause},
};

impl DedupeStore for MongoDedupe {
    type Error = mongodb::error::Error;

    async fn seen(&self, scope: &str, id: &str) -> Result<bool, Self::Error> {
        Self::seen(self, scope, id).await
    }

    async fn mark(&self, scope: &str, id: &str) -> Result<(), Self::Error> {
        Self::mark(self, scope, id).await
    }

    async fn claim(&self, scope: &str, id: &str, holder: &str, lease: Duration) -> Result<Claim, Self::Error> {
        Ok(match self.take_claim(scope, id, holder, lease).await? {
            Taken::Mine => Claim::Granted,
            Taken::Held => Claim::Held,
            Taken::Marked => Claim::Marked,
        })
    }

    async fn release(&self, scope: &str, id: &str, holder: &str) -> Result<(), Self::Error> {
        self.end_claim(scope, id, holder).await
    }
}

impl MongoDedupe {
    /// Subscribes and calls `handler` for each event that is not marked, with a session in whose transaction the event is
    /// marked too; the event is acknowledged after the commit. So what `handler` does through the session is there once, whatever
    /// is delivered twice or dies in between. See [`Self::once`] for what a handler may and must do.
    ///
    /// An event that is marked is acknowledged without `handler`. While MongoDB is away, or somebody else is at the same
    /// event, it is kept, with its lease, and tried again, until the handling is stopped: that uses up no attempts. What
    /// `handler` itself refuses goes back to the group, as with [`SubscribeBuilder::handle`]; and so does an event whose
    /// tries, each with a call of `handler`, took longer than [`Self::patience`] together, because they met other
    /// transactions or outlived their own.
    ///
    /// ```no_run
    /// # async fn example(client: prom_sdk::Client, mongo: mongodb::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use mongodb::bson::{Document, doc};
    /// use prom_outbox::MongoDedupe;
    /// use prom_sdk::Received;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Paid { item: String }
    ///
    /// let shop = mongo.database("shop");
    /// let dedupe = MongoDedupe::new(&shop.collection("dedupe"));
    /// dedupe.ensure_indexes().await?;
    /// let stock = shop.collection::<Document>("stock");
    /// let subscribe = client.subscribe("orders.paid", "stock");
    /// let handling = dedupe
    ///     .handle_in_transaction(subscribe, move |session, received: &Received<Paid>| {
    ///         let (stock, item) = (stock.clone(), received.payload.item.clone());
    ///         Box::pin(async move {
    ///             let one_less = doc! {"$inc": {"left": -1}};
    ///             stock.update_one(doc! {"_id": item}, one_less).session(session).await.map(drop)
    ///         })
    ///     })
    ///     .await?;
    /// handling.finished().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As awaiting the builder; [`prom_sdk::ErrorKind::Invalid`] if it is without acknowledgements.
    pub async fn handle_in_transaction<T, F, E>(
        &self,
        subscribe: SubscribeBuilder,
        handler: F,
    ) -> Result<Handling, prom_sdk::Error>
    where
        T: DeserializeOwned + Send + Sync + 'static,
        F: for<'a> Fn(&'a mut ClientSession, &'a Received<T>) -> Effect<'a, (), E> + Send + Sync + 'static,
        E: Into<prom_sdk::BoxError> + 'static,
    {
        subscribe.require_acks()?;
        let (dedupe, handler) = (self.clone(), Arc::new(handler));
        let scope: Arc<str> = subscribe.scope().into();
        let handle = move |received: Received<T>| {
            let (dedupe, scope, handler) = (dedupe.clone(), Arc::clone(&scope), Arc::clone(&handler));
            async move { dedupe.insist(&scope, Arc::new(received), handler).await }
        };
        subscribe.handle(handle).await
    }

    /// Tries until it is done, or it lies with the handler, or the handling is stopping.
    async fn insist<T, F, E>(&self, scope: &str, received: Arc<Received<T>>, handler: Arc<F>) -> Result<(), OnceError>
    where
        T: Send + Sync + 'static,
        F: for<'a> Fn(&'a mut ClientSession, &'a Received<T>) -> Effect<'a, (), E> + Send + Sync + 'static,
        E: Into<prom_sdk::BoxError> + 'static,
    {
        let (id, mut wait) = (received.event.id.as_str(), FIRST_WAIT);
        let mut stopping = received.stopping.clone();
        // What tries took that called the handler in vain while MongoDB answered.
        let mut spent = Duration::ZERO;
        let mut tries = 0_u64;
        loop {
            tries += 1;
            let start = Instant::now();
            let done = self.try_once(scope, id, |session| {
                let (handler, received) = (Arc::clone(&handler), Arc::clone(&received));
                Box::pin(async move { handler(session, &received).await })
            });
            let error = match done.await {
                Ok(_) => return Ok(()),
                Err(Failure::Again(error)) => error,
                Err(Failure::Effect(error)) => {
                    spent += start.elapsed() + wait;
                    if spent >= self.patience {
                        return Err(error);
                    }
                    error
                }
                Err(Failure::Final(error)) => return Err(error),
            };
            if stopping.is_requested() {
                return Err(error);
            }
            tell(id, tries, &error);
            tokio::select! {
                () = pause(&mut wait) => {}
                () = stopping.requested() => {}
            }
        }
    }
}

/// One try is nothing: transactions meet. More of them are told, ever more rarely.
fn tell(event: &str, tries: u64, error: &OnceError) {
    let error = error as &dyn std::error::Error;
    if tries > 1 && tries.is_power_of_two() {
        tracing::warn!(event, tries, error, "a transaction fails again and again");
    } else {
        tracing::debug!(event, tries, error, "a transaction is tried again");
    }
}
