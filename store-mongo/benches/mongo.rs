//! What the MongoDB store costs: `cargo bench -p prom-store-mongo [-- --events 2000000]`.
//!
//! On a replica set of one node that it starts in a temporary folder, majority and journaled, and on the machine that
//! this runs on. Events of about 473 bytes on 50 topics with 10,000 keys, ids made by the hub.
#![expect(clippy::unwrap_used, reason = "a benchmark ends where something is wrong")]

#[path = "../../store/benches/load/mod.rs"]
mod load;

use std::time::{Duration, Instant};

use load::{KEYS, Load, TOPICS, append, cpu, percentile, report};
use mongodb::bson::{Document, doc};
use prom_mongod::{Elections, ReplicaSet};
use prom_protocol::{Group, Topic};
use prom_store::Store;
use prom_store_mongo::{MongoStore, Options};

/// That of the hub.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const READS: usize = 300;

/// Times of so many reads.
async fn reads<T>(name: &str, most: Option<Duration>, mut read: impl AsyncFnMut(usize) -> T) {
    let mut times = Vec::new();
    for i in 0..READS {
        let started = Instant::now();
        std::hint::black_box(read(i).await);
        times.push(started.elapsed());
    }
    let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
    let wanted = most.map(|most| format!("   (wanted: {most:.0?})")).unwrap_or_default();
    println!("{name:<44} p50 {p50:>8.2?} p99 {p99:>8.2?}{wanted}");
}

#[tokio::main]
async fn main() {
    let events = std::env::args().skip_while(|arg| arg != "--events").nth(1);
    let events = events.map_or(2_000_000, |events| events.parse().unwrap());
    let set = ReplicaSet::start(prom_mongod::Options {
        elections: Elections::Production,
        cache_mb: 1024,
        oplog_mb: 2048,
        ..prom_mongod::Options::default()
    });
    let set = set.await.unwrap();
    let store = MongoStore::open(Options::new(set.url())).await.unwrap();
    let mut load = Load::new(TOPICS);
    println!("durability {}", store.durability());
    for (batch, events) in [(1, 500), (16, 4_800), (256, 51_200), (1_024, events)] {
        let before = cpu();
        let mut times = append(&store, &mut load, batch, events).await;
        report(&format!("commits of {batch}"), events, &mut times, cpu() - before);
    }
    let database = set.client().await.unwrap().database("prom");
    let stats = database.run_command(doc! { "collStats": "events" }).await.unwrap();
    let number = |stats: &Document, name: &str| {
        stats
            .get(name)
            .and_then(|value| value.as_i32().map(f64::from).or(value.as_i64().map(|n| n as f64)).or(value.as_f64()))
    };
    let (count, size) = (number(&stats, "count").unwrap(), number(&stats, "size").unwrap());
    let (stored, indexes) = (number(&stats, "storageSize").unwrap(), number(&stats, "totalIndexSize").unwrap());
    println!(
        "{count} events: {:.0} B each as BSON, {:.0} B on disk, {:.0} B of indexes",
        size / count,
        stored / count,
        indexes / count
    );

    // Without what is in memory.
    let store = MongoStore::open(Options { cache_bytes: 0, ..Options::new(set.url()) }).await.unwrap();
    let topics: Vec<Topic> = load.topics.clone();
    let group = Group::new("g").unwrap();
    let of = |i: usize| &topics[i % TOPICS];
    let ten = Some(Duration::from_millis(10));
    reads("latest by key", ten, async |i| {
        let key = i * 31 % KEYS;
        store.latest(&topics[key % TOPICS], &format!("key-{key:05}")).await.unwrap().unwrap()
    })
    .await;
    reads("lag: a cursor, a tail, an event", ten, async |i| {
        let cursor = store.cursor(of(i), &group).await.unwrap();
        let tail = store.tail(of(i)).await.unwrap().unwrap();
        (cursor, store.read(of(i), tail.seq - 1, 1, 1).await.unwrap())
    })
    .await;
    reads("1000 events of a topic", None, async |i| {
        let page = store.read(of(i), i as u64 * 50, 1_000, usize::MAX).await.unwrap();
        assert_eq!(page.events.len(), 1_000);
    })
    .await;
    reads("position of a time", None, async |i| store.seq_before_ts(of(i), load::now() - 60_000).await.unwrap()).await;
    reads("snapshot of a topic: 200 keys", None, async |i| {
        let page = store.latest_page(of(i), None, u64::MAX, 1_000, usize::MAX).await.unwrap();
        assert_eq!(page.events.len(), KEYS / TOPICS);
    })
    .await;
    store.close().await.unwrap();
    set.shutdown().await.unwrap();
}
