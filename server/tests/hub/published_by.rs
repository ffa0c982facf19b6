//! Who published: `by` of an event is what the publisher's token says, whatever the publisher says.

use prom_hub::{Auth, Config, Hub};
use prom_testkit::{
    Client, config,
    http::{get, ops_as, post},
    hub, token, token_with,
};
use serde_json::{Value, json};

/// A token that may publish and read everything, and the operators' reads.
fn token_of(sub: &str) -> String {
    token_with(json!({"sub": sub, "scopes": ["*:**", "ops:read"]}))
}

async fn publisher(hub: &Hub, sub: &str) -> Client {
    Client::open_as(hub, &token_of(sub)).await
}

/// Who published each event of `topic`, in their order.
async fn by(hub: &Hub, topic: &str) -> Vec<Value> {
    let page = get(hub, &format!("/replay?topic={topic}&limit=1000"), &token(&["*:**"])).await.json();
    page["events"].as_array().unwrap().iter().map(|event| event["by"].clone()).collect()
}

#[tokio::test]
async fn what_a_client_says_of_who_published_is_not_stored() {
    let hub = hub().await;
    let forged = |n: u64| {
        [
            json!({"op": "PUBLISH", "topic": "a", "payload": n, "by": "root"}),
            json!({"op": "PUBLISH", "topic": "a", "payload": n, "opts": {"by": "root"}}),
            json!({"op": "PUBLISH", "topic": "a", "payload": n, "by": {"sub": "root"}, "opts": {"by": 7, "sub": "root"}}),
        ]
    };
    let mut alice = publisher(&hub, "alice").await;
    for frame in forged(1) {
        assert_eq!(alice.ask(frame).await["op"], "OK");
    }
    let mut bob = Client::connect(&hub).await;
    let ok = bob.ask(json!({"op": "AUTH", "token": token_of("bob"), "batch": true})).await;
    assert_eq!(ok["op"], "OK", "{ok}");
    bob.send_text(&forged(2).map(|frame| frame.to_string()).join("\n")).await;
    let mut answers = Vec::new();
    while answers.len() < 3 {
        answers.extend(bob.next_message().await.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    assert!(answers.iter().all(|answer| answer["op"] == "OK"), "{answers:?}");
    let mut nobody = Client::open(&hub).await;
    for frame in forged(3) {
        assert_eq!(nobody.ask(frame).await["op"], "OK");
    }
    let path = "/publish/a?by=root&opts.by=root";
    assert_eq!(post(&hub, path, &token_of("carol"), br#"{"by": "root"}"#).await.status, 200);
    assert_eq!(post(&hub, path, &token(&["*:**"]), br#"{"by": "root"}"#).await.status, 200);
    let expected = ["alice", "alice", "alice", "bob", "bob", "bob"].map(Value::from).into_iter();
    let expected = expected.chain([Value::Null, Value::Null, Value::Null, json!("carol"), Value::Null]);
    assert_eq!(by(&hub, "a").await, expected.collect::<Vec<_>>());
    hub.shutdown().await;
}

#[tokio::test]
async fn every_way_to_read_an_event_tells_who_published_it() {
    let hub = Hub::start(Config { ops_port: Some(0), ..config() }).await.unwrap();
    let sub = "auth0|\"ü\" \\ 7";
    let mut live = Client::open(&hub).await;
    live.ask(json!({"op": "SUBSCRIBE", "topic": "t"})).await;
    let mut alice = publisher(&hub, sub).await;
    alice.ask(json!({"op": "PUBLISH", "topic": "t", "payload": 1, "opts": {"key": "k", "caused_by": "c"}})).await;
    let expected = live.next().await["event"].clone();
    assert_eq!((&expected["by"], &expected["caused_by"]), (&json!(sub), &json!(["c"])));

    let mut member = Client::open(&hub).await;
    member.subscribe("t", "g", json!({"from": "earliest"})).await;
    assert_eq!(member.events(1).await[0]["event"], expected, "in a group");
    let mut watch = Client::open(&hub).await;
    watch.ask(json!({"op": "SUBSCRIBE", "topic": "t", "opts": {"from": "snapshot"}})).await;
    assert_eq!(watch.events(1).await[0]["event"], expected, "in a watch");
    let reader = token(&["*:**"]);
    assert_eq!(get(&hub, "/replay?topic=t", &reader).await.json()["events"], json!([expected]));
    assert_eq!(get(&hub, "/export?topic=t", &reader).await.json(), json!([expected]));
    let line = get(&hub, "/export?topic=t&ndjson=1", &reader).await;
    assert_eq!(serde_json::from_str::<Value>(line.text()).unwrap(), expected, "in an export");
    assert_eq!(ops_as(&hub, "/latest-by-key?topic=t&key=k", &token_of("operator")).await.json(), expected);
    hub.shutdown().await;
}

#[tokio::test]
async fn a_publish_of_the_same_id_by_somebody_else_is_a_duplicate_and_changes_nothing() {
    let hub = hub().await;
    let publish = json!({"op": "PUBLISH", "topic": "t", "payload": 1, "opts": {"id": "mine"}});
    assert_eq!(publisher(&hub, "alice").await.ask(publish.clone()).await["seq"], 1);
    let again = publisher(&hub, "mallory").await.ask(publish).await;
    assert_eq!((&again["seq"], &again["duplicate"]), (&json!(1), &json!(true)));
    let again = post(&hub, "/publish/t?id=mine", &token(&["*:**"]), b"1").await.json();
    assert_eq!((&again["seq"], &again["duplicate"]), (&json!(1), &json!(true)));
    assert_eq!(by(&hub, "t").await, ["alice"]);
    hub.shutdown().await;
}

#[tokio::test]
async fn a_dead_letter_tells_who_published_what_became_one() {
    let hub = hub().await;
    publisher(&hub, "alice").await.publish("t", json!(1)).await;
    Client::open(&hub).await.publish("t", json!(2)).await;
    let mut consumer = publisher(&hub, "consumer").await;
    for (topic, group) in [("t", "g"), ("dlq.t", "undertaker")] {
        consumer.subscribe(topic, group, json!({"from": "earliest"})).await;
        for event in consumer.events(2).await {
            let id = &event["event"]["id"];
            consumer.send(json!({"op": "NACK", "topic": topic, "group": group, "id": id, "dead": true})).await;
        }
    }
    let mut reader = Client::open(&hub).await;
    for topic in ["dlq.t", "dlq.dlq.t"] {
        reader.subscribe(topic, "reader", json!({"from": "earliest"})).await;
        let mut letters: Vec<_> = reader.events(2).await.into_iter().map(|frame| frame["event"].clone()).collect();
        // Two that are given up at once may be buried in any order.
        letters.sort_by_key(|letter| letter["id"].to_string());
        assert_eq!(
            letters.iter().map(|letter| &letter["by"]).collect::<Vec<_>>(),
            [&json!("alice"), &Value::Null],
            "{topic}"
        );
        assert_eq!(letters[0]["payload"]["original"]["by"], "alice");
    }
    hub.shutdown().await;
}

/// A state is the hub's: it says which heartbeat it was made from, and that one says who sent it.
#[tokio::test]
async fn what_the_hub_writes_itself_has_a_name_that_no_token_may_have() {
    let hub = hub().await;
    let mut alice = publisher(&hub, "alice").await;
    let beat = json!({"pid": 1, "name": "worker", "host": "here", "cpu_pct": 1.0, "mem_mb": 1.0});
    let id = alice.publish("heartbeat.received", beat).await["id"].clone();
    let mut watch = Client::open(&hub).await;
    watch.subscribe("process.state", "g", json!({"from": "earliest"})).await;
    let state = watch.events(1).await.remove(0);
    let own = json!("$process-projector");
    assert_eq!((&state["event"]["caused_by"], &state["event"]["by"]), (&json!([id]), &own), "{state}");
    assert_eq!(by(&hub, "heartbeat.received").await, ["alice"]);
    let message = "sub must not start with `$`";
    for sub in ["$process-projector", "$"] {
        let refused = Client::connect(&hub).await.ask(json!({"op": "AUTH", "token": token_of(sub)})).await;
        assert_eq!((&refused["code"], &refused["msg"]), (&json!("jwt_invalid"), &json!(message)), "{sub:?}");
        post(&hub, "/publish/t", &token_of(sub), b"2").await.refused(401, message);
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn a_hub_with_a_static_token_does_not_know_who_published() {
    let hub = Hub::start(Config { auth: Auth::Static("let-me-in".into()), ..config() }).await.unwrap();
    let mut client = Client::open_as(&hub, "let-me-in").await;
    client.ask(json!({"op": "PUBLISH", "topic": "t", "payload": 1, "by": "root", "opts": {"by": "root"}})).await;
    assert_eq!(post(&hub, "/publish/t?by=root", "let-me-in", b"1").await.status, 200);
    let events = get(&hub, "/replay?topic=t", "let-me-in").await.json()["events"].clone();
    assert_eq!(events.as_array().unwrap().len(), 2);
    assert!(!events.to_string().contains("\"by\""), "{events}");
    hub.shutdown().await;
}

/// Never at a publish, and never cut: two subjects would be one.
#[tokio::test]
async fn a_subject_that_no_event_can_hold_is_refused_at_auth() {
    let hub = hub().await;
    let longest = "ü".repeat(256);
    publisher(&hub, &longest).await.publish("t", json!(1)).await;
    assert_eq!(by(&hub, "t").await, [json!(longest)]);
    for (sub, message) in [
        (format!("{longest}x"), "sub must be 1 to 512 bytes"),
        (String::new(), "sub must be 1 to 512 bytes"),
        ("a\nb".into(), "sub must not hold control characters"),
        ("a\u{0}".into(), "sub must not hold control characters"),
        ("a\u{7f}".into(), "sub must not hold control characters"),
    ] {
        let refused = Client::connect(&hub).await.ask(json!({"op": "AUTH", "token": token_of(&sub)})).await;
        assert_eq!((&refused["code"], &refused["msg"]), (&json!("jwt_invalid"), &json!(message)), "{sub:?}");
        post(&hub, "/publish/t", &token_of(&sub), b"2").await.refused(401, message);
    }
    assert_eq!(by(&hub, "t").await.len(), 1);
    hub.shutdown().await;
}
