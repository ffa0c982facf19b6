//! A drainer with the Rust client, on a real hub.

use std::{sync::Arc, time::Duration};

use prom_hub::Hub;
use prom_outbox::{Drainer, Filter, MemoryOutbox, NewRow, Options, OutboxEvent, OutboxStore, Outcome, Publish, Status};
use prom_protocol::{EventOptions, RawValue};
use prom_sdk::{Client, StartFrom, SubscribeOptions};
use prom_testkit::{hub, in_time, token, token_with, until, url};
use serde_json::json;
use tokio::sync::Notify;

async fn client(hub: &Hub, scopes: &[&str]) -> Client {
    with_token(hub, token(scopes)).await
}

async fn with_token(hub: &Hub, token: String) -> Client {
    Client::builder(url(hub)).token(token).connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_become_events_of_a_hub() {
    let hub = hub().await;
    let outbox = Arc::new(MemoryOutbox::new());
    let full = NewRow::new("orders.paid", &json!({"order": 7, "total": 19.5})).unwrap();
    let full = full.id("first").ts(1_700_000_000_123).key("order-7").sid("s").header("z", "1").tag("eu").caused_by("c");
    outbox.add(full).unwrap();
    outbox.add(NewRow::new("secrets.x", &1).unwrap().id("not allowed").key("order-7").ts(1_700_000_000_124)).unwrap();
    for n in 0..1_000 {
        let row = NewRow::new("orders.paid", &n).unwrap().id(format!("more{n:03}")).key(format!("k{}", n % 50));
        outbox.add(row.ts(1_700_000_001_000 + n)).unwrap();
    }
    let token = token_with(json!({"sub": "drainer", "scopes": ["publish:orders.**"]}));
    let publisher = with_token(&hub, token).await;
    let drainer =
        Drainer::new(Arc::clone(&outbox) as _, Arc::new(publisher), Options { max_attempts: 3, ..Options::default() });
    let stop = Notify::new();
    let drained = async {
        until("all but one are sent", async || {
            let stats = outbox.stats().await.unwrap();
            (stats.sent, stats.error) == (1_001, 1)
        })
        .await;
        stop.notify_one();
    };
    tokio::join!(drainer.run(stop.notified()), drained);
    assert_eq!((drainer.tally().published, drainer.tally().duplicates), (1_001, 0));
    let parked = outbox.list(&Filter::status(Status::Error), 10).await.unwrap().remove(0);
    assert_eq!(parked.id, "not allowed");
    assert!(parked.last_err.unwrap().starts_with("forbidden: "));

    let reader = client(&hub, &["*:**"]).await;
    let from = SubscribeOptions { from: StartFrom::Earliest, ..SubscribeOptions::default() };
    let mut orders = reader.subscribe("orders.paid", "check").options(from).await.unwrap();
    let mut next_of_key = std::collections::HashMap::new();
    for n in 0..1_001 {
        let delivery = in_time(orders.next()).await.unwrap();
        let event = delivery.event();
        assert_eq!(event.by.as_deref(), Some("drainer"), "who drains as a client is who publishes");
        if event.id == "first" {
            let json =
                (event.ts, event.key.as_deref(), event.sid.as_deref(), event.caused_by.first().map(String::as_str));
            assert_eq!(json, (1_700_000_000_123, Some("order-7"), Some("s"), Some("c")));
            assert_eq!(event.headers.iter().collect::<Vec<_>>(), [("z", "1")]);
            assert_eq!(event.raw().get(), r#"{"order":7,"total":19.5}"#);
        } else {
            let before = next_of_key.insert(event.key.clone(), event.id.clone());
            assert!(before.is_none_or(|before| before < event.id), "{n}: {} is out of order", event.id);
        }
        delivery.ack().await.unwrap();
    }
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_says_in_time_what_it_has_published() {
    // Bug: each event of a key had the whole time for itself, and a drainer that waited no longer lost what was done.
    let hub = hub().await;
    let publisher = client(&hub, &["publish:orders.**"]).await;
    let event = |n: usize| {
        let options = EventOptions { key: Some("order-7".into()), ..EventOptions::default() };
        OutboxEvent::new("orders.paid", format!("e{n}"), options, RawValue::NULL.to_owned()).unwrap()
    };
    // One after another, these take many times as long on any machine, and one of them does not on a busy one.
    let events: Vec<_> = (0..200_000).map(event).collect();
    let outcomes = Publish::publish(&publisher, &events, Duration::from_secs(1)).await;
    let published = outcomes.iter().take_while(|outcome| matches!(outcome, Outcome::Published(_))).count();
    assert!(published > 0 && published < events.len(), "{published}");
    let late = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Failed(error) if error.code == "timeout"));
    let held = outcomes.iter().filter(|outcome| **outcome == Outcome::Held);
    let (late, held) = (late.count(), held.count());
    assert!(late <= 1 && published + late + held == events.len(), "{published} published, {late} late, {held} held");
    hub.shutdown().await;
}
