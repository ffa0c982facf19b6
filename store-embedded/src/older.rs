//! What older hubs have written: it is read, told and repaired as it stands.

use prom_store::{Append, Record};

use crate::{
    format::{Kind, Position, begin_record, end_record},
    ids,
    keeper::Keeper,
    open::open,
    record::NewEvent,
    shared::Shared,
    sim::SimDisk,
    tools, *,
};

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn options() -> Options {
    Options { cache_bytes: 1, segment_bytes: 1 << 20, ..Options::default() }
}

fn disk(sim: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(sim.clone())
}

fn publish(log: &Log, on: &str, key: &str) {
    let options = prom_protocol::EventOptions { key: Some(key.into()), ..Default::default() };
    let append = Append::new(topic(on), &options, "1");
    let batch = Batch { now: 1_000, appends: vec![append], ..Batch::default() };
    log.appender().commit(&log.shared, batch).unwrap().remove(0).unwrap();
}

/// Appends an event as a hub did that cut a key to what a record can hold: the index got the whole one.
fn publish_cut(log: &Log, on: &str, key: &str) {
    let shared = &log.shared;
    let (number, seq) = {
        let state = shared.read();
        (state.by_name[&topic(on)], state.topic(&topic(on)).unwrap().tail + 1)
    };
    let options = prom_protocol::EventOptions { key: Some(key.into()), ..Default::default() };
    let mut json = Vec::new();
    prom_protocol::encode_event_position(&mut json, "an-id", seq, 1_000);
    let before = json.len();
    prom_protocol::encode_event_body(&mut json, on, &options, "1");
    let key_at = before + json[before..].windows(8).position(|part| part == b"\"key\":\"B").unwrap() + 7;
    let mut length = 0;
    let encode = |out: &mut Vec<u8>, base: Position| {
        const KEYED: u8 = 2;
        let start = begin_record(out, Kind::Event, KEYED);
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&seq.to_le_bytes());
        out.extend_from_slice(&1_000_u64.to_le_bytes());
        for short in [5, u16::MAX, u16::try_from(key_at).unwrap()] {
            out.extend_from_slice(&short.to_le_bytes());
        }
        out.extend_from_slice(&json);
        length = out.len() - start;
        let at = Position(base.0 + start as u64);
        end_record(out, start, shared.store, at);
        vec![at]
    };
    log.appender()
        .put_records(shared, 1_000, 100_000, encode, |state, at| {
            let json = bytes::Bytes::from(json.clone());
            let event = Record { id: "an-id".into(), seq, ts: 1_000, key: Some(key.into()), json };
            state.apply_event(number, Arc::new(event), 1_000, at[0], 70_100);
        })
        .unwrap();
    assert!(length > 70_000);
}

fn newest(shared: &Shared, on: &str) -> (Vec<String>, u64) {
    let page = shared.latest_page(&topic(on), None, u64::MAX, 100, usize::MAX).unwrap();
    (page.events.iter().map(|event| event.key.as_deref().unwrap()[..1].to_owned()).collect(), page.damaged)
}

/// Events of before there was one have no `by`: they are read, checked and moved beside those that have.
#[test]
fn events_that_do_not_say_who_published_stay_as_they_are() {
    // As a hub wrote it that knew of no `by`, byte for byte.
    const BODY: &str = r#","topic":"t","key":"k0","sid":"s","caused_by":["c"],"payload":{"by":"nobody"}}"#;
    let sim = SimDisk::default();
    let log = open(&disk(&sim), options()).unwrap();
    let old = Append { topic: topic("t"), id: Some("old".into()), ts: None, key: Some("k0".into()), body: BODY.into() };
    let keyed = |key: &'static str, by| {
        let options = prom_protocol::EventOptions { key: Some(key.into()), ..Default::default() };
        Append::published_by(topic("t"), &options, by, "1")
    };
    let appends = vec![old, keyed("k1", Some("alice \"a\"")), keyed("k2", None)];
    log.appender().commit(&log.shared, Batch { now: 1_000, appends, ..Batch::default() }).unwrap();
    let check = |log: &Log| {
        let page = log.shared.read_page(&topic("t"), 0, 10, usize::MAX).unwrap();
        assert!(page.events[0].text().ends_with(BODY), "{}", page.events[0].text());
        for events in [page.events, log.shared.latest_page(&topic("t"), None, u64::MAX, 10, usize::MAX).unwrap().events]
        {
            let by: Vec<_> = events
                .iter()
                .map(|event| {
                    let by = prom_protocol::Event::parse(event.text()).unwrap().by;
                    (event.key.as_deref().unwrap(), by.map(|by| by.as_str().to_owned()))
                })
                .collect();
            assert_eq!(by, [("k0", None), ("k1", Some("alice \"a\"".to_owned())), ("k2", None)]);
        }
    };
    check(&log);
    Keeper::new(&log).close().unwrap();
    drop(log);
    assert!(tools::verify_on(disk(&sim)).unwrap().is_whole());
    check(&open(&disk(&sim), options()).unwrap());
    let done = tools::compact_on(&disk(&sim), options(), true).unwrap();
    assert!(done.lost.is_empty(), "{done:?}");
    assert!(tools::verify_on(disk(&sim)).unwrap().is_whole());
    check(&open(&disk(&sim), options()).unwrap());
}

/// One such event was written by the hub itself, from what a publisher had sent. Every snapshot of its topic failed from
/// then on, `verify` found nothing, and a repair changed nothing.
#[test]
fn a_key_that_was_cut_stops_no_snapshot_and_is_found_and_given_up() {
    let sim = SimDisk::default();
    let log = open(&disk(&sim), options()).unwrap();
    publish(&log, "t", "A");
    publish(&log, "t", "B");
    publish_cut(&log, "t", &"B".repeat(70_000));
    publish(&log, "t", "C");
    Keeper::new(&log).close().unwrap();
    drop(log);

    let log = open(&disk(&sim), options()).unwrap();
    assert_eq!(newest(&log.shared, "t"), (["A", "B", "C"].map(str::to_owned).to_vec(), 1));
    drop(log);
    let report = tools::verify_on(disk(&sim)).unwrap();
    let told: Vec<_> = report.problems.iter().map(|problem| (problem.file.as_str(), problem.derived)).collect();
    assert_eq!(told, [("0000000001.log", false)], "{report:?}");
    assert!(!report.is_whole() && report.lost[0].events == [(3, 3)], "{report:?}");

    let done = tools::compact_on(&disk(&sim), options(), true).unwrap();
    assert_eq!(done.lost[0].events, [(3, 3)]);
    assert!(tools::verify_on(disk(&sim)).unwrap().is_whole());
    let log = open(&disk(&sim), options()).unwrap();
    assert_eq!(newest(&log.shared, "t"), (["A", "B", "C"].map(str::to_owned).to_vec(), 0));
}

/// An index that points to the wrong place was called whole.
#[test]
fn an_index_that_points_to_another_event_is_found_and_made_again() {
    let sim = SimDisk::default();
    let log = open(&disk(&sim), options()).unwrap();
    for key in ["A", "B", "C"] {
        publish(&log, "t", key);
    }
    {
        let mut state = log.shared.write();
        let log = &mut state.topics[0];
        let other = log.latest["B"];
        log.latest.insert("A".into(), other);
    }
    Keeper::new(&log).close().unwrap();
    drop(log);
    let log = open(&disk(&sim), options()).unwrap();
    assert_eq!(newest(&log.shared, "t"), (["B", "C"].map(str::to_owned).to_vec(), 1));
    drop(log);
    let report = tools::verify_on(disk(&sim)).unwrap();
    assert!(report.problems.iter().any(|problem| problem.file == "index.redb" && !problem.derived), "{report:?}");
    assert!(!report.is_whole() && report.lost.is_empty(), "{report:?}");
    let done = tools::compact_on(&disk(&sim), options(), true).unwrap();
    assert!(done.lost.is_empty(), "{done:?}");
    assert!(tools::verify_on(disk(&sim)).unwrap().is_whole());
    let log = open(&disk(&sim), options()).unwrap();
    assert_eq!(newest(&log.shared, "t"), (["A", "B", "C"].map(str::to_owned).to_vec(), 0));
}

/// A read failed whole, so that a group stopped thousands of events before the one that is damaged.
#[test]
fn a_read_ends_in_front_of_a_damaged_event_and_a_salvage_passes_over_it() {
    let sim = SimDisk::default();
    let log = open(&disk(&sim), options()).unwrap();
    for i in 0..50 {
        publish(&log, "t", &format!("key-{i}"));
    }
    // A closed segment with its index file is not read again when the store is opened.
    log.appender().roll(&log.shared, 1_000, 0).unwrap();
    Keeper::new(&log).everything().unwrap();
    Keeper::new(&log).close().unwrap();
    drop(log);
    let mut files = sim.contents();
    let segment = files.get_mut("0000000001.log").unwrap();
    let at = segment.windows(8).position(|part| part == b"\"key-20\"").unwrap();
    segment[at] ^= 1;
    let sim = SimDisk::with(&files);
    let log = open(&disk(&sim), options()).unwrap();
    let shared = &log.shared;
    let t = topic("t");
    let page = shared.read_page(&t, 0, 1_000, usize::MAX).unwrap();
    assert_eq!((page.read_to, page.events.len()), (20, 20), "up to the damaged one");
    assert!(matches!(shared.read_page(&t, 20, 1_000, usize::MAX), Err(StoreError::Damaged(_))));
    let page = shared.salvage_page(&t, 0, 1_000, usize::MAX).unwrap();
    assert_eq!((page.read_to, page.events.len(), page.damaged), (50, 49, vec![(21, 21)]));
    let page = shared.latest_page(&t, None, u64::MAX, 1_000, usize::MAX).unwrap();
    assert_eq!((page.events.len(), page.damaged, page.more), (49, 1, false));
}

/// Ids that older hubs made are in no table, and found by what is in them, also after a restart.
#[test]
fn ids_that_older_hubs_made_are_still_duplicates() {
    let sim = SimDisk::default();
    let log = open(&disk(&sim), options()).unwrap();
    publish(&log, "t", "A");
    let shared = &log.shared;
    let id = ids::older(shared.store, 1_000, 0, 2);
    let mut body = Vec::new();
    prom_protocol::encode_event_body(&mut body, "t", &prom_protocol::EventOptions::default(), "1");
    let (mut json, mut length) = (Vec::new(), 0);
    let encode = |out: &mut Vec<u8>, base: Position| {
        let start = out.len();
        let event =
            NewEvent { topic: 0, topic_name: "t", seq: 2, ts: 1_000, id: &id, key: None, body: &body, listed: false };
        let range = event.encode(out, shared.store, base);
        json = out[range].to_vec();
        length = out.len() - start;
        vec![Position(base.0 + start as u64)]
    };
    let mut at = Position::default();
    log.appender().put_records(shared, 1_000, 1_000, encode, |_, positions| at = positions[0]).unwrap();
    let record = Record { id: id.clone(), seq: 2, ts: 1_000, key: None, json: json.into() };
    shared.write().apply_event(0, Arc::new(record), 1_000, at, length as u64);
    let again = |log: &Log| {
        let append =
            |on: &str| Append { topic: topic(on), id: Some(id.clone()), ts: None, key: None, body: body.clone() };
        let batch = Batch { now: 2_000, appends: vec![append("t"), append("u")], ..Batch::default() };
        let outcomes = log.appender().commit(&log.shared, batch).unwrap();
        outcomes.into_iter().map(|own| own.map(|own| (own.seq, own.duplicate)).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(again(&log), [(2, true), (1, false)]);
    Keeper::new(&log).close().unwrap();
    drop(log);
    let log = open(&disk(&sim), options()).unwrap();
    assert_eq!(again(&log), [(2, true), (1, true)]);
}
