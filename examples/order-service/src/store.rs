//! Orders in MongoDB, each with its event.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, TryStreamExt};
use mongodb::{
    ClientSession, Collection, Database,
    bson::doc,
    error::{Error, Result},
    options::{Acknowledgment, ReadConcern, WriteConcern},
};
use prom_outbox::{AddError, MongoOutbox, NewRow};

use crate::order::Order;

/// How an order and its event are written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Writes {
    /// Both or neither.
    OneTransaction,
    /// What not to do.
    UnsafeTwoWrites,
}

/// The orders and their outbox.
pub(crate) struct Store {
    orders: Collection<Order>,
    outbox: Arc<MongoOutbox>,
    writes: Writes,
    /// Between the order and its event.
    pause: Duration,
}

impl Store {
    pub(crate) fn new(database: &Database, outbox: Arc<MongoOutbox>, writes: Writes, pause: Duration) -> Self {
        Self { orders: database.collection("orders"), outbox, writes, pause }
    }

    /// Writes the order and its event.
    pub(crate) async fn place(&self, order: &Order) -> Result<()> {
        let mut session = self.orders.client().start_session().await?;
        match self.writes {
            Writes::OneTransaction => {
                // `and_run` commits, and begins again when MongoDB says that it may help.
                session
                    .start_transaction()
                    .read_concern(ReadConcern::snapshot())
                    .write_concern(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build())
                    .and_run((self, order), |session, (store, order)| store.write_both(session, order).boxed())
                    .await
            }
            Writes::UnsafeTwoWrites => {
                // The same two writes, and no transaction around them: whoever dies during the pause has an order that
                // nobody will ever hear of. However short the pause, someone will.
                self.orders.insert_one(order).await?;
                tokio::time::sleep(self.pause).await;
                self.add_event(&mut session, order).await
            }
        }
    }

    async fn write_both(&self, session: &mut ClientSession, order: &Order) -> Result<()> {
        self.orders.insert_one(order).session(&mut *session).await?;
        tokio::time::sleep(self.pause).await;
        self.add_event(session, order).await
    }

    /// Writes a row; the hub makes it an event.
    async fn add_event(&self, session: &mut ClientSession, order: &Order) -> Result<()> {
        // The key keeps the events of an order in their order.
        let row = NewRow::new("orders.placed", &order.placed()).map_err(Error::custom)?.key(order.id());
        match self.outbox.add(session, row).await {
            Ok(_id) => Ok(()),
            // As it is, with the labels by which `and_run` decides.
            Err(AddError::Mongo(error)) => Err(error),
            Err(other) => Err(Error::custom(other)),
        }
    }

    /// The newest orders, newest first; their ids are in the order of their times.
    pub(crate) async fn newest(&self, limit: u16) -> Result<Vec<Order>> {
        self.orders.find(doc! {}).sort(doc! {"_id": -1}).limit(limit.into()).await?.try_collect().await
    }

    pub(crate) async fn find(&self, id: &str) -> Result<Option<Order>> {
        self.orders.find_one(doc! {"_id": id}).await
    }
}
