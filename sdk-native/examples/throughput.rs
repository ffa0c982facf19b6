//! How fast one connection is, and what an event costs this process: CPU, allocations, bytes.
//!
//! `cargo run --release -p prom-sdk --example throughput` beside a hub that keeps its events in memory, so that the disk is not
//! what is measured: `WS_TOKEN=try-me prom hub --memory-mb 4096`. `EVENTS`, `PAYLOAD` (bytes), `WINDOW` (publishes under way)
//! and `THREADS` (0: all on one) can be set. Counting the allocations is part of the cost.

use std::{alloc::System, collections::VecDeque, time::Instant};

use prom_sdk::{BoxError, Client, StartFrom};
use serde::{Deserialize, Serialize};
use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Debug, Serialize, Deserialize)]
struct Order<'a> {
    order: u64,
    note: &'a str,
}

fn main() -> Result<(), BoxError> {
    let runtime = match setting("THREADS", 2)? {
        0 => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        threads => tokio::runtime::Builder::new_multi_thread().worker_threads(threads as usize).enable_all().build()?,
    };
    runtime.block_on(run())
}

async fn run() -> Result<(), BoxError> {
    let url = std::env::var("PROM_URL").unwrap_or_else(|_| "ws://127.0.0.1:8090/".to_owned());
    let token = std::env::var("TOKEN").unwrap_or_default();
    let (events, window) = (setting("EVENTS", 1_000_000)?, setting("WINDOW", 10_000)? as usize);
    let note = "x".repeat(setting("PAYLOAD", 256)?.saturating_sub(30) as usize);
    // A topic of its own, so that every run finds what it published and nothing else.
    let topic = format!("throughput.{}", std::process::id());
    let client = Client::builder(url).token(token).connect().await?;

    let measured = Measured::begin();
    let mut under_way = VecDeque::with_capacity(window);
    for order in 0..events {
        if under_way.len() == window
            && let Some(oldest) = under_way.pop_front()
        {
            oldest.await?;
        }
        under_way.push_back(client.publish(&topic, &Order { order, note: &note }));
    }
    for publishing in under_way {
        publishing.await?;
    }
    measured.end("published and answered", events);

    let mut orders =
        client.subscribe(&topic, "readers").from(StartFrom::Earliest).max_in_flight(10_000).batch_size(1024).await?;
    let measured = Measured::begin();
    for expected in 0..events {
        let delivery = orders.next().await.ok_or("the subscription ended")?;
        let order: Order<'_> = delivery.payload()?;
        if order.order != expected {
            return Err(format!("order {} instead of {expected}", order.order).into());
        }
        // The last one's answer comes after those before it are stored.
        if expected + 1 == events { delivery.ack().await? } else { delivery.ack_unconfirmed().await? }
    }
    measured.end("delivered and acknowledged", events);

    client.close().await;
    Ok(())
}

fn setting(name: &str, default: u64) -> Result<u64, BoxError> {
    match std::env::var(name) {
        Ok(value) => Ok(value.parse()?),
        Err(_) => Ok(default),
    }
}

struct Measured {
    begun: Instant,
    cpu_ms: Option<u64>,
    heap: Stats,
}

impl Measured {
    fn begin() -> Self {
        Self { begun: Instant::now(), cpu_ms: cpu_ms(), heap: ALLOCATOR.stats() }
    }

    fn end(self, what: &str, events: u64) {
        let (seconds, events) = (self.begun.elapsed().as_secs_f64(), events as f64);
        let heap = ALLOCATOR.stats() - self.heap;
        let (allocated, grown) = (heap.allocations as f64 / events, heap.reallocations as f64 / events);
        let bytes = heap.bytes_allocated as f64 / events;
        println!(
            "{:9.0} events/s {what}: {allocated:.2} allocations, {grown:.2} reallocations, {bytes:.0} bytes each",
            events / seconds
        );
        if let (Some(before), Some(after)) = (self.cpu_ms, cpu_ms()) {
            println!("{:9.2} µs of CPU each", (after - before) as f64 * 1000.0 / events);
        }
    }
}

/// User and system time of this process, where the system has /proc.
fn cpu_ms() -> Option<u64> {
    /// Ticks of the kernel's interface, whatever those of the machine.
    const TICK_MS: u64 = 10;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some((next()? + next()?) * TICK_MS)
}
