//! Handlers guarded by a dedupe store, against a real hub.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prom_sdk::{
    Claim, Client, DedupeStore, ErrorKind, Handling, MemoryDedupe, PublishOptions, Received, StartFrom, Subscription,
};
use prom_testkit::{Relay, hub, in_time, until};
use tokio::sync::{Semaphore, mpsc};

use crate::{builder, client};

const LONG: Duration = Duration::from_secs(3600);
const SCOPE: &str = "a::g";

fn memory() -> Arc<MemoryDedupe> {
    Arc::new(MemoryDedupe::new(1000, LONG))
}

async fn publish(client: &Client, id: &str) {
    in_time(client.publish_with("a", &id, PublishOptions::new().id(id))).await.unwrap();
}

/// Joins the group after its handling: what comes first is the first event that is not settled.
async fn join(client: &Client) -> Subscription {
    in_time(client.subscribe("a", "g").from(StartFrom::Earliest).into_future()).await.unwrap()
}

/// The group's next event is `id`, and it was not delivered before.
async fn all_is_settled_before(id: &str, client: &Client) {
    let mut rest = join(client).await;
    publish(client, id).await;
    let delivery = in_time(rest.next()).await.unwrap();
    assert_eq!((delivery.event().id.as_str(), delivery.context().attempt), (id, 1));
    in_time(delivery.ack()).await.unwrap();
}

/// A handling that tells the ids and attempts its handler was called with.
async fn telling<S: DedupeStore>(client: &Client, store: S) -> (Handling, mpsc::UnboundedReceiver<(String, u32)>) {
    let (tell, told) = mpsc::unbounded_channel();
    let handler = move |received: Received<String>| {
        let sent = tell.send((received.payload, received.context.attempt));
        async move { sent }
    };
    let subscribe = client.subscribe("a", "g").from(StartFrom::Earliest);
    (in_time(subscribe.handle_exactly_once(store, handler)).await.unwrap(), told)
}

/// A store in memory that fails and tells on demand.
#[derive(Clone)]
struct Probe {
    marks: Arc<MemoryDedupe>,
    /// So many calls fail.
    failures: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
    /// Calls of `mark` wait for a permit after the mark is there.
    after_mark: Arc<Semaphore>,
    marked: Arc<AtomicUsize>,
}

impl Probe {
    fn new(failures: usize) -> Self {
        Self {
            marks: memory(),
            failures: Arc::new(AtomicUsize::new(failures)),
            held: Arc::default(),
            after_mark: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            marked: Arc::default(),
        }
    }

    fn fail(&self) -> io::Result<()> {
        let left = self.failures.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() { Err(io::Error::other("the store is away")) } else { Ok(()) }
    }
}

fn sure<T>(result: Result<T, Infallible>) -> T {
    let Ok(value) = result;
    value
}

impl DedupeStore for Probe {
    type Error = io::Error;

    async fn seen(&self, scope: &str, id: &str) -> io::Result<bool> {
        self.fail()?;
        Ok(sure(self.marks.seen(scope, id).await))
    }

    async fn mark(&self, scope: &str, id: &str) -> io::Result<()> {
        self.fail()?;
        sure(self.marks.mark(scope, id).await);
        self.marked.fetch_add(1, Ordering::SeqCst);
        self.after_mark.acquire().await.map(drop).map_err(io::Error::other)
    }

    async fn claim(&self, scope: &str, id: &str, holder: &str, lease: Duration) -> io::Result<Claim> {
        self.fail()?;
        let claim = sure(self.marks.claim(scope, id, holder, lease).await);
        self.held.fetch_add(usize::from(claim == Claim::Held), Ordering::SeqCst);
        Ok(claim)
    }

    async fn release(&self, scope: &str, id: &str, holder: &str) -> io::Result<()> {
        self.fail()?;
        self.marks.release(scope, id, holder).await.map_err(|never| match never {})
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_event_is_acknowledged_without_its_handler() {
    let hub = hub().await;
    let client = client(&hub).await;
    let store = memory();
    sure(store.mark(SCOPE, "1").await);
    publish(&client, "1").await;
    publish(&client, "2").await;
    let (handling, mut told) = telling(&client, Arc::clone(&store)).await;
    assert_eq!(in_time(told.recv()).await.unwrap(), ("2".to_owned(), 1), "not the first");
    in_time(handling.stop()).await;
    assert!(told.try_recv().is_err());
    assert!(sure(store.seen(SCOPE, "2").await));
    all_is_settled_before("3", &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_is_lost_does_not_call_the_handler_again() {
    let hub = hub().await;
    let relay = Relay::start(hub.address()).await;
    let client = in_time(builder(relay.url()).connect()).await.unwrap();
    let mut store = Probe::new(0);
    store.after_mark = Arc::new(Semaphore::new(0));
    let (handling, mut told) = telling(&client, store.clone()).await;
    publish(&client, "1").await;
    assert_eq!(in_time(told.recv()).await.unwrap(), ("1".to_owned(), 1));
    until("the mark", async || store.marked.load(Ordering::SeqCst) == 1).await;
    // The mark is there, and the acknowledgement has no connection to go on.
    in_time(relay.cut()).await;
    store.after_mark.add_permits(100);
    publish(&client, "2").await;
    assert_eq!(in_time(told.recv()).await.unwrap().0, "2", "not the first again");
    in_time(handling.stop()).await;
    assert!(told.try_recv().is_err());
    all_is_settled_before("3", &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_with_the_same_event_at_the_same_time_call_one_handler() {
    let hub = hub().await;
    let relay = Relay::start(hub.address()).await;
    let (cut_off, other) = (in_time(builder(relay.url()).connect()).await.unwrap(), client(&hub).await);
    let store = Probe::new(0);
    let (gate, calls) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let slow = {
        let (gate, calls) = (Arc::clone(&gate), Arc::clone(&calls));
        move |_: Received<String>| {
            calls.fetch_add(1, Ordering::SeqCst);
            let gate = Arc::clone(&gate);
            async move { gate.acquire().await.map(drop) }
        }
    };
    let first = cut_off.subscribe("a", "g").handle_exactly_once(store.clone(), slow);
    let first = in_time(first).await.unwrap();
    publish(&other, "1").await;
    until("the first call", async || calls.load(Ordering::SeqCst) == 1).await;

    let (second, mut told) = telling(&other, store.clone()).await;
    in_time(relay.cut()).await;
    // Whoever has it now, the same client or the other one, waits for the handler that runs.
    until("the claim to be held on", async || store.held.load(Ordering::SeqCst) > 1).await;
    gate.add_permits(100);
    until("the mark", async || store.marked.load(Ordering::SeqCst) == 1).await;
    in_time(first.stop()).await;
    in_time(second.stop()).await;
    assert!(told.try_recv().is_err());
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    all_is_settled_before("2", &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_member_that_died_ends() {
    let hub = hub().await;
    let client = client(&hub).await;
    let store = Probe::new(0);
    assert_eq!(sure(store.marks.claim(SCOPE, "1", "dead", LONG).await), Claim::Granted);
    publish(&client, "1").await;
    let (handling, mut told) = telling(&client, store.clone()).await;
    until("the mark to be held back", async || store.held.load(Ordering::SeqCst) > 0).await;
    assert!(told.try_recv().is_err());
    // The last time that it is renewed.
    assert_eq!(sure(store.marks.claim(SCOPE, "1", "dead", Duration::from_millis(500)).await), Claim::Granted);
    assert_eq!(in_time(told.recv()).await.unwrap(), ("1".to_owned(), 1));
    in_time(handling.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_handler_keeps_its_claim() {
    let hub = hub().await;
    let client = client(&hub).await;
    let store = memory();
    let (gate, calls) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (gate, calls) = (Arc::clone(&gate), Arc::clone(&calls));
        move |_: Received<String>| {
            calls.fetch_add(1, Ordering::SeqCst);
            let gate = Arc::clone(&gate);
            async move { gate.acquire().await.map(drop) }
        }
    };
    let lease = Duration::from_secs(3);
    let subscribe = client.subscribe("a", "g").ack_timeout(lease);
    let handling = in_time(subscribe.handle_exactly_once(Arc::clone(&store), handler)).await.unwrap();
    publish(&client, "1").await;
    until("the first call", async || calls.load(Ordering::SeqCst) == 1).await;
    // A claim of the same length on something else shows how time passes: three have ended.
    for n in 0..3 {
        let holder = n.to_string();
        assert_eq!(sure(store.claim("clock", "1", &holder, lease).await), Claim::Granted);
        in_time(async {
            while sure(store.claim("clock", "1", "other", Duration::ZERO).await) == Claim::Held {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert_eq!(sure(store.claim(SCOPE, "1", "thief", lease).await), Claim::Held);
    }
    gate.add_permits(100);
    in_time(handling.stop()).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert!(sure(store.seen(SCOPE, "1").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_failed_is_called_again_and_nothing_is_marked() {
    let hub = hub().await;
    let client = client(&hub).await;
    let store = Probe::new(0);
    let calls = Arc::new(AtomicUsize::new(0));
    let (marks, count) = (Arc::clone(&store.marks), Arc::clone(&calls));
    let handler = move |_: Received<String>| {
        let (marks, count) = (Arc::clone(&marks), Arc::clone(&count));
        async move {
            assert!(!sure(marks.seen(SCOPE, "1").await));
            match count.fetch_add(1, Ordering::SeqCst) {
                0 => Err(io::Error::other("not yet")),
                1 => panic!("nor now"),
                _ => Ok(()),
            }
        }
    };
    let handling = in_time(client.subscribe_exactly_once("a", "g", store.clone(), handler)).await.unwrap();
    publish(&client, "1").await;
    until("the mark", async || store.marked.load(Ordering::SeqCst) == 1).await;
    in_time(handling.stop()).await;
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    assert_eq!(store.held.load(Ordering::SeqCst), 0, "the claims were released");
    all_is_settled_before("2", &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_is_asked_again_and_uses_up_no_attempt() {
    let hub = hub().await;
    let client = client(&hub).await;
    let store = Probe::new(2);
    publish(&client, "1").await;
    let (handling, mut told) = telling(&client, store.clone()).await;
    assert_eq!(in_time(told.recv()).await.unwrap(), ("1".to_owned(), 1));
    in_time(handling.stop()).await;

    let store = Probe::new(0);
    let (fails, failures) = (AtomicBool::new(true), Arc::clone(&store.failures));
    let handler = move |_: Received<String>| {
        // The mark, that is.
        failures.store(2 * usize::from(fails.swap(false, Ordering::SeqCst)), Ordering::SeqCst);
        async { Ok::<_, Infallible>(()) }
    };
    let handling = in_time(client.subscribe_exactly_once("a", "g", store.clone(), handler)).await.unwrap();
    publish(&client, "2").await;
    until("the mark", async || store.marked.load(Ordering::SeqCst) == 1).await;
    in_time(handling.stop()).await;
    all_is_settled_before("3", &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_while_the_store_is_away_gives_the_event_back() {
    let hub = hub().await;
    let client = client(&hub).await;
    let away = Probe::new(usize::MAX);
    publish(&client, "1").await;
    let (handling, mut told) = telling(&client, away.clone()).await;
    until("a failure", async || away.failures.load(Ordering::SeqCst) < usize::MAX).await;
    in_time(handling.stop()).await;
    assert!(told.try_recv().is_err());
    let (handling, mut told) = telling(&client, memory()).await;
    assert_eq!(in_time(told.recv()).await.unwrap(), ("1".to_owned(), 2));
    in_time(handling.stop()).await;
}

/// What a store must have at the least.
struct Plain(MemoryDedupe);

impl DedupeStore for Plain {
    type Error = Infallible;

    async fn seen(&self, scope: &str, id: &str) -> Result<bool, Infallible> {
        self.0.seen(scope, id).await
    }

    async fn mark(&self, scope: &str, id: &str) -> Result<(), Infallible> {
        self.0.mark(scope, id).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_claims_is_enough_for_repeats() {
    let hub = hub().await;
    let client = client(&hub).await;
    let store = Arc::new(Plain(MemoryDedupe::new(10, LONG)));
    sure(store.mark(SCOPE, "1").await);
    publish(&client, "1").await;
    publish(&client, "2").await;
    let (handling, mut told) = telling(&client, Arc::clone(&store)).await;
    assert_eq!(in_time(told.recv()).await.unwrap(), ("2".to_owned(), 1));
    in_time(handling.stop()).await;
    assert!(sure(store.seen(SCOPE, "2").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_acknowledgements_there_is_no_exactly_once() {
    let hub = hub().await;
    let client = client(&hub).await;
    let subscribe = client.subscribe("a", "g").without_acks();
    let handler = async |_: Received<String>| Ok::<_, Infallible>(());
    let error = in_time(subscribe.handle_exactly_once(memory(), handler)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("ack"), "{error}");
}
