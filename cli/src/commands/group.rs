//! `prom group`: what an operator does with whole groups.

use std::io::Write;

use prom_protocol::{Group, Topic};
use serde_json::Value;

use crate::{operate::Operate, output::printable};

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  prom group delete billing-test --dry-run      where it stands, and what it has not settled
  prom group delete billing-test                all its positions; should it come again, it begins anew
  prom group delete billing --topic orders.eu   in that topic alone")]
pub(crate) enum Command {
    /// Delete the positions of a group: it holds no events back any more, and begins anew should it come again.
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The group.
    group: String,
    /// Only its position in this topic.
    #[arg(long)]
    topic: Option<String>,
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    operate: Operate,
}

/// How a removal is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Ask {
    /// Change nothing; say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Also what has members: their subscriptions end.
    #[arg(long, conflicts_with = "dry_run")]
    force: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Ask {
    /// The query of the request.
    pub(crate) fn query(&self, topic: Option<&Topic>) -> String {
        let (dry_run, force) = (u8::from(self.dry_run), u8::from(self.force));
        let topic = topic.map(|topic| format!("&topic={topic}")).unwrap_or_default();
        format!("?dryRun={dry_run}&force={force}{topic}")
    }
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    let Command::Delete(Delete { group, topic, ask, operate }) = command;
    let group = Group::stored(&group)?;
    let topic = topic.as_deref().map(Topic::new).transpose()?;
    let answer = operate.delete(&format!("/groups/{}{}", escaped(group.as_str()), ask.query(topic.as_ref()))).await?;
    let mut out = std::io::stdout().lock();
    if ask.json {
        return Ok(writeln!(out, "{answer}")?);
    }
    let done = if answer["deleted"] == true { "deleted" } else { "would delete" };
    let positions = answer["topics"].as_array().map(Vec::as_slice).unwrap_or_default();
    writeln!(out, "{done} group {}: {} positions", printable(group.as_str()), positions.len())?;
    for own in positions {
        let name = own["topic"].as_str().unwrap_or_default();
        writeln!(out, "  {}: at {}, {} events not settled", printable(name), own["lastSeq"], own["lagEvents"])?;
    }
    if answer["deleted"] == false && answer["members"].as_u64().is_some_and(|members| members > 0) {
        writeln!(out, "only with --force, for it has members: {}", answer["members"])?;
    }
    Ok(())
}

/// Names in a line, or that there are none.
pub(crate) fn list(names: &Value, what: &str) -> String {
    let names = names.as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<String> = names.iter().filter_map(Value::as_str).map(printable).collect();
    if names.is_empty() { format!("no {what}") } else { names.join(", ") }
}

/// A name as a part of a URL's path.
fn escaped(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_name_can_stand_in_a_url() {
        assert_eq!(super::escaped("billing-2_x.y"), "billing-2_x.y");
        assert_eq!(super::escaped("a b/c?ü"), "a%20b%2Fc%3F%C3%BC");
    }
}
