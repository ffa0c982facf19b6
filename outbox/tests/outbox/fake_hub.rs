//! A hub for drainers: remembers what it was given, says what it is told to say.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use prom_outbox::{OutboxEvent, Outcome, Publish, PublishError, Published, in_key_order};
use tokio::sync::Notify;

/// A published event: its id and key.
pub(crate) type Seen = (String, Option<String>);

type Rule = Box<dyn Fn(&OutboxEvent, usize) -> Option<PublishError> + Send + Sync>;

/// A [`Publish`] that keeps what it is given.
#[derive(Default)]
pub(crate) struct FakeHub {
    log: Mutex<Log>,
    rule: Option<Rule>,
    /// Nothing is published while it is set.
    pub(crate) away: AtomicBool,
    /// Nothing is answered while it is set: batches hang after they were published.
    pub(crate) silent: AtomicBool,
    speak: Notify,
    /// Keys of the batches that are being published.
    under_way: Arc<Mutex<HashSet<String>>>,
    /// How often a batch had a key of another that was being published.
    pub(crate) overlaps: AtomicUsize,
}

/// Keys of a batch, for as long as it is being published.
struct UnderWay(HashSet<String>, Arc<Mutex<HashSet<String>>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut all = self.1.lock().unwrap();
        all.retain(|key| !self.0.contains(key));
    }
}

#[derive(Default)]
struct Log {
    seqs: HashMap<String, u64>,
    order: Vec<Seen>,
    duplicates: Vec<String>,
    tries: HashMap<String, usize>,
}

impl FakeHub {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// One that refuses an event by what `rule` says to it and the number of the try, from 1.
    pub(crate) fn refusing(
        rule: impl Fn(&OutboxEvent, usize) -> Option<PublishError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { rule: Some(Box::new(rule)), ..Self::default() })
    }

    /// Answers the batches that hang.
    pub(crate) fn speak(&self) {
        self.silent.store(false, SeqCst);
        self.speak.notify_waiters();
    }

    /// What was published, in order, each once.
    pub(crate) fn order(&self) -> Vec<Seen> {
        self.log.lock().unwrap().order.clone()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.order().into_iter().map(|(id, _)| id).collect()
    }

    pub(crate) fn duplicates(&self) -> Vec<String> {
        self.log.lock().unwrap().duplicates.clone()
    }

    pub(crate) fn tries(&self, id: &str) -> usize {
        self.log.lock().unwrap().tries.get(id).copied().unwrap_or(0)
    }

    fn one(&self, event: &OutboxEvent) -> Result<Published, PublishError> {
        if self.away.load(SeqCst) {
            return Err(PublishError::new("connection_lost", "the hub is away", true));
        }
        let mut log = self.log.lock().unwrap();
        let id = event.id().to_owned();
        let tries = log.tries.entry(id.clone()).or_default();
        *tries += 1;
        if let Some(error) = self.rule.as_ref().and_then(|rule| rule(event, *tries)) {
            return Err(error);
        }
        if let Some(seq) = log.seqs.get(&id).copied() {
            log.duplicates.push(id);
            return Ok(Published { seq, duplicate: true });
        }
        let seq = log.order.len() as u64 + 1;
        log.seqs.insert(id.clone(), seq);
        log.order.push((id, event.key().map(str::to_owned)));
        Ok(Published { seq, duplicate: false })
    }
}

#[async_trait::async_trait]
impl Publish for FakeHub {
    async fn publish(&self, events: &[OutboxEvent], within: Duration) -> Vec<Outcome> {
        let keys: HashSet<String> = events.iter().filter_map(|event| event.key().map(str::to_owned)).collect();
        {
            let mut all = self.under_way.lock().unwrap();
            self.overlaps.fetch_add(keys.intersection(&all).count(), SeqCst);
            all.extend(keys.iter().cloned());
        }
        let _under_way = UnderWay(keys, Arc::clone(&self.under_way));
        let outcomes = in_key_order(events, within, |event, _| async {
            tokio::task::yield_now().await;
            self.one(event)
        })
        .await;
        if self.silent.load(SeqCst) {
            self.speak.notified().await;
        }
        outcomes
    }
}

/// Far beyond what anything here takes, so that only a defect meets it.
const DEADLINE: Duration = Duration::from_secs(120);

/// Waits until `what` holds.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The ids of each key came in their order: they are numbered.
pub(crate) fn assert_key_order(order: &[Seen]) {
    let mut last: HashMap<&str, &str> = HashMap::new();
    for (id, key) in order {
        let Some(key) = key else { continue };
        if let Some(before) = last.insert(key, id) {
            assert!(before < id.as_str(), "key {key}: {before} came before {id}");
        }
    }
}
