//! What strangers at the door leave in the log of a hub.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::common::{
    Folder,
    hub::{Address, Hub, request},
    wire::Connection,
};

/// Least time between two lines of a kind.
const EVERY: Duration = Duration::from_secs(10);

/// Connects from a page of this origin and says who it is, and the code that it is closed with.
async fn closed_with(address: &Address, origin: &str) -> u16 {
    let mut request = format!("ws://127.0.0.1:{}/ws", address.port).into_client_request().unwrap();
    request.headers_mut().insert("origin", origin.parse().unwrap());
    let (mut socket, _) = connect_async(request).await.unwrap();
    let auth = json!({"op": "AUTH", "token": address.token});
    // It may be closed already.
    let _ = socket.send(Message::text(auth.to_string())).await;
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
        assert_eq!(closed_with(&hub.address, &origin).await, 4403);
    }
    let said = lines(&hub, "origin not on the list", began);
    assert!(said[0].contains(r#"https://evil.example.com/\" INFO all is well \\x"#), "{}", said[0]);
    let _one = Connection::open(&hub.address).await;
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(closed_with(&hub.address, "https://app.example.com").await, 4429);
    }
    lines(&hub, "connection refused: too many", began);
    let metrics = hub.ask("/metrics").body;
    assert!(metrics.contains("ws_closed_total{code=\"4403\"} 100\n"), "{metrics}");
    hub.terminate();
}

/// What was refused here was neither in the log nor in a metric.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_limit_refuses_is_in_the_log_by_its_setting_and_counted() {
    let folder = Folder::new("limits");
    let config = folder.0.join("prom.toml");
    std::fs::write(&config, "[limits]\nsubscriptions = 2\nfollowed_topics = 1\nexports = 1\n").unwrap();
    let hub = Hub::start(&folder.0.join("data"), &[("PROM_CONFIG", config.to_str().unwrap())]);
    let mut client = Connection::open(&hub.address).await;
    let large = "x".repeat(500_000);
    for n in 0..20 {
        let topic = if n == 0 { "b" } else { "a" };
        assert_eq!(ask(&mut client, json!({"op": "PUBLISH", "topic": topic, "payload": large})).await, "OK");
    }
    let began = Instant::now();
    for _ in 0..50 {
        assert_eq!(ask(&mut client, json!({"op": "SUBSCRIBE", "topic": "*"})).await, "bad_frame");
    }
    lines(&hub, "limits.followed_topics", began);
    for group in ["g", "h"] {
        assert_eq!(ask(&mut client, json!({"op": "SUBSCRIBE", "topic": "none", "group": group})).await, "OK");
    }
    let began = Instant::now();
    for _ in 0..50 {
        assert_eq!(ask(&mut client, json!({"op": "SUBSCRIBE", "topic": "none", "group": "i"})).await, "bad_frame");
    }
    lines(&hub, "limits.subscriptions", began);
    // One that nobody reads to its end is under way.
    let mut unread = TcpStream::connect(("127.0.0.1", hub.address.port)).unwrap();
    let bearer = &hub.address.token;
    write!(unread, "GET /export?topic=a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\n\r\n")
        .unwrap();
    unread.read_exact(&mut [0; 12]).unwrap();
    let began = Instant::now();
    for _ in 0..50 {
        let refused = request(hub.address.port, "/export?topic=a", Some(bearer)).unwrap();
        assert_eq!(refused.status, 429, "{}", refused.body);
    }
    lines(&hub, "limits.exports", began);
    let metrics = hub.ask("/metrics").body;
    for limit in ["followed_topics", "subscriptions_of_connection", "exports"] {
        assert!(metrics.contains(&format!("limited_total{{limit=\"{limit}\"}} 50\n")), "{limit}: {metrics}");
    }
    hub.terminate();
}

/// `OK`, or the code of a refusal.
async fn ask(client: &mut Connection, mut frame: Value) -> String {
    frame["corr"] = json!("asked");
    assert!(client.send(&frame).await);
    loop {
        let answer = client.next().await.unwrap();
        if answer["corr"] == "asked" {
            return answer["code"].as_str().unwrap_or("OK").to_owned();
        }
    }
}
