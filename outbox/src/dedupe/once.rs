//! Effect and mark in one transaction.

use std::{pin::Pin, time::Duration};

use mongodb::{
    ClientSession,
    bson::oid::ObjectId,
    error::{Error, ErrorKind, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
    options::ReadConcern,
};
use tokio::time::Instant;

use super::{MongoDedupe, Taken, majority};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a commit whose result is unknown is asked for again. It has no effect twice.
const COMMIT_PATIENCE: Duration = Duration::from_secs(60);
/// Waits between two tries: the first, doubling up to the longest. Each is cut by chance, down to a half.
const WAIT: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// What an effect is: a future that may borrow the session. `Box::pin(async move { … })` makes one.
pub type Effect<'a, R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send + 'a>>;

/// What became of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Once<R> {
    /// It is committed, and so is the mark.
    Done(R),
    /// The event was marked before. Nothing was changed.
    Duplicate,
}

/// Why an effect is not committed, as far as one can know.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnceError {
    /// The effect itself failed; its transaction was aborted.
    #[error("the effect failed")]
    Effect(#[source] BoxError),
    /// MongoDB refused something, or it met others for too long, or could not be reached; see [`MongoDedupe::patience`].
    #[error("the transaction of the effect failed")]
    Mongo(#[source] Error),
    /// Somebody else was at the same event for too long; see [`MongoDedupe::patience`].
    #[error("another member is at the event")]
    Held,
    /// The commit may or may not have come through. Trying again with the same id finds out.
    #[error("the result of the commit is unknown")]
    Unknown(#[source] Error),
}

/// Why one transaction came to nothing.
pub(super) enum Failure {
    /// Another one may succeed, and this one has called the effect, and MongoDB has answered: it lies with the effect, or
    /// with what it meets.
    Effect(OnceError),
    /// Another one may succeed, and this one tells nothing of the effect: MongoDB could not be reached, or somebody else was
    /// at the event.
    Again(OnceError),
    Final(OnceError),
}

impl MongoDedupe {
    /// Runs `effect` in a transaction that also marks the event, unless it is marked.
    ///
    /// What the effect does through the session and the mark are committed together or not at all, so however often this is
    /// called with one scope and id, also at the same time and however it is interrupted, the effect is there once. What
    /// it does without the session is not part of that.
    ///
    /// `effect` is called again for each try: MongoDB aborts transactions that meet others, and lets go of those that lost
    /// their primary. It must return the driver's errors (or errors that have them as their source), for it cannot go on
    /// after one. A transaction has a minute by MongoDB's default, `transactionLifetimeLimitSeconds`; an effect that takes
    /// longer fails, each time. All tries together have [`Self::patience`].
    ///
    /// Cancel safe: a dropped future leaves either both or nothing.
    ///
    /// ```no_run
    /// # async fn example(mongo: mongodb::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use mongodb::bson::{Document, doc};
    /// use prom_outbox::{MongoDedupe, Once};
    ///
    /// let shop = mongo.database("shop");
    /// let dedupe = MongoDedupe::new(&shop.collection("dedupe"));
    /// dedupe.ensure_indexes().await?;
    /// let stock = shop.collection::<Document>("stock");
    /// let done = dedupe
    ///     .once("orders.paid::stock", "the event's id", |session| {
    ///         let stock = stock.clone();
    ///         Box::pin(async move {
    ///             stock.update_one(doc! {"_id": "tea"}, doc! {"$inc": {"left": -1}}).session(session).await
    ///         })
    ///     })
    ///     .await?;
    /// println!("{}", if matches!(done, Once::Duplicate) { "was taken before" } else { "taken" });
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`OnceError::Effect`]: what `effect` returned, unless it is worth another try and there is time for one.
    /// [`OnceError::Mongo`], [`OnceError::Held`], [`OnceError::Unknown`].
    pub async fn once<R, E, F>(&self, scope: &str, id: &str, mut effect: F) -> Result<Once<R>, OnceError>
    where
        F: for<'s> FnMut(&'s mut ClientSession) -> Effect<'s, R, E> + Send,
        E: Into<BoxError>,
    {
        let (start, mut wait) = (Instant::now(), WAIT.0);
        loop {
            match self.try_once(scope, id, &mut effect).await {
                Ok(done) => return Ok(done),
                Err(Failure::Effect(_) | Failure::Again(_)) if start.elapsed() + wait < self.patience => {
                    pause(&mut wait).await;
                }
                Err(Failure::Effect(error) | Failure::Again(error) | Failure::Final(error)) => return Err(error),
            }
        }
    }

    /// One transaction.
    pub(super) async fn try_once<R, E, F>(&self, scope: &str, id: &str, mut effect: F) -> Result<Once<R>, Failure>
    where
        F: for<'s> FnMut(&'s mut ClientSession) -> Effect<'s, R, E> + Send,
        E: Into<BoxError>,
    {
        let mut session = self.client.start_session().await.map_err(sort)?;
        let start = session.start_transaction().read_concern(ReadConcern::snapshot()).write_concern(majority());
        start.max_commit_time(COMMIT_PATIENCE / 2).await.map_err(sort)?;
        // Of this try alone: after a commit with an unknown result the mark of an earlier one is not this one's.
        let by = ObjectId::new().to_hex();
        // The mark goes first: of two at the same time MongoDB turns one away before its effect has begun.
        let taken = match self.take_mark(&mut session, scope, id, &by).await {
            Ok(Taken::Mine) => effect(&mut session).await.map_err(|error| sort_effect(error.into())),
            Ok(Taken::Marked) => return abort(session, Ok(Once::Duplicate)).await,
            Ok(Taken::Held) => Err(Failure::Again(OnceError::Held)),
            Err(error) => Err(sort(error)),
        };
        match taken {
            Ok(result) => match commit(&mut session).await {
                Ok(()) => Ok(Once::Done(result)),
                // A transaction that the server has ended is often not noticed before.
                Err(Failure::Again(OnceError::Mongo(error))) => Err(after_effect(&error)(OnceError::Mongo(error))),
                Err(failure) => Err(failure),
            },
            Err(failure) => abort(session, Err(failure)).await,
        }
    }
}

/// Ends a transaction without a trace. Should that not reach the server, it ends there by its age.
async fn abort<R>(mut session: ClientSession, result: Result<Once<R>, Failure>) -> Result<Once<R>, Failure> {
    let _ = session.abort_transaction().await;
    result
}

async fn commit(session: &mut ClientSession) -> Result<(), Failure> {
    let (end, mut wait) = (Instant::now() + COMMIT_PATIENCE, WAIT.0);
    loop {
        let Err(error) = session.commit_transaction().await else { return Ok(()) };
        if !error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) {
            return Err(sort(error));
        }
        if Instant::now() + wait >= end {
            return Err(Failure::Final(OnceError::Unknown(error)));
        }
        pause(&mut wait).await;
    }
}

/// Whether another try may succeed. Outside a transaction, where sessions start, errors have no label for that.
fn is_transient(error: &Error) -> bool {
    is_unreachable(error) || error.contains_label(TRANSIENT_TRANSACTION_ERROR)
}

fn is_unreachable(error: &Error) -> bool {
    matches!(
        *error.kind,
        ErrorKind::Io(_) | ErrorKind::ServerSelection { .. } | ErrorKind::ConnectionPoolCleared { .. }
    )
}

fn sort(error: Error) -> Failure {
    let again = is_transient(&error);
    let error = OnceError::Mongo(error);
    if again { Failure::Again(error) } else { Failure::Final(error) }
}

/// What a transient error means once the effect was called.
fn after_effect(error: &Error) -> fn(OnceError) -> Failure {
    if is_unreachable(error) { Failure::Again } else { Failure::Effect }
}

/// An effect's error is worth another try if a transient one of the driver's stands behind it.
fn sort_effect(error: BoxError) -> Failure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    while let Some(found) = cause {
        if let Some(found) = found.downcast_ref::<Error>().filter(|found| is_transient(found)) {
            return after_effect(found)(OnceError::Effect(error));
        }
        cause = found.source();
    }
    Failure::Final(OnceError::Effect(error))
}

/// Waits before the next try, and longer before the one after it.
pub(super) async fn pause(wait: &mut Duration) {
    tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    *wait = (*wait * 2).min(WAIT.1);
}

/// The first wait.
#[cfg(feature = "sdk")]
pub(super) const FIRST_WAIT: Duration = WAIT.0;
