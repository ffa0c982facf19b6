//! The load of the stores' benchmarks: events of about 473 bytes on 50 topics with 10,000 keys.
#![allow(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]

use std::time::{Duration, Instant};

use prom_protocol::{EventOptions, Text, Topic};
use prom_store::{Append, Batch, Store, wall_clock};

pub const TOPICS: usize = 50;
pub const KEYS: usize = 10_000;
pub const PAYLOAD: usize = 330;

pub struct Load {
    pub topics: Vec<Topic>,
    pub keys: Vec<String>,
    payload: String,
    pub chosen_ids: bool,
    random: fastrand::Rng,
}

impl Load {
    pub fn new(topics: usize) -> Self {
        Self {
            topics: (0..topics).map(|i| Topic::new(&format!("bench.topic-{i:02}")).unwrap()).collect(),
            keys: (0..KEYS).map(|i| format!("key-{i:05}")).collect(),
            payload: format!("\"{}\"", "x".repeat(PAYLOAD - 2)),
            chosen_ids: false,
            random: fastrand::Rng::with_seed(7),
        }
    }

    pub fn append(&mut self) -> Append {
        let key = self.random.usize(0..KEYS);
        // A key belongs to one topic.
        let topic = &self.topics[key % self.topics.len()];
        let key = &self.keys[key];
        let id = self.chosen_ids.then(|| {
            let mut random = [0; 10];
            self.random.fill(&mut random);
            Text::from(uuid::Builder::from_unix_timestamp_millis(now(), &random).into_uuid().to_string())
        });
        let options = EventOptions { id, key: Some(Text::from(key.as_str())), ..EventOptions::default() };
        Append::new(topic.clone(), &options, &self.payload)
    }

    pub fn batch(&mut self, events: usize) -> Batch {
        Batch { now: now(), appends: (0..events).map(|_| self.append()).collect(), cursors: Vec::new() }
    }
}

pub fn now() -> u64 {
    wall_clock()
}

/// User and system time of this process.
pub fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    Duration::from_millis((fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10)
}

pub fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * part) as usize]
}

pub async fn append(store: &dyn Store, load: &mut Load, batch: usize, events: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..events.div_ceil(batch) {
        let batch = load.batch(batch);
        let started = Instant::now();
        let outcomes = store.commit(batch).await.unwrap();
        times.push(started.elapsed());
        assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_ok_and(|appended| !appended.duplicate)));
    }
    times
}

pub fn report(name: &str, events: usize, times: &mut [Duration], cpu: Duration) {
    // Making the events is the load's own work, so the time is that of the commits alone.
    let busy: Duration = times.iter().sum();
    let max = times.iter().max().copied().unwrap_or_default();
    println!(
        "{name:<44} {:>10.0} events/s   CPU {:>5.2} s/M   commit p50 {:>7.0?} p99 {:>7.0?} max {:>7.1?}",
        events as f64 / busy.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / events as f64,
        percentile(times, 0.5),
        percentile(times, 0.99),
        max,
    );
}
