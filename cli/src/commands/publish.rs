//! `prom pub`: publish events.

use std::io::BufRead;

use anyhow::{Context, bail};
use futures_util::{StreamExt, stream::FuturesOrdered};
use prom_protocol::{RawValue, Topic};
use prom_sdk::{Client, PublishOptions, Published};

use crate::{connect::Connection, output::Output};

/// Publishes of standard input that may be under way at once.
const WINDOW: usize = 1_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  prom pub orders.placed '{\"order\": 7}' --key order-7
  prom pub greetings '\"hello\"' --header lang=en --tag test
  cat orders.ndjson | prom pub orders.placed -          one event a line")]
pub(crate) struct Args {
    /// Topic to publish to.
    topic: String,
    /// The payload as JSON, or - to publish each line of standard input.
    payload: String,
    /// What the event is about.
    #[arg(long)]
    key: Option<String>,
    /// The event's id; publishing it again stores nothing new.
    #[arg(long)]
    id: Option<String>,
    /// The publisher's session.
    #[arg(long)]
    sid: Option<String>,
    /// A header, NAME=VALUE. Repeatable.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// A tag. Repeatable.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Id of an event that led to this one. Repeatable.
    #[arg(long, value_name = "ID")]
    caused_by: Vec<String>,
    /// JSON lines on a terminal too.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("a header is NAME=VALUE".into()),
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    Topic::new(&args.topic)?;
    let output = Output::new(args.json);
    let scope = format!("publish:{}", args.topic);
    if args.payload == "-" {
        if args.id.is_some() {
            bail!("--id names one event; lines of standard input are many");
        }
        let client = args.connection.open(&scope).await?;
        let result = lines(&client, &args, &output).await;
        client.close().await;
        return result;
    }
    let payload = json(&args.payload)?;
    let client = args.connection.open(&scope).await?;
    let published = client.publish_raw(&args.topic, &payload, args.options()).await;
    client.close().await;
    print(&output, &published?)?;
    Ok(())
}

/// Publishes each line of standard input, many at once, in order.
async fn lines(client: &Client, args: &Args, output: &Output) -> anyhow::Result<()> {
    let (sender, mut lines) = tokio::sync::mpsc::channel(WINDOW);
    // Reading standard input blocks, so it has a thread of its own; it ends with the input or with the receiver.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut under_way = FuturesOrdered::new();
    let mut open = true;
    let mut number = 0_u64;
    // The first thing that went wrong ends the reading; what is under way is still waited for and printed, so that it
    // is known what was published.
    let mut failed = Ok(());
    while open || !under_way.is_empty() {
        tokio::select! {
            line = lines.recv(), if open && under_way.len() < WINDOW => match line {
                Some(line) => {
                    number += 1;
                    match line.context("cannot read standard input").and_then(|line| parse_line(&line)) {
                        Ok(Some(payload)) => under_way.push_back(client.publish_raw(&args.topic, &payload, args.options())),
                        Ok(None) => {}
                        Err(error) => {
                            failed = failed.and(Err(error.context(format!("line {number}"))));
                            open = false;
                        }
                    }
                }
                None => open = false,
            },
            Some(published) = under_way.next() => match published {
                Ok(published) => print(output, &published)?,
                Err(error) => {
                    failed = failed.and(Err(error.into()));
                    open = false;
                }
            },
        }
    }
    failed
}

/// The payload of a line; none for an empty one.
fn parse_line(line: &str) -> anyhow::Result<Option<Box<RawValue>>> {
    if line.trim().is_empty() { Ok(None) } else { json(line).map(Some) }
}

impl Args {
    fn options(&self) -> PublishOptions {
        let mut options = PublishOptions::new();
        if let Some(key) = &self.key {
            options = options.key(key);
        }
        if let Some(id) = &self.id {
            options = options.id(id);
        }
        if let Some(sid) = &self.sid {
            options = options.sid(sid);
        }
        for (name, value) in &self.headers {
            options = options.header(name, value);
        }
        let options = self.caused_by.iter().fold(options, PublishOptions::caused_by);
        self.tags.iter().fold(options, PublishOptions::tag)
    }
}

fn json(text: &str) -> anyhow::Result<Box<RawValue>> {
    RawValue::from_string(text.trim().to_owned())
        .context("the payload is not JSON; text needs quotes of its own, like '\"hello\"'")
}

fn print(output: &Output, published: &Published) -> std::io::Result<()> {
    let Published { id, seq, duplicate, .. } = published;
    let json = serde_json::json!({ "id": id, "seq": seq, "duplicate": duplicate });
    let again = if *duplicate { " (was there before)" } else { "" };
    output.either(&json.to_string(), &format!("{id} #{seq}{again}"))
}
