//! How fast may be published, by the rules of a hub.

use std::time::{Duration, Instant};

use prom_hub::{Config, Hub, Limits, OnExcess, Per, Rate, Shares};
use prom_protocol::TopicOrPattern;
use prom_testkit::{
    Client, config,
    http::{get, ops, post},
    token_with, until,
};
use serde_json::json;

use crate::quotas::{connect, hub, limited, of, publish, publishes, refused};

fn rate(topics: &str, events: u64, on_excess: OnExcess) -> Rate {
    Rate {
        topics: TopicOrPattern::new(topics).unwrap(),
        per: Per::Subject,
        events: Some(events),
        bytes: None,
        burst: Duration::from_secs(1),
        on_excess,
    }
}

#[tokio::test]
async fn publishes_beyond_a_rate_wait_and_none_is_lost() {
    let hub = hub(Shares { publish: vec![rate("slow.**", 10, OnExcess::Delay)], ..Shares::default() }).await;
    let mut client = connect(&hub, "one").await;
    let began = Instant::now();
    assert_eq!(refused(&publish(&mut client, "fast", 300).await), 0);
    assert_eq!(limited(&hub, "publish_delayed").await, 0);
    let answers = publish(&mut client, "slow.a", 30).await;
    // 10 were there, 10 come in a second, and the last one is waited for after its answer.
    assert!(began.elapsed() >= Duration::from_millis(1800), "{:?}", began.elapsed());
    let seqs: Vec<u64> = answers.iter().map(|answer| answer["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=30).collect::<Vec<_>>());
    assert!(limited(&hub, "publish_delayed").await > 0);
    // Another one of the same subject pays the same debt; over HTTP too.
    let began = Instant::now();
    let answer = post(&hub, "/publish/slow.b", &of("one"), b"1").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(began.elapsed() >= Duration::from_millis(50), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_rate_of_bytes_holds_however_large_an_event_is() {
    let rule = Rate { bytes: Some(1 << 20), events: None, ..rate("blobs", 1, OnExcess::Delay) };
    let hub = hub(Shares { publish: vec![rule], ..Shares::default() }).await;
    let mut client = connect(&hub, "one").await;
    let began = Instant::now();
    let payload = "x".repeat(900_000);
    for _ in 0..4 {
        let answer = client.ask(json!({"op": "PUBLISH", "topic": "blobs", "payload": payload})).await;
        assert_eq!(answer["op"], "OK", "{answer}");
    }
    // 3.6 MB, of which 1 MiB was there, and the last one is waited for after its answer.
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn publishes_beyond_a_rate_are_refused_with_the_time_to_wait() {
    let rules = vec![rate("orders.*", 1, OnExcess::Refuse), rate("orders.a", 100, OnExcess::Delay)];
    let hub = hub(Shares { publish: rules, ..Shares::default() }).await;
    let mut client = connect(&hub, "one").await;
    let answers = publish(&mut client, "orders.a", 50).await;
    assert_eq!(answers[0]["op"], "OK");
    assert!(refused(&answers) >= 40, "{answers:?}");
    let last = &answers[49];
    assert_eq!(last["msg"], "more than 1 events a second that one subject publishes on orders.*", "{last}");
    let wait = last["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1001).contains(&wait), "{last}");
    // All its connections and topics of the rule together, but neither other topics nor other subjects.
    let mut again = connect(&hub, "one").await;
    assert!(refused(&publish(&mut again, "orders.b", 20).await) >= 18);
    assert_eq!(refused(&publish(&mut again, "other", 20).await), 0);
    let mut other = connect(&hub, "two").await;
    assert_eq!(refused(&publish(&mut other, "orders.a", 1).await), 0);
    let late = (0..20).map(async |_| post(&hub, "/publish/orders.a", &of("one"), b"1").await);
    let late = futures_util::future::join_all(late).await;
    let late = late.iter().find(|answer| answer.status == 429).expect("one is refused");
    assert!(late.text().contains("\"code\":\"rate_limited\""), "{}", late.text());
    assert!(
        late.header("retry-after").is_some_and(|seconds| matches!(seconds, "1" | "2")),
        "{:?}",
        late.header("retry-after")
    );
    tokio::time::sleep(Duration::from_millis(wait)).await;
    until("there is one again", async || refused(&publish(&mut client, "orders.a", 1).await) == 0).await;
    assert!(limited(&hub, "publish_refused").await > 50);
}

/// A rule of 64 KiB a second.
fn slow(per: Per, on_excess: OnExcess) -> Shares {
    let rule = Rate { bytes: Some(64 * 1024), events: None, per, ..rate("a", 1, on_excess) };
    Shares { publish: vec![rule], ..Shares::default() }
}

#[tokio::test]
async fn what_waits_for_its_rate_holds_up_nothing_else_of_its_connection() {
    // It was read in its order: an ACK came behind all publishes before it, whose lease ran out meanwhile, and so did the
    // AUTH by which its token's time would have gone on.
    let hub = hub(Shares { publish: vec![rate("slow", 1, OnExcess::Delay)], ..Shares::default() }).await;
    let mut client = connect(&hub, "one").await;
    client.send_all(publishes("slow", 40)).await;
    client.send(json!({"op": "SUBSCRIBE", "topic": "jobs", "group": "g", "corr": "s"})).await;
    let mut published = 0;
    let mut next = async |client: &mut Client| loop {
        let frame = client.next().await;
        if frame["op"] == "OK" && frame["corr"] == json!(published.to_string()) {
            published += 1;
        } else {
            return (frame, published);
        }
    };
    let (answer, published) = next(&mut client).await;
    assert_eq!((&answer["op"], &answer["corr"]), (&json!("OK"), &json!("s")), "{answer}");
    assert!(published < 40, "it waited for all of them");
    let mut other = connect(&hub, "two").await;
    other.ask(json!({"op": "PUBLISH", "topic": "jobs", "payload": 1})).await;
    let (event, _) = next(&mut client).await;
    assert_eq!(event["op"], "EVENT", "{event}");
    client.ack(&event).await;
    client.send(json!({"op": "AUTH", "token": of("one"), "corr": "t"})).await;
    client.send(json!({"op": "PING", "corr": "p"})).await;
    for corr in ["t", "p"] {
        let (answer, _) = next(&mut client).await;
        assert_eq!(answer["corr"], corr, "{answer}");
        assert_ne!(answer["op"], "ERR", "{answer}");
    }
    until("its ACK counts", async || {
        let lag = ops(&hub, "/lag?topic=jobs&group=g").await;
        lag.json()["lagEvents"] == 0
    })
    .await;
    // One was there, one was owed, and one comes a second: the last one is far away.
    let (answer, published) = loop {
        client.send(json!({"op": "PING", "corr": "q"})).await;
        let (answer, published) = next(&mut client).await;
        if published >= 2 {
            break (answer, published);
        }
    };
    assert_eq!(answer["op"], "PONG", "{answer}");
    assert!(published < 40, "{published}");
}

#[tokio::test]
async fn what_was_sent_before_a_clean_close_is_published_as_fast_as_it_may() {
    // The original client publishes, looks at no answer, and closes: what was held was lost.
    let hub = hub(Shares { publish: vec![rate("slow", 20, OnExcess::Delay)], ..Shares::default() }).await;
    let mut client = connect(&hub, "one").await;
    client.send_all(publishes("slow", 60)).await;
    client.close().await;
    until("all are there", async || {
        let replay = get(&hub, "/replay?topic=slow&limit=100", &of("two")).await;
        replay.status == 200 && replay.json()["events"].as_array().is_some_and(|events| events.len() == 60)
    })
    .await;
}

#[tokio::test]
async fn what_is_held_is_published_only_while_its_token_may() {
    // It was held against the topic quota alone, and came out for hours under rights that its connection had no more.
    let hub = hub(Shares { publish: vec![rate("slow", 1, OnExcess::Delay)], ..Shares::default() }).await;
    let mut client = connect(&hub, "one").await;
    client.send_all(publishes("slow", 20)).await;
    let lesser = token_with(json!({"sub": "one", "scopes": ["publish:other"]}));
    client.send(json!({"op": "AUTH", "token": lesser, "corr": "t"})).await;
    let mut answers = Vec::new();
    while answers.len() < 21 {
        answers.push(client.next().await);
    }
    let agreed = answers.iter().position(|answer| answer["corr"] == "t").unwrap();
    assert_eq!(answers[agreed]["op"], "OK");
    // At most one was on its way to the writer.
    for answer in &answers[agreed + 2..] {
        assert_eq!(answer["code"], "forbidden", "{answer}");
    }
    assert!(agreed < 18, "{agreed}");
}

#[tokio::test]
async fn what_others_owe_is_waited_for_by_the_large_and_the_small() {
    let rule = Rate { bytes: Some(512 * 1024), events: None, per: Per::Hub, ..rate("a", 1, OnExcess::Delay) };
    let hub = hub(Shares { publish: vec![rule], ..Shares::default() }).await;
    let began = Instant::now();
    let large = json!({"op": "PUBLISH", "topic": "a", "payload": "x".repeat(900_000)});
    let small = json!({"op": "PUBLISH", "topic": "a", "payload": 1});
    let mut clients = Vec::new();
    for n in 0..7 {
        clients.push(connect(&hub, &n.to_string()).await);
    }
    // 1.7 s each: the first four are more than may be owed, the others come when that is less.
    for client in &mut clients[..6] {
        client.send(large.clone()).await;
    }
    until("much is owed", async || limited(&hub, "publish_delayed").await >= 4).await;
    clients[6].send(small).await;
    for client in &mut clients {
        let answer = client.next().await;
        assert_eq!(answer["op"], "OK", "{answer}");
    }
    // 5.4 MB, of which 512 KiB were there, 5 s may be owed, and the last event of all.
    assert!(began.elapsed() >= Duration::from_millis(2600), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_rate_holds_over_http_however_many_requests_there_are() {
    let hub = hub(slow(Per::Subject, OnExcess::Delay)).await;
    let began = Instant::now();
    let body = format!("\"{}\"", "x".repeat(300_000));
    let answers = (0..16).map(async |_| post(&hub, "/publish/a", &of("one"), body.as_bytes()).await);
    let answers = futures_util::future::join_all(answers).await;
    let taken = answers.iter().filter(|answer| answer.status == 200).count();
    let came = began.elapsed().as_secs_f64() * 65_536.0 / 300_000.0;
    assert!(taken >= 1 && taken as f64 <= 2.0 + came, "{taken} in {:?}", began.elapsed());
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.refused(429, "more than 65536 bytes a second");
        assert!(answer.header("retry-after").is_some_and(|wait| wait.parse::<u64>().unwrap() <= 16));
    }
}

#[tokio::test]
async fn a_rate_of_bytes_counts_all_of_an_event() {
    let hub = hub(slow(Per::Subject, OnExcess::Refuse)).await;
    let mut client = connect(&hub, "one").await;
    let headers: serde_json::Map<_, _> = (0..30).map(|n| (format!("h{n}"), json!("x".repeat(1000)))).collect();
    let large = json!({"op": "PUBLISH", "topic": "a", "payload": 1, "opts": {"headers": headers}});
    client.send_all((0..20).map(|_| large.clone())).await;
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(client.next().await);
    }
    // 600 KB of headers, and 64 KiB a second.
    assert_eq!(answers[0]["op"], "OK", "{}", answers[0]);
    assert!(refused(&answers) > 0, "{answers:?}");
}

#[tokio::test]
async fn a_publish_that_waits_for_its_rate_keeps_nobody_else_from_publishing() {
    let shares = slow(Per::Subject, OnExcess::Delay);
    let limits = Limits { shares, publishes: 1, ..Limits::default() };
    let hub = Hub::start(Config { ops_port: Some(0), limits, ..config() }).await.unwrap();
    let body = format!("\"{}\"", "x".repeat(600_000));
    let waits = async { post(&hub, "/publish/a", &of("one"), body.as_bytes()).await };
    let other = async {
        until("it waits", async || limited(&hub, "publish_delayed").await == 1).await;
        post(&hub, "/publish/b", &of("two"), b"1").await
    };
    tokio::select! {
        biased;
        answer = other => assert_eq!(answer.status, 200, "{}", answer.text()),
        answer = waits => panic!("first was {}", answer.text()),
    }
}

#[tokio::test]
async fn each_rule_holds_apart_whom_it_says() {
    for (per, apart) in [(Per::Connection, true), (Per::Address, false), (Per::Hub, false)] {
        let rule = Rate { per, ..rate("a", 1, OnExcess::Refuse) };
        let hub = hub(Shares { publish: vec![rule], ..Shares::default() }).await;
        let began = Instant::now();
        let (mut one, mut two) = (connect(&hub, "one").await, connect(&hub, "two").await);
        let first = 50 - refused(&publish(&mut one, "a", 50).await);
        let second = 50 - refused(&publish(&mut two, "a", 50).await);
        // One was there, and one comes a second; a bucket more, and there is one more at the least.
        let came = usize::try_from(began.elapsed().as_secs()).unwrap();
        assert!(first >= 1, "{per:?}");
        if apart {
            assert!(second >= 1, "{per:?}");
        } else {
            assert!(first + second <= 1 + came, "{per:?}: {first} and {second} in {came} s");
        }
    }
}
