//! A hub on a MongoDB replica set, and bad days of that: what was acknowledged is there, once, and things go on by
//! themselves.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use mongodb::bson::{Document, Timestamp, doc};
use prom_mongod::{Credentials, Options, ReplicaSet};
use prom_testkit::{DEADLINE, in_time, until, until_some};
use serde_json::{Value, json};

use crate::common::{
    Folder,
    hub::Hub,
    ledger::{self, Ledger},
    wire::{Connection, Publish},
};

async fn set_of(nodes: usize) -> ReplicaSet {
    ReplicaSet::start(Options { nodes, ..Options::default() }).await.unwrap()
}

fn hub_on(set: &ReplicaSet, folder: &Folder) -> Hub {
    let data = folder.0.join("data");
    Hub::launch(&folder.0, &data, &[("MONGO_URL", set.url())]).unwrap_or_else(|(_, log)| panic!("{log}"))
}

/// Publishers and members of a group that go on whatever happens to the database.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    publishers: Vec<tokio::task::JoinHandle<Vec<Publish>>>,
    members: Vec<tokio::task::JoinHandle<()>>,
    ledger: Arc<Ledger>,
}

impl Load {
    fn start(hub: &Hub) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (numbers, ledger) = (Arc::new(AtomicU64::new(0)), Arc::new(Ledger::default()));
        let members = (0..2).map(|_| {
            let (address, ledger) = (hub.address.clone(), Arc::clone(&ledger));
            tokio::spawn(async move { ledger.consume(&address).await })
        });
        let publishers = (0..4).map(|_| {
            let (address, numbers) = (hub.address.clone(), Arc::clone(&numbers));
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                let next =
                    || (!stop.load(Ordering::Relaxed)).then(|| ledger::event(numbers.fetch_add(1, Ordering::Relaxed)));
                let count = || {
                    answered.fetch_add(1, Ordering::Relaxed);
                };
                Connection::open(&address).await.publish(16, next, count).await
            })
        });
        Self { publishers: publishers.collect(), members: members.collect(), stop, answered, ledger }
    }

    /// Waits until so many more publishes were answered; how long that took.
    async fn answers(&self, more: usize) -> Duration {
        let since = Instant::now();
        let enough = self.answered.load(Ordering::Relaxed) + more;
        let done = async || self.answered.load(Ordering::Relaxed) >= enough;
        until("publishes to be answered", done).await;
        since.elapsed()
    }

    /// Ends the publishers, and checks the books once the group is through.
    async fn end(self, hub: Hub, what: &str, gaps: Vec<Duration>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut sent = Vec::new();
        for publisher in self.publishers {
            sent.extend(publisher.await.unwrap());
        }
        let refused = sent.iter().filter(|publish| publish.answer.is_none()).count();
        Ledger::drained(&hub).await;
        // The hub is asked for everything while it is there, and the members end with it.
        let mut books = Ledger::default();
        books.check(&hub, &sent);
        let again = books.repeat(&hub, &sent).await;
        books.check(&hub, &again);
        books.check_all(&hub);
        Ledger::drained(&hub).await;
        hub.kill();
        for member in self.members {
            member.await.unwrap();
        }
        let delivered = Arc::into_inner(self.ledger).expect("all members have ended");
        books.take_over(delivered);
        books.check_group_is_through();
        crate::common::say(&format!(
            "{}; {refused} refused meanwhile",
            books.summary(what, "without answers for", gaps)
        ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_killed_under_load() {
    let folder = Folder::new("mongo-killed");
    let set = set_of(3).await;
    let hub = hub_on(&set, &folder);
    let load = Load::start(&hub);
    load.answers(300).await;
    let mut gaps = Vec::new();
    for _ in 0..2 {
        let primary = set.primary().await.unwrap();
        set.kill(primary).unwrap();
        // What was under way may still be answered; more than that cannot.
        gaps.push(load.answers(4 * 16 + 300).await);
        set.start_again(primary).await.unwrap();
        load.answers(300).await;
    }
    load.end(hub, "primary killed twice", gaps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_hangs_past_an_election_and_comes_back() {
    let folder = Folder::new("mongo-hangs");
    let set = set_of(3).await;
    let hub = hub_on(&set, &folder);
    let load = Load::start(&hub);
    load.answers(300).await;
    let old = set.primary().await.unwrap();
    set.stop(old).unwrap();
    let gap = load.answers(4 * 16 + 300).await;
    assert_ne!(set.primary().await.unwrap(), old);
    set.resume(old).unwrap();
    load.answers(600).await;
    load.end(hub, "primary stopped and resumed", vec![gap]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_set_is_down_for_a_minute() {
    const DOWN: Duration = Duration::from_secs(60);
    let folder = Folder::new("mongo-down");
    let set = set_of(1).await;
    let hub = hub_on(&set, &folder);
    let load = Load::start(&hub);
    load.answers(300).await;
    let down = Instant::now();
    set.kill(0).unwrap();
    let reason = until_some("/readyz to say why", async || {
        let answer = hub.ask("/readyz");
        (answer.status == 503).then(|| answer.parsed()["reason"].as_str().unwrap().to_owned())
    });
    let reason = reason.await;
    assert!(reason.contains("the store cannot be read"), "{reason}");
    assert_eq!(hub.ops("/healthz")["status"], "ok", "the hub is alive all the same");
    // A publisher is told, within its deadline.
    let mut connection = Connection::open(&hub.address).await;
    let since = Instant::now();
    let frame = json!({ "op": "PUBLISH", "topic": "other", "payload": 1, "opts": { "id": "while-it-was-down" } });
    assert!(connection.send(&frame).await);
    let answer = connection.next().await.unwrap();
    assert_eq!(answer["code"], "store_unavailable", "{answer}");
    assert!(since.elapsed() < Duration::from_secs(50), "{:?}", since.elapsed());
    tokio::time::sleep(DOWN.saturating_sub(down.elapsed())).await;
    set.start_again(0).await.unwrap();
    let gap = load.answers(300).await;
    until("/readyz to recover", async || hub.ask("/readyz").status == 200).await;
    assert!(connection.send(&frame).await);
    let answer = connection.next().await.unwrap();
    assert_eq!(answer["op"], "OK", "{answer}");
    load.end(hub, &format!("set down for {:.0?}", down.elapsed()), vec![gap]).await;
}

async fn publish(connection: &mut Connection, topic: &str, payload: &Value) {
    assert!(connection.send(&json!({ "op": "PUBLISH", "topic": topic, "payload": payload })).await);
    let answer = connection.next().await.unwrap();
    assert_eq!(answer["op"], "OK", "{answer}");
}

fn signal(hub: &Hub, name: &str) {
    assert!(Command::new("kill").args([name, &hub.pid().to_string()]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oplog_rolls_over_while_a_hub_is_away() {
    const BEFORE: u64 = 5;
    const AWAY: u64 = 40;
    const AT_ONCE: usize = 8;
    let folders = ["here", "away"].map(|name| Folder::new(&format!("mongo-oplog-{name}")));
    // Nothing leaves the oplog that is not in a checkpoint, and by default there is one a minute.
    let args = ["--syncdelay", "1"].map(str::to_owned).into();
    let set = ReplicaSet::start(Options { oplog_mb: 16, args, ..Options::default() }).await.unwrap();
    let (here, away) = (hub_on(&set, &folders[0]), hub_on(&set, &folders[1]));
    let mut subscriber = Connection::open(&away.address).await;
    let subscribe = json!({ "op": "SUBSCRIBE", "topic": "quiet", "group": "g", "opts": { "from": "earliest" } });
    assert!(subscriber.send(&subscribe).await);
    assert_eq!(subscriber.next().await.unwrap()["op"], "OK");
    let mut publisher = Connection::open(&here.address).await;
    let mut delivered = async |seq: u64| {
        let event = in_time(subscriber.next()).await.unwrap();
        assert_eq!((&event["op"], &event["event"]["seq"]), (&json!("EVENT"), &json!(seq)), "{event}");
        let ack = json!({ "op": "ACK", "topic": "quiet", "group": "g", "id": event["event"]["id"] });
        assert!(subscriber.send(&ack).await);
    };
    for seq in 1..=BEFORE {
        publish(&mut publisher, "quiet", &json!(seq)).await;
        delivered(seq).await;
    }
    // A position that is being stored when the hub stops is another thing it complains of, and it does not do so twice.
    let stored = async || away.ops("/lag?topic=quiet&group=g")["lagEvents"] == 0;
    until("the group's position to be stored", stored).await;
    signal(&away, "-STOP");
    for _ in 0..AWAY {
        publish(&mut publisher, "quiet", &json!("meanwhile")).await;
    }
    // Where the stream is at the latest: what it had asked for when the hub stopped was answered with the first of these.
    let seen = oplog_entry(&set, NEWEST).await;
    let filling = json!({ "op": "PUBLISH", "topic": "filling", "payload": "x".repeat(900_000) });
    let (mut written, filled) = (0, Instant::now());
    while oplog_entry(&set, OLDEST).await <= seen {
        assert!(filled.elapsed() < DEADLINE, "the oplog does not roll over");
        for _ in 0..AT_ONCE {
            assert!(publisher.feed(&filling).await);
        }
        assert!(publisher.flush().await);
        for _ in 0..AT_ONCE {
            let answer = publisher.next().await.unwrap();
            assert_eq!(answer["op"], "OK", "{answer}");
        }
        written += AT_ONCE;
    }
    let filled = filled.elapsed();
    assert!(!place_lost(&away), "it is away");
    signal(&away, "-CONT");
    let back = Instant::now();
    for seq in BEFORE + 1..=BEFORE + AWAY {
        delivered(seq).await;
    }
    crate::common::say(&format!(
        "oplog of 16 MB rolled over by {written} x 0.9 MB in {filled:.1?}: {AWAY} events of meanwhile delivered, {:.1?} after the hub was back",
        back.elapsed()
    ));
    until("the hub to say that its place was lost", async || place_lost(&away)).await;
    publish(&mut publisher, "quiet", &json!("and on")).await;
    delivered(BEFORE + AWAY + 1).await;
}

const OLDEST: i32 = 1;
const NEWEST: i32 = -1;

async fn oplog_entry(set: &ReplicaSet, end: i32) -> Timestamp {
    let oplog = set.client().await.unwrap().database("local").collection::<Document>("oplog.rs");
    let entry = oplog.find_one(doc! {}).sort(doc! { "$natural": end }).await.unwrap().unwrap();
    entry.get_timestamp("ts").unwrap()
}

/// Whether a hub has logged that its change stream cannot go on where it was.
fn place_lost(hub: &Hub) -> bool {
    let lost = |line: &str| line.contains("ChangeStreamHistoryLost") || line.contains("CappedPositionLost");
    hub.log().lines().any(|line| line.contains("MongoDB does not do what it should") && lost(line))
}

/// That a hub on `url` ends with status 1, in time, says what is expected, and no password.
fn refused(test: &str, url: &str, more: &[(&str, &str)], expected: &[&str]) {
    let folder = Folder::new(&format!("mongo-refused-{test}"));
    let since = Instant::now();
    let environment =
        [&[("MONGO_URL", url), ("WS_TOKEN", "try-me"), ("WS_PORT", "0"), ("OPS_PORT", "0")], more].concat();
    let output = crate::common::prom(&["hub"], &environment, &folder.0);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}: {said}", since.elapsed());
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in expected {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(!said.contains("s3cret"), "{said}");
}

#[test]
fn a_hub_that_cannot_reach_its_database_says_so_and_ends() {
    let shown = "mongodb://hub:***@127.0.0.1:1/prom could be reached";
    refused("nobody", "mongodb://hub:s3cret@127.0.0.1:1/prom", &[], &[shown]);
}

#[test]
fn a_database_and_memory_together_are_refused() {
    let both = "MONGO_URL and PROM_MEMORY_MB are both set";
    refused("both", "mongodb://hub:s3cret@127.0.0.1:1/prom", &[("PROM_MEMORY_MB", "8")], &[both]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_server_is_refused_with_what_makes_it_a_set() {
    let set = ReplicaSet::start(Options { standalone: true, ..Options::default() }).await.unwrap();
    refused("standalone", set.url(), &[], &["is a standalone server", "--replSet rs0", "rs.initiate()"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_and_an_unknown_user_are_refused() {
    let credentials = Some(Credentials { user: "hub".into(), password: "right".into() });
    let set = ReplicaSet::start(Options { credentials, ..Options::default() }).await.unwrap();
    let wrong = set.url().replace("hub:right@", "hub:s3cret@");
    refused("wrong", &wrong, &[], &["refuses the user or the password", "hub:***@"]);
    let unknown = set.url().replace("hub:right@", "nobody:s3cret@");
    refused("unknown", &unknown, &[], &["refuses the user or the password", "nobody:***@"]);
}

/// `{outbox: {published, duplicates, …, pending, claimed, sent, error}}`.
fn outbox(hub: &Hub) -> Value {
    hub.ops("/outbox")["outboxes"][0].clone()
}

/// Rows of ten keys and some without, as a service writes them.
async fn insert_rows(set: &ReplicaSet, from: u64, count: u64) {
    let rows = set.client().await.unwrap().database("prom").collection::<Document>("outbox");
    let now = mongodb::bson::DateTime::now().timestamp_millis();
    let row = |n: u64| {
        let mut row = doc! {
            "_id": format!("row-{n:06}"), "topic": "orders.placed", "payload": { "n": n as i64 }, "status": "pending",
            "ts": now + n as i64, "attempts": 0,
        };
        if !n.is_multiple_of(11) {
            row.insert("key", format!("key-{}", n % 11));
        }
        row
    };
    rows.insert_many((from..from + count).map(row)).await.unwrap();
}

/// That each row is in the log once, and those of a key in their order.
fn check_orders(hub: &Hub, rows: u64) {
    let mut last = std::collections::HashMap::new();
    let mut seen = std::collections::HashSet::new();
    for line in hub.export("orders.placed").lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let n = event["payload"]["n"].as_u64().unwrap();
        assert_eq!(event["id"], format!("row-{n:06}"), "the row's id is the event's");
        assert!(seen.insert(n), "row {n} was published twice");
        if let Some(key) = event["key"].as_str()
            && let Some(before) = last.insert(key.to_owned(), n)
        {
            assert!(before < n, "{key}: {n} came after {before}");
        }
    }
    assert_eq!(seen.len() as u64, rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_between_publish_and_mark_publishes_no_row_twice() {
    const KILLS: u64 = 3;
    const ROWS: u64 = 300;
    let folder = Folder::new("mongo-outbox");
    let args = ["--setParameter", "enableTestCommands=1"].map(str::to_owned).to_vec();
    let set = ReplicaSet::start(Options { args, ..Options::default() }).await.unwrap();
    let admin = set.client().await.unwrap().database("admin");
    for kill in 0..KILLS {
        let hub = hub_on(&set, &folder);
        let mut subscriber = Connection::open(&hub.address).await;
        assert!(subscriber.send(&json!({ "op": "SUBSCRIBE", "topic": "orders.placed" })).await);
        assert_eq!(subscriber.next().await.unwrap()["op"], "OK");
        // The first write to the rows claims some; those behind it, which mark them, fail.
        let data = doc! { "failCommands": ["update"], "namespace": "prom.outbox", "errorCode": 11_602 };
        let fail = doc! { "configureFailPoint": "failCommand", "mode": { "skip": 1 }, "data": data };
        admin.run_command(fail).await.unwrap();
        insert_rows(&set, kill * ROWS, ROWS).await;
        let event = in_time(subscriber.next()).await.unwrap();
        assert_eq!(event["op"], "EVENT", "{event}");
        hub.kill();
        admin.run_command(doc! { "configureFailPoint": "failCommand", "mode": "off" }).await.unwrap();
    }
    // What a hub that was killed had claimed comes back when the claim is over.
    let hub = hub_on(&set, &folder);
    until("all to be sent", async || outbox(&hub)["sent"] == KILLS * ROWS).await;
    let duplicates = outbox(&hub)["drainer"]["duplicates"].as_u64().unwrap();
    check_orders(&hub, KILLS * ROWS);
    let rows = KILLS * ROWS;
    crate::common::say(&format!(
        "hub killed {KILLS} times between publish and mark: {rows} rows, {rows} found, doubled 0, {duplicates} published again as duplicates"
    ));
    assert!(duplicates > 0, "no kill came between publish and mark: this checks nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hubs_drain_one_outbox_and_keep_the_order_of_each_key() {
    const ROWS: u64 = 4_000;
    let folders = ["one", "two"].map(|name| Folder::new(&format!("mongo-drain-{name}")));
    let set = set_of(1).await;
    let hubs = [hub_on(&set, &folders[0]), hub_on(&set, &folders[1])];
    for part in 0..20 {
        insert_rows(&set, part * ROWS / 20, ROWS / 20).await;
    }
    until("all to be sent", async || outbox(&hubs[0])["sent"] == ROWS).await;
    check_orders(&hubs[1], ROWS);
    let share = hubs.each_ref().map(|hub| outbox(hub)["drainer"]["published"].as_u64().unwrap());
    crate::common::say(&format!(
        "two hubs on one outbox: {ROWS} rows, {ROWS} found, doubled 0, published {} + {}",
        share[0], share[1]
    ));
    assert!(share[0] + share[1] >= ROWS);
}
