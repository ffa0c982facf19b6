//! `prom topic`: what an operator does with whole topics.

use std::io::Write;

use prom_protocol::Topic;

use super::group::{Ask, list};
use crate::operate::Operate;

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  prom topic delete orders.test --dry-run       what would go
  prom topic delete orders.test                 its events, the newest of its keys, and positions of groups in it
  prom topic delete orders.test --force         also while groups have members there: their subscriptions end")]
pub(crate) enum Command {
    /// Delete a topic with all its events and all positions of groups in it.
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The topic.
    topic: String,
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    operate: Operate,
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    let Command::Delete(Delete { topic, ask, operate }) = command;
    // A topic is written in a URL as it is.
    let topic = Topic::new(&topic)?;
    let answer = operate.delete(&format!("/topics/{topic}{}", ask.query(None))).await?;
    let mut out = std::io::stdout().lock();
    if ask.json {
        return Ok(writeln!(out, "{answer}")?);
    }
    let done = if answer["deleted"] == true { "deleted" } else { "would delete" };
    writeln!(
        out,
        "{done} topic {topic}: {} events, positions of {}",
        answer["events"],
        list(&answer["groups"], "groups")
    )?;
    if answer["deleted"] == false && answer["busy"].as_array().is_some_and(|busy| !busy.is_empty()) {
        writeln!(out, "only with --force, for they have members: {}", list(&answer["busy"], "groups"))?;
    }
    Ok(())
}
