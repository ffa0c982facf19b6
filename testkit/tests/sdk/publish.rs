//! Publishing against a real hub.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt, future::join_all, stream};
use prom_sdk::{Client, ErrorKind, HistoryItem, PublishOptions, RawValue, StartFrom};
use prom_testkit::{DEADLINE, hub, in_time, token, token_with, url};
use serde_json::json;

use crate::{builder, client};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_committed_with_all_it_carries() {
    let hub = hub().await;
    let client = client(&hub).await;
    let options = PublishOptions::new()
        .id("order-7-paid")
        .ts(1_767_225_600_000)
        .key("order-7")
        .sid("checkout-3")
        .header("trace", "4bf9 \"2f\"")
        .tag("eu")
        .tag("card")
        .caused_by("order-7-placed")
        .caused_by("card-3-charged");
    let payload = json!({"order": 7, "total": 19.5});
    let first = in_time(client.publish_with("orders.paid", &payload, options.clone())).await.unwrap();
    assert_eq!((first.id.as_str(), first.seq, first.duplicate), ("order-7-paid", 1, false));
    let again = in_time(client.publish_with("orders.paid", &payload, options)).await.unwrap();
    assert_eq!((again.seq, again.duplicate), (1, true));

    let mut orders = client.subscribe("orders.*", "g").from(StartFrom::Earliest).await.unwrap();
    let delivery = in_time(orders.next()).await.unwrap();
    assert_eq!(
        serde_json::to_value(delivery.event()).unwrap(),
        json!({"id": "order-7-paid", "seq": 1, "ts": 1_767_225_600_000_u64, "topic": "orders.paid", "key": "order-7", "sid": "checkout-3",
            "headers": {"trace": "4bf9 \"2f\""}, "tags": ["eu", "card"], "caused_by": ["order-7-placed", "card-3-charged"],
            "payload": {"order": 7, "total": 19.5}})
    );
    in_time(delivery.ack()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_tells_who_published_it() {
    let hub = hub().await;
    for sub in [Some("auth0|alice"), None] {
        let mut claims = json!({"scopes": ["*:**"]});
        if let Some(sub) = sub {
            claims["sub"] = json!(sub);
        }
        let publisher = in_time(builder(url(&hub)).token(token_with(claims)).connect()).await.unwrap();
        // A payload is the publisher's, whatever is in it.
        in_time(publisher.publish_with("t", &json!({"by": "root"}), PublishOptions::new().key("k"))).await.unwrap();
    }
    let reader = client(&hub).await;
    let subjects = [Some("auth0|alice"), None];
    let mut events = reader.subscribe("t", "g").from(StartFrom::Earliest).await.unwrap();
    for sub in subjects {
        let delivery = in_time(events.next()).await.unwrap();
        assert_eq!(delivery.event().by.as_deref(), sub);
        in_time(delivery.ack()).await.unwrap();
    }
    let mut history = in_time(reader.history::<serde_json::Value>("t").into_future()).await.unwrap();
    for sub in subjects {
        let Some(HistoryItem::Event(recorded)) = in_time(history.next()).await.transpose().unwrap() else {
            panic!("an event")
        };
        assert_eq!((recorded.event.by.as_deref(), recorded.payload), (sub, json!({"by": "root"})));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_json_is_published_as_it_is() {
    let hub = hub().await;
    let client = client(&hub).await;
    let raw: Box<RawValue> = serde_json::from_str(r#"{"a": 1.50}"#).unwrap();
    in_time(client.publish_raw("a.b", &raw, PublishOptions::new())).await.unwrap();
    let mut events = client.subscribe("a.b", "g").from(StartFrom::Earliest).await.unwrap();
    assert_eq!(in_time(events.next()).await.unwrap().event().raw().get(), r#"{"a": 1.50}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_kind() {
    let hub = hub().await;
    let limited = builder(url(&hub)).token(token(&["publish:mine.**"])).connect().await.unwrap();
    let cases = [
        (limited.publish("theirs", &1), ErrorKind::Forbidden, "forbidden"),
        (limited.publish("mine..x", &1), ErrorKind::Invalid, "bad_topic"),
        (limited.publish("mine.*", &1), ErrorKind::Invalid, "bad_topic"),
        (limited.publish_with("mine.a", &1, PublishOptions::new().key("")), ErrorKind::Invalid, "bad_frame"),
        (limited.publish("mine.a", &"x".repeat(1 << 20)), ErrorKind::TooLarge, "too_large"),
    ];
    for (publishing, kind, code) in cases {
        let error = in_time(publishing).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (kind, code), "{error}");
        assert!(!error.retryable());
    }
    let unfit = std::collections::HashMap::from([(vec![1], 1)]);
    let error = in_time(limited.publish("mine.a", &unfit)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Payload);
    assert!(std::error::Error::source(&error).is_some());
    let error = limited.subscribe("mine.a", "g").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    assert_eq!(in_time(limited.publish("mine.a", &1)).await.unwrap().seq, 1, "the connection goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pipelined_publishes_are_all_committed_in_order() {
    const EVENTS: u64 = 50_000;
    let hub = hub().await;
    let client = client(&hub).await;
    let publishing: Vec<_> = (0..EVENTS).map(|n| client.publish("load", &n)).collect();
    let published = in_time(join_all(publishing)).await;
    for (n, published) in published.into_iter().enumerate() {
        let published = published.unwrap();
        assert_eq!((published.seq, published.duplicate), (n as u64 + 1, false));
    }
    let mut load = client.subscribe("load", "g").from(StartFrom::Earliest).max_in_flight(1000).await.unwrap();
    in_time(async {
        for n in 0..EVENTS {
            let delivery = load.next().await.unwrap();
            assert_eq!(delivery.payload::<u64>().unwrap(), n);
            delivery.ack_unconfirmed().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_wait_for_room_and_are_not_refused() {
    let hub = hub().await;
    let client = builder(url(&hub)).max_queued(4, 1000).connect().await.unwrap();
    let client = &client;
    let published = stream::iter(0..2_000_u32).map(|n| client.publish("a", &n)).buffered(500).collect::<Vec<_>>();
    assert!(in_time(published).await.iter().all(Result::is_ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_finds_no_hub_ends_with_its_time_limit() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = builder(format!("ws://{free}/ws")).connect_lazily().unwrap();
    let options = PublishOptions::new().timeout(Duration::from_millis(50));
    let error = in_time(client.publish_with("a", &1, options)).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Timeout, true));
    let error = in_time(builder(format!("ws://{free}/ws")).request_timeout(Duration::from_secs(2)).connect())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.message().contains("refused"), "{error} says why");
}

#[tokio::test]
async fn a_client_that_cannot_be_is_refused() {
    for url in ["", "nonsense", "http://127.0.0.1/ws", "ws://"] {
        let error = Client::builder(url).token("x").request_timeout(DEADLINE).connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{url:?}: {error}");
    }
    let error = Client::builder("ws://127.0.0.1:1/ws").connect().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unauthorized, "no_token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_json_cannot_hold_is_refused_by_its_path() {
    let hub = hub().await;
    let client = client(&hub).await;
    for payload in [json!({"ok": [1, null]}), json!(null)] {
        in_time(client.publish("a", &payload)).await.unwrap();
    }
    let wrong = HashMap::from([("readings", vec![Some(1.0), Some(f64::NAN)])]);
    let error = in_time(client.publish("a", &wrong)).await.unwrap_err();
    assert_eq!(error.code(), "bad_payload");
    assert!(error.to_string().contains("payload.readings[1] is NaN"), "{error}");
    assert_eq!(in_time(client.publish("a", &f32::INFINITY)).await.unwrap_err().code(), "bad_payload");
    assert_eq!(in_time(client.publish("a", &1)).await.unwrap().seq, 3, "nothing of them was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_starts_when_it_is_called() {
    let hub = hub().await;
    let client = client(&hub).await;
    let first = client.publish("a", &1);
    let second = in_time(client.publish("a", &2)).await.unwrap();
    assert_eq!((second.seq, in_time(first).await.unwrap().seq), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_of_several_lines_is_one_frame_all_the_same() {
    let hub = hub().await;
    let client = client(&hub).await;
    let raw = RawValue::from_string("{\n  \"a\": [\r\n1, 2]\n}".to_owned()).unwrap();
    let one = client.publish_raw("a", &raw, PublishOptions::new());
    let two = client.publish("a", &2);
    assert_eq!((in_time(one).await.unwrap().seq, in_time(two).await.unwrap().seq), (1, 2));
    let mut events = client.subscribe("a", "g").from(StartFrom::Earliest).await.unwrap();
    let payload: serde_json::Value = in_time(events.next()).await.unwrap().payload().unwrap();
    assert_eq!(payload, json!({"a": [1, 2]}));
}

#[tokio::test]
async fn what_the_hub_would_refuse_is_refused_before_there_is_one() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // What is not refused at once waits for a hub until this has passed.
    let client = builder(format!("ws://{free}/ws")).request_timeout(Duration::from_secs(1)).connect_lazily().unwrap();
    let new = PublishOptions::new;
    let long = |bytes| "x".repeat(bytes);
    let mut tags = new();
    let mut headers = new();
    for n in 0..33 {
        (tags, headers) = (tags.tag(n.to_string()), headers.header(n.to_string(), ""));
    }
    let cases = [
        (new().id(""), "id must be 1 to 128 bytes"),
        (new().id(long(129)), "id must be 1 to 128 bytes"),
        (new().id("a\nb"), "id must not hold control characters"),
        (new().id("$own"), "id must not start with `$`"),
        (new().ts(1 << 53), "ts must be an integer from 0 to 9007199254740991"),
        (new().key(""), "key must be 1 to 512 bytes"),
        (new().key(long(513)), "key must be 1 to 512 bytes"),
        (new().key("\u{7f}"), "key must not hold control characters"),
        (new().sid(long(129)), "sid must be 1 to 128 bytes"),
        (new().caused_by("c").caused_by(""), "an entry of caused_by must be 1 to 512 bytes"),
        (new().tag(""), "an entry of tags must be 1 to 64 bytes"),
        (new().tag(long(65)), "an entry of tags must be 1 to 64 bytes"),
        (tags, "tags may hold at most 32 strings"),
        (new().header("", "v"), "a name in headers must be 1 to 64 bytes"),
        (new().header("n\t", "v"), "a name in headers must not hold control characters"),
        (new().header("n", long(1025)), "headers.n must be at most 1024 bytes"),
        (new().header("n", "1").header("n", "2"), "headers must be an object of strings, each name once"),
        (headers, "headers may hold at most 32 headers"),
    ];
    for (options, words) in cases {
        let error = in_time(client.publish_with("a", &1, options)).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, "bad_frame"), "{words}: {error}");
        assert_eq!(error.message(), words);
    }
    for (topic, words) in [("", "topic is empty"), ("a b", "topic may hold only"), ("a\n", "topic may hold only")] {
        let errors = [
            in_time(client.publish(topic, &1)).await.unwrap_err(),
            in_time(client.subscribe(topic, "g").into_future()).await.unwrap_err(),
            in_time(client.live(topic).into_future()).await.unwrap_err(),
            in_time(client.watch::<u32>(topic)).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, "bad_topic"), "{topic:?}: {error}");
            assert!(error.message().starts_with(words), "{error}");
        }
    }
    for group in ["", "$g", "a b", "g\n", &long(129)] {
        let error = in_time(client.subscribe("a", group).into_future()).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, "bad_topic"), "{group:?}: {error}");
        assert!(error.message().starts_with("group must be 1 to 128 visible"), "{error}");
    }
}
