//! The service: writes rows, each with a change of its own, in transactions.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use mongodb::{
    Client, ClientSession, Collection,
    bson::{Document, doc},
    error::{Error as MongoError, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
};
use prom_outbox::{AddError, MongoOutbox, NewRow};
use prom_protocol::RawValue;

use crate::{
    Error, OutboxOptions,
    publisher::payload,
    schedule::{self, Schedule, histogram},
};

/// The database of a hub whose URL names none.
const DATABASE: &str = "prom";
/// Transactions at once. Those of a key come one after another, so that there is an order to be kept.
const WRITERS: u64 = 16;
/// Most rows in one command.
const TOGETHER: u64 = 1000;
/// How often a transaction is begun again after a conflict with another.
const TRIES: u32 = 5;

/// A service with an outbox.
pub(super) struct Service {
    outbox: MongoOutbox,
    /// Stands for the service's own data: one document is written together with each row.
    changes: Collection<Document>,
    client: Client,
    topic: String,
    payload: usize,
    keys: u64,
    patience: Duration,
}

fn failed(what: &'static str) -> impl Fn(MongoError) -> Error {
    move |source| Error::Mongo { what, source }
}

/// Keeps the labels of the driver's error: they say whether a transaction may be tried again.
fn as_mongo(error: AddError) -> MongoError {
    match error {
        AddError::Mongo(error) => error,
        error => MongoError::custom(error.to_string()),
    }
}

impl Service {
    pub(super) async fn connect(
        url: &str,
        options: &OutboxOptions,
        topic: &str,
        patience: Duration,
    ) -> Result<Self, Error> {
        let client = Client::with_uri_str(url).await.map_err(failed("use its URL"))?;
        let own = || client.default_database().unwrap_or_else(|| client.database(DATABASE));
        let (database, rows) = match options.outbox.split_once('.') {
            Some((database, rows)) => (client.database(database), rows),
            None => (own(), options.outbox.as_str()),
        };
        let outbox = MongoOutbox::new(database.collection(rows));
        let changes = topic.replace('.', "_");
        // Neither collection nor index is made while transactions run.
        outbox.ensure_indexes().await.map_err(failed("prepare the outbox"))?;
        database.create_collection(&changes).await.map_err(failed("make a collection"))?;
        let changes = database.collection(&changes);
        let (topic, OutboxOptions { payload, keys, .. }) = (topic.to_owned(), options);
        Ok(Self { outbox, changes, client, topic, payload: *payload, keys: *keys, patience })
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Removes the documents that were written beside the rows. The hub removes the rows themselves.
    pub(super) async fn clean(&self) -> Result<(), Error> {
        self.changes.drop().await.map_err(failed("drop the collection of changes"))
    }

    /// The row of this number.
    fn row(&self, number: u64) -> Result<NewRow, MongoError> {
        let payload = RawValue::from_string(payload(number, self.payload)).map_err(MongoError::custom)?;
        Ok(NewRow::raw(&self.topic, payload).key(format!("key-{}", number % self.keys)))
    }

    /// Writes `count` rows when they are due. Returns how long their transactions took.
    pub(super) async fn write(&self, schedule: Schedule, count: u64) -> Result<Histogram<u64>, Error> {
        let writers = (0..WRITERS).map(|writer| self.writer(writer, schedule, count));
        let mut all = histogram()?;
        for one in try_join_all(writers).await? {
            all.add(one).map_err(|error| Error::System("cannot add histograms", std::io::Error::other(error)))?;
        }
        Ok(all)
    }

    /// Writes those rows whose keys are this writer's.
    async fn writer(&self, writer: u64, schedule: Schedule, count: u64) -> Result<Histogram<u64>, Error> {
        let mut took = histogram()?;
        let mut session = self.session().await?;
        for number in (0..count).filter(|number| number % self.keys % WRITERS == writer) {
            tokio::time::sleep_until(schedule.due(number).into()).await;
            let begun = Instant::now();
            self.transaction(&mut session, number).await?;
            schedule::record(&mut took, begun.elapsed());
        }
        Ok(took)
    }

    /// Writes one row, now.
    pub(super) async fn write_one(&self, number: u64) -> Result<(), Error> {
        self.transaction(&mut self.session().await?, number).await
    }

    async fn session(&self) -> Result<ClientSession, Error> {
        self.client.start_session().await.map_err(failed("start a session"))
    }

    /// Writes a document and its row in one transaction.
    async fn transaction(&self, session: &mut ClientSession, number: u64) -> Result<(), Error> {
        let change = doc! { "_id": number as i64, "key": (number % self.keys) as i64 };
        let both = session.start_transaction().and_run2(async |session| {
            self.changes.insert_one(&change).session(&mut *session).await?;
            self.outbox.add(session, self.row(number)?).await.map(drop).map_err(as_mongo)
        });
        let late = || MongoError::custom(format!("it did not answer for {} s", self.patience.as_secs_f64()));
        let done = tokio::time::timeout(self.patience, both).await.unwrap_or_else(|_| Err(late()));
        done.map_err(failed("write a row"))
    }

    /// Writes `count` rows in one transaction, which is still to be committed.
    pub(super) async fn write_at_once(&self, count: u64) -> Result<Written, Error> {
        let mut session = self.session().await?;
        let mut tries = 0;
        loop {
            tries += 1;
            session.start_transaction().await.map_err(failed("begin a transaction"))?;
            match self.write_all(&mut session, count).await {
                Ok(()) => return Ok(Written(session)),
                Err(error) if tries < TRIES && error.contains_label(TRANSIENT_TRANSACTION_ERROR) => {
                    // The transaction ends anyway when its session is dropped.
                    let _ = session.abort_transaction().await;
                }
                Err(error) => return Err(failed("write all rows in one transaction")(error)),
            }
        }
    }

    async fn write_all(&self, session: &mut ClientSession, count: u64) -> Result<(), MongoError> {
        // Each row has a time of its own, so that the rows are in the order of their numbers.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        let first = now.saturating_sub(count);
        self.changes.insert_one(doc! { "rows": count as i64 }).session(&mut *session).await?;
        for start in (0..count).step_by(TOGETHER as usize) {
            let numbers = start..(start + TOGETHER).min(count);
            let rows = numbers.map(|number| self.row(number).map(|row| row.ts(first + number)));
            let rows = rows.collect::<Result<Vec<_>, _>>()?;
            self.outbox.add_many(session, rows).await.map_err(as_mongo)?;
        }
        Ok(())
    }
}

/// Rows in a transaction that is not committed. Dropping it takes them back.
pub(super) struct Written(ClientSession);

impl Written {
    pub(super) async fn commit(mut self) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.0.commit_transaction().await {
                Err(error) if tries < TRIES && error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => {}
                done => return done.map_err(failed("commit all rows")),
            }
        }
    }
}
