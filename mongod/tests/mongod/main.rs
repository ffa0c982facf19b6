//! Real replica sets: they come up, they can be disturbed, and nothing of them is left, whatever happens.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

mod program;
mod set;

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use mongodb::{
    Client,
    bson::{Document, doc},
};

/// Far beyond what anything here takes, so that only a defect meets it.
const DEADLINE: Duration = Duration::from_secs(120);

async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !check().await {
        assert!(since.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until no node takes connections any more.
async fn gone(hosts: &[String]) {
    until("the nodes to be gone", async || hosts.iter().all(|host| TcpStream::connect(host).is_err())).await;
}

/// Inserts a document in a transaction, which only a replica set has.
async fn transact(client: &Client, database: &str) -> Result<(), mongodb::error::Error> {
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    let collection = client.database(database).collection::<Document>("things");
    collection.insert_one(doc! { "a": 1 }).session(&mut session).await?;
    session.commit_transaction().await
}
