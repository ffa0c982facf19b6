//! `prom heartbeat`: publish this machine's processes.

use std::time::{Duration, Instant};

use anyhow::bail;
use futures_util::future::join_all;
use prom_protocol::topics::HEARTBEAT;
use prom_sdk::Client;

use crate::{connect::Connection, output::Output, processes::Sampler};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  prom heartbeat                                     beside `prom dev`: another look at the same machine
  PROM_TOKEN=… prom heartbeat --url wss://hub.example.com/ws --top 20 --every 5s")]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    connection: Connection,
}

/// Which processes, and how often: shared with `prom dev`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Which {
    /// How many of the busiest processes.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    top: u16,
    /// How often, like 500ms, 1s.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    every: Duration,
    /// This machine's name, instead of the one it has.
    #[arg(long)]
    host: Option<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let client = args.connection.open("publish:heartbeat.received").await?;
    Output::new(false).note(&format!("publishing to {}; stop with Ctrl+C", args.connection.url));
    tokio::select! {
        result = beat(&client, &args.which) => result,
        () = super::interruption()? => Ok(()),
    }
}

/// Publishes heartbeats for ever. While the hub is away they are dropped, not queued: old ones are worth nothing.
pub(crate) async fn beat(client: &Client, which: &Which) -> anyhow::Result<()> {
    if which.every < Duration::from_millis(100) {
        bail!("--every must be at least 100ms");
    }
    let mut sampler = Some(Sampler::new(which.host.clone(), which.top.into())?);
    let mut ticks = tokio::time::interval(which.every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(mut taken) = sampler.take() else { bail!("sampling processes failed") };
        // Reading every process takes milliseconds, which belong on a thread that may block.
        let (taken, beats) = tokio::task::spawn_blocking(move || {
            let beats = taken.sample(Instant::now());
            (taken, beats)
        })
        .await?;
        sampler = Some(taken);
        let publishes = beats.iter().map(|beat| client.publish(HEARTBEAT, beat));
        match tokio::time::timeout(which.every.max(Duration::from_secs(5)), join_all(publishes)).await {
            Ok(results) => {
                for error in results.into_iter().filter_map(Result::err) {
                    if !error.retryable() {
                        return Err(error.into());
                    }
                    tracing::debug!(%error, "heartbeat not published");
                }
            }
            Err(_) => tracing::warn!("the hub is away; heartbeats are dropped until it is back"),
        }
    }
}
