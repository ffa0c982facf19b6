//! Two hubs on one MongoDB database: one of them projects heartbeats, and the other goes on when that one ends. What one
//! removes is gone for those on the other.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use prom_hub::{
    Config, Hub, StoreConfig,
    mongo::{MongoStore, Options},
    store::Store,
};
use prom_protocol::{Group, Topic, topics};
use prom_testkit::{
    Client, config,
    http::{raw, request},
    mongo, until,
};
use serde_json::{Value, json};

async fn hub_on(options: &Options) -> Hub {
    let mut config = config();
    config.store = StoreConfig::mongo(options.clone());
    Hub::start(config).await.unwrap()
}

/// Publishes heartbeats of processes of their own; answers with their ids.
async fn beat(client: &mut Client, pids: std::ops::Range<u64>) -> Vec<String> {
    let mut ids = Vec::new();
    for pid in pids {
        let payload = json!({ "pid": pid, "name": "worker", "host": "here", "cpu_pct": 1.0, "mem_mb": 1.0 });
        let ok = client.publish(topics::HEARTBEAT, payload).await;
        ids.push(ok["id"].as_str().unwrap().to_owned());
    }
    ids
}

/// Up to which heartbeat the projector has settled all.
async fn floor(store: &MongoStore) -> u64 {
    let (heartbeats, group) = (Topic::new(topics::HEARTBEAT).unwrap(), Group::stored("$process-projector").unwrap());
    store.cursor(&heartbeats, &group).await.unwrap().map_or(0, |cursor| cursor.floor)
}

/// Waits until the projector has settled every heartbeat up to `seq`.
async fn settled(store: &MongoStore, seq: u64) {
    let (heartbeats, group) = (Topic::new(topics::HEARTBEAT).unwrap(), Group::stored("$process-projector").unwrap());
    until("heartbeats to be projected", async || {
        store.cursor(&heartbeats, &group).await.unwrap().is_some_and(|cursor| cursor.floor >= seq)
    })
    .await;
}

/// How many states each heartbeat caused.
async fn caused(store: &MongoStore) -> BTreeMap<String, usize> {
    let page = store.read(&Topic::new(topics::STATE).unwrap(), 0, usize::MAX, usize::MAX).await.unwrap();
    let mut caused = BTreeMap::new();
    for event in &page.events {
        let event: Value = serde_json::from_str(event.text()).unwrap();
        // None: it has gone stale.
        if let Some(cause) = event["caused_by"][0].as_str() {
            *caused.entry(cause.to_owned()).or_default() += 1;
        }
    }
    caused
}

fn once_each(ids: Vec<String>) -> BTreeMap<String, usize> {
    ids.into_iter().map(|id| (id, 1)).collect()
}

/// Each hub projected every heartbeat: there were as many states of each as there were hubs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_becomes_one_state_however_many_hubs_there_are() {
    let options = mongo().await;
    let (here, there) = (hub_on(&options).await, hub_on(&options).await);
    let ids = beat(&mut Client::open(&here).await, 0..20).await;
    let store = MongoStore::open(options).await.unwrap();
    settled(&store, 20).await;
    // What a hub has under way it finishes.
    tokio::join!(here.shutdown(), there.shutdown());
    assert_eq!(caused(&store).await, once_each(ids));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_hub_goes_on_where_the_one_that_ended_has_stopped() {
    let options = mongo().await;
    let first = hub_on(&options).await;
    let store = MongoStore::open(options.clone()).await.unwrap();
    let mut ids = beat(&mut Client::open(&first).await, 0..1).await;
    settled(&store, 1).await;
    // It has nothing to project for as long as the first is there.
    let second = hub_on(&options).await;
    let mut client = Client::open(&second).await;
    let beats = tokio::spawn(async move {
        let ids = beat(&mut client, 1..200).await;
        (client, ids)
    });
    settled(&store, 20).await;
    first.shutdown().await;
    let since = Instant::now();
    let left_at = floor(&store).await;
    ids.extend(beat(&mut Client::open(&second).await, 1000..1001).await);
    settled(&store, left_at + 1).await;
    // It runs out seven to ten seconds after the first has ended; the second asks for it each second.
    assert!(since.elapsed() < Duration::from_secs(6), "it waited for the lease to run out: {:?}", since.elapsed());
    let (mut client, more) = beats.await.unwrap();
    ids.extend(more);
    ids.extend(beat(&mut client, 200..201).await);
    settled(&store, 202).await;
    second.shutdown().await;
    assert_eq!(caused(&store).await, once_each(ids));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_one_hub_removes_is_gone_for_those_on_another() {
    let options = mongo().await;
    let with_ops = Config { ops_port: Some(0), store: StoreConfig::mongo(options.clone()), ..config() };
    let (here, there) = (Hub::start(with_ops).await.unwrap(), hub_on(&options).await);
    let (mut publisher, mut reader, mut member) =
        (Client::open(&here).await, Client::open(&there).await, Client::open(&there).await);
    publisher.publish("a.b", json!(1)).await;
    reader.ask(json!({"op": "SUBSCRIBE", "topic": "a.b", "opts": {"from": "earliest"}})).await;
    member.subscribe("a.b", "g", json!({"from": "earliest"})).await;
    for client in [&mut reader, &mut member] {
        assert_eq!(client.events(1).await[0]["event"]["payload"], 1);
    }
    let request = request("DELETE", "/topics/a.b", &[], b"");
    let done = raw(here.ops_address().unwrap(), &request).await.json();
    assert_eq!((&done["deleted"], &done["groups"]), (&json!(true), &json!(["g"])));
    let gap = reader.next().await;
    assert_eq!((&gap["op"], &gap["from"], &gap["to"]), (&json!("GAP"), &json!(1), &json!(1)));
    let revoked = member.next().await;
    assert_eq!((&revoked["op"], &revoked["code"]), (&json!("REVOKED"), &json!("position_gone")));
    assert_eq!(publisher.publish("a.b", json!(2)).await["seq"], 1);
    member.subscribe("a.b", "g", json!({"from": "earliest"})).await;
    for client in [&mut reader, &mut member] {
        let event = &client.events(1).await[0]["event"];
        assert_eq!((&event["seq"], &event["payload"]), (&json!(1), &json!(2)));
    }
    tokio::join!(here.shutdown(), there.shutdown());
}
