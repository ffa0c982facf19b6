//! The load harness: small versions of every scenario against a real hub in this process.
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::time::Duration;

use prom_bench::{DeliverOptions, Error, IdleOptions, LatencyOptions, Pids, PublishOptions, Row, Scenario, Target};
use prom_testkit::{hub, token, url};

/// Runs one scenario against a hub of its own. The hub shares this process, so that is whose cost is measured.
async fn run_as(scenario: Scenario, scopes: &[&str]) -> Result<Row, Error> {
    let hub = hub().await;
    let target = Target::new(url(&hub), token(scopes));
    let pids = Pids { hub: Some(std::process::id()), mongod: None };
    let row = tokio::task::spawn_blocking(move || prom_bench::run(&target, &scenario, pids)).await.unwrap();
    hub.shutdown().await;
    row
}

async fn run(scenario: Scenario) -> Row {
    let row = run_as(scenario, &["publish:bench.**", "subscribe:bench.**"]).await.unwrap();
    assert!(row.is_good(), "{:?}", row.findings);
    if cfg!(target_os = "linux") {
        assert!(row.hub_cpu_seconds_per_million.is_some() && row.hub_rss_kb.is_some_and(|kb| kb > 0));
    }
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes() {
    let options = PublishOptions { count: Some(5_000), ..PublishOptions::default() };
    let row = run(Scenario::Publish(options.clone())).await;
    assert_eq!((row.scenario, row.events, row.runs.len()), ("publish", 5_000, 1));
    assert!(row.rate.unwrap() > 0.0);
    let options = PublishOptions { connections: 4, window: 16, topics: 3, ids: true, ..options };
    assert_eq!(run(Scenario::Publish(options)).await.events, 5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_goes_with_several_frames_in_a_message() {
    let publish = PublishOptions { count: Some(5_000), connections: 2, batch: true, ..PublishOptions::default() };
    assert_eq!(run(Scenario::Publish(publish)).await.events, 5_000);
    for live in [false, true] {
        let deliver = DeliverOptions { count: 3_000, members: 2, live, batch: true, ..DeliverOptions::default() };
        assert_eq!(run(Scenario::Deliver(deliver)).await.events, 3_000);
    }
    let large = PublishOptions { count: Some(20), payload: 300_000, batch: true, ..PublishOptions::default() };
    assert_eq!(run(Scenario::Publish(large)).await.events, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_for_a_while() {
    let options = PublishOptions { duration: Duration::from_secs(1), connections: 2, ..PublishOptions::default() };
    let row = run(Scenario::Publish(options)).await;
    assert!(row.events > 0 && row.seconds >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_payloads_larger_than_its_buffers() {
    let options =
        PublishOptions { count: Some(40), window: 20, payload: 900_000, connections: 2, ..PublishOptions::default() };
    assert_eq!(run(Scenario::Publish(options)).await.events, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn delivers_what_is_there() {
    let options = DeliverOptions { count: 3_000, ..DeliverOptions::default() };
    assert_eq!(run(Scenario::Deliver(options.clone())).await.events, 3_000);
    let options = DeliverOptions { members: 3, in_flight: 10, topics: 4, ..options };
    assert_eq!(run(Scenario::Deliver(options)).await.events, 3_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn delivers_what_comes() {
    let options = DeliverOptions { count: 3_000, live: true, ..DeliverOptions::default() };
    assert_eq!(run(Scenario::Deliver(options.clone())).await.events, 3_000);
    let options = DeliverOptions { members: 2, in_flight: 1, count: 100, topics: 2, ..options };
    assert_eq!(run(Scenario::Deliver(options)).await.events, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn delivers_large_events() {
    let options = DeliverOptions { count: 50, payload: 500_000, window: 5, ..DeliverOptions::default() };
    assert_eq!(run(Scenario::Deliver(options)).await.events, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn measures_latency() {
    let options = LatencyOptions { rate: 1_000, duration: Duration::from_millis(500), ..LatencyOptions::default() };
    let row = run(Scenario::Latency(options)).await;
    let latency = row.latency.unwrap();
    assert_eq!(row.events, 500);
    for times in [latency.published, latency.delivered] {
        assert!(times.p50 > 0.0 && times.p50 <= times.p99 && times.p99 <= times.max, "{times:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn measures_idle_connections() {
    let row = run(Scenario::Idle(IdleOptions { connections: 30 })).await;
    assert_eq!((row.events, row.rate), (30, None));
    assert_eq!(row.idle.unwrap().kb_per_connection.is_some(), cfg!(target_os = "linux"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_not_is_an_error_with_the_hubs_words() {
    let publish = Scenario::Publish(PublishOptions { count: Some(10), ..PublishOptions::default() });
    let error = run_as(publish, &["subscribe:bench.**"]).await.unwrap_err().to_string();
    assert!(error.starts_with("the hub refused a publish: forbidden"), "{error}");
    let deliver = Scenario::Deliver(DeliverOptions { count: 10, ..DeliverOptions::default() });
    let error = run_as(deliver, &["publish:bench.**"]).await.unwrap_err().to_string();
    assert!(error.starts_with("the hub refused SUBSCRIBE: forbidden"), "{error}");
}

#[test]
fn what_cannot_be_connected_to_is_said() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = |url: &str| {
        let scenario = Scenario::Idle(IdleOptions::default());
        prom_bench::run(&Target::new(url, "t"), &scenario, Pids::default()).unwrap_err().to_string()
    };
    let url = format!("ws://127.0.0.1:{free}/ws");
    assert!(refused(&url).starts_with(&format!("cannot connect to {url}: ")));
    assert!(refused("wss://127.0.0.1/ws").contains("asks for TLS"));
    assert!(refused("http://127.0.0.1/ws").contains("ws://host:port/ws"));
}
