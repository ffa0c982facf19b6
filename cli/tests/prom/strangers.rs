//! What strangers at the door leave in the log of a hub.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::common::{Folder, hub::Hub, wire::Connection};

/// Least time between two lines of a kind.
const EVERY: Duration = Duration::from_secs(10);

/// Connects from a page of this origin, and the code that it is closed with.
async fn closed_with(port: u16, origin: &str) -> u16 {
    let mut request = format!("ws://127.0.0.1:{port}/ws").into_client_request().unwrap();
    request.headers_mut().insert("origin", origin.parse().unwrap());
    let (mut socket, _) = connect_async(request).await.unwrap();
    match socket.next().await.unwrap().unwrap() {
        Message::Close(Some(frame)) => frame.code.into(),
        other => panic!("{other:?}"),
    }
}

/// Lines of the log about `what`, of which there may be one at once and one each ten seconds.
fn lines(hub: &Hub, what: &str, began: Instant) -> Vec<String> {
    let most = 1 + began.elapsed().as_secs() / EVERY.as_secs();
    let log = hub.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(what)).map(str::to_owned).collect();
    assert!((1..=most).contains(&(lines.len() as u64)), "{} lines in {:?}:\n{log}", lines.len(), began.elapsed());
    assert!(lines[0].contains("WARN") && lines[0].contains("left_out=0"), "{}", lines[0]);
    assert!(lines.iter().all(|line| line.len() < 500), "{lines:?}");
    lines
}

/// Each was a line of its own, as long as the stranger liked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_origins_and_connections_are_in_the_log_escaped_and_few() {
    let folder = Folder::new("strangers");
    let config = folder.0.join("prom.toml");
    std::fs::write(&config, "[limits]\nconnections = 1\n").unwrap();
    let environment = [("PROM_ORIGINS", "https://app.example.com"), ("PROM_CONFIG", config.to_str().unwrap())];
    let hub = Hub::start(&folder.0.join("data"), &environment);
    let began = Instant::now();
    let origin = format!("https://evil.example.com/\" INFO all is well \\{}", "x".repeat(5_000));
    for _ in 0..100 {
        assert_eq!(closed_with(hub.address.port, &origin).await, 4403);
    }
    let said = lines(&hub, "origin not on the list", began);
    assert!(said[0].contains(r#"https://evil.example.com/\" INFO all is well \\x"#), "{}", said[0]);
    let _one = Connection::open(&hub.address).await;
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(closed_with(hub.address.port, "https://app.example.com").await, 4429);
    }
    lines(&hub, "connection refused: too many", began);
    let metrics = hub.ask("/metrics").body;
    assert!(metrics.contains("ws_closed_total{code=\"4403\"} 100\n"), "{metrics}");
    hub.terminate();
}
