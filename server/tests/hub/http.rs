//! Publish, replay and export over plain HTTP.

use std::time::Duration;

use prom_hub::Hub;
use prom_testkit::{
    Client, DEADLINE, config,
    http::{get, parse, post, raw, request},
    hub, now_secs, token, token_with,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn all() -> String {
    token(&["*:**"])
}

async fn fill(hub: &Hub, topic: &str, n: usize) {
    let mut client = Client::open(hub).await;
    client.publish_many(topic, n).await;
}

fn seqs(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line is an event")).collect()
}

#[tokio::test]
async fn a_replay_pages_through_a_topic() {
    let hub = hub().await;
    fill(&hub, "a", 250).await;
    let mut seen = Vec::new();
    let mut path = "/replay?topic=a&from=earliest".to_owned();
    loop {
        let page = get(&hub, &path, &all()).await;
        assert_eq!((page.status, page.header("cache-control")), (200, Some("no-store")));
        let page = page.json();
        let events = page["events"].as_array().unwrap();
        assert_eq!((&page["topic"], page["count"].as_u64()), (&json!("a"), Some(events.len() as u64)));
        assert!(page.get("gap").is_none() && events.len() <= 100);
        seen.extend(seqs(events));
        let Some(next) = page["next"].as_u64() else { break };
        path = format!("/replay?topic=a&from=afterSeq&afterSeq={next}");
    }
    assert_eq!(seen, (1..=250).collect::<Vec<u64>>());
    hub.shutdown().await;
}

#[tokio::test]
async fn a_replay_starts_where_it_is_told() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    for (id, ts) in [("one", 1000), ("two", 2000), ("three", 3000)] {
        client.ask(json!({"op": "PUBLISH", "topic": "a", "payload": 1, "opts": {"id": id, "ts": ts}})).await;
    }
    for (from, expected) in [
        ("", vec![1, 2, 3]),
        ("&from=latest", vec![]),
        ("&from=ts&ts=1500", vec![2, 3]),
        ("&from=ts&ts=9000", vec![]),
        ("&from=afterId&afterId=two", vec![3]),
        ("&afterId=one", vec![2, 3]),
        ("&from=afterSeq&afterSeq=2", vec![3]),
        ("&afterSeq=3", vec![]),
        ("&limit=2", vec![1, 2]),
    ] {
        let page = get(&hub, &format!("/replay?topic=a{from}"), &all()).await.json();
        assert_eq!(seqs(page["events"].as_array().unwrap()), expected, "{from}");
        assert_eq!(page["next"], if from == "&limit=2" { json!(2) } else { Value::Null }, "{from}");
    }
    for position in ["&afterSeq=4", "&afterId=none"] {
        let answer = get(&hub, &format!("/replay?topic=a{position}"), &all()).await;
        assert_eq!((answer.status, &answer.json()["code"]), (409, &json!("position_gone")), "{position}");
    }
    let nothing = get(&hub, "/replay?topic=never", &all()).await.json();
    assert_eq!(nothing, json!({"topic": "never", "count": 0, "events": [], "next": null}));
    hub.shutdown().await;
}

#[tokio::test]
async fn what_was_trimmed_is_told_and_large_pages_end_early() {
    let mut config = config();
    config.store = prom_hub::StoreConfig::Memory(16 * 1024 * 1024);
    let hub = Hub::start(config).await.unwrap();
    let payload = json!("x".repeat(500_000)).to_string();
    for _ in 0..40 {
        assert_eq!(post(&hub, "/publish/a", &all(), payload.as_bytes()).await.status, 200);
    }
    let page = get(&hub, "/replay?topic=a&afterSeq=1&limit=1000", &all()).await.json();
    let events = seqs(page["events"].as_array().unwrap());
    assert_eq!(page["gap"], json!({"from": 2, "to": events[0] - 1}));
    assert!(events.len() < 12, "{} events of 500 kB in one page", events.len());
    assert_eq!(page["next"].as_u64(), events.last().copied());
    let earliest = get(&hub, "/replay?topic=a&limit=1", &all()).await.json();
    assert!(earliest.get("gap").is_none(), "from the earliest nothing is missing");

    let export = get(&hub, "/export?topic=a&ndjson=1&afterSeq=1", &all()).await;
    assert_eq!(export.header("prom-gap").map(str::to_owned), Some(format!("2-{}", events[0] - 1)));
    assert_eq!(seqs(&lines(export.text())), (events[0]..=40).collect::<Vec<_>>());
    assert!(export.whole);
    hub.shutdown().await;
}

#[tokio::test]
async fn an_export_is_all_of_a_topic_as_of_its_start() {
    let hub = hub().await;
    fill(&hub, "a", 20_000).await;
    let export = get(&hub, "/export?topic=a&ndjson=1", &all()).await;
    assert_eq!((export.status, export.whole), (200, true));
    assert_eq!(export.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(export.header("prom-end"), Some("20000"));
    assert_eq!(seqs(&lines(export.text())), (1..=20_000).collect::<Vec<_>>());
    let array = get(&hub, "/export?topic=a", &all()).await;
    assert_eq!(array.header("content-type"), Some("application/json"));
    assert_eq!(array.json().as_array().unwrap().len(), 20_000);
    let rest = get(&hub, "/export?topic=a&ndjson=1&afterSeq=19998", &all()).await;
    assert_eq!(seqs(&lines(rest.text())), [19_999, 20_000]);
    assert_eq!(get(&hub, "/export?topic=none", &all()).await.text(), "[]");
    assert_eq!(get(&hub, "/export?topic=none&ndjson=1", &all()).await.text(), "");
    let old = b"GET /export?topic=a HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer ".to_vec();
    let old = raw(hub.address(), &[&old, all().as_bytes(), b"\r\n\r\n"].concat()).await;
    old.refused(505, "HTTP/1.1");
    hub.shutdown().await;
}

#[tokio::test]
async fn an_export_can_be_narrowed_by_time() {
    let hub = hub().await;
    let mut client = Client::open(&hub).await;
    for ts in [1000, 5000, 2000, 3000, 9000] {
        client.ask(json!({"op": "PUBLISH", "topic": "a", "payload": 1, "opts": {"ts": ts}})).await;
    }
    for (query, expected) in [
        ("fromTs=2000&toTs=5000", vec![2, 3, 4]),
        ("fromTs=2000&toTs=5000&afterSeq=2", vec![3, 4]),
        ("toTs=1999", vec![1]),
        ("fromTs=9001", vec![]),
        ("fromTs=4000", vec![2, 5]),
    ] {
        for ndjson in [false, true] {
            let export = get(&hub, &format!("/export?topic=a&{query}&ndjson={}", u8::from(ndjson)), &all()).await;
            let events = if ndjson { lines(export.text()) } else { export.json().as_array().unwrap().clone() };
            assert_eq!(seqs(&events), expected, "{query}");
        }
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn a_slow_reader_is_waited_for_and_one_that_takes_nothing_is_cut() {
    const LIMIT: Duration = Duration::from_secs(2);
    let mut config = config();
    config.limits.write_timeout = LIMIT;
    let hub = Hub::start(config).await.unwrap();
    let payload = json!("x".repeat(900_000)).to_string();
    for _ in 0..60 {
        assert_eq!(post(&hub, "/publish/a", &all(), payload.as_bytes()).await.status, 200);
    }
    let bearer = format!("Bearer {}", all());
    let ask = request("GET", "/export?topic=a&ndjson=1", &[("Authorization", &bearer)], b"");
    let mut slow = TcpStream::connect(hub.address()).await.unwrap();
    let mut stuck = TcpStream::connect(hub.address()).await.unwrap();
    for stream in [&mut slow, &mut stuck] {
        stream.write_all(&ask).await.unwrap();
        let mut first = [0; 1000];
        stream.read_exact(&mut first).await.unwrap();
        assert!(first.starts_with(b"HTTP/1.1 200"));
    }
    // The slow one reads all the time, in small bites; meanwhile the stuck one's time runs out.
    let mut bytes = vec![0; 64 * 1024];
    let mut total = 0;
    let started = std::time::Instant::now();
    loop {
        let read = slow.read(&mut bytes).await.expect("it is not cut");
        if read == 0 {
            break;
        }
        total += read;
        if started.elapsed() < 3 * LIMIT {
            tokio::time::sleep(Duration::from_millis(8)).await;
        }
    }
    assert!(total > 60 * 900_000 - 1000, "{total} bytes");
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, stuck.read_to_end(&mut rest)).await.expect("it was cut");
    assert!(ended.is_err() || !rest.ends_with(b"0\r\n\r\n"), "a cut is no clean end");
    assert!(rest.len() < 30 * 900_000, "{} bytes were sent to who took none", rest.len());
    hub.shutdown().await;
}

#[tokio::test]
async fn exports_whose_clients_went_away_make_room_for_others() {
    let mut config = config();
    config.limits.exports = 2;
    let hub = Hub::start(config).await.unwrap();
    let payload = json!("x".repeat(900_000)).to_string();
    for _ in 0..30 {
        post(&hub, "/publish/a", &all(), payload.as_bytes()).await;
    }
    let mut open = Vec::new();
    for name in ["one", "another"] {
        let bearer = format!("Bearer {}", token(&["*:**", name]));
        let ask = request("GET", "/export?topic=a", &[("Authorization", &bearer)], b"");
        let mut stream = TcpStream::connect(hub.address()).await.unwrap();
        stream.write_all(&ask).await.unwrap();
        stream.read_exact(&mut [0; 100]).await.unwrap();
        open.push(stream);
    }
    let busy = get(&hub, "/export?topic=a", &all()).await;
    busy.refused(503, "exports");
    assert_eq!((busy.json()["code"].as_str(), busy.header("retry-after")), (Some("overloaded"), Some("1")));
    drop(open);
    let again = async { while get(&hub, "/export?topic=a&afterSeq=29", &all()).await.status != 200 {} };
    tokio::time::timeout(DEADLINE, again).await.expect("room in time");
    hub.shutdown().await;
}

#[tokio::test]
async fn an_export_breaks_off_when_its_token_expires_or_the_hub_ends() {
    for expires in [true, false] {
        let hub = hub().await;
        let payload = json!("x".repeat(900_000)).to_string();
        for _ in 0..60 {
            post(&hub, "/publish/a", &all(), payload.as_bytes()).await;
        }
        // What has begun goes on for five seconds after the token's end; it must have begun before that.
        let exp = if expires { now_secs() + 5 } else { now_secs() + 600 };
        let bearer = format!("Bearer {}", token_with(json!({"exp": exp, "scopes": ["subscribe:a"]})));
        let ask = request("GET", "/export?topic=a&ndjson=1", &[("Authorization", &bearer)], b"");
        let mut stream = TcpStream::connect(hub.address()).await.unwrap();
        stream.write_all(&ask).await.unwrap();
        let mut bytes = vec![0; 1000];
        stream.read_exact(&mut bytes).await.unwrap();
        let end = (exp + 5) * 1000;
        let mut hub = Some(hub);
        let mut ending = None;
        if expires {
            while prom_hub::store::wall_clock() <= end {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        } else if let Some(hub) = hub.take() {
            ending = Some(tokio::spawn(hub.shutdown()));
            // New connections are refused from when it has begun to end.
            tokio::task::yield_now().await;
        }
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("an end in time");
        let answer = parse(&bytes);
        assert_eq!(answer.status, 200);
        assert!(!answer.whole, "expires: {expires}");
        assert!(answer.body.len() < 59 * 900_000, "{} bytes", answer.body.len());
        if let Some(hub) = hub {
            hub.shutdown().await;
        }
        if let Some(ending) = ending {
            ending.await.unwrap();
        }
    }
}

#[tokio::test]
async fn reading_needs_a_token_that_allows_it() {
    let hub = hub().await;
    fill(&hub, "a", 1).await;
    for path in ["/replay?topic=a", "/export?topic=a"] {
        let none = raw(hub.address(), &request("GET", path, &[], b"")).await;
        assert_eq!((none.status, none.json()["code"].as_str()), (401, Some("no_token")));
        assert_eq!(none.header("www-authenticate"), Some("Bearer"));
        let basic = raw(hub.address(), &request("GET", path, &[("Authorization", "Basic eDp5")], b"")).await;
        assert_eq!((basic.status, basic.json()["code"].as_str()), (401, Some("jwt_invalid")));
        let forged = get(&hub, path, "a.b.c").await;
        assert_eq!((forged.status, forged.json()["code"].as_str()), (401, Some("jwt_invalid")));
        let old = get(&hub, path, &token_with(json!({"exp": now_secs() - 60, "scopes": ["*:**"]}))).await;
        assert_eq!((old.status, old.json()["code"].as_str()), (401, Some("jwt_invalid")));
        assert_eq!(old.json()["expired"], true);
        assert_eq!(get(&hub, path, &"x".repeat(15_000)).await.status, 401);
        assert_eq!(get(&hub, path, &"x".repeat(20_000)).await.status, 431, "a head has at most 16 KiB");
        for scopes in [&[][..], &["publish:**"], &["subscribe:b"]] {
            let other = get(&hub, path, &token(scopes)).await;
            assert_eq!((other.status, other.json()["code"].as_str()), (403, Some("forbidden")), "{scopes:?}");
        }
        let in_query = raw(hub.address(), &request("GET", &format!("{path}&token={}", all()), &[], b"")).await;
        assert_eq!(in_query.status, 401, "a URL ends up in logs");
        assert_eq!(get(&hub, path, &token(&["subscribe:a"])).await.status, 200);
        // A wildcard does not mean the hub's own topics.
        let own = get(&hub, &path.replace("=a", "=%24audit"), &all()).await;
        assert_eq!(own.status, 403);
        assert_eq!(get(&hub, &path.replace("=a", "=$audit"), &token(&["subscribe:$audit"])).await.status, 200);
    }
    let groups =
        json!({"policy": {"rules": [{"effect": "allow", "action": "subscribe", "topics": ["a"], "groups": ["g"]}]}});
    assert_eq!(get(&hub, "/replay?topic=a", &token_with(groups)).await.status, 403, "allowed only as that group");
    hub.shutdown().await;
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let hub = hub().await;
    for (path, message) in [
        ("/replay", "topic required"),
        ("/replay?topic=a..b", "topic has an empty segment"),
        ("/replay?topic=a&from=somewhere", "from must be"),
        ("/replay?topic=a&from=ts", "ts required"),
        ("/replay?topic=a&from=afterSeq", "afterSeq required"),
        ("/replay?topic=a&afterSeq=-1", "afterSeq must be an integer from 0"),
        ("/replay?topic=a&limit=1001", "limit must be an integer from 1 to 1000"),
        ("/replay?topic=a&limit=1&limit=2", "limit is given twice"),
        ("/export?topic=a&ndjson=maybe", "ndjson must be"),
        ("/export?topic=a&toTs=x", "toTs must be an integer"),
    ] {
        let answer = get(&hub, path, &all()).await;
        answer.refused(400, message);
        assert!(answer.json()["code"].is_string());
    }
    let answer = post(&hub, "/replay?topic=a", &all(), b"1").await;
    answer.refused(405, "method");
    get(&hub, "/publish/a", &all()).await.refused(405, "method");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_post_publishes_like_the_websocket() {
    let hub = hub().await;
    let mut reader = Client::open(&hub).await;
    reader.subscribe("a.b", "g", json!({})).await;
    let first = post(&hub, "/publish/a.b?key=k%201&id=own", &token(&["publish:a.*"]), b" {\n \"n\": 1.50 }\n").await;
    assert_eq!((first.status, first.json()), (200, json!({"id": "own", "seq": 1})));
    let event = reader.next().await;
    assert_eq!((&event["event"]["key"], &event["event"]["payload"]), (&json!("k 1"), &json!({"n": 1.5})));
    let again = post(&hub, "/publish/a.b?id=own", &all(), b"2").await.json();
    assert_eq!(again, json!({"id": "own", "seq": 1, "duplicate": true}));
    let made = post(&hub, "/publish/a.b", &all(), b"null").await.json();
    assert!(made["id"].as_str().unwrap().len() > 10 && made["seq"] == 2);
    let page = get(&hub, "/replay?topic=a.b", &all()).await;
    assert!(page.text().contains("\"payload\":{  \"n\": 1.50 }"), "as it was sent, on one line: {}", page.text());
    let elsewhere = post(&hub, "/publish/other?id=own", &all(), b"1").await;
    assert_eq!((elsewhere.status, elsewhere.json()), (200, json!({"id": "own", "seq": 1})), "ids are a topic's own");
    hub.shutdown().await;
}

#[tokio::test]
async fn what_must_not_be_published_is_refused() {
    let hub = hub().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (path, body, status, code) in [
        ("/publish/a", "{", 400, "bad_json"),
        ("/publish/a", "", 400, "bad_json"),
        ("/publish/a", "1 2", 400, "bad_json"),
        ("/publish/a", "1e999", 400, "bad_payload"),
        ("/publish/a", "\"\\ud800\"", 400, "bad_payload"),
        ("/publish/a", &deep, 400, "bad_payload"),
        ("/publish/a..b", "1", 400, "bad_topic"),
        ("/publish/a.*", "1", 400, "bad_topic"),
        ("/publish/%ff", "1", 400, "bad_topic"),
        ("/publish/$audit", "1", 403, "forbidden"),
        ("/publish/a?id=%24dead", "1", 400, "bad_frame"),
        ("/publish/a?key=%0a", "1", 400, "bad_frame"),
    ] {
        let answer = post(&hub, path, &all(), body.as_bytes()).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{path} {answer:?}");
    }
    post(&hub, "/publish/a?id=%24dead", &all(), b"1").await.refused(400, "id must not start with `$`");
    let not_utf8 = post(&hub, "/publish/a", &all(), b"\"\xff\"").await;
    assert_eq!(not_utf8.status, 400);
    let other = post(&hub, "/publish/a", &token(&["publish:b", "subscribe:a"]), b"1").await;
    assert_eq!((other.status, other.json()["code"].as_str()), (403, Some("forbidden")));
    assert_eq!(raw(hub.address(), &request("POST", "/publish/a", &[], b"1")).await.status, 401);
    let large = json!("x".repeat(1024 * 1024)).to_string();
    let answer = post(&hub, "/publish/a", &all(), large.as_bytes()).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (413, Some("too_large")));
    // Also when it does not say beforehand how large it is.
    let bearer = format!("Bearer {}", all());
    let headers = [("Authorization", bearer.as_str()), ("Transfer-Encoding", "chunked")];
    let mut chunked = request("POST", "/publish/a", &headers, b"");
    chunked.extend_from_slice(format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len()).as_bytes());
    let answer = raw(hub.address(), &chunked).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (413, Some("too_large")));
    assert_eq!(get(&hub, "/replay?topic=a", &all()).await.json()["count"], 0, "nothing got in");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_full_store_asks_to_come_again() {
    let mut config = config();
    config.store = prom_hub::StoreConfig::Memory(1024 * 1024);
    config.ops_port = Some(0);
    let hub = Hub::start(config).await.unwrap();
    let payload = json!("x".repeat(300_000)).to_string();
    let mut refused = None;
    for i in 0..10 {
        let answer = post(&hub, &format!("/publish/a?key=k{i}"), &all(), payload.as_bytes()).await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the newest of each key are kept, so it is full");
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("store_unavailable")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let metrics = prom_testkit::http::ops(&hub, "/metrics").await;
    assert!(metrics.text().contains("publish_refused_total{code=\"store_unavailable\"} 1\n"));
    hub.shutdown().await;
}

#[tokio::test]
async fn pages_of_allowed_origins_may_read_and_others_learn_nothing() {
    let mut config = config();
    config.origins = Some(vec!["https://app.example.com".into()]);
    let hub = Hub::start(config).await.unwrap();
    fill(&hub, "a", 2).await;
    let bearer = format!("Bearer {}", all());
    let own = format!("http://{}", hub.address());
    let host = hub.address().to_string();
    for path in ["/replay?topic=a", "/export?topic=a&ndjson=1", "/replay?topic=a..b"] {
        for (origin, token, allowed) in [
            ("https://app.example.com", bearer.as_str(), true),
            ("https://app.example.com", "Bearer nonsense", true),
            (own.as_str(), bearer.as_str(), true),
            ("https://evil.example.com", bearer.as_str(), false),
            ("null", bearer.as_str(), false),
        ] {
            let headers = [("Host", host.as_str()), ("Origin", origin), ("Authorization", token)];
            let answer = raw(hub.address(), &request("GET", path, &headers, b"")).await;
            assert_eq!(
                answer.header("access-control-allow-origin"),
                allowed.then_some(origin),
                "{path} {origin} {token}"
            );
            assert!(answer.header("vary").is_some_and(|vary| vary.to_ascii_lowercase().contains("origin")), "{path}");
            assert_eq!(answer.header("access-control-allow-credentials"), None);

            let asked = [
                ("Host", host.as_str()),
                ("Origin", origin),
                ("Access-Control-Request-Method", "GET"),
                ("Access-Control-Request-Headers", "authorization"),
            ];
            let preflight = raw(hub.address(), &request("OPTIONS", path, &asked, b"")).await;
            assert_eq!(preflight.status, 200);
            assert_eq!(preflight.header("access-control-allow-origin"), allowed.then_some(origin), "{path} {origin}");
            assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization"));
            assert_eq!(preflight.header("access-control-max-age"), Some("600"));
        }
    }
    // A name can be pointed to this hub by whoever it is of, and then its page is where it connects to; an address cannot,
    // nor can `localhost`, nor a name that somebody in front has a certificate for.
    for (own, origin, counts) in [
        ("evil.example.com:8090", "http://evil.example.com:8090", false),
        ("localhost.evil.example.com", "http://localhost.evil.example.com", false),
        ("127.0.0.1.evil.example.com", "http://127.0.0.1.evil.example.com", false),
        ("localhost:8090", "http://localhost:8090", true),
        ("192.168.1.5:8090", "http://192.168.1.5:8090", true),
        ("[fd00::5]:8090", "http://[fd00::5]:8090", true),
        ("hub.example.com", "https://hub.example.com", true),
        ("hub.example.com", "https://evil.example.com", false),
    ] {
        let headers = [("Host", own), ("Origin", origin), ("Authorization", bearer.as_str())];
        let answer = raw(hub.address(), &request("GET", "/replay?topic=a", &headers, b"")).await;
        assert_eq!(answer.header("access-control-allow-origin"), counts.then_some(origin), "{own} {origin}");
    }
    let plain = get(&hub, "/replay?topic=a", &all()).await;
    assert_eq!((plain.status, plain.header("access-control-allow-origin")), (200, None), "not a page");
    let headers = [("Origin", "https://app.example.com"), ("Authorization", bearer.as_str())];
    let publish = raw(hub.address(), &request("POST", "/publish/a", &headers, b"1")).await;
    assert_eq!(publish.header("access-control-allow-origin"), None, "publishing is not for pages of others");
    hub.shutdown().await;
}
