//! Crashes at thousands of moments, on a disk that then loses and tears what was not synced: what was acknowledged is
//! there, what was not is there whole or not at all, and the store goes on.

use std::collections::{BTreeMap, HashMap};

use prom_store::{Append, CursorPut, Retention, Rule};

use crate::{keeper::Keeper, open::open, shared::Shared, sim::SimDisk, *};

const TOPICS: [&str; 3] = ["a", "b.c", "kept"];
const KEYS: [&str; 5] = ["k1", "k2", "k3", "k\"4", "ü5"];

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn retention() -> Retention {
    let rule = |topics: &str, max_events, compact| Rule {
        topics: prom_protocol::TopicOrPattern::new(topics).unwrap(),
        max_age: None,
        max_events: Some(max_events),
        max_bytes: None,
        compact,
        drop_unsettled: false,
        expire_empty: None,
    };
    // `kept` keeps everything, so that segments are mixed and must be copied forward.
    Retention::new(vec![rule("a", 30, true), rule("b.**", 20, false)])
}

fn options(durability: Durability) -> Options {
    Options {
        durability,
        retention: retention(),
        cache_bytes: 4 * 1024,
        segment_bytes: 8 * 1024,
        flush_records: 40,
        ..Options::default()
    }
}

/// An event as it was acknowledged, or may have been.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    id: String,
    key: Option<String>,
    chosen: bool,
    payload: String,
}

/// What the store must have: by topic and seq, and the cursors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    events: BTreeMap<(String, u64), Event>,
    tails: BTreeMap<String, u64>,
    cursors: BTreeMap<(String, String), Cursor>,
}

struct Driver {
    random: fastrand::Rng,
    now: u64,
    made: u64,
}

impl Driver {
    fn append(&mut self, model: &Model) -> (Append, Event) {
        let name = *self.random.choice(TOPICS.iter()).unwrap();
        self.made += 1;
        // Some keys are so rare that their newest event outlives the log around it.
        let key = match self.random.u8(0..20) {
            0..8 => Some((*self.random.choice(KEYS.iter()).unwrap()).to_owned()),
            8 => Some(format!("rare-{}", self.random.u8(0..30))),
            _ => None,
        };
        let key = key.as_deref();
        let id = match self.random.u8(0..10) {
            0..3 => Some(format!("mine-{}", self.made)),
            3 => Some(format!("with \"quotes\" {}", self.made)),
            4 => {
                let old = model.events.values().nth(self.random.usize(0..model.events.len().max(1)));
                old.map(|event| event.id.clone())
            }
            _ => None,
        };
        let payload = format!("[{},\"{}\"]", self.made, "x".repeat(self.random.usize(0..300)));
        let options = prom_protocol::EventOptions { key: key.map(Into::into), ..Default::default() };
        let mut body = Vec::new();
        prom_protocol::encode_event_body(&mut body, name, &options, &payload);
        let event =
            Event { id: id.clone().unwrap_or_default(), key: key.map(str::to_owned), chosen: id.is_some(), payload };
        (Append { topic: topic(name), id: id.map(Into::into), ts: None, key: key.map(Into::into), body }, event)
    }

    fn batch(&mut self, model: &Model) -> (Batch, Vec<(String, Event)>) {
        self.now += 1;
        let mut batch = Batch { now: self.now, ..Batch::default() };
        let mut events = Vec::new();
        for _ in 0..self.random.usize(0..8) {
            let (append, event) = self.append(model);
            events.push((append.topic.to_string(), event));
            batch.appends.push(append);
        }
        if self.random.u8(0..3) == 0 {
            let name = *self.random.choice(TOPICS.iter()).unwrap();
            let tail = model.tails.get(name).copied().unwrap_or_default();
            let floor = self.random.u64(0..=tail);
            let cursor = Cursor {
                floor,
                delivered: tail.max(floor),
                last_id: Some(format!("at-{floor}").into()),
                settled: if tail > floor + 2 { vec![(floor + 2, tail)] } else { Vec::new() },
                attempts: vec![(floor + 1, self.random.u32(2..9))],
                ..Cursor::default()
            };
            let group = Group::new(if self.random.bool() { "g" } else { "h" }).unwrap();
            batch.cursors.push(CursorPut { topic: topic(name), group, cursor });
        }
        (batch, events)
    }
}

/// The model with a batch, were its outcomes these. Without outcomes: as they would have been, for a log that is retained
/// from these seqs on.
fn with(
    model: &Model,
    events: &[(String, Event)],
    cursors: &[CursorPut],
    outcomes: Result<&[Result<Appended, Refusal>], &BTreeMap<String, u64>>,
) -> Model {
    let mut next = model.clone();
    for (index, (name, event)) in events.iter().enumerate() {
        let (seq, firsts) = match outcomes {
            Ok(outcomes) => match &outcomes[index] {
                Ok(appended) if appended.duplicate => {
                    let stands = &next.events[&(name.clone(), appended.seq)];
                    assert_eq!((&stands.id, &*appended.id), (&event.id, &*event.id), "a duplicate of itself");
                    continue;
                }
                Ok(appended) => {
                    let tail = next.tails.get(name).copied().unwrap_or_default();
                    assert_eq!(appended.seq, tail + 1, "no gap in {name}");
                    let event = Event { id: appended.id.to_string(), ..event.clone() };
                    next.events.insert((name.clone(), appended.seq), event);
                    next.tails.insert(name.clone(), appended.seq);
                    continue;
                }
                // No room: the machine is down.
                Err(refused) => {
                    assert_eq!(refused.code(), prom_protocol::ErrorCode::StoreUnavailable, "{refused}");
                    continue;
                }
            },
            Err(firsts) => (next.tails.get(name).copied().unwrap_or_default() + 1, firsts),
        };
        let retained = |(name, seq): &(String, u64)| *seq >= firsts.get(name).copied().unwrap_or(1);
        let same = |place: &(String, u64), own: &Event| place.0 == *name && own.id == event.id;
        let stands = event.chosen && next.events.iter().any(|(place, own)| same(place, own) && retained(place));
        if !stands {
            next.events.insert((name.clone(), seq), event.clone());
            next.tails.insert(name.clone(), seq);
        }
    }
    for put in cursors {
        next.cursors.insert((put.topic.to_string(), put.group.to_string()), put.cursor.clone());
    }
    next
}

/// What a store has, checked by itself on the way: no gaps, newest of keys, ids.
fn found(shared: &Shared, seed: u64) -> (Model, BTreeMap<String, u64>) {
    let mut model = Model::default();
    let mut firsts = BTreeMap::new();
    let names: Vec<(Topic, Tail)> = {
        let state = shared.read();
        let tails = state.by_name.iter().map(|(name, number)| (name.clone(), state.topics[*number as usize].tail()));
        tails.collect()
    };
    for (name, tail) in names {
        let mut after = 0;
        let mut newest: HashMap<String, u64> = HashMap::new();
        loop {
            let page = shared.read_page(&name, after, 7, usize::MAX).unwrap();
            assert_eq!(page.first, tail.first);
            if page.events.is_empty() {
                break;
            }
            for stored in &page.events {
                assert_eq!(stored.seq, after.max(tail.first - 1) + 1, "seed {seed}: a gap in {name}");
                after = stored.seq;
                let event = prom_protocol::Event::parse(stored.text()).unwrap();
                assert_eq!((&*event.id, event.seq, event.topic.as_str()), (&*stored.id, stored.seq, name.as_str()));
                if let Some(key) = &stored.key {
                    newest.insert(key.to_string(), stored.seq);
                }
                let own = Event {
                    id: stored.id.to_string(),
                    key: stored.key.as_deref().map(str::to_owned),
                    chosen: false,
                    payload: event.payload.get().to_owned(),
                };
                model.events.insert((name.to_string(), stored.seq), own);
                let state = shared.read();
                let place = shared.find_id(&state, state.by_name[&name], &stored.id).unwrap();
                assert_eq!(place, Some(stored.seq), "seed {seed}: {}", stored.id);
            }
        }
        assert_eq!(after.max(tail.first - 1), tail.seq, "seed {seed}: the log of {name} is read to its end");
        for (key, seq) in newest {
            let latest = shared.latest(&name, &key).unwrap().map(|event| event.seq);
            assert_eq!(latest, Some(seq), "seed {seed}: the newest of {key} in {name}");
        }
        firsts.insert(name.to_string(), tail.first);
        if tail.seq > 0 {
            model.tails.insert(name.to_string(), tail.seq);
        }
        for (group, own) in &shared.read().topic(&name).unwrap().cursors {
            model.cursors.insert((name.to_string(), group.to_string()), (*own.cursor).clone());
        }
    }
    (model, firsts)
}

/// Whether what was found is that model, but for what retention may have taken and the ids the hub has made.
fn is(found: &Model, firsts: &BTreeMap<String, u64>, model: &Model) -> bool {
    let retained = |(name, seq): &(String, u64)| *seq >= firsts.get(name).copied().unwrap_or(1);
    let same =
        |(a, b): (&Event, &Event)| (&a.key, &a.payload) == (&b.key, &b.payload) && (b.id.is_empty() || a.id == b.id);
    let expected: Vec<_> = model.events.iter().filter(|(place, _)| retained(place)).collect();
    found.tails == model.tails
        && found.cursors == model.cursors
        && found.events.len() == expected.len()
        && found.events.iter().zip(expected).all(|((at, a), (place, b))| at == place && same((a, b)))
}

/// Says how what was found differs from a model.
fn explain(found: &Model, firsts: &BTreeMap<String, u64>, model: &Model) {
    println!("found {:?} from {firsts:?}, model {:?}", found.tails, model.tails);
    for (name, cursor) in &model.cursors {
        if found.cursors.get(name) != Some(cursor) {
            println!("  cursor {name:?}: found {:?}, model {cursor:?}", found.cursors.get(name));
        }
    }
    for (place, event) in &found.events {
        if model
            .events
            .get(place)
            .is_none_or(|own| own.payload != event.payload || (!own.id.is_empty() && own.id != event.id))
        {
            println!("  {place:?}: found {event:?}, model {:?}", model.events.get(place));
        }
    }
    for place in model.events.keys().filter(|place| !found.events.contains_key(*place)) {
        println!("  {place:?} not found");
    }
}

/// The newest event of each key stays, also when the log before it is trimmed.
fn check_kept(shared: &Shared, model: &Model, seed: u64) {
    let mut newest: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for ((name, seq), event) in model.events.iter().filter(|((name, _), _)| name == "a") {
        let _ = name;
        if let Some(key) = &event.key {
            newest.insert(key, (*seq, &event.payload));
        }
    }
    let page = shared.latest_page(&topic("a"), None, u64::MAX, 100, usize::MAX).unwrap();
    let found: Vec<(&str, u64)> = page.events.iter().map(|event| (event.key.as_deref().unwrap(), event.seq)).collect();
    let expected: Vec<(&str, u64)> = newest.iter().map(|(key, (seq, _))| (*key, *seq)).collect();
    assert_eq!(found, expected, "seed {seed}: the newest of each key of `a`");
    for (key, (seq, _)) in newest {
        assert_eq!(shared.latest(&topic("a"), key).unwrap().map(|event| event.seq), Some(seq), "seed {seed}");
    }
}

/// Takes a topic or a cursor out; the model without it, and whether that was acknowledged.
fn remove(log: &Log, driver: &mut Driver, model: &Model) -> (Model, Result<(), StoreError>) {
    let name = *driver.random.choice(TOPICS.iter()).unwrap();
    let mut next = model.clone();
    let mut appender = log.appender();
    if driver.random.bool() {
        next.events.retain(|(topic, _), _| topic != name);
        next.cursors.retain(|(topic, _), _| topic != name);
        next.tails.remove(name);
        (next, appender.remove_topic(&log.shared, &topic(name), None).map(drop))
    } else {
        let group = if driver.random.bool() { "g" } else { "h" };
        next.cursors.remove(&(name.to_owned(), group.to_owned()));
        let cursor = (topic(name), Group::new(group).unwrap());
        (next, appender.remove_cursors(&log.shared, &[cursor]))
    }
}

/// One life of a store: batches and upkeep until the disk goes down. Answers what was acknowledged, and what may be
/// there instead: each state that was acknowledged since the log was last known to be on disk, and the one under way.
fn live(log: &Log, driver: &mut Driver, model: &mut Model, durability: Durability, steps: usize) -> Vec<Model> {
    let mut keeper = Keeper::new(log);
    let mut possible = vec![model.clone()];
    for _ in 0..steps {
        if driver.random.u8(0..6) == 0 {
            if keeper.everything().is_err() {
                return possible;
            }
            // The index is brought forward only over what is on disk.
            possible = vec![model.clone()];
            continue;
        }
        if driver.random.u8(0..10) == 0 {
            let (attempt, removed) = remove(log, driver, model);
            match removed {
                Ok(()) => {
                    *model = attempt;
                    if durability == Durability::Commit {
                        possible.clear();
                    }
                    possible.push(model.clone());
                    continue;
                }
                Err(_) => {
                    possible.push(attempt);
                    return possible;
                }
            }
        }
        let (batch, events) = driver.batch(model);
        let cursors = batch.cursors.clone();
        let firsts = {
            let state = log.shared.read();
            let there = state.topics.iter().filter(|log| !log.is_removed());
            there.map(|log| (log.topic.to_string(), log.first)).collect()
        };
        let attempt = with(model, &events, &cursors, Err(&firsts));
        match log.appender().commit(&log.shared, batch) {
            Ok(outcomes) => {
                *model = with(model, &events, &cursors, Ok(&outcomes));
                if durability == Durability::Commit {
                    possible.clear();
                }
                possible.push(model.clone());
            }
            Err(_) => {
                possible.push(attempt);
                return possible;
            }
        }
    }
    possible
}

/// Lives, crashes and is opened again, three times over.
fn crash(seed: u64, durability: Durability) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut disk = SimDisk::default();
    let mut model = Model::default();
    let mut driver = Driver { random: random.fork(), now: 1_700_000_000_000, made: 0 };
    for _ in 0..3 {
        let log = open(&(Arc::new(disk.clone()) as Arc<dyn Disk>), options(durability)).unwrap_or_else(|error| {
            panic!("seed {seed}: {error}");
        });
        disk.crash_in(random.u64(1..250));
        let possible = live(&log, &mut driver, &mut model, durability, 60);
        drop(log);
        // The process, or the machine.
        if random.bool() {
            disk.go_on();
        } else {
            disk = disk.restart(&mut random);
        }
        // It may go down again while it is opened, or right after.
        for _ in 0..random.usize(0..3) {
            disk.crash_in(random.u64(0..30));
            let again = open(&(Arc::new(disk.clone()) as Arc<dyn Disk>), options(durability));
            if let Err(error @ OpenError::Damaged { .. }) = &again {
                panic!("seed {seed}: {error}");
            }
            drop(again);
            disk = disk.restart(&mut random);
        }
        let log = open(&(Arc::new(disk.clone()) as Arc<dyn Disk>), options(durability))
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let (found, firsts) = found(&log.shared, seed);
        // A cursor's or a topic's commit may be the only difference, so the last that fits counts.
        let Some(then) = possible.iter().rev().find(|model| is(&found, &firsts, model)) else {
            for model in &possible {
                explain(&found, &firsts, model);
            }
            panic!("seed {seed}: what is there was never acknowledged, nor under way");
        };
        model = then.clone();
        for (place, event) in &mut model.events {
            if let Some(own) = found.events.get(place) {
                event.id.clone_from(&own.id);
            }
        }
        check_kept(&log.shared, &model, seed);
    }
}

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("PROM_CRASH_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(400);
    let first = std::env::var("PROM_CRASH_FROM").ok().and_then(|first| first.parse().ok()).unwrap_or(0);
    first..first + count
}

#[test]
fn nothing_acknowledged_is_lost_in_a_crash_with_commit_durability() {
    for seed in seeds() {
        crash(seed, Durability::Commit);
    }
}

#[test]
fn a_crash_leaves_a_whole_beginning_of_the_log_with_os_durability() {
    for seed in seeds() {
        crash(seed, Durability::Os);
    }
}
