//! Whose socket makes room for others: of those who wait for the answer to a bad token, whoever waits longest.

use prom_hub::{Config, Hub};
use prom_testkit::{
    config,
    http::{get, ops, ops_as, post, request},
    token,
};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::sockets::{all, sends, text_frame, websocket};

/// A hub that answers all bad tokens late, but for one.
fn slow_to_refuse() -> Config {
    let mut config = config();
    config.ops_port = Some(0);
    config.ops_auth = true;
    config.limits.shares.auth_failures = 1;
    config
}

/// How many sockets of a port were refused because no other made room.
async fn refused_for_want_of_room(hub: &Hub, port: &str) -> usize {
    let metrics = ops_as(hub, "/metrics", &token(&["ops:read"])).await;
    let line = format!("sockets_cut_total{{port=\"{port}\",reason=\"limit\"}}");
    metrics.text().matches(&line).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_answer_to_a_bad_token_makes_room_on_the_ops_port() {
    // A request there kept its socket from its first byte on, so that sixty-four of them closed the port for three seconds.
    let hub = Hub::start(slow_to_refuse()).await.unwrap();
    let address = hub.ops_address().unwrap();
    assert_eq!(ops_as(&hub, "/topics", "nonsense").await.status, 401);
    let bad = ("Authorization", "Bearer nonsense");
    // The body of the second never comes.
    for late in
        [request("GET", "/topics", &[bad], b""), request("POST", "/revocations", &[bad, ("Content-Length", "10")], b"")]
    {
        let mut strangers = Vec::new();
        for _ in 0..100 {
            strangers.push(sends(address, &late).await);
        }
        assert_eq!(ops(&hub, "/healthz").await.status, 200);
        assert_eq!(refused_for_want_of_room(&hub, "ops").await, 0);
    }
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_answer_to_a_bad_token_makes_room_for_good_ones() {
    // What is not read meanwhile, a body or a WebSocket, did not notice that it was asked to leave.
    let mut config = slow_to_refuse();
    config.limits.sockets = 16;
    let hub = Hub::start(config).await.unwrap();
    let address = hub.address();
    assert_eq!(get(&hub, "/replay?topic=a", "nonsense").await.status, 401);
    let bad = ("Authorization", "Bearer nonsense");
    let auth = text_frame(&json!({"op": "AUTH", "token": "nonsense"}).to_string());
    for kind in ["GET", "POST", "a WebSocket"] {
        let mut strangers = Vec::new();
        for _ in 0..40 {
            strangers.push(match kind {
                "GET" => sends(address, &request("GET", "/replay?topic=a", &[bad], b"")).await,
                // Its body never comes.
                "POST" => sends(address, &request("POST", "/publish/a", &[bad, ("Content-Length", "10")], b"")).await,
                _ => {
                    let mut stream = websocket(address).await;
                    stream.write_all(&auth).await.unwrap();
                    stream
                }
            });
        }
        assert_eq!(post(&hub, "/publish/a", &all(), b"1").await.status, 200, "{kind}");
        assert_eq!(refused_for_want_of_room(&hub, "public").await, 0, "{kind}");
    }
    hub.shutdown().await;
}
