//! What every [`Store`] must do: each clause of its contract as a check of its own, for every backend.
//!
//! [`store_conformance!`](crate::store_conformance) makes one test of each, from a closure that makes an empty store
//! which keeps about so many bytes of events:
//!
//! ```ignore
//! prom_store::store_conformance!(|max_bytes| async move { Arc::new(MemoryStore::new(max_bytes)) as Arc<dyn Store> });
//! ```
#![expect(missing_docs, reason = "the names of the checks say what they check")]
#![expect(clippy::unwrap_used, reason = "a check fails by panicking")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use prom_protocol::{ErrorCode, Event, EventOptions, Group, Refusal, Text, Topic, encode_event_body};

use crate::{Append, Appended, Batch, Cursor, CursorPut, Store, Stored};

/// How long a check waits for what a store does by itself.
const DEADLINE: Duration = Duration::from_secs(60);

/// One test per check, in a module `conformance`.
#[macro_export]
macro_rules! store_conformance {
    ($make:expr) => {
        $crate::store_conformance!(@each $make;
            an_empty_store_answers_with_nothing
            seqs_have_no_gaps_and_follow_the_order_of_appends
            an_event_is_stored_as_it_was_published
            payloads_come_back_byte_for_byte
            the_same_id_is_stored_once
            who_published_is_kept
            what_no_record_can_hold_is_refused_and_the_rest_goes_on
            an_id_that_looks_like_the_stores_own_is_an_id_like_any
            many_topics_and_keys_stay_apart
            ids_are_unique_within_a_topic_and_not_beyond
            reads_stop_at_their_limits_and_give_at_least_one
            reads_at_and_past_both_ends
            positions_are_found_by_id_and_by_time
            the_newest_of_each_key_is_found
            the_newest_of_each_key_pages_at_a_fixed_seq
            cursors_come_back_as_they_were_stored
            a_cursor_alone_makes_no_topic
            positions_are_found_where_nobody_has_published_and_go_with_the_last
            the_epoch_stays
            readers_see_a_commit_whole_or_not_at_all
            a_trim_takes_settled_events_from_the_front
            the_newest_of_each_key_outlives_a_trim
            an_id_is_free_again_once_its_event_is_trimmed
            a_full_store_refuses_events_until_they_are_settled
            a_full_store_takes_duplicates_cursors_and_dead_letters
            a_full_store_says_so_until_there_is_room
            a_group_that_begins_with_a_batch_keeps_what_the_batch_would_trim
            a_topic_that_is_removed_takes_everything_with_it
            a_topic_that_is_made_again_is_another_log
            a_topic_is_removed_only_as_it_was_seen
            cursors_that_are_removed_hold_nothing_back
        );
    };
    (@each $make:expr; $($name:ident)*) => {
        mod conformance {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let make = $make;
                    $crate::conformance::$name(&make($crate::conformance::BYTES).await).await;
                }
            )*
        }
    };
}

/// What the stores under test keep.
pub const BYTES: usize = 1024 * 1024;

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn group(name: &str) -> Group {
    Group::new(name).unwrap()
}

fn event(on: &str, id: Option<&str>, key: Option<&str>, payload: &str) -> Append {
    let options = EventOptions { key: key.map(Text::from), ..EventOptions::default() };
    let mut body = Vec::new();
    encode_event_body(&mut body, on, &options, payload);
    Append { topic: topic(on), id: id.map(Into::into), ts: None, key: key.map(Into::into), body }
}

fn put(on: &str, name: &str, floor: u64) -> CursorPut {
    CursorPut { topic: topic(on), group: group(name), cursor: Cursor { floor, delivered: floor, ..Cursor::default() } }
}

async fn commit(
    store: &Arc<dyn Store>,
    appends: Vec<Append>,
    cursors: Vec<CursorPut>,
) -> Vec<Result<Appended, Refusal>> {
    store.commit(Batch { now: 1_000, appends, cursors }).await.unwrap()
}

/// Publishes to `on` and expects it to be taken.
async fn publish(store: &Arc<dyn Store>, on: &str, key: Option<&str>, payload: &str) -> Appended {
    commit(store, vec![event(on, None, key, payload)], Vec::new()).await.remove(0).unwrap()
}

async fn seqs(store: &Arc<dyn Store>, on: &str, after: u64) -> Vec<u64> {
    let page = store.read(&topic(on), after, usize::MAX, usize::MAX).await.unwrap();
    assert_eq!(page.read_to, page.events.last().map_or(after, |event| event.seq));
    page.events.iter().map(|event| event.seq).collect()
}

fn keys(events: &[Stored]) -> Vec<(&str, u64)> {
    events.iter().map(|event| (event.key.as_deref().unwrap(), event.seq)).collect()
}

pub async fn an_empty_store_answers_with_nothing(store: &Arc<dyn Store>) {
    let t = topic("t");
    assert!(!store.name().is_empty() && !store.durability().is_empty());
    assert_eq!(store.tail(&t).await, Ok(None));
    assert_eq!(store.topics().await, Ok(Vec::new()));
    let page = store.read(&t, 0, 10, 1000).await.unwrap();
    assert!(page.events.is_empty() && page.first <= 1 && page.read_to == 0);
    assert_eq!(store.seq_of(&t, "x").await, Ok(None));
    assert_eq!(store.seq_before_ts(&t, 0).await, Ok(0));
    assert!(store.latest(&t, "k").await.unwrap().is_none());
    let page = store.latest_page(&t, None, u64::MAX, 10, 1000).await.unwrap();
    assert!(page.events.is_empty() && !page.more);
    assert_eq!(store.cursor(&t, &group("g")).await, Ok(None));
    assert_eq!(store.cursors(&t).await, Ok(Vec::new()));
    assert_eq!(commit(store, Vec::new(), Vec::new()).await, []);
}

pub async fn seqs_have_no_gaps_and_follow_the_order_of_appends(store: &Arc<dyn Store>) {
    let mut expected = [0, 0];
    for round in 0..20 {
        let names: Vec<&str> = (0..=round).map(|i| if i % 3 == 0 { "b" } else { "a" }).collect();
        let appends = names.iter().map(|name| event(name, None, None, "1")).collect();
        for (name, outcome) in names.iter().zip(commit(store, appends, Vec::new()).await) {
            let next = &mut expected[usize::from(*name == "b")];
            *next += 1;
            let appended = outcome.unwrap();
            assert_eq!((appended.seq, appended.duplicate), (*next, false));
        }
    }
    for (name, tail) in ["a", "b"].into_iter().zip(expected) {
        assert_eq!(seqs(store, name, 0).await, (1..=tail).collect::<Vec<_>>());
        let end = store.tail(&topic(name)).await.unwrap().unwrap();
        assert_eq!((end.first, end.seq), (1, tail));
    }
    let topics: Vec<_> = store.topics().await.unwrap().into_iter().map(|(t, tail)| (t.to_string(), tail.seq)).collect();
    assert_eq!(topics, [("a".to_owned(), expected[0]), ("b".to_owned(), expected[1])], "in name order");
}

pub async fn an_event_is_stored_as_it_was_published(store: &Arc<dyn Store>) {
    let payload = r#"{"n":19.5,"text":"ü \" \n","list":[1,null,true,-9007199254740993]}"#;
    let mut append = event("t", Some("mine"), Some("k"), payload);
    append.ts = Some(77);
    let appended = commit(store, vec![append, event("t", None, None, "null")], Vec::new()).await;
    let made = appended[1].as_ref().unwrap().id.clone();
    assert!(!made.is_empty() && *made != *"mine", "the store makes an id");
    let page = store.read(&topic("t"), 0, 10, BYTES).await.unwrap();
    let first = Event::parse(page.events[0].text()).unwrap();
    assert_eq!((&*first.id, first.seq, first.ts, first.topic.as_str()), ("mine", 1, 77, "t"));
    assert_eq!((first.key.as_deref(), first.payload.get()), (Some("k"), payload));
    let record = &page.events[0];
    assert_eq!((&*record.id, record.seq, record.ts, record.key.as_deref()), ("mine", 1, 77, Some("k")));
    let second = Event::parse(page.events[1].text()).unwrap();
    assert_eq!((&*second.id, second.ts, second.payload.get()), (&*made, 1_000, "null"), "the batch's time");
    assert_eq!(second.key, None);
}

/// Who published comes back, and who says the same again does not become it.
pub async fn who_published_is_kept(store: &Arc<dyn Store>) {
    let longest = "u".repeat(prom_protocol::limits::SUBJECT_BYTES);
    let append = |id: &str, by: Option<&str>| {
        let options = EventOptions { id: Some(id.to_owned().into()), key: Some("k".into()), ..EventOptions::default() };
        Append::published_by(topic("t"), &options, by, r#"{"by":"the payload's own"}"#)
    };
    let subjects = [("1", Some("alice")), ("2", None), ("3", Some("ü \"x\" \\ |")), ("4", Some(longest.as_str()))];
    commit(store, subjects.map(|(id, by)| append(id, by)).into(), Vec::new()).await;
    let again = commit(store, vec![append("1", Some("mallory")), append("2", Some("mallory"))], Vec::new()).await;
    assert!(again.into_iter().all(|outcome| outcome.is_ok_and(|appended| appended.duplicate)));
    let page = store.read(&topic("t"), 0, 10, BYTES).await.unwrap();
    let latest = store.latest(&topic("t"), "k").await.unwrap().unwrap();
    let pages = store.latest_page(&topic("t"), None, u64::MAX, 10, BYTES).await.unwrap();
    assert_eq!(page.events.len(), 4);
    let newest = [(latest, subjects[3]), (Arc::clone(&pages.events[0]), subjects[3])];
    for (record, (id, by)) in page.events.into_iter().zip(subjects).chain(newest) {
        let event = Event::parse(record.text()).unwrap();
        assert_eq!((event.id.as_str(), event.by.as_deref()), (id, by));
        assert_eq!(event.payload.get(), r#"{"by":"the payload's own"}"#);
        assert_eq!(record.text().matches("\"by\":").count(), if by.is_some() { 2 } else { 1 }, "{}", record.text());
    }
}

/// The payload profile, at its edges.
pub async fn payloads_come_back_byte_for_byte(store: &Arc<dyn Store>) {
    let deep = format!("{}1{}", "[".repeat(96), "]".repeat(96));
    let long = format!("\"{}\"", "ü".repeat(100_000));
    let payloads = [
        "null",
        "true",
        "-0.0",
        "0.10",
        "1e308",
        "5e-324",
        "9223372036854775807",
        "-9223372036854775808",
        "\"\"",
        "[]",
        "{}",
        r#"{"":{"":[]}}"#,
        r#"{"a.b":1,"$c":2,"a":1,"a":2}"#,
        r#""\u0000 \ud83d\ude00 \" \\ / 😀""#,
        "[ 1 ,\t2 ]",
        &deep,
        &long,
    ];
    let t = topic("t");
    for payload in payloads {
        let seq = publish(store, "t", Some("k"), payload).await.seq;
        let latest = store.latest(&t, "k").await.unwrap().unwrap();
        let page = store.read(&t, seq - 1, 1, BYTES).await.unwrap();
        for event in [&latest, &page.events[0]] {
            assert_eq!((event.seq, Event::parse(event.text()).unwrap().payload.get()), (seq, payload));
        }
    }
}

/// A key that was cut to what a record can hold stood in the index as it was, and stopped every snapshot of its topic.
pub async fn what_no_record_can_hold_is_refused_and_the_rest_goes_on(store: &Arc<dyn Store>) {
    let (longest, over) = ("k".repeat(512), "k".repeat(513));
    let huge = "k".repeat(70_000);
    let long = |id: Option<&str>, key: Option<&str>| event("t", id, key, "1");
    let body = format!("\"{}\"", "x".repeat(crate::BODY_BYTES));
    let appends = vec![
        long(None, Some(&over)),
        long(Some(&over), None),
        long(Some(&longest), Some(&longest)),
        long(None, Some("")),
        long(Some(""), None),
        long(Some(&format!("${huge}")), Some("k")),
        long(Some("$own"), Some(&huge)),
        event("new", None, Some("k"), &body),
        long(None, Some("k")),
    ];
    let outcomes = commit(store, appends, Vec::new()).await;
    let told: Vec<_> =
        outcomes.iter().map(|outcome| outcome.as_ref().map(|own| own.seq).map_err(Refusal::code)).collect();
    let (frame, large) = (Err(ErrorCode::BadFrame), Err(ErrorCode::TooLarge));
    assert_eq!(told, [frame, frame, Ok(1), frame, frame, frame, frame, large, Ok(2)]);
    assert!(outcomes[6].as_ref().is_err_and(|refused| refused.message() == "opts.key must be 1 to 512 bytes"));
    assert_eq!(store.tail(&topic("new")).await, Ok(None), "a topic is not made for what is refused");
    let t = topic("t");
    assert_eq!(store.seq_of(&t, &longest).await, Ok(Some(1)));
    let page = store.latest_page(&t, None, u64::MAX, 10, BYTES).await.unwrap();
    assert_eq!(keys(&page.events), [("k", 2), (&*longest, 1)]);
    assert_eq!(page.damaged, 0);
}

/// Ids the store makes tell where their events stand. Nobody else's do, whatever they look like.
pub async fn an_id_that_looks_like_the_stores_own_is_an_id_like_any(store: &Arc<dyn Store>) {
    let made = publish(store, "t", None, "1").await.id;
    let again = commit(store, vec![event("t", Some(&made), None, "2")], Vec::new()).await.remove(0).unwrap();
    assert_eq!((again.seq, again.duplicate), (1, true), "the id of an event is taken");
    // One digit of each part changed.
    for at in [3, 12, 16, 20, 30, 35] {
        let mut id = made.to_string();
        let digit = if &id[at..=at] == "8" { "9" } else { "8" };
        id.replace_range(at..=at, digit);
        let chosen = commit(store, vec![event("t", Some(&id), None, "3")], Vec::new()).await.remove(0).unwrap();
        assert!(!chosen.duplicate && *chosen.id == *id, "{id}");
        let again = commit(store, vec![event("t", Some(&id), None, "4")], Vec::new()).await.remove(0).unwrap();
        assert_eq!((again.seq, again.duplicate), (chosen.seq, true));
        assert_eq!(store.seq_of(&topic("t"), &id).await, Ok(Some(chosen.seq)));
        assert_eq!(store.seq_of(&topic("t"), &id.to_uppercase()).await, Ok(None), "an id is its text");
    }
    assert_eq!(store.seq_of(&topic("t"), &made).await, Ok(Some(1)));
}

pub async fn many_topics_and_keys_stay_apart(store: &Arc<dyn Store>) {
    for round in 0..4 {
        let appends = (0..50)
            .flat_map(|t| (0..5).map(move |k| event(&format!("t{t}"), None, Some(&format!("k{k}")), &format!("{t}"))));
        let outcomes = commit(store, appends.collect(), Vec::new()).await;
        assert!(
            outcomes
                .iter()
                .all(|outcome| outcome.as_ref().is_ok_and(|a| a.seq > round * 5 && a.seq <= (round + 1) * 5))
        );
    }
    for t in 0..50 {
        let name = topic(&format!("t{t}"));
        let page = store.read(&name, 0, 100, BYTES).await.unwrap();
        assert_eq!(page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
        assert!(page.events.iter().all(|event| Event::parse(event.text()).unwrap().payload.get() == t.to_string()));
        let page = store.latest_page(&name, None, u64::MAX, 100, BYTES).await.unwrap();
        assert_eq!(keys(&page.events), [("k0", 16), ("k1", 17), ("k2", 18), ("k3", 19), ("k4", 20)]);
    }
}

pub async fn the_same_id_is_stored_once(store: &Arc<dyn Store>) {
    let twice =
        || vec![event("t", Some("x"), None, "1"), event("t", Some("y"), None, "2"), event("t", Some("x"), None, "3")];
    let expected = |duplicate: [bool; 3]| {
        let outcome = |id: &str, seq, duplicate| Ok(Appended { id: id.into(), seq, duplicate });
        vec![outcome("x", 1, duplicate[0]), outcome("y", 2, duplicate[1]), outcome("x", 1, duplicate[2])]
    };
    assert_eq!(commit(store, twice(), Vec::new()).await, expected([false, false, true]), "within one batch");
    assert_eq!(commit(store, twice(), Vec::new()).await, expected([true, true, true]));
    assert_eq!(seqs(store, "t", 0).await, [1, 2]);
    let page = store.read(&topic("t"), 0, 1, BYTES).await.unwrap();
    assert!(page.events[0].text().contains(r#""payload":1"#), "the first one counts");
    assert_eq!(publish(store, "t", None, "4").await.seq, 3, "a duplicate uses up no seq");
}

/// Somebody who knew or guessed an id could keep others from using it, on a topic they may not even see, and find out
/// whether they had.
pub async fn ids_are_unique_within_a_topic_and_not_beyond(store: &Arc<dyn Store>) {
    let made = publish(store, "a", None, "1").await.id;
    let appends = || {
        let ids = ["order-8-paid", &*made, "order-8-paid"];
        let on = |topic: &'static str| ids.into_iter().map(move |id| event(topic, Some(id), Some("k"), "2"));
        on("a").chain(on("b")).chain(on("c")).collect::<Vec<_>>()
    };
    let told = |outcomes: Vec<Result<Appended, Refusal>>| -> Vec<(u64, bool)> {
        outcomes.into_iter().map(|outcome| outcome.map(|own| (own.seq, own.duplicate)).unwrap()).collect()
    };
    let first = told(commit(store, appends(), Vec::new()).await);
    let (a, others) = first.split_at(3);
    assert_eq!(a, [(2, false), (1, true), (2, true)]);
    for other in others.chunks(3) {
        assert_eq!(other, [(1, false), (2, false), (1, true)]);
    }
    let again = told(commit(store, appends(), Vec::new()).await);
    assert_eq!(
        again,
        [[(2, true), (1, true), (2, true)], [(1, true), (2, true), (1, true)], [(1, true), (2, true), (1, true)]]
            .concat()
    );
    for (on, order, own) in [("a", 2, 1), ("b", 1, 2), ("c", 1, 2)] {
        assert_eq!(store.seq_of(&topic(on), "order-8-paid").await, Ok(Some(order)), "{on}");
        assert_eq!(store.seq_of(&topic(on), &made).await, Ok(Some(own)), "{on}");
        assert_eq!(seqs(store, on, 0).await, [1, 2]);
    }
    // One topic's events go, the others' ids stay.
    fill(store, "b", 500).await;
    assert_eq!(store.seq_of(&topic("b"), "order-8-paid").await, Ok(None));
    assert_eq!(store.seq_of(&topic("a"), "order-8-paid").await, Ok(Some(2)));
}

pub async fn reads_stop_at_their_limits_and_give_at_least_one(store: &Arc<dyn Store>) {
    for i in 0..10 {
        publish(store, "t", None, &format!("\"{}\"", "x".repeat(1000 + i))).await;
    }
    let t = topic("t");
    let read = async |after, limit, bytes| {
        let page = store.read(&t, after, limit, bytes).await.unwrap();
        assert_eq!(page.first, 1);
        assert_eq!(page.read_to, page.events.last().map_or(after, |event| event.seq));
        page.events.iter().map(|event| event.seq).collect::<Vec<_>>()
    };
    assert_eq!(read(0, 3, BYTES).await, [1, 2, 3]);
    assert_eq!(read(3, 100, 1).await, [4], "at least one, however large");
    let some = read(0, 100, 4_000).await;
    assert!((2..=4).contains(&some.len()), "about so many bytes: {some:?}");
    assert_eq!(read(8, 100, BYTES).await, [9, 10]);
}

pub async fn reads_at_and_past_both_ends(store: &Arc<dyn Store>) {
    for _ in 0..3 {
        publish(store, "t", None, "1").await;
    }
    assert_eq!(seqs(store, "t", 2).await, [3]);
    for past in [3, 4, 1_000, u64::MAX - 1, u64::MAX] {
        assert_eq!(seqs(store, "t", past).await, [0; 0], "after {past}");
    }
    publish(store, "t", None, "1").await;
    assert_eq!(seqs(store, "t", 3).await, [4]);
}

pub async fn positions_are_found_by_id_and_by_time(store: &Arc<dyn Store>) {
    // Publishers set `ts`, so the log is not sorted by it.
    for (i, ts) in [10, 30, 20, 30].into_iter().enumerate() {
        let mut append = event("t", Some(&format!("e{i}")), None, "1");
        append.ts = Some(ts);
        commit(store, vec![append], Vec::new()).await.remove(0).unwrap();
    }
    let t = topic("t");
    assert_eq!(store.seq_of(&t, "e2").await, Ok(Some(3)));
    assert_eq!(store.seq_of(&t, "e9").await, Ok(None));
    assert_eq!(store.seq_of(&topic("other"), "e2").await, Ok(None), "only on its own topic");
    for (ts, seq) in [(0, 0), (10, 0), (11, 1), (20, 1), (30, 1), (31, 4), (u64::MAX, 4)] {
        assert_eq!(store.seq_before_ts(&t, ts).await, Ok(seq), "ts {ts}");
    }
}

pub async fn the_newest_of_each_key_is_found(store: &Arc<dyn Store>) {
    for key in [Some("a"), Some("b"), None, Some("a")] {
        publish(store, "t", key, "1").await;
    }
    let latest = async |key: &str| store.latest(&topic("t"), key).await.unwrap().map(|event| event.seq);
    assert_eq!((latest("a").await, latest("b").await, latest("c").await), (Some(4), Some(2), None));
    assert!(store.latest(&topic("other"), "a").await.unwrap().is_none());
}

pub async fn the_newest_of_each_key_pages_at_a_fixed_seq(store: &Arc<dyn Store>) {
    for key in ["d", "a", "ä", "c", "B", "a"] {
        publish(store, "t", Some(key), &format!("\"{}\"", "x".repeat(500))).await;
    }
    publish(store, "t", None, "1").await;
    let t = topic("t");
    // While it is read, keys come and change.
    publish(store, "t", Some("c"), "2").await;
    publish(store, "t", Some("aa"), "2").await;
    let mut got = Vec::new();
    let mut after: Option<Box<str>> = None;
    loop {
        let page = store.latest_page(&t, after.as_deref(), 7, 2, BYTES).await.unwrap();
        assert!(page.events.len() <= 2);
        got.extend(keys(&page.events).into_iter().map(|(key, seq)| (key.to_owned(), seq)));
        if !page.more {
            break;
        }
        after.clone_from(&page.events.last().unwrap().key);
    }
    let got: Vec<(&str, u64)> = got.iter().map(|(key, seq)| (key.as_str(), *seq)).collect();
    assert_eq!(got, [("B", 5), ("a", 6), ("d", 1), ("ä", 3)], "in byte order, without what came after 7");
    let all = store.latest_page(&t, None, u64::MAX, 100, BYTES).await.unwrap();
    assert_eq!(keys(&all.events), [("B", 5), ("a", 6), ("aa", 9), ("c", 8), ("d", 1), ("ä", 3)]);
    assert!(!all.more);
    let exact = store.latest_page(&t, None, u64::MAX, 6, BYTES).await.unwrap();
    assert!(exact.events.len() == 6 && !exact.more, "nothing is behind the last");
    let small = store.latest_page(&t, None, u64::MAX, 100, 1).await.unwrap();
    assert!(small.events.len() == 1 && small.more, "at least one, however large");
    let some = store.latest_page(&t, None, u64::MAX, 100, 1_300).await.unwrap();
    assert!((2..=4).contains(&some.events.len()) && some.more, "about so many bytes");
    let none = store.latest_page(&t, None, 0, 100, BYTES).await.unwrap();
    assert!(none.events.is_empty() && !none.more);
}

pub async fn cursors_come_back_as_they_were_stored(store: &Arc<dyn Store>) {
    let cursor = Cursor {
        epoch: 0,
        floor: 3,
        last_id: Some("an id with \"quotes\" and ü".into()),
        last_ts: 12,
        delivered: 900,
        settled: vec![(5, 5), (7, 800)],
        attempts: vec![(4, 3), (6, 0)],
    };
    let put_it =
        |name: &str, cursor: &Cursor| CursorPut { topic: topic("t"), group: group(name), cursor: cursor.clone() };
    let plain = Cursor { floor: 9, delivered: 9, ..Cursor::default() };
    commit(store, vec![event("t", None, None, "1")], Vec::new()).await;
    let t = topic("t");
    let cursor = Cursor { epoch: store.tail(&t).await.unwrap().unwrap().epoch, ..cursor };
    commit(store, Vec::new(), vec![put_it("g", &cursor), put_it("a", &plain)]).await;
    assert_eq!(store.topics_of(&group("a")).await, Ok(vec![t.clone()]));
    assert_eq!(store.topics_of(&group("other")).await, Ok(Vec::new()));
    assert_eq!(store.cursor(&t, &group("g")).await, Ok(Some(cursor.clone())));
    assert_eq!(store.cursor(&t, &group("other")).await, Ok(None));
    assert_eq!(store.cursor(&topic("other"), &group("g")).await, Ok(None));
    assert_eq!(
        store.cursors(&t).await,
        Ok(vec![(group("a"), plain.clone()), (group("g"), cursor.clone())]),
        "in order"
    );
    // The whole is replaced, and the last of a batch counts.
    commit(store, Vec::new(), vec![put_it("g", &cursor), put_it("g", &plain)]).await;
    assert_eq!(store.cursor(&t, &group("g")).await, Ok(Some(plain)));
}

pub async fn a_cursor_alone_makes_no_topic(store: &Arc<dyn Store>) {
    commit(store, Vec::new(), vec![put("t", "g", 0)]).await;
    assert_eq!(store.tail(&topic("t")).await, Ok(None));
    assert_eq!(store.topics().await, Ok(Vec::new()));
    assert_eq!(publish(store, "t", None, "1").await.seq, 1);
    assert_eq!(store.tail(&topic("t")).await.unwrap().map(|tail| tail.seq), Some(1));
}

pub async fn positions_are_found_where_nobody_has_published_and_go_with_the_last(store: &Arc<dyn Store>) {
    let all = async || -> Vec<_> {
        let all = store.all_topics().await.unwrap().into_iter();
        all.map(|(topic, tail)| (topic.as_str().to_owned(), tail.first, tail.seq)).collect()
    };
    assert_eq!(all().await, []);
    publish(store, "t", None, "1").await;
    commit(store, Vec::new(), vec![put("t", "g", 0), put("quiet", "g", 0), put("quiet", "h", 0), put("z", "g", 0)])
        .await;
    let (quiet, t) = (("quiet".to_owned(), 1, 0), ("t".to_owned(), 1, 1));
    assert_eq!(all().await, [quiet.clone(), t.clone(), ("z".to_owned(), 1, 0)]);
    assert_eq!(store.topics().await.unwrap().len(), 1);
    let of_g = ["t", "quiet", "z"].map(|on| (topic(on), group("g")));
    store.remove_cursors(&of_g).await.unwrap();
    assert_eq!(all().await, [quiet, t.clone()], "`h` has a position there");
    store.remove_cursors(&[(topic("quiet"), group("h")), (topic("quiet"), group("h"))]).await.unwrap();
    assert_eq!(all().await, std::slice::from_ref(&t));
    assert_eq!(store.remove_topic(&topic("quiet"), None).await, Ok(false), "nothing is left of it");
    // It may come again, either way.
    commit(store, Vec::new(), vec![put("quiet", "g", 0)]).await;
    assert_eq!(all().await.len(), 2);
    assert_eq!((publish(store, "z", None, "1").await.seq, publish(store, "quiet", None, "1").await.seq), (1, 1));
    assert_eq!(all().await, [("quiet".to_owned(), 1, 1), t, ("z".to_owned(), 1, 1)]);
    store.remove_cursors(&[(topic("quiet"), group("g"))]).await.unwrap();
    assert_eq!(seqs(store, "quiet", 0).await, [1], "with events it stays");
}

pub async fn the_epoch_stays(store: &Arc<dyn Store>) {
    publish(store, "t", None, "1").await;
    let epoch = async || store.tail(&topic("t")).await.unwrap().unwrap().epoch;
    let first = epoch().await;
    assert_ne!(first, 0, "0 is a topic without a log");
    publish(store, "t", None, "1").await;
    commit(store, Vec::new(), vec![put("t", "g", 2)]).await;
    assert_eq!(epoch().await, first);
}

pub async fn readers_see_a_commit_whole_or_not_at_all(store: &Arc<dyn Store>) {
    const COMMITS: u64 = 300;
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3).map(|_| tokio::spawn(read_whole(Arc::clone(store), Arc::clone(&done)))).collect();
    for commits in 1..=COMMITS {
        let appends = (0..EACH).flat_map(|_| [event("a", None, Some("k"), "1"), event("b", None, None, "1")]);
        commit(store, appends.collect(), vec![put("a", "g", commits * EACH)]).await;
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(seqs(store, "a", COMMITS * EACH - 1).await, [COMMITS * EACH]);
}

/// Events of each topic in each commit.
const EACH: u64 = 7;

async fn read_whole(store: Arc<dyn Store>, done: Arc<AtomicBool>) {
    let (a, b) = (topic("a"), topic("b"));
    let mut position = 0;
    let mut over = false;
    while !over {
        over = done.load(Ordering::SeqCst);
        let first = store.tail(&a).await.unwrap().map_or(0, |tail| tail.seq);
        let second = store.tail(&b).await.unwrap().map_or(0, |tail| tail.seq);
        assert!(first % EACH == 0 && first <= second, "{first} {second}");
        let settled = store.cursor(&a, &group("g")).await.unwrap().map_or(0, |cursor| cursor.floor);
        assert!(settled >= first, "the cursor came with the events");
        assert!(store.latest(&a, "k").await.unwrap().map_or(0, |event| event.seq) >= first);
        // What is settled may have been trimmed meanwhile.
        let page = store.read(&a, position, 50, BYTES).await.unwrap();
        position = position.max(page.first - 1);
        for event in &page.events {
            position += 1;
            assert_eq!(event.seq, position);
        }
        assert!(page.events.len() == 50 || position % EACH == 0, "the end of a page is the end of a commit");
        tokio::task::yield_now().await;
    }
}

/// Publishes until the store refuses or `limit` events are in; answers how many were taken.
async fn fill(store: &Arc<dyn Store>, on: &str, limit: u64) -> u64 {
    let payload = format!("\"{}\"", "x".repeat(10_000));
    for taken in 0..limit {
        match commit(store, vec![event(on, None, None, &payload)], Vec::new()).await.remove(0) {
            Ok(_) => {}
            Err(refused) => {
                assert!(refused.code().temporary(), "{refused:?}");
                return taken;
            }
        }
    }
    limit
}

pub async fn a_trim_takes_settled_events_from_the_front(store: &Arc<dyn Store>) {
    commit(store, Vec::new(), vec![put("t", "slow", 0), put("t", "fast", 0)]).await;
    assert_eq!(fill(store, "t", 40).await, 40);
    commit(store, Vec::new(), vec![put("t", "slow", 30), put("t", "fast", 40)]).await;
    // Far over the budget, on a topic without groups.
    assert_eq!(fill(store, "other", 500).await, 500);
    let tail = store.tail(&topic("t")).await.unwrap().unwrap();
    assert!(tail.first <= 31, "an event that `slow` has not settled is gone: {tail:?}");
    assert_eq!(tail.seq, 40);
    assert_eq!(seqs(store, "t", 0).await, (tail.first..=40).collect::<Vec<_>>(), "from the first that is retained");
    let page = store.read(&topic("t"), 0, 1, BYTES).await.unwrap();
    assert_eq!(page.first, tail.first);
    let other = store.tail(&topic("other")).await.unwrap().unwrap();
    assert!(other.first > 1 && other.seq == 500, "{other:?}");
    assert_eq!(seqs(store, "other", 0).await, (other.first..=500).collect::<Vec<_>>());
    assert_eq!(store.seq_before_ts(&topic("other"), 0).await, Ok(other.first - 1));
}

pub async fn the_newest_of_each_key_outlives_a_trim(store: &Arc<dyn Store>) {
    for key in ["a", "b", "a"] {
        publish(store, "t", Some(key), "1").await;
    }
    fill(store, "t", 500).await;
    assert!(store.tail(&topic("t")).await.unwrap().unwrap().first > 3, "trimmed");
    let page = store.latest_page(&topic("t"), None, u64::MAX, 10, BYTES).await.unwrap();
    assert_eq!(keys(&page.events), [("a", 3), ("b", 2)]);
    assert_eq!(store.latest(&topic("t"), "b").await.unwrap().map(|event| event.seq), Some(2));
    publish(store, "t", Some("b"), "2").await;
    assert_eq!(store.latest(&topic("t"), "b").await.unwrap().map(|event| event.seq), Some(504));
}

pub async fn an_id_is_free_again_once_its_event_is_trimmed(store: &Arc<dyn Store>) {
    commit(store, vec![event("t", Some("x"), None, "1")], Vec::new()).await;
    fill(store, "t", 500).await;
    assert_eq!(store.seq_of(&topic("t"), "x").await, Ok(None));
    let again = commit(store, vec![event("t", Some("x"), None, "1")], Vec::new()).await.remove(0).unwrap();
    assert_eq!((again.seq, again.duplicate), (502, false));
}

pub async fn a_full_store_refuses_events_until_they_are_settled(store: &Arc<dyn Store>) {
    commit(store, Vec::new(), vec![put("t", "g", 0)]).await;
    let taken = fill(store, "t", 10_000).await;
    assert!((20..10_000).contains(&taken), "about {BYTES} bytes: {taken} events");
    assert_eq!(seqs(store, "t", 0).await, (1..=taken).collect::<Vec<_>>(), "all of them are there");
    commit(store, Vec::new(), vec![put("t", "g", taken)]).await;
    assert_eq!(fill(store, "t", 10).await, 10);
    assert_eq!(store.tail(&topic("t")).await.unwrap().unwrap().seq, taken + 10, "no seq was lost");
}

/// Nobody could see it but who was refused.
pub async fn a_full_store_says_so_until_there_is_room(store: &Arc<dyn Store>) {
    commit(store, Vec::new(), vec![put("t", "g", 0)]).await;
    assert_eq!(store.full(), None);
    let taken = fill(store, "t", 10_000).await;
    let why = store.full().expect("it is full");
    assert!(why.contains("full"), "{why}");
    commit(store, Vec::new(), vec![put("t", "g", 0)]).await;
    assert!(store.full().is_some(), "nothing was settled");
    // What a group settles makes room: that is found out without an event that is tried.
    commit(store, Vec::new(), vec![put("t", "g", taken)]).await;
    let deadline = Instant::now() + DEADLINE;
    while let Some(why) = store.full() {
        assert!(Instant::now() < deadline, "{why}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fill(store, "t", 1).await, 1);
}

pub async fn a_group_that_begins_with_a_batch_keeps_what_the_batch_would_trim(store: &Arc<dyn Store>) {
    fill(store, "t", 90).await;
    let payload = format!("\"{}\"", "x".repeat(10_000));
    let first = store.tail(&topic("t")).await.unwrap().unwrap().first;
    let appends = (0..40).map(|_| event("t", None, None, &payload)).collect();
    commit(store, appends, vec![put("t", "g", first - 1)]).await;
    let page = store.read(&topic("t"), first - 1, 1, BYTES).await.unwrap();
    assert_eq!((page.first, page.events[0].seq), (first, first));
}

pub async fn a_full_store_takes_duplicates_cursors_and_dead_letters(store: &Arc<dyn Store>) {
    commit(store, vec![event("t", Some("x"), None, "1")], vec![put("t", "g", 0)]).await;
    let taken = fill(store, "t", 10_000).await;
    let payload = format!("\"{}\"", "x".repeat(10_000));
    let appends = || {
        vec![
            event("t", None, None, &payload),
            event("t", Some("x"), None, "1"),
            event("dlq.t", Some("$dead.g/t/1"), None, &payload),
        ]
    };
    let outcomes = commit(store, appends(), vec![put("t", "h", 1)]).await;
    assert!(outcomes[0].is_err(), "there is no room");
    assert!(outcomes[1].as_ref().is_ok_and(|appended| appended.duplicate));
    assert!(outcomes[2].is_ok());
    assert!(store.cursor(&topic("t"), &group("h")).await.unwrap().is_some());
    // A cursor in the same batch makes room.
    let outcomes = commit(store, appends(), vec![put("t", "g", taken + 1), put("t", "h", taken + 1)]).await;
    assert!(outcomes[0].is_ok(), "{outcomes:?}");
}

/// What anybody can see of a topic.
async fn nothing_is_left(store: &Arc<dyn Store>, on: &str) {
    let t = topic(on);
    assert_eq!(store.tail(&t).await, Ok(None));
    assert!(store.topics().await.unwrap().iter().all(|(own, _)| *own != t));
    let page = store.read(&t, 0, 10, BYTES).await.unwrap();
    assert!(page.events.is_empty() && page.first <= 1 && page.epoch == 0, "{page:?}");
    assert_eq!(store.seq_of(&t, "mine").await, Ok(None));
    assert_eq!(store.seq_before_ts(&t, u64::MAX).await, Ok(0));
    assert!(store.latest(&t, "k").await.unwrap().is_none());
    assert!(store.latest_page(&t, None, u64::MAX, 10, BYTES).await.unwrap().events.is_empty());
    assert_eq!(store.cursor(&t, &group("g")).await, Ok(None));
    assert_eq!(store.cursors(&t).await, Ok(Vec::new()));
    assert_eq!(store.topics_of(&group("g")).await, Ok(Vec::new()));
}

pub async fn a_topic_that_is_removed_takes_everything_with_it(store: &Arc<dyn Store>) {
    let t = topic("t");
    assert_eq!(store.remove_topic(&t, None).await, Ok(false), "there is none");
    for on in ["t", "other"] {
        let appends = vec![event(on, Some("mine"), Some("k"), "1"), event(on, None, None, "2")];
        commit(store, appends, vec![put(on, "h", 1)]).await;
    }
    commit(store, Vec::new(), vec![put("t", "g", 0)]).await;
    assert_eq!(store.topics_of(&group("h")).await, Ok(vec![topic("other"), t.clone()]), "in name order");
    assert_eq!(store.remove_topic(&t, None).await, Ok(true));
    nothing_is_left(store, "t").await;
    assert_eq!(store.remove_topic(&t, None).await, Ok(false), "it is gone");
    assert_eq!(seqs(store, "other", 0).await, [1, 2]);
    assert_eq!(store.latest(&topic("other"), "k").await.unwrap().map(|event| event.seq), Some(1));
    assert_eq!(store.cursors(&topic("other")).await.unwrap().len(), 1);
    assert_eq!(store.topics_of(&group("h")).await, Ok(vec![topic("other")]));
    // Also one that has groups alone.
    commit(store, Vec::new(), vec![put("quiet", "g", 0)]).await;
    assert_eq!(store.remove_topic(&topic("quiet"), None).await, Ok(true));
    nothing_is_left(store, "quiet").await;
}

pub async fn a_topic_that_is_made_again_is_another_log(store: &Arc<dyn Store>) {
    let t = topic("t");
    for _ in 0..3 {
        publish(store, "t", Some("k"), "1").await;
    }
    commit(store, vec![event("t", Some("mine"), None, "1")], Vec::new()).await;
    let before = store.tail(&t).await.unwrap().unwrap();
    let of_before = Cursor { epoch: before.epoch, floor: 4, delivered: 4, ..Cursor::default() };
    let stale = || CursorPut { topic: topic("t"), group: group("g"), cursor: of_before.clone() };
    commit(store, Vec::new(), vec![stale()]).await;
    assert_eq!(store.remove_topic(&t, None).await, Ok(true));
    // Of a group that does not know yet.
    commit(store, Vec::new(), vec![stale()]).await;
    assert_eq!(store.cursor(&t, &group("g")).await, Ok(None));
    let again = commit(store, vec![event("t", Some("mine"), None, "2")], Vec::new()).await.remove(0).unwrap();
    assert_eq!((again.seq, again.duplicate), (1, false), "the id is free again");
    let after = store.tail(&t).await.unwrap().unwrap();
    assert_eq!((after.first, after.seq), (1, 1));
    assert!(after.epoch != before.epoch && after.epoch != 0);
    commit(store, Vec::new(), vec![stale()]).await;
    assert_eq!(store.cursor(&t, &group("g")).await, Ok(None), "a position in a log that is gone is none");
    assert_eq!(store.cursors(&t).await, Ok(Vec::new()));
    assert!(store.latest(&t, "k").await.unwrap().is_none());
    let page = store.read(&t, 0, 10, BYTES).await.unwrap();
    assert_eq!((page.epoch, page.events.len()), (after.epoch, 1));
    assert_eq!(publish(store, "t", Some("k"), "3").await.seq, 2);
    assert_eq!(store.latest(&t, "k").await.unwrap().map(|event| event.seq), Some(2));
}

pub async fn a_topic_is_removed_only_as_it_was_seen(store: &Arc<dyn Store>) {
    let t = topic("t");
    publish(store, "t", None, "1").await;
    let seen = store.tail(&t).await.unwrap().unwrap();
    publish(store, "t", None, "2").await;
    assert_eq!(store.remove_topic(&t, Some(seen)).await, Ok(false), "somebody has published");
    let seen = store.tail(&t).await.unwrap().unwrap();
    commit(store, Vec::new(), vec![put("t", "g", 0)]).await;
    assert_eq!(store.remove_topic(&t, Some(seen)).await, Ok(false), "a group has begun");
    store.remove_cursors(&[(t.clone(), group("g"))]).await.unwrap();
    assert_eq!(store.remove_topic(&t, Some(seen)).await, Ok(true));
    assert_eq!(store.remove_topic(&t, Some(seen)).await, Ok(false));
}

pub async fn cursors_that_are_removed_hold_nothing_back(store: &Arc<dyn Store>) {
    let t = topic("t");
    commit(store, Vec::new(), vec![put("t", "g", 0), put("t", "h", 0), put("quiet", "g", 0)]).await;
    let taken = fill(store, "t", 10_000).await;
    let gone = [(t.clone(), group("g")), (topic("quiet"), group("g")), (topic("none"), group("g"))];
    store.remove_cursors(&gone).await.unwrap();
    assert_eq!(store.topics_of(&group("g")).await, Ok(Vec::new()));
    assert_eq!(store.cursor(&t, &group("g")).await, Ok(None));
    assert_eq!(store.cursors(&t).await.unwrap().len(), 1, "the other group's stays");
    assert_eq!(fill(store, "t", 1).await, 0, "it holds the log");
    store.remove_cursors(&[(t.clone(), group("h"))]).await.unwrap();
    assert_eq!(fill(store, "t", 10).await, 10);
    assert_eq!(store.tail(&t).await.unwrap().unwrap().seq, taken + 10);
    // It may begin again.
    commit(store, Vec::new(), vec![put("t", "g", taken)]).await;
    assert_eq!(store.cursor(&t, &group("g")).await.unwrap().map(|own| own.floor), Some(taken));
}

/// Commits what there are very many of. A store whose upkeep is behind takes nothing until it is not.
async fn commit_patiently(store: &Arc<dyn Store>, batch: impl Fn() -> Batch) -> Vec<Result<Appended, Refusal>> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match store.commit(batch()).await {
            Ok(outcomes) => return outcomes,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// All topics there may be were made by one token, and nobody could ever make another. For a store that has room for all of
/// them, so it is none of [`store_conformance!`](crate::store_conformance).
pub async fn topics_that_are_removed_make_room_for_others(store: &Arc<dyn Store>) {
    commit(store, Vec::new(), vec![put("one.more", "g", 0), put("two.more", "g", 0)]).await;
    for from in (0..crate::MAX_TOPICS).step_by(500) {
        let appends = || (from..from + 500).map(|i| event(&format!("t{i}"), None, None, "1")).collect();
        let batch = || Batch { now: 1_000, appends: appends(), cursors: Vec::new() };
        let outcomes = commit_patiently(store, batch).await;
        assert!(outcomes.iter().all(Result::is_ok));
    }
    let one_more = async || commit(store, vec![event("one.more", None, None, "1")], Vec::new()).await.remove(0);
    let refused = one_more().await.unwrap_err();
    assert!(refused.code().temporary() && refused.message().contains("100000 topics"), "{refused:?}");
    assert!(publish(store, "t7", None, "2").await.seq == 2, "those that are there go on");
    assert_eq!(store.remove_topic(&topic("t7"), None).await, Ok(true));
    let appends = vec![event("one.more", None, None, "1"), event("two.more", None, None, "1")];
    let outcomes = commit(store, appends, Vec::new()).await;
    assert_eq!(outcomes[0].as_ref().map(|appended| appended.seq), Ok(1));
    assert!(outcomes[1].is_err(), "it took its place");
    let refused = commit(store, vec![event("two.more", None, None, "1")], Vec::new()).await.remove(0);
    assert!(refused.is_err(), "it took its place");
}

/// Whoever might only subscribe made topics without end, and nobody could publish to a new one, also after restarts. For a
/// store that has room for so many positions, so it is none of [`store_conformance!`](crate::store_conformance).
pub async fn positions_alone_use_no_topics_up(store: &Arc<dyn Store>) {
    for from in (0..crate::MAX_TOPICS).step_by(500) {
        let cursors = || (from..from + 500).map(|i| put(&format!("t{i}"), "g", 0)).collect();
        commit_patiently(store, || Batch { now: 1_000, appends: Vec::new(), cursors: cursors() }).await;
    }
    // On one that is nowhere yet, and on one that has a position.
    for on in ["fresh", "t7"] {
        let outcome = commit(store, vec![event(on, None, None, "1")], Vec::new()).await.remove(0);
        assert_eq!(outcome.map(|appended| appended.seq), Ok(1), "{on}");
    }
    let topics: Vec<_> = store.topics().await.unwrap().into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(topics, [topic("fresh"), topic("t7")]);
}
