//! Drainers on a real replica set.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use ::mongodb::{
    Client, Collection,
    bson::{DateTime, Document, doc},
};
use prom_outbox::{
    ClaimRequest, Drainer, Filter, Mark, MongoOutbox, NewRow, Options, OutboxStore, Settle, Stats, Status,
};
use tokio::{sync::Notify, task::JoinHandle};

use crate::fake_hub::{FakeHub, assert_key_order, until};

struct Place {
    client: Client,
    rows: Collection<Document>,
    outbox: Arc<MongoOutbox>,
}

async fn place(label: &str) -> Place {
    place_at(prom_mongod::shared().await.unwrap(), label).await
}

async fn place_at(url: &str, label: &str) -> Place {
    let client = Client::with_uri_str(url).await.unwrap();
    let rows: Collection<Document> = client.database(&prom_mongod::fresh_database(label)).collection("outbox");
    let outbox = Arc::new(MongoOutbox::new(rows.clone()));
    outbox.ensure_indexes().await.unwrap();
    Place { client, rows, outbox }
}

struct Running {
    drainer: Arc<Drainer>,
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

/// A drainer with an outbox of its own on the same collection, as in another process.
fn start(place: &Place, hub: &Arc<FakeHub>, options: Options) -> Running {
    let store = Arc::new(MongoOutbox::new(place.rows.clone()));
    let drainer = Arc::new(Drainer::new(store, Arc::clone(hub) as _, options));
    let stop = Arc::new(Notify::new());
    let (running, stopped) = (Arc::clone(&drainer), Arc::clone(&stop));
    let task = tokio::spawn(async move { running.run(stopped.notified()).await });
    Running { drainer, stop, task }
}

impl Running {
    async fn stop(self) -> Arc<Drainer> {
        self.stop.notify_one();
        self.task.await.unwrap();
        self.drainer
    }
}

async fn add(place: &Place, rows: impl IntoIterator<Item = NewRow>) {
    let mut session = place.client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for row in rows {
        place.outbox.add(&mut session, row).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
}

async fn sent(place: &Place, rows: u64) {
    until("all rows are sent", async || place.rows.count_documents(doc! {"status": "sent"}).await.unwrap() == rows)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_drainers_publish_each_row_once_and_each_key_in_order() {
    let place = place("two").await;
    let hub = FakeHub::refusing(|event, tries| {
        let unlucky = event.id().ends_with("77") && tries == 1;
        unlucky.then(|| prom_outbox::PublishError::new("internal", "later", true))
    });
    let options = || Options { batch: 100, ..Options::default() };
    let (one, two) = (start(&place, &hub, options()), start(&place, &hub, options()));
    let since = Instant::now();
    // Both take part, however long the second needs to come to its turn.
    let mut part = 0;
    let idle = |running: &Running| running.drainer.tally().published == 0;
    while part < 12 || idle(&one) || idle(&two) {
        assert!(part < 400, "one of them gets nothing");
        let rows = (0..500).map(|n| {
            let n = part * 500 + n;
            let row = doc! {"_id": format!("r{n:05}"), "topic": "t", "payload": {"n": n as i64}, "status": "pending",
            "ts": DateTime::from_millis(n as i64)};
            match n % 4 {
                0 => row,
                _ => {
                    let mut row = row;
                    row.insert("key", format!("k{}", n % 97));
                    row
                }
            }
        });
        place.rows.insert_many(rows).await.unwrap();
        part += 1;
    }
    let all = part * 500;
    sent(&place, all as u64).await;
    let took = since.elapsed();
    let (one, two) = (one.stop().await.tally(), two.stop().await.tally());
    println!("{all} rows in {took:?}; first: {one:?}; second: {two:?}");
    let order = hub.order();
    assert_eq!((order.len(), hub.duplicates().len()), (all, 0));
    assert_key_order(&order);
    assert_eq!(hub.overlaps.load(SeqCst), 0, "a key was in two batches at once");
    assert_eq!((one.published + two.published, one.refused + two.refused), (all as u64, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drainer_that_dies_between_publish_and_mark_leaves_duplicates_not_second_events() {
    let place = place("dies").await;
    add(&place, (0..20).map(|n| NewRow::new("t", &n).unwrap().id(format!("r{n:02}")).key(format!("k{}", n % 3)))).await;
    let hub = FakeHub::new();
    hub.silent.store(true, SeqCst);
    // Only the lease of the first has to end.
    let first = start(&place, &hub, Options { lease: Duration::from_secs(5), ..Options::default() });
    until("the batch is published", async || hub.order().len() == 20).await;
    first.task.abort();
    assert!(first.task.await.unwrap_err().is_cancelled());
    hub.silent.store(false, SeqCst);
    let second = start(&place, &hub, Options { poll: Duration::from_millis(50), ..Options::default() });
    sent(&place, 20).await;
    let tally = second.stop().await.tally();
    assert_eq!((tally.requeued, tally.duplicates, hub.order().len()), (20, 20, 20));
    let mut again = hub.duplicates();
    again.sort();
    assert_eq!(again, (0..20).map(|n| format!("r{n:02}")).collect::<Vec<_>>(), "with the same ids");
}

#[tokio::test]
async fn a_late_mark_of_the_first_drainer_is_refused() {
    let place = place("late").await;
    add(&place, [NewRow::new("t", &1).unwrap().id("a")]).await;
    let request = |by: &str, lease| ClaimRequest { by: by.into(), limit: 10, max_bytes: usize::MAX, lease };
    let first = place.outbox.claim(&request("first", Duration::from_millis(20))).await.unwrap();
    let second = MongoOutbox::new(place.rows.clone());
    let until = Instant::now() + Duration::from_secs(120);
    let again = loop {
        let again = second.claim(&request("second", Duration::from_secs(60))).await.unwrap();
        if !again.rows.is_empty() {
            break again;
        }
        assert!(Instant::now() < until, "the claim does not run out");
    };
    let mark = |claim: &prom_outbox::Claim| vec![Mark { id: claim.rows[0].id.clone(), settle: Settle::Sent }];
    assert_eq!(place.outbox.settle(first.fence, &mark(&first)).await, Ok(0));
    let row = place.outbox.list(&Filter::id("a"), 1).await.unwrap().remove(0);
    assert_eq!((row.status, row.claimed_by.as_deref()), (Status::Claimed, Some("second")));
    assert_eq!(second.settle(again.fence, &mark(&again)).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_is_parked_while_the_rest_flows() {
    let place = place("poison").await;
    let row = |n: i32, payload: f64| doc! {"_id": n, "topic": "t", "key": "k", "ts": n, "payload": {"price": payload}};
    place.rows.insert_many([row(1, 1.0), row(2, f64::NAN), row(3, 3.0)]).await.unwrap();
    let hub = FakeHub::new();
    let drainer = start(&place, &hub, Options::default());
    sent(&place, 2).await;
    until("the poison is parked", async || place.outbox.stats().await.unwrap().error == 1).await;
    assert_eq!(hub.ids(), ["1", "3"]);
    let parked = place.outbox.list(&Filter::status(Status::Error), 10).await.unwrap();
    assert_eq!(parked[0].last_err.as_deref(), Some("bad_payload: payload.price is NaN, which JSON does not have"));
    let tally = drainer.stop().await.tally();
    assert_eq!((tally.parked, tally.published, tally.retried), (1, 2, 0));
    assert!(tally.claims <= 8, "{tally:?}");
    // Mended by hand, it is tried again.
    place.rows.update_one(doc! {"_id": 2}, doc! {"$set": {"payload.price": 2.0}}).await.unwrap();
    assert_eq!(place.outbox.retry(&Filter::id("2")).await, Ok(1));
    let drainer = start(&place, &hub, Options::default());
    sent(&place, 3).await;
    drainer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_wakes_a_drainer_long_before_its_poll() {
    let place = place("wakes").await;
    let hub = FakeHub::new();
    let drainer = start(&place, &hub, Options { poll: Duration::from_secs(3600), ..Options::default() });
    // The change stream is open when a row has come through it.
    until("the first row is published", async || {
        add(&place, [NewRow::new("t", &1).unwrap()]).await;
        !hub.order().is_empty()
    })
    .await;
    let mut waits = Vec::new();
    for n in 0..50 {
        let before = hub.order().len();
        let since = Instant::now();
        add(&place, [NewRow::new("t", &n).unwrap()]).await;
        until("it is published", async || hub.order().len() > before).await;
        waits.push(since.elapsed());
    }
    drainer.stop().await;
    waits.sort();
    println!("from before the insert to the publish: p50 {:?}, p90 {:?}", waits[25], waits[45]);
    assert_eq!(place.outbox.stats().await.unwrap(), Stats { sent: hub.order().len() as u64, ..Stats::default() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_killed_costs_no_row_and_no_order() {
    const ROWS: usize = 3_000;
    let set = prom_mongod::ReplicaSet::start(prom_mongod::Options { nodes: 3, ..prom_mongod::Options::default() })
        .await
        .unwrap();
    let place = place_at(set.url(), "killed").await;
    let rows = (0..ROWS).map(|n| {
        doc! {"_id": format!("r{n:05}"), "topic": "t", "payload": 1, "ts": DateTime::from_millis(n as i64),
        "key": format!("k{}", n % 40)}
    });
    place.rows.insert_many(rows).await.unwrap();
    let hub = FakeHub::new();
    let options = || Options { batch: 20, lease: Duration::from_secs(5), ..Options::default() };
    let primary = set.primary().await.unwrap();
    let (one, two) = (start(&place, &hub, options()), start(&place, &hub, options()));
    until("some rows are published", async || hub.order().len() > 500).await;
    set.kill(primary).unwrap();
    let before = hub.order().len();
    assert!(before < ROWS, "it was killed too late to show anything");
    until("all rows are published", async || hub.order().len() == ROWS).await;
    until("all rows are marked", async || place.outbox.stats().await.is_ok_and(|stats| stats.sent == ROWS as u64))
        .await;
    let (one, two) = (one.stop().await.tally(), two.stop().await.tally());
    println!("{before} before the kill, {} duplicates; {one:?}; {two:?}", hub.duplicates().len());
    assert_key_order(&hub.order());
}
