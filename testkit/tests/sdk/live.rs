//! Live subscriptions and watches against a real hub.

use futures_util::{FutureExt, future::join_all};
use prom_hub::Hub;
use prom_sdk::{Client, ErrorKind, Live, LiveItem, PublishOptions, StartFrom, State};
use prom_testkit::{Relay, config, hub, hub_at, in_time, until};
use serde_json::json;

use crate::{builder, client, reaches};

async fn next_payload(live: &mut Live) -> u32 {
    match in_time(live.next()).await.unwrap() {
        LiveItem::Event(event) => event.payload().unwrap(),
        other => panic!("an event expected, got {other:?}"),
    }
}

async fn set(client: &Client, topic: &str, key: &str, value: u32) -> u64 {
    in_time(client.publish_with(topic, &value, PublishOptions::new().key(key))).await.unwrap().seq
}

/// Waits until subscribers see the event: it is committed before.
async fn seen(client: &Client, topic: &str, seq: u64) {
    let mut live = client.live(topic).from(StartFrom::AfterSeq(seq - 1)).await.unwrap();
    assert!(matches!(in_time(live.next()).await, Some(LiveItem::Event(event)) if event.seq == seq));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_is_followed_from_now_or_from_the_beginning() {
    let hub = hub().await;
    let client = client(&hub).await;
    client.publish("logs.web", &1).await.unwrap();
    seen(&client, "logs.web", 1).await;
    let mut from_now = client.live("logs.**").await.unwrap();
    let mut from_start = client.live("logs.web").from(StartFrom::Earliest).await.unwrap();
    client.publish("logs.web", &2).await.unwrap();
    client.publish("logs.new.topic", &3).await.unwrap();
    assert_eq!((next_payload(&mut from_now).await, next_payload(&mut from_now).await), (2, 3));
    assert_eq!((next_payload(&mut from_start).await, next_payload(&mut from_start).await), (1, 2));
    in_time(from_now.unsubscribe()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_loses_nothing_and_holds_up_nobody() {
    const EVENTS: u32 = 100_000;
    let hub = hub().await;
    let client = client(&hub).await;
    let mut live = client.live("a").buffer(10).await.unwrap();
    for published in in_time(join_all((0..EVENTS).map(|n| client.publish("a", &n)))).await {
        published.unwrap();
    }
    for n in 0..EVENTS {
        assert_eq!(next_payload(&mut live).await, n);
    }
    assert!(live.next().now_or_never().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn pausing_leaves_the_events_in_the_log() {
    let hub = hub().await;
    let client = client(&hub).await;
    let mut live = client.live("a").await.unwrap();
    in_time(live.pause()).await.unwrap();
    client.publish("a", &1).await.unwrap();
    in_time(live.pause()).await.unwrap();
    assert!(live.next().now_or_never().is_none());
    in_time(live.resume()).await.unwrap();
    assert_eq!(next_payload(&mut live).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_is_a_gap() {
    let mut config = config();
    config.store = prom_hub::StoreConfig::Memory(100_000);
    let hub = Hub::start(config).await.unwrap();
    let client = client(&hub).await;
    let mut events = client.events();
    let mut live = client.live("a").await.unwrap();
    in_time(live.pause()).await.unwrap();
    let filler = "x".repeat(1000);
    for published in in_time(join_all((0..1000).map(|_| client.publish("a", &filler)))).await {
        published.unwrap();
    }
    in_time(live.resume()).await.unwrap();
    let LiveItem::Gap(gap) = in_time(live.next()).await.unwrap() else { panic!("a gap") };
    assert_eq!((gap.topic.as_str(), gap.from), ("a", 1));
    let LiveItem::Event(event) = in_time(live.next()).await.unwrap() else { panic!("an event") };
    assert_eq!(event.seq, gap.to + 1);
    assert!(matches!(in_time(events.recv()).await, Ok(prom_sdk::ClientEvent::Gap(same)) if same == gap));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_complete_when_it_says_so_and_starts_again_after_a_reconnect() {
    let hub = hub().await;
    let relay = Relay::start(hub.address()).await;
    let client = builder(relay.url()).connect().await.unwrap();
    let seq = set(&client, "a", "k", 1).await;
    seen(&client, "a", seq).await;
    let mut live = client.live("a").from(StartFrom::Snapshot).await.unwrap();
    assert_eq!(next_payload(&mut live).await, 1);
    assert!(matches!(in_time(live.next()).await, Some(LiveItem::SnapshotComplete)));
    in_time(relay.cut()).await;
    assert!(matches!(in_time(live.next()).await, Some(LiveItem::Reconnected)));
    assert_eq!(next_payload(&mut live).await, 1);
    assert!(matches!(in_time(live.next()).await, Some(LiveItem::SnapshotComplete)));
    client.close().await;
    assert!(in_time(live.next()).await.is_none());
    assert_eq!(live.error().unwrap().kind(), ErrorKind::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_has_the_newest_value_of_each_key() {
    let hub = hub().await;
    let client = client(&hub).await;
    for n in 0..2_000 {
        client.publish_with("s", &n, PublishOptions::new().key(format!("k{n}"))).await.unwrap();
    }
    let seq = set(&client, "s", "k7", 70).await;
    seen(&client, "s", seq).await;
    let mut watch = in_time(client.watch::<u32>("s")).await.unwrap();
    assert_eq!(watch.len(), 2_000);
    assert_eq!(*watch.get("k7").unwrap().value.as_ref().unwrap(), 70);
    assert_eq!(watch.iter().filter(|(key, latest)| latest.event.key.as_deref() == Some(&**key)).count(), 2_000);
    assert!(watch.next().now_or_never().is_none(), "the beginning is no change");

    // Not read meanwhile: one change a key, with the newest value.
    for n in 0..500 {
        set(&client, "s", "k1", n).await;
        set(&client, "s", "new", n).await;
    }
    until("the newest value", async || watch.get("new").is_some_and(|new| new.value.as_ref().is_ok_and(|n| *n == 499)))
        .await;
    let mut changes = [in_time(watch.next()).await.unwrap(), in_time(watch.next()).await.unwrap()];
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(
        changes.iter().map(|c| (&*c.key, c.value().copied())).collect::<Vec<_>>(),
        [("k1", Some(499)), ("new", Some(499))]
    );
    assert!(watch.next().now_or_never().is_none());

    client.publish_with("s", &json!("words"), PublishOptions::new().key("k1")).await.unwrap();
    let change = in_time(watch.next()).await.unwrap();
    let latest = change.latest.as_ref().unwrap();
    assert_eq!(latest.value.as_ref().unwrap_err().kind(), ErrorKind::Payload);
    assert_eq!((change.value(), change.event().unwrap().raw().get()), (None, "\"words\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_gone_after_a_restart_leave_the_watch() {
    let first = hub().await;
    let (address, client) = (first.address(), client(&first).await);
    set(&client, "s", "stays", 1).await;
    let seq = set(&client, "s", "goes", 2).await;
    seen(&client, "s", seq).await;
    let mut watch = in_time(client.watch::<u32>("s")).await.unwrap();
    assert_eq!(watch.len(), 2);
    first.shutdown().await;
    reaches(&client, State::Reconnecting).await;
    assert_eq!(watch.len(), 2, "the last that is known");
    // This hub keeps its events in memory, so the new one knows nothing yet.
    let second = hub_at(address).await;
    let mut gone = [in_time(watch.next()).await.unwrap(), in_time(watch.next()).await.unwrap()];
    gone.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(
        gone.iter().map(|c| (&*c.key, c.latest.is_none())).collect::<Vec<_>>(),
        [("goes", true), ("stays", true)]
    );
    assert!(watch.is_empty());
    set(&client, "s", "stays", 3).await;
    let change = in_time(watch.next()).await.unwrap();
    assert_eq!((&*change.key, change.value()), ("stays", Some(&3)));

    client.close().await;
    assert!(in_time(watch.next()).await.is_none());
    assert_eq!(watch.error().unwrap().kind(), ErrorKind::Closed);
    assert_eq!(watch.len(), 1, "still to be read");
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reconnect_only_what_changed_meanwhile_is_a_change() {
    let hub = hub().await;
    let relay = Relay::start(hub.address()).await;
    let client = builder(relay.url()).connect().await.unwrap();
    let direct = crate::client(&hub).await;
    for key in ["a", "b", "c"] {
        let seq = set(&direct, "s", key, 1).await;
        seen(&direct, "s", seq).await;
    }
    let mut watch = in_time(client.watch::<u32>("s")).await.unwrap();
    for n in 2..6 {
        in_time(relay.cut()).await;
        set(&direct, "s", "b", n).await;
        loop {
            let change = in_time(watch.next()).await.unwrap();
            assert_eq!(&*change.key, "b");
            if change.value() == Some(&n) {
                break;
            }
        }
    }
    assert_eq!(watch.len(), 3);
    assert!(watch.next().now_or_never().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_pattern_keeps_the_keys_of_its_topics_apart() {
    let hub = hub().await;
    let client = client(&hub).await;
    set(&client, "s.a", "k", 1).await;
    set(&client, "s.b", "k", 2).await;
    let mut watch = in_time(client.watch::<u32>("s.*")).await.unwrap();
    let value =
        |watch: &prom_sdk::Watch<u32>, key: &str| watch.get(key).and_then(|latest| latest.value.as_ref().ok().copied());
    assert_eq!((watch.len(), value(&watch, "s.a::k"), value(&watch, "s.b::k")), (2, Some(1), Some(2)));
    set(&client, "s.c", "k", 3).await;
    assert_eq!(&*in_time(watch.next()).await.unwrap().key, "s.c::k");
    assert_eq!(client.watch::<u32>("s..x").await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(client.live("s..x").await.unwrap_err().kind(), ErrorKind::Invalid);
}
