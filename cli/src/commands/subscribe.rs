//! `prom sub`: receive events.

use anyhow::bail;
use futures_util::{StreamExt, stream::FuturesUnordered};
use prom_protocol::{Group, StartFrom, TopicOrPattern};
use prom_sdk::{Client, Event, LiveItem};

use crate::{connect::Connection, output::Output};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  prom sub 'orders.**'                              look at what comes, nothing is stored
  prom sub orders.placed --from earliest --count 10
  prom sub orders.placed --group billing            as a durable group: acknowledged as it is printed
  prom sub dlq.orders.placed --from earliest | jq .payload.err")]
pub(crate) struct Args {
    /// Topic, or pattern: * is one segment, ** any number.
    topic: String,
    /// Join this durable group; each event goes to one of its members.
    #[arg(long)]
    group: Option<String>,
    /// Where to start: latest or earliest. A group that was here before goes on where it was.
    #[arg(long, value_enum, default_value = "latest")]
    from: From,
    /// Start after this position.
    #[arg(long, conflicts_with_all = ["after_id", "since"])]
    after_seq: Option<u64>,
    /// Start after the event with this id.
    #[arg(long, conflicts_with = "since")]
    after_id: Option<String>,
    /// Start with events of so long ago, like 10m, 2h.
    #[arg(long, value_parser = humantime::parse_duration)]
    since: Option<std::time::Duration>,
    /// End after so many events.
    #[arg(long)]
    count: Option<u64>,
    /// JSON lines on a terminal too.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum From {
    Latest,
    Earliest,
}

impl Args {
    fn start(&self) -> StartFrom {
        match (self.after_seq, &self.after_id, self.since, self.from) {
            (Some(seq), ..) => StartFrom::AfterSeq(seq),
            (_, Some(id), ..) => StartFrom::AfterId(id.clone()),
            (_, _, Some(since), _) => {
                let ago = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                StartFrom::Ts(prom_hub::store::wall_clock().saturating_sub(ago))
            }
            (.., From::Earliest) => StartFrom::Earliest,
            (.., From::Latest) => StartFrom::Latest,
        }
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    TopicOrPattern::new(&args.topic)?;
    if let Some(group) = &args.group {
        Group::new(group)?;
    }
    let scope = match &args.group {
        Some(group) => format!("consume:{}:{group}", args.topic),
        None => format!("read:{}", args.topic),
    };
    let client = args.connection.open(&scope).await?;
    let output = Output::new(args.json);
    output.note(&format!("subscribed to {} on {}; stop with Ctrl+C", args.topic, args.connection.url));
    let result = tokio::select! {
        result = receive(&client, &args, &output) => result,
        () = super::interruption()? => Ok(()),
    };
    client.close().await;
    result
}

/// ACKs that may be on their way.
const ACKS: usize = 256;

async fn receive(client: &Client, args: &Args, output: &Output) -> anyhow::Result<()> {
    let mut left = args.count.unwrap_or(u64::MAX);
    if let Some(group) = &args.group {
        let mut deliveries = client.subscribe(&args.topic, group).from(args.start()).await?;
        // Many at once, because each waits for the hub's disk.
        let mut acks = FuturesUnordered::new();
        let settled = |result: Result<(), prom_sdk::Error>| {
            if let Err(error) = result {
                tracing::warn!(%error, "not acknowledged, the event may come again");
            }
        };
        while left > 0 {
            let delivery = tokio::select! {
                delivery = deliveries.next(), if acks.len() < ACKS => delivery,
                Some(result) = acks.next() => {
                    settled(result);
                    continue;
                }
            };
            let Some(delivery) = delivery else {
                return ended(deliveries.error());
            };
            show(output, delivery.event(), delivery.context().attempt)?;
            left -= 1;
            acks.push(delivery.ack());
        }
        // Confirmed, so that what was printed is settled when this ends.
        while let Some(result) = acks.next().await {
            settled(result);
        }
        return Ok(());
    }
    let mut live = client.live(&args.topic).from(args.start()).await?;
    while left > 0 {
        match live.next().await {
            Some(LiveItem::Event(event)) => {
                show(output, &event, 1)?;
                left -= 1;
            }
            Some(LiveItem::Gap(gap)) => tracing::warn!(?gap, "events are no longer retained"),
            Some(LiveItem::Lagged(events)) => tracing::warn!(events, "events were dropped: this reader is too slow"),
            Some(_) => {}
            None => return ended(live.error()),
        }
    }
    Ok(())
}

fn ended(error: Option<prom_sdk::Error>) -> anyhow::Result<()> {
    match error {
        Some(error) => Err(error.into()),
        None => bail!("the subscription has ended"),
    }
}

fn show(output: &Output, event: &Event, attempt: u32) -> anyhow::Result<()> {
    output.event(&serde_json::to_string(event)?, attempt)?;
    Ok(())
}
