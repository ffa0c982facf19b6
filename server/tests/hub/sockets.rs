//! Sockets of strangers: what they may cost, and whom they must not keep out.

use std::{net::SocketAddr, time::Duration};

use prom_hub::{Config, Hub};
use prom_testkit::{
    Client, config,
    http::{get, ops, parse, post, raw, request},
    in_time, token, token_with, until,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SOON: Duration = Duration::from_millis(400);

/// A hub whose patience with who says nothing ends soon.
fn impatient() -> Config {
    let mut config = config();
    config.ops_port = Some(0);
    config.limits.head_timeout = SOON;
    config.limits.idle_timeout = SOON;
    config
}

pub(crate) fn all() -> String {
    token(&["*:**"])
}

/// Connects and sends this.
pub(crate) async fn sends(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = in_time(TcpStream::connect(address)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// What comes until the hub hangs up.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = in_time(stream.read_to_end(&mut bytes)).await;
    bytes
}

/// One answer on a connection that stays open.
async fn answer(stream: &mut TcpStream) -> prom_testkit::http::Answer {
    let mut bytes = Vec::new();
    let head = |bytes: &[u8]| bytes.windows(4).position(|four| four == b"\r\n\r\n");
    loop {
        if let Some(end) = head(&bytes) {
            let answer = parse(&bytes);
            let length: usize = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                return answer;
            }
        }
        assert!(in_time(stream.read_buf(&mut bytes)).await.unwrap() > 0, "{}", String::from_utf8_lossy(&bytes));
    }
}

/// A WebSocket, down to its bytes.
pub(crate) async fn websocket(address: SocketAddr) -> TcpStream {
    let headers = "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    let ask = format!("GET /ws HTTP/1.1\r\n{headers}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n");
    let mut stream = sends(address, ask.as_bytes()).await;
    assert_eq!(answer(&mut stream).await.status, 101);
    stream
}

/// The head of a client's frame, masked with zeros: its first byte, and how many bytes it says follow.
fn frame_head(first: u8, length: u64) -> Vec<u8> {
    let mut head = vec![first];
    match length {
        0..126 => head.push(0x80 | length as u8),
        126..0x1_0000 => {
            head.push(0xFE);
            head.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            head.push(0xFF);
            head.extend_from_slice(&length.to_be_bytes());
        }
    }
    head.extend_from_slice(&[0; 4]);
    head
}

/// The value of a metric; 0 if it is not there.
async fn metric(hub: &Hub, name: &str) -> u64 {
    let text = ops(hub, "/metrics").await;
    let line = text.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_whose_answers_nobody_reads_are_not_piled_up() {
    // The answers went into a buffer without bound, while the hub read on: 1.5 GB in 12 s, also without a token.
    let mut config = impatient();
    config.limits.write_timeout = 3 * SOON;
    let hub = Hub::start(config).await.unwrap();
    let mut ping = frame_head(0x89, 125);
    ping.extend_from_slice(&[b'x'; 125]);
    let pings = ping.repeat(1000);
    let mut stream = trusted(hub.address()).await;
    let mut sent = 0;
    // What fits into the buffers of the system, and then nothing until the hub has had enough.
    while in_time(stream.write_all(&pings)).await.is_ok() {
        sent += pings.len();
        assert!(sent < 64 << 20, "the hub takes all pings and holds their answers");
    }
    until("the close is counted", async || metric(&hub, "ws_closed_total{code=\"4413\"}").await == 1).await;
    // Who reads the answers gets one for each, whatever else it sends.
    let mut polite = trusted(hub.address()).await;
    for _ in 0..100 {
        polite.write_all(&ping).await.unwrap();
        let mut pong = [0; 127];
        in_time(polite.read_exact(&mut pong)).await.unwrap();
        assert!(pong.starts_with(&[0x8A, 125, b'x']));
    }
    hub.shutdown().await;
}

/// A client's text frame.
pub(crate) fn text_frame(text: &str) -> Vec<u8> {
    [frame_head(0x81, text.len() as u64), text.as_bytes().to_vec()].concat()
}

/// A WebSocket that may do everything.
async fn trusted(address: SocketAddr) -> TcpStream {
    let mut stream = websocket(address).await;
    stream.write_all(&text_frame(&json!({"op": "AUTH", "token": all()}).to_string())).await.unwrap();
    let mut head = [0; 4];
    in_time(stream.read_exact(&mut head)).await.unwrap();
    assert_eq!((head[0], head[1]), (0x81, 126), "the answer has more than 125 bytes");
    let mut answer = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
    in_time(stream.read_exact(&mut answer)).await.unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("\"OK\""));
    stream
}

#[tokio::test]
async fn before_auth_only_so_much_is_read() {
    // As many pings, frames and parts of frames as a stranger liked were each looked at and answered, for five seconds: of
    // ten thousand strangers all others noticed it.
    let mut config = config();
    config.ops_port = Some(0);
    config.limits.auth_timeout = Duration::from_secs(600);
    let hub = Hub::start(config).await.unwrap();
    let ping = frame_head(0x89, 0);
    let small = text_frame(r#"{"op":"PING"}"#);
    let part = |first| frame_head(first, 0);
    let parts = [part(0x01), part(0x00).repeat(64 * 1024)].concat();
    let floods = [ping.repeat(65), small.repeat(65), part(0x8A).repeat(65), frame_head(0x82, 0).repeat(65), parts];
    for (number, flood) in floods.iter().enumerate() {
        let mut stream = websocket(hub.address()).await;
        // It may be hung up on before it has sent everything.
        let _ = in_time(stream.write_all(flood)).await;
        let _ = in_time(stream.read_to_end(&mut Vec::new())).await;
        let closed = number as u64 + 1;
        until("the close is counted", async || metric(&hub, "ws_closed_total{code=\"4408\"}").await == closed).await;
    }
    // One less is not too many, and with a token there may be any number.
    let mut stream = websocket(hub.address()).await;
    let auth = text_frame(&json!({"op": "AUTH", "token": all()}).to_string());
    stream.write_all(&[ping.repeat(63), auth, small.repeat(1000)].concat()).await.unwrap();
    let mut heard = String::new();
    while heard.matches("PONG").count() < 1000 {
        let mut some = [0; 4096];
        let count = in_time(stream.read(&mut some)).await.unwrap();
        assert!(count > 0, "closed after {heard}");
        heard.push_str(&String::from_utf8_lossy(&some[..count]));
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn before_auth_a_large_frame_is_refused_by_its_head() {
    // It was read whole, up to 1 MiB, before its length was looked at.
    let hub = Hub::start(config()).await.unwrap();
    let half = 9 * 1024;
    let mut parts = frame_head(0x01, half);
    parts.extend(vec![b' '; half as usize]);
    parts.extend(frame_head(0x80, half));
    parts.extend(vec![b' '; half as usize]);
    for bytes in [frame_head(0x81, 1 << 20), frame_head(0x81, 16 * 1024 + 1), parts] {
        let mut stream = websocket(hub.address()).await;
        stream.write_all(&bytes).await.unwrap();
        let mut close = [0; 4];
        in_time(stream.read_exact(&mut close)).await.unwrap();
        assert_eq!((close[0], u16::from_be_bytes([close[2], close[3]])), (0x88, 1009), "{}", bytes.len());
    }
    // With a token the limit is that of events, from the very next frame on.
    let mut client = Client::connect(&hub).await;
    let large = json!({"op": "PUBLISH", "topic": "a", "payload": "x".repeat(900_000)});
    client.send_all([json!({"op": "AUTH", "token": all()}), large]).await;
    assert_eq!((&client.next().await["op"], &client.next().await["op"]), (&json!("OK"), &json!("OK")));
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_say_nothing_end() {
    // Not one of these ended: the public port had no time limit at all.
    let mut config = impatient();
    config.limits.auth_timeout = SOON;
    let hub = Hub::start(config).await.unwrap();
    let address = hub.address();
    let upgrade = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for half in [b"".as_slice(), b"\r\n", b"GET /", b"GET / HTTP/1.1\r\nHost: a\r\n", upgrade] {
        let mut stream = sends(address, half).await;
        assert!(!rest(&mut stream).await.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(half));
    }
    // One that always says a little.
    let mut drip = sends(address, b"GET / HTTP/1.1\r\n").await;
    in_time(async {
        while drip.write_all(b"X: 1\r\n").await.is_ok() {
            tokio::time::sleep(SOON / 20).await;
        }
    })
    .await;
    // One that stays after its answer, and an upgrade that lacks its key: answered, and then ended.
    let mut kept = sends(address, b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(rest(&mut kept).await.starts_with(b"HTTP/1.1 404"));
    let mut lacking = sends(address, &[upgrade.as_slice(), b"\r\n"].concat()).await;
    assert!(rest(&mut lacking).await.starts_with(b"HTTP/1.1 400"));
    // And one that became a WebSocket.
    rest(&mut websocket(address).await).await;
    // Headers without end, in number or in bytes.
    let many = "X: 1\r\n".repeat(65);
    assert!(
        rest(&mut sends(address, format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()).await)
            .await
            .starts_with(b"HTTP/1.1 431")
    );
    let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(16 * 1024));
    assert!(rest(&mut sends(address, long.as_bytes()).await).await.starts_with(b"HTTP/1.1 431"));
    let reasons = (
        metric(&hub, "sockets_cut_total{port=\"public\",reason=\"head\"}").await,
        metric(&hub, "sockets_cut_total{port=\"public\",reason=\"idle\"}").await,
    );
    assert_eq!(reasons, (6, 2));
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_without_a_token_make_room_for_those_that_have_one() {
    let mut config = config();
    config.ops_port = Some(0);
    config.limits.sockets = 20;
    let hub = Hub::start(config).await.unwrap();
    let address = hub.address();
    let mut good = Vec::new();
    for _ in 0..3 {
        good.push(Client::open(&hub).await);
    }
    let mut strangers = Vec::new();
    for round in 0..20 {
        strangers.push(sends(address, b"").await);
        strangers.push(sends(address, b"GET / HTTP/1.1\r\nHost: a\r\n").await);
        strangers.push(websocket(address).await);
        // Who has a token gets in, and who is in stays.
        let answer = post(&hub, "/publish/a", &all(), b"1").await;
        assert_eq!(answer.status, 200);
        for client in &mut good {
            client.publish("a", json!(round)).await;
        }
        assert_eq!(ops(&hub, "/healthz").await.status, 200);
    }
    good.push(Client::open(&hub).await);
    assert!(metric(&hub, "sockets_open{port=\"public\"}").await <= 20);
    assert!(metric(&hub, "sockets_cut_total{port=\"public\",reason=\"evicted\"}").await >= 40);
    // The oldest strangers went first.
    assert!(rest(&mut strangers[0]).await.is_empty());
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_use_up_the_connections_of_those_who_have_a_token() {
    // Each WebSocket counted from its first byte on, and as fewer of them may be than sockets, none was asked to leave for
    // another: who opened as many and said nothing kept everybody out.
    let mut config = config();
    config.ops_port = Some(0);
    config.limits.connections = 4;
    config.limits.sockets = 40;
    let hub = Hub::start(config).await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..30 {
        strangers.push(websocket(hub.address()).await);
    }
    until("they are there", async || metric(&hub, "ws_connections").await == 30).await;
    let mut good = Vec::new();
    for _ in 0..4 {
        good.push(Client::open(&hub).await);
    }
    // A new token is no new connection, and one that ends leaves its place to another.
    assert_eq!(good[0].ask(json!({"op": "AUTH", "token": all()})).await["op"], "OK");
    let mut fifth = Client::connect(&hub).await;
    fifth.send(json!({"op": "AUTH", "token": all()})).await;
    assert_eq!(fifth.closed().await, 4429);
    good.pop().unwrap().close().await;
    until("there is a place", async || {
        let mut sixth = Client::connect(&hub).await;
        sixth.send(json!({"op": "AUTH", "token": all()})).await;
        sixth.next_within(Duration::from_secs(5)).await.is_some_and(|answer| answer["op"] == "OK")
    })
    .await;
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_full_of_tokens_says_so() {
    let mut config = config();
    config.ops_port = Some(0);
    config.limits.sockets = 16;
    let hub = Hub::start(config).await.unwrap();
    let mut good = Vec::new();
    for _ in 0..15 {
        good.push(Client::open(&hub).await);
    }
    let mut more = Client::connect(&hub).await;
    more.send(json!({"op": "AUTH", "token": all()})).await;
    assert_eq!(more.closed().await, 4429);
    assert_eq!(get(&hub, "/replay?topic=a", &all()).await.status, 200, "HTTP has room");
    for client in &mut good {
        client.quiet().await;
    }
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sockets_do_not_delay_the_ops_port() {
    // Sixty-four of them made /healthz take five seconds.
    let mut config = config();
    config.ops_port = Some(0);
    let hub = Hub::start(config).await.unwrap();
    let address = hub.ops_address().unwrap();
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(sends(address, b"").await);
    }
    assert_eq!(ops(&hub, "/healthz").await.status, 200);
    let evicted = metric(&hub, "sockets_cut_total{port=\"ops\",reason=\"evicted\"}").await;
    assert!(evicted >= 137, "{evicted}");
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_may_have_a_limit_of_its_own() {
    let mut config = config();
    config.ops_port = Some(0);
    config.limits.sockets_per_address = Some(3);
    let hub = Hub::start(config).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::open(&hub).await);
    }
    assert!(rest(&mut sends(hub.address(), b"").await).await.is_empty());
    assert_eq!(metric(&hub, "sockets_cut_total{port=\"public\",reason=\"address\"}").await, 1);
    drop(clients.pop());
    until("room again", async || metric(&hub, "sockets_open{port=\"public\"}").await == 2).await;
    Client::open(&hub).await.quiet().await;
    hub.shutdown().await;
}

#[tokio::test]
async fn heads_that_another_server_may_read_otherwise_are_refused() {
    let mut config = config();
    config.ops_port = Some(0);
    let hub = Hub::start(config).await.unwrap();
    let bearer = format!("Authorization: Bearer {}", all());
    for head in [
        format!("GET /replay?topic=a HTTP/1.1\r\n{bearer}"),
        format!("GET /replay?topic=a HTTP/1.1\r\nHost: a\r\nHost: a\r\n{bearer}"),
        format!("GET /replay?topic=a HTTP/1.1\r\nHost: a\r\n{bearer}\r\n{bearer}"),
        format!("GET /replay?topic=a HTTP/1.1\nHost: a\n{bearer}"),
        format!("GET /replay?topic=a HTTP/1.1\r\nHost: a\n{bearer}"),
        format!("GET /replay?topic=a HTTP/1.1\r\nX: 1\nHost: a\r\n{bearer}"),
        format!("\nGET /replay?topic=a HTTP/1.1\r\nHost: a\r\n{bearer}"),
        format!(
            "GET /replay?topic=a HTTP/1.1\r\nHost: a\r\n{bearer}\r\nContent-Length: 0\r\nTransfer-Encoding: chunked"
        ),
        format!(
            "GET /replay?topic=a HTTP/1.1\r\nHost: a\r\n{bearer}\r\ntransfer-encoding: chunked\r\ncontent-length: 0"
        ),
    ] {
        let answer = raw(hub.address(), format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(answer.status, 400, "{head:?}: {answer:?}");
    }
    let bare = raw(hub.address(), format!("GET /replay?topic=a HTTP/1.1\r\nHost: a\r\n{bearer}\n\n").as_bytes()).await;
    assert_eq!(bare.status, 400);
    let bare = raw(hub.ops_address().unwrap(), b"GET /healthz HTTP/1.1\nHost: localhost\n\n").await;
    assert_eq!(bare.status, 400);
    // One reads a body of two bytes, the other one of three and then a request.
    let both = ["Content-Length: 2\r\nTransfer-Encoding: chunked", "TRANSFER-ENCODING:chunked\r\nCONTENT-LENGTH:2"];
    for lengths in both {
        for (address, path) in [(hub.address(), "/publish/a"), (hub.ops_address().unwrap(), "/revocations")] {
            let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n{lengths}\r\n\r\n");
            let body = "3\r\n[1]\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let mut stream = sends(address, format!("{head}{body}").as_bytes()).await;
            let text = String::from_utf8(rest(&mut stream).await).unwrap();
            let statuses: Vec<_> = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
            assert_eq!(statuses, ["400"], "{path} {lengths:?}: {text}");
        }
    }
    let page = get(&hub, "/replay?topic=a", &all()).await;
    assert_eq!(page.json()["count"], 0, "nothing of it was published");

    // Several requests on one connection, some of them sent ahead: bodies may hold what they like.
    let body = "[\n\"\",\n\n1]\n";
    let one = |query: &str| {
        format!(
            "POST /publish/a?{query} HTTP/1.1\r\nHost: a\r\n{bearer}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let get = format!("GET /replay?topic=a HTTP/1.1\r\nHost: a\r\n{bearer}\r\n\r\n");
    let last = format!("GET /replay?topic=a HTTP/1.1\r\nHost: a\n{bearer}\r\n\r\n");
    let mut stream = sends(hub.address(), [one("id=1"), one("id=2"), get, one("id=3"), last].concat().as_bytes()).await;
    let text = String::from_utf8(rest(&mut stream).await).unwrap();
    let statuses: Vec<_> = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "200", "200", "400"], "{text}");
    // A body of unknown length is the last on its connection.
    let chunked = format!("POST /publish/a HTTP/1.1\r\nHost: a\r\n{bearer}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut stream = sends(hub.address(), format!("{chunked}3\r\n[1]\r\n0\r\n\r\n").as_bytes()).await;
    let last = rest(&mut stream).await;
    let last = parse(&last);
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_reader_is_told_why_when_it_reads_again() {
    // The close frame stood behind all that it had not read, and three seconds later it was thrown away.
    let mut config = impatient();
    config.limits.write_timeout = Duration::from_secs(1);
    let hub = Hub::start(config).await.unwrap();
    let mut stalled = Client::open(&hub).await;
    stalled.ask(json!({"op": "SUBSCRIBE", "topic": "a"})).await;
    stalled.subscribe("a", "g", json!({"maxInFlight": 10000, "ack": "none"})).await;
    let mut publisher = Client::open(&hub).await;
    for _ in 0..40 {
        publisher.publish("a", json!("x".repeat(500_000))).await;
    }
    until("it is given up", async || metric(&hub, "ws_closed_total{code=\"4413\"}").await == 1).await;
    assert_eq!(stalled.closed().await, 4413);
    // One that does not read again keeps no hub from ending.
    let mut deaf = Client::open(&hub).await;
    deaf.subscribe("a", "h", json!({"from": "earliest", "maxInFlight": 10000, "ack": "none"})).await;
    until("it is given up too", async || metric(&hub, "ws_closed_total{code=\"4413\"}").await == 2).await;
    let started = std::time::Instant::now();
    hub.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(15), "took {:?}", started.elapsed());
}

/// A topic whose pages are large.
async fn large_pages(hub: &Hub) {
    let payload = json!("x".repeat(900_000)).to_string();
    for _ in 0..10 {
        assert_eq!(post(hub, "/publish/a", &all(), payload.as_bytes()).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_nobody_reads_are_so_many_and_no_more() {
    // Four hundred of them took 2.5 GB.
    let mut config = config();
    config.limits.replays = 4;
    let hub = Hub::start(config).await.unwrap();
    large_pages(&hub).await;
    let ask = |token: &str| request("GET", "/replay?topic=a", &[("Authorization", &format!("Bearer {token}"))], b"");
    // A token has a quarter of them. Its others wait for a moment, and are refused.
    let mut unread = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let own = token(&["*:**", name]);
        let mut stream = sends(hub.address(), &ask(&own)).await;
        in_time(stream.read_exact(&mut [0; 12])).await.unwrap();
        unread.push((stream, own));
    }
    let again = raw(hub.address(), &ask(&unread[0].1)).await;
    again.refused(429, "this token's subject has 1 replays under way");
    assert_eq!((again.json()["code"].as_str(), again.header("retry-after")), (Some("rate_limited"), Some("1")));
    let other = raw(hub.address(), &ask(&all())).await;
    other.refused(503, "as many replays under way as it allows");
    assert_eq!((other.json()["code"].as_str(), other.header("retry-after")), (Some("overloaded"), Some("1")));
    // Once one is read there is room.
    rest(&mut unread[0].0).await;
    assert_eq!(raw(hub.address(), &ask(&unread[0].1)).await.status, 200);
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subject_does_not_hold_what_is_everybodys() {
    // One had all 32 exports, or all 256 bodies that are read, and the others were refused or waited for 28 s.
    let mut config = config();
    config.limits.exports = 8;
    config.limits.publishes = 8;
    let hub = Hub::start(config).await.unwrap();
    large_pages(&hub).await;
    let of = |sub: &str, jti: &str| token_with(json!({"sub": sub, "jti": jti, "scopes": ["*:**"]}));
    let (greedy, other) = (of("greedy", "1"), of("other", "1"));
    let bearer = format!("Bearer {greedy}");
    let mut held = Vec::new();
    for _ in 0..2 {
        let ask = request("GET", "/export?topic=a", &[("Authorization", &bearer)], b"");
        let mut stream = sends(hub.address(), &ask).await;
        in_time(stream.read_exact(&mut [0; 12])).await.unwrap();
        held.push(stream);
    }
    // Another token of the same subject is no other.
    let refused = get(&hub, "/export?topic=a", &of("greedy", "2")).await;
    refused.refused(429, "this token's subject has 2 exports under way");
    assert_eq!((refused.json()["code"].as_str(), refused.header("retry-after")), (Some("rate_limited"), Some("1")));
    assert_eq!(get(&hub, "/export?topic=a&afterSeq=10", &other).await.status, 200);

    let slow = request("POST", "/publish/b", &[("Authorization", &bearer), ("Content-Length", "1000")], b"");
    let mut bodies = Vec::new();
    for _ in 0..40 {
        bodies.push(sends(hub.address(), &slow).await);
    }
    // While they last, which is a few seconds for each two.
    let answer = post(&hub, "/publish/b", &other, b"1").await;
    assert_eq!(answer.status, 200);
    // A body that comes too slowly is not waited for for half a minute.
    let (mut read, mut write) = bodies.remove(0).into_split();
    let dripping = tokio::spawn(async move {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut told = Vec::new();
    let _ = in_time(read.read_to_end(&mut told)).await;
    dripping.abort();
    assert_eq!(parse(&told).status, 408, "{}", String::from_utf8_lossy(&told));
    hub.shutdown().await;
}

#[tokio::test]
async fn the_page_may_connect_to_its_own_hub_alone() {
    let mut config = config();
    config.page = Some(|_| Some(b"<!doctype html>".as_slice().into()));
    let hub = Hub::start(config).await.unwrap();
    let page = raw(hub.address(), &request("GET", "/", &[("Host", "hub.example.com:8090")], b"")).await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("connect-src 'self' ws://hub.example.com:8090 wss://hub.example.com:8090;"), "{policy}");
    hub.shutdown().await;
}

#[tokio::test]
async fn one_subscription_too_many_is_not_asked_for_again() {
    let mut config = config();
    config.limits.subscriptions = 2;
    let hub = Hub::start(config).await.unwrap();
    let mut client = Client::open(&hub).await;
    let ask = |group: &str| json!({"op": "SUBSCRIBE", "topic": "a", "group": group});
    client.ask(ask("1")).await;
    client.ask(ask("2")).await;
    let refused: Value = client.ask(ask("3")).await;
    assert_eq!(refused["code"], "bad_frame", "{refused}");
    assert!(refused["msg"].as_str().unwrap().contains("at most 2 subscriptions"), "{refused}");
    hub.shutdown().await;
}
