//! Crowds of hostile connections, and a good client that publishes meanwhile: it must not notice, and the hub's memory
//! stays under a bound that is stated here.
//!
//! A crowd is a process of its own, so that the memory and the open files that are looked at are the hub's. The large
//! form, ten thousand of each kind, prints its figures:
//!
//! ```sh
//! cargo test --release -p prom-hub --test crowds -- --ignored --exact ten_thousand_of_each_kind --nocapture
//! ```
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

mod crowd;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use prom_hub::{Hub, StoreConfig, embedded::Options, store::Durability};
use prom_testkit::{
    Client, config,
    http::{ops, post},
    token, token_with, until,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::sync::Mutex;

use self::crowd::{Crowd, Kind};

/// Memory and open files are those of the process, so there is one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// What a crowd may cost: this much for each of its sockets, and this much in all for what is bounded by itself, such as
/// pages that nobody reads.
const EACH: usize = 64 * 1024;
const TOGETHER: usize = 96 << 20;

/// Bytes of this process in memory.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

/// What this process may have open, as it was.
struct Files(Rlimit);

impl Files {
    /// Lets it open two hundred more.
    fn few() -> Self {
        let before = getrlimit(Resource::Nofile);
        let taken = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        setrlimit(Resource::Nofile, Rlimit { current: Some(taken + 200), ..before }).unwrap();
        Self(before)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = setrlimit(Resource::Nofile, self.0);
    }
}

/// The value of a metric; 0 if it is not there.
async fn metric(hub: &Hub, name: &str) -> u64 {
    let text = ops(hub, "/metrics").await;
    let line = text.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or(0)
}

/// How a good client fared.
struct Fared {
    /// How long the slowest of a hundred publishes took.
    p99: Duration,
    /// How many there were.
    times: usize,
    /// The most memory the process had meanwhile, in bytes.
    most: usize,
}

/// A good client publishes one event after the other while `going`, at least `least`. It has a thread of its own, as what is
/// measured is the hub, and no client that waits for a turn among the hub's tasks.
async fn publishes(hub: &Arc<Hub>, least: usize, going: &Arc<AtomicBool>) -> Fared {
    let (hub, going, runtime) = (Arc::clone(hub), Arc::clone(going), tokio::runtime::Builder::new_current_thread());
    let publishing = async move {
        let mut client = Client::open(&hub).await;
        let (mut times, mut most) = (Vec::new(), 0);
        while going.load(Relaxed) || times.len() < least {
            let began = Instant::now();
            client.publish("good", json!(times.len())).await;
            times.push(began.elapsed());
            if times.len() % 16 == 0 {
                most = most.max(memory());
            }
        }
        times.sort_unstable();
        Fared { p99: times[(times.len() - 1) * 99 / 100], times: times.len(), most }
    };
    let run = |mut runtime: tokio::runtime::Builder| runtime.enable_all().build().unwrap().block_on(publishing);
    tokio::task::spawn_blocking(move || run(runtime)).await.unwrap()
}

/// How a good client fares while a crowd of this kind comes, and then while it is there.
async fn beside(hub: &Arc<Hub>, kind: Kind, count: usize) -> (Fared, Fared) {
    let going = Arc::new(AtomicBool::new(true));
    // Of as many subjects as it takes to have all that is shared.
    let of = |n| token_with(json!({"sub": format!("crowd-{n}"), "scopes": ["*:**"]}));
    let tokens: Vec<_> = (0..8).map(of).collect();
    let mut crowd = Crowd::start(kind, count, hub.address(), &tokens);
    let arriving = async {
        crowd.arrived().await;
        going.store(false, Relaxed);
    };
    let (coming, ()) = tokio::join!(publishes(hub, 500, &going), arriving);
    let there = publishes(hub, 500, &going).await;
    assert!(hub.ops_address().is_some() && ops(hub, "/healthz").await.status == 200);
    (coming, there)
}

/// A crowd of `count` of each kind, one kind after the other.
async fn besiege(count: usize) {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.store = StoreConfig::Embedded(folder.path().to_owned(), Options::default());
    config.ops_port = Some(0);
    config.limits.replays = 8;
    config.limits.publishes = 64;
    let hub = Arc::new(Hub::start(config).await.unwrap());
    let all = token(&["*:**"]);
    let payload = json!("x".repeat(900_000)).to_string();
    for _ in 0..8 {
        assert_eq!(post(&hub, "/publish/large", &all, payload.as_bytes()).await.status, 200);
    }
    let alone = publishes(&hub, 500, &Arc::default()).await;
    println!("without a crowd: p99 {:?}, {} MiB", alone.p99, alone.most >> 20);
    let mut published = alone.times;
    for kind in std::iter::once(Kind::Elsewhere).chain(Kind::ALL) {
        let (coming, there) = beside(&hub, kind, count).await;
        published += coming.times + there.times;
        let grown = coming.most.max(there.most).max(memory()).saturating_sub(alone.most);
        println!(
            "{count} {kind:?}: p99 {:?} of {} publishes while they come, {:?} while they are there, {} MiB more",
            coming.p99,
            coming.times,
            there.p99,
            grown >> 20
        );
        assert!(grown < TOGETHER + count * EACH, "{kind:?}: {} MiB", grown >> 20);
    }
    // Everything that was acknowledged is there.
    let lines = prom_testkit::http::get(&hub, "/export?topic=good&ndjson=1", &all).await;
    assert_eq!((lines.status, lines.whole, lines.text().lines().count()), (200, true, published));
    Arc::into_inner(hub).unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_each_kind_is_not_noticed_by_who_publishes() {
    besiege(200).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and 20,000 open files; prints figures"]
async fn ten_thousand_of_each_kind() {
    besiege(10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_takes_all_files_does_not_stop_the_log() {
    // It took the files that the next log file needs: `store_unavailable: … Too many open files`, and not one line about it.
    let _alone = ALONE.lock().await;
    let _few = Files::few();
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, durability: Durability::Os, ..Options::default() };
    let mut config = config();
    config.store = StoreConfig::Embedded(folder.path().to_owned(), options);
    config.ops_port = Some(0);
    let hub = Hub::start(config).await.unwrap();
    let mut client = Client::open(&hub).await;
    let mut crowd = Crowd::start(Kind::Silent, 600, hub.address(), &[]);
    crowd.arrived().await;
    // Each two of these are a new log file.
    for _ in 0..60 {
        client.publish("a", json!("x".repeat(500_000))).await;
    }
    Client::open(&hub).await.quiet().await;
    assert_eq!(ops(&hub, "/healthz").await.status, 200);
    assert!(metric(&hub, "sockets_cut_total{port=\"public\",reason=\"evicted\"}").await >= 400);
    drop(crowd);
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_cannot_accept_says_so_and_goes_on() {
    let _alone = ALONE.lock().await;
    let _few = Files::few();
    let mut config = config();
    config.ops_port = Some(0);
    let hub = Hub::start(config).await.unwrap();
    let mut client = Client::open(&hub).await;
    let accepts = "sockets_cut_total{port=\"public\",reason=\"accept\"}";
    until("accepting fails", async || {
        // Somebody else takes all files there are, but for one, and a stranger that one.
        let mut files: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        files.pop();
        let stranger = tokio::net::TcpStream::connect(hub.address()).await;
        client.publish("a", json!(1)).await;
        drop((files, stranger));
        metric(&hub, accepts).await > 0
    })
    .await;
    Client::open(&hub).await.quiet().await;
    hub.shutdown().await;
}
