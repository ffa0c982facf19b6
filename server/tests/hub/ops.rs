//! What operators are told, over real HTTP.

use prom_hub::{Config, Hub};
use prom_testkit::{
    Client, DEADLINE, config,
    http::{ops, ops_as, raw, request},
    token, until_some,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

fn with_ops() -> Config {
    let mut config = config();
    config.ops_port = Some(0);
    config
}

/// A token for the ops port.
fn operator() -> String {
    token(&["ops:read"])
}

async fn hub() -> Hub {
    Hub::start(with_ops()).await.expect("the hub starts")
}

/// Asks until `good`; positions are stored behind the acks that move them.
async fn until(hub: &Hub, path: &str, good: impl Fn(&Value) -> bool) -> Value {
    until_some(path, async || Some(ops(hub, path).await.json()).filter(&good)).await
}

async fn metric(hub: &Hub, name: &str) -> Option<f64> {
    let answer = ops(hub, "/metrics").await;
    answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn lag_is_back_at_nothing_after_a_burst_was_consumed() {
    const BURST: usize = 50_000;
    let hub = hub().await;
    let mut consumer = Client::open(&hub).await;
    // The first are delivered long before they are read, and come back to nobody meanwhile.
    let opts = json!({"from": "earliest", "maxInFlight": 10000, "ackTimeoutMs": 600_000});
    consumer.subscribe("burst", "workers", opts).await;
    let mut publisher = Client::open(&hub).await;
    publisher.publish_many("burst", BURST).await;
    let lag = ops(&hub, "/lag?topic=burst&group=workers").await.json();
    assert!(lag["lagEvents"].as_u64().unwrap() > 0, "nothing is acknowledged yet: {lag}");
    assert_eq!((&lag["tailSeq"], &lag["lastCursor"]), (&json!(BURST), &Value::Null), "nothing is settled yet");
    let mut seen = 0;
    while seen < BURST {
        let events = consumer.events(1000.min(BURST - seen)).await;
        seen += events.len();
        consumer
            .send_all(
                events.iter().map(
                    |event| json!({"op": "ACK", "topic": "burst", "group": "workers", "id": event["event"]["id"]}),
                ),
            )
            .await;
    }
    let lag = until(&hub, "/lag?topic=burst&group=workers", |lag| lag["lagEvents"] == 0).await;
    assert_eq!(lag["lagMs"], 0);
    assert!(lag["tail"].is_string(), "{lag}");
    assert_eq!(lag["lastCursor"]["lastId"], lag["tail"]);
    assert_eq!(lag["lastCursor"]["lastTs"], lag["tailTs"]);
    assert_eq!(lag["lastCursor"]["lastSeq"], BURST);
    let count = Some(BURST as f64);
    assert_eq!(metric(&hub, "events_published_total{topic=\"burst\"}").await, count);
    assert_eq!(metric(&hub, "events_delivered_total{topic=\"burst\",group=\"workers\"}").await, count);
    assert_eq!(metric(&hub, "events_acked_total{topic=\"burst\",group=\"workers\"}").await, count);
    assert_eq!(metric(&hub, "delivery_latency_ms_count").await, count);
    assert_eq!(metric(&hub, "ws_inflight").await, Some(0.0));
    assert_eq!(metric(&hub, "ws_connections").await, Some(2.0));
    assert!(metric(&hub, "commit_events_sum").await.unwrap() >= BURST as f64);
    hub.shutdown().await;
}

#[tokio::test]
async fn what_is_settled_out_of_order_does_not_count_as_lag() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    for ts in [1000, 2000, 3000, 4000] {
        client.ask(json!({"op": "PUBLISH", "topic": "a", "payload": 1, "opts": {"ts": ts}})).await;
    }
    client.subscribe("a", "g", json!({"from": "earliest"})).await;
    let events = client.events(4).await;
    client.ack(&events[2]).await;
    let lag = until(&hub, "/lag?topic=a&group=g", |lag| lag["lagEvents"] == 3).await;
    assert_eq!(lag["lastCursor"], Value::Null, "nothing is settled in order yet");
    assert_eq!(ops(&hub, "/cursors?topic=a").await.json(), json!({"topic": "a", "cursors": []}));
    assert_eq!(lag["lagMs"], 3000, "since the first event, for nothing is settled in order yet");
    client.ack(&events[0]).await;
    let lag = until(&hub, "/lag?topic=a&group=g", |lag| lag["lagEvents"] == 2).await;
    assert_eq!((&lag["lagMs"], &lag["lastCursor"]["lastTs"]), (&json!(3000), &json!(1000)));
    let id = &events[0]["event"]["id"];
    let row = json!({"group": "g", "lastId": id, "lastTs": 1000, "lastSeq": 1, "settledAbove": 1, "delivered": 4});
    assert_eq!(ops(&hub, "/cursors?topic=a").await.json(), json!({"topic": "a", "cursors": [row]}));
    let tail = ops(&hub, "/lag?topic=a&group=g").await.json()["tail"].clone();
    assert_eq!(
        ops(&hub, "/lag?topic=a&group=nobody").await.json(),
        json!({
            "topic": "a", "group": "nobody", "lastCursor": null, "tail": tail, "tailTs": 4000, "tailSeq": 4,
            "lagMs": null, "lagEvents": null,
        }),
        "a name that was mistyped does not look like a group that has caught up"
    );
    let unknown = ops(&hub, "/lag?topic=none&group=g").await.json();
    assert_eq!(
        unknown,
        json!({
            "topic": "none", "group": "g", "lastCursor": null, "tail": null, "tailTs": null, "tailSeq": null,
            "lagMs": null, "lagEvents": null,
        })
    );
    hub.shutdown().await;
}

#[tokio::test]
async fn a_group_that_joined_at_the_end_lags_from_there() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.ask(json!({"op": "PUBLISH", "topic": "a", "payload": 1, "opts": {"ts": 5000}})).await;
    client.subscribe("a", "g", json!({})).await;
    client.ask(json!({"op": "PUBLISH", "topic": "a", "payload": 1, "opts": {"ts": 5500}})).await;
    let lag = ops(&hub, "/lag?topic=a&group=g").await.json();
    assert_eq!((&lag["lagMs"], &lag["lagEvents"]), (&json!(500), &json!(1)), "{lag}");
    hub.shutdown().await;
}

#[tokio::test]
async fn retries_refusals_and_leases_are_counted() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    client.publish("a", json!(1)).await;
    client.subscribe("a", "g", json!({"from": "earliest"})).await;
    let first = client.next().await;
    assert_eq!(metric(&hub, "ws_inflight").await, Some(1.0));
    let id = &first["event"]["id"];
    client.send(json!({"op": "NACK", "topic": "a", "group": "g", "id": id, "delay_ms": 0})).await;
    let again = client.next().await;
    client.ack(&again).await;
    until(&hub, "/lag?topic=a&group=g", |lag| lag["lagEvents"] == 0).await;
    let refused = client.ask(json!({"op": "PUBLISH", "topic": "$audit", "payload": 1})).await;
    assert_eq!(refused["code"], "forbidden");
    for (name, value) in [
        ("events_nacked_total{topic=\"a\",group=\"g\"}", 1.0),
        ("events_delivered_total{topic=\"a\",group=\"g\"}", 2.0),
        ("events_redelivered_total", 1.0),
        ("publish_refused_total{code=\"forbidden\"}", 1.0),
        ("ws_inflight", 0.0),
    ] {
        assert_eq!(metric(&hub, name).await, Some(value), "{name}");
    }
    client.close().await;
    assert!(client.closed_cleanly().await);
    hub.shutdown().await;
}

/// `/readyz` stayed 200 and no metric said it, so that only who published could know.
#[tokio::test]
async fn a_hub_whose_store_is_full_says_so_until_there_is_room() {
    let mut config = with_ops();
    config.store = prom_hub::StoreConfig::Memory(1024 * 1024);
    let hub = Hub::start(config).await.unwrap();
    let mut consumer = Client::open(&hub).await;
    consumer.subscribe("a", "g", json!({"maxInFlight": 1000, "ackTimeoutMs": 600_000})).await;
    let mut publisher = Client::open(&hub).await;
    let publish = json!({"op": "PUBLISH", "topic": "a", "payload": "x".repeat(50_000)});
    assert_eq!(metric(&hub, "store_full").await, Some(0.0));
    let mut taken = 0;
    while publisher.ask(publish.clone()).await["op"] == "OK" {
        taken += 1;
    }
    let answer = ops(&hub, "/readyz").await;
    assert_eq!(answer.status, 503);
    let reason = answer.json()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("the store takes no events") && reason.contains("full"), "{reason}");
    assert_eq!(metric(&hub, "store_full").await, Some(1.0));
    assert_eq!(ops(&hub, "/healthz").await.status, 200);
    // Nobody publishes meanwhile.
    for event in consumer.events(taken).await {
        consumer.ack(&event).await;
    }
    until_some("the hub to be ready again", async || (ops(&hub, "/readyz").await.status == 200).then_some(())).await;
    assert_eq!(metric(&hub, "store_full").await, Some(0.0));
    hub.shutdown().await;
}

#[tokio::test]
async fn health_topics_groups_and_latest_are_told() {
    let hub = hub().await;
    let health = ops(&hub, "/healthz").await;
    assert_eq!(health.header("cache-control"), Some("no-store"));
    assert_eq!(health.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(health.header("access-control-allow-origin"), None);
    let health = health.json();
    assert_eq!((&health["status"], &health["store"]), (&json!("ok"), &json!("memory")));
    assert_eq!((&health["ws"], &health["pid"]), (&json!(hub.address().to_string()), &json!(std::process::id())));
    assert!(health["durability"].is_string() && health["version"].is_string() && health["uptimeMs"].is_u64());
    assert_eq!(ops(&hub, "/readyz").await.json(), json!({"status": "ready"}));

    let mut client = Client::open(&hub).await;
    client
        .ask(json!({"op": "PUBLISH", "topic": "a.x", "payload": {"n": 1.50}, "opts": {"key": "k 1/ü", "id": "one"}}))
        .await;
    client.publish("a.y", json!(1)).await;
    let mut members = Vec::new();
    for group in ["g1", "g2", "g3"] {
        members.push(Client::open(&hub).await);
        members.last_mut().unwrap().subscribe("a.*", group, json!({"from": "earliest", "maxInFlight": 1})).await;
    }
    let topics = ops(&hub, "/topics?limit=1").await.json();
    let row = &topics["topics"][0];
    assert_eq!((&row["topic"], &row["first"], &row["seq"]), (&json!("a.x"), &json!(1), &json!(1)));
    assert!(row["epoch"].is_u64());
    assert_eq!(topics["next"], "a.x");
    let rest = ops(&hub, "/topics?after=a.x").await.json();
    assert_eq!((&rest["topics"][0]["topic"], &rest["next"]), (&json!("a.y"), &Value::Null));

    let groups = ops(&hub, "/groups?limit=2").await.json();
    let topics =
        json!([{"topic": "a.x", "lastSeq": 0, "lagEvents": 1}, {"topic": "a.y", "lastSeq": 0, "lagEvents": 1}]);
    assert_eq!(groups["groups"], json!([{"group": "g1", "topics": topics}, {"group": "g2", "topics": topics}]));
    assert_eq!(groups["next"], "g2");
    let rest = ops(&hub, "/groups?after=g2").await.json();
    assert_eq!(rest, json!({"groups": [{"group": "g3", "topics": topics}], "next": null}));

    let latest = ops_as(&hub, "/latest-by-key?topic=a.x&key=k+1%2F%C3%BC", &operator()).await;
    assert!(latest.text().contains("\"payload\":{\"n\":1.5}") && latest.json()["id"] == "one", "{}", latest.text());
    assert_eq!(ops_as(&hub, "/latest-by-key?topic=a.x&key=none", &operator()).await.text(), "null");
    assert_eq!(ops(&hub, "/cursors?topic=nothing").await.json(), json!({"topic": "nothing", "cursors": []}));
    hub.shutdown().await;
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_named() {
    let hub = hub().await;
    ops(&hub, "/cursors").await.refused(400, "topic required");
    ops(&hub, "/cursors?topic=").await.refused(400, "topic required");
    for query in ["", "?topic=a", "?group=a", "?topic=&group=a"] {
        ops(&hub, &format!("/lag{query}")).await.refused(400, "topic and group required");
    }
    for query in ["", "?topic=a", "?key=a"] {
        ops_as(&hub, &format!("/latest-by-key{query}"), &operator()).await.refused(400, "topic and key required");
    }
    ops(&hub, "/cursors?topic=a..b").await.refused(400, "topic has an empty segment");
    ops(&hub, "/cursors?topic=a.*").await.refused(400, "wildcard");
    ops(&hub, "/lag?topic=a&group=%22").await.refused(400, "group must be");
    ops(&hub, "/lag?topic=a&topic=b&group=g").await.refused(400, "topic is given twice");
    ops(&hub, "/groups?limit=0").await.refused(400, "limit must be an integer from 1 to 10000");
    ops_as(&hub, &format!("/latest-by-key?topic=a&key={}", "k".repeat(600)), &operator())
        .await
        .refused(400, "key must be");
    ops(&hub, "/nothing").await.refused(404, "no such path");
    let answer = raw(hub.ops_address().unwrap(), &request("POST", "/lag", &[], b"x")).await;
    answer.refused(405, "method");
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    hub.shutdown().await;
}

#[tokio::test]
async fn a_page_under_a_name_of_its_own_is_refused() {
    let hub = hub().await;
    let address = hub.ops_address().unwrap();
    assert!(address.ip().is_loopback());
    for host in ["evil.example", "evil.example:8082", "localhost.evil.example", "", "127.0.0.1@evil.example"] {
        let answer = raw(address, &request("GET", "/healthz", &[("Host", host)], b"")).await;
        assert_eq!(answer.status, 403, "{host}");
        assert!(!answer.text().contains("version"));
    }
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8082", "[::1]:8082"] {
        assert_eq!(raw(address, &request("GET", "/healthz", &[("Host", host)], b"")).await.status, 200, "{host}");
    }
    let two = request("GET", "/healthz", &[("Host", "localhost"), ("Host", "evil.example")], b"");
    assert_eq!(raw(address, &two).await.status, 400);
    assert_eq!(raw(address, b"GET /healthz HTTP/1.0\r\n\r\n").await.status, 403, "no Host at all");
    let absolute = request("GET", "http://evil.example/healthz", &[("Host", "localhost")], b"");
    assert_eq!(raw(address, &absolute).await.status, 403);
    hub.shutdown().await;
}

#[tokio::test]
async fn header_bombs_and_silent_peers_do_no_harm() {
    let hub = hub().await;
    let address = hub.ops_address().unwrap();
    let long = "x".repeat(64 * 1024);
    assert_eq!(raw(address, &request("GET", "/healthz", &[("X-Long", &long)], b"")).await.status, 431);
    let many: Vec<String> = (0..200).map(|i| format!("X-{i}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(raw(address, &request("GET", "/healthz", &many, b"")).await.status, 431);
    assert!(matches!(raw(address, &request("GET", &format!("/{long}"), &[], b"")).await.status, 414 | 431));
    // As many as the port takes, and some that wait behind them.
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    silent[0].write_all(b"GET /healthz HTTP/1.1\r\nHost: loc").await.unwrap();
    // They are thrown out in time, and who waits is served.
    assert_eq!(ops(&hub, "/healthz").await.status, 200);
    let mut rest = Vec::new();
    silent[0].read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    hub.shutdown().await;
}

#[tokio::test]
async fn a_taken_ops_port_keeps_the_hub_from_starting() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config();
    config.ops_port = Some(taken.local_addr().unwrap().port());
    let error = Hub::start(config).await.expect_err("it is taken").to_string();
    assert!(error.contains("OPS_PORT") && error.contains("in use"), "{error}");
    let hub = prom_testkit::hub().await;
    assert_eq!(hub.ops_address(), None, "none unless it is asked for");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_hub_that_ends_says_so_until_it_has() {
    let hub = hub().await;
    let address = hub.ops_address().unwrap();
    let mut kept = TcpStream::connect(address).await.unwrap();
    let ask = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    kept.write_all(ask).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = kept.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    let ending = tokio::spawn(hub.shutdown());
    let told = async {
        loop {
            kept.write_all(ask).await.ok()?;
            let read = kept.read(&mut answer).await.ok().filter(|read| *read > 0)?;
            if answer[..read].starts_with(b"HTTP/1.1 503") {
                return Some(String::from_utf8_lossy(&answer[..read]).into_owned());
            }
        }
    };
    if let Some(told) = tokio::time::timeout(DEADLINE, told).await.expect("an end in time") {
        assert!(told.contains("shutting down"), "{told}");
    }
    tokio::time::timeout(DEADLINE, ending).await.expect("an end in time").unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the port is free again");
}
