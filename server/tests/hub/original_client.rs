//! What a client of the original does: AUTH, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, ACK, NACK, all without `corr` and `lease`.

use std::collections::BTreeSet;

use prom_testkit::{Client, hub, payloads, token};
use serde_json::json;

#[tokio::test]
async fn publishes_and_receives_in_order_from_earliest() {
    let hub = hub().await;
    let mut client = Client::connect(&hub).await;
    client.send(json!({"op": "AUTH", "token": token(&["*:**"])})).await;
    let ok = client.next().await;
    assert_eq!(ok["op"], "OK");
    assert!(ok.get("corr").is_none());
    client.publish_many("orders.placed", 200).await;
    client.subscribe("orders.placed", "billing", json!({"from": "earliest"})).await;
    let mut seen = Vec::new();
    for _ in 0..200 {
        let event = client.next().await;
        assert_eq!(
            (&event["op"], &event["topic"], &event["group"]),
            (&json!("EVENT"), &json!("orders.placed"), &json!("billing"))
        );
        assert_eq!(event["event"]["seq"], seen.len() + 1);
        assert_eq!(event["ctx"]["attempt"], 1);
        client.ack(&event).await;
        seen.push(event);
    }
    assert_eq!(payloads(&seen), (0..200).collect::<Vec<_>>());
    hub.shutdown().await;
}

#[tokio::test]
async fn a_nack_redelivers_with_the_next_attempt() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.subscribe("a.b", "g", json!({})).await;
    client.publish("a.b", json!(1)).await;
    let first = client.next().await;
    assert_eq!((&first["ctx"]["attempt"], &first["ctx"]["redelivered"]), (&json!(1), &json!(false)));
    client
        .send(json!({"op": "NACK", "topic": "a.b", "group": "g", "id": first["event"]["id"], "reason": "later"}))
        .await;
    let second = client.next().await;
    assert_eq!((&second["ctx"]["attempt"], &second["ctx"]["redelivered"]), (&json!(2), &json!(true)));
    assert_eq!(second["event"], first["event"]);
    assert_ne!(second["ctx"]["lease"], first["ctx"]["lease"]);
    hub.shutdown().await;
}

#[tokio::test]
async fn members_of_a_group_share_and_groups_each_get_all() {
    let hub = hub().await;
    let mut publisher = Client::open(&hub).await;
    let (mut one, mut two, mut other) = (Client::open(&hub).await, Client::open(&hub).await, Client::open(&hub).await);
    one.subscribe("work", "shared", json!({"maxInFlight": 10})).await;
    two.subscribe("work", "shared", json!({"maxInFlight": 10})).await;
    other.subscribe("work", "alone", json!({})).await;
    publisher.publish_many("work", 20).await;
    // Nobody acknowledges, so each member's credit says how many it gets.
    let mut shared: BTreeSet<u64> = payloads(&one.events(10).await).into_iter().collect();
    shared.extend(payloads(&two.events(10).await));
    assert_eq!(shared, (0..20).collect());
    assert_eq!(payloads(&other.events(20).await), (0..20).collect::<Vec<_>>());
    hub.shutdown().await;
}

#[tokio::test]
async fn five_nacks_make_a_dead_letter_and_the_group_moves_on() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    let mut graveyard = Client::open(&hub).await;
    graveyard.subscribe("dlq.a.b", "gravedigger", json!({})).await;
    client.subscribe("a.b", "g", json!({"maxInFlight": 1})).await;
    let poison = client.publish("a.b", json!({"poison": true})).await;
    client.send(json!({"op": "PUBLISH", "topic": "a.b", "payload": "next"})).await;
    let mut attempts = Vec::new();
    while attempts.len() < 5 {
        let frame = client.next().await;
        if frame["op"] == "OK" {
            continue;
        }
        if frame["event"]["payload"] == "next" {
            client.ack(&frame).await;
            continue;
        }
        attempts.push(frame["ctx"]["attempt"].as_u64().unwrap());
        client
            .send(json!({"op": "NACK", "topic": "a.b", "group": "g", "id": frame["event"]["id"], "reason": "cannot", "delay_ms": 0}))
            .await;
    }
    assert_eq!(attempts, [1, 2, 3, 4, 5]);
    let dead = graveyard.next().await;
    let payload = &dead["event"]["payload"];
    assert_eq!(dead["event"]["topic"], "dlq.a.b");
    assert_eq!((&payload["topic"], &payload["group"], &payload["attempts"]), (&json!("a.b"), &json!("g"), &json!(5)));
    assert_eq!((&payload["err"], &payload["original"]["id"]), (&json!("cannot"), &poison["id"]));
    assert_eq!(payload["original"]["payload"], json!({"poison": true}));
    assert!(payload["ts"].as_u64().is_some());
    // The next event is delivered, and the dead one never again.
    client.send(json!({"op": "PUBLISH", "topic": "a.b", "payload": "last"})).await;
    loop {
        let frame = client.next().await;
        if frame["op"] == "OK" {
            continue;
        }
        assert_ne!(frame["event"]["id"], poison["id"]);
        client.ack(&frame).await;
        if frame["event"]["payload"] == "last" {
            break;
        }
    }
    client.quiet().await;
    hub.shutdown().await;
}

#[tokio::test]
async fn a_lease_that_runs_out_redelivers() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.subscribe("a.b", "g", json!({"ackTimeoutMs": 3000})).await;
    // The lease begins after this, however late its event is read.
    let started = tokio::time::Instant::now();
    client.publish("a.b", json!(1)).await;
    let first = client.next().await;
    let second = client.next().await;
    assert_eq!(second["ctx"]["attempt"], 2);
    assert!(started.elapsed().as_millis() >= 2900, "not before the lease ran out");
    // The first lease is worth nothing any more, the second one settles.
    let ack = |event: &serde_json::Value| json!({"op": "ACK", "topic": "a.b", "group": "g", "corr": "1", "id": event["event"]["id"], "lease": event["ctx"]["lease"]});
    assert_eq!(client.ask(ack(&first)).await["code"], "stale_lease");
    assert_eq!(client.ask(ack(&second)).await, json!({"op": "OK", "corr": "1"}));
    hub.shutdown().await;
}

#[tokio::test]
async fn pause_stops_and_resume_restarts_delivery() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.subscribe("a.b", "g", json!({})).await;
    assert_eq!(client.ask(json!({"op": "PAUSE", "topic": "a.b", "group": "g"})).await["op"], "OK");
    client.publish_many("a.b", 5).await;
    // Another group has them all, so this one could have had them too.
    let mut witness = Client::open(&hub).await;
    witness.subscribe("a.b", "witness", json!({"from": "earliest"})).await;
    witness.events(5).await;
    client.quiet().await;
    assert_eq!(client.ask(json!({"op": "RESUME", "topic": "a.b", "group": "g"})).await["op"], "OK");
    assert_eq!(payloads(&client.events(5).await), [0, 1, 2, 3, 4]);
    hub.shutdown().await;
}

#[tokio::test]
async fn a_group_goes_on_where_it_was_after_unsubscribe() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.subscribe("a.b", "g", json!({})).await;
    client.publish_many("a.b", 3).await;
    let events = client.events(3).await;
    client.ack(&events[0]).await;
    client.ack(&events[1]).await;
    assert_eq!(client.ask(json!({"op": "UNSUBSCRIBE", "topic": "a.b", "group": "g"})).await["op"], "OK");
    client.publish("a.b", json!(3)).await;
    client.quiet().await;
    client.subscribe("a.b", "g", json!({"from": "earliest"})).await;
    let rest = client.events(2).await;
    assert_eq!(payloads(&rest), [2, 3], "what was acknowledged does not come again");
    assert_eq!(rest[0]["ctx"]["attempt"], 2);
    hub.shutdown().await;
}
