//! Rows that once stopped an outbox, or were lost in it.

use mongodb::bson::RawDocumentBuf;

use super::*;
use crate::Row;

/// A claim that must come to an end.
async fn claim_in_time(outbox: &MongoOutbox, limit: usize) -> Claim {
    let claim = tokio::time::timeout(Duration::from_secs(120), outbox.claim(&request(limit))).await;
    claim.expect("the claim does not end").unwrap()
}

async fn row(outbox: &MongoOutbox, id: &str) -> Row {
    outbox.list(&Filter::id(id), 1).await.unwrap().remove(0)
}

#[tokio::test]
async fn times_of_two_types_make_one_order_in_a_claim_that_takes_all() {
    // Bug: only pages that a limit had cut were sorted, so a number came before every date.
    let Place { rows, outbox, .. } = place().await;
    let plain = |id: &str, ts: Bson| doc! {"_id": id, "topic": "t", "payload": 1, "key": "k", "ts": ts};
    let of_id = ObjectId::from_parts(1_500, [0; 5], [0; 3]);
    rows.insert_many([
        plain("a", DateTime::from_millis(1_000_000).into()),
        plain("b", 2_000_000.into()),
        doc! {"_id": of_id, "topic": "t", "payload": 1, "key": "k"},
    ])
    .await
    .unwrap();
    assert_eq!(ids(&claim(&outbox, 10).await), ["a", &of_id.to_hex(), "b"]);
}

#[tokio::test]
async fn a_lease_that_is_no_date_has_run_out() {
    // Bug: a claim whose lease was a list with a future date in it was never requeued, and every claim waited for that.
    let Place { rows, outbox, .. } = place().await;
    let later = DateTime::from_millis(DateTime::now().timestamp_millis() + 3_600_000);
    rows.insert_many([
        doc! {"_id": "odd", "topic": "t", "payload": 1, "status": "claimed", "lease_until": [later], "ts": 1},
        doc! {"_id": "text", "topic": "t", "payload": 1, "status": "claimed", "lease_until": "soon", "ts": 2},
        doc! {"_id": "bare", "topic": "t", "payload": 1, "status": "claimed", "ts": 3},
    ])
    .await
    .unwrap();
    assert_eq!(outbox.stats().await.unwrap().stuck, 3);
    let claim = claim_in_time(&outbox, 10).await;
    assert_eq!((ids(&claim), claim.requeued), (vec!["odd", "text", "bare"], 3));
}

#[tokio::test]
async fn a_status_that_is_none_is_parked_and_said() {
    // Bug: such rows were never drained, listed or counted but as sent.
    let Place { rows, outbox, .. } = place().await;
    rows.insert_many([
        doc! {"_id": "new", "topic": "t", "payload": 1, "status": "new"},
        doc! {"_id": "number", "topic": "t", "payload": 1, "status": 1},
        doc! {"_id": "good", "topic": "t", "payload": 1, "status": "pending"},
    ])
    .await
    .unwrap();
    assert_eq!(outbox.list(&Filter::default(), 10).await.unwrap().len(), 3, "an operator sees them");
    assert_eq!(outbox.count(&Filter::default()).await, Ok(3));
    let stats = outbox.stats().await.unwrap();
    assert_eq!((stats.pending, stats.error, stats.sent), (1, 2, 0));
    assert_eq!(ids(&claim(&outbox, 10).await), ["good"]);
    let parked = row(&outbox, "new").await;
    let error = "bad_frame: status must be pending, claimed, sent or error, not `new`";
    assert_eq!((parked.status, parked.last_err.as_deref()), (Status::Error, Some(error)));
    assert!(row(&outbox, "number").await.last_err.unwrap().starts_with("bad_frame: status must be"));
    assert_eq!(rows.count_documents(doc! {"status": "error"}).await.unwrap(), 2);
    assert_eq!(outbox.retry(&Filter::id("new")).await, Ok(1));
    assert_eq!(ids(&claim(&outbox, 10).await), ["new"]);
}

#[tokio::test]
async fn a_row_as_large_as_mongodb_allows_holds_nothing_up() {
    // Bug: the mark of a claim did not fit into it, so that each claim failed, of other rows too.
    let Place { rows, outbox, .. } = place().await;
    let mut large = doc! {"_id": "large", "topic": "t", "status": "pending", "ts": 1, "key": "k", "payload": ""};
    let spare = 16 * 1024 * 1024 - RawDocumentBuf::try_from(&large).unwrap().as_bytes().len() - 20;
    large.insert("payload", "x".repeat(spare));
    rows.insert_one(large).await.unwrap();
    rows.insert_one(doc! {"_id": "small", "topic": "t", "payload": 1, "ts": 2, "key": "k"}).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.extend(ids(&claim_in_time(&outbox, 10).await).into_iter().map(str::to_owned));
    }
    assert_eq!(seen, ["small"]);
    assert_eq!(row(&outbox, "large").await.status, Status::Error);
}

#[tokio::test]
async fn a_row_that_a_validator_refuses_to_mark_holds_nothing_up() {
    // Bug: one row that could not be marked ended the marks of all behind it, at each claim.
    let Place { rows, outbox, .. } = place().await;
    let plain = |id: &str, key: &str, ts: i64| doc! {"_id": id, "topic": "t", "payload": 1, "ts": ts, "key": key};
    rows.insert_many([plain("a1", "a", 1), plain("b1", "b", 2), plain("a2", "a", 3)]).await.unwrap();
    let rule = doc! {"$or": [{"_id": {"$ne": "a1"}}, {"status": {"$ne": "claimed"}}]};
    let database = rows.client().database(&rows.namespace().db);
    database.run_command(doc! {"collMod": rows.name(), "validator": rule}).await.unwrap();
    let first = claim_in_time(&outbox, 10).await;
    assert_eq!(ids(&first), ["b1"], "what is behind the other in its key waits");
    let parked = row(&outbox, "a1").await;
    assert_eq!(parked.status, Status::Error);
    assert!(parked.last_err.as_deref().unwrap().contains("ailed validation"), "{parked:?}");
    assert_eq!(ids(&claim_in_time(&outbox, 10).await), ["a2"]);
}

#[tokio::test]
async fn a_document_that_keeps_an_index_from_being_made_is_named() {
    // Bug: a drainer tried for ever to prepare, and nothing said which document was in the way.
    let client = Client::with_uri_str(prom_mongod::shared().await.unwrap()).await.unwrap();
    let rows: Collection<Document> = client.database(&prom_mongod::fresh_database("outbox")).collection("outbox");
    rows.insert_one(doc! {"_id": "odd", "topic": "t", "payload": 1, "ts": [1], "key": ["a", "b"]}).await.unwrap();
    let error = MongoOutbox::new(rows.clone()).prepare().await.unwrap_err().to_string();
    assert!(error.contains("`odd`") && error.contains("ts") && error.contains("key"), "{error}");
    rows.delete_one(doc! {"_id": "odd"}).await.unwrap();
    MongoOutbox::new(rows).prepare().await.unwrap();
}

#[tokio::test]
async fn any_number_of_keys_may_be_busy() {
    // Bug: all busy keys were named in one query, which may have 16 MiB: with more of them each claim failed.
    const KEYS: usize = 5_000;
    let Place { rows, outbox, .. } = place().await;
    let later = DateTime::from_millis(DateTime::now().timestamp_millis() + 3_600_000);
    let row = |id: String, n: usize| doc! {"_id": id, "topic": "t", "payload": 1, "key": format!("k{n}"), "ts": 1};
    let waiting = |n: usize| {
        let mut row = row(format!("a{n}"), n);
        row.insert("next_try_at", later);
        row
    };
    let behind = |n: usize| row(format!("b{n}"), n);
    rows.insert_many((0..KEYS).map(waiting)).await.unwrap();
    rows.insert_many((0..KEYS).map(behind)).await.unwrap();
    rows.insert_one(doc! {"_id": "free", "topic": "t", "payload": 1, "key": "free", "ts": 3}).await.unwrap();
    let claim = claim_in_time(&outbox, 10).await;
    assert_eq!((ids(&claim), claim.busy, claim.more), (vec!["free"], false, false));
}
