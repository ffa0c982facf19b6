//! What every [`OutboxStore`] must do: each clause of its contract as a check of its own, for every backend.
//!
//! [`outbox_conformance!`](crate::outbox_conformance) makes one test of each, from a function that makes an empty outbox:
//!
//! ```ignore
//! prom_outbox::outbox_conformance!(|| async { Fixture::new(store, |row| Box::pin(add(row))) });
//! ```
#![expect(missing_docs, reason = "each check is named by what it checks")]
#![expect(clippy::unwrap_used, reason = "a check that fails here says where")]

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;

use crate::{Claim, ClaimRequest, Filter, Mark, NewRow, OutboxStore, Row, RowId, Settle, Stats, Status};

/// One test per check, in a module `conformance`.
#[macro_export]
macro_rules! outbox_conformance {
    ($make:expr) => {
        $crate::outbox_conformance!(@each $make;
            an_empty_outbox_answers_with_nothing
            what_was_added_is_what_is_claimed
            payloads_come_back_to_the_letter
            what_no_hub_would_take_is_not_added
            claims_come_in_order
            a_claim_stops_at_its_limits
            a_claimed_row_is_not_claimed_again
            a_key_is_in_one_claim_at_a_time
            a_row_that_waits_holds_its_key_back
            what_is_released_comes_back_in_order
            a_parked_row_frees_its_key
            a_claim_that_ran_out_is_claimed_again
            a_claim_that_ran_out_gives_no_marks
            marks_belong_to_their_claim
            claims_at_once_share_nothing
            sent_rows_are_deleted_when_they_are_old
            stats_count
            an_operator_finds_rows
            a_parked_row_is_tried_again_when_asked
            rows_are_dropped_but_claimed_ones
        );
    };
    (@each $make:expr; $($name:ident)*) => {
        mod conformance {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let make = $make;
                    $crate::conformance::$name(&make().await).await;
                }
            )*
        }
    };
}

type Adding = BoxFuture<'static, Result<String, String>>;

/// An empty outbox, and how to commit a row to it.
pub struct Fixture {
    store: Arc<dyn OutboxStore>,
    add: Box<dyn Fn(NewRow) -> Adding + Send + Sync>,
}

impl fmt::Debug for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

impl Fixture {
    /// Of a store whose [`OutboxStore::prepare`] has run.
    pub fn new(store: Arc<dyn OutboxStore>, add: impl Fn(NewRow) -> Adding + Send + Sync + 'static) -> Self {
        Self { store, add: Box::new(add) }
    }

    /// Adds rows of these ids and keys, in this order.
    async fn fill(&self, rows: &[(&str, Option<&str>)]) {
        for (ts, (id, key)) in rows.iter().enumerate() {
            self.put(row(id, *key, 1_000 + ts as u64)).await;
        }
    }

    async fn put(&self, row: NewRow) {
        (self.add)(row).await.unwrap();
    }

    async fn claim(&self, limit: usize) -> Claim {
        self.store.claim(&request(limit)).await.unwrap()
    }

    async fn settle(&self, claim: &Claim, settle: Settle) -> usize {
        let marks: Vec<_> = claim.rows.iter().map(|row| Mark { id: row.id.clone(), settle: settle.clone() }).collect();
        self.store.settle(claim.fence, &marks).await.unwrap()
    }

    async fn row(&self, id: &str) -> Row {
        self.store.list(&Filter::id(id), 2).await.unwrap().remove(0)
    }

    async fn count(&self, status: Status) -> usize {
        self.store.list(&Filter::status(status), 1000).await.unwrap().len()
    }
}

/// Far beyond what is waited for, so that only a defect meets it.
const PATIENCE: Duration = Duration::from_secs(120);

fn row(id: &str, key: Option<&str>, ts: u64) -> NewRow {
    let row = NewRow::new("t", &serde_json::json!({"of": id})).unwrap().id(id).ts(ts);
    match key {
        Some(key) => row.key(key),
        None => row,
    }
}

fn request(limit: usize) -> ClaimRequest {
    ClaimRequest { by: "test".into(), limit, max_bytes: usize::MAX, lease: Duration::from_secs(60) }
}

fn ids(claim: &Claim) -> Vec<&str> {
    claim.rows.iter().map(|row| row.id.as_str()).collect()
}

fn ids_of(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.id.as_str()).collect()
}

fn retry(after: Duration) -> Settle {
    Settle::Retry { error: "internal: later".into(), attempts: 1, after }
}

/// Claims until there is something.
async fn claim_in_time(fixture: &Fixture, limit: usize) -> Claim {
    let until = Instant::now() + PATIENCE;
    loop {
        let claim = fixture.claim(limit).await;
        if !claim.rows.is_empty() {
            return claim;
        }
        assert!(Instant::now() < until, "nothing can be claimed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn an_empty_outbox_answers_with_nothing(fixture: &Fixture) {
    let store = &fixture.store;
    assert!(!store.name().is_empty());
    let claim = fixture.claim(10).await;
    assert!(claim.rows.is_empty() && !claim.more && !claim.busy && claim.next_due.is_none() && claim.requeued == 0);
    assert_eq!(store.stats().await, Ok(Stats::default()));
    assert_eq!(store.settle(1, &[]).await, Ok(0));
    assert_eq!(store.remove_sent(Duration::ZERO, 10).await, Ok(0));
    assert!(store.list(&Filter::default(), 10).await.unwrap().is_empty());
    assert_eq!(store.retry(&Filter::default()).await, Ok(0));
    assert_eq!(store.drop_rows(&Filter::default()).await, Ok(0));
    store.prepare().await.unwrap();
}

pub async fn what_was_added_is_what_is_claimed(fixture: &Fixture) {
    let payload = r#"{"z":1,"a":[null,true,1.5,"ü\n",-9007199254740993,{"$oid":"x"}]}"#;
    let raw = prom_protocol::RawValue::from_string(payload.to_owned()).unwrap();
    let full = NewRow::raw("orders.paid", raw)
        .id("id-1")
        .ts(1_700_000_000_123)
        .key("order-7")
        .sid("s")
        .header("z", "1")
        .header("a", "2")
        .tag("eu")
        .caused_by("cause")
        .caused_by("other");
    fixture.put(full).await;
    let claim = fixture.claim(10).await;
    let [claimed] = &claim.rows[..] else { panic!("one row") };
    let event = claimed.event.as_ref().unwrap();
    assert_eq!((claimed.id.as_str(), claimed.attempts, event.id()), ("id-1", 0, "id-1"));
    assert_eq!((event.topic().as_str(), event.key()), ("orders.paid", Some("order-7")));
    assert_eq!(event.payload().get(), payload);
    let options = serde_json::to_value(event.options()).unwrap();
    let expected = serde_json::json!({
        "id": "id-1", "ts": 1_700_000_000_123_u64, "key": "order-7", "sid": "s", "headers": {"z": "1", "a": "2"},
        "tags": ["eu"], "caused_by": ["cause", "other"],
    });
    assert_eq!(options, expected);
    let names: Vec<_> = event.options().headers.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["z", "a"], "headers keep their order");
    // Without anything: an id is made, the time is now.
    let id = (fixture.add)(NewRow::new("t", &()).unwrap()).await.unwrap();
    let row = fixture.row(&id).await;
    let age = crate::ledger::now().abs_diff(row.ts.unwrap());
    assert!(age < 60_000 && row.status == Status::Pending && row.key.is_none(), "{row:?}");
}

pub async fn payloads_come_back_to_the_letter(fixture: &Fixture) {
    let payloads =
        [r#"{"a":1,"a":2}"#, "-0.0", r#"[-0.0,0,{"":{"b":[1,{"b":null,"b":[]}]}},9223372036854775807,-1e-7,"\u0000"]"#];
    for (ts, payload) in payloads.iter().enumerate() {
        let raw = prom_protocol::RawValue::from_string((*payload).to_owned()).unwrap();
        fixture.put(NewRow::raw("t", raw).id(format!("r{ts}")).ts(ts as u64)).await;
    }
    let claim = fixture.claim(10).await;
    let back: Vec<_> = claim.rows.iter().map(|row| row.event.as_ref().unwrap().payload().get()).collect();
    assert_eq!(back, payloads);
}

pub async fn what_no_hub_would_take_is_not_added(fixture: &Fixture) {
    for (bad, names) in [
        (NewRow::new("a..b", &1).unwrap(), "topic"),
        (NewRow::new("a", &1).unwrap().key("k".repeat(513)), "key must be 1 to 512 bytes"),
        (NewRow::new("a", &1).unwrap().id("$own"), "id must not start with"),
        (NewRow::new("a", &1).unwrap().header("x", "1").header("x", "2"), "headers"),
    ] {
        let refused = (fixture.add)(bad).await.unwrap_err();
        assert!(refused.starts_with(names), "{refused}");
    }
    assert_eq!(fixture.store.stats().await, Ok(Stats::default()));
}

pub async fn claims_come_in_order(fixture: &Fixture) {
    for (id, ts) in [("d", 3), ("b", 2), ("a", 2), ("e", 4), ("c", 2), ("z", 1)] {
        fixture.put(row(id, Some(id), ts)).await;
    }
    let first = fixture.claim(4).await;
    assert_eq!(ids(&first), ["z", "a", "b", "c"], "by ts, then by id");
    let second = fixture.claim(4).await;
    assert_eq!(ids(&second), ["d", "e"]);
    assert!(second.fence > first.fence);
}

pub async fn a_claim_stops_at_its_limits(fixture: &Fixture) {
    fixture.fill(&[("a", None), ("b", None), ("c", None)]).await;
    fixture.put(NewRow::new("t", &"x".repeat(5_000)).unwrap().id("d").ts(9_000)).await;
    let claim = fixture.claim(2).await;
    assert_eq!((ids(&claim), claim.more), (vec!["a", "b"], true));
    let small = ClaimRequest { max_bytes: 1_000, ..request(10) };
    let claim = fixture.store.claim(&small).await.unwrap();
    assert_eq!((ids(&claim), claim.more), (vec!["c"], true));
    let tiny = ClaimRequest { max_bytes: 1, ..request(10) };
    assert_eq!(ids(&fixture.store.claim(&tiny).await.unwrap()), ["d"], "at least one");
    assert!(!fixture.claim(2).await.more);
}

pub async fn a_claimed_row_is_not_claimed_again(fixture: &Fixture) {
    fixture.fill(&[("a", None), ("b", Some("k"))]).await;
    let claim = fixture.claim(10).await;
    assert_eq!(claim.rows.len(), 2);
    assert!(fixture.claim(10).await.rows.is_empty());
    assert_eq!(fixture.settle(&claim, Settle::Sent).await, 2);
    assert!(fixture.claim(10).await.rows.is_empty());
    let sent = fixture.row("b").await;
    assert_eq!((sent.status, sent.claimed_by.as_deref()), (Status::Sent, Some("test")));
}

pub async fn a_key_is_in_one_claim_at_a_time(fixture: &Fixture) {
    fixture.fill(&[("a1", Some("a")), ("a2", Some("a")), ("b1", Some("b")), ("x", None), ("a3", Some("a"))]).await;
    let first = fixture.claim(1).await;
    assert_eq!((ids(&first), first.busy), (vec!["a1"], false));
    let second = fixture.claim(10).await;
    assert_eq!((ids(&second), second.busy), (vec!["b1", "x"], true));
    assert_eq!(fixture.settle(&first, Settle::Sent).await, 1);
    assert_eq!(ids(&fixture.claim(10).await), ["a2", "a3"], "of one key, in one claim");
}

pub async fn a_row_that_waits_holds_its_key_back(fixture: &Fixture) {
    fixture.fill(&[("a1", Some("a")), ("a2", Some("a")), ("b1", Some("b"))]).await;
    let first = fixture.claim(1).await;
    assert_eq!(fixture.settle(&first, retry(Duration::from_secs(3600))).await, 1);
    let second = fixture.claim(10).await;
    assert_eq!(ids(&second), ["b1"], "the other key goes on");
    let due = second.next_due.unwrap();
    assert!(due > Duration::from_secs(3000) && due <= Duration::from_secs(3600), "{due:?}");
    let waiting = fixture.row("a1").await;
    assert_eq!((waiting.status, waiting.attempts), (Status::Pending, 1));
    assert_eq!(waiting.last_err.as_deref(), Some("internal: later"));
    assert_eq!(fixture.store.stats().await.unwrap().waiting, 1);
    // It is due at last.
    fixture.fill(&[("c1", Some("c")), ("c2", Some("c"))]).await;
    let third = fixture.claim(1).await;
    assert_eq!(ids(&third), ["c1"]);
    fixture.settle(&third, retry(Duration::from_millis(50))).await;
    let again = claim_in_time(fixture, 10).await;
    assert_eq!((ids(&again), again.rows[0].attempts), (vec!["c1", "c2"], 1));
}

pub async fn what_is_released_comes_back_in_order(fixture: &Fixture) {
    fixture.fill(&[("a1", Some("a")), ("a2", Some("a")), ("x", None)]).await;
    let claim = fixture.claim(2).await;
    assert_eq!(fixture.settle(&claim, Settle::Released).await, 2);
    let row = fixture.row("a1").await;
    assert_eq!((row.status, row.attempts, row.claimed_by, row.lease_until), (Status::Pending, 0, None, None));
    assert_eq!(ids(&fixture.claim(10).await), ["a1", "a2", "x"]);
}

pub async fn a_parked_row_frees_its_key(fixture: &Fixture) {
    fixture.fill(&[("a1", Some("a")), ("a2", Some("a"))]).await;
    let claim = fixture.claim(1).await;
    // Text with a meaning in MongoDB's pipelines stays text.
    let parked = Settle::Parked { error: "$forbidden: no".into(), attempts: 1 };
    assert_eq!(fixture.settle(&claim, parked).await, 1);
    let row = fixture.row("a1").await;
    assert_eq!((row.status, row.attempts, row.last_err.as_deref()), (Status::Error, 1, Some("$forbidden: no")));
    assert_eq!(ids(&fixture.claim(10).await), ["a2"]);
}

async fn short_claim(fixture: &Fixture) -> Claim {
    let short = ClaimRequest { lease: Duration::from_millis(30), by: "dead".into(), ..request(10) };
    fixture.store.claim(&short).await.unwrap()
}

pub async fn a_claim_that_ran_out_is_claimed_again(fixture: &Fixture) {
    fixture.fill(&[("a1", Some("a")), ("x", None)]).await;
    assert_eq!(short_claim(fixture).await.rows.len(), 2);
    fixture.put(row("a2", Some("a"), 2_000)).await;
    let again = claim_in_time(fixture, 10).await;
    assert_eq!((ids(&again), again.requeued), (vec!["a1", "x", "a2"], 2), "in their order, with what came since");
    assert_eq!(again.rows[0].attempts, 0, "dying is no try");
}

pub async fn a_claim_that_ran_out_gives_no_marks(fixture: &Fixture) {
    fixture.fill(&[("a", None), ("b", None)]).await;
    let late = short_claim(fixture).await;
    let again = claim_in_time(fixture, 10).await;
    assert!(again.fence > late.fence);
    for settle in [Settle::Sent, Settle::Released, retry(Duration::ZERO)] {
        assert_eq!(fixture.settle(&late, settle).await, 0, "the late marks are refused");
    }
    let held = fixture.row("a").await;
    assert_eq!((held.status, held.claimed_by.as_deref()), (Status::Claimed, Some("test")));
    assert_eq!(fixture.settle(&again, Settle::Sent).await, 2);
    assert_eq!(fixture.settle(&late, Settle::Released).await, 0);
    assert_eq!(fixture.count(Status::Sent).await, 2);
}

pub async fn marks_belong_to_their_claim(fixture: &Fixture) {
    fixture.fill(&[("a", None), ("b", None)]).await;
    let first = fixture.claim(1).await;
    let second = fixture.claim(1).await;
    let marks = |claim: &Claim| {
        let mut marks: Vec<_> =
            claim.rows.iter().map(|row| Mark { id: row.id.clone(), settle: Settle::Sent }).collect();
        marks.push(Mark { id: RowId::plain("gone"), settle: Settle::Sent });
        marks
    };
    assert_eq!(fixture.store.settle(first.fence, &marks(&second)).await, Ok(0));
    let both = [marks(&first), marks(&second)].concat();
    assert_eq!(fixture.store.settle(second.fence, &both).await, Ok(1), "each mark stands for itself");
    assert_eq!(fixture.row("a").await.status, Status::Claimed);
    assert_eq!(fixture.row("b").await.status, Status::Sent);
}

pub async fn claims_at_once_share_nothing(fixture: &Fixture) {
    const ROWS: usize = 240;
    for n in 0..ROWS {
        let key = (n % 5 != 0).then(|| format!("k{}", n % 12));
        fixture.put(row(&format!("r{n:03}"), key.as_deref(), n as u64)).await;
    }
    let held: Mutex<HashSet<String>> = Mutex::default();
    let order: Mutex<HashMap<String, Vec<String>>> = Mutex::default();
    let done: Mutex<HashSet<String>> = Mutex::default();
    let drain = async || {
        while done.lock().unwrap().len() < ROWS {
            let claim = fixture.claim(7).await;
            let keys: HashSet<String> =
                claim.rows.iter().filter_map(|row| row.event.as_ref().unwrap().key().map(str::to_owned)).collect();
            for key in &keys {
                assert!(held.lock().unwrap().insert(key.clone()), "key {key} is in two claims");
            }
            for row in &claim.rows {
                let id = row.id.as_str().to_owned();
                assert!(done.lock().unwrap().insert(id.clone()), "row {id} is in two claims");
                if let Some(key) = row.event.as_ref().unwrap().key() {
                    order.lock().unwrap().entry(key.to_owned()).or_default().push(id);
                }
            }
            tokio::task::yield_now().await;
            for key in &keys {
                held.lock().unwrap().remove(key);
            }
            assert_eq!(fixture.settle(&claim, Settle::Sent).await, claim.rows.len());
        }
    };
    futures_util::join!(drain(), drain(), drain(), drain());
    for (key, rows) in order.into_inner().unwrap() {
        assert!(rows.is_sorted(), "key {key}: {rows:?}");
    }
}

pub async fn sent_rows_are_deleted_when_they_are_old(fixture: &Fixture) {
    fixture.fill(&[("a", None), ("b", None), ("c", None), ("d", None)]).await;
    let claim = fixture.claim(3).await;
    fixture.settle(&claim, Settle::Sent).await;
    assert_eq!(fixture.store.remove_sent(Duration::from_secs(3600), 10).await, Ok(0), "they are not old");
    let until = Instant::now() + PATIENCE;
    let mut gone = 0;
    while gone < 3 {
        let removed = fixture.store.remove_sent(Duration::ZERO, 2).await.unwrap();
        assert!(removed <= 2 && Instant::now() < until, "at most what was asked, in time");
        gone += removed;
    }
    let left = fixture.store.list(&Filter::default(), 10).await.unwrap();
    assert_eq!(ids_of(&left), ["d"]);
}

pub async fn stats_count(fixture: &Fixture) {
    let now = crate::ledger::now();
    for (n, id) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        fixture.put(row(id, None, now - 100_000 + n as u64 * 10_000)).await;
    }
    let claim = fixture.claim(1).await;
    fixture.settle(&claim, Settle::Sent).await;
    let claim = fixture.claim(1).await;
    fixture.settle(&claim, Settle::Parked { error: "x".into(), attempts: 1 }).await;
    fixture.claim(1).await;
    let stats = fixture.store.stats().await.unwrap();
    let counts = (stats.pending, stats.waiting, stats.claimed, stats.stuck, stats.sent, stats.error);
    assert_eq!(counts, (2, 0, 1, 0, 1, 1));
    let near = |ms: u64, expected: u64| ms >= expected && ms < expected + 30_000;
    assert!(near(stats.oldest_pending_ms.unwrap(), 70_000), "{stats:?}");
    assert!(near(stats.lag_ms, 80_000), "what is claimed is not published yet: {stats:?}");
    short_claim(fixture).await;
    let until = Instant::now() + PATIENCE;
    while fixture.store.stats().await.unwrap().stuck != 2 {
        assert!(Instant::now() < until, "rows whose lease ran out are not counted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn an_operator_finds_rows(fixture: &Fixture) {
    fixture.fill(&[("a", Some("k")), ("b", None), ("c", Some("k"))]).await;
    fixture.put(NewRow::new("other", &1).unwrap().id("d").ts(5)).await;
    let list = async |filter: Filter, limit| {
        let rows = fixture.store.list(&filter, limit).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(list(Filter::default(), 10).await, ["d", "a", "b", "c"], "oldest first");
    assert_eq!(list(Filter::default(), 2).await, ["d", "a"]);
    assert_eq!(list(Filter { topic: Some("t".into()), ..Filter::default() }, 2).await, ["a", "b"]);
    assert_eq!(list(Filter { key: Some("k".into()), ..Filter::default() }, 10).await, ["a", "c"]);
    let two = Filter { ids: Some(vec!["c".into(), "d".into(), "gone".into()]), ..Filter::default() };
    assert_eq!(list(two, 10).await, ["d", "c"]);
    assert!(list(Filter::status(Status::Error), 10).await.is_empty());
    assert!(list(Filter { status: Some(Status::Sent), ..Filter::id("a") }, 10).await.is_empty());
    let count = async |filter: Filter| fixture.store.count(&filter).await;
    assert_eq!(count(Filter::default()).await, Ok(4));
    assert_eq!(count(Filter { key: Some("k".into()), ..Filter::status(Status::Pending) }).await, Ok(2));
    assert_eq!(count(Filter::status(Status::Sent)).await, Ok(0));
    let shown = fixture.row("a").await;
    assert_eq!(shown.payload.as_ref().unwrap().get(), r#"{"of":"a"}"#);
    assert_eq!((shown.topic.as_str(), shown.key.as_deref(), shown.ts), ("t", Some("k"), Some(1_000)));
}

pub async fn a_parked_row_is_tried_again_when_asked(fixture: &Fixture) {
    fixture.fill(&[("a", None), ("b", None), ("c", None)]).await;
    let claim = fixture.claim(2).await;
    fixture.settle(&claim, Settle::Parked { error: "x".into(), attempts: 10 }).await;
    assert_eq!(fixture.store.retry(&Filter::id("c")).await, Ok(0), "it is not parked");
    assert_eq!(fixture.store.retry(&Filter::status(Status::Pending)).await, Ok(0));
    assert_eq!(fixture.store.retry(&Filter::id("a")).await, Ok(1));
    let row = fixture.row("a").await;
    assert_eq!((row.status, row.attempts, row.last_err.as_deref()), (Status::Pending, 0, Some("x")));
    let claim = fixture.claim(10).await;
    assert_eq!((ids(&claim), claim.rows[0].attempts), (vec!["a", "c"], 0));
    fixture.settle(&claim, Settle::Sent).await;
    assert_eq!(fixture.row("a").await.last_err, None);
    assert_eq!(fixture.store.retry(&Filter::default()).await, Ok(1), "all that are left");
}

pub async fn rows_are_dropped_but_claimed_ones(fixture: &Fixture) {
    fixture.fill(&[("a", None), ("b", None), ("c", None), ("d", None)]).await;
    let claim = fixture.claim(1).await;
    assert_eq!(fixture.store.drop_rows(&Filter::id("a")).await, Ok(0), "a drainer has it");
    assert_eq!(fixture.store.drop_rows(&Filter::id("b")).await, Ok(1));
    assert_eq!(fixture.store.drop_rows(&Filter::status(Status::Pending)).await, Ok(2));
    assert_eq!(fixture.settle(&claim, Settle::Sent).await, 1);
    assert_eq!(fixture.store.drop_rows(&Filter::default()).await, Ok(1));
    assert_eq!(fixture.store.stats().await, Ok(Stats::default()));
}
