//! The books of a kill test: what was acknowledged, what the log has, what a group was given and had settled.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prom_testkit::until;
use serde_json::{Value, json};

use super::{
    hub::{Address, Hub},
    wire::{Answered, Connection, Publish},
};

/// The topics that are published to. The last one has keys.
pub const TOPICS: [&str; 4] = ["kill.one", "kill.two", "kill.two.deeper", "kill.keyed"];
const KEYED: &str = TOPICS[3];
const KEYS: u64 = 40;

/// Of one kind of events: every third has an id that the hub makes, the others bring theirs; one topic has keys.
pub fn event(n: u64) -> Publish {
    let topic = TOPICS[(n / 7 % 4) as usize];
    let key = (topic == KEYED).then(|| format!("key-{}", n * n % KEYS));
    Publish { topic: topic.into(), id: (!n.is_multiple_of(3)).then(|| format!("chosen-{n}")), key, n, answer: None }
}

/// An event as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    id: String,
    n: u64,
    key: Option<String>,
}

/// What a group was given.
#[derive(Debug, Default)]
struct Settled {
    /// Ids whose ACK was answered.
    answered: HashSet<String>,
    /// How often each id was delivered.
    delivered: HashMap<String, u32>,
    /// What must never happen.
    wrong: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Ledger {
    /// Each topic's events, the one of seq 1 first.
    log: BTreeMap<String, Vec<Entry>>,
    /// Where an id, and a publish, stands.
    ids: HashMap<String, (String, u64)>,
    numbers: HashSet<u64>,
    /// Newest of each key.
    newest: HashMap<String, String>,
    acknowledged: usize,
    unanswered_but_there: usize,
    settled: Mutex<Settled>,
    /// Members that have been connected.
    pub joined: AtomicUsize,
}

impl Ledger {
    /// Reads what the log has gained, and checks it against what was answered.
    pub fn check(&mut self, hub: &Hub, publishes: &[Publish]) {
        for topic in TOPICS {
            let log = self.log.entry(topic.into()).or_default();
            loop {
                let page = hub.replay(topic, log.len() as u64);
                assert!(page["gap"].is_null(), "{topic} has a gap: {}", page["gap"]);
                for event in page["events"].as_array().unwrap() {
                    let entry = entry(event);
                    let seq = log.len() as u64 + 1;
                    assert_eq!(event["seq"], seq, "{topic} goes on behind {} with {event}", log.len());
                    let id = self.ids.insert(entry.id.clone(), (topic.into(), seq));
                    assert!(id.is_none(), "{} stands twice: in {id:?} and in {topic} {seq}", entry.id);
                    assert!(self.numbers.insert(entry.n), "publish {} stands twice, again in {topic} {seq}", entry.n);
                    if let Some(key) = &entry.key {
                        self.newest.insert(key.clone(), entry.id.clone());
                    }
                    log.push(entry);
                }
                if page["next"].is_null() {
                    break;
                }
            }
        }
        for publish in publishes {
            match &publish.answer {
                Some(answer) => {
                    let place = self.ids.get(&answer.id);
                    assert_eq!(
                        place,
                        Some(&(publish.topic.clone(), answer.seq)),
                        "{publish:?} is not where it was said"
                    );
                    assert_eq!(self.log[&publish.topic][answer.seq as usize - 1].n, publish.n, "{publish:?}");
                    self.acknowledged += usize::from(!answer.duplicate);
                }
                None => self.unanswered_but_there += usize::from(self.numbers.contains(&publish.n)),
            }
        }
    }

    /// Publishes again whatever has an id; answers what that came to.
    pub async fn repeat(&self, hub: &Hub, publishes: &[Publish]) -> Vec<Publish> {
        let with_id = publishes.iter().filter_map(|publish| {
            let id = publish.answer.as_ref().map(|answer| answer.id.clone()).or_else(|| publish.id.clone())?;
            Some((Publish { id: Some(id), answer: None, ..publish.clone() }, publish.answer.clone()))
        });
        let (again, before): (Vec<_>, Vec<_>) = with_id.unzip();
        let mut again = again.into_iter();
        let again = Connection::open(&hub.address).await.publish(256, || again.next(), || {}).await;
        assert_eq!(again.len(), before.len());
        for (publish, before) in again.iter().zip(&before) {
            let answer = publish.answer.as_ref().expect("the hub is there");
            let stood = self.ids.get(&answer.id).map(|(_, seq)| *seq);
            assert_eq!(answer.duplicate, stood.is_some(), "{publish:?} stood in {stood:?}");
            if let Some(seq) = before.as_ref().map(|before| before.seq).or(stood) {
                assert_eq!(*answer, Answered { id: answer.id.clone(), seq, duplicate: true }, "of {publish:?}");
            }
        }
        // Those that were new are to be found from now on.
        again.into_iter().filter(|publish| publish.answer.as_ref().is_some_and(|answer| !answer.duplicate)).collect()
    }

    /// The newest event of keys, as the hub sees it.
    pub fn check_newest(&self, hub: &Hub, keys: impl Iterator<Item = u64>) {
        for key in keys.map(|key| format!("key-{key}")) {
            let event = hub.ops(&format!("/latest-by-key?topic={KEYED}&key={key}"));
            assert_eq!(event["id"].as_str(), self.newest.get(&key).map(String::as_str), "newest of {key}: {event}");
        }
    }

    pub fn check_some_newest(&self, hub: &Hub) {
        self.check_newest(hub, (0..6).map(|_| fastrand::u64(..KEYS)));
    }

    /// Reads everything again, from the first event on, another way.
    pub fn check_all(&self, hub: &Hub) {
        self.check_newest(hub, 0..KEYS);
        for topic in TOPICS {
            let text = hub.export(topic);
            let events: Vec<Entry> = text.lines().map(|line| entry(&serde_json::from_str(line).unwrap())).collect();
            assert!(events == self.log[topic], "{topic} is not what it was");
        }
        let topics = hub.ops("/topics");
        let dead = topics["topics"]
            .as_array()
            .unwrap()
            .iter()
            .find(|topic| topic["topic"].as_str().unwrap().starts_with("dlq."));
        assert_eq!(dead, None);
    }

    /// A member of the group takes all that is left.
    pub async fn drain(&self, hub: &Hub) {
        tokio::select! {
            () = self.consume(&hub.address) => panic!("the hub ended"),
            () = Self::drained(hub) => {}
        }
    }

    /// Waits until the group has settled all there is.
    pub async fn drained(hub: &Hub) {
        let all = |topic| {
            let lag = hub.ops(&format!("/lag?topic={topic}&group=workers"));
            // There is no position in a topic without events.
            lag["lagEvents"] == 0 || lag["tailSeq"].is_null()
        };
        until("the group to settle everything", async || TOPICS.iter().all(all)).await;
    }

    /// A member of a durable group, which acknowledges and asks for an answer, until the hub is gone.
    pub async fn consume(&self, hub: &Address) {
        let mut connection = Connection::open(hub).await;
        self.joined.fetch_add(1, Ordering::Relaxed);
        let subscribe = json!({
            "op": "SUBSCRIBE", "corr": "s", "topic": "kill.**", "group": "workers",
            // However often its deliveries are cut by a kill.
            "opts": { "from": "earliest", "maxInFlight": 200, "maxAttempts": 100 },
        });
        if !connection.send(&subscribe).await {
            return;
        }
        let mut asked: HashMap<String, String> = HashMap::new();
        let mut corr = 0_u64;
        while let Some(first) = connection.next().await {
            let mut frame = Some(first);
            while let Some(got) = frame {
                match got["op"].as_str().unwrap() {
                    "EVENT" => {
                        let id = self.delivered(&got);
                        corr += 1;
                        let ack = json!({
                            "op": "ACK", "corr": corr.to_string(), "topic": "kill.**", "group": "workers", "id": id,
                            "lease": got["ctx"]["lease"],
                        });
                        asked.insert(corr.to_string(), id);
                        if !connection.feed(&ack).await {
                            return;
                        }
                    }
                    "OK" => {
                        if let Some(id) = asked.remove(got["corr"].as_str().unwrap()) {
                            self.settled.lock().unwrap().answered.insert(id);
                        }
                    }
                    // A lease may have been given back when the hub was told that the other member is gone.
                    "ERR" if got["code"] == "stale_lease" => {}
                    // The store cannot write at the moment; it is stored when it can.
                    "ERR" if got["code"] == "ack_failed" => {}
                    // It is on its way out.
                    "ERR" if got["code"] == "shutting_down" => return,
                    _ => panic!("{got}"),
                }
                frame = connection.ready();
            }
            if !connection.flush().await {
                return;
            }
        }
    }

    fn delivered(&self, frame: &Value) -> String {
        let id = frame["event"]["id"].as_str().unwrap().to_owned();
        let mut settled = self.settled.lock().unwrap();
        if settled.answered.contains(&id) {
            settled.wrong.push(format!("{id} was settled and is delivered again: {frame}"));
        }
        *settled.delivered.entry(id.clone()).or_default() += 1;
        id
    }

    /// That nothing was delivered which was settled.
    pub fn check_group(&self) {
        let settled = self.settled.lock().unwrap();
        assert!(settled.wrong.is_empty(), "{} wrong deliveries, the first: {}", settled.wrong.len(), settled.wrong[0]);
    }

    /// That the group has been given all there is, and nothing else.
    pub fn check_group_is_through(&self) {
        self.check_group();
        let settled = self.settled.lock().unwrap();
        let missing = self.ids.keys().find(|id| !settled.delivered.contains_key(*id));
        assert_eq!(missing, None, "never delivered");
        let unknown = settled.delivered.keys().find(|id| !self.ids.contains_key(*id));
        assert_eq!(unknown, None, "delivered and not in the log");
    }

    /// Takes over what a group was given, from books that only members have written.
    pub fn take_over(&mut self, members: Self) {
        self.settled = members.settled;
    }

    /// One line for people; `label` says what the times are.
    pub fn summary(&self, what: &str, label: &str, mut times: Vec<Duration>) -> String {
        times.sort();
        let settled = self.settled.lock().unwrap();
        let found: usize = self.log.values().map(Vec::len).sum();
        let redelivered = settled.delivered.values().filter(|times| **times > 1).count();
        format!(
            "{what}: acknowledged {}, found {} of them (and {} more, not answered), doubled 0, redelivered {redelivered} of \
             {} settled, {label} {:.0?} / {:.0?} / {:.0?} (min, median, max of {})",
            self.acknowledged,
            found - self.unanswered_but_there,
            self.unanswered_but_there,
            settled.answered.len(),
            times[0],
            times[times.len() / 2],
            times[times.len() - 1],
            times.len(),
        )
    }
}

fn entry(event: &Value) -> Entry {
    Entry {
        id: event["id"].as_str().unwrap().to_owned(),
        n: event["payload"]["n"].as_u64().unwrap(),
        key: event["key"].as_str().map(str::to_owned),
    }
}
