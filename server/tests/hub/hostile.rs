//! Clients that are slow, rude or unlucky, and what they must not cause.

use std::time::{Duration, Instant};

use prom_hub::Hub;
use prom_testkit::{Client, DEADLINE, config, hub, now_secs, payloads, token, token_with};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_slow_reader_that_talks_gets_all_there_is() {
    // See `gateway/out.rs`: reserved bytes must not get lost when something else wakes the connection during a write.
    let hub = hub().await;
    let mut slow = Client::open(&hub).await;
    let mut publisher = Client::open(&hub).await;
    slow.subscribe("a", "g", json!({"maxInFlight": 10000, "ack": "none"})).await;
    let payload = "x".repeat(64 * 1024);
    for _ in 0..300 {
        publisher.publish("a", json!(payload)).await;
    }
    let mut seen = 0;
    while seen < 300 {
        slow.send(json!({"op": "PING"})).await;
        let frame = slow.next().await;
        seen += usize::from(frame["op"] == "EVENT");
        tokio::task::yield_now().await;
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn an_ack_is_answered_also_when_the_subscription_ends_right_after() {
    // The answer went to the member, who was gone when the settle was stored.
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    for round in 0..20 {
        let group = format!("g{round}");
        client.subscribe("a", &group, json!({"from": "earliest"})).await;
        if round == 0 {
            client.publish("a", json!(1)).await;
        }
        let event = client.next().await;
        let target = json!({"topic": "a", "group": group});
        let mut ack = target.clone();
        ack["op"] = json!("ACK");
        ack["corr"] = json!("ack");
        ack["id"] = event["event"]["id"].clone();
        let mut end = target;
        end["op"] = json!("UNSUBSCRIBE");
        end["corr"] = json!("end");
        client.send_all([ack, end]).await;
        let mut answers = [client.next().await, client.next().await].map(|answer| answer["corr"].to_string());
        answers.sort();
        assert_eq!(answers, ["\"ack\"", "\"end\""]);
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn an_ack_counts_also_when_a_new_token_ends_the_subscription_right_after() {
    // Settles of the same wake-up as the AUTH were thrown away with the subscription.
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    let mut other = Client::open(&hub).await;
    client.subscribe("a", "g", json!({})).await;
    client.publish("a", json!(1)).await;
    let event = client.next().await;
    client
        .send_all([
            json!({"op": "ACK", "corr": "ack", "topic": "a", "group": "g", "id": event["event"]["id"]}),
            json!({"op": "AUTH", "corr": "auth", "token": token(&["publish:b"])}),
        ])
        .await;
    let mut answers = Vec::new();
    while answers.len() < 3 {
        let frame = client.next().await;
        answers.push(frame["corr"].as_str().unwrap_or("revoked").to_owned());
    }
    answers.sort();
    assert_eq!(answers, ["ack", "auth", "revoked"]);
    other.subscribe("a", "g", json!({})).await;
    other.publish("a", json!(2)).await;
    assert_eq!(payloads(&other.events(1).await), [2], "the first one is settled");
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_stops_sending_does_not_outlive_its_token() {
    let hub = hub().await;
    let mut client = Client::connect(&hub).await;
    client.ask(json!({"op": "AUTH", "token": token_with(json!({"exp": now_secs() + 3, "scopes": ["*:**"]}))})).await;
    client.subscribe("a", "g", json!({})).await;
    let ack = json!({"op": "ACK", "topic": "a", "group": "g", "id": "unknown"});
    let started = Instant::now();
    // Until the connection is closed under it.
    while client.try_send_all(std::iter::repeat_n(&ack, 2_000)).await.is_ok() {
        assert!(started.elapsed() < DEADLINE, "the token has run out long ago");
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn a_close_is_answered() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.close().await;
    assert!(client.closed_cleanly().await, "the hub answers a close frame before it hangs up");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_paused_member_with_a_filter_holds_nobody_up() {
    // The first event that only the paused one wanted stopped the group.
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    let (mut idle, mut busy) = (Client::open(&hub).await, Client::open(&hub).await);
    idle.subscribe("a", "g", json!({"filter": {"keys": ["x"]}})).await;
    busy.subscribe("a", "g", json!({"filter": {"keys": ["y"]}})).await;
    let pause = |op: &str| json!({"op": op, "topic": "a", "group": "g"});
    assert_eq!(idle.ask(pause("PAUSE")).await["op"], "OK");
    for i in 0..600 {
        let key = if i % 2 == 0 { "x" } else { "y" };
        client.send(json!({"op": "PUBLISH", "topic": "a", "payload": i, "opts": {"key": key}})).await;
    }
    for i in 0..300 {
        let event = busy.next().await;
        assert_eq!(event["event"]["payload"], 2 * i + 1);
        busy.ack(&event).await;
    }
    idle.send(pause("RESUME")).await;
    assert_eq!(idle.next().await["op"], "OK");
    let events = idle.events(100).await;
    assert_eq!(payloads(&events), (0..100).map(|i| 2 * i).collect::<Vec<_>>());
    assert!(events.iter().all(|event| event["ctx"]["attempt"] == 1));
    hub.shutdown().await;
}

#[tokio::test]
async fn an_event_that_waited_for_its_key_was_not_delivered_before() {
    // Later events passed it by, and it was counted as delivered: with one attempt it went straight to the dead letters.
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    let mut dead = Client::open(&hub).await;
    dead.subscribe("dlq.a", "d", json!({})).await;
    client.subscribe("a", "g", json!({"ordered": "key", "maxAttempts": 1})).await;
    for (key, value) in [("x", 1), ("x", 2), ("y", 3)] {
        let frame = json!({"op": "PUBLISH", "topic": "a", "payload": value, "opts": {"key": key}});
        dead.ask(frame).await;
    }
    let events = client.events(2).await;
    assert_eq!(payloads(&events), [1, 3]);
    client.ack(&events[0]).await;
    let second = client.next().await;
    assert_eq!((&second["event"]["payload"], &second["ctx"]["attempt"]), (&json!(2), &json!(1)));
    assert_eq!(second["ctx"]["redelivered"], false);
    client.ack(&second).await;
    dead.quiet().await;
    hub.shutdown().await;
}

#[tokio::test]
async fn dead_letters_of_different_events_have_different_ids() {
    // Group `a.b` with event `c` and group `a` with event `b.c` had one id: the second was taken for a duplicate and lost.
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    for (group, id) in [("a.b", "c"), ("a", "b.c")] {
        client.subscribe("t", group, json!({})).await;
        client.send(json!({"op": "PUBLISH", "topic": "t", "payload": 1, "opts": {"id": id}})).await;
        loop {
            let frame = client.next().await;
            if frame["event"]["id"] == id && frame["group"] == group {
                break;
            }
        }
        let nack = json!({"op": "NACK", "topic": "t", "group": group, "id": id, "dead": true, "corr": "n"});
        client.send(nack).await;
        while client.next().await["corr"] != "n" {}
    }
    let mut reader = Client::open(&hub).await;
    reader.subscribe("dlq.t", "d", json!({"from": "earliest"})).await;
    let events = reader.events(2).await;
    let causes: Vec<&Value> = events.iter().map(|event| &event["event"]["caused_by"][0]).collect();
    assert_eq!(causes, ["c", "b.c"]);
    assert_eq!(events[0]["event"]["id"], "$dead.a.b/t/1");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_full_store_takes_events_again_once_they_are_settled() {
    // Cursors were refused together with the publishes of the same commit, so under load it stayed full for ever; and
    // so did one that was full of events that could only become dead letters.
    let mut config = config();
    config.store = prom_hub::StoreConfig::Memory(1024 * 1024);
    let hub = Hub::start(config).await.unwrap();
    let mut consumer = Client::open(&hub).await;
    consumer.subscribe("a", "g", json!({"maxInFlight": 10, "maxAttempts": 1})).await;
    let mut publisher = Client::open(&hub).await;
    let publish = json!({"op": "PUBLISH", "topic": "a", "payload": "x".repeat(50_000)});
    let mut refused = 0;
    while refused < 3 {
        let answer = publisher.ask(publish.clone()).await;
        refused += u32::from(answer["code"] == "store_unavailable");
    }
    // While somebody keeps publishing, the consumer gives up one event and acknowledges the others.
    let flood = tokio::spawn(async move {
        let mut taken = 0;
        while taken < 50 {
            publisher.send_all(std::iter::repeat_n(publish.clone(), 8)).await;
            for _ in 0..8 {
                taken += usize::from(publisher.next().await["op"] == "OK");
            }
        }
        publisher
    });
    let mut events = 0;
    while !flood.is_finished() {
        let Some(event) = consumer.next_within(Duration::from_millis(50)).await else { continue };
        events += 1;
        let op = if events % 4 == 0 { "NACK" } else { "ACK" };
        consumer.send(json!({"op": op, "topic": "a", "group": "g", "id": event["event"]["id"]})).await;
    }
    flood.await.unwrap();
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_in_time_whatever_clients_do() {
    let hub = hub().await;
    // One that does not read, one that does not finish its request, one that says nothing.
    let mut deaf = Client::open(&hub).await;
    deaf.subscribe("a", "g", json!({"maxInFlight": 10000, "ack": "none"})).await;
    deaf.ask(json!({"op": "SUBSCRIBE", "topic": "a"})).await;
    let mut half = tokio::net::TcpStream::connect(hub.address()).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let _silent = Client::connect(&hub).await;
    let mut publisher = Client::open(&hub).await;
    for _ in 0..300 {
        publisher.publish("a", json!("x".repeat(64 * 1024))).await;
    }
    let started = Instant::now();
    hub.shutdown().await;
    // Who takes nothing has about four seconds to do so, and the hub as a whole eight.
    assert!(started.elapsed() < Duration::from_secs(15), "took {:?}", started.elapsed());
}

#[tokio::test]
async fn what_is_no_heartbeat_becomes_a_dead_letter_and_the_others_go_on() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    let beat = |changes: Value| {
        let mut payload = json!({"pid": 7, "name": "api", "host": "web1", "cpu_pct": 1.5, "mem_mb": 80});
        for (name, value) in changes.as_object().unwrap() {
            payload[name] = value.clone();
        }
        json!({"op": "PUBLISH", "topic": "heartbeat.received", "payload": payload})
    };
    let bad = [
        json!({"pid": -1}),
        json!({"pid": 1_u64 << 32}),
        json!({"pid": 7.5}),
        json!({"pid": null}),
        json!({"name": "x".repeat(600)}),
        json!({"host": ""  , "name": "a\nb"}),
        json!({"host": ["web1"]}),
        json!({"cpu_pct": "many"}),
        json!({"sid": "x".repeat(100_000)}),
        json!({"sid": "a\u{7}b"}),
        json!({"sid": 7}),
    ];
    let count = bad.len();
    client.send_all(bad.into_iter().map(beat)).await;
    client.send(json!({"op": "PUBLISH", "topic": "heartbeat.received", "payload": [[[]]]})).await;
    // A clock that is an hour ahead must not keep the process alive for an hour.
    let mut ahead = beat(json!({"cpu_pct": 1e308}));
    ahead["opts"] = json!({"ts": (now_secs() + 3600) * 1000});
    client.send(ahead).await;
    for _ in 0..count + 2 {
        assert_eq!(client.next().await["op"], "OK");
    }
    let mut reader = Client::open(&hub).await;
    reader.subscribe("dlq.heartbeat.received", "d", json!({"from": "earliest"})).await;
    for event in reader.events(count + 1).await {
        assert_eq!(event["event"]["payload"]["attempts"], 1);
        assert!(!event["event"]["payload"]["err"].as_str().unwrap().is_empty());
    }
    let mut states = Client::open(&hub).await;
    states.ask(json!({"op": "SUBSCRIBE", "topic": "process.state", "opts": {"from": "earliest"}})).await;
    let state = &states.events(1).await[0]["event"]["payload"];
    assert_eq!((&state["processId"], &state["status"]), (&json!("web1:api:7"), &json!("alive")));
    assert!(state["last_seen_ts"].as_u64().unwrap() <= (now_secs() + 1) * 1000, "{state}");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_connection_follows_so_many_topics_and_is_told_when_there_are_more() {
    let mut config = config();
    config.limits.followed_topics = 3;
    let hub = Hub::start(config).await.unwrap();
    let mut client = Client::open(&hub).await;
    for topic in ["a.1", "a.2", "b.1"] {
        client.publish(topic, json!(1)).await;
    }
    let live = |topic: &str| json!({"op": "SUBSCRIBE", "corr": topic, "topic": topic, "opts": {"from": "earliest"}});
    client.send(live("a.*")).await;
    assert_eq!(client.next().await["op"], "OK");
    for _ in 0..2 {
        assert_eq!(client.next().await["op"], "EVENT");
    }
    client.send(live("**")).await;
    let refused = client.next().await;
    assert_eq!((&refused["op"], &refused["code"]), (&json!("ERR"), &json!("bad_frame")));
    assert!(refused["msg"].as_str().unwrap().contains("at most 3 topics"), "{refused}");
    let mut publisher = Client::open(&hub).await;
    publisher.publish("b.2", json!("nobody's")).await;
    publisher.publish("a.3", json!("in the limit")).await;
    assert_eq!(client.next().await["event"]["payload"], "in the limit");
    publisher.publish("a.4", json!("one too many")).await;
    let revoked = client.next().await;
    assert_eq!(
        (&revoked["op"], &revoked["topic"], &revoked["code"]),
        (&json!("REVOKED"), &json!("a.*"), &json!("bad_frame"))
    );
    // The others have their room again.
    client.send(live("a.1")).await;
    assert_eq!(client.next().await["op"], "OK");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_group_of_that_name_on_other_topics_changes_nothing() {
    // The first member's options held for all topics of the group: somebody else's `maxAttempts: 1` made dead letters of
    // what should have been tried fifty times.
    let hub = hub().await;
    let (mut one, mut other) = (Client::open(&hub).await, Client::open(&hub).await);
    one.subscribe("tenant-a.x", "billing", json!({"maxAttempts": 1, "ordered": "key"})).await;
    other.subscribe("tenant-b.**", "billing", json!({"maxAttempts": 50})).await;
    for (topic, max_attempts) in [("tenant-a.x", 1), ("tenant-b.jobs", 50)] {
        one.publish(topic, json!(1)).await;
        let member = if max_attempts == 1 { &mut one } else { &mut other };
        assert_eq!(member.next().await["ctx"]["max_attempts"], max_attempts, "{topic}");
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn subscriptions_to_very_many_topics_leave_others_their_turn() {
    // Three clients that subscribed to a pattern over and over froze everybody: each took on all topics without a pause.
    const TOPICS: usize = 5000;
    const ASKED: usize = 13;
    let hub = hub().await;
    let mut victim = Client::open(&hub).await;
    victim.send_all((0..TOPICS).map(|n| json!({"op": "PUBLISH", "topic": format!("t.{n}"), "payload": n}))).await;
    for _ in 0..TOPICS {
        assert_eq!(victim.next().await["op"], "OK");
    }
    let mut greedy = Vec::new();
    for _ in 0..3 {
        let mut client = Client::open(&hub).await;
        client.send_all((0..ASKED).map(|_| json!({"op": "SUBSCRIBE", "topic": "t.*"}))).await;
        greedy.push(tokio::spawn(async move {
            for _ in 0..ASKED {
                assert_eq!(client.next().await["op"], "OK");
            }
        }));
    }
    let mut published = 0;
    while !greedy.iter().all(tokio::task::JoinHandle::is_finished) {
        victim.publish("own", json!(published)).await;
        published += 1;
    }
    // All tasks take turns here, so this counts turns and no time: without a pause there are two for each client.
    assert!(published > 3 * ASKED, "{published}");
    for client in greedy {
        client.await.unwrap();
    }
    hub.shutdown().await;
}
