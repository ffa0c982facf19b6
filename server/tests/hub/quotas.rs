//! What one subject or one address may take of a hub.

use std::time::{Duration, Instant};

use prom_hub::{Config, Hub, Limits, OnExcess, Per, Rate, Shares};
use prom_protocol::TopicOrPattern;
use prom_testkit::{
    Client, config,
    http::{get, ops, post, raw, request},
    in_time, token, token_with, until,
};
use serde_json::{Value, json};

async fn hub(shares: Shares) -> Hub {
    let limits = Limits { shares, ..Limits::default() };
    Hub::start(Config { ops_port: Some(0), limits, ..config() }).await.unwrap()
}

fn of(sub: &str) -> String {
    token_with(json!({"sub": sub, "scopes": ["*:**"]}))
}

async fn connect(hub: &Hub, sub: &str) -> Client {
    Client::open_as(hub, &of(sub)).await
}

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

fn publishes(topic: &str, count: usize) -> impl Iterator<Item = Value> {
    (0..count).map(move |n| json!({"op": "PUBLISH", "topic": topic, "corr": n.to_string(), "payload": n}))
}

/// Publishes so many at once; the answers.
async fn publish(client: &mut Client, topic: &str, count: usize) -> Vec<Value> {
    client.send_all(publishes(topic, count)).await;
    let mut answers = Vec::new();
    for n in 0..count {
        let answer = client.next().await;
        assert_eq!(answer["corr"], n.to_string(), "in their order");
        answers.push(answer);
    }
    answers
}

fn refused(answers: &[Value]) -> usize {
    answers.iter().filter(|answer| answer["code"] == "rate_limited").count()
}

async fn limited(hub: &Hub, limit: &str) -> u64 {
    let metrics = ops(hub, "/metrics").await;
    let name = format!("limited_total{{limit=\"{limit}\"}} ");
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
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

#[tokio::test]
async fn each_rule_holds_apart_whom_it_says() {
    for (per, free) in [(Per::Connection, true), (Per::Address, false), (Per::Hub, false)] {
        let rule = Rate { per, ..rate("a", 1, OnExcess::Refuse) };
        let hub = hub(Shares { publish: vec![rule], ..Shares::default() }).await;
        let mut one = connect(&hub, "one").await;
        assert!(refused(&publish(&mut one, "a", 50).await) >= 40, "{per:?}");
        let mut two = connect(&hub, "two").await;
        let answers = publish(&mut two, "a", 50).await;
        assert!(refused(&answers) >= 40 && !free || answers[0]["op"] == "OK", "{per:?}: {answers:?}");
    }
}

#[tokio::test]
async fn a_subject_has_so_many_connections_and_others_have_theirs() {
    let hub = hub(Shares { connections: 2, ..Shares::default() }).await;
    let first = connect(&hub, "one").await;
    let mut second = connect(&hub, "one").await;
    let auth = json!({"op": "AUTH", "token": of("one"), "corr": "a"});
    let mut third = Client::connect(&hub).await;
    let answer = third.ask(auth.clone()).await;
    assert_eq!((&answer["code"], &answer["corr"]), (&json!("rate_limited"), &json!("a")), "{answer}");
    assert_eq!(answer["msg"], "this token's subject has 2 connections, as many as one may have");
    assert!(answer["retry_after_ms"].as_u64().is_some(), "{answer}");
    assert_eq!(in_time(third.closed()).await, 4429);
    // A fresh token for a connection that is there is no new connection.
    assert_eq!(second.ask(auth.clone()).await["op"], "OK");
    connect(&hub, "two").await;
    // Who names nobody is for itself.
    for n in 0..4 {
        let mut nobody = Client::connect(&hub).await;
        let token = token_with(json!({"scopes": ["*:**"], "jti": n.to_string()}));
        assert_eq!(nobody.ask(json!({"op": "AUTH", "token": token})).await["op"], "OK");
    }
    assert_eq!(limited(&hub, "connections").await, 1);
    drop(first);
    until("one is free again", async || Client::connect(&hub).await.ask(auth.clone()).await["op"] == "OK").await;
}

#[tokio::test]
async fn a_subject_has_so_many_subscriptions_on_all_its_connections() {
    let hub = hub(Shares { subscriptions: 3, ..Shares::default() }).await;
    let subscribe = |topic: &str| json!({"op": "SUBSCRIBE", "topic": topic});
    let (mut one, mut two) = (connect(&hub, "one").await, connect(&hub, "one").await);
    let group = one.ask(subscribe("a")).await["group"].clone();
    for (client, topic) in [(&mut one, "b"), (&mut two, "c")] {
        assert_eq!(client.ask(subscribe(topic)).await["op"], "OK");
    }
    for client in [&mut one, &mut two] {
        let answer = client.ask(subscribe("d")).await;
        assert_eq!(answer["code"], "rate_limited", "{answer}");
        assert!(answer["msg"].as_str().unwrap().contains("has 3 subscriptions"), "{answer}");
    }
    assert_eq!(connect(&hub, "two").await.ask(subscribe("d")).await["op"], "OK");
    let left = one.ask(json!({"op": "UNSUBSCRIBE", "topic": "a", "group": group})).await;
    assert_eq!(left["op"], "OK", "{left}");
    assert_eq!(two.ask(subscribe("d")).await["op"], "OK");
    drop(two);
    until("those of a connection that ended are free", async || one.ask(subscribe("e")).await["op"] == "OK").await;
}

#[tokio::test]
async fn a_subject_makes_so_many_topics_as_long_as_they_exist() {
    let hub = hub(Shares { topics: 2, ..Shares::default() }).await;
    let mut one = connect(&hub, "one").await;
    // Pipelined, before any is committed; published again, they count once.
    let names = ["t.a", "t.b", "t.c", "t.a", "t.b", "t.c"];
    one.send_all(names.map(|topic| json!({"op": "PUBLISH", "topic": topic, "payload": 1}))).await;
    for name in names {
        let answer = one.next().await;
        assert_eq!(answer["op"] == "OK", name != "t.c", "{name}: {answer}");
        if name == "t.c" {
            assert_eq!(answer["code"], "rate_limited", "{answer}");
        }
    }
    post(&hub, "/publish/t.d", &of("one"), b"1").await.refused(429, "has 2 topics");
    assert_eq!(post(&hub, "/publish/t.a", &of("one"), b"1").await.status, 200);
    let mut two = connect(&hub, "two").await;
    assert_eq!(refused(&publish(&mut two, "t.c", 1).await), 0);
    assert_eq!(refused(&publish(&mut one, "t.c", 1).await), 0, "which another one has made");
    let delete = request("DELETE", "/topics/t.a", &[("host", "localhost")], b"");
    assert_eq!(raw(hub.ops_address().unwrap(), &delete).await.status, 200);
    until("a place is free", async || refused(&publish(&mut one, "t.e", 1).await) == 0).await;
    assert!(limited(&hub, "topics").await > 2);
}

#[tokio::test]
async fn a_subject_is_in_so_many_groups_as_long_as_they_have_a_position() {
    let hub = hub(Shares { groups: 2, ..Shares::default() }).await;
    let mut one = connect(&hub, "one").await;
    assert_eq!(refused(&publish(&mut one, "a", 1).await), 0);
    let subscribe = |group: &str| json!({"op": "SUBSCRIBE", "topic": "a", "group": group});
    for group in ["g", "h"] {
        assert_eq!(one.ask(subscribe(group)).await["op"], "OK");
    }
    let mut again = connect(&hub, "one").await;
    assert_eq!(again.ask(subscribe("g")).await["op"], "OK", "the same group");
    let answer = again.ask(subscribe("i")).await;
    assert_eq!(answer["code"], "rate_limited", "{answer}");
    assert_eq!(connect(&hub, "two").await.ask(subscribe("i")).await["op"], "OK");
    drop((one, again));
    let mut one = connect(&hub, "one").await;
    assert_eq!(one.ask(subscribe("i")).await["code"], "rate_limited", "it keeps its positions, and they count");
    let delete = request("DELETE", "/groups/g?force=1", &[("host", "localhost")], b"");
    assert_eq!(raw(hub.ops_address().unwrap(), &delete).await.status, 200);
    until("a place is free", async || one.ask(subscribe("i")).await["op"] == "OK").await;
}

#[tokio::test]
async fn bad_tokens_are_answered_late_after_many_and_good_ones_at_once() {
    let hub = hub(Shares { auth_failures: 1, ..Shares::default() }).await;
    let bad = json!({"op": "AUTH", "token": "nonsense"});
    let mut stranger = Client::connect(&hub).await;
    assert_eq!(stranger.ask(bad.clone()).await["code"], "jwt_invalid");
    let began = Instant::now();
    stranger.send(bad).await;
    let mut good = connect(&hub, "one").await;
    assert_eq!(refused(&publish(&mut good, "a", 1).await), 0);
    let late = get(&hub, "/replay?topic=a", "nonsense").await;
    assert_eq!(late.status, 401);
    assert_eq!(stranger.next().await["code"], "jwt_invalid");
    assert!(began.elapsed() >= Duration::from_millis(2900), "{:?}", began.elapsed());
    assert_eq!(limited(&hub, "auth_failures").await, 2);
    // A token without a right is not a bad one.
    let mut unable = Client::connect(&hub).await;
    let none = token(&["publish:other"]);
    assert_eq!(unable.ask(json!({"op": "AUTH", "token": none})).await["op"], "OK");
}
