//! The contract on a real MongoDB, and what only MongoDB has: documents of other services, transactions, plans.
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

mod odd_rows;
mod turns;

use std::sync::Arc;

use mongodb::{
    Client,
    bson::{Binary, Bson, DateTime, Decimal128, Document, Uuid, doc, oid::ObjectId, spec::BinarySubtype},
};
use prom_protocol::ErrorCode;

use super::*;
use crate::{Claimed, Filter, Settle, Status, conformance::Fixture};

/// An outbox in a database of its own.
struct Place {
    client: Client,
    rows: Collection<Document>,
    outbox: Arc<MongoOutbox>,
}

async fn place() -> Place {
    let client = Client::with_uri_str(prom_mongod::shared().await.unwrap()).await.unwrap();
    let rows: Collection<Document> = client.database(&prom_mongod::fresh_database("outbox")).collection("outbox");
    let outbox = Arc::new(MongoOutbox::new(rows.clone()));
    outbox.ensure_indexes().await.unwrap();
    Place { client, rows, outbox }
}

async fn fixture() -> Fixture {
    let Place { client, outbox, .. } = place().await;
    Fixture::new(Arc::clone(&outbox) as Arc<dyn OutboxStore>, move |row| {
        let (client, outbox) = (client.clone(), Arc::clone(&outbox));
        Box::pin(async move {
            let mut session = client.start_session().await.unwrap();
            session.start_transaction().await.unwrap();
            let added = outbox.add(&mut session, row).await.map_err(|error| error.to_string());
            session.commit_transaction().await.unwrap();
            added
        })
    })
}

crate::outbox_conformance!(fixture);

fn request(limit: usize) -> ClaimRequest {
    ClaimRequest { by: "test".into(), limit, max_bytes: usize::MAX, lease: Duration::from_secs(60) }
}

async fn claim(outbox: &MongoOutbox, limit: usize) -> Claim {
    outbox.claim(&request(limit)).await.unwrap()
}

fn ids(claim: &Claim) -> Vec<&str> {
    claim.rows.iter().map(|row| row.id.as_str()).collect()
}

#[tokio::test]
async fn several_rows_are_added_in_their_order_or_not_at_all() {
    let Place { client, rows, outbox } = place().await;
    let row = |number: u64| NewRow::new("t", &number).unwrap().id(format!("row-{number}"));
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let bad = [row(1), NewRow::new("$audit", &2).unwrap()];
    assert!(matches!(outbox.add_many(&mut session, bad).await, Err(AddError::Row(_))));
    assert!(outbox.add_many(&mut session, []).await.unwrap().is_empty());
    assert_eq!(outbox.add_many(&mut session, [row(1), row(2), row(3)]).await.unwrap(), ["row-1", "row-2", "row-3"]);
    assert_eq!(rows.count_documents(doc! {}).await.unwrap(), 0);
    session.commit_transaction().await.unwrap();
    assert_eq!(ids(&claim(&outbox, 10).await), ["row-1", "row-2", "row-3"]);
}

#[tokio::test]
async fn rows_share_the_fate_of_their_transaction() {
    let Place { client, rows, outbox } = place().await;
    let orders = rows.client().database(&rows.namespace().db).collection::<Document>("orders");
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    orders.insert_one(doc! {"_id": 1}).session(&mut session).await.unwrap();
    outbox.add(&mut session, NewRow::new("t", &1).unwrap().id("gone")).await.unwrap();
    assert!(claim(&outbox, 10).await.rows.is_empty(), "nothing is there before the commit");
    session.abort_transaction().await.unwrap();
    assert_eq!(rows.count_documents(doc! {}).await.unwrap() + orders.count_documents(doc! {}).await.unwrap(), 0);

    session.start_transaction().await.unwrap();
    orders.insert_one(doc! {"_id": 1}).session(&mut session).await.unwrap();
    outbox.add(&mut session, NewRow::new("t", &1).unwrap().id("kept")).await.unwrap();
    session.commit_transaction().await.unwrap();
    assert_eq!(ids(&claim(&outbox, 10).await), ["kept"]);
}

#[tokio::test]
async fn documents_of_javascript_services_are_rows() {
    let Place { rows, outbox, .. } = place().await;
    let (id, uuid) = (ObjectId::new(), Uuid::new());
    let decimal: Decimal128 = "19.90".parse().unwrap();
    rows.insert_many([
        doc! {"_id": id, "topic": "t", "payload": {"at": DateTime::from_millis(5), "ref": id, "price": decimal}},
        doc! {"_id": "text", "topic": "t", "payload": Bson::Null, "status": Bson::Null, "ts": 1_700_000_000_001.0,
        "attempts": Bson::Null, "key": Bson::Null, "headers": Bson::Null, "next_try_at": Bson::Null},
        doc! {"_id": uuid, "topic": "t", "payload": 1, "ts": 1_700_000_000_002_i64, "status": "pending"},
        doc! {"_id": 7, "topic": "t", "payload": "x", "ts": DateTime::from_millis(1_700_000_000_003), "key": 5,
        "headers": {"n": 1, "b": true, "s": "s"}, "tags": ["a"], "sid": "s", "caused_by": id, "attempts": 2.0},
        doc! {"_id": 8.0, "topic": "t", "payload": [], "ts": 1},
    ])
    .await
    .unwrap();
    let claim = claim(&outbox, 10).await;
    let by_id = |id: &str| -> &Claimed { claim.rows.iter().find(|row| row.id.as_str() == id).unwrap() };
    let shown = |id: &str| {
        let event = by_id(id).event.as_ref().unwrap();
        (event.options().ts, event.payload().get().to_owned())
    };
    let hex = id.to_hex();
    let expected = format!(r#"{{"at":"1970-01-01T00:00:00.005Z","ref":"{hex}","price":"19.90"}}"#);
    assert_eq!(shown(&hex), (Some(id.timestamp().timestamp_millis() as u64), expected));
    assert_eq!(shown("text"), (Some(1_700_000_000_001), "null".into()));
    assert_eq!(shown(&uuid.to_string()), (Some(1_700_000_000_002), "1".into()));
    assert_eq!(shown("7"), (Some(1_700_000_000_003), "\"x\"".into()));
    assert_eq!(shown("8"), (Some(1), "[]".into()));
    let full = by_id("7");
    assert_eq!(full.attempts, 2);
    let options = serde_json::to_value(full.event.as_ref().unwrap().options()).unwrap();
    let expected = serde_json::json!({
        "id": "7", "ts": 1_700_000_000_003_u64, "key": "5", "sid": "s", "headers": {"n": "1", "b": "true", "s": "s"},
        "tags": ["a"], "caused_by": [hex],
    });
    assert_eq!(options, expected);
    // And each is marked by its own kind of id.
    let marks: Vec<_> = claim.rows.iter().map(|row| Mark { id: row.id.clone(), settle: Settle::Sent }).collect();
    assert_eq!(outbox.settle(claim.fence, &marks).await, Ok(5));
    assert_eq!(rows.count_documents(doc! {"status": "sent", "lease_until": {"$type": "date"}}).await.unwrap(), 5);
    for id in [hex.as_str(), "text", "7", "8"] {
        assert_eq!(outbox.list(&Filter::id(id), 2).await.unwrap().len(), 1, "{id}");
    }
}

#[tokio::test]
async fn poison_names_its_field() {
    let Place { rows, outbox, .. } = place().await;
    let bad = [
        (doc! {"topic": "t", "payload": {"a": [1.0, f64::NAN]}}, ErrorCode::BadPayload, "payload.a.1 is NaN"),
        (doc! {"topic": "t"}, ErrorCode::BadPayload, "payload is missing"),
        (doc! {"topic": 5, "payload": 1}, ErrorCode::BadTopic, "topic must be a string"),
        (doc! {"topic": "a b", "payload": 1}, ErrorCode::BadTopic, "topic: "),
        (doc! {"topic": "t", "payload": 1, "ts": "today"}, ErrorCode::BadFrame, "ts must be a date"),
        (doc! {"topic": "t", "payload": 1, "ts": -1}, ErrorCode::BadFrame, "ts must be a date"),
        (doc! {"topic": "t", "payload": 1, "key": {}}, ErrorCode::BadFrame, "key must be a string"),
        (doc! {"topic": "t", "payload": 1, "key": "k".repeat(513)}, ErrorCode::BadFrame, "key must be 1 to 512"),
        (doc! {"topic": "t", "payload": 1, "headers": [1]}, ErrorCode::BadFrame, "headers must be an object"),
        (doc! {"topic": "t", "payload": 1, "headers": {"h": {}}}, ErrorCode::BadFrame, "headers.h must be"),
        (doc! {"topic": "t", "payload": 1, "tags": "x"}, ErrorCode::BadFrame, "tags must be a list"),
        (doc! {"_id": true, "topic": "t", "payload": 1}, ErrorCode::BadFrame, "_id must be"),
        (
            doc! {"_id": Binary { subtype: BinarySubtype::Generic, bytes: vec![1] }, "topic": "t", "payload": 1},
            ErrorCode::BadFrame,
            "_id must be",
        ),
    ];
    for (document, code, message) in bad {
        rows.insert_one(document).await.unwrap();
        let claim = claim(&outbox, 10).await;
        let [row] = &claim.rows[..] else { panic!("{message}: one row") };
        let problem = row.event.as_ref().unwrap_err();
        assert!(problem.code() == code && problem.message().starts_with(message), "{message}: {problem}");
        let parked = Settle::Parked { error: problem.to_string(), attempts: 0 };
        let marks = [Mark { id: row.id.clone(), settle: parked }];
        assert_eq!(outbox.settle(claim.fence, &marks).await, Ok(1), "{message}");
    }
    assert_eq!(outbox.stats().await.unwrap().error, 13);
    assert_eq!(outbox.list(&Filter::status(Status::Error), 100).await.unwrap().len(), 13);
}

#[tokio::test]
async fn times_of_all_types_make_one_order() {
    let Place { rows, outbox, .. } = place().await;
    // By MongoDB's own order: first those without, then numbers, then dates.
    let at = ObjectId::from_parts(2, [0; 5], [0; 3]);
    let plain = |id: &str, ts: Bson| doc! {"_id": id, "topic": "t", "payload": 1, "key": "k", "ts": ts};
    let mut all = vec![doc! {"_id": at, "topic": "t", "payload": 1, "key": "k"}];
    for n in 0..6 {
        let ts = 1_000 + n * 500;
        let even = n % 2 == 0;
        all.push(plain(
            &format!("r{n}"),
            if even { Bson::Double(ts as f64) } else { DateTime::from_millis(ts).into() },
        ));
    }
    rows.insert_many(all).await.unwrap();
    let mut seen = Vec::new();
    for limit in [1, 2, 1, 3] {
        let claim = claim(&outbox, limit).await;
        seen.extend(ids(&claim).into_iter().map(str::to_owned));
        let marks: Vec<_> = claim.rows.iter().map(|row| Mark { id: row.id.clone(), settle: Settle::Sent }).collect();
        outbox.settle(claim.fence, &marks).await.unwrap();
    }
    let two = at.to_hex();
    assert_eq!(seen, ["r0", "r1", &two, "r2", "r3", "r4", "r5"]);
}

#[tokio::test]
async fn keys_of_two_types_and_one_text_are_one_key() {
    let Place { rows, outbox, .. } = place().await;
    rows.insert_many([
        doc! {"_id": "a", "topic": "t", "payload": 1, "key": 5, "ts": 1},
        doc! {"_id": "b", "topic": "t", "payload": 1, "key": "5", "ts": 2},
        doc! {"_id": "c", "topic": "t", "payload": 1, "key": 5.0, "ts": 3},
    ])
    .await
    .unwrap();
    assert_eq!(ids(&claim(&outbox, 1).await), ["a"]);
    let second = claim(&outbox, 10).await;
    assert!(second.rows.is_empty() && second.busy);
}

#[tokio::test]
async fn rows_that_others_marked_sent_are_deleted_too() {
    let Place { rows, outbox, .. } = place().await;
    rows.insert_one(doc! {"topic": "t", "payload": 1, "status": "sent", "ts": 1}).await.unwrap();
    assert_eq!(outbox.remove_sent(Duration::from_secs(60), 10).await, Ok(0), "their time begins when they are seen");
    let until = std::time::Instant::now() + Duration::from_secs(120);
    while outbox.remove_sent(Duration::ZERO, 10).await.unwrap() == 0 {
        assert!(std::time::Instant::now() < until, "it is kept for ever");
    }
}

/// All stages of a plan.
fn stages(plan: &Document, found: &mut Vec<Document>) {
    found.push(plan.clone());
    for (_, inner) in plan {
        match inner {
            Bson::Document(inner) if inner.contains_key("stage") => stages(inner, found),
            Bson::Array(inner) => inner.iter().filter_map(Bson::as_document).for_each(|inner| stages(inner, found)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_claim_reads_no_more_than_it_takes() {
    let Place { rows, outbox, .. } = place().await;
    let row = |n: i64, status: &str| {
        let key = format!("k{}", n % 50);
        doc! {"topic": "t", "payload": 1, "status": status, "key": key, "ts": DateTime::from_millis(n)}
    };
    rows.insert_many((0..5_000).map(|n| row(n, "sent"))).await.unwrap();
    rows.insert_many((0..2_000).map(|n| row(n, "pending"))).await.unwrap();
    let blocked: Vec<Bson> = (0..10).map(|n| Bson::from(format!("k{n}"))).collect();
    let command = page::find_command(rows.name(), DateTime::now(), &blocked);
    let database = rows.client().database(&rows.namespace().db);
    let explained = database.run_command(doc! {"explain": command, "verbosity": "executionStats"}).await.unwrap();
    let stats = explained.get_document("executionStats").unwrap();
    let mut plan = Vec::new();
    stages(stats.get_document("executionStages").unwrap(), &mut plan);
    let names: Vec<_> = plan.iter().map(|stage| stage.get_str("stage").unwrap()).collect();
    assert!(!names.contains(&"COLLSCAN") && !names.contains(&"SORT") && names.contains(&"IXSCAN"), "{names:?}");
    assert_eq!(stats.get_i32("nReturned").unwrap(), 500);
    let (keys, documents) = (stats.get_i32("totalKeysExamined").unwrap(), stats.get_i32("totalDocsExamined").unwrap());
    println!("claim of 500 among 2000 pending and 5000 sent: {names:?}, {keys} keys, {documents} documents");
    assert!(documents == 500 && keys < 1_000, "{keys} keys, {documents} documents");
    assert_eq!(claim(&outbox, 500).await.rows.len(), 500);
}

#[tokio::test]
async fn a_drainer_that_was_killed_in_its_turn_keeps_others_out_for_a_moment() {
    let Place { rows, outbox, .. } = place().await;
    rows.insert_one(doc! {"_id": "a", "topic": "t", "payload": 1}).await.unwrap();
    // The turn begins after this.
    let since = std::time::Instant::now();
    let dead = turn::Turn::take(&outbox, "dead", since).await.unwrap();
    let next = claim(&outbox, 10).await;
    assert_eq!(ids(&next), ["a"]);
    let waited = since.elapsed();
    assert!(waited > turn::TURN / 2 && waited < turn::TURN * 6, "{waited:?}");
    assert!(next.fence > dead.fence as u64);
}

#[tokio::test]
async fn a_claim_whose_turn_is_over_takes_nothing() {
    let Place { rows, outbox, .. } = place().await;
    rows.insert_one(doc! {"_id": "a", "topic": "t", "payload": 1}).await.unwrap();
    let mut late = turn::Turn::take(&outbox, "late", std::time::Instant::now()).await.unwrap();
    late.until = late.now;
    let found = rows.clone_with_type::<RawDocumentBuf>().find_one(doc! {}).await.unwrap().unwrap();
    let refused = take::take(&outbox, &mut late, &request(10), vec![document::read(&found)]).await;
    assert!(refused.is_err());
    late.end(&outbox).await.unwrap();
    let row = outbox.list(&Filter::id("a"), 1).await.unwrap().remove(0);
    assert_eq!(row.status, Status::Pending);
}
