//! Beginnings and ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use prom_sdk::{Client, Error, ErrorKind, Received, StartFrom, State};
use prom_testkit::{DEADLINE, Relay, hub, hub_at, in_time, token, until, url};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{builder, client, reaches};

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_is_told_at_once() {
    let hub = hub().await;
    let connect = |token: &str| builder(url(&hub)).token(token).connect();
    let error = in_time(connect("nonsense")).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unauthorized, "jwt_invalid"), "{error}");
    let error = in_time(connect("")).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unauthorized, "no_token"), "{error}");

    let backwards = builder(url(&hub)).reconnect(Duration::from_secs(2), Duration::from_secs(1));
    assert_eq!(kind(backwards.connect_lazily()), ErrorKind::Config);

    let client = builder(url(&hub)).token("nonsense").connect_lazily().unwrap();
    assert_eq!(reaches(&client, State::Closed).await.unwrap().kind(), ErrorKind::Unauthorized);
    assert_eq!(kind(in_time(client.publish("a", &1)).await), ErrorKind::Unauthorized, "it says why it is closed");
    assert_eq!(kind(in_time(client.subscribe("a", "g").into_future()).await), ErrorKind::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_may_fail_before_it_gives_a_token() {
    let hub = hub().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let provider = move || {
        let asked = count.fetch_add(1, Ordering::SeqCst);
        async move {
            match asked {
                0 => Err("not yet".into()),
                1 => panic!("worse"),
                2 => Ok("nonsense".to_owned()),
                _ => Ok(token(&["*:**"])),
            }
        }
    };
    let client = in_time(builder(url(&hub)).token_provider(provider).connect()).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 4);
    client.close().await;

    let never = builder(url(&hub)).token_provider(|| async { Ok("nonsense".to_owned()) });
    assert_eq!(kind(in_time(never.connect()).await), ErrorKind::Unauthorized, "refused too often");
    let never = builder(url(&hub)).token_provider(|| async { Err("no such secret".into()) });
    let error = in_time(never.request_timeout(Duration::from_secs(2)).connect()).await.unwrap_err();
    assert!(error.message().contains("no such secret"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_settles_everything_that_waits() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let client = builder(format!("ws://{address}/ws")).connect_lazily().unwrap();
    let waiting = [
        tokio::spawn({
            let client = client.clone();
            async move { kind(client.publish("a", &1).await) }
        }),
        tokio::spawn({
            let client = client.clone();
            async move { kind(client.subscribe("a", "g").await) }
        }),
        tokio::spawn({
            let client = client.clone();
            async move { kind(client.watch::<u32>("a").await) }
        }),
        tokio::spawn({
            let client = client.clone();
            async move { kind(client.live("a").await) }
        }),
        tokio::spawn(async move {
            kind(builder(format!("ws://{address}/ws")).request_timeout(Duration::from_millis(50)).connect().await)
        }),
    ];
    reaches(&client, State::Connecting).await;
    in_time(client.close()).await;
    in_time(client.close()).await;
    let [publish, subscribe, watch, live, other] = waiting;
    for task in [publish, subscribe, watch, live] {
        assert_eq!(in_time(task).await.unwrap(), ErrorKind::Closed);
    }
    assert_eq!(in_time(other).await.unwrap(), ErrorKind::Timeout);
    assert_eq!(kind(in_time(client.publish("a", &1)).await), ErrorKind::Closed);
    assert_eq!(kind(in_time(client.subscribe("a", "g").into_future()).await), ErrorKind::Closed);
    assert_eq!(client.state().borrow().state, State::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_ends_the_streams_and_gives_back_what_is_held() {
    let hub = hub().await;
    let (client, other) = (client(&hub).await, client(&hub).await);
    let mut deliveries = client.subscribe("a", "g").await.unwrap();
    client.publish("a", &1).await.unwrap();
    let held = in_time(deliveries.next()).await.unwrap();
    let handling = client.handle("b", "g", async |_: Received<u32>| Ok::<_, Error>(())).await.unwrap();
    in_time(client.close()).await;
    assert!(in_time(deliveries.next()).await.is_none());
    assert_eq!(deliveries.error().unwrap().kind(), ErrorKind::Closed);
    assert_eq!(kind(in_time(held.ack()).await), ErrorKind::Closed);
    assert_eq!(in_time(handling.finished()).await.kind(), ErrorKind::Closed);
    let mut again = other.subscribe("a", "g").await.unwrap();
    assert_eq!(in_time(again.next()).await.unwrap().context().attempt, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_ends_with_the_last_handle() {
    let hub = hub().await;
    let relay = Relay::start(hub.address()).await;
    let client = builder(relay.url()).connect().await.unwrap();
    let clone = client.clone();
    let mut deliveries = client.subscribe("a", "g").await.unwrap();
    drop(client);
    clone.publish("a", &1).await.unwrap();
    drop(clone);
    let delivery = in_time(deliveries.next()).await.unwrap();
    in_time(delivery.ack()).await.unwrap();
    assert_eq!((relay.opened(), relay.ended()), (1, 0), "a subscription is a handle too");
    drop(deliveries);
    until("the line to end", async || relay.ended() == 1).await;

    // Also when it never came to a connection.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::start(silent.local_addr().unwrap()).await;
    let connecting = tokio::spawn(builder(relay.url()).connect());
    until("the line", async || relay.opened() == 1).await;
    connecting.abort();
    until("the line to end", async || relay.ended() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_everything_come_to_its_end() {
    let hub = hub().await;
    let (client, other) = (client(&hub).await, client(&hub).await);
    let (gate, done) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let handling = {
        let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
        let handler = move |_: Received<u32>| {
            let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
            async move {
                gate.acquire().await?.forget();
                done.fetch_add(1, Ordering::SeqCst);
                Ok::<_, prom_sdk::BoxError>(())
            }
        };
        client.subscribe("a", "g").from(StartFrom::Earliest).max_in_flight(5).handle(handler).await.unwrap()
    };
    let mut stream = client.subscribe("b", "g").await.unwrap();
    for n in 0..10 {
        client.publish("a", &n).await.unwrap();
        client.publish("b", &n).await.unwrap();
    }
    let held = in_time(stream.next()).await.unwrap();
    let started = tokio::spawn(client.publish("c", &1));
    in_time(started).await.unwrap().unwrap();

    let draining = tokio::spawn({
        let client = client.clone();
        async move { client.close_drained(DEADLINE).await }
    });
    // What comes before the end and is let go is left to others.
    while in_time(stream.next()).await.is_some() {}
    drop(stream);
    in_time(client.publish("c", &2)).await.expect("what runs may publish");
    assert_eq!(kind(in_time(async { client.subscribe("c", "g").await }).await), ErrorKind::Closed);
    gate.add_permits(100);
    until("five events to be handled", async || done.load(Ordering::SeqCst) == 5).await;
    assert!(!draining.is_finished(), "one delivery is held");
    in_time(held.ack()).await.unwrap();
    in_time(draining).await.unwrap().unwrap();
    assert_eq!(kind(in_time(client.publish("c", &3)).await), ErrorKind::Closed);
    in_time(handling.finished()).await;
    assert_eq!(done.load(Ordering::SeqCst), 5, "what had not begun was left to others");

    for (topic, expected) in [("a", 5), ("b", 1)] {
        let mut rest = other.subscribe(topic, "g").await.unwrap();
        let delivery = in_time(rest.next()).await.unwrap();
        assert_eq!(delivery.payload::<u32>().unwrap(), expected, "what was before it is settled");
        drop(delivery);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flush_ready_and_closed_tell_when_it_is_so() {
    let hub = hub().await;
    let lazy = builder(url(&hub)).connect_lazily().unwrap();
    in_time(lazy.ready()).await.unwrap();
    let publishing: Vec<_> = (0..500).map(|n| lazy.publish("a", &n)).collect();
    in_time(lazy.flush()).await.unwrap();
    for (n, publishing) in (1..).zip(publishing) {
        // Without tokio's budget, which has a task yield after so many answers.
        let answer = tokio::task::unconstrained(publishing).now_or_never().expect("answered");
        assert_eq!(answer.unwrap().seq, n);
    }
    let many = in_time(lazy.publish_many("b", ["x", "y", "z"])).await.unwrap();
    assert_eq!(many.iter().map(|published| published.seq).collect::<Vec<_>>(), [1, 2, 3]);
    let closed = tokio::spawn({
        let client = lazy.clone();
        async move { client.closed().await }
    });
    lazy.close().await;
    assert!(in_time(closed).await.unwrap().is_none());
    assert_eq!(kind(in_time(lazy.ready()).await), ErrorKind::Closed);
    assert_eq!(kind(in_time(lazy.flush()).await), ErrorKind::Closed);

    let refused = Client::builder(url(&hub)).token("nonsense").connect_lazily().unwrap();
    assert_eq!(kind(in_time(refused.ready()).await), ErrorKind::Unauthorized);
    assert_eq!(in_time(refused.closed()).await.unwrap().kind(), ErrorKind::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_takes_too_long_becomes_a_close() {
    let hub = hub().await;
    let client = client(&hub).await;
    let mut stream = client.subscribe("a", "g").await.unwrap();
    client.publish("a", &1).await.unwrap();
    let held = in_time(stream.next()).await.unwrap();
    assert_eq!(kind(in_time(client.close_drained(Duration::from_millis(50))).await), ErrorKind::Timeout);
    assert_eq!(kind(in_time(held.ack()).await), ErrorKind::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_is_told() {
    let first = hub().await;
    let address = first.address();
    let client = builder(url(&first)).connect_lazily().unwrap();
    reaches(&client, State::Ready).await;
    let mut deliveries = client.subscribe("a", "g").await.unwrap();
    first.shutdown().await;
    let why = reaches(&client, State::Reconnecting).await.unwrap();
    assert!(why.retryable(), "{why}");
    assert!(client.state().borrow().retry_in.is_some());
    let second = hub_at(address).await;
    reaches(&client, State::Ready).await;
    in_time(client.publish("a", &1)).await.unwrap();
    assert_eq!(in_time(deliveries.next()).await.unwrap().payload::<u32>().unwrap(), 1, "subscribed again");
    client.close().await;
    assert!(reaches(&client, State::Closed).await.is_none(), "as it was asked to");
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_without_tls_gets_nothing_from_a_client_with() {
    use tokio::io::AsyncReadExt;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://{}/ws", listener.local_addr().unwrap());
    let connecting = tokio::spawn(builder(url).request_timeout(Duration::from_secs(5)).connect());
    let (mut stream, _) = in_time(listener.accept()).await.unwrap();
    let mut hello = [0; 3];
    in_time(stream.read_exact(&mut hello)).await.unwrap();
    assert_eq!(hello, [0x16, 0x03, 0x01], "a TLS handshake, nothing else");
    drop((stream, listener));
    assert_eq!(kind(in_time(connecting).await.unwrap()), ErrorKind::Timeout);
}
