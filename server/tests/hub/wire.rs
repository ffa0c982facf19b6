//! The contracts of the wire: what is answered, with what, and what closes.

use std::time::Duration;

use prom_hub::Hub;
use prom_testkit::{Client, config, error, hub, now_secs, payloads, token, token_with};
use serde_json::json;

#[tokio::test]
async fn before_auth_only_auth_and_ping_are_carried_out() {
    let hub = hub().await;
    let mut client = Client::connect(&hub).await;
    let refused = error("unauthorized", "Call AUTH first.", Some("7"));
    for frame in [
        json!({"op": "PUBLISH", "corr": "7", "topic": "a", "payload": 1}),
        json!({"op": "SUBSCRIBE", "corr": "7", "topic": "a", "group": "g"}),
        json!({"op": "SUBSCRIBE", "corr": "7", "topic": "not a topic"}),
        json!({"op": "ACK", "corr": "7", "topic": "a", "group": "g", "id": "1"}),
    ] {
        assert_eq!(client.ask(frame).await, refused);
    }
    assert_eq!(client.ask(json!({"op": "PING"})).await, json!({"op": "PONG"}));
    hub.shutdown().await;
}

#[tokio::test]
async fn bad_frames_are_answered_and_never_fatal() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.send_text("{nonsense").await;
    assert_eq!(client.next().await, error("bad_json", "Invalid JSON", None));
    client.send_binary(b"{}").await;
    assert_eq!(client.next().await["code"], "bad_frame");
    let cases = [
        (json!({"op": "NOPE", "corr": "1"}), "bad_frame"),
        (json!([1]), "bad_frame"),
        (json!({"op": "PUBLISH", "topic": "a b", "payload": 1}), "bad_topic"),
        (json!({"op": "PUBLISH", "topic": "a.*", "payload": 1}), "bad_topic"),
        (json!({"op": "PUBLISH", "topic": "a"}), "bad_frame"),
        (json!({"op": "PUBLISH", "topic": "$audit", "payload": 1}), "forbidden"),
        (json!({"op": "SUBSCRIBE", "topic": "a", "group": "g", "opts": {"maxInFlight": 0}}), "bad_frame"),
        (json!({"op": "SUBSCRIBE", "topic": "a", "group": "g", "opts": {"from": "snapshot"}}), "bad_frame"),
        (
            json!({"op": "SUBSCRIBE", "topic": "a", "group": "g", "opts": {"from": "afterId", "afterId": "x"}}),
            "position_gone",
        ),
        (json!({"op": "SUBSCRIBE", "topic": "a", "opts": {"from": "afterSeq", "afterSeq": 9}}), "position_gone"),
        (json!({"op": "ACK", "topic": "a", "group": "none", "id": "1"}), "not_subscribed"),
        (json!({"op": "UNSUBSCRIBE", "topic": "a", "group": "none"}), "not_subscribed"),
        (json!({"op": "PAUSE", "topic": "a", "group": "none"}), "not_subscribed"),
    ];
    for (frame, code) in cases {
        let answer = client.ask(frame.clone()).await;
        assert_eq!((&answer["op"], &answer["code"]), (&json!("ERR"), &json!(code)), "{frame} → {answer}");
        assert_eq!(answer.get("corr"), frame.get("corr"));
    }
    client.send_text(r#"{"op":"PUBLISH","topic":"a","payload":[1e999]}"#).await;
    assert_eq!(client.next().await["code"], "bad_payload");
    client.publish("a", json!("still here")).await;
    hub.shutdown().await;
}

#[tokio::test]
async fn refusals_of_a_publish_keep_their_place_among_the_answers() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    let frames = (0..50).map(|i| match i % 3 {
        0 => json!({"op": "PUBLISH", "corr": i.to_string(), "topic": "a", "payload": i}),
        1 => json!({"op": "PUBLISH", "corr": i.to_string(), "topic": "a"}),
        _ => json!({"op": "PUBLISH", "corr": i.to_string(), "topic": "$audit", "payload": i}),
    });
    client.send_all(frames).await;
    for i in 0..50 {
        let answer = client.next().await;
        assert_eq!(answer["corr"], i.to_string());
        assert_eq!(answer["op"], if i % 3 == 0 { "OK" } else { "ERR" });
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn a_second_subscription_of_the_same_name_is_refused() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.subscribe("a", "g", json!({})).await;
    let again = client.ask(json!({"op": "SUBSCRIBE", "topic": "a", "group": "g", "corr": "2"})).await;
    assert_eq!((&again["code"], &again["corr"]), (&json!("already_subscribed"), &json!("2")));
    let ack = client.ask(json!({"op": "ACK", "topic": "a", "group": "g", "id": "unknown", "corr": "3"})).await;
    assert_eq!(ack, json!({"op": "OK", "corr": "3"}));
    let extend = json!({"op": "MODACK", "topic": "a", "group": "g", "id": "unknown", "extend_ms": 5000, "corr": "4"});
    assert_eq!(client.ask(extend).await["code"], "unknown_id");
    client.send(json!({"op": "ACK", "topic": "a", "group": "g", "id": "unknown"})).await;
    client.quiet().await;
    hub.shutdown().await;
}

#[tokio::test]
async fn the_same_id_is_committed_once() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    let publish = |topic: &str| json!({"op": "PUBLISH", "topic": topic, "payload": 1, "opts": {"id": "mine"}});
    assert_eq!(client.ask(publish("a")).await, json!({"op": "OK", "id": "mine", "seq": 1}));
    assert_eq!(client.ask(publish("a")).await, json!({"op": "OK", "id": "mine", "seq": 1, "duplicate": true}));
    let other = client.ask(publish("b")).await;
    assert_eq!(other, json!({"op": "OK", "id": "mine", "seq": 1}), "ids are a topic's own");
    client.subscribe("a", "g", json!({"from": "earliest"})).await;
    client.events(1).await;
    client.quiet().await;
    hub.shutdown().await;
}

#[tokio::test]
async fn an_extended_lease_is_not_taken_back() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.subscribe("a", "g", json!({"ackTimeoutMs": 3000})).await;
    client.publish("a", json!(1)).await;
    let event = client.next().await;
    let extend = json!({"op": "MODACK", "topic": "a", "group": "g", "id": event["event"]["id"], "extend_ms": 600000, "corr": "x"});
    assert_eq!(client.ask(extend).await, json!({"op": "OK", "corr": "x"}));
    // A second event's lease of 3 s runs out, so the first one's old deadline has passed too.
    client.publish("a", json!(2)).await;
    assert_eq!(client.next().await["ctx"]["attempt"], 1);
    let again = client.next().await;
    assert_eq!((&again["event"]["payload"], &again["ctx"]["attempt"]), (&json!(2), &json!(2)));
    hub.shutdown().await;
}

#[tokio::test]
async fn a_lost_connection_gives_its_events_back_at_once() {
    let hub = hub().await;
    let mut lost = Client::open(&hub).await;
    let mut heir = Client::open(&hub).await;
    lost.subscribe("a", "g", json!({})).await;
    lost.publish_many("a", 3).await;
    lost.events(3).await;
    heir.subscribe("a", "g", json!({})).await;
    drop(lost);
    let events = heir.events(3).await;
    assert_eq!(payloads(&events), [0, 1, 2]);
    assert!(events.iter().all(|event| event["ctx"]["attempt"] == 2));
    hub.shutdown().await;
}

#[tokio::test]
async fn starts_where_it_is_told() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    for i in 0..5 {
        let frame =
            json!({"op": "PUBLISH", "topic": "a", "payload": i, "opts": {"id": format!("e{i}"), "ts": 1000 + i}});
        client.ask(frame).await;
    }
    let cases = [
        (json!({"from": "earliest"}), vec![0, 1, 2, 3, 4]),
        (json!({"from": "afterSeq", "afterSeq": 3}), vec![3, 4]),
        (json!({"from": "afterId", "afterId": "e1"}), vec![2, 3, 4]),
        (json!({"from": "ts", "ts": 1002}), vec![2, 3, 4]),
    ];
    for (i, (opts, expected)) in cases.into_iter().enumerate() {
        client.subscribe("a", &format!("g{i}"), opts.clone()).await;
        assert_eq!(payloads(&client.events(expected.len()).await), expected, "{opts}");
        let ok = client.ask(json!({"op": "SUBSCRIBE", "topic": "a", "opts": opts})).await;
        assert!(ok["group"].as_str().unwrap().starts_with("$live-"), "{ok}");
        let events = client.events(expected.len()).await;
        assert_eq!(payloads(&events), expected, "ephemeral, {opts}");
        assert_eq!(events[0]["ctx"]["lease"], json!(null));
        let target = json!({"op": "UNSUBSCRIBE", "topic": "a", "group": ok["group"]});
        assert_eq!(client.ask(target).await["op"], "OK");
    }
    client.subscribe("a", "latest", json!({})).await;
    client.quiet().await;
    hub.shutdown().await;
}

#[tokio::test]
async fn a_snapshot_is_the_newest_of_each_key_then_what_follows() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    let publish =
        |key: &str, value: u64| json!({"op": "PUBLISH", "topic": "s", "payload": value, "opts": {"key": key}});
    for (key, value) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
        client.ask(publish(key, value)).await;
    }
    let mut watcher = Client::open(&hub).await;
    let ok = watcher.ask(json!({"op": "SUBSCRIBE", "topic": "s", "opts": {"from": "snapshot"}})).await;
    let snapshot = watcher.events(3).await;
    assert_eq!(payloads(&snapshot), [3, 2, 4], "by key");
    assert_eq!(watcher.next().await, json!({"op": "LIVE", "topic": "s", "group": ok["group"]}));
    client.ask(publish("b", 5)).await;
    client.ask(publish("d", 6)).await;
    assert_eq!(payloads(&watcher.events(2).await), [5, 6]);
    let empty = watcher.ask(json!({"op": "SUBSCRIBE", "topic": "nothing.here", "opts": {"from": "snapshot"}})).await;
    assert_eq!(watcher.next().await, json!({"op": "LIVE", "topic": "nothing.here", "group": empty["group"]}));
    hub.shutdown().await;
}

/// The answer to a publish came before the topic was known to have grown, so a snapshot right after it could miss the event.
#[tokio::test]
async fn what_is_acknowledged_is_in_the_snapshot_that_follows() {
    let hub = hub().await;
    let mut publisher = Client::open(&hub).await;
    let mut watcher = Client::open(&hub).await;
    for i in 0..300 {
        let key = format!("k{i}");
        let ok = publisher.ask(json!({"op": "PUBLISH", "topic": "s", "payload": i, "opts": {"key": key}})).await;
        assert_eq!(ok["seq"], i + 1);
        let ok = watcher
            .ask(json!({"op": "SUBSCRIBE", "topic": "s", "opts": {"from": "snapshot", "filter": {"keys": [key]}}}))
            .await;
        let event = watcher.next().await;
        assert_eq!(event["event"]["payload"], i, "{event}");
        assert_eq!(watcher.next().await["op"], "LIVE");
        watcher.ask(json!({"op": "UNSUBSCRIBE", "topic": "s", "group": ok["group"]})).await;
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn patterns_cover_topics_that_come_later() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.publish("logs.a", json!(0)).await;
    let mut durable = Client::open(&hub).await;
    let mut live = Client::open(&hub).await;
    durable.subscribe("logs.*", "g", json!({})).await;
    live.ask(json!({"op": "SUBSCRIBE", "topic": "logs.*"})).await;
    client.publish("logs.b", json!(1)).await;
    client.publish("logs.a", json!(2)).await;
    client.publish("other.a", json!(3)).await;
    for reader in [&mut durable, &mut live] {
        let mut events = reader.events(2).await;
        events.sort_by_key(|event| event["event"]["payload"].as_u64());
        assert_eq!(payloads(&events), [1, 2]);
        assert_eq!((&events[0]["topic"], &events[0]["event"]["topic"]), (&json!("logs.*"), &json!("logs.b")));
    }
    let second = durable.ask(json!({"op": "PING"})).await;
    assert_eq!(second["op"], "PONG");
    hub.shutdown().await;
}

#[tokio::test]
async fn events_of_a_key_keep_their_order_through_a_nack() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.subscribe("a", "g", json!({"ordered": "key"})).await;
    for (key, value) in [("x", 1), ("x", 2), ("y", 3)] {
        client.send(json!({"op": "PUBLISH", "topic": "a", "payload": value, "opts": {"key": key}})).await;
    }
    let mut order = Vec::new();
    let mut nacked = false;
    while order.len() < 4 {
        let frame = client.next().await;
        if frame["op"] == "OK" {
            continue;
        }
        order.push(frame["event"]["payload"].as_u64().unwrap());
        if frame["event"]["payload"] == 1 && !nacked {
            nacked = true;
            client.send(json!({"op": "NACK", "topic": "a", "group": "g", "id": frame["event"]["id"]})).await;
        } else {
            client.ack(&frame).await;
        }
    }
    let of_x: Vec<u64> = order.into_iter().filter(|value| *value != 3).collect();
    assert_eq!(of_x, [1, 1, 2]);
    hub.shutdown().await;
}

#[tokio::test]
async fn filters_pass_what_is_wanted_and_settle_the_rest() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.subscribe("a", "g", json!({"filter": {"keys": ["x"]}})).await;
    for (key, value) in [("x", 1), ("y", 2), ("x", 3)] {
        client.send(json!({"op": "PUBLISH", "topic": "a", "payload": value, "opts": {"key": key}})).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let frame = client.next().await;
        if frame["op"] == "EVENT" {
            seen.push(frame["event"]["payload"].as_u64().unwrap());
        }
    }
    assert_eq!(seen, [1, 3]);
    hub.shutdown().await;
}

#[tokio::test]
async fn without_acks_events_are_settled_as_they_are_sent() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.subscribe("a", "g", json!({"ack": "none", "maxInFlight": 1})).await;
    client.send_all((0..10).map(|i| json!({"op": "PUBLISH", "topic": "a", "payload": i}))).await;
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let frame = client.next().await;
        if frame["op"] == "EVENT" {
            assert_eq!(frame["ctx"]["lease"], json!(null));
            seen.push(frame["event"]["payload"].as_u64().unwrap());
        }
    }
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
    hub.shutdown().await;
}

#[tokio::test]
async fn tokens_that_are_no_good_are_refused_and_the_third_closes() {
    let hub = hub().await;
    let mut client = Client::connect(&hub).await;
    assert_eq!(client.ask(json!({"op": "AUTH", "corr": "1"})).await, error("no_token", "missing token", Some("1")));
    let expired = token_with(json!({"exp": now_secs() - 60, "scopes": ["*:**"]}));
    let refused = client.ask(json!({"op": "AUTH", "token": expired})).await;
    assert_eq!((&refused["code"], &refused["expired"]), (&json!("jwt_invalid"), &json!(true)), "{refused}");
    assert!(refused["msg"].as_str().unwrap().starts_with("the token has expired"), "{refused}");
    client.send(json!({"op": "AUTH", "token": "eyJhbGciOiJub25lIn0.e30."})).await;
    assert_eq!(client.next().await["code"], "jwt_invalid");
    assert_eq!(client.closed().await, 4401);
    hub.shutdown().await;
}

#[tokio::test]
async fn policies_are_per_connection_and_checked_on_every_way() {
    let hub = hub().await;
    let mut narrow = Client::connect(&hub).await;
    narrow.ask(json!({"op": "AUTH", "token": token(&["publish:a.*", "subscribe:b.*"])})).await;
    let mut wide = Client::open(&hub).await;
    wide.publish("b.secret", json!(1)).await;
    narrow.publish("a.x", json!(1)).await;
    for frame in [
        json!({"op": "PUBLISH", "topic": "b.x", "payload": 1}),
        json!({"op": "SUBSCRIBE", "topic": "a.x", "group": "g"}),
        json!({"op": "SUBSCRIBE", "topic": "**", "group": "g"}),
        json!({"op": "SUBSCRIBE", "topic": "a.x", "opts": {"from": "snapshot"}}),
    ] {
        assert_eq!(narrow.ask(frame.clone()).await["code"], "forbidden", "{frame}");
    }
    narrow.subscribe("b.*", "g", json!({"from": "earliest"})).await;
    narrow.events(1).await;
    // A new token without that right ends the subscription.
    narrow.send(json!({"op": "AUTH", "token": token(&["publish:a.*"])})).await;
    assert_eq!(narrow.next().await["op"], "OK");
    let revoked = narrow.next().await;
    assert_eq!(
        (&revoked["op"], &revoked["topic"], &revoked["code"]),
        (&json!("REVOKED"), &json!("b.*"), &json!("forbidden"))
    );
    hub.shutdown().await;
}

#[tokio::test]
async fn a_token_that_runs_out_closes_unless_it_is_renewed() {
    let hub = hub().await;
    let mut client = Client::connect(&hub).await;
    let exp = now_secs() + 3;
    let short = token_with(json!({"exp": exp, "scopes": ["*:**"]}));
    let ok = client.ask(json!({"op": "AUTH", "token": short})).await;
    assert!(ok["expires_in_ms"].as_u64().unwrap() <= 3000, "{ok}");
    assert_eq!(client.next().await["code"], "token_expired");
    // The five seconds for clocks that differ come on top.
    assert!(now_secs() >= exp + 5);
    assert_eq!(client.closed().await, 4401);
    hub.shutdown().await;
}

/// A token that had expired within the tolerance was answered `OK, expires_in_ms: 0` and thrown out at once, so that a
/// client that does as it is told logged in five times a second.
#[tokio::test]
async fn a_token_whose_time_is_over_is_refused_at_auth() {
    let hub = hub().await;
    let mut client = Client::connect(&hub).await;
    let over = token_with(json!({"exp": now_secs() - 1, "scopes": ["*:**"]}));
    let refused = client.ask(json!({"op": "AUTH", "token": over})).await;
    assert_eq!((&refused["code"], &refused["expired"]), (&json!("jwt_invalid"), &json!(true)), "{refused}");
    let long = token_with(json!({"exp": now_secs() + 600, "scopes": ["*:**"]}));
    let ok = client.ask(json!({"op": "AUTH", "token": long})).await;
    let left = ok["expires_in_ms"].as_u64().unwrap();
    assert!(left <= 600_000, "{left} ms are more than the token has");
    hub.shutdown().await;
}

#[tokio::test]
async fn the_ok_of_auth_tells_version_and_limits() {
    let mut config = config();
    config.limits.subscriptions = 7;
    let hub = Hub::start(config).await.unwrap();
    let mut client = Client::connect(&hub).await;
    let ok = client.ask(json!({"op": "AUTH", "token": token(&["*:**"])})).await;
    assert_eq!(ok["version"], 1);
    assert_eq!(ok["hub"], env!("CARGO_PKG_VERSION"));
    assert_eq!(ok["max_frame_bytes"], 1024 * 1024);
    assert_eq!(ok["max_publishes"], 16 * 1024);
    assert_eq!(ok["max_subscriptions"], 7);
    hub.shutdown().await;
}

/// A connection's leases, and what it has under way, were handed to whoever came with a token.
#[tokio::test]
async fn a_connection_stays_that_of_its_subject() {
    let hub = hub().await;
    let mut client = Client::connect(&hub).await;
    let of = |sub: &str, topic: &str| token_with(json!({"sub": sub, "scopes": [format!("publish:{topic}")]}));
    assert_eq!(client.ask(json!({"op": "AUTH", "token": of("ann", "a")})).await["op"], "OK");
    for other in [of("bob", "b"), token(&["publish:b"]), token_with(json!({"sub": "ann", "iss": "x", "scopes": []}))] {
        // A good one in between, so that three refusals in a row do not close it.
        assert_eq!(client.ask(json!({"op": "AUTH", "token": other})).await["code"], "forbidden");
        assert_eq!(client.ask(json!({"op": "PUBLISH", "topic": "a", "payload": 1})).await["op"], "OK");
        assert_eq!(client.ask(json!({"op": "PUBLISH", "topic": "b", "payload": 1})).await["code"], "forbidden");
        assert_eq!(client.ask(json!({"op": "AUTH", "token": of("ann", "a")})).await["op"], "OK");
    }
    assert_eq!(client.ask(json!({"op": "AUTH", "token": of("ann", "b")})).await["op"], "OK");
    assert_eq!(client.ask(json!({"op": "PUBLISH", "topic": "b", "payload": 1})).await["op"], "OK");
    hub.shutdown().await;
}

#[tokio::test]
async fn an_unknown_op_before_auth_is_unauthorized() {
    let hub = hub().await;
    let mut client = Client::connect(&hub).await;
    let refused = client.ask(json!({"op": "SHOUT", "corr": "1"})).await;
    assert_eq!(refused, error("unauthorized", "Call AUTH first.", Some("1")));
    client.ask(json!({"op": "AUTH", "token": token(&["*:**"])})).await;
    assert_eq!(client.ask(json!({"op": "SHOUT"})).await["code"], "bad_frame");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let mut config = config();
    config.limits.auth_timeout = Duration::from_millis(200);
    let hub = Hub::start(config).await.unwrap();
    let mut client = Client::connect(&hub).await;
    assert_eq!(client.closed().await, 4408);
    hub.shutdown().await;
}

#[tokio::test]
async fn frames_that_are_too_large_close_with_1009() {
    let hub = hub().await;
    let mut stranger = Client::connect(&hub).await;
    stranger.send_text(&"x".repeat(17 * 1024)).await;
    assert_eq!(stranger.closed().await, 1009);
    let mut client = Client::open(&hub).await;
    client.publish("a", json!("x".repeat(1000 * 1024))).await;
    client.send_text(&"x".repeat(1025 * 1024)).await;
    assert_eq!(client.closed().await, 1009);
    hub.shutdown().await;
}

#[tokio::test]
async fn limits_on_connections_and_subscriptions_hold() {
    let mut config = config();
    config.limits.connections = 2;
    config.limits.subscriptions = 3;
    let hub = Hub::start(config).await.unwrap();
    let mut one = Client::open(&hub).await;
    let _two = Client::open(&hub).await;
    let mut three = Client::connect(&hub).await;
    three.send(json!({"op": "AUTH", "token": token(&["*:**"])})).await;
    assert_eq!(three.closed().await, 4429);
    for i in 0..3 {
        one.subscribe("a", &format!("g{i}"), json!({})).await;
    }
    let refused = one.ask(json!({"op": "SUBSCRIBE", "topic": "a", "group": "g3"})).await;
    assert_eq!(refused["code"], "bad_frame");
    hub.shutdown().await;
}

#[tokio::test]
async fn with_a_list_of_origins_others_are_closed_with_4403() {
    let mut config = config();
    config.origins = Some(vec!["https://app.example.com".into()]);
    let hub = Hub::start(config).await.unwrap();
    assert_eq!(Client::connect_from(&hub, "https://evil.example.com").await.closed().await, 4403);
    assert_eq!(Client::connect_from(&hub, "null").await.closed().await, 4403);
    for origin in ["https://app.example.com", &format!("http://{}", hub.address())] {
        let mut client = Client::connect_from(&hub, origin).await;
        assert_eq!(client.ask(json!({"op": "PING"})).await["op"], "PONG", "{origin}");
    }
    assert_eq!(Client::connect(&hub).await.ask(json!({"op": "PING"})).await["op"], "PONG", "no page at all");
    hub.shutdown().await;
}

/// `NACK dead: true` settled the event although there is no topic for its dead letter.
#[tokio::test]
async fn where_there_are_no_dead_letters_an_event_is_tried_again() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.publish("a", json!(1)).await;
    for topic in ["a", "dlq.a"] {
        client.subscribe(topic, "g", json!({"from": "earliest"})).await;
        let id = &client.next().await["event"]["id"];
        client.send(json!({"op": "NACK", "topic": topic, "group": "g", "id": id, "dead": true})).await;
    }
    client.subscribe("dlq.dlq.a", "g", json!({"maxAttempts": 1, "from": "earliest"})).await;
    for attempt in 1..=3 {
        let event = client.next().await;
        assert_eq!(event["ctx"]["attempt"], attempt);
        let id = &event["event"]["id"];
        client.send(json!({"op": "NACK", "topic": "dlq.dlq.a", "group": "g", "id": id, "dead": true})).await;
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_answers_what_was_asked_and_closes_with_1001() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.subscribe("a", "g", json!({})).await;
    client.publish_many("a", 10).await;
    client.events(10).await;
    let (code, ()) = tokio::join!(client.closed(), hub.shutdown());
    assert_eq!(code, 1001);
}

#[tokio::test]
async fn a_slow_reader_holds_nobody_else_up() {
    let hub = hub().await;
    let mut slow = Client::open(&hub).await;
    let mut fast = Client::open(&hub).await;
    let mut publisher = Client::open(&hub).await;
    // What is delivered to it waits, and is to come once.
    slow.subscribe("a", "slow", json!({"maxInFlight": 10000, "ackTimeoutMs": 600_000})).await;
    fast.subscribe("a", "fast", json!({"maxInFlight": 10000, "ack": "none"})).await;
    let payload = "x".repeat(64 * 1024);
    // 32 MiB, far over what the hub queues for the slow one.
    for _ in 0..512 {
        publisher.publish("a", json!(payload)).await;
        fast.events(1).await;
    }
    let events = slow.events(512).await;
    assert!(events.iter().enumerate().all(|(i, event)| event["event"]["seq"] == i + 1));
    hub.shutdown().await;
}
