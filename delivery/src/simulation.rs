//! Seeded simulation of the [`Engine`]: a model of the log and of the stored cursors, clients that do everything they
//! may and may not do, a store that fails, a hub that crashes. After every step the engine must agree with itself, after
//! every delivery with the model, and at the end every event must be settled, each for a reason.
//!
//! A failing seed prints itself. `PROM_SEED=<seed> cargo test -p prom-delivery simulation` runs it alone, with all that
//! happens printed; `PROM_SEEDS=<n>` sets how many are run.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use prom_protocol::{AckMode, Filter, Ordering, SubscribeOptions, Topic, TopicOrPattern};

use crate::{Engine, MemberId, Nack, Persist, Read, Settled, track::Dead};
use prom_store::{Cursor, Page, Record, Stored};

const TOPICS: [&str; 3] = ["t.a", "t.b", "dlq.dlq.t.c"];

/// What became of an event, as far as the outside can tell.
#[derive(Default, Clone)]
struct Fate {
    deliveries: u32,
    /// Acknowledged, or settled by `ack: "none"`.
    acked: bool,
    dead: bool,
    /// Reported as lost to retention.
    gone: bool,
}

#[derive(Default)]
struct TopicModel {
    /// From seq 1; events before `first` are trimmed.
    events: Vec<Stored>,
    first: u64,
    cursor: Cursor,
    fates: BTreeMap<u64, Fate>,
    dead_ids: HashSet<String>,
}

impl TopicModel {
    fn tail(&self) -> u64 {
        self.events.len() as u64
    }

    fn is_settled(&self, seq: u64) -> bool {
        settled(&self.cursor, seq)
    }
}

fn settled(cursor: &Cursor, seq: u64) -> bool {
    seq <= cursor.floor || cursor.settled.iter().any(|(first, last)| (*first..=*last).contains(&seq))
}

/// Deliveries a cursor knows of.
fn attempts(cursor: &Cursor, seq: u64) -> u32 {
    let known = cursor.attempts.iter().find(|(own, _)| *own == seq).map(|(_, n)| *n);
    known.unwrap_or(u32::from(seq <= cursor.delivered))
}

struct Client {
    options: SubscribeOptions,
    target: TopicOrPattern,
    /// What it was sent and has not answered: topic, seq, id, lease.
    held: Vec<(usize, u64, String, u64)>,
    /// Leases it has already used or lost.
    spent: Vec<(String, u64)>,
    joined: Option<MemberId>,
}

struct World {
    random: fastrand::Rng,
    seed: u64,
    now: u64,
    topics: Vec<TopicModel>,
    clients: Vec<Client>,
    engine: Engine,
    /// By log of the engine: the topic it is.
    logs: Vec<usize>,
    next_member: MemberId,
    next_lease: u64,
    reads: Vec<Read>,
    persists: VecDeque<(Persist, bool)>,
    leases: HashSet<u64>,
    /// Leases whose holders went silent.
    silent: HashSet<u64>,
    /// Of this engine: attempts so far and settles, by topic and seq.
    seen: HashMap<(usize, u64), u32>,
    settled_here: BTreeMap<(usize, u64), bool>,
    /// Highest first delivery of this engine, by topic and client.
    first: HashMap<(usize, usize), u64>,
    /// Acknowledged in this engine and not yet handed out to be stored, by topic.
    owed: BTreeSet<(usize, u64)>,
    filters: bool,
    ordered: Ordering,
    /// Of each topic, as it is now.
    order: Vec<Ordering>,
    /// Whether members differ in `ordered` and `max_attempts`.
    changing: bool,
    forced_trims: bool,
    calm: bool,
    trace: Option<String>,
}

macro_rules! note {
    ($world:expr, $($arg:tt)*) => {
        if let Some(trace) = &mut $world.trace {
            let _ = writeln!(trace, $($arg)*);
        }
    };
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let filters = random.u8(0..3) == 0;
        let ordered = if random.bool() { Ordering::Key } else { Ordering::None };
        let topics = (0..random.usize(1..=TOPICS.len())).map(|_| TopicModel { first: 1, ..TopicModel::default() });
        let topics: Vec<_> = topics.collect();
        let mut world = Self {
            order: vec![ordered; topics.len()],
            topics,
            clients: Vec::new(),
            engine: Engine::new(1 << 32, seed),
            logs: Vec::new(),
            now: 0,
            next_member: 1,
            next_lease: 2 << 32,
            reads: Vec::new(),
            persists: VecDeque::new(),
            leases: HashSet::new(),
            silent: HashSet::new(),
            seen: HashMap::new(),
            settled_here: BTreeMap::new(),
            first: HashMap::new(),
            owed: BTreeSet::new(),
            filters,
            ordered,
            changing: random.u8(0..4) == 0,
            forced_trims: random.u8(0..5) == 0,
            calm: false,
            trace: trace.then(String::new),
            seed,
            random,
        };
        for n in 0..world.random.usize(1..=4) {
            let client = world.client(n);
            world.clients.push(client);
        }
        world.boot();
        world
    }

    fn client(&mut self, n: usize) -> Client {
        let mut filter = Filter::default();
        // The first one always takes part and its keys are always wanted by somebody.
        if self.filters {
            let keys = if n == 0 { vec!["k0", "k1"] } else { vec![["k0", "k1", "k2", "k3"][self.random.usize(0..4)]] };
            filter.keys = keys.into_iter().map(String::from).collect();
        }
        let target = match self.random.u8(0..4) {
            0 if n > 0 => TopicOrPattern::new(TOPICS[0]).unwrap(),
            _ => TopicOrPattern::new("**").unwrap(),
        };
        let options = SubscribeOptions {
            max_in_flight: self.random.u32(1..=6),
            ack_timeout_ms: self.random.u64(1000..=30_000),
            max_attempts: self.random.u32(1..=6),
            ordered: self.ordered,
            ack: if self.random.u8(0..8) == 0 { AckMode::None } else { AckMode::Explicit },
            filter,
            ..SubscribeOptions::default()
        };
        Client { options, target, held: Vec::new(), spent: Vec::new(), joined: None }
    }

    /// A new engine over what is stored.
    fn boot(&mut self) {
        self.engine = Engine::new(self.next_lease, self.random.u64(..));
        self.next_lease += 1 << 32;
        self.logs.clear();
        self.reads.clear();
        self.persists.clear();
        self.seen.clear();
        self.settled_here.clear();
        self.first.clear();
        self.owed.clear();
        for client in &mut self.clients {
            client.joined = None;
            client.spent.extend(client.held.drain(..).map(|(.., id, lease)| (id, lease)));
        }
        for topic in 0..self.topics.len() {
            let model = &mut self.topics[topic];
            for (seq, fate) in &mut model.fates {
                // What was settled and not stored is not settled.
                fate.acked &= settled(&model.cursor, *seq);
            }
            if topic == 0 || self.random.bool() {
                self.add_topic(topic);
            }
        }
        self.join(0);
    }

    fn add_topic(&mut self, topic: usize) {
        let name = Topic::new(TOPICS[topic]).unwrap();
        if self.engine.track_of(&name).is_none() {
            let model = &self.topics[topic];
            note!(self, "{} log {topic} from {:?} to {}", self.now, model.cursor, model.tail());
            let log = self.engine.add_topic(name, model.cursor.clone(), model.tail());
            assert_eq!(log, self.logs.len());
            self.logs.push(topic);
            self.set_order(topic, None);
        }
    }

    fn join(&mut self, n: usize) {
        if self.clients[n].joined.is_some() {
            return;
        }
        let member = self.next_member;
        self.next_member += 1;
        if self.changing && self.random.bool() {
            let client = &mut self.clients[n];
            client.options.max_attempts = self.random.u32(1..=6);
            client.options.ordered = if self.random.bool() { Ordering::Key } else { Ordering::None };
        }
        let client = &mut self.clients[n];
        client.joined = Some(member);
        note!(self, "{} client {n} joins as {member} {:?}", self.now, client.options);
        self.engine.join(member, client.target.clone(), client.options.clone());
        for topic in 0..self.topics.len() {
            self.set_order(topic, Some(member));
        }
    }

    /// The order of a topic is that of the member which joined it first: of `joined`, if it did so just now.
    fn set_order(&mut self, topic: usize, joined: Option<MemberId>) {
        let name = Topic::new(TOPICS[topic]).unwrap();
        let members = self.clients.iter().filter(|client| client.target.matches(&name));
        let first =
            members.filter_map(|client| Some((client.joined?, client.options.ordered))).min_by_key(|(id, _)| *id);
        let Some((first, ordered)) = first else { return };
        if joined.is_none_or(|joined| joined == first) && self.order[topic] != ordered {
            self.order[topic] = ordered;
            // Its start is the start of another order.
            self.first.retain(|(of, _), _| *of != topic);
        }
    }

    fn leave(&mut self, n: usize) {
        // The one whose keys are always wanted stays, unless nobody filters.
        if n == 0 && self.filters {
            return;
        }
        let client = &mut self.clients[n];
        let Some(member) = client.joined.take() else { return };
        client.spent.extend(client.held.drain(..).map(|(.., id, lease)| (id, lease)));
        note!(self, "{} client {n} leaves", self.now);
        self.engine.leave(member, self.now);
    }

    fn publish(&mut self) {
        let topic = self.random.usize(0..self.topics.len());
        let model = &mut self.topics[topic];
        for _ in 0..self.random.usize(1..=8) {
            let seq = model.tail() + 1;
            let key = (self.random.u8(0..5) > 0).then(|| format!("k{}", self.random.u8(0..4)));
            let id = format!("{topic}-{seq}");
            let key_json = key.as_ref().map(|key| format!(",\"key\":\"{key}\"")).unwrap_or_default();
            let name = TOPICS[topic];
            let json = format!(r#"{{"id":"{id}","seq":{seq},"ts":{seq},"topic":"{name}"{key_json},"payload":1}}"#);
            let record = Record { id: id.into(), seq, ts: seq, key: key.map(Into::into), json: json.into() };
            model.events.push(Arc::new(record));
            model.fates.insert(seq, Fate::default());
        }
        let tail = model.tail();
        if let Some(log) = self.logs.iter().position(|own| *own == topic) {
            self.engine.tail(log, tail);
        }
    }

    fn trim(&mut self) {
        let topic = self.random.usize(0..self.topics.len());
        let forced = self.forced_trims && self.random.u8(0..4) == 0;
        let model = &mut self.topics[topic];
        let to = if forced { self.random.u64(0..=model.tail()) } else { model.cursor.floor };
        model.first = model.first.max(to + 1);
        note!(self, "{} topic {topic} trimmed, first is {}", self.now, model.first);
    }

    fn read(&mut self, fail: bool) {
        if self.reads.is_empty() {
            return;
        }
        let read = self.reads.swap_remove(self.random.usize(0..self.reads.len()));
        if fail {
            self.engine.read_failed(read.track);
            return;
        }
        let topic = self.logs[read.track];
        let model = &mut self.topics[topic];
        let start = (read.after + 1).max(model.first);
        let end = model.tail().min(start + self.random.u64(0..20)).min(start + read.limit as u64 - 1);
        let events: Vec<Stored> = (start..=end).map(|seq| Arc::clone(&model.events[seq as usize - 1])).collect();
        let read_to = events.last().map_or(read.after, |event| event.seq);
        let page = Page { first: model.first, read_to, events, ..Page::default() };
        note!(self, "{} read topic {topic} {start}..={end}, first {}", self.now, page.first);
        for (from, to) in self.engine.loaded(read.track, page) {
            assert!(to < model.first && from <= to, "a gap {from}..={to} over what is retained from {}", model.first);
            note!(self, "{} gap of topic {topic} {from}..={to}", self.now);
            for seq in from..=to {
                model.fates.get_mut(&seq).unwrap().gone = true;
                self.settled_here.insert((topic, seq), true);
            }
        }
    }

    fn persist(&mut self, outcome: u8) {
        let Some((persist, mut stored)) = self.persists.pop_front() else { return };
        let topic = self.logs[persist.track];
        note!(self, "{} persist of topic {topic} {:?}, outcome {outcome}", self.now, persist.cursor);
        // 0: failed; 1: stored, but the outcome was lost; else stored.
        if outcome > 0 {
            let model = &mut self.topics[topic];
            for Dead { event, attempts, .. } in &persist.dead {
                model.dead_ids.insert(event.id.to_string());
                let fate = model.fates.get_mut(&event.seq).unwrap();
                fate.dead = true;
                assert!(
                    *attempts <= fate.deliveries,
                    "{} deliveries of {}, dead after {attempts}",
                    fate.deliveries,
                    event.id
                );
            }
            let mut seq = model.cursor.floor + 1;
            while settled(&model.cursor, seq) || seq <= model.tail() {
                assert!(
                    !model.is_settled(seq) || settled(&persist.cursor, seq),
                    "the settle of {seq} in topic {topic} is taken back"
                );
                seq += 1;
            }
            model.cursor = persist.cursor.clone();
            stored = true;
        }
        if outcome > 1 {
            self.engine.persisted(persist.track);
        } else {
            self.persists.push_back((persist, stored));
        }
    }

    fn answer(&mut self) {
        let n = self.random.usize(0..self.clients.len());
        let Some(member) = self.clients[n].joined else { return };
        if !self.calm && self.random.u8(0..6) == 0 {
            self.stale(n, member);
            return;
        }
        if self.clients[n].held.is_empty() {
            return;
        }
        let at = self.random.usize(0..self.clients[n].held.len());
        let (topic, seq, id, lease) = self.clients[n].held[at].clone();
        let named = self.random.bool().then_some(lease);
        let verdict = if self.calm { 9 } else { self.random.u8(0..10) };
        if verdict == 0 {
            // It goes silent: the lease runs out, and it may answer all the same later.
            let lost = self.clients[n].held.swap_remove(at);
            self.silent.insert(lost.3);
            self.clients[n].spent.push((lost.2, lost.3));
            return;
        }
        if verdict == 1 {
            let settled = self.engine.extend(member, &id, named, self.random.u64(1000..60_000), self.now);
            note!(self, "{} client {n} extends {id}: {settled:?}", self.now);
            return;
        }
        self.clients[n].held.swap_remove(at);
        self.clients[n].spent.push((id.clone(), lease));
        let before = self.seen.get(&(topic, seq)).copied();
        if verdict < 4 {
            let dead = self.random.u8(0..5) == 0;
            let delay_ms = [None, Some(0), Some(5_000)][self.random.usize(0..3)];
            let nack = Nack { reason: Some("no".into()), delay_ms, dead };
            let settled = self.engine.nack(member, &id, named, nack, self.now);
            note!(self, "{} client {n} nacks {id} dead {dead} delay {delay_ms:?}: {settled:?}", self.now);
            return;
        }
        let settled = self.engine.ack(member, &id, named);
        note!(self, "{} client {n} acks {id} lease {lease}: {settled:?}", self.now);
        if let Settled::Done(log) = settled {
            assert_eq!(self.logs[log], topic);
            assert!(before.is_some());
            self.acked(topic, seq);
        }
    }

    fn acked(&mut self, topic: usize, seq: u64) {
        self.settled_here.insert((topic, seq), true);
        self.owed.insert((topic, seq));
        self.topics[topic].fates.get_mut(&seq).unwrap().acked = true;
    }

    /// An answer that comes too late, twice, or for what never was.
    fn stale(&mut self, n: usize, member: MemberId) {
        let client = &self.clients[n];
        if client.spent.is_empty() {
            assert_eq!(self.engine.ack(member, "never-was", None), Settled::Unknown);
            return;
        }
        let (id, lease) = client.spent[self.random.usize(0..client.spent.len())].clone();
        let (topic, seq) = id.split_once('-').map(|(t, s)| (t.parse().unwrap(), s.parse().unwrap())).unwrap();
        let holds = client.held.iter().any(|(.., own, _)| *own == id);
        let named = (holds || self.random.bool()).then_some(lease);
        let name = Topic::new(TOPICS[topic]).unwrap();
        let settled_before = self.engine.is_settled(&name, seq);
        let settled = self.engine.ack(member, &id, named);
        note!(self, "{} client {n} acks {id} late with {named:?}: {settled:?}", self.now);
        // Unknown is answered with OK.
        let told = named.is_none() || settled_before || self.engine.track_of(&name).is_none();
        assert!(told || settled != Settled::Unknown, "{id} is not settled, and the client is not told");
        if let Settled::Done(_) = settled {
            // What it does not hold any more it cannot settle, unless it went silent and that lease still runs.
            let spent = self.clients[n]
                .spent
                .iter()
                .filter(|(own, own_lease)| *own == id && named.is_none_or(|l| l == *own_lease));
            let silent = spent.clone().any(|(_, lease)| self.silent.contains(lease));
            assert!(settled_before || silent, "a spent lease settled something");
            self.acked(topic, seq);
        }
    }

    /// Does what the engine asks for, as the actor does.
    fn pump(&mut self) {
        self.engine.expire(self.now);
        while let Some(delivery) = self.engine.next_delivery(self.now) {
            self.delivered(&delivery);
        }
        while let Some(read) = self.engine.next_read() {
            self.reads.push(read);
        }
        while let Some(persist) = self.engine.next_persist() {
            let topic = self.logs[persist.track];
            self.owed.retain(|(own, seq)| {
                assert!(*own != topic || settled(&persist.cursor, *seq), "an acknowledged event is not in the cursor");
                *own != topic
            });
            assert!(!self.persists.iter().any(|(other, _)| other.track == persist.track), "one at a time");
            self.persists.push_back((persist, false));
        }
        assert!(self.engine.next_delivery(self.now).is_none());
        self.engine.check();
    }

    fn delivered(&mut self, delivery: &crate::Delivery) {
        let event = &delivery.event;
        let topic: usize = event.id.split_once('-').unwrap().0.parse().unwrap();
        let n = self.clients.iter().position(|client| client.joined == Some(delivery.member)).expect("a member");
        note!(
            self,
            "{} {} to client {n}, attempt {}, lease {:?}",
            self.now,
            event.id,
            delivery.attempt,
            delivery.lease
        );
        let model = &mut self.topics[topic];
        let client = &mut self.clients[n];
        assert!(client.target.matches(&Topic::new(TOPICS[topic]).unwrap()));
        if !client.options.filter.is_empty() {
            let key = event.key.as_deref().unwrap_or_default();
            assert!(client.options.filter.keys.iter().any(|own| own.as_str() == key), "filtered");
        }
        assert!(!model.is_settled(event.seq), "{} was settled and stored", event.id);
        assert!(!self.settled_here.contains_key(&(topic, event.seq)), "{} was settled", event.id);
        let known = self.seen.get(&(topic, event.seq)).copied();
        let before = known.unwrap_or_else(|| attempts(&model.cursor, event.seq));
        let fate = model.fates.get_mut(&event.seq).unwrap();
        fate.deliveries += 1;
        assert!(
            delivery.attempt <= fate.deliveries,
            "attempt {} of {}, delivered {} times",
            delivery.attempt,
            event.id,
            fate.deliveries
        );
        assert_eq!(delivery.attempt, before + 1, "attempts of {}", event.id);
        if known.is_none() {
            let first = self.first.entry((topic, if self.filters { n } else { 0 })).or_default();
            assert!(self.order[topic] == Ordering::Key || event.seq > *first, "{} after {first}", event.id);
            *first = event.seq;
        }
        self.seen.insert((topic, event.seq), delivery.attempt);
        if !TOPICS[topic].starts_with("dlq.dlq.") {
            assert!(
                delivery.attempt <= delivery.max_attempts,
                "attempt {} of {}",
                delivery.attempt,
                delivery.max_attempts
            );
        }
        if let (Ordering::Key, Some(key)) = (self.order[topic], &event.key) {
            let name = Topic::new(TOPICS[topic]).unwrap();
            for earlier in &model.events[..event.seq as usize - 1] {
                assert!(
                    earlier.key.as_ref() != Some(key)
                        || earlier.seq < model.first
                        || self.engine.is_settled(&name, earlier.seq),
                    "{} overtakes {}",
                    event.id,
                    earlier.id
                );
            }
        }
        match delivery.lease {
            Some((lease, deadline)) => {
                assert!(self.leases.insert(lease), "lease {lease} given twice");
                assert!(deadline > self.now);
                client.held.push((topic, event.seq, event.id.to_string(), lease));
            }
            None => {
                assert_eq!(client.options.ack, AckMode::None);
                self.acked(topic, event.seq);
            }
        }
        assert!(self.engine.in_flight(delivery.member) <= self.clients[n].options.max_in_flight);
    }

    fn step(&mut self) {
        match self.random.u8(0..100) {
            0..15 => self.publish(),
            15..35 => self.read(false),
            35..38 => self.read(true),
            38..50 => {
                let outcome = self.random.u8(0..6);
                self.persist(outcome);
            }
            50..80 => self.answer(),
            80..84 => self.now += self.random.u64(0..500),
            84..86 => self.now += self.random.u64(0..40_000),
            86..88 => {
                let n = self.random.usize(0..self.clients.len());
                self.leave(n);
            }
            88..91 => {
                let n = self.random.usize(0..self.clients.len());
                self.join(n);
            }
            91..95 => {
                let n = self.random.usize(0..self.clients.len());
                if let Some(member) = self.clients[n].joined {
                    let (value, pause) = (self.random.bool(), self.random.bool());
                    note!(self, "{} client {n} pause {pause} {value}", self.now);
                    if pause { self.engine.pause(member, value) } else { self.engine.block(member, value) }
                }
            }
            95..97 => self.trim(),
            97..99 => {
                let topic = self.random.usize(0..self.topics.len());
                self.add_topic(topic);
            }
            _ => {
                if self.random.u8(0..3) == 0 {
                    note!(self, "{} crash", self.now);
                    // What was being stored may have come through.
                    while !self.persists.is_empty() && self.random.bool() {
                        self.persist(1);
                        self.persists.pop_back();
                    }
                    self.boot();
                }
            }
        }
        self.pump();
    }

    /// The chaos ends: everybody reads and acknowledges, the store works. Everything must come to its end.
    fn settle_down(&mut self) {
        self.calm = true;
        for topic in 0..self.topics.len() {
            self.add_topic(topic);
        }
        for n in 0..self.clients.len() {
            self.join(n);
            if let Some(member) = self.clients[n].joined {
                self.engine.pause(member, false);
                self.engine.block(member, false);
            }
        }
        for _ in 0..100_000 {
            self.pump();
            let before = (self.reads.len(), self.persists.len());
            self.read(false);
            self.persist(2);
            for _ in 0..10 {
                self.answer();
            }
            if before == (0, 0) && self.clients.iter().all(|client| client.held.is_empty()) {
                match self.engine.deadline() {
                    Some(due) => self.now = self.now.max(due),
                    None if self.reads.is_empty() && self.persists.is_empty() => {
                        self.pump();
                        if self.reads.is_empty() && self.persists.is_empty() {
                            return;
                        }
                    }
                    None => {}
                }
            }
        }
        panic!("does not come to rest");
    }

    fn check_end(&self) {
        for (topic, model) in self.topics.iter().enumerate() {
            let cursor = &model.cursor;
            assert_eq!(cursor.floor, model.tail(), "topic {topic} is not settled to its end: {cursor:?}");
            assert!(cursor.settled.is_empty() && cursor.attempts.is_empty(), "leftovers in {cursor:?}");
            for (seq, fate) in &model.fates {
                let key = model.events[*seq as usize - 1].key.as_deref();
                let may_be_filtered = self.filters && !matches!(key, Some("k0" | "k1"));
                // A topic that one client's subscription does not cover is covered by the first one's.
                assert!(
                    fate.acked || fate.dead || fate.gone || may_be_filtered,
                    "event {seq} of topic {topic} is lost"
                );
            }
        }
        self.engine.check_at_rest();
    }
}

fn run(seed: u64, trace: bool) {
    let mut world = World::new(seed, trace);
    let result = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..world.random.usize(50..400) {
            world.step();
        }
        world.settle_down();
        world.check_end();
    }));
    if let Err(panic) = result {
        if let Some(trace) = &world.trace {
            println!("{trace}");
        }
        println!("seed {} fails; run it alone with PROM_SEED={}", world.seed, world.seed);
        std::panic::resume_unwind(panic);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn nothing_is_lost_doubled_or_overtaken_whatever_happens() {
    if let Some(seed) = number("PROM_SEED") {
        return run(seed, true);
    }
    let seeds = number("PROM_SEEDS").unwrap_or(1_000);
    let next = AtomicU64::new(0);
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            threads.spawn(|| {
                let mut seed = next.fetch_add(1, Relaxed);
                while seed < seeds {
                    run(seed, false);
                    seed = next.fetch_add(1, Relaxed);
                }
            });
        }
    });
}
