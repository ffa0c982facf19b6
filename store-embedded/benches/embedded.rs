//! What the embedded store costs: `cargo bench -p prom-store-embedded [-- --events 5000000]`.
//!
//! Events of about 473 bytes on 50 topics with 10,000 keys, ids made by the hub unless a line says otherwise. Prints
//! events a second, CPU seconds per million events, and what reads take. The machine's own rate of 1 KiB append and
//! `fdatasync` is measured in the same run, in the same folder.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

#[path = "../../store/benches/load/mod.rs"]
mod load;

use std::{
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use load::{KEYS, Load, TOPICS, append, cpu, percentile, report};
use prom_protocol::TopicOrPattern;
use prom_store::{Durability, Retention, Rule, Store};
use prom_store_embedded::{EmbeddedStore, Options, tools};

/// The hub's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn rss(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn folder_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512).sum()
}

fn machine(path: &Path) -> f64 {
    let file = std::fs::File::create(path.join("machine")).unwrap();
    let block = [7; 1024];
    let started = Instant::now();
    for _ in 0..1_000 {
        (&file).write_all(&block).unwrap();
        file.sync_data().unwrap();
    }
    let rate = 1_000.0 / started.elapsed().as_secs_f64();
    std::fs::remove_file(path.join("machine")).unwrap();
    rate
}

/// What making the events costs by itself.
fn load_cost(events: usize, chosen_ids: bool) -> Duration {
    let mut load = Load::new(TOPICS);
    load.chosen_ids = chosen_ids;
    let before = cpu();
    for _ in 0..events / 1000 {
        std::hint::black_box(load.batch(1000));
    }
    cpu() - before
}

async fn appends(folder: &Path) {
    let own = machine(folder);
    println!("machine: 1 KiB append + fdatasync             {own:>10.0} a second");
    for (name, durability, batch, events, chosen_ids) in [
        ("append, commit, batches of 1", Durability::Commit, 1, 5_000, false),
        ("append, commit, batches of 16", Durability::Commit, 16, 100_000, false),
        ("append, commit, batches of 256", Durability::Commit, 256, 1_000_000, false),
        ("append, commit, batches of 1024", Durability::Commit, 1024, 2_000_000, false),
        ("append, commit, batches of 1024, chosen ids", Durability::Commit, 1024, 2_000_000, true),
        ("append, os, batches of 256", Durability::Os, 256, 2_000_000, false),
    ] {
        let path = folder.join("append");
        let store = EmbeddedStore::open(&path, Options { durability, ..Options::default() }).unwrap();
        let mut load = Load::new(TOPICS);
        load.chosen_ids = chosen_ids;
        append(&store, &mut load, batch, batch * 20).await;
        let before = cpu();
        let mut times = append(&store, &mut load, batch, events).await;
        drop(store);
        let spent = (cpu() - before).saturating_sub(load_cost(events, chosen_ids));
        report(name, events, &mut times, spent);
        if batch == 1 {
            let rate = 1.0 / percentile(&mut times, 0.5).as_secs_f64();
            println!("{:<44} {:>9.0} % of the machine's own rate", "", rate / own * 100.0);
        }
        std::fs::remove_dir_all(&path).unwrap();
    }
}

async fn large(folder: &Path, events: usize) {
    let path = folder.join("large");
    let store = EmbeddedStore::open(&path, Options::default()).unwrap();
    let mut load = Load::new(TOPICS);
    let mut times = append(&store, &mut load, 1024, events).await;
    report("load", events, &mut times, Duration::ZERO);
    println!("{:<44} {:>10} MiB now, {} MiB at most", "RSS", rss("VmRSS"), rss("VmHWM"));
    drop(store);
    println!("{:<44} {:>10.0} bytes per event", "disk", folder_bytes(&path) as f64 / events as f64);

    let started = Instant::now();
    let store = EmbeddedStore::open(&path, Options::default()).unwrap();
    println!("{:<44} {:>10.1?}", "open after a close", started.elapsed());

    let topic = &load.topics[7].clone();
    let tail = store.tail(topic).await.unwrap().unwrap().seq;
    let mut first = Vec::new();
    let mut scanned = 0;
    for round in 0..2 {
        let started = Instant::now();
        for topic in &load.topics {
            let mut after = 0;
            loop {
                let started = Instant::now();
                let page = store.read(topic, after, 1000, usize::MAX).await.unwrap();
                first.push(started.elapsed());
                if page.events.is_empty() {
                    break;
                }
                after = page.read_to;
                scanned += page.events.len();
            }
        }
        if round == 1 {
            let rate = scanned as f64 / 2.0 / started.elapsed().as_secs_f64();
            println!("{:<44} {rate:>10.0} events/s", "topic scan, warm, 50 topics interleaved");
        }
    }
    append(&store, &mut load, 1024, 100_000).await;
    let mut times = Vec::new();
    for _ in 0..2_000 {
        let started = Instant::now();
        let page = store.read(topic, tail + 500, 1000, usize::MAX).await.unwrap();
        times.push(started.elapsed());
        assert_eq!(page.events.len(), 1000);
    }
    println!("{:<44} {:>10.0?} p50", "tail read of 1000 events", percentile(&mut times, 0.5));
    let mut times = Vec::new();
    for i in 0..20_000 {
        let key = &load.keys[(i * 7919) % KEYS];
        let started = Instant::now();
        let found = store.latest(&load.topics[(i * 7919) % KEYS % TOPICS], key).await.unwrap();
        times.push(started.elapsed());
        assert!(found.is_some_and(|event| event.key.as_deref() == Some(key)));
    }
    println!(
        "{:<44} {:>10.2?} p50, {:.2?} p99",
        "latest by key",
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.99)
    );
    let mut ids = Vec::new();
    for i in 0..2_000 {
        let page = store.read(topic, (i * 7919) % tail, 1, usize::MAX).await.unwrap();
        ids.push((page.events[0].id.clone(), page.events[0].seq));
    }
    let mut times = Vec::new();
    for (id, seq) in &ids {
        let started = Instant::now();
        assert_eq!(store.seq_of(topic, id).await, Ok(Some(*seq)));
        times.push(started.elapsed());
    }
    println!(
        "{:<44} {:>10.2?} p50, {:.2?} p99",
        "position of an id",
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.99)
    );
}

/// Opening after a `kill -9`: a process of its own loads a store and is gone.
async fn killed(folder: &Path, events: usize) {
    let path = folder.join("killed");
    let own = std::env::current_exe().unwrap();
    let status = std::process::Command::new(own).arg("--load").arg(&path).arg(events.to_string()).status().unwrap();
    assert!(!status.success(), "it ended as if nothing had happened");
    let started = Instant::now();
    let store = EmbeddedStore::open(&path, Options::default()).unwrap();
    println!("{:<44} {:>10.1?}", format!("open after a kill, {events} events"), started.elapsed());
    let topics = store.topics().await.unwrap();
    assert_eq!(topics.iter().map(|(_, tail)| tail.seq).sum::<u64>() as usize, events.next_multiple_of(1024));
    drop(store);

    let every = Rule::new(TopicOrPattern::new("**").unwrap());
    let rule = Rule { max_events: Some((events / TOPICS / 2) as u64), ..every };
    let options = Options { retention: Retention::new(vec![rule]), ..Options::default() };
    let (before, started) = (folder_bytes(&path), Instant::now());
    tools::compact(&path, options, false).unwrap();
    println!(
        "{:<44} {:>10.1?}, {} MiB of {} MiB came back",
        "dropping the oldest half, open and close",
        started.elapsed(),
        (before - folder_bytes(&path)) >> 20,
        before >> 20,
    );
}

async fn load_and_die(path: &Path, events: usize) {
    let store = EmbeddedStore::open(path, Options::default()).unwrap();
    append(&store, &mut Load::new(TOPICS), 1024, events).await;
    std::process::abort();
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let events = args.iter().position(|arg| arg == "--events").map_or(5_000_000, |at| args[at + 1].parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if args.get(1).is_some_and(|arg| arg == "--load") {
        return runtime.block_on(load_and_die(Path::new(&args[2]), args[3].parse().unwrap()));
    }
    // Next to the build, because a temporary folder may be memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    runtime.block_on(async {
        appends(folder.path()).await;
        large(folder.path(), events).await;
        std::fs::remove_dir_all(folder.path().join("large")).unwrap();
        killed(folder.path(), events).await;
    });
}
