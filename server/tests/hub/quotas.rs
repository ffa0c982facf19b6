//! What one subject or one address may take of a hub.

use std::time::{Duration, Instant};

use prom_hub::{Config, Hub, Limits, Shares};
use prom_testkit::{
    Client, config,
    http::{Answer, get, ops, ops_as, parse, post, raw, request},
    in_time, token, token_with, until,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub(crate) async fn hub(shares: Shares) -> Hub {
    let limits = Limits { shares, ..Limits::default() };
    Hub::start(Config { ops_port: Some(0), limits, ..config() }).await.unwrap()
}

pub(crate) fn of(sub: &str) -> String {
    token_with(json!({"sub": sub, "scopes": ["*:**"]}))
}

pub(crate) async fn connect(hub: &Hub, sub: &str) -> Client {
    Client::open_as(hub, &of(sub)).await
}

pub(crate) fn publishes(topic: &str, count: usize) -> impl Iterator<Item = Value> {
    (0..count).map(move |n| json!({"op": "PUBLISH", "topic": topic, "corr": n.to_string(), "payload": n}))
}

/// Publishes so many at once; the answers.
pub(crate) async fn publish(client: &mut Client, topic: &str, count: usize) -> Vec<Value> {
    client.send_all(publishes(topic, count)).await;
    let mut answers = Vec::new();
    for n in 0..count {
        let answer = client.next().await;
        assert_eq!(answer["corr"], n.to_string(), "in their order");
        answers.push(answer);
    }
    answers
}

pub(crate) fn refused(answers: &[Value]) -> usize {
    answers.iter().filter(|answer| answer["code"] == "rate_limited").count()
}

pub(crate) async fn limited(hub: &Hub, limit: &str) -> u64 {
    let metrics = ops(hub, "/metrics").await;
    let name = format!("limited_total{{limit=\"{limit}\"}} ");
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
}

/// A publish that lacks its last byte, of which the hub has the head, and so much that it waits half a minute for more.
async fn begun(hub: &Hub, topic: &str, token: &str) -> TcpStream {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", &*bearer), ("Expect", "100-continue")];
    let whole = request("POST", &format!("/publish/{topic}"), &headers, &[vec![b' '; 130_000], vec![b'1']].concat());
    let mut stream = TcpStream::connect(hub.address()).await.unwrap();
    stream.write_all(&whole[..whole.len() - 1]).await.unwrap();
    let mut read = [0; 25];
    in_time(stream.read_exact(&mut read)).await.unwrap();
    // It is asked for as the body is.
    assert_eq!(read, *b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

async fn finished(mut stream: TcpStream) -> Answer {
    stream.write_all(b"1").await.unwrap();
    let mut bytes = Vec::new();
    in_time(stream.read_to_end(&mut bytes)).await.unwrap();
    parse(&bytes)
}

#[tokio::test]
async fn a_topic_counts_when_it_is_made_however_late_that_is() {
    let hub = hub(Shares { topics: 1, ..Shares::default() }).await;
    let slow = begun(&hub, "t.a", &of("one")).await;
    until("another took its place", async || post(&hub, "/publish/t.b", &of("one"), b"1").await.status == 200).await;
    finished(slow).await.refused(429, "has 1 topics");
}

#[tokio::test]
async fn a_token_that_expires_while_its_body_comes_publishes_nothing() {
    let hub = hub(Shares::default()).await;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let short = token_with(json!({"sub": "one", "scopes": ["*:**"], "exp": now + 2}));
    let slow = begun(&hub, "a", &short).await;
    until("it has expired", async || get(&hub, "/replay?topic=a", &short).await.status == 401).await;
    // What was begun has 5 s more.
    until("that is over", async || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() > now + 8).await;
    finished(slow).await.refused(401, "expired");
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

/// One SUBSCRIBE on a pattern left a position in each topic, for ever, and only groups were counted.
#[tokio::test]
async fn a_subject_makes_so_many_positions_as_long_as_they_are_there() {
    let hub = hub(Shares { positions: 3, ..Shares::default() }).await;
    let (mut one, mut two) = (connect(&hub, "one").await, connect(&hub, "two").await);
    for topic in ["a.1", "a.2", "b"] {
        two.publish(topic, json!(1)).await;
    }
    let subscribe = |topic: &str, group: &str| json!({"op": "SUBSCRIBE", "topic": topic, "group": group});
    assert_eq!(one.ask(subscribe("a.*", "g")).await["op"], "OK");
    let answer = one.ask(subscribe("a.*", "h")).await;
    assert_eq!(answer["code"], "rate_limited", "{answer}");
    let told = "2 positions of this group would be new, and this token's subject has 2 of 3, as many as one may have \
                (positions_per_subject)";
    assert_eq!(answer["msg"], told, "{answer}");
    // A topic that nobody has published to costs one too.
    assert_eq!(one.ask(subscribe("none", "h")).await["op"], "OK");
    assert_eq!(one.ask(subscribe("b", "h")).await["code"], "rate_limited");
    // What is there already costs nothing, and others have their share.
    let mut again = connect(&hub, "one").await;
    assert_eq!(again.ask(subscribe("a.*", "g")).await["op"], "OK");
    assert_eq!(two.ask(subscribe("a.*", "h")).await["op"], "OK");
    drop((one, again));
    let mut one = connect(&hub, "one").await;
    assert_eq!(one.ask(subscribe("b", "h")).await["code"], "rate_limited", "they are there without members too");
    for path in ["/groups/g?topic=a.1&force=1", "/topics/a.2?force=1"] {
        let delete = request("DELETE", path, &[("host", "localhost")], b"");
        assert_eq!(raw(hub.ops_address().unwrap(), &delete).await.status, 200);
    }
    // Asked for again and again, which must not put off the look at what is there.
    until("there is room", async || one.ask(subscribe("b", "h")).await["op"] == "OK").await;
    assert_eq!(one.ask(subscribe("b", "g")).await["op"], "OK", "two of them are gone");
    assert!(limited(&hub, "positions").await >= 3);
}

/// A pattern over no topics cost nothing, and got a position in each that was made later.
#[tokio::test]
async fn a_pattern_takes_on_later_topics_only_within_the_share_of_who_subscribed() {
    let hub = hub(Shares { positions: 3, ..Shares::default() }).await;
    let (mut one, mut two) = (connect(&hub, "one").await, connect(&hub, "two").await);
    let subscribe = |topic: &str, group: &str| json!({"op": "SUBSCRIBE", "topic": topic, "group": group});
    assert_eq!(one.ask(subscribe("other", "h")).await["op"], "OK");
    assert_eq!(one.ask(subscribe("a.*", "g")).await["op"], "OK");
    for topic in ["a.1", "a.2", "a.3", "a.4"] {
        two.publish(topic, json!(1)).await;
    }
    let mut topics = Vec::new();
    while topics.len() < 2 {
        let event = one.next().await;
        assert_eq!(event["op"], "EVENT", "{event}");
        one.ack(&event).await;
        topics.push(event["event"]["topic"].as_str().unwrap().to_owned());
    }
    until("there is none for the others", async || limited(&hub, "positions").await >= 2).await;
    let positions = ops(&hub, "/groups").await.json();
    let row = positions["groups"].as_array().unwrap().iter().find(|row| row["group"] == "g").unwrap();
    assert_eq!(row["topics"].as_array().unwrap().len(), 2, "{row}");
    // What was there is received from its start as soon as there is room.
    let delete = request("DELETE", "/groups/h?force=1", &[("host", "localhost")], b"");
    assert_eq!(raw(hub.ops_address().unwrap(), &delete).await.status, 200);
    while topics.len() < 3 {
        let frame = one.next().await;
        if frame["op"] == "EVENT" {
            assert_eq!(frame["event"]["seq"], 1, "{frame}");
            topics.push(frame["event"]["topic"].as_str().unwrap().to_owned());
        }
    }
    topics.sort_unstable();
    topics.dedup();
    assert_eq!(topics.len(), 3, "{topics:?}");
}

#[tokio::test]
async fn subscriptions_asked_for_at_once_are_not_more_than_there_may_be() {
    let hub = hub(Shares { subscriptions: 3, ..Shares::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..32 {
        clients.push(connect(&hub, "one").await);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(json!({"op": "SUBSCRIBE", "topic": "a", "group": format!("g{n}")})).await;
    }
    let mut taken = 0;
    for client in &mut clients {
        taken += usize::from(client.next().await["op"] == "OK");
    }
    assert_eq!(taken, 3);
}

#[tokio::test]
async fn a_subscription_that_the_hub_ends_is_given_back() {
    let shares = Shares { subscriptions: 1, ..Shares::default() };
    let limits = Limits { shares, followed_topics: 1, ..Limits::default() };
    let hub = Hub::start(Config { limits, ..config() }).await.unwrap();
    let mut one = connect(&hub, "one").await;
    assert_eq!(one.ask(json!({"op": "SUBSCRIBE", "topic": "a.*"})).await["op"], "OK");
    let mut publisher = connect(&hub, "two").await;
    publisher.publish("a.1", json!(1)).await;
    publisher.publish("a.2", json!(1)).await;
    while one.next().await["op"] != "REVOKED" {}
    assert_eq!(one.ask(json!({"op": "SUBSCRIBE", "topic": "b"})).await["op"], "OK");
}

#[tokio::test]
async fn a_group_on_a_pattern_counts_as_long_as_it_has_members() {
    let hub = hub(Shares { groups: 1, ..Shares::default() }).await;
    let mut one = connect(&hub, "one").await;
    let subscribe = |group: &str| json!({"op": "SUBSCRIBE", "topic": "none.*", "group": group});
    assert_eq!(one.ask(subscribe("g")).await["op"], "OK");
    // It has no topic, so no position. This is so long after it was asked for that it would be taken for gone.
    let began = Instant::now();
    until("it is old", async || {
        assert_eq!(one.ask(subscribe("h")).await["code"], "rate_limited");
        began.elapsed() >= Duration::from_secs(18)
    })
    .await;
    assert_eq!(one.ask(json!({"op": "UNSUBSCRIBE", "topic": "none.*", "group": "g"})).await["op"], "OK");
    until("nobody is in it", async || one.ask(subscribe("h")).await["op"] == "OK").await;
}

#[tokio::test]
async fn bad_tokens_are_answered_late_after_many_and_good_ones_at_once() {
    let hub = hub(Shares { auth_failures: 1, ..Shares::default() }).await;
    let bad = json!({"op": "AUTH", "token": "nonsense"});
    let mut stranger = Client::connect(&hub).await;
    assert_eq!(stranger.ask(bad.clone()).await["code"], "jwt_invalid");
    // Each bad one waits for 3 s, a good one for none of them. A machine that is busy may take as long for it now and then,
    // not always.
    until("a good token is answered before a bad one that came earlier", async || {
        let mut stranger = Client::connect(&hub).await;
        let began = Instant::now();
        stranger.send(bad.clone()).await;
        let mut good = connect(&hub, "one").await;
        assert_eq!(refused(&publish(&mut good, "a", 1).await), 0);
        let good_at = began.elapsed();
        assert_eq!(stranger.next().await["code"], "jwt_invalid");
        let bad_at = began.elapsed();
        assert!(bad_at >= Duration::from_millis(2900), "{bad_at:?}");
        good_at < Duration::from_millis(2900)
    })
    .await;
    let began = Instant::now();
    assert_eq!(get(&hub, "/replay?topic=a", "nonsense").await.status, 401);
    assert!(began.elapsed() >= Duration::from_millis(2900), "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(ops_as(&hub, "/latest-by-key?topic=a&key=k", "nonsense").await.status, 401);
    assert!(began.elapsed() >= Duration::from_millis(2900), "on the ops port: {:?}", began.elapsed());
    assert!(limited(&hub, "auth_failures").await >= 2);
    // A token without a right is not a bad one.
    let mut unable = Client::connect(&hub).await;
    let none = token(&["publish:other"]);
    assert_eq!(unable.ask(json!({"op": "AUTH", "token": none})).await["op"], "OK");
}
