//! Claims whose turn goes wrong.

use super::*;
use crate::mongo::document::Read;

async fn read(outbox: &MongoOutbox) -> Vec<Read> {
    let mut found = outbox.rows.find(doc! {}).sort(doc! {"ts": 1}).await.unwrap();
    let mut rows = Vec::new();
    while found.advance().await.unwrap() {
        rows.push(document::read(found.current()));
    }
    rows
}

async fn begin(outbox: &MongoOutbox) -> turn::Turn {
    turn::Turn::take(outbox, "test", std::time::Instant::now() + Duration::from_secs(60)).await.unwrap()
}

#[tokio::test]
async fn what_is_behind_a_row_that_another_claim_got_is_given_back() {
    // Bug: when a late write of an earlier turn had the first row of a key, the second was published before it.
    let Place { rows, outbox, .. } = place().await;
    let plain = |id: &str, key: &str, ts: i64| doc! {"_id": id, "topic": "t", "payload": 1, "ts": ts, "key": key};
    rows.insert_many([plain("a1", "a", 1), plain("a2", "a", 2), plain("b1", "b", 3)]).await.unwrap();
    let mut turn = begin(&outbox).await;
    let found = read(&outbox).await;
    rows.update_one(doc! {"_id": "a1"}, doc! {"$set": {"status": "claimed", "fence": 0}}).await.unwrap();
    let got = take::take(&outbox, &mut turn, &request(10), found).await.unwrap();
    assert_eq!(got.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["b1"]);
    assert_eq!(outbox.list(&Filter::id("a2"), 1).await.unwrap()[0].status, Status::Pending);
}

#[tokio::test]
async fn a_claim_that_could_outlast_its_turn_takes_nothing() {
    // Bug: the server began to mark rows just before the turn ended, and went on after that.
    let Place { rows, outbox, .. } = place().await;
    rows.insert_one(doc! {"_id": "a", "topic": "t", "payload": 1}).await.unwrap();
    let mut turn = begin(&outbox).await;
    turn.until = DateTime::from_millis(turn.now.timestamp_millis() + take::TAKING.as_millis() as i64 - 1);
    assert!(take::take(&outbox, &mut turn, &request(10), read(&outbox).await).await.is_err());
    turn.end(&outbox).await.unwrap();
    assert_eq!(outbox.list(&Filter::id("a"), 1).await.unwrap()[0].status, Status::Pending);
}

#[tokio::test]
async fn a_turn_whose_write_may_still_come_runs_out_by_itself() {
    // Bug: the turn was ended after a connection was lost, and the write on it came while the next had begun.
    let Place { rows, outbox, .. } = place().await;
    rows.insert_one(doc! {"_id": "a", "topic": "t", "payload": 1}).await.unwrap();
    // The turn begins after this.
    let since = std::time::Instant::now();
    let mut turn = begin(&outbox).await;
    turn.failed(&std::io::Error::other("the connection is lost").into());
    turn.end(&outbox).await.unwrap();
    assert_eq!(ids(&claim(&outbox, 10).await), ["a"]);
    assert!(since.elapsed() > turn::TURN / 2, "{:?}", since.elapsed());
    // What the server has answered is over.
    let mut turn = begin(&outbox).await;
    turn.failed(&mongodb::error::Error::custom("refused"));
    let until = turn.until;
    turn.end(&outbox).await.unwrap();
    assert!(begin(&outbox).await.now < until, "it was waited for");
}

#[tokio::test]
async fn rows_that_only_one_node_knows_to_be_claimed_are_not() {
    // Bug: a claim was answered when the primary had it; after an election others claimed the same rows.
    let set = prom_mongod::ReplicaSet::start(prom_mongod::Options { nodes: 3, ..prom_mongod::Options::default() })
        .await
        .unwrap();
    let client = set.client().await.unwrap();
    let rows: Collection<Document> = client.database(&prom_mongod::fresh_database("outbox")).collection("outbox");
    let outbox = MongoOutbox::new(rows.clone());
    outbox.ensure_indexes().await.unwrap();
    rows.insert_one(doc! {"_id": "a", "topic": "t", "payload": 1}).await.unwrap();
    let mut turn = begin(&outbox).await;
    let found = read(&outbox).await;
    let primary = set.primary().await.unwrap();
    for node in (0..3).filter(|node| *node != primary) {
        set.stop(node).unwrap();
    }
    let request = request(10);
    let taken = take::take(&outbox, &mut turn, &request, found);
    let refused = tokio::time::timeout(Duration::from_secs(4), taken).await;
    for node in (0..3).filter(|node| *node != primary) {
        set.resume(node).unwrap();
    }
    assert!(!matches!(refused, Ok(Ok(_))), "it is told that it has rows");
}
