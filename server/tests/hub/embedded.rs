//! A hub on its data folder: what is there after a restart, and what retention tells groups.

use std::{path::Path, time::Duration};

use prom_hub::{
    Config, Hub, StartError, StoreConfig,
    embedded::{OpenError, Options},
    store::{Retention, Rule},
};
use prom_protocol::TopicOrPattern;
use prom_testkit::{Client, config, payloads};
use serde_json::json;

fn on(folder: &Path, options: Options) -> Config {
    Config { store: StoreConfig::Embedded(folder.to_owned(), options), ..config() }
}

async fn start(folder: &Path) -> Hub {
    Hub::start(on(folder, Options::default())).await.unwrap()
}

#[tokio::test]
async fn events_cursors_and_ids_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let hub = start(folder.path()).await;
    let mut client = Client::open(&hub).await;
    let publish = json!({"op": "PUBLISH", "topic": "t", "payload": 0, "opts": {"id": "mine", "key": "k"}});
    let first = client.ask(publish.clone()).await;
    client.subscribe("t", "g", json!({"from": "earliest"})).await;
    let event = client.events(1).await.remove(0);
    let ack = json!({"op": "ACK", "topic": "t", "group": "g", "id": event["event"]["id"], "corr": "a"});
    assert_eq!(client.ask(ack).await, json!({"op": "OK", "corr": "a"}));
    client.send(json!({"op": "PAUSE", "topic": "t", "group": "g"})).await;
    client.next().await;
    client.publish("t", json!(1)).await;
    hub.shutdown().await;

    let hub = start(folder.path()).await;
    let mut client = Client::open(&hub).await;
    let again = client.ask(publish).await;
    assert_eq!((&again["seq"], &again["duplicate"]), (&first["seq"], &json!(true)));
    client.subscribe("t", "g", json!({})).await;
    let events = client.events(1).await;
    assert_eq!((payloads(&events), &events[0]["ctx"]["attempt"]), (vec![1], &json!(1)), "only what was not settled");
    client.send(json!({"op": "UNSUBSCRIBE", "topic": "t", "group": "g"})).await;
    client.next().await;
    assert_eq!(client.publish("t", json!(2)).await["seq"], 3);
    client.ask(json!({"op": "SUBSCRIBE", "topic": "t", "opts": {"from": "snapshot"}})).await;
    assert_eq!(client.events(1).await[0]["event"]["id"], "mine", "the newest of its key");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_second_hub_on_the_folder_is_refused_while_the_first_runs() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path()).await;
    let refused = Hub::start(on(folder.path(), Options::default())).await.unwrap_err();
    assert!(matches!(refused, StartError::Open(OpenError::Taken(_))), "{refused}");
    assert!(refused.to_string().contains("in use by another hub"), "{refused}");
    Client::open(&first).await.publish("t", json!(1)).await;
    first.shutdown().await;
    start(folder.path()).await.shutdown().await;
}

#[tokio::test]
async fn a_group_is_told_what_retention_took_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let rule = Rule { max_events: Some(5), drop_unsettled: true, ..Rule::new(TopicOrPattern::new("t").unwrap()) };
    let options = Options { retention: Retention::new(vec![rule]), ..Options::default() };
    let hub = Hub::start(on(folder.path(), options)).await.unwrap();
    let mut client = Client::open(&hub).await;
    client.subscribe("t", "g", json!({"from": "earliest"})).await;
    client.close().await;
    let mut client = Client::open(&hub).await;
    client.publish_many("t", 20).await;
    // Retention is looked at every few seconds; what an ephemeral subscription is told shows when it has been.
    let mut waited = Duration::ZERO;
    loop {
        client.ask(json!({"op": "SUBSCRIBE", "topic": "t", "opts": {"from": "earliest"}})).await;
        let first = client.next().await;
        let name = |frame: &serde_json::Value| frame["group"].clone();
        client.send(json!({"op": "UNSUBSCRIBE", "topic": "t", "group": name(&first)})).await;
        while client.next().await["op"] != "OK" {}
        if first["event"]["seq"] == 16 {
            break;
        }
        assert!(waited < prom_testkit::DEADLINE, "{first}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        waited += Duration::from_millis(100);
    }
    client.subscribe("t", "g", json!({})).await;
    let gap = client.next().await;
    assert_eq!(
        (&gap["op"], &gap["topic"], &gap["group"], &gap["from"], &gap["to"]),
        (&json!("GAP"), &json!("t"), &json!("g"), &json!(1), &json!(15))
    );
    let events = client.events(5).await;
    assert_eq!(payloads(&events), [15, 16, 17, 18, 19]);
    hub.shutdown().await;
}
