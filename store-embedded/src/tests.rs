//! The store contract on this backend, on a real folder and on the simulated disk.

mod full;

use std::{io, path::Path, time::Duration};

use prom_store::{Append, CursorPut, Retention, Rule};

use crate::{disk::DiskFile, sim::SimDisk, *};

/// A folder that is gone when the store is.
#[derive(Debug)]
struct Temporary(Folder, tempfile::TempDir);

impl Temporary {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self(Folder::take(dir.path()).unwrap(), dir)
    }
}

impl Disk for Temporary {
    fn path(&self) -> &Path {
        self.1.path()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(name)
    }
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(name, size)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

/// Small, so that a test has many segments, index runs and little in memory.
fn small(max_bytes: usize) -> Options {
    Options {
        max_bytes: Some(max_bytes as u64),
        cache_bytes: 16 * 1024,
        segment_bytes: 64 * 1024,
        flush_records: 100,
        ..Options::default()
    }
}

fn open_small(disk: impl Disk, max_bytes: usize) -> Arc<dyn Store> {
    Arc::new(EmbeddedStore::open_on(&(Arc::new(disk) as Arc<dyn Disk>), small(max_bytes)).unwrap())
}

mod on_a_folder {
    use super::*;

    prom_store::store_conformance!(|max_bytes| async move { open_small(Temporary::new(), max_bytes) });
}

mod simulated {
    use super::*;

    prom_store::store_conformance!(|max_bytes| async move { open_small(SimDisk::default(), max_bytes) });
}

#[tokio::test]
async fn topics_that_are_removed_make_room_for_others() {
    let disk = Arc::new(SimDisk::default()) as Arc<dyn Disk>;
    let options = Options { segment_bytes: 1 << 20, ..Options::default() };
    let store = Arc::new(EmbeddedStore::open_on(&disk, options).unwrap()) as Arc<dyn Store>;
    prom_store::conformance::topics_that_are_removed_make_room_for_others(&store).await;
}

/// They did also when the hub was restarted.
#[tokio::test]
async fn positions_alone_use_no_topics_up() {
    let sim = SimDisk::default();
    let disk = Arc::new(sim.clone()) as Arc<dyn Disk>;
    let options = Options { segment_bytes: 1 << 20, ..Options::default() };
    let store = Arc::new(EmbeddedStore::open_on(&disk, options.clone()).unwrap()) as Arc<dyn Store>;
    prom_store::conformance::positions_alone_use_no_topics_up(&store).await;
    let again = EmbeddedStore::open_on(&(Arc::new(SimDisk::with(&sim.contents())) as Arc<dyn Disk>), options).unwrap();
    let append = Append::new(topic("later"), &prom_protocol::EventOptions::default(), "1");
    let batch = Batch { now: 1_000, appends: vec![append], cursors: Vec::new() };
    assert_eq!(again.commit(batch).await.unwrap().remove(0).map(|appended| appended.seq), Ok(1));
    assert_eq!(again.log.shared.read().count(), 3);
}

/// A store without threads of its own: what they do is done when a test says so.
struct Quiet {
    disk: SimDisk,
    log: Arc<Log>,
    now: u64,
}

impl Quiet {
    fn open(disk: SimDisk, options: Options) -> Self {
        let log = open::open(&(Arc::new(disk.clone()) as Arc<dyn Disk>), options).unwrap();
        Self { disk, log, now: 1_000_000 }
    }

    /// Opened again with its options, as after a crash in which the disk lost nothing.
    fn again(&self) -> Self {
        Self::open(SimDisk::with(&self.disk.contents()), self.log.shared.options.clone())
    }

    fn commit(&mut self, appends: Vec<Append>, cursors: Vec<CursorPut>) -> Result<Vec<Appended>, StoreError> {
        self.now += 1;
        let batch = Batch { now: self.now, appends, cursors };
        let outcomes = self.log.appender().commit(&self.log.shared, batch)?;
        outcomes
            .into_iter()
            .map(|outcome| outcome.map_err(|refused| StoreError::Unavailable(refused.message().to_owned())))
            .collect()
    }

    fn publish(&mut self, on: &str, id: Option<&str>, key: Option<&str>, bytes: usize) -> Result<Appended, StoreError> {
        let options = prom_protocol::EventOptions { key: key.map(Into::into), ..Default::default() };
        let mut body = Vec::new();
        prom_protocol::encode_event_body(&mut body, on, &options, &format!("\"{}\"", "x".repeat(bytes)));
        let append = Append { topic: topic(on), id: id.map(Into::into), ts: None, key: key.map(Into::into), body };
        self.commit(vec![append], Vec::new()).map(|mut outcomes| outcomes.remove(0))
    }

    fn settle(&mut self, on: &str, floor: u64) {
        let cursor = Cursor { floor, delivered: floor, ..Cursor::default() };
        let group = Group::new("g").unwrap();
        self.commit(Vec::new(), vec![CursorPut { topic: topic(on), group, cursor }]).unwrap();
    }

    fn upkeep(&self) {
        keeper::Keeper::new(&self.log).everything().unwrap();
        // What was copied forward is in the index only now, and what it replaces can go.
        keeper::Keeper::new(&self.log).everything().unwrap();
    }

    fn seqs(&self, on: &str) -> Vec<u64> {
        let page = self.log.shared.read_page(&topic(on), 0, usize::MAX, usize::MAX).unwrap();
        page.events.iter().map(|event| event.seq).collect()
    }

    fn latest(&self, on: &str, key: &str) -> Option<u64> {
        self.log.shared.latest(&topic(on), key).unwrap().map(|event| event.seq)
    }

    fn find(&self, id: &str) -> Option<u64> {
        let state = self.log.shared.read();
        let topics = 0..state.topics.len() as u32;
        topics.filter_map(|topic| self.log.shared.find_id(&state, topic, id).unwrap()).next()
    }

    fn segments(&self) -> usize {
        self.log.shared.read().segments.len()
    }
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn rule(topics: &str) -> Rule {
    Rule::new(prom_protocol::TopicOrPattern::new(topics).unwrap())
}

fn with_rules(rules: Vec<Rule>) -> Options {
    Options { max_bytes: None, retention: Retention::new(rules), ..small(0) }
}

#[test]
fn a_failed_sync_fails_its_commit_and_the_log_goes_on_in_another_segment() {
    // To sync again would say that all is well: the kernel has forgotten what it could not write.
    let mut store = Quiet::open(SimDisk::default(), with_rules(Vec::new()));
    store.publish("t", Some("a"), None, 10).unwrap();
    store.disk.fail_syncs(true);
    for _ in 0..3 {
        let error = store.publish("t", Some("lost"), None, 10).unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    assert_eq!(store.find("lost"), None, "what was not acknowledged is not shown");
    store.disk.fail_syncs(false);
    assert_eq!(store.publish("t", Some("b"), None, 10).unwrap().seq, 2);
    assert_eq!((store.segments(), store.seqs("t")), (2, vec![1, 2]));
    for seed in 0..20 {
        let disk = store.disk.restart(&mut fastrand::Rng::with_seed(seed));
        let after = Quiet::open(disk, store.log.shared.options.clone());
        assert_eq!((after.seqs("t"), after.find("lost")), (vec![1, 2], None), "seed {seed}");
    }
}

#[test]
fn a_segment_whose_name_could_not_be_synced_does_not_end_the_log_before_what_comes_after() {
    // Its header said where the log ended, the old segment was written on, and a restart believed the header.
    let mut store = Quiet::open(SimDisk::default(), with_rules(Vec::new()));
    let mut acknowledged = Vec::new();
    store.disk.fail_name_syncs(true);
    for _ in 0..40 {
        acknowledged.extend(store.publish("t", None, None, 5_000).ok().map(|appended| appended.seq));
        acknowledged.extend(store.publish("t", None, None, 10).ok().map(|appended| appended.seq));
    }
    assert!(acknowledged.len() >= 10, "the first segment was filled");
    for seed in 0..20 {
        let after =
            Quiet::open(store.disk.restart(&mut fastrand::Rng::with_seed(seed)), store.log.shared.options.clone());
        assert_eq!(after.seqs("t"), acknowledged, "seed {seed}");
    }
    store.disk.fail_name_syncs(false);
    acknowledged.push(store.publish("t", None, None, 10).unwrap().seq);
    assert_eq!(store.again().seqs("t"), acknowledged);
}

#[test]
fn what_was_acknowledged_before_a_failed_sync_is_written_again() {
    // The next sync said that all was well, and the index went on over what was not on disk.
    let options = Options { durability: Durability::Os, ..with_rules(Vec::new()) };
    let mut store = Quiet::open(SimDisk::default(), options);
    for _ in 0..3 {
        store.publish("t", None, Some("k"), 100).unwrap();
    }
    store.disk.fail_syncs(true);
    keeper::Keeper::new(&store.log).everything().unwrap_err();
    store.publish("t", None, None, 100).unwrap_err();
    store.disk.fail_syncs(false);
    store.publish("t", None, None, 100).unwrap();
    store.upkeep();
    for seed in 0..20 {
        let after =
            Quiet::open(store.disk.restart(&mut fastrand::Rng::with_seed(seed)), store.log.shared.options.clone());
        assert_eq!((after.seqs("t"), after.latest("t", "k")), (vec![1, 2, 3, 4], Some(3)), "seed {seed}");
    }
}

#[test]
fn the_index_goes_on_after_an_error_of_its_disk() {
    // redb takes nothing more after one, so that nothing was ever given back until a restart.
    let mut store = Quiet::open(SimDisk::default(), with_rules(vec![Rule { max_events: Some(1), ..rule("t") }]));
    for _ in 0..100 {
        store.publish("t", None, Some("k"), 5_000).unwrap();
    }
    store.disk.fail_syncs(true);
    let log = Arc::clone(&store.log);
    let mut keeper = keeper::Keeper::new(&log);
    keeper.everything().unwrap_err();
    // Retention has trimmed it meanwhile, and that waits too.
    assert!(log.shared.read().records >= 100, "what waits is still counted: {}", log.shared.read().records);
    store.disk.fail_syncs(false);
    let mut tries = 0;
    while keeper.everything().is_err() {
        tries += 1;
        assert!(tries < 3, "it goes on by itself");
    }
    store.upkeep();
    assert!(store.segments() <= 3 && store.latest("t", "k") == Some(100));
    assert_eq!(store.again().latest("t", "k"), Some(100));
}

#[test]
fn a_full_disk_takes_what_makes_room_beside_what_it_refuses() {
    let mut store = Quiet::open(SimDisk::default(), with_rules(Vec::new()));
    store.disk.limit_space(Some(300_000));
    store.settle("t", 0);
    while store.publish("t", Some("first"), None, 5_000).is_ok_and(|first| !first.duplicate) {}
    let append = |on: &str, id: Option<&str>, bytes: usize| {
        let mut body = Vec::new();
        let payload = format!("\"{}\"", "x".repeat(bytes));
        prom_protocol::encode_event_body(&mut body, on, &prom_protocol::EventOptions::default(), &payload);
        Append { topic: topic(on), id: id.map(Into::into), ts: None, key: None, body }
    };
    let mut batches = 0;
    let outcomes = loop {
        let group = Group::new("g").unwrap();
        let cursor = Cursor { floor: batches, delivered: batches, ..Cursor::default() };
        let dead = format!("$dead.g/t/{batches}");
        let batch = Batch {
            now: 1,
            appends: vec![append("t", None, 5_000), append("dlq.t", Some(&dead), 10), append("t", Some("first"), 10)],
            cursors: vec![CursorPut { topic: topic("t"), group, cursor }],
        };
        let outcomes = store.log.appender().commit(&store.log.shared, batch).unwrap();
        batches += 1;
        assert!(batches < 200, "the disk is full by now");
        if outcomes[0].is_err() {
            break outcomes;
        }
    };
    assert_eq!(outcomes[0].as_ref().unwrap_err().code(), prom_protocol::ErrorCode::StoreUnavailable);
    assert_eq!(outcomes[1].as_ref().map(|dead| dead.seq), Ok(batches), "the dead letter is in");
    assert!(outcomes[2].as_ref().is_ok_and(|first| first.duplicate));
    let floor = store.log.shared.read().topic(&topic("t")).unwrap().cursors.values().next().unwrap().cursor.floor;
    assert_eq!(floor, batches - 1);
    assert_eq!(store.again().seqs("t"), store.seqs("t"));
}

#[test]
fn a_small_store_makes_room_although_segments_are_large() {
    let options = Options { max_bytes: Some(2 << 20), ..Options::default() };
    let store = EmbeddedStore::open_on(&(Arc::new(SimDisk::default()) as Arc<dyn Disk>), options).unwrap();
    let payload = format!("\"{}\"", "x".repeat(10_000));
    for _ in 0..600 {
        let mut body = Vec::new();
        prom_protocol::encode_event_body(&mut body, "t", &prom_protocol::EventOptions::default(), &payload);
        let append = Append { topic: topic("t"), id: None, ts: None, key: None, body };
        let batch = Batch { now: 1, appends: vec![append], cursors: Vec::new() };
        store.log.appender().commit(&store.log.shared, batch).unwrap().remove(0).unwrap();
    }
}

#[test]
fn a_full_disk_refuses_until_there_is_space() {
    let mut store = Quiet::open(SimDisk::default(), with_rules(Vec::new()));
    store.disk.limit_space(Some(300_000));
    let mut taken = 0;
    let error = loop {
        match store.publish("t", None, None, 5_000) {
            Ok(appended) => taken = appended.seq,
            Err(error) => break error.to_string(),
        }
    };
    assert!(taken >= 30 && error.contains("publishing goes on when there is space"), "{taken}: {error}");
    for _ in 0..10 {
        store.publish("t", None, None, 5_000).unwrap_err();
    }
    assert_eq!(store.seqs("t").len() as u64, taken);
    store.disk.limit_space(None);
    assert_eq!(store.publish("t", None, None, 5_000).unwrap().seq, taken + 1);
    assert_eq!(store.again().seqs("t"), (1..=taken + 1).collect::<Vec<_>>());
}

#[test]
fn retention_keeps_what_its_limits_say_and_gives_the_space_back() {
    let rules = vec![
        Rule { max_events: Some(10), ..rule("count") },
        Rule { max_bytes: Some(100_000), ..rule("bytes") },
        Rule { max_age: Some(Duration::from_secs(3600)), ..rule("age") },
    ];
    let mut store = Quiet::open(SimDisk::default(), with_rules(rules));
    for name in ["count", "bytes", "age", "all"] {
        for _ in 0..100 {
            // Their time is 1970.
            store.publish(name, None, Some("k"), 5_000).unwrap();
        }
    }
    let before = store.disk.used();
    store.upkeep();
    assert_eq!(store.seqs("count"), (91..=100).collect::<Vec<_>>());
    let bytes = store.seqs("bytes");
    assert!((19..=21).contains(&bytes.len()) && bytes.last() == Some(&100), "about 100 kB: {bytes:?}");
    assert!(store.seqs("age").is_empty());
    assert_eq!(store.seqs("all").len(), 100);
    assert_eq!((store.latest("age", "k"), store.latest("count", "k")), (None, Some(100)));
    let after = store.disk.used();
    assert!(after < before / 2, "{before} bytes, then {after}");
    let again = store.again();
    assert_eq!((again.seqs("count"), again.seqs("bytes"), again.seqs("age").len()), (store.seqs("count"), bytes, 0));
    assert_eq!(store.publish("age", None, None, 1).unwrap().seq, 101, "seqs go on");
}

#[test]
fn what_a_group_has_not_settled_is_kept_unless_the_rule_says_otherwise() {
    let rules = vec![
        Rule { max_events: Some(5), ..rule("kept") },
        Rule { max_events: Some(5), drop_unsettled: true, ..rule("dropped") },
    ];
    let mut store = Quiet::open(SimDisk::default(), with_rules(rules));
    for name in ["kept", "dropped"] {
        store.settle(name, 0);
        for _ in 0..20 {
            store.publish(name, None, None, 100).unwrap();
        }
        store.settle(name, 3);
    }
    store.upkeep();
    assert_eq!(store.seqs("kept"), (4..=20).collect::<Vec<_>>());
    assert_eq!(store.seqs("dropped"), (16..=20).collect::<Vec<_>>());
    store.settle("kept", 20);
    store.upkeep();
    assert_eq!(store.seqs("kept"), (16..=20).collect::<Vec<_>>());
}

#[test]
fn a_few_events_that_stay_do_not_keep_the_space_of_many_that_go() {
    let rules = vec![
        Rule { max_events: Some(1), ..rule("busy") },
        Rule { max_events: Some(1), compact: true, ..rule("state") },
    ];
    let mut store = Quiet::open(SimDisk::default(), with_rules(rules));
    store.publish("state", Some("first-state"), Some("old"), 100).unwrap();
    store.publish("rare", Some("first-rare"), Some("key"), 100).unwrap();
    store.settle("rare", 0);
    for round in 0..300 {
        store.publish("busy", None, None, 5_000).unwrap();
        store.publish("state", None, Some("new"), 100).unwrap();
        if round % 30 == 0 {
            store.publish("rare", None, None, 100).unwrap();
            store.upkeep();
        }
    }
    store.upkeep();
    assert!(store.disk.used() < 400_000, "{} bytes of 1.5 MB", store.disk.used());
    // Topics and cursors are in the log too, also those whose first record's segment is gone.
    let mut files = store.disk.contents();
    files.remove("index.redb").unwrap();
    let from_the_log = Quiet::open(SimDisk::with(&files), store.log.shared.options.clone());
    for store in [&store, &store.again(), &from_the_log] {
        assert_eq!(store.seqs("rare"), (1..=11).collect::<Vec<_>>());
        assert_eq!((store.latest("state", "old"), store.latest("state", "new")), (Some(1), Some(301)));
        assert_eq!((store.find("first-rare"), store.find("first-state")), (Some(1), None));
        let cursors = store.log.shared.read().topic(&topic("rare")).unwrap().cursors.len();
        assert_eq!((cursors, store.latest("rare", "key")), (1, Some(1)));
    }
}

#[test]
fn a_segment_full_of_newest_events_is_left_alone() {
    // Their length was taken for 512 bytes each, so that segments of larger ones were copied again and again.
    let rules = vec![Rule { max_events: Some(1), compact: true, ..rule("state") }];
    let mut store = Quiet::open(SimDisk::default(), with_rules(rules));
    for key in 0..100 {
        store.publish("state", None, Some(&format!("key-{key}")), 5_000).unwrap();
    }
    let log = Arc::clone(&store.log);
    let mut keeper = keeper::Keeper::new(&log);
    keeper.everything().unwrap();
    let end = store.log.shared.read().end;
    for _ in 0..5 {
        keeper.everything().unwrap();
    }
    assert_eq!(store.log.shared.read().end, end, "nothing was copied");
    assert!((0..100).all(|key| store.latest("state", &format!("key-{key}")) == Some(key + 1)));
    // Until most of it has been replaced.
    let before = store.disk.used();
    for key in 0..90 {
        store.publish("state", None, Some(&format!("key-{key}")), 10).unwrap();
    }
    keeper.everything().unwrap();
    keeper.everything().unwrap();
    assert!(store.disk.used() < before / 2, "{before} bytes, then {}", store.disk.used());
    assert_eq!((store.latest("state", "key-95"), store.latest("state", "key-5")), (Some(96), Some(106)));
}

#[test]
fn a_group_that_keeps_up_does_not_read_the_disk() {
    let options = Options { cache_bytes: 1 << 20, ..with_rules(Vec::new()) };
    let mut store = Quiet::open(SimDisk::default(), options);
    let mut reads = None;
    for round in 0..200 {
        for name in ["a", "b", "c"] {
            store.publish(name, None, Some("k"), 500).unwrap();
            let page = store.log.shared.read_cached(&topic(name), round, 100, usize::MAX).expect("from memory");
            assert_eq!(page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [round + 1]);
        }
        let before = *reads.get_or_insert(store.disk.reads());
        assert_eq!(store.disk.reads(), before, "in round {round}");
    }
    assert!(store.log.shared.read_cached(&topic("a"), 0, 1, usize::MAX).is_some(), "all of it fits");
    let small = Quiet::open(store.disk.clone(), Options { cache_bytes: 1 << 10, ..store.log.shared.options.clone() });
    assert!(small.log.shared.read_cached(&topic("a"), 0, 1, usize::MAX).is_none(), "what does not is read");
    assert_eq!(small.seqs("a").len(), 200);
}

fn with_ts(on: &str, ts: u64) -> Append {
    Append { ts: Some(ts), ..Append::new(topic(on), &prom_protocol::EventOptions::default(), "1") }
}

/// The first event of a topic, with a `ts` that was far ahead, kept all behind it for good.
#[test]
fn age_counts_from_the_commit_whatever_a_publisher_says() {
    let rules = vec![Rule { max_age: Some(Duration::from_secs(3600)), ..rule("**") }];
    let mut store = Quiet::open(SimDisk::default(), with_rules(rules));
    // Committed in 1970, with times to come.
    store.commit(vec![with_ts("ahead", prom_protocol::limits::TS_MAX), with_ts("ahead", 1)], Vec::new()).unwrap();
    // Committed now, with times long gone.
    store.now = prom_store::wall_clock();
    store.commit(vec![with_ts("behind", 1), with_ts("behind", 2)], Vec::new()).unwrap();
    // What is known of the time stands in an index file, or is found in the log.
    for files in [true, false] {
        let before = store.again();
        if files {
            before.log.appender().roll(&before.log.shared, store.now, 0).unwrap();
            keeper::Keeper::new(&before.log).flush(false, None).unwrap();
        }
        let again = before.again();
        again.upkeep();
        assert_eq!((again.seqs("ahead"), again.seqs("behind")), (vec![], vec![1, 2]), "{files}");
        assert_eq!(again.again().seqs("behind"), [1, 2]);
    }
    store.upkeep();
    assert_eq!((store.seqs("ahead"), store.seqs("behind")), (vec![], vec![1, 2]));
}

#[test]
fn an_event_that_was_copied_forward_is_as_old_as_before() {
    let rules = vec![Rule { max_age: Some(Duration::from_secs(3600)), ..rule("**") }];
    let mut store = Quiet::open(SimDisk::default(), with_rules(rules));
    // In 1970, and now; a group holds both.
    for (on, now, ts) in [("old", 1_000_000, prom_protocol::limits::TS_MAX), ("new", prom_store::wall_clock(), 1)] {
        store.now = now;
        store.settle(on, 0);
        store.commit(vec![with_ts(on, ts), with_ts(on, ts)], Vec::new()).unwrap();
        // Nobody holds these, which have most of the segment.
        store.now = 1_000_000;
        for _ in 0..50 {
            store.publish("rest", None, None, 1_000).unwrap();
        }
        store.log.appender().roll(&store.log.shared, now, 0).unwrap();
    }
    store.upkeep();
    let segment = |on: &str| store.log.shared.read().topic(&topic(on)).unwrap().runs.values().next().unwrap().segment;
    let active = store.log.shared.read().end.segment();
    assert_eq!((segment("old"), segment("new")), (active, active), "they were copied");
    let mut again = store.again();
    again.now = prom_store::wall_clock();
    again.settle("old", 2);
    again.settle("new", 2);
    again.log.appender().roll(&again.log.shared, again.now, 0).unwrap();
    again.upkeep();
    assert_eq!((again.seqs("old"), again.seqs("new")), (vec![], vec![1, 2]));
}

#[test]
fn what_is_derived_is_made_again_from_the_log() {
    let mut store =
        Quiet::open(SimDisk::default(), with_rules(vec![Rule { max_events: Some(40), compact: true, ..rule("a") }]));
    for i in 0..400 {
        let (id, key) = (format!("id-{i}"), format!("key-{}", i % 7));
        store.publish(if i % 3 == 0 { "a" } else { "b" }, Some(&id), Some(&key), 1_000).unwrap();
        if i % 100 == 0 {
            store.settle("a", i / 4);
            store.upkeep();
        }
    }
    store.settle("a", 130);
    store.upkeep();
    let whole = store.disk.contents();
    assert!(whole.keys().filter(|name| name.ends_with(".idx")).count() > 2);
    let answers = |store: &Quiet| {
        let latest: Vec<_> =
            (0..7).map(|i| (store.latest("a", &format!("key-{i}")), store.latest("b", &format!("key-{i}")))).collect();
        let found: Vec<_> = (0..400).map(|i| store.find(&format!("id-{i}"))).collect();
        let cursor =
            (*store.log.shared.read().topic(&topic("a")).unwrap().cursors.values().next().unwrap().cursor).clone();
        (store.seqs("a"), store.seqs("b"), latest, found, cursor)
    };
    let expected = answers(&store);
    for lost in ["index.redb", ".idx", "index.redb .idx"] {
        let mut files = whole.clone();
        files.retain(|name, _| !lost.split(' ').any(|end| name.ends_with(end)));
        assert!(files.len() < whole.len());
        let again = Quiet::open(SimDisk::with(&files), store.log.shared.options.clone());
        assert!(answers(&again) == expected, "without {lost}");
    }
}

#[test]
fn a_closed_store_takes_nothing_more_and_opens_where_it_was_closed() {
    let disk = SimDisk::default();
    let store = EmbeddedStore::open_on(&(Arc::new(disk.clone()) as Arc<dyn Disk>), small(1 << 20)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let batch = || {
        let mut body = Vec::new();
        prom_protocol::encode_event_body(&mut body, "t", &prom_protocol::EventOptions::default(), "1");
        Batch {
            now: 1,
            appends: vec![Append { topic: topic("t"), id: None, ts: None, key: None, body }],
            cursors: Vec::new(),
        }
    };
    runtime.block_on(async {
        store.commit(batch()).await.unwrap();
        store.close().await.unwrap();
        assert!(store.commit(batch()).await.is_err());
        assert_eq!(store.tail(&topic("t")).await.unwrap().map(|tail| tail.seq), Some(1), "it can still be read");
    });
    let (_, loaded) = index::Index::open(&disk, Some(store.log.shared.store)).unwrap();
    assert!(loaded.closed && loaded.position == store.log.shared.read().end);
}
