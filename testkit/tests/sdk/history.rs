//! The past of a topic, from a real hub, and from one that behaves badly.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::TryStreamExt;
use prom_hub::Hub;
use prom_sdk::{Client, Error, ErrorKind, Gap, History, HistoryItem, PublishOptions, StartFrom};
use prom_testkit::{Relay, config, hub, in_time, now_secs, token, token_with, until, url};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{builder, client};

/// More than sockets and buffers hold, so that a cut in the middle is one.
const LARGE: usize = 60;

/// The seqs of the events that come, and the gaps before them.
async fn all<T>(history: History<T>) -> Result<(Vec<u64>, Vec<(u64, u64)>), Error> {
    let (mut seqs, mut gaps) = (Vec::new(), Vec::new());
    let items: Vec<_> = in_time(history.try_collect()).await?;
    for item in items {
        match item {
            HistoryItem::Event(event) => seqs.push(event.event.seq),
            HistoryItem::Gap(Gap { from, to, .. }) => gaps.push((from, to)),
            _ => unreachable!(),
        }
    }
    Ok((seqs, gaps))
}

async fn next<T>(history: &mut History<T>) -> Result<u64, Error> {
    match in_time(history.next()).await.expect("an item")? {
        HistoryItem::Event(event) => Ok(event.event.seq),
        _ => panic!("no gap"),
    }
}

/// Publishes 0, 1, 2…, or as many large texts.
async fn fill(client: &Client, topic: &str, events: usize) {
    in_time(client.publish_many(topic, 0..events)).await.unwrap();
}

async fn fill_large(client: &Client, topic: &str) {
    let text = "x".repeat(900_000);
    for _ in 0..LARGE {
        in_time(client.publish(topic, &text)).await.unwrap();
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test(flavor = "multi_thread")]
async fn history_goes_from_page_to_page_and_export_in_one_stream() {
    let hub = hub().await;
    let client = client(&hub).await;
    for whole in [false, true] {
        let topic = if whole { "b" } else { "a" };
        fill(&client, topic, 5_000).await;
        let ask = |topic| if whole { client.export::<u32>(topic) } else { client.history::<u32>(topic) };
        let mut history = in_time(ask(topic).into_future()).await.unwrap();
        assert_eq!(history.end(), whole.then_some(5_000));
        // What is published meanwhile belongs to the history, and not to the export.
        in_time(client.publish(topic, &5_000)).await.unwrap();
        let mut n = 0;
        while let Some(item) = in_time(history.next()).await {
            let HistoryItem::Event(read) = item.unwrap() else { panic!("no gap") };
            assert_eq!((read.payload, read.event.seq, &*read.event.topic), (n, u64::from(n) + 1, topic));
            n += 1;
        }
        assert_eq!(n, if whole { 5_000 } else { 5_001 });
        assert!(in_time(history.next()).await.is_none(), "it stays at its end");

        let limited = ask(topic).from(StartFrom::AfterSeq(998)).limit(2_003);
        assert_eq!(
            all(in_time(limited.into_future()).await.unwrap()).await.unwrap().0,
            (999..=3_001).collect::<Vec<_>>()
        );
        let nothing = in_time(ask(topic).limit(0).into_future()).await.unwrap();
        assert_eq!(all(nothing).await.unwrap(), (vec![], vec![]));
        let mut never = in_time(ask("never").into_future()).await.unwrap();
        assert_eq!(never.end(), whole.then_some(0));
        assert!(in_time(never.next()).await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_where_it_is_told() {
    let hub = hub().await;
    let client = client(&hub).await;
    for (id, ts) in [("one & only", 1000), ("two", 2000), ("three", 3000)] {
        in_time(client.publish_with("a", &1, PublishOptions::new().id(id).ts(ts))).await.unwrap();
    }
    for whole in [false, true] {
        let ask = || if whole { client.export::<u32>("a") } else { client.history::<u32>("a") };
        for (from, expected) in [
            (StartFrom::Earliest, vec![1, 2, 3]),
            (StartFrom::Latest, vec![]),
            (StartFrom::Ts(1_500), vec![2, 3]),
            (StartFrom::AfterId("one & only".into()), vec![2, 3]),
            (StartFrom::AfterSeq(2), vec![3]),
            (StartFrom::AfterSeq(0), vec![1, 2, 3]),
        ] {
            let history = in_time(ask().from(from.clone()).into_future()).await.unwrap();
            assert_eq!(all(history).await.unwrap().0, expected, "{from:?}");
        }
        for from in [StartFrom::AfterSeq(9), StartFrom::AfterId("none".into())] {
            assert_eq!(kind(in_time(ask().from(from).into_future()).await), ErrorKind::PositionGone);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_retained_is_told_as_a_gap() {
    let mut config = config();
    config.store = prom_hub::StoreConfig::Memory(16 * 1024 * 1024);
    let hub = Hub::start(config).await.unwrap();
    let client = client(&hub).await;
    fill_large(&client, "a").await;
    for whole in [false, true] {
        let ask = || if whole { client.export::<String>("a") } else { client.history::<String>("a") };
        let (seqs, gaps) = all(in_time(ask().from(StartFrom::AfterSeq(1)).into_future()).await.unwrap()).await.unwrap();
        assert!(seqs[0] > 2 && seqs.iter().copied().eq(seqs[0]..=LARGE as u64), "{seqs:?}");
        assert_eq!(gaps, [(2, seqs[0] - 1)]);
        let (earliest, gaps) = all(in_time(ask().into_future()).await.unwrap()).await.unwrap();
        assert_eq!((earliest, gaps), (seqs, vec![]), "from the earliest nothing is missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_refuses_has_its_kind() {
    let mut config = config();
    config.limits.exports = 1;
    let hub = Hub::start(config).await.unwrap();
    let limited = in_time(builder(url(&hub)).token(token(&["subscribe:mine"])).connect()).await.unwrap();
    let client = client(&hub).await;
    for error in [
        in_time(limited.history::<u32>("theirs").into_future()).await.unwrap_err(),
        in_time(limited.export::<u32>("theirs").into_future()).await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.code(), error.retryable()), (ErrorKind::Forbidden, "forbidden", false));
        assert!(error.message().contains("theirs"), "{error}");
    }
    fill_large(&client, "mine").await;
    let open = in_time(client.export::<String>("mine").into_future()).await.unwrap();
    let error = in_time(limited.export::<String>("mine").into_future()).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Overloaded, true), "{error}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
    drop(open);
    until("room for another", async || in_time(limited.export::<String>("mine").into_future()).await.is_ok()).await;
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused_before_anything_is_sent() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = builder(format!("ws://{free}/ws")).connect_lazily().unwrap();
    let error = in_time(client.history::<u32>("a").into_future()).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::ConnectionLost, true), "{error}");
    for (topic, from, words) in [
        ("", StartFrom::Earliest, "topic is empty"),
        ("a.*", StartFrom::Earliest, "wildcard"),
        ("a b", StartFrom::Earliest, "topic may hold only"),
        ("a", StartFrom::Snapshot, "from must be"),
        ("a", StartFrom::AfterId(String::new()), "afterId must be 1 to 512 bytes"),
        ("a", StartFrom::AfterId("x".repeat(513)), "afterId must be 1 to 512 bytes"),
        ("a", StartFrom::AfterSeq(u64::MAX), "afterSeq must be an integer"),
        ("a", StartFrom::Ts(u64::MAX), "ts must be an integer"),
    ] {
        for ask in [client.history::<u32>(topic), client.export::<u32>(topic)] {
            let error = in_time(ask.from(from.clone()).into_future()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{topic:?} {from:?}: {error}");
            assert!(error.message().contains(words) && !error.message().contains("opts"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_in_the_middle_is_made_good_with_a_new_token() {
    let hub = hub().await;
    let relay = Relay::start(hub.address()).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let provider = move || {
        // For the socket, for the request, and for the first try after the cut.
        let expired = count.fetch_add(1, Ordering::SeqCst) == 2;
        let exp = if expired { now_secs() - 600 } else { now_secs() + 600 };
        async move { Ok(token_with(json!({"exp": exp, "scopes": ["*:**"]}))) }
    };
    let writer = client(&hub).await;
    fill_large(&writer, "a").await;
    for whole in [false, true] {
        asked.store(0, Ordering::SeqCst);
        let client = in_time(builder(relay.url()).token_provider(provider.clone()).connect()).await.unwrap();
        let ask = if whole { client.export::<String>("a") } else { client.history::<String>("a") };
        let mut history = in_time(ask.into_future()).await.unwrap();
        assert_eq!(next(&mut history).await.unwrap(), 1);
        // The socket's line as well; its new one asks for a token too.
        in_time(relay.cut()).await;
        let (seqs, gaps) = all(history).await.unwrap();
        assert_eq!((seqs, gaps), ((2..=LARGE as u64).collect::<Vec<_>>(), vec![]), "whole: {whole}");
        assert!(asked.load(Ordering::SeqCst) >= 3);
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_cannot_go_on_says_so() {
    let hub = hub().await;
    let client = in_time(builder(url(&hub)).request_timeout(Duration::from_secs(2)).connect()).await.unwrap();
    fill_large(&client, "a").await;
    let mut export = in_time(client.export::<String>("a").into_future()).await.unwrap();
    assert_eq!(next(&mut export).await.unwrap(), 1);
    hub.shutdown().await;
    let mut last = 1;
    let error = loop {
        match next(&mut export).await {
            Ok(seq) => {
                assert_eq!(seq, last + 1);
                last = seq;
            }
            Err(error) => break error,
        }
    };
    assert!(last < LARGE as u64, "it was in the middle");
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::ConnectionLost, true), "{error}");
    assert!(in_time(export.next()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_it_frees_its_connection_and_closing_the_client_ends_it() {
    let hub = hub().await;
    let relay = Relay::start(hub.address()).await;
    let client = in_time(builder(relay.url()).connect()).await.unwrap();
    fill_large(&client, "a").await;
    let mut export = in_time(client.export::<String>("a").into_future()).await.unwrap();
    assert_eq!(next(&mut export).await.unwrap(), 1);
    assert_eq!((relay.opened(), relay.ended()), (2, 0));
    drop(export);
    until("its line to end", async || relay.ended() == 1).await;

    let mut history = in_time(client.history::<String>("a").into_future()).await.unwrap();
    let mut export = in_time(client.export::<String>("a").into_future()).await.unwrap();
    assert_eq!((next(&mut history).await.unwrap(), next(&mut export).await.unwrap()), (1, 1));
    in_time(client.close()).await;
    assert_eq!(kind(next(&mut export).await), ErrorKind::Closed);
    assert_eq!(kind(next(&mut history).await), ErrorKind::Closed);
    assert!(in_time(export.next()).await.is_none());
    until("their lines to end", async || relay.ended() == relay.opened()).await;
    assert_eq!(kind(in_time(client.history::<String>("a").into_future()).await), ErrorKind::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_another_type_is_one_error_and_the_rest_comes() {
    let hub = hub().await;
    let client = client(&hub).await;
    for payload in [json!(1), json!("two"), json!(3)] {
        in_time(client.publish("a", &payload)).await.unwrap();
    }
    let mut history = in_time(client.history::<u32>("a").into_future()).await.unwrap();
    assert_eq!(next(&mut history).await.unwrap(), 1);
    let error = next(&mut history).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Payload);
    assert!(error.message().contains("event 2"), "{error}");
    assert_eq!(next(&mut history).await.unwrap(), 3);
    assert!(in_time(history.next()).await.is_none());
}

/// Answers requests with these, one a connection, and notes what was asked. What comes with no answer left is left waiting.
async fn scripted(answers: Vec<String>) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (mut answers, mut waiting) = (answers.into_iter(), Vec::new());
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let path = head.split(' ').nth(1).unwrap().to_owned();
            if path == "/ws" {
                waiting.push(stream);
                continue;
            }
            tell.send(path).unwrap();
            match answers.next() {
                Some(answer) => {
                    // It may hang up before it has read everything.
                    let _ = stream.write_all(answer.as_bytes()).await;
                    if !answer.contains("Connection: close") {
                        waiting.push(stream);
                    }
                }
                None => waiting.push(stream),
            }
        }
    });
    (url, told)
}

fn line(seq: u64) -> String {
    format!("{{\"id\":\"{seq}\",\"seq\":{seq},\"ts\":1,\"topic\":\"a\",\"payload\":{seq}}}\n")
}

#[tokio::test]
async fn an_export_that_ends_before_its_end_is_not_taken_for_whole() {
    let answer = |end: u64, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nProm-End: {end}\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    // Each looks whole, as a proxy between here and the hub may make it look; the third has nothing left to give.
    let answers = vec![answer(4, &(line(1) + &line(2))), answer(9, &line(3)), answer(9, "")];
    let (url, mut told) = scripted(answers).await;
    let client = builder(url).connect_lazily().unwrap();
    let export = in_time(client.export::<u32>("a").into_future()).await.unwrap();
    assert_eq!(all(export).await.unwrap().0, [1, 2, 3]);
    for path in [
        "/export?topic=a&from=earliest&ndjson=1",
        "/export?topic=a&from=afterSeq&afterSeq=2&ndjson=1",
        "/export?topic=a&from=afterSeq&afterSeq=3&ndjson=1",
    ] {
        assert_eq!(in_time(told.recv()).await.unwrap(), path);
    }
}

#[tokio::test]
async fn silence_and_endless_answers_have_their_limits() {
    let silent = |body: &str| {
        format!("HTTP/1.1 200 OK\r\nProm-End: 4\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len())
    };
    let endless = |head: &str| format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{head}\r\n\r\n{}", "x".repeat(9 << 20));
    // No answer at all.
    let (url, _told) = scripted(vec![]).await;
    let client = builder(url).request_timeout(Duration::from_millis(200)).connect_lazily().unwrap();
    assert_eq!(kind(in_time(client.export::<u32>("a").into_future()).await), ErrorKind::Timeout);
    // One that stops in the middle, and on every further try.
    let (url, _told) = scripted(vec![silent(&line(1))]).await;
    let client = builder(url).request_timeout(Duration::from_millis(200)).connect_lazily().unwrap();
    let mut export = in_time(client.export::<u32>("a").into_future()).await.unwrap();
    assert_eq!(next(&mut export).await.unwrap(), 1);
    assert_eq!(kind(next(&mut export).await), ErrorKind::Timeout);
    // A line and a page without end.
    let (url, _told) = scripted(vec![endless("Prom-End: 4"), endless("")]).await;
    let client = builder(url).connect_lazily().unwrap();
    let mut export = in_time(client.export::<u32>("a").into_future()).await.unwrap();
    assert_eq!(kind(next(&mut export).await), ErrorKind::TooLarge);
    assert_eq!(kind(in_time(client.history::<u32>("a").into_future()).await), ErrorKind::TooLarge);
    // What is no hub.
    let page = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\n<html>".to_owned();
    let (url, _told) = scripted(vec![page.clone(), page]).await;
    let client = builder(url).connect_lazily().unwrap();
    for ask in [client.export::<u32>("a"), client.history::<u32>("a")] {
        let error = in_time(ask.into_future()).await.unwrap_err();
        assert!(error.message().contains("not one of a hub"), "{error}");
    }
}

#[tokio::test]
async fn a_wss_hub_is_asked_over_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let never = Duration::from_secs(3600);
    let builder = builder(format!("wss://{}/ws", listener.local_addr().unwrap())).reconnect(never, never);
    let client = builder.connect_lazily().unwrap();
    let (_socket, _) = in_time(listener.accept()).await.unwrap();
    let asking = tokio::spawn(client.history::<u32>("a").into_future());
    let (mut stream, _) = in_time(listener.accept()).await.unwrap();
    let mut hello = [0; 3];
    in_time(stream.read_exact(&mut hello)).await.unwrap();
    assert_eq!(hello, [0x16, 0x03, 0x01], "a TLS handshake, nothing else");
    drop(stream);
    assert_eq!(kind(in_time(asking).await.unwrap()), ErrorKind::ConnectionLost);
}
