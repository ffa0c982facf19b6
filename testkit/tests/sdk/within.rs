//! What a handler may call while it runs: the end of its own handling, of its client, a flush.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use prom_sdk::{BoxError, Client, ErrorKind, Handling, Received, State};
use prom_testkit::{DEADLINE, hub, in_time, until};
use tokio::sync::{Notify, Semaphore};

use crate::{client, reaches};

/// The next event of the group is this one, at its first attempt: what was acknowledged before does not come again.
async fn next_is(other: &Client, payload: u32) {
    let mut rest = in_time(other.subscribe("a", "g").into_future()).await.unwrap();
    let delivery = in_time(rest.next()).await.unwrap();
    assert_eq!((delivery.payload::<u32>().unwrap(), delivery.context().attempt), (payload, 1));
    in_time(delivery.ack()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_stops_its_own_handling_does_not_wait_for_itself() {
    let hub = hub().await;
    let (client, other) = (client(&hub).await, client(&hub).await);
    let slot: Arc<Mutex<Option<Handling>>> = Arc::default();
    let (stopped, gate, finished) =
        (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let handling = {
        let (slot, stopped, gate, finished) =
            (Arc::clone(&slot), Arc::clone(&stopped), Arc::clone(&gate), Arc::clone(&finished));
        let handler = move |received: Received<u32>| {
            let (slot, stopped, gate, finished) =
                (Arc::clone(&slot), Arc::clone(&stopped), Arc::clone(&gate), Arc::clone(&finished));
            async move {
                if received.payload == 2 {
                    let handling = slot.lock().unwrap().take();
                    handling.unwrap().stop().await;
                    stopped.notify_one();
                } else {
                    // The other one still runs then, and is not cancelled.
                    gate.acquire().await?.forget();
                }
                finished.fetch_add(1, Ordering::SeqCst);
                Ok::<_, BoxError>(())
            }
        };
        in_time(client.subscribe("a", "g").max_in_flight(2).handle(handler)).await.unwrap()
    };
    *slot.lock().unwrap() = Some(handling);
    for n in [1, 2, 3] {
        in_time(client.publish("a", &n)).await.unwrap();
    }
    in_time(stopped.notified()).await;
    gate.add_permits(10);
    until("the handlers to finish", async || finished.load(Ordering::SeqCst) == 2).await;
    next_is(&other, 3).await;
    assert_eq!(finished.load(Ordering::SeqCst), 2, "nothing new was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_drains_its_client_does_not_wait_for_itself() {
    let hub = hub().await;
    let (client, other) = (client(&hub).await, client(&hub).await);
    let draining = client.clone();
    let handler = move |_: Received<u32>| {
        let client = draining.clone();
        async move {
            client.close_drained(DEADLINE).await?;
            // It may still publish.
            client.publish("b", &1).await?;
            Ok::<_, BoxError>(())
        }
    };
    let handling = in_time(client.handle("a", "g", handler)).await.unwrap();
    in_time(client.publish("a", &1)).await.unwrap();
    assert!(in_time(client.closed()).await.is_none());
    assert_eq!(in_time(handling.finished()).await.kind(), ErrorKind::Closed);
    assert_eq!(in_time(other.publish("b", &2)).await.unwrap().seq, 2, "what the handler published is there");
    in_time(other.publish("a", &2)).await.unwrap();
    next_is(&other, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_closes_its_client_gives_its_event_back() {
    let hub = hub().await;
    let (client, other) = (client(&hub).await, client(&hub).await);
    let closing = client.clone();
    let handler = move |_: Received<u32>| {
        let client = closing.clone();
        async move {
            client.close().await;
            Ok::<_, BoxError>(())
        }
    };
    let handling = in_time(client.handle("a", "g", handler)).await.unwrap();
    in_time(other.publish("a", &1)).await.unwrap();
    assert!(reaches(&client, State::Closed).await.is_none());
    assert_eq!(in_time(handling.finished()).await.kind(), ErrorKind::Closed);
    let mut again = in_time(other.subscribe("a", "g").into_future()).await.unwrap();
    assert_eq!(in_time(again.next()).await.unwrap().context().attempt, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_may_flush() {
    const EVENTS: u32 = 50;
    let hub = hub().await;
    let (client, other) = (client(&hub).await, client(&hub).await);
    let done = Arc::new(AtomicUsize::new(0));
    let (publisher, count) = (client.clone(), Arc::clone(&done));
    let handler = move |received: Received<u32>| {
        let (client, count) = (publisher.clone(), Arc::clone(&count));
        async move {
            let publishing = client.publish("b", &received.payload);
            client.flush().await?;
            assert!(futures_util::FutureExt::now_or_never(publishing).is_some(), "answered");
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<_, BoxError>(())
        }
    };
    let _handling = in_time(client.subscribe("a", "g").max_in_flight(4).handle(handler)).await.unwrap();
    for n in 1..=EVENTS {
        in_time(other.publish("a", &n)).await.unwrap();
    }
    until("all of them", async || done.load(Ordering::SeqCst) == EVENTS as usize).await;
    assert_eq!(in_time(other.publish("b", &0)).await.unwrap().seq, u64::from(EVENTS) + 1);
}
