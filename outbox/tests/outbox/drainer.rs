//! What a drainer does with rows, hubs and stores that fail.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use prom_outbox::{
    Claim, ClaimRequest, Drainer, Filter, Mark, MemoryOutbox, NewRow, Options, OutboxEvent, OutboxStore, Outcome,
    Publish, PublishError, Row, Stats, Status, StoreError, in_key_order,
};
use prom_protocol::{EventOptions, RawValue};
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use crate::fake_hub::{FakeHub, assert_key_order, until};

/// A store that counts its calls, and fails some of them.
#[derive(Debug, Default)]
struct Counting {
    inner: MemoryOutbox,
    claims: AtomicUsize,
    settles: AtomicUsize,
    /// So many calls fail from now on.
    failing_claims: AtomicUsize,
    failing_settles: AtomicUsize,
    /// So many milliseconds pass before the answer to a claim.
    slow_claims: AtomicUsize,
}

impl Counting {
    fn fails(left: &AtomicUsize) -> Result<(), StoreError> {
        match left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(StoreError::Unavailable("as told".into())),
            Err(_) => Ok(()),
        }
    }

    fn fill(&self, rows: &[(&str, Option<&str>)]) {
        for (ts, (id, key)) in rows.iter().enumerate() {
            let row = NewRow::new("t", &1).unwrap().id(*id).ts(ts as u64);
            self.inner
                .add(match key {
                    Some(key) => row.key(*key),
                    None => row,
                })
                .unwrap();
        }
    }

    async fn row(&self, id: &str) -> Row {
        self.inner.list(&Filter::id(id), 1).await.unwrap().remove(0)
    }

    async fn count(&self, status: Status) -> usize {
        self.inner.list(&Filter::status(status), usize::MAX).await.unwrap().len()
    }
}

#[async_trait]
impl OutboxStore for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, StoreError> {
        self.claims.fetch_add(1, SeqCst);
        Self::fails(&self.failing_claims)?;
        let claim = self.inner.claim(request).await;
        match self.slow_claims.load(SeqCst) {
            0 => {}
            slow => tokio::time::sleep(Duration::from_millis(slow as u64)).await,
        }
        claim
    }

    async fn settle(&self, fence: u64, marks: &[Mark]) -> Result<usize, StoreError> {
        self.settles.fetch_add(1, SeqCst);
        Self::fails(&self.failing_settles)?;
        self.inner.settle(fence, marks).await
    }

    async fn remove_sent(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.inner.remove_sent(age, limit).await
    }

    async fn stats(&self) -> Result<Stats, StoreError> {
        self.inner.stats().await
    }

    async fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.inner.list(filter, limit).await
    }

    async fn retry(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.inner.retry(filter).await
    }

    async fn drop_rows(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.inner.drop_rows(filter).await
    }

    async fn watch(&self, wake: &Notify) -> Result<Infallible, StoreError> {
        self.inner.watch(wake).await
    }
}

/// Short waits.
fn quick() -> Options {
    Options {
        backoff_first: Duration::from_millis(5),
        backoff_most: Duration::from_millis(50),
        pause_first: Duration::from_millis(5),
        pause_most: Duration::from_millis(50),
        ..Options::default()
    }
}

struct Running {
    drainer: Arc<Drainer>,
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

fn start(store: &Arc<Counting>, hub: &Arc<FakeHub>, options: Options) -> Running {
    start_with(store, Arc::clone(hub) as _, options)
}

fn start_with(store: &Arc<Counting>, hub: Arc<dyn Publish>, options: Options) -> Running {
    let drainer = Arc::new(Drainer::new(Arc::clone(store) as _, hub, options));
    let stop = Arc::new(Notify::new());
    let (running, stopped) = (Arc::clone(&drainer), Arc::clone(&stop));
    let task = tokio::spawn(async move { running.run(stopped.notified()).await });
    Running { drainer, stop, task }
}

impl Running {
    async fn stop(self) -> Arc<Drainer> {
        self.stop.notify_one();
        self.task.await.unwrap();
        self.drainer
    }
}

fn store() -> Arc<Counting> {
    Arc::default()
}

async fn all_sent(store: &Counting, rows: usize) {
    until("all rows are sent", async || store.count(Status::Sent).await == rows).await;
}

#[tokio::test]
async fn rows_are_published_once_and_in_order_through_failures() {
    let store = store();
    let rows: Vec<_> = (0..400).map(|n| (format!("r{n:03}"), (n % 4 != 0).then(|| format!("k{}", n % 7)))).collect();
    store.fill(&rows.iter().map(|(id, key)| (id.as_str(), key.as_deref())).collect::<Vec<_>>());
    let hub = FakeHub::refusing(|event, tries| {
        let unlucky = event.id().bytes().map(usize::from).sum::<usize>() % 5 == 0;
        (unlucky && tries <= 2).then(|| PublishError::new("internal", "later", true))
    });
    let drainer = start(&store, &hub, Options { batch: 13, ..quick() });
    all_sent(&store, 400).await;
    let tally = drainer.stop().await.tally();
    assert_eq!((hub.order().len(), hub.duplicates().len()), (400, 0));
    assert_key_order(&hub.order());
    assert_eq!(hub.overlaps.load(SeqCst), 0, "a key was in two batches at once");
    assert_eq!((tally.published, tally.parked, tally.refused), (400, 0, 0));
    assert!(tally.retried > 0, "{tally:?}");
}

#[tokio::test]
async fn a_row_that_fails_holds_back_its_key_and_nothing_else() {
    let store = store();
    store.fill(&[("a1", Some("a")), ("a2", Some("a")), ("b1", Some("b")), ("x", None)]);
    let hub = FakeHub::refusing(|event, tries| {
        (event.id() == "a1" && tries <= 3).then(|| PublishError::new("internal", "later", true))
    });
    let drainer = start(&store, &hub, quick());
    all_sent(&store, 4).await;
    drainer.stop().await;
    assert_eq!(hub.ids()[2..], ["a1", "a2"]);
    assert_eq!((hub.tries("a1"), hub.tries("a2")), (4, 1));
    assert_eq!(store.row("a1").await.attempts, 3);
}

#[tokio::test]
async fn a_row_that_will_never_be_published_is_parked_at_once() {
    let store = store();
    store.fill(&[("a1", Some("a")), ("a2", Some("a"))]);
    let hub = FakeHub::refusing(|event, _| {
        (event.id() == "a1").then(|| PublishError::new("bad_payload", "payload is none", false))
    });
    let drainer = start(&store, &hub, quick());
    all_sent(&store, 1).await;
    assert_eq!(drainer.stop().await.tally().parked, 1);
    let parked = store.row("a1").await;
    assert_eq!((parked.status, parked.attempts), (Status::Error, 1));
    assert_eq!(parked.last_err.as_deref(), Some("bad_payload: payload is none"));
    assert_eq!(hub.tries("a1"), 1);
}

#[tokio::test]
async fn what_is_forbidden_for_a_while_is_published_in_order_when_it_is_allowed() {
    // Bug: a scope that a new token lacked for a minute parked the whole backlog, and what came later overtook it.
    let store = store();
    store.fill(&[("a1", Some("a")), ("a2", Some("a")), ("a3", Some("a"))]);
    let hub = FakeHub::refusing(|event, tries| {
        (event.id() == "a1" && tries <= 3).then(|| PublishError::new("forbidden", "publishing t is not allowed", false))
    });
    let drainer = start(&store, &hub, quick());
    all_sent(&store, 3).await;
    assert_eq!(drainer.stop().await.tally().parked, 0);
    assert_eq!(hub.ids(), ["a1", "a2", "a3"]);
}

#[tokio::test]
async fn a_row_is_parked_after_its_last_try_and_its_key_goes_on() {
    let store = store();
    store.fill(&[("a1", Some("a")), ("a2", Some("a"))]);
    let hub = FakeHub::refusing(|event, _| (event.id() == "a1").then(|| PublishError::new("internal", "never", true)));
    let drainer = start(&store, &hub, Options { max_attempts: 4, ..quick() });
    all_sent(&store, 1).await;
    drainer.stop().await;
    let parked = store.row("a1").await;
    assert_eq!((parked.status, parked.attempts, hub.tries("a1")), (Status::Error, 4, 4));
}

#[tokio::test]
async fn while_the_hub_is_away_nothing_counts_as_a_try() {
    let store = store();
    store.fill(&[("a1", Some("a")), ("a2", Some("a")), ("x", None)]);
    let hub = FakeHub::new();
    hub.away.store(true, SeqCst);
    let drainer = start(&store, &hub, Options { max_attempts: 2, ..quick() });
    until("the hub was tried five times", async || drainer.drainer.tally().publisher_errors >= 5).await;
    hub.away.store(false, SeqCst);
    all_sent(&store, 3).await;
    let tally = drainer.stop().await.tally();
    assert_eq!((tally.retried, tally.parked, store.row("a1").await.attempts), (0, 0, 0));
    assert_key_order(&hub.order());
}

#[tokio::test(start_paused = true)]
async fn while_the_hub_is_away_it_is_left_alone() {
    let store = store();
    store.fill(&[("a", None)]);
    let hub = FakeHub::new();
    hub.away.store(true, SeqCst);
    let drainer = start(&store, &hub, Options::default());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let claims = store.claims.load(SeqCst);
    assert!((10..=40).contains(&claims), "{claims} claims in a minute");
    drainer.stop().await;
}

#[tokio::test]
async fn timeouts_alone_park_no_row() {
    // Bug: a hub that was slow for some tries lost rows to the parking lot.
    let store = store();
    store.fill(&[("slow", Some("k")), ("a", None)]);
    let hub = FakeHub::refusing(|event, tries| {
        (event.id() == "slow" && tries <= 6).then(|| PublishError::new("timeout", "no answer in time", true))
    });
    // Rows enough for it to be among others at every try.
    let drainer = start(&store, &hub, Options { max_attempts: 3, ..quick() });
    let mut n = 0;
    while !hub.ids().contains(&"slow".to_owned()) {
        n += 1;
        assert!(n < 10_000 && store.count(Status::Error).await == 0, "it is published at last");
        store.fill(&[(&format!("more{n}"), None)]);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(drainer.stop().await.tally().parked, 0);
    assert_eq!(hub.tries("slow"), 7);
}

/// A publisher that has its limits.
struct Slow {
    hub: Arc<FakeHub>,
    /// What an event takes.
    each: Duration,
    /// It is never done with more than so many.
    most: usize,
}

#[async_trait]
impl Publish for Slow {
    async fn publish(&self, events: &[OutboxEvent], within: Duration) -> Vec<Outcome> {
        if events.len() > self.most {
            std::future::pending::<()>().await;
        }
        in_key_order(events, within, |event, left| async move {
            tokio::time::sleep(self.each).await;
            match self.hub.publish(std::slice::from_ref(event), left).await.pop() {
                Some(Outcome::Published(published)) => Ok(published),
                _ => Err(PublishError::new("internal", "it was not published", true)),
            }
        })
        .await
    }
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_one_key_is_drained_by_a_slow_hub() {
    // Bug: a batch that took longer than its time was published, not marked, and published again, for ever.
    let store = store();
    let ids: Vec<_> = (0..600).map(|n| format!("a{n:04}")).collect();
    store.fill(&ids.iter().map(|id| (id.as_str(), Some("a"))).collect::<Vec<_>>());
    store.fill(&[("b", Some("b"))]);
    let hub = FakeHub::new();
    let slow = Slow { hub: Arc::clone(&hub), each: Duration::from_millis(25), most: usize::MAX };
    let drainer = start_with(&store, Arc::new(slow), Options::default());
    all_sent(&store, 601).await;
    assert!(hub.duplicates().len() < 10, "{} were published twice", hub.duplicates().len());
    assert_key_order(&hub.order());
    drainer.stop().await;
}

#[tokio::test(start_paused = true)]
async fn batches_become_smaller_until_they_are_published_in_time() {
    // Bug: a batch that was too much for the publisher was tried again as it was, for ever.
    let store = store();
    let ids: Vec<_> = (0..100).map(|n| format!("r{n:03}")).collect();
    store.fill(&ids.iter().map(|id| (id.as_str(), None)).collect::<Vec<_>>());
    let hub = FakeHub::new();
    let slow = Slow { hub: Arc::clone(&hub), each: Duration::ZERO, most: 10 };
    let drainer = start_with(&store, Arc::new(slow), Options { batch: 100, ..Options::default() });
    all_sent(&store, 100).await;
    drainer.stop().await;
}

#[tokio::test]
async fn a_duplicate_of_a_row_that_was_never_claimed_is_noticed() {
    // Bug: a row whose id another event had was marked sent, and nothing said that its own event was lost.
    let store = store();
    store.fill(&[("7", None), ("a", None)]);
    let hub = FakeHub::new();
    let others = OutboxEvent::new("t", "7".into(), EventOptions::default(), RawValue::NULL.to_owned()).unwrap();
    hub.publish(&[others], Duration::from_secs(1)).await;
    let drainer = start(&store, &hub, quick());
    all_sent(&store, 2).await;
    let tally = drainer.stop().await.tally();
    assert_eq!((tally.duplicates, tally.unexpected), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn claims_that_fail_beside_a_batch_wait_for_it() {
    // Bug: a search for other keys than those in hand that was too long was made again and again.
    let store = store();
    store.fill(&[("a", Some("a"))]);
    let hub = FakeHub::new();
    hub.silent.store(true, SeqCst);
    let drainer = start(&store, &hub, Options::default());
    until("a batch is under way", async || hub.order().len() == 1).await;
    store.failing_claims.store(1_000, SeqCst);
    store.fill(&[("b", Some("b"))]);
    let since = store.claims.load(SeqCst);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(store.claims.load(SeqCst) - since, 1);
    drainer.stop().await;
}

#[tokio::test]
async fn stopping_finishes_what_is_being_published() {
    let store = store();
    store.fill(&[("a", None), ("b", Some("k"))]);
    let hub = FakeHub::new();
    hub.silent.store(true, SeqCst);
    let drainer = start(&store, &hub, Options { stop_within: Duration::from_secs(20), ..quick() });
    until("the batch is published", async || hub.order().len() == 2).await;
    drainer.stop.notify_one();
    hub.speak();
    drainer.task.await.unwrap();
    assert_eq!((store.count(Status::Sent).await, hub.duplicates().len()), (2, 0));
}

#[tokio::test]
async fn stopping_gives_back_what_is_not_answered() {
    let store = store();
    store.fill(&[("a", None), ("b", Some("k"))]);
    let hub = FakeHub::new();
    hub.silent.store(true, SeqCst);
    let drainer = start(&store, &hub, Options { stop_within: Duration::from_millis(50), ..quick() });
    until("the batch is published", async || hub.order().len() == 2).await;
    assert_eq!(drainer.stop().await.tally().released, 2);
    assert_eq!((store.count(Status::Pending).await, store.row("a").await.attempts), (2, 0));
}

/// From being told to stop to having stopped.
async fn stopping(drainer: Running) -> (Duration, Arc<Drainer>) {
    let since = Instant::now();
    let drainer = drainer.stop().await;
    (since.elapsed(), drainer)
}

#[tokio::test(start_paused = true)]
async fn stopping_takes_no_longer_when_nothing_can_be_marked() {
    // Bug: marks were tried until the lease ended, half a minute after the process was told to stop.
    let store = store();
    store.fill(&[("a", None)]);
    store.failing_settles.store(usize::MAX, SeqCst);
    let hub = FakeHub::new();
    let drainer = start(&store, &hub, Options::default());
    until("it is published", async || hub.order().len() == 1).await;
    assert!(stopping(drainer).await.0 <= Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn stopping_waits_for_no_claim() {
    // Bug: a claim that hung was waited for as long as any call of the store.
    let store = store();
    store.slow_claims.store(3_600_000, SeqCst);
    let hub = FakeHub::new();
    let drainer = start(&store, &hub, Options { store_timeout: Duration::from_secs(60), ..Options::default() });
    until("a claim is under way", async || store.claims.load(SeqCst) == 1).await;
    assert!(stopping(drainer).await.0 <= Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_ends_after_the_stop_is_given_back() {
    // Bug: it was published although the process was ending.
    let store = store();
    store.fill(&[("a", None)]);
    store.slow_claims.store(500, SeqCst);
    let hub = FakeHub::new();
    let drainer = start(&store, &hub, Options::default());
    until("a claim is under way", async || store.count(Status::Claimed).await == 1).await;
    let (took, drainer) = stopping(drainer).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!((hub.order().len(), store.count(Status::Pending).await, drainer.tally().released), (0, 1, 1));
}

#[tokio::test]
async fn what_was_published_and_not_marked_is_published_again_with_its_id() {
    let store = store();
    store.fill(&[("a1", Some("a")), ("a2", Some("a")), ("x", None)]);
    let hub = FakeHub::new();
    hub.silent.store(true, SeqCst);
    // Only the lease of the first has to end.
    let first = start(&store, &hub, Options { lease: Duration::from_secs(2), ..quick() });
    until("the batch is published", async || hub.order().len() == 3).await;
    first.task.abort();
    assert!(first.task.await.unwrap_err().is_cancelled());
    assert_eq!(store.count(Status::Claimed).await, 3, "it died before it could mark them");
    hub.silent.store(false, SeqCst);
    let second = start(&store, &hub, Options { poll: Duration::from_millis(10), ..quick() });
    all_sent(&store, 3).await;
    let tally = second.stop().await.tally();
    assert_eq!((tally.duplicates, tally.requeued, tally.unexpected), (3, 3, 0));
    assert_eq!((hub.order().len(), hub.duplicates().len()), (3, 3));
}

// The drainer's time is not that of the store, whose leases are as long as they say.
#[tokio::test(start_paused = true)]
async fn a_publisher_that_does_not_answer_is_not_waited_for_beyond_the_lease() {
    let store = store();
    store.fill(&[("a", None)]);
    let hub = FakeHub::new();
    hub.silent.store(true, SeqCst);
    let drainer = start(&store, &hub, Options { lease: Duration::from_secs(30), ..quick() });
    until("it has given up", async || drainer.drainer.tally().released == 1).await;
    assert_eq!(drainer.drainer.tally().refused, 0, "while the claim was its own");
    hub.silent.store(false, SeqCst);
    all_sent(&store, 1).await;
    drainer.stop().await;
    assert_eq!(store.row("a").await.attempts, 0);
}

#[tokio::test]
async fn a_store_that_fails_for_a_while_is_tried_again() {
    let store = store();
    store.fill(&[("a", None)]);
    store.failing_claims.store(3, SeqCst);
    store.failing_settles.store(3, SeqCst);
    let hub = FakeHub::new();
    let drainer = start(&store, &hub, quick());
    all_sent(&store, 1).await;
    let tally = drainer.stop().await.tally();
    assert_eq!((tally.store_errors, hub.tries("a")), (6, 1), "published once, marked at last");
}

#[tokio::test(start_paused = true)]
async fn neither_poison_nor_nothing_to_do_keeps_it_busy() {
    let store = store();
    store.fill(&[("bad1", Some("k")), ("good", Some("k")), ("bad2", None)]);
    let hub = FakeHub::refusing(|event, _| {
        event.id().starts_with("bad").then(|| PublishError::new("bad_payload", "no", false))
    });
    let drainer = start(&store, &hub, Options::default());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((hub.ids(), store.count(Status::Error).await), (vec!["good".to_owned()], 2));
    let (claims, settles) = (store.claims.load(SeqCst), store.settles.load(SeqCst));
    assert!((55..=65).contains(&claims) && settles <= 2, "{claims} claims and {settles} settles in a minute");
    drainer.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_wakes_it() {
    let store = store();
    let hub = FakeHub::new();
    let drainer = start(&store, &hub, Options { poll: Duration::from_secs(3600), ..Options::default() });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let since = Instant::now();
    store.fill(&[("a", None)]);
    while hub.order().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(since.elapsed() < Duration::from_secs(1), "it sleeps until its poll");
    }
    drainer.stop().await;
}

#[tokio::test]
async fn sent_rows_are_deleted_after_the_retention() {
    let store = store();
    store.fill(&[("a", None), ("b", None)]);
    let hub = FakeHub::new();
    let options =
        Options { retention: Some(Duration::from_millis(20)), cleanup_every: Duration::from_millis(10), ..quick() };
    let drainer = start(&store, &hub, options);
    until("they are gone", async || store.stats().await.unwrap() == Stats::default()).await;
    assert_eq!((hub.order().len(), drainer.stop().await.tally().removed), (2, 2));
}
