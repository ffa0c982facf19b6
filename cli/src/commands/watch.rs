//! `prom watch`: follow the newest event of each key.

use anyhow::bail;
use prom_protocol::{StartFrom, TopicOrPattern};
use prom_sdk::LiveItem;

use crate::{connect::Connection, output::Output};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  prom watch process.state                 the state of each process, then each change
  prom watch process.state --once | jq -r '.payload.name'")]
pub(crate) struct Args {
    /// Topic, or pattern, whose events have keys.
    topic: String,
    /// Print what is there and end.
    #[arg(long)]
    once: bool,
    /// JSON lines on a terminal too.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    TopicOrPattern::new(&args.topic)?;
    let client = args.connection.open(&format!("read:{}", args.topic)).await?;
    let output = Output::new(args.json);
    let follow = async {
        let mut live = client.live(&args.topic).from(StartFrom::Snapshot).await?;
        loop {
            match live.next().await {
                Some(LiveItem::Event(event)) => output.event(&serde_json::to_string(&event)?, 1)?,
                Some(LiveItem::SnapshotComplete) if args.once => return Ok(()),
                Some(LiveItem::SnapshotComplete) => {
                    output.note(&format!("that is {} now; changes follow, stop with Ctrl+C", args.topic));
                }
                Some(LiveItem::Lagged(events)) => {
                    tracing::warn!(events, "changes were dropped: this reader is too slow");
                }
                Some(_) => {}
                None => match live.error() {
                    Some(error) => return Err(error.into()),
                    None => bail!("the subscription has ended"),
                },
            }
        }
    };
    let result = tokio::select! {
        result = follow => result,
        () = super::interruption()? => Ok(()),
    };
    client.close().await;
    result
}
