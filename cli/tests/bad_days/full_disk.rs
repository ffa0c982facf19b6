//! A disk that is full: publishes are refused until there is space, and nothing that was acknowledged suffers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prom_testkit::until;
use serde_json::{Value, json};

use crate::common::{
    Folder,
    hub::Hub,
    ledger::{self, Ledger},
    mount::{self, Mount},
    wire::Connection,
};

/// Bytes of payloads: a disk is to be full soon, and to its last byte.
const SIZES: [usize; 3] = [200_000, 5_000, 10];
const TOPIC: &str = ledger::TOPICS[0];

/// What the hub answers to one event.
async fn publish(connection: &mut Connection, n: u64, bytes: usize) -> Value {
    let payload = json!({ "n": n, "filling": "x".repeat(bytes) });
    let opts = json!({ "id": format!("chosen-{n}") });
    let frame = json!({ "op": "PUBLISH", "corr": n.to_string(), "topic": TOPIC, "payload": payload, "opts": opts });
    assert!(connection.send(&frame).await);
    connection.next().await.expect("the hub is there")
}

/// Publishes behind `last` until the disk is full; answers the last that was acknowledged.
async fn fill(connection: &mut Connection, mut last: u64) -> u64 {
    for bytes in SIZES {
        let refusal = loop {
            let answer = publish(connection, last + 1, bytes).await;
            if answer["op"] != "OK" {
                break answer;
            }
            last += 1;
            assert_eq!(answer["seq"], last);
            assert!(last < 10_000, "the disk is never full");
        };
        assert_eq!(refusal["code"], "store_unavailable", "{refusal}");
        assert!(refusal["msg"].as_str().unwrap().contains("goes on when there is space"), "{refusal}");
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_publishes_until_there_is_space() {
    let folder = Folder::new("full");
    let mount = match Mount::new(&folder.0.join("disk"), "size=160m") {
        Ok(mount) => mount,
        Err(why) => return mount::skipped("a_full_disk_refuses_publishes_until_there_is_space", &why),
    };
    let data = mount.0.join("data");
    let ballast = mount.0.join("ballast");
    std::fs::write(&ballast, vec![1; 70 << 20]).unwrap();
    let hub = Hub::launch(&folder.0, &data, &[]).unwrap_or_else(|(_, log)| panic!("{log}"));
    let ledger = Arc::new(Ledger::default());
    let member = {
        let (ledger, address) = (Arc::clone(&ledger), hub.address.clone());
        tokio::spawn(async move { ledger.consume(&address).await })
    };
    let mut connection = Connection::open(&hub.address).await;
    let mut last = fill(&mut connection, 0).await;
    // It stays so, the hub lives, and what it has can be read.
    assert_eq!(publish(&mut connection, last + 1, SIZES[2]).await["code"], "store_unavailable");
    assert_eq!(hub.ops("/healthz")["status"], "ok");
    assert_eq!(hub.replay(TOPIC, last - 1)["count"], 1);
    // Whoever looks sees it.
    let ready = hub.ask("/readyz");
    let reason = ready.parsed()["reason"].as_str().unwrap().to_owned();
    assert!(ready.status == 503 && reason.contains("the log cannot grow"), "{} {reason}", ready.status);
    assert!(hub.ask("/metrics").body.contains("store_full 1\n"));
    let log = hub.log();
    let said: Vec<_> = log.lines().filter(|line| line.contains("the store is full")).collect();
    assert!(said[0].contains("WARN") && said[0].contains("refused=1"), "{log}");

    // To the last byte, and with a start: what is there can be read all the same.
    let rest = mount.0.join("rest");
    assert!(std::fs::write(&rest, vec![1; 160 << 20]).is_err());
    hub.kill();
    member.await.unwrap();
    let hub = Hub::launch(&folder.0, &data, &[]).unwrap_or_else(|(_, log)| panic!("{log}"));
    assert_eq!(hub.replay(TOPIC, last - 1)["count"], 1);
    let member = {
        let (ledger, address) = (Arc::clone(&ledger), hub.address.clone());
        tokio::spawn(async move { ledger.consume(&address).await })
    };
    let mut connection = Connection::open(&hub.address).await;
    assert_eq!(publish(&mut connection, last + 1, SIZES[0]).await["code"], "store_unavailable");

    assert_eq!(hub.ask("/readyz").status, 503);
    std::fs::remove_file(&rest).unwrap();
    std::fs::remove_file(&ballast).unwrap();
    // Before anybody has tried.
    until("the hub to be ready again", async || hub.ask("/readyz").status == 200).await;
    until("the log to say so", async || hub.log().contains("the store has room again")).await;
    assert!(hub.ask("/metrics").body.contains("store_full 0\n"));
    for _ in 0..10 {
        let answer = publish(&mut connection, last + 1, SIZES[0]).await;
        last += 1;
        assert_eq!((&answer["op"], &answer["seq"]), (&json!("OK"), &json!(last)), "{answer}");
    }
    Ledger::drained(&hub).await;
    hub.kill();
    member.await.unwrap();
    ledger.check_group();
    let hub = Hub::launch(&folder.0, &data, &[]).unwrap_or_else(|(_, log)| panic!("{log}"));
    let export = hub.export(TOPIC);
    let numbers: Vec<u64> = export
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["payload"]["n"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
}

/// Trims and positions are written to the log as well: while events could take its last byte, nothing could be trimmed on
/// a full disk, and it stayed full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_has_space_again_when_retention_lets_go_of_what_is_settled() {
    let folder = Folder::new("full-retention");
    let mount = match Mount::new(&folder.0.join("disk"), "size=140m") {
        Ok(mount) => mount,
        Err(why) => {
            return mount::skipped("a_full_disk_has_space_again_when_retention_lets_go_of_what_is_settled", &why);
        }
    };
    let config = folder.0.join("prom.toml");
    std::fs::write(&config, "[[retention]]\ntopics = \"kill.**\"\nmax_events = 10\n").unwrap();
    let environment = [("PROM_CONFIG", config.to_str().unwrap())];
    let hub = Hub::launch(&folder.0, &mount.0.join("data"), &environment).unwrap_or_else(|(_, log)| panic!("{log}"));
    let mut connection = Connection::open(&hub.address).await;
    assert_eq!(publish(&mut connection, 1, SIZES[0]).await["op"], "OK");
    // A member that settles nothing holds everything.
    let mut holder = Connection::open(&hub.address).await;
    let opts = json!({ "from": "earliest", "maxInFlight": 1, "maxAttempts": 100 });
    let subscribe = json!({ "op": "SUBSCRIBE", "topic": "kill.**", "group": "workers", "opts": opts });
    assert!(holder.send(&subscribe).await);
    assert_eq!(holder.next().await.unwrap()["op"], "OK");
    let last = fill(&mut connection, 1).await;
    assert_eq!(hub.ops("/topics")["topics"][0]["first"], 1);

    drop(holder);
    let ledger = Arc::new(Ledger::default());
    let member = {
        let (ledger, address) = (Arc::clone(&ledger), hub.address.clone());
        tokio::spawn(async move { ledger.consume(&address).await })
    };
    let deadline = Instant::now() + Duration::from_secs(180);
    while publish(&mut connection, last + 1, SIZES[2]).await["op"] != "OK" {
        assert!(Instant::now() < deadline, "no space was made:\n{}", hub.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(hub.ops("/topics")["topics"][0]["first"].as_u64().unwrap() > 1);
    Ledger::drained(&hub).await;
    hub.kill();
    member.await.unwrap();
    ledger.check_group();
}
