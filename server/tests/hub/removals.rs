//! Topics and groups that operators remove, and what those see of it who use them.

use prom_hub::{
    Config, Hub, StoreConfig,
    store::{Retention, Rule},
};
use prom_protocol::TopicOrPattern;
use prom_testkit::{
    Client, config,
    http::{Answer, ops, raw, request},
    token, until, until_some,
};
use serde_json::{Value, json};

async fn hub() -> Hub {
    Hub::start(Config { ops_port: Some(0), ..config() }).await.expect("the hub starts")
}

async fn delete(hub: &Hub, path: &str) -> Answer {
    raw(hub.ops_address().expect("an ops port"), &request("DELETE", path, &[], b"")).await
}

async fn publish(client: &mut Client, topic: &str, payload: u64) -> Value {
    client.ask(json!({"op": "PUBLISH", "topic": topic, "payload": payload, "opts": {"key": "k"}})).await
}

fn payloads(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["event"]["payload"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_topic_is_looked_at_first_and_then_removed_with_all_that_is_its() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    for payload in 1..=3 {
        publish(&mut client, "a.b", payload).await;
    }
    client.subscribe("a.b", "g", json!({"from": "earliest"})).await;
    let events = client.events(3).await;
    client.ack(&events[0]).await;
    until_some("the ack", async || {
        ops(&hub, "/cursors?topic=a.b").await.json()["cursors"][0]["lastSeq"].as_u64().filter(|seq| *seq == 1)
    })
    .await;
    client.ask(json!({"op": "UNSUBSCRIBE", "topic": "a.b", "group": "g"})).await;
    let would = delete(&hub, "/topics/a.b?dryRun=1").await.json();
    let told = json!({"topic": "a.b", "events": 3, "groups": ["g"], "busy": [], "deleted": false});
    assert_eq!(would, told);
    assert_eq!(ops(&hub, "/topics").await.json()["topics"][0]["seq"], 3, "it was only looked at");
    let done = delete(&hub, "/topics/a.b").await.json();
    assert_eq!((&done["events"], &done["deleted"]), (&json!(3), &json!(true)));
    for (path, rows) in [("/topics", "topics"), ("/groups", "groups"), ("/cursors?topic=a.b", "cursors")] {
        assert_eq!(ops(&hub, path).await.json()[rows], json!([]), "{path}");
    }
    delete(&hub, "/topics/a.b").await.refused(404, "there is no topic a.b");
    // It begins again where every topic begins, and a position of before is none.
    assert_eq!(publish(&mut client, "a.b", 9).await["seq"], 1);
    let late =
        client.ask(json!({"op": "SUBSCRIBE", "topic": "a.b", "opts": {"from": "afterSeq", "afterSeq": 3}})).await;
    assert_eq!(late["code"], "position_gone");
    client.subscribe("a.b", "g", json!({"from": "earliest"})).await;
    assert_eq!(payloads(&client.events(1).await), [9]);
    hub.shutdown().await;
}

#[tokio::test]
async fn whoever_looks_on_is_told_and_goes_on_with_the_new_log() {
    let hub = hub().await;
    let (mut publisher, mut reader, mut watcher) =
        (Client::open(&hub).await, Client::open(&hub).await, Client::open(&hub).await);
    for payload in 1..=2 {
        publish(&mut publisher, "a.b", payload).await;
    }
    reader.ask(json!({"op": "SUBSCRIBE", "topic": "a.*", "opts": {"from": "earliest"}})).await;
    assert_eq!(payloads(&reader.events(2).await), [1, 2]);
    watcher.ask(json!({"op": "SUBSCRIBE", "topic": "a.b", "opts": {"from": "snapshot"}})).await;
    assert_eq!(payloads(&watcher.events(1).await), [2]);
    assert_eq!(watcher.next().await["op"], "LIVE");
    for round in 0..3 {
        assert_eq!(delete(&hub, "/topics/a.b").await.json()["deleted"], true);
        for client in [&mut reader, &mut watcher] {
            let gap = client.next().await;
            let last = if round == 0 { 2 } else { 1 };
            assert_eq!(
                (&gap["op"], &gap["topic"], &gap["from"], &gap["to"]),
                (&json!("GAP"), &json!("a.b"), &json!(1), &json!(last))
            );
        }
        assert_eq!(publish(&mut publisher, "a.b", 10 + round).await["seq"], 1);
        for client in [&mut reader, &mut watcher] {
            assert_eq!(payloads(&client.events(1).await), [10 + round]);
        }
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn what_groups_work_with_is_removed_only_when_it_is_asked_for_twice() {
    let hub = hub().await;
    let (mut publisher, mut member) = (Client::open(&hub).await, Client::open(&hub).await);
    for topic in ["a.b", "a.c"] {
        publish(&mut publisher, topic, 1).await;
    }
    member.subscribe("a.*", "g", json!({"from": "earliest"})).await;
    let of_g = member.events(2).await;
    member.subscribe("a.c", "other", json!({"from": "earliest"})).await;
    let of_other = member.events(1).await;
    delete(&hub, "/topics/a.b").await.refused(409, "groups have members on a.b: g (1)");
    delete(&hub, "/groups/g").await.refused(409, "group g has members: 1");
    delete(&hub, "/groups/g?topic=a.b").await.refused(409, "group g has members on a.b: 1");
    assert_eq!(delete(&hub, "/topics/a.b?dryRun=1").await.json()["busy"], json!(["g (1)"]));
    assert_eq!(delete(&hub, "/groups/g?dryRun=1").await.json()["members"], 1);
    let done = delete(&hub, "/topics/a.b?force=1").await.json();
    assert_eq!(done["deleted"], true);
    let revoked = member.next().await;
    assert_eq!(
        (&revoked["op"], &revoked["topic"], &revoked["group"], &revoked["code"]),
        (&json!("REVOKED"), &json!("a.*"), &json!("g"), &json!("position_gone"))
    );
    // What was under way is answered; the other subscription goes on.
    let id = &of_g[0]["event"]["id"];
    let late = member.ask(json!({"op": "ACK", "corr": "1", "topic": "a.*", "group": "g", "id": id})).await;
    assert_eq!(late["code"], "not_subscribed");
    let id = &of_other[0]["event"]["id"];
    let other = member.ask(json!({"op": "ACK", "corr": "2", "topic": "a.c", "group": "other", "id": id})).await;
    assert_eq!(other["op"], "OK", "{other}");
    // It joins again: at the beginning of the new log, and where it was in the other topic.
    publish(&mut publisher, "a.b", 2).await;
    member.subscribe("a.*", "g", json!({"from": "earliest"})).await;
    let mut again = payloads(&member.events(2).await);
    again.sort_unstable();
    assert_eq!(again, [1, 2]);
    hub.shutdown().await;
}

#[tokio::test]
async fn a_group_that_was_removed_begins_anew() {
    let hub = hub().await;
    let (mut publisher, mut member) = (Client::open(&hub).await, Client::open(&hub).await);
    for topic in ["a", "b"] {
        for payload in 1..=2 {
            publish(&mut publisher, topic, payload).await;
        }
        member.subscribe(topic, "g", json!({"from": "earliest"})).await;
        for event in member.events(2).await {
            let id = &event["event"]["id"];
            let ok = member.ask(json!({"op": "ACK", "corr": "1", "topic": topic, "group": "g", "id": id})).await;
            assert_eq!(ok["op"], "OK");
        }
    }
    delete(&hub, "/groups/nobody").await.refused(404, "group nobody has no position");
    let done = delete(&hub, "/groups/g?topic=a&force=1").await.json();
    assert_eq!(done["topics"], json!([{"topic": "a", "lastSeq": 2, "lagEvents": 0}]));
    let revoked = member.next().await;
    assert_eq!((&revoked["op"], &revoked["topic"]), (&json!("REVOKED"), &json!("a")));
    assert_eq!(ops(&hub, "/lag?topic=a&group=g").await.json()["lagEvents"], Value::Null);
    assert_eq!(ops(&hub, "/lag?topic=b&group=g").await.json()["lagEvents"], 0, "the other one stays");
    member.subscribe("a", "g", json!({"from": "earliest"})).await;
    assert_eq!(payloads(&member.events(2).await), [1, 2], "from the beginning");
    publish(&mut publisher, "b", 3).await;
    assert_eq!(payloads(&member.events(1).await), [3], "its other subscription goes on");
    // All of it, while it has events under way.
    let done = delete(&hub, "/groups/g?force=1").await.json();
    assert_eq!((&done["deleted"], done["topics"].as_array().unwrap().len()), (&json!(true), 2));
    for _ in 0..2 {
        assert_eq!(member.next().await["op"], "REVOKED");
    }
    assert_eq!(ops(&hub, "/groups").await.json()["groups"], json!([]));
    member.subscribe("b", "g", json!({"from": "earliest"})).await;
    assert_eq!(payloads(&member.events(3).await), [1, 2, 3]);
    hub.shutdown().await;
}

#[tokio::test]
async fn what_is_the_hubs_own_stays_and_so_does_what_is_not_there() {
    let hub = hub().await;
    for path in ["/topics/$audit", "/groups/$process-projector", "/topics/$audit?force=1"] {
        delete(&hub, path).await.refused(400, "begin with $ are the hub's own");
    }
    delete(&hub, "/topics/no..topic").await.refused(400, "");
    delete(&hub, "/topics/a?force=yes").await.refused(400, "force must be 0 or 1");
    delete(&hub, "/topics/nothing").await.refused(404, "there is no topic nothing");
    // The projector works with this one, and begins again when it is removed all the same.
    let mut client = Client::open(&hub).await;
    let beat = |pid: u32| {
        json!({"op": "PUBLISH", "topic": "heartbeat.received", "payload":
        {"pid": pid, "name": "n", "host": "h", "cpu_pct": 1.0, "mem_mb": 1.0}})
    };
    client.ask(beat(1)).await;
    let state = async |key: &str| {
        let path = format!("/latest-by-key?topic=process.state&key={key}");
        let answer = prom_testkit::http::ops_as(&hub, &path, &token(&["ops:read"])).await.json();
        (!answer.is_null()).then_some(())
    };
    until_some("the state", async || state("h:n:1").await).await;
    delete(&hub, "/topics/heartbeat.received").await.refused(409, "$process-projector (1)");
    assert_eq!(delete(&hub, "/topics/heartbeat.received?force=1").await.json()["deleted"], true);
    client.ask(beat(2)).await;
    until_some("the state after it", async || state("h:n:2").await).await;
    hub.shutdown().await;
}

#[tokio::test]
async fn only_who_may_change_things_removes_them() {
    let hub = Hub::start(Config { ops_port: Some(0), ops_auth: true, ..config() }).await.unwrap();
    let mut client = Client::open(&hub).await;
    publish(&mut client, "a", 1).await;
    let ask = async |token: &str| {
        let bearer = format!("Bearer {token}");
        let request = request("DELETE", "/topics/a", &[("Authorization", &bearer)], b"");
        raw(hub.ops_address().unwrap(), &request).await
    };
    ask(&token(&["ops:read"])).await.refused(403, "needs ops:admin");
    ask(&token(&["*:**"])).await.refused(403, "needs ops:admin");
    assert_eq!(ask(&token(&["ops:admin"])).await.json()["deleted"], true);
    hub.shutdown().await;
}

/// Everything of it was trimmed, and it was still one of the topics there may be.
#[tokio::test]
async fn what_nobody_uses_any_more_expires_where_that_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let second = std::time::Duration::from_secs(1);
    let rule = |topics: &str| Rule {
        max_age: Some(second),
        expire_empty: Some(second),
        ..Rule::new(TopicOrPattern::new(topics).unwrap())
    };
    let never = Rule { expire_empty: None, ..rule("stays.**") };
    let keyed = Rule { compact: true, ..rule("keyed.**") };
    let retention = Retention::new(vec![never, keyed, rule("**")]);
    let options = prom_hub::embedded::Options { retention, segment_bytes: 64 * 1024, ..Default::default() };
    let store = StoreConfig::Embedded(folder.path().to_owned(), options);
    let hub = Hub::start(Config { ops_port: Some(0), store, expire_groups: Some(second), ..config() }).await.unwrap();
    let (mut client, mut member) = (Client::open(&hub).await, Client::open(&hub).await);
    for topic in ["stays.a", "keyed.a", "goes.a", "held.a", "left.a"] {
        // With the key its newest event stays.
        publish(&mut client, topic, 1).await;
    }
    for (topic, group) in [("held.a", "present"), ("left.a", "gone")] {
        member.subscribe(topic, group, json!({"from": "earliest"})).await;
        let event = member.next().await;
        let id = &event["event"]["id"];
        assert_eq!(
            member.ask(json!({"op": "ACK", "corr": "1", "topic": topic, "group": group, "id": id})).await["op"],
            "OK"
        );
    }
    assert_eq!(member.ask(json!({"op": "UNSUBSCRIBE", "topic": "left.a", "group": "gone"})).await["op"], "OK");
    // Nobody saw a group on names that no topic has, and it stayed for ever.
    member.subscribe("silent.a", "nowhere", json!({})).await;
    let groups = ops(&hub, "/groups").await.json();
    let row = groups["groups"].as_array().unwrap().iter().find(|row| row["group"] == "nowhere");
    assert_eq!(row.unwrap()["topics"], json!([{"topic": "silent.a", "lastSeq": 0, "lagEvents": 0}]));
    let ask = json!({"op": "UNSUBSCRIBE", "topic": "silent.a", "group": "nowhere"});
    assert_eq!(member.ask(ask).await["op"], "OK");
    until("its position goes", async || {
        ops(&hub, "/lag?topic=silent.a&group=nowhere").await.json()["lagEvents"].is_null()
    })
    .await;
    // A full segment is sealed, and what is in it can go.
    let names = async || -> Vec<String> {
        let topics = ops(&hub, "/topics").await.json();
        topics["topics"].as_array().unwrap().iter().map(|row| row["topic"].as_str().unwrap().to_owned()).collect()
    };
    let payload = "x".repeat(10_000);
    until_some("the topics that go", async || {
        client.ask(json!({"op": "PUBLISH", "topic": "stays.filler", "payload": payload})).await;
        let names = names().await;
        (!names.iter().any(|name| ["goes.a", "left.a"].contains(&&**name))).then_some(())
    })
    .await;
    let names = names().await;
    for stays in ["stays.a", "keyed.a", "held.a"] {
        assert!(names.iter().any(|name| name == stays), "{stays} of {names:?}");
    }
    let groups = ops(&hub, "/groups").await.json();
    let groups: Vec<_> =
        groups["groups"].as_array().unwrap().iter().map(|row| row["group"].as_str().unwrap()).collect();
    assert_eq!(groups, ["present"]);
    hub.shutdown().await;
}

#[tokio::test]
async fn a_group_on_a_pattern_has_what_is_published_again_from_its_first_event() {
    let folder = tempfile::tempdir().unwrap();
    let store = StoreConfig::Embedded(folder.path().to_owned(), Default::default());
    let hub = Hub::start(Config { ops_port: Some(0), store, ..config() }).await.expect("the hub starts");
    let mut client = Client::open(&hub).await;
    publish(&mut client, "a.b", 1).await;
    assert_eq!(delete(&hub, "/topics/a.b").await.json()["deleted"], true);
    client.subscribe("a.*", "g", json!({"from": "earliest"})).await;
    assert_eq!(ops(&hub, "/topics").await.json()["topics"], json!([]));
    assert_eq!(ops(&hub, "/groups").await.json()["groups"], json!([]));
    publish(&mut client, "a.b", 2).await;
    assert_eq!(payloads(&client.events(1).await), [2]);
}
