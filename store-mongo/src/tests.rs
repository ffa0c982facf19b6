//! The store contract on a real replica set, and what is this backend's own.

mod faults;
mod lease;
mod removals;

use std::collections::BTreeMap;

use mongodb::bson::{Document, doc};
use prom_mongod::{self as mongod, fresh_database, shared};
use prom_protocol::{EventOptions, TopicOrPattern, encode_event_body};
use prom_store::{Append, Change, CursorPut, Rule, wall_clock};

use super::{document::long, *};

/// Far beyond what is waited for, so that only a defect meets it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A database of its own on the set that the tests of this binary share.
async fn fresh() -> Options {
    let set = shared().await.unwrap();
    let (hosts, options) = set.split_once("/?").unwrap();
    Options::new(format!("{hosts}/{}?{options}", fresh_database("store")))
}

async fn open(options: &Options) -> Arc<MongoStore> {
    Arc::new(MongoStore::open(options.clone()).await.unwrap())
}

mod with_the_cache {
    use super::*;

    prom_store::store_conformance!(|max_bytes| async move {
        open(&Options { max_bytes: Some(max_bytes as u64), ..fresh().await }).await as Arc<dyn Store>
    });
}

/// Every read comes from the database.
mod without_the_cache {
    use super::*;

    prom_store::store_conformance!(|max_bytes| async move {
        let small = Options { max_bytes: Some(max_bytes as u64), cache_bytes: 0, ..fresh().await };
        open(&small).await as Arc<dyn Store>
    });
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn event(on: &str, id: Option<&str>, key: Option<&str>, ts: u64) -> Append {
    let mut body = Vec::new();
    let options = EventOptions { key: key.map(Into::into), ..EventOptions::default() };
    encode_event_body(&mut body, on, &options, r#"{"n":1}"#);
    Append { topic: topic(on), id: id.map(Into::into), ts: Some(ts), key: key.map(Into::into), body }
}

fn put(on: &str, group: &str, floor: u64) -> CursorPut {
    let cursor = Cursor { floor, delivered: floor, ..Cursor::default() };
    CursorPut { topic: topic(on), group: Group::new(group).unwrap(), cursor }
}

async fn commit(store: &MongoStore, appends: Vec<Append>, cursors: Vec<CursorPut>) -> Vec<Appended> {
    commit_at(store, 1_000, appends, cursors).await
}

async fn commit_at(store: &MongoStore, now: u64, appends: Vec<Append>, cursors: Vec<CursorPut>) -> Vec<Appended> {
    let outcomes = store.commit(Batch { now, appends, cursors }).await.unwrap();
    outcomes.into_iter().map(Result::unwrap).collect()
}

async fn tail(store: &MongoStore, on: &str) -> Tail {
    store.tail(&topic(on)).await.unwrap().unwrap()
}

/// Asks again and again until the answer is what is waited for.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(since.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hubs_that_write_one_topic_leave_no_gap_and_lose_nothing() {
    const COMMITS: u64 = 40;
    const EACH: u64 = 5;
    let options = fresh().await;
    let writers = ["left", "right"].map(|name| {
        let options = options.clone();
        tokio::spawn(async move {
            let store = open(&options).await;
            let mut at = Vec::new();
            for commit_number in 0..COMMITS {
                let ids = (0..EACH).map(|i| format!("{name}-{commit_number}-{i}"));
                let appends = ids.flat_map(|id| {
                    [event("both", Some(&id), None, 1), event(name, Some(&format!("{id}-own")), None, 1)]
                });
                at.extend(commit(&store, appends.collect(), Vec::new()).await);
            }
            at
        })
    });
    let mut acknowledged = BTreeMap::new();
    for writer in writers {
        for appended in writer.await.unwrap() {
            assert!(!appended.duplicate);
            if !appended.id.ends_with("-own") {
                assert_eq!(acknowledged.insert(appended.seq, appended.id), None, "one seq, one event");
            }
        }
    }
    let all = 2 * COMMITS * EACH;
    assert_eq!(acknowledged.keys().copied().collect::<Vec<_>>(), (1..=all).collect::<Vec<_>>());
    let store = open(&options).await;
    let page = store.read(&topic("both"), 0, usize::MAX, usize::MAX).await.unwrap();
    let found: Vec<_> = page.events.iter().map(|event| (event.seq, event.id.clone())).collect();
    assert_eq!(found, acknowledged.into_iter().collect::<Vec<_>>());
    // The events of one commit stay together, and a hub's commits in their order.
    for run in found.chunks(usize::try_from(EACH).unwrap()) {
        let commit = |id: &str| id.rsplit_once('-').map(|(commit, _)| commit.to_owned());
        assert!(run.iter().all(|(_, id)| commit(id) == commit(&run[0].1)), "{run:?}");
    }
}

/// With `os` they heard nothing: a change stream takes no other read concern than a majority's.
#[tokio::test]
async fn a_hub_hears_of_what_another_commits() {
    for durability in [Durability::Commit, Durability::Os] {
        hears(Options { durability, ..fresh().await }).await;
    }
}

async fn hears(options: Options) {
    let (here, there) = (open(&options).await, open(&options).await);
    commit(&there, vec![event("before", None, None, 1)], Vec::new()).await;
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let follower = Arc::clone(&here);
    let follows = tokio::spawn(async move {
        let heard = move |topic: &Topic, change| drop(heard.send((topic.to_string(), change)));
        follower.follow(Box::new(heard)).await;
    });
    let mut next = async || tokio::time::timeout(PATIENCE, hears.recv()).await.unwrap().unwrap();
    assert_eq!(next().await, ("before".to_owned(), Change::Grown(1)), "what was there when it began");
    for seq in 1..=3 {
        commit(&there, vec![event("new", None, None, 1)], Vec::new()).await;
        assert_eq!(next().await, ("new".to_owned(), Change::Grown(seq)));
    }
    // What it has itself removed it knows; what comes then is told as ever.
    commit(&here, vec![event("own", None, None, 1)], Vec::new()).await;
    assert_eq!(next().await, ("own".to_owned(), Change::Grown(1)));
    assert_eq!(here.remove_topic(&topic("own"), None).await, Ok(true));
    assert_eq!(there.remove_topic(&topic("before"), None).await, Ok(true));
    assert_eq!(next().await, ("before".to_owned(), Change::Removed));
    commit(&there, vec![event("before", None, None, 1)], Vec::new()).await;
    assert_eq!(next().await, ("before".to_owned(), Change::Grown(1)));
    assert_eq!(seqs(&here, "before").await, [1]);
    assert_eq!(tail(&here, "new").await.seq, 3);
    let page = here.read(&topic("new"), 0, 10, 1_000).await.unwrap();
    assert_eq!(page.read_to, 3);
    here.close().await.unwrap();
    tokio::time::timeout(PATIENCE, follows).await.unwrap().unwrap();
}

async fn seqs(store: &MongoStore, on: &str) -> Vec<u64> {
    let page = store.read(&topic(on), 0, 10_000, usize::MAX).await.unwrap();
    page.events.iter().map(|event| event.seq).collect()
}

#[tokio::test]
async fn a_time_is_found_although_what_was_later_is_gone() {
    let options = Options {
        retention: Retention::new(vec![Rule { max_events: Some(4), ..rule("t") }]),
        upkeep_every: Duration::from_millis(50),
        ..fresh().await
    };
    let store = open(&options).await;
    let times = [10, 900, 20, 30, 40, 50];
    commit(&store, times.into_iter().map(|ts| event("t", None, None, ts)).collect(), Vec::new()).await;
    until("2 of 6 are trimmed", async || (tail(&store, "t").await.first == 3).then_some(())).await;
    for (ts, before) in [(0, 2), (20, 2), (21, 3), (50, 5), (51, 6), (901, 6)] {
        assert_eq!(store.seq_before_ts(&topic("t"), ts).await, Ok(before), "ts {ts}");
    }
}

fn rule(topics: &str) -> Rule {
    Rule::new(TopicOrPattern::new(topics).unwrap())
}

#[tokio::test]
async fn rules_trim_what_is_beyond_them_and_keep_what_groups_need() {
    let minute = Some(Duration::from_secs(60));
    let options = Options {
        retention: Retention::new(vec![
            Rule { max_age: minute, ..rule("aged") },
            Rule { max_events: Some(10), compact: true, ..rule("counted") },
            Rule { max_bytes: Some(2_000), ..rule("sized") },
            Rule { max_events: Some(10), ..rule("needed") },
            Rule { max_events: Some(10), drop_unsettled: true, ..rule("dropped") },
        ]),
        upkeep_every: Duration::from_millis(50),
        ..fresh().await
    };
    let store = open(&options).await;
    let now = prom_store::wall_clock();
    // What a publisher says of the time is nothing to go by: the old ones are ahead, and the new ones behind.
    let appends = |range: std::ops::RangeInclusive<u64>| {
        range.flat_map(|i| {
            let ts = if i <= 70 { now + 1_000_000_000 } else { 1 };
            let key = (i <= 2).then_some("old").or((i == 50).then_some("other"));
            ["aged", "counted", "sized", "needed", "dropped", "free"].map(|on| event(on, None, key, ts))
        })
    };
    let groups = vec![put("needed", "g", 40), put("dropped", "g", 40)];
    commit_at(&store, now - 120_000, appends(1..=70).collect(), groups).await;
    commit_at(&store, now, appends(71..=100).collect(), Vec::new()).await;
    for (on, first) in [("aged", 71), ("counted", 91), ("needed", 41), ("dropped", 91), ("free", 1)] {
        until(on, async || (tail(&store, on).await.first == first).then_some(())).await;
    }
    until("sized", async || (tail(&store, "sized").await.first > 70).then_some(())).await;
    assert!(tail(&store, "sized").await.first <= 95, "about 2,000 bytes stay");
    let left = async |on: &str| {
        let all = doc! { "topic": on, "seq": { "$lt": 41_i64 } };
        let mut seqs: Vec<i64> = Vec::new();
        let mut found = store.inner.events.find(all).await.unwrap();
        while found.advance().await.unwrap() {
            seqs.push(found.current().get_i64("seq").unwrap());
        }
        seqs.sort_unstable();
        seqs
    };
    until("deleted", async || left("aged").await.is_empty().then_some(())).await;
    until("the newest of a key stays", async || (left("counted").await == [2]).then_some(())).await;
    let latest = async |on: &str, key: &str| store.latest(&topic(on), key).await.unwrap().map(|event| event.seq);
    assert_eq!((latest("counted", "old").await, latest("counted", "other").await), (Some(2), Some(50)));
    assert_eq!((latest("aged", "old").await, latest("free", "old").await), (None, Some(2)));
    let page = store.latest_page(&topic("counted"), None, u64::MAX, 10, 10_000).await.unwrap();
    assert_eq!(page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [2, 50]);
    // Once it has settled them, they go.
    commit(&store, Vec::new(), vec![put("needed", "g", 95)]).await;
    until("settled", async || (tail(&store, "needed").await.first == 91).then_some(())).await;
}

/// A group that began on one hub while another trimmed lost what it had not settled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_begins_meets_a_trim_on_another_hub() {
    let options = Options {
        retention: Retention::new(vec![Rule { max_events: Some(1), ..rule("**") }]),
        upkeep_every: Duration::from_millis(5),
        ..fresh().await
    };
    let trims = open(&options).await;
    let begins = open(&Options { upkeep_every: Duration::from_secs(3600), ..options }).await;
    let mut joined: Vec<(u64, String)> = Vec::new();
    let since = Instant::now();
    // Most rounds are lost to the trim where commits are slow.
    while joined.len() < 150 || (since.elapsed() < PATIENCE && joined.iter().all(|(first, _)| *first > 1)) {
        let round = joined.len();
        let on = format!("t{round}");
        commit(&begins, (0..20).map(|_| event(&on, None, None, 1)).collect(), Vec::new()).await;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..8_000))).await;
        commit(&begins, Vec::new(), vec![put(&on, "g", 0)]).await;
        joined.push((tail(&begins, &on).await.first, on));
    }
    // Whatever was under way is done once two more topics are trimmed, one after the other.
    for on in ["x", "y"] {
        commit(&begins, (0..20).map(|_| event(on, None, None, 1)).collect(), Vec::new()).await;
        until("a pass over all topics", async || (tail(&trims, on).await.first == 20).then_some(())).await;
    }
    assert!(joined.iter().any(|(first, _)| *first == 1), "no group came before the trim: this checks nothing");
    for (first, on) in joined {
        assert_eq!(tail(&begins, &on).await.first, first, "{on}: nothing goes once the group is there");
    }
}

#[tokio::test]
async fn no_read_looks_at_more_than_it_answers_with() {
    let store = open(&fresh().await).await;
    for _ in 0..4 {
        let appends = (0..500).map(|i| event("t", None, Some(&format!("k{}", i % 10)), 1));
        commit(&store, appends.collect(), vec![put("t", "g", 7), put("u", "g", 7)]).await;
    }
    let explained = async |command: Document| {
        let explain = doc! { "explain": command, "verbosity": "executionStats" };
        store.inner.database.run_command(explain).await.unwrap()
    };
    let newest = read::newest_of_each_key(&topic("t"), doc! { "$gte": "" });
    for (what, command, most) in [
        (
            "a read",
            doc! { "find": "events", "filter": { "topic": "t", "seq": { "$gt": 1_500_i64 } }, "sort": { "seq": 1 }, "limit": 10 },
            10,
        ),
        (
            "latest",
            doc! { "find": "events", "filter": { "topic": "t", "key": "k3" }, "sort": { "seq": -1 }, "limit": 1 },
            1,
        ),
        ("a snapshot", doc! { "aggregate": "events", "pipeline": newest, "cursor": {} }, 11),
        ("a position", doc! { "find": "events", "filter": { "topic": "t", "seq": 77_i64 }, "limit": 1 }, 1),
        ("an id", doc! { "find": "events", "filter": { "topic": "t", "id": "x" }, "limit": 1 }, 1),
        ("a topic", doc! { "find": "topics", "filter": { "_id": "t" } }, 1),
        ("a topic's cursors", doc! { "find": "cursors", "filter": cursor::of_topic(&topic("t")) }, 1),
        (
            "ids",
            doc! { "find": "events", "filter": { "$or": [{ "topic": "t", "id": { "$in": ["x", "y"] } }, { "topic": "u", "id": "x" }] } },
            6,
        ),
        (
            "a trim",
            doc! { "find": "events", "filter": { "topic": "t", "seq": { "$gt": 0_i64, "$lt": 5_i64 } }, "sort": { "seq": 1 } },
            4,
        ),
    ] {
        let plan = explained(command).await;
        let text = plan.to_string();
        assert!(!text.contains("COLLSCAN"), "{what}: {text}");
        let examined = examined(&plan);
        assert!(examined.is_some_and(|examined| examined <= most), "{what} looks at {examined:?}: {text}");
    }
    assert!(store.inner.jumps, "a snapshot stops when its page is full");
}

/// Documents and keys that a plan looked at, whichever is more.
fn examined(plan: &Document) -> Option<i64> {
    let stats = plan.get_document("executionStats").ok().or_else(|| {
        let first = plan.get_array("stages").ok()?.first()?.as_document()?;
        first.get_document("$cursor").ok()?.get_document("executionStats").ok()
    })?;
    let number = |name: &str| stats.get(name).and_then(|value| value.as_i64().or(value.as_i32().map(i64::from)));
    Some(number("totalDocsExamined")?.max(number("totalKeysExamined")?))
}

#[tokio::test]
async fn what_others_wrote_into_the_collections_is_said_to_be_damaged() {
    let store = open(&fresh().await).await;
    commit(&store, vec![event("t", Some("x"), Some("k"), 1)], vec![put("t", "g", 1)]).await;
    let events = store.inner.database.collection::<Document>("events");
    events
        .update_one(doc! { "id": "x" }, doc! { "$set": { "payload": { "at": mongodb::bson::DateTime::now() } } })
        .await
        .unwrap();
    let cursors = store.inner.database.collection::<Document>("cursors");
    cursors.update_one(doc! {}, doc! { "$set": { "settled": [1_i64] } }).await.unwrap();
    let again = MongoStore::open(store.inner.options.clone()).await.unwrap();
    let damaged = |error: StoreError| matches!(error, StoreError::Damaged(_));
    assert!(damaged(again.read(&topic("t"), 0, 10, 10_000).await.unwrap_err()));
    assert!(damaged(again.latest(&topic("t"), "k").await.unwrap_err()));
    // It stopped every snapshot of its topic.
    commit(&again, vec![event("t", Some("y"), Some("z"), 1), event("t", None, Some("l"), 1)], Vec::new()).await;
    let page = again.salvage(&topic("t"), 0, 10, 10_000).await.unwrap();
    assert_eq!((page.read_to, page.events.len(), page.damaged), (3, 2, vec![(1, 1)]));
    for (limit, keys, more) in [(10, 2, false), (1, 1, true)] {
        let page = again.latest_page(&topic("t"), None, 10, limit, 10_000).await.unwrap();
        assert_eq!((page.events.len(), page.damaged, page.more), (keys, 1, more));
        assert_eq!(page.events[0].key.as_deref(), Some("l"), "the next one, though nothing was on the first page");
    }
    assert!(damaged(again.cursor(&topic("t"), &Group::new("g").unwrap()).await.unwrap_err()));
    assert!(again.cursors(&topic("t")).await.unwrap().is_empty(), "one that cannot be read hides no others");
}

/// A database as hubs of format 1 left it.
#[tokio::test]
async fn a_database_of_an_older_hub_goes_on_with_its_ids_by_topic() {
    let options = fresh().await;
    let store = open(&options).await;
    commit(&store, vec![event("t", Some("x"), Some("k"), 7), event("t", Some("y"), None, u64::MAX >> 12)], vec![])
        .await;
    let database = store.inner.database.clone();
    drop(store);
    let events = database.collection::<Document>("events");
    events.drop_index("topic_1_id_1").await.unwrap();
    for id in ["x", "y"] {
        let mut old = events.find_one_and_delete(doc! { "id": id }).await.unwrap().unwrap();
        old.remove("id");
        old.remove("at");
        old.insert("_id", id);
        events.insert_one(old).await.unwrap();
    }
    let meta = database.collection::<Document>("meta");
    meta.update_one(doc! { "_id": "format" }, doc! { "$set": { "version": 1 } }).await.unwrap();

    let before = wall_clock();
    let again = open(&options).await;
    let again = &*again;
    let page = again.read(&topic("t"), 0, 10, 10_000).await.unwrap();
    let read: Vec<_> = page.events.iter().map(|event| (&*event.id, event.seq)).collect();
    assert_eq!(read, [("x", 1), ("y", 2)]);
    assert_eq!(again.seq_of(&topic("t"), "y").await, Ok(Some(2)));
    let appends = || vec![event("t", Some("x"), None, 8), event("u", Some("x"), None, 8)];
    let outcomes = commit(again, appends(), vec![]).await;
    assert_eq!(outcomes.iter().map(|own| (own.seq, own.duplicate)).collect::<Vec<_>>(), [(1, true), (1, false)]);
    let outcomes = commit(again, appends(), vec![]).await;
    assert_eq!(outcomes.iter().map(|own| (own.seq, own.duplicate)).collect::<Vec<_>>(), [(1, true), (1, true)]);
    let at = async |id: &str| events.find_one(doc! { "topic": "t", "id": id }).await.unwrap().unwrap().get_i64("at");
    let (first, second) = (at("x").await.unwrap(), at("y").await.unwrap());
    assert_eq!(first, 7);
    assert!(second >= long(before) && second <= long(wall_clock()), "a publisher's time that is to come is none");
    let format = meta.find_one(doc! { "_id": "format" }).await.unwrap().unwrap();
    assert_eq!(format.get_i32("version").unwrap(), 2);
    assert!(open(&options).await.seq_of(&topic("t"), "x").await.is_ok(), "once");
}

/// Every read of it waited for eight seconds, and was then refused.
#[tokio::test]
async fn a_topic_that_is_trimmed_whole_reads_as_empty() {
    let options = Options {
        retention: Retention::new(vec![Rule { max_age: Some(Duration::from_secs(60)), ..rule("t") }]),
        upkeep_every: Duration::from_millis(50),
        ..fresh().await
    };
    let store = open(&options).await;
    commit(&store, vec![event("t", None, None, 1), event("t", None, None, 2)], Vec::new()).await;
    until("both are trimmed", async || (tail(&store, "t").await.first == 3).then_some(())).await;
    // What this hub knows of the topic, its next commit has from the database.
    commit(&store, vec![event("other", None, None, 1)], Vec::new()).await;
    store
        .inner
        .load_topics(doc! {})
        .await
        .unwrap()
        .iter()
        .for_each(|(topic, known)| store.inner.cache().learn(topic, *known));
    for after in [0, 1, 2, 7] {
        let since = Instant::now();
        let page = store.read(&topic("t"), after, 10, 1_000).await.unwrap();
        assert_eq!((page.events.len(), page.first, page.read_to), (0, 3, after));
        assert!(since.elapsed() < read::READ_TIMEOUT, "{:?}", since.elapsed());
    }
    assert_eq!(store.seq_before_ts(&topic("t"), 0).await, Ok(2));
}

/// Positions written by a shell or by the original were passed over by trims, and what their groups needed was deleted.
#[tokio::test]
async fn positions_that_others_wrote_count() {
    let options = Options {
        retention: Retention::new(vec![Rule { max_events: Some(10), ..rule("**") }]),
        upkeep_every: Duration::from_millis(50),
        ..fresh().await
    };
    let store = open(&Options { upkeep_every: Duration::from_secs(3600), ..options.clone() }).await;
    let of = |on: &'static str| (1..=100).map(move |i| event(on, Some(&format!("{on}-{i}")), None, 1_000 + i));
    let all = ["int", "double", "original", "broken", "free"].into_iter().flat_map(of);
    commit(&store, all.collect(), Vec::new()).await;
    let cursors = store.inner.database.collection::<Document>("cursors");
    let rows = [
        doc! { "_id": "int::g", "topic": "int", "group": "g", "lastId": "int-15", "lastTs": 1_015, "lastSeq": 15 },
        doc! { "_id": "double::g", "lastId": "double-16", "lastTs": 1_016.0, "lastSeq": 16.0 },
        doc! { "_id": "original::g", "lastId": "original-17", "lastTs": 1_017_i64 },
        doc! { "_id": "original::gone", "lastId": "nobody-knows", "lastTs": 1_018_i64 },
        doc! { "_id": "broken::g", "lastSeq": "five" },
    ];
    cursors.insert_many(rows).await.unwrap();
    let group = |name: &str| Group::new(name).unwrap();
    for (on, name, floor) in [("int", "g", 15), ("double", "g", 16), ("original", "g", 17), ("original", "gone", 18)] {
        let cursor = store.cursor(&topic(on), &group(name)).await.unwrap().unwrap();
        assert_eq!((cursor.floor, cursor.delivered), (floor, floor), "{on} {name}");
    }
    let rows = store.cursors(&topic("original")).await.unwrap();
    assert_eq!(rows.into_iter().map(|(_, cursor)| cursor.floor).collect::<Vec<_>>(), [17, 18]);
    let trims = open(&options).await;
    until("a topic without groups is trimmed", async || (tail(&trims, "free").await.first == 91).then_some(())).await;
    for (on, first) in [("int", 16), ("double", 17)] {
        until(on, async || (tail(&trims, on).await.first == first).then_some(())).await;
    }
    assert_eq!(
        (tail(&trims, "original").await.first, tail(&trims, "broken").await.first),
        (1, 1),
        "what is unknown stays"
    );
}

#[tokio::test]
async fn what_the_url_says_of_reading_and_writing_is_not_for_transactions() {
    for extra in ["readPreference=secondaryPreferred", "readConcernLevel=linearizable", "w=0"] {
        let options = fresh().await;
        let store = open(&Options::new(format!("{}&{extra}", options.url))).await;
        let committed = commit(&store, vec![event("t", None, None, 1)], vec![put("t", "g", 1)]).await;
        assert_eq!(committed[0].seq, 1, "{extra}");
        assert_eq!(store.read(&topic("t"), 0, 1, 1_000).await.unwrap().read_to, 1);
        assert_eq!(store.ready().await, Ok(()));
    }
}

/// More cursors than one command takes.
#[tokio::test]
async fn a_group_of_thousands_of_topics_begins_in_one_commit() {
    let store = open(&fresh().await).await;
    let appends = (0..4_000).map(|i| event(&format!("t{i}"), None, None, 1));
    commit(&store, appends.collect(), Vec::new()).await;
    let large = |i: u64| {
        let mut put = put(&format!("t{i}"), "g", 0);
        put.cursor.settled = if i < 8 { (1..20_000).map(|n| (n * 2, n * 2)).collect() } else { Vec::new() };
        put
    };
    commit(&store, Vec::new(), (0..4_000).map(large).collect()).await;
    for i in [0, 7, 8, 999, 1_000, 3_999] {
        let cursor = store.cursor(&topic(&format!("t{i}")), &Group::new("g").unwrap()).await.unwrap().unwrap();
        assert_eq!(cursor, large(i).cursor);
    }
    let groups = doc! { "groups": 1 };
    assert_eq!(store.inner.topics.count_documents(groups).await.unwrap(), 4_000, "each topic knows that a group began");
}

mod refusals {
    use super::*;

    async fn refused(url: &str) -> String {
        let since = Instant::now();
        let error = MongoStore::open(Options::new(url)).await.unwrap_err();
        assert!(since.elapsed() < 3 * OPEN_TIMEOUT, "{:?}: {error}", since.elapsed());
        error.to_string()
    }

    #[tokio::test]
    async fn nobody_there() {
        let error = refused("mongodb://u:secret@127.0.0.1:1/prom?replicaSet=rs0").await;
        assert!(error.contains("mongodb://u:***@127.0.0.1:1/prom could be reached"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }

    #[tokio::test]
    async fn a_standalone_server() {
        let options = mongod::Options { standalone: true, ..mongod::Options::default() };
        let set = mongod::ReplicaSet::start(options).await.unwrap();
        let error = refused(set.url()).await;
        assert!(error.contains("standalone") && error.contains("--replSet rs0"), "{error}");
        set.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_wrong_password() {
        let credentials = Some(mongod::Credentials { user: "hub".into(), password: "right".into() });
        let options = mongod::Options { credentials, ..mongod::Options::default() };
        let set = mongod::ReplicaSet::start(options).await.unwrap();
        let wrong = set.url().replace("right", "wr0ng");
        let error = refused(&wrong).await;
        assert!(error.contains("refuses the user or the password") && error.contains("hub:***@"), "{error}");
        assert!(!error.contains("wr0ng"), "{error}");
        open(&Options::new(set.url())).await.close().await.unwrap();
        set.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_database_of_a_newer_hub() {
        let options = fresh().await;
        let store = open(&options).await;
        let meta = store.inner.database.collection::<Document>("meta");
        meta.update_one(doc! { "_id": "format" }, doc! { "$set": { "version": 3 } }).await.unwrap();
        let error = refused(&options.url).await;
        assert!(error.contains("has format 3"), "{error}");
    }
}
