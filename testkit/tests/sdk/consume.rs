//! Durable groups against a real hub.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::join_all};
use prom_hub::Hub;
use prom_sdk::{Client, ClientEvent, ErrorKind, Filter, PublishOptions, Received, StartFrom, Subscription};
use prom_testkit::{Relay, config, hub, in_time, token_for, until, url};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use crate::{builder, client};

/// Leases of this length run out in a test, and whoever renews one must be in time.
const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(600);

async fn publish(client: &Client, topic: &str, payloads: impl IntoIterator<Item = u32>) {
    for published in in_time(join_all(payloads.into_iter().map(|n| client.publish(topic, &n)))).await {
        published.unwrap();
    }
}

async fn join(client: &Client, topic: &str, group: &str) -> Subscription {
    in_time(client.subscribe(topic, group).from(StartFrom::Earliest).into_future()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_event_does_not_come_again() {
    let hub = hub().await;
    let client = client(&hub).await;
    publish(&client, "a", 1..=3).await;
    let mut first = join(&client, "a", "g").await;
    let delivery = in_time(first.next()).await.unwrap();
    assert_eq!((delivery.payload::<u32>().unwrap(), delivery.context().attempt), (1, 1));
    assert!(!delivery.context().redelivered && delivery.time_left().unwrap() > Duration::from_secs(20));
    in_time(delivery.ack()).await.unwrap();
    let delivery = in_time(first.next()).await.unwrap();
    in_time(delivery.ack_unconfirmed()).await.unwrap();
    in_time(first.unsubscribe()).await.unwrap();

    let mut second = join(&client, "a", "g").await;
    let delivery = in_time(second.next()).await.unwrap();
    assert_eq!((delivery.payload::<u32>().unwrap(), delivery.context().attempt), (3, 2), "it was not settled");
    in_time(delivery.ack()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nack_brings_it_again_and_dead_does_not() {
    let hub = hub().await;
    let client = client(&hub).await;
    publish(&client, "a", [1]).await;
    let mut deliveries = join(&client, "a", "g").await;
    let mut dead_letters = join(&client, "dlq.a", "g").await;
    in_time(in_time(deliveries.next()).await.unwrap().nack("not now")).await.unwrap();
    let delivery = in_time(deliveries.next()).await.unwrap();
    assert_eq!((delivery.context().attempt, delivery.context().redelivered), (2, true));
    in_time(delivery.nack_after("later", Duration::from_millis(1))).await.unwrap();
    let delivery = in_time(deliveries.next()).await.unwrap();
    assert_eq!((delivery.context().attempt, delivery.context().max_attempts), (3, 5));
    let error = delivery.payload::<String>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Payload);
    in_time(delivery.dead(error.to_string())).await.unwrap();

    let letter = in_time(dead_letters.next()).await.unwrap();
    let payload: Value = letter.payload().unwrap();
    assert_eq!((payload["topic"].as_str(), payload["err"].as_str()), (Some("a"), Some(&*error.to_string())));
    assert_eq!(payload["attempts"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_can_be_extended_and_what_is_dropped_comes_again() {
    let hub = hub().await;
    let (one, two) = (client(&hub).await, client(&hub).await);
    publish(&one, "a", 1..=3).await;
    let lease = |client: &Client| client.subscribe("a", "g").from(StartFrom::Earliest).ack_timeout(SHORT);
    let mut first = in_time(lease(&one).into_future()).await.unwrap();
    let mut deliveries = Vec::new();
    for _ in 0..3 {
        deliveries.push(in_time(first.next()).await.unwrap());
    }
    in_time(deliveries[0].extend(LONG)).await.unwrap();
    // Gone without a word: left to its lease.
    drop(deliveries.pop());
    let late = deliveries.pop().unwrap();
    in_time(first.pause()).await.unwrap();

    // Two leases end one after the other, and what ended first may not end here again meanwhile.
    let mut second = in_time(lease(&two).ack_timeout(LONG).into_future()).await.unwrap();
    let again = [in_time(second.next()).await.unwrap(), in_time(second.next()).await.unwrap()];
    let mut payloads = again.each_ref().map(|delivery| delivery.payload::<u32>().unwrap());
    payloads.sort_unstable();
    assert_eq!(payloads, [2, 3], "the leases of these have ended");
    let error = in_time(late.ack()).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::LeaseLost, false), "{error}");
    in_time(deliveries.pop().unwrap().ack()).await.unwrap();
}

/// A consumer that works on one event at a time was given the others after their leases had ended: somebody else had them too.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_stream_keeps_its_lease() {
    let hub = hub().await;
    let (one, two) = (client(&hub).await, client(&hub).await);
    publish(&one, "a", 1..=3).await;
    let short = one.subscribe("a", "g").from(StartFrom::Earliest).ack_timeout(SHORT).max_in_flight(3);
    let mut slow = in_time(short.into_future()).await.unwrap();
    let mut taken = vec![in_time(slow.next()).await.unwrap()];
    in_time(taken[0].extend(LONG)).await.unwrap();
    let mut other = in_time(two.subscribe("a", "g").into_future()).await.unwrap();
    // A lease of the same length that nobody extends, of an event that came later than those, measures the time.
    publish(&two, "b", [1]).await;
    let clock = two.subscribe("b", "g").from(StartFrom::Earliest).ack_timeout(SHORT).max_attempts(100);
    let mut clock = in_time(clock.into_future()).await.unwrap();
    for attempt in 1..=3 {
        assert_eq!(in_time(clock.next()).await.unwrap().context().attempt, attempt);
    }
    for _ in 0..2 {
        let delivery = in_time(slow.next()).await.unwrap();
        assert!(delivery.time_left().unwrap() > SHORT / 4, "{delivery:?}");
        taken.push(delivery);
    }
    for (payload, delivery) in (1..).zip(taken) {
        assert_eq!((delivery.payload::<u32>().unwrap(), delivery.context().attempt), (payload, 1));
        in_time(delivery.ack()).await.unwrap();
    }
    assert!(other.next().now_or_never().is_none(), "nobody else was given one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_subscription_gives_back_what_it_held() {
    let hub = hub().await;
    let (one, two) = (client(&hub).await, client(&hub).await);
    publish(&one, "a", [1]).await;
    let mut first = join(&one, "a", "g").await;
    let held = in_time(first.next()).await.unwrap();
    let mut second = join(&two, "a", "g").await;
    drop(first);
    let delivery = in_time(second.next()).await.unwrap();
    assert_eq!(delivery.context().attempt, 2);
    assert_eq!(in_time(held.ack()).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    in_time(delivery.ack()).await.unwrap();
    // The name is free again.
    drop(second);
    join(&one, "a", "g").await;
}

/// A dropped subscription could leave the group ahead of acknowledgements that were on their way.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_subscription_does_not_overtake_its_acknowledgements() {
    const EVENTS: u32 = 3000;
    let hub = hub().await;
    let client = client(&hub).await;
    publish(&client, "a", 1..=EVENTS).await;
    let all = client.subscribe("a", "g").from(StartFrom::Earliest).max_in_flight(EVENTS).ack_timeout(LONG);
    let mut subscription = in_time(all.into_future()).await.unwrap();
    let mut deliveries = Vec::new();
    for _ in 0..EVENTS {
        deliveries.push(in_time(subscription.next()).await.unwrap());
    }
    for delivery in deliveries {
        in_time(delivery.ack_unconfirmed()).await.unwrap();
    }
    drop(subscription);

    publish(&client, "a", [0]).await;
    let mut rest = join(&client, "a", "g").await;
    // The one that leaves may still have been given it, so it may be its second attempt; the others are settled.
    assert_eq!(in_time(rest.next()).await.unwrap().payload::<u32>().unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn credit_bounds_what_is_delivered_and_pausing_stops_it() {
    let hub = hub().await;
    let client = client(&hub).await;
    publish(&client, "a", 1..=10).await;
    let mut deliveries = client.subscribe("a", "g").from(StartFrom::Earliest).max_in_flight(3).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(in_time(deliveries.next()).await.unwrap());
    }
    // Its answer comes after whatever the hub had sent.
    in_time(held[0].extend(LONG)).await.unwrap();
    assert!(deliveries.next().now_or_never().is_none());
    in_time(held.pop().unwrap().ack()).await.unwrap();
    held.push(in_time(deliveries.next()).await.unwrap());
    assert_eq!(held[2].payload::<u32>().unwrap(), 4);

    in_time(deliveries.pause()).await.unwrap();
    in_time(held.pop().unwrap().ack()).await.unwrap();
    in_time(held[0].extend(LONG)).await.unwrap();
    assert!(deliveries.next().now_or_never().is_none(), "paused");
    in_time(deliveries.resume()).await.unwrap();
    assert_eq!(in_time(deliveries.next()).await.unwrap().payload::<u32>().unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_read_holds_up_nobody() {
    let hub = hub().await;
    let client = client(&hub).await;
    let mut slow = client.subscribe("a", "g").without_acks().await.unwrap();
    let credit = client.subscribe("a", "h").await.unwrap();
    publish(&client, "a", 0..10_000).await;
    for n in 0..10_000 {
        let delivery = in_time(slow.next()).await.unwrap();
        assert_eq!(delivery.payload::<u32>().unwrap(), n);
        assert!(delivery.time_left().is_none());
        delivery.ack().await.unwrap();
    }
    drop(credit);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_reach_the_hub() {
    let hub = hub().await;
    let client = client(&hub).await;
    for (n, key) in [(1, "a"), (2, "b"), (3, "a")] {
        client.publish_with("t", &n, PublishOptions::new().key(key)).await.unwrap();
    }
    let filter = Filter { keys: vec!["a".into()], ..Filter::default() };
    let subscribe = client.subscribe("t", "g").from(StartFrom::AfterSeq(0)).filter(filter).ordered_by_key();
    let mut deliveries = subscribe.max_attempts(1).batch_size(10).timeout(LONG).await.unwrap();
    let delivery = in_time(deliveries.next()).await.unwrap();
    assert_eq!((delivery.payload::<u32>().unwrap(), delivery.context().max_attempts), (1, 1));
    in_time(delivery.ack()).await.unwrap();
    let delivery = in_time(deliveries.next()).await.unwrap();
    assert_eq!(delivery.payload::<u32>().unwrap(), 3);

    let error = client.subscribe("t", "g").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadySubscribed);
    let error = client.subscribe("t", "h").max_in_flight(0).await.unwrap_err();
    assert!(error.message().contains("maxInFlight"), "{error}");
    let error = client.subscribe("t", "h").from(StartFrom::AfterId("nowhere".into())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PositionGone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_acks_nacks_and_survives_what_it_cannot_take() {
    let hub = hub().await;
    let client = client(&hub).await;
    let mut dead_letters = client.subscribe("dlq.a", "dead").await.unwrap();
    let handling = client
        .subscribe("a", "g")
        .max_attempts(1)
        .handle(async |received: Received<u32>| match received.payload {
            1 => Ok(()),
            2 => Err(std::io::Error::other("two is refused")),
            _ => panic!("three is worse"),
        })
        .await
        .unwrap();
    for payload in [json!(1), json!(2), json!(3), json!("four")] {
        client.publish("a", &payload).await.unwrap();
    }
    let mut reasons = Vec::new();
    for _ in 0..3 {
        let letter = in_time(dead_letters.next()).await.unwrap();
        let payload: Value = letter.payload().unwrap();
        reasons.push(payload["err"].as_str().unwrap().to_owned());
        letter.ack().await.unwrap();
    }
    reasons.sort();
    assert_eq!([&reasons[0], &reasons[2]], ["the handler panicked", "two is refused"]);
    assert!(reasons[1].contains("not what was asked for") && reasons[1].contains("invalid type"), "{reasons:?}");
    in_time(handling.stop()).await;
    let mut again = join(&client, "a", "g").await;
    client.publish("a", &5).await.unwrap();
    assert_eq!(in_time(again.next()).await.unwrap().payload::<u32>().unwrap(), 5, "the others are settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_waits_for_the_handlers_that_run() {
    let hub = hub().await;
    let client = client(&hub).await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let handling = {
        let gate = Arc::clone(&gate);
        let handler = move |received: Received<u32>| {
            let (gate, started) = (Arc::clone(&gate), started.clone());
            async move {
                started.send(received.payload)?;
                gate.acquire().await?.forget();
                Ok::<_, prom_sdk::BoxError>(())
            }
        };
        client.handle("a", "g", handler).await.unwrap()
    };
    publish(&client, "a", [1]).await;
    assert_eq!(in_time(starts.recv()).await, Some(1));
    let stopping = tokio::spawn(handling.stop());
    // The member that stops takes nothing new, so another one gets it.
    let mut other = crate::client(&hub).await.subscribe("a", "g").await.unwrap();
    let given = in_time(async {
        let mut n = 2;
        loop {
            publish(&client, "a", [n]).await;
            n += 1;
            tokio::select! {
                delivery = other.next() => break delivery.unwrap(),
                _ = starts.recv() => gate.add_permits(1),
            }
        }
    })
    .await;
    given.ack().await.unwrap();
    assert!(!stopping.is_finished());
    gate.add_permits(100);
    in_time(stopping).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_it_ends_and_a_lesser_one_revokes() {
    let hub = hub().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let provider = move || {
        // The hub grants five seconds more, for clocks that differ.
        let token = match count.fetch_add(1, Ordering::SeqCst) {
            0 => token_for(&["*:**"], 3),
            _ => token_for(&["*:mine.**"], 3),
        };
        async move { Ok(token) }
    };
    let client = in_time(builder(url(&hub)).token_provider(provider).connect()).await.unwrap();
    let mut events = client.events();
    let mut kept = client.subscribe("mine.a", "g").await.unwrap();
    let mut lost = client.subscribe("theirs.a", "g").await.unwrap();
    assert!(in_time(lost.next()).await.is_none());
    assert_eq!(lost.error().unwrap().kind(), ErrorKind::Forbidden);
    let ClientEvent::Revoked { topic, group, error } = in_time(events.recv()).await.unwrap() else {
        panic!("a Revoked")
    };
    assert_eq!((topic.as_str(), group.as_deref(), error.kind()), ("theirs.a", Some("g"), ErrorKind::Forbidden));
    until("three questions", async || asked.load(Ordering::SeqCst) >= 3).await;
    client.publish("mine.a", &1).await.unwrap();
    let delivery = in_time(kept.next()).await.unwrap();
    assert_eq!(delivery.context().attempt, 1, "the connection was never lost");
    assert_eq!(client.state().borrow().state, prom_sdk::State::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_outlives_its_connection() {
    let hub = hub().await;
    let relay = Relay::start(hub.address()).await;
    let client = builder(relay.url()).connect().await.unwrap();
    let direct = crate::client(&hub).await;
    let mut deliveries = client.subscribe("a", "g").await.unwrap();
    let mut settled = HashSet::new();
    for round in 0..5 {
        publish(&direct, "a", [2 * round, 2 * round + 1]).await;
        let held = in_time(deliveries.next()).await.unwrap();
        in_time(relay.cut()).await;
        let error = in_time(held.ack()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::LeaseLost | ErrorKind::ConnectionLost), "{error}");
        while settled.len() < 2 * (round as usize + 1) {
            let delivery = in_time(deliveries.next()).await.unwrap();
            let payload: u32 = delivery.payload().unwrap();
            in_time(delivery.ack()).await.unwrap();
            assert!(settled.insert(payload), "settled twice");
        }
    }
    let mut rest = deliveries.take(1);
    assert!(rest.next().now_or_never().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_takes_too_long_is_cancelled_and_its_event_given_back() {
    let hub = telling_hub().await;
    let client = client(&hub).await;
    let attempts = Arc::new(AtomicUsize::new(0));
    let handling = {
        let attempts = Arc::clone(&attempts);
        let handler = move |received: Received<u32>| {
            let attempts = Arc::clone(&attempts);
            async move {
                attempts.fetch_add(1, Ordering::SeqCst);
                if received.context.attempt == 1 {
                    std::future::pending::<()>().await;
                }
                Ok::<_, prom_sdk::BoxError>(())
            }
        };
        client.subscribe("a", "g").handler_timeout(Duration::from_millis(30)).handle(handler).await.unwrap()
    };
    publish(&client, "a", [1]).await;
    until("the second attempt", async || attempts.load(Ordering::SeqCst) == 2).await;
    until("it to be settled", async || lag(&hub, "a", "g").await == 0).await;
    in_time(handling.stop()).await;
}

/// A hub that tells of its groups.
async fn telling_hub() -> Hub {
    let mut config = config();
    config.ops_port = Some(0);
    Hub::start(config).await.expect("the hub starts")
}

/// Events that the group has not settled, as the hub tells.
async fn lag(hub: &Hub, topic: &str, group: &str) -> u64 {
    let path = format!("/lag?topic={topic}&group={group}");
    prom_testkit::http::ops(hub, &path).await.json()["lagEvents"].as_u64().unwrap_or(u64::MAX)
}
