//! `prom outbox`: what an operator does with the rows of an outbox, whether or not a hub drains it.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use prom_hub::{mongo, open_outbox};
use prom_outbox::{Filter, MongoOutbox, OutboxStore, Row, Status, StoreError};
use serde::Serialize;
use serde_json::json;

use crate::{output::printable, secret, settings};

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  prom outbox stats                                    is it drained, how far behind, is anything parked?
  prom outbox list --status error                      what is parked, and why
  prom outbox show 6650f1b2c3d4e5f607182930            all of a row, its payload too
  prom outbox retry 6650f1b2c3d4e5f607182930           publish it after all, once the cause is mended
  prom outbox retry --topic orders.placed              every parked row of a topic
  prom outbox drop --status error --outbox shop.outbox

MONGO_URL says where MongoDB is, PROM_OUTBOX which collection, as for the hub.")]
pub(crate) enum Command {
    /// Rows, oldest first.
    List(List),
    /// All of a row, its payload too.
    Show(Show),
    /// Have parked rows published after all.
    Retry(Retry),
    /// Delete rows; what was not sent is then never published.
    Drop(Drop),
    /// How many rows wait, are being published, sent, parked; and how far behind it is.
    Stats(Stats),
}

/// Which outbox, and how it is printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Location {
    /// The MongoDB replica set: mongodb://user:password@host1,host2/database?replicaSet=rs0
    #[arg(long, env = "MONGO_URL", hide_env_values = true)]
    mongo_url: Option<String>,
    /// The collection: outbox in the URL's database (prom, if it names none), shop.outbox in another one.
    #[arg(long, env = "PROM_OUTBOX", default_value = "outbox", value_delimiter = ',')]
    outbox: Vec<String>,
    /// How long MongoDB may take once it is connected, like 10s, 5m.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Which rows: those that are all of it.
#[derive(Debug, clap::Args)]
pub(crate) struct Narrow {
    /// Only rows of this status: pending, claimed, sent or error, which is parked.
    #[arg(long)]
    status: Option<Status>,
    /// Only rows on exactly this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only rows of this key.
    #[arg(long)]
    key: Option<String>,
}

/// Which rows are to be changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// The rows of these ids.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    narrow: Narrow,
    /// Every row, instead of ids, --status, --topic and --key.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    narrow: Narrow,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=MOST_ROWS))]
    limit: u32,
    #[command(flatten)]
    location: Location,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The row's id.
    id: String,
    #[command(flatten)]
    location: Location,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Retry {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    location: Location,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Drop {
    #[command(flatten)]
    which: Which,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    location: Location,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stats {
    #[command(flatten)]
    location: Location,
}

/// Most rows of a list: they are held in memory.
const MOST_ROWS: i64 = 100_000;
/// Statuses of rows that may be deleted.
const FREE: [Status; 3] = [Status::Pending, Status::Sent, Status::Error];

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(args) => list(args).await,
        Command::Show(args) => show(args).await,
        Command::Retry(args) => retry(args).await,
        Command::Drop(args) => drop_rows(args).await,
        Command::Stats(args) => stats(args).await,
    }
}

async fn list(args: List) -> anyhow::Result<()> {
    let outbox = args.location.open().await?;
    let limit = args.limit as usize;
    let mut rows = outbox.list(&args.narrow.filter(), limit + 1).await?;
    if rows.is_empty() {
        bail!("no row of {} matches", outbox.name);
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    let mut out = Vec::new();
    if outbox.json {
        for row in &rows {
            json_line(&mut out, row)?;
        }
    } else {
        let width = rows.iter().map(|row| row.id.chars().count()).max().unwrap_or(0).min(WIDEST_ID);
        for row in &rows {
            writeln!(out, "{}", printable(&line(row, width)))?;
        }
    }
    print(&out)?;
    if more {
        eprintln!("prom: these are the oldest {limit}, and there are more; --limit shows more of them");
    }
    Ok(())
}

/// Ids that are longer are not aligned.
const WIDEST_ID: usize = 36;

/// A row on one line.
fn line(row: &Row, width: usize) -> String {
    let Row { id, topic, .. } = row;
    let ts = row.ts.map_or_else(|| "no time".into(), time);
    let mut line = format!("{id:<width$}  {:<7}  {ts:<24}  {topic}", row.status.as_str());
    if let Some(key) = &row.key {
        line += &format!("  key {key}");
    }
    if row.attempts > 0 {
        line += &format!("  tried {}", times(row.attempts));
    }
    if row.status == Status::Claimed
        && let Some(by) = &row.claimed_by
    {
        line += &format!("  by {by}");
    }
    if row.status != Status::Sent
        && let Some(error) = &row.last_err
    {
        line += &format!("  {error}");
    }
    line
}

fn times(count: u32) -> String {
    if count == 1 { "once".into() } else { format!("{count} times") }
}

async fn show(args: Show) -> anyhow::Result<()> {
    let outbox = args.location.open().await?;
    // One text may be the id of several rows: that of an ObjectId and a string.
    let rows = outbox.list(&Filter::id(args.id.as_str()), MOST_ROWS as usize).await?;
    if rows.is_empty() {
        bail!("there is no row {} in {}", args.id, outbox.name);
    }
    let mut out = Vec::new();
    for row in &rows {
        if outbox.json {
            json_line(&mut out, row)?;
        } else {
            fields(&mut out, row)?;
        }
    }
    print(&out)
}

/// A row, a field a line.
fn fields(out: &mut Vec<u8>, row: &Row) -> anyhow::Result<()> {
    let mut field = |name: &str, value: &str| writeln!(out, "{name:<12} {}", printable(value));
    field("_id", &row.id)?;
    field("status", row.status.as_str())?;
    field("topic", &row.topic)?;
    for (name, value) in [("key", &row.key), ("sid", &row.sid)] {
        if let Some(value) = value {
            field(name, value)?;
        }
    }
    for cause in &row.caused_by {
        field("caused_by", cause)?;
    }
    for (name, at) in [("ts", row.ts), ("lease_until", row.lease_until), ("next_try_at", row.next_try_at)] {
        if let Some(at) = at {
            let since = name == "lease_until" && row.status == Status::Sent;
            field(name, &(time(at) + if since { ", when it was sent" } else { "" }))?;
        }
    }
    field("attempts", &row.attempts.to_string())?;
    for (name, value) in [("claimed_by", &row.claimed_by), ("last_err", &row.last_err)] {
        if let Some(value) = value {
            field(name, value)?;
        }
    }
    for (name, value) in &row.headers {
        field("header", &format!("{name}: {value}"))?;
    }
    if !row.tags.is_empty() {
        field("tags", &row.tags.join(", "))?;
    }
    field("payload", row.payload.as_ref().map_or("none", |payload| payload.get()))?;
    Ok(())
}

async fn retry(args: Retry) -> anyhow::Result<()> {
    let filter = args.which.filter()?;
    if filter.status.is_some_and(|status| status != Status::Error) {
        bail!("only parked rows are retried, those of --status error");
    }
    let outbox = args.location.open().await?;
    let left = outbox.left(&filter, &[Status::Error]).await?;
    let retried = outbox.ask(outbox.rows.retry(&filter)).await?;
    if retried == 0 && left.is_empty() {
        bail!("no parked row of {} matches", outbox.name);
    }
    if retried > 0 {
        let text = format!("{} pending again", are(retried));
        outbox.done(&json!({ "retried": retried }), &text)?;
    }
    all_touched(&left)
}

async fn drop_rows(args: Drop) -> anyhow::Result<()> {
    let filter = args.which.filter()?;
    let outbox = args.location.open().await?;
    let left = outbox.left(&filter, &FREE).await?;
    let mut counts = Vec::new();
    for status in Status::ALL.into_iter().filter(|status| filter.status.is_none_or(|only| only == *status)) {
        let count = outbox.ask(outbox.rows.count(&Filter { status: Some(status), ..filter.clone() })).await?;
        counts.push((status, count));
    }
    let of =
        |wanted: &[Status]| counts.iter().filter(|(status, _)| wanted.contains(status)).map(|(_, n)| n).sum::<u64>();
    let (free, claimed) = (of(&FREE), of(&[Status::Claimed]));
    if free == 0 {
        all_touched(&left)?;
        if claimed > 0 {
            bail!("only rows match that drainers have, {claimed} of them; those cannot be deleted");
        }
        bail!("no row of {} matches", outbox.name);
    }
    if !args.yes {
        let parts: Vec<String> = counts
            .iter()
            .filter(|(status, count)| *count > 0 && FREE.contains(status))
            .map(|(status, count)| format!("{count} {status}"))
            .collect();
        let mut what = format!("{} of {} ({})", rows(free), outbox.name, parts.join(", "));
        if of(&[Status::Pending, Status::Error]) > 0 {
            what += ", of which the unsent are then never published";
        }
        if !std::io::stdin().is_terminal() {
            bail!("this would delete {what}; --yes does it");
        }
        if !agreed(&format!("Delete {what}? [y/N] "))? {
            bail!("nothing is deleted");
        }
    }
    let dropped = outbox.ask(outbox.rows.drop_rows(&filter)).await?;
    let stay = match claimed {
        0 => String::new(),
        1 => "; 1 stays, which a drainer has".into(),
        more => format!("; {more} stay, which drainers have"),
    };
    outbox.done(&json!({ "dropped": dropped, "claimed": claimed }), &format!("{} deleted{stay}", are(dropped)))?;
    all_touched(&left)
}

/// Asks the person at the terminal.
fn agreed(question: &str) -> anyhow::Result<bool> {
    let mut err = std::io::stderr().lock();
    err.write_all(question.as_bytes())?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Rows that were named and are as they were make a failure, so that a script notices.
fn all_touched(left: &[String]) -> anyhow::Result<()> {
    if left.is_empty() { Ok(()) } else { bail!("{}", left.join("; ")) }
}

async fn stats(args: Stats) -> anyhow::Result<()> {
    let outbox = args.location.open().await?;
    let stats = outbox.ask(outbox.rows.stats()).await?;
    if outbox.json {
        let mut out = Vec::new();
        json_line(&mut out, &Named { name: &outbox.name, stats })?;
        return print(&out);
    }
    let part = |count: u64, what: &str| if count > 0 { format!(", {count} of them {what}") } else { String::new() };
    let age = |ms| humantime::format_duration(Duration::from_millis(ms)).to_string();
    let mut out = Vec::new();
    writeln!(out, "{} at {}", outbox.name, outbox.url)?;
    let oldest = stats.oldest_pending_ms.map(|ms| format!("; the oldest is {} old", age(ms))).unwrap_or_default();
    writeln!(out, "pending  {}{}{oldest}", stats.pending, part(stats.waiting, "to be tried again"))?;
    writeln!(out, "claimed  {}{}", stats.claimed, part(stats.stuck, "by a drainer that is gone"))?;
    writeln!(out, "sent     {}", stats.sent)?;
    let parked = if stats.error > 0 { ", parked: `prom outbox list --status error` says why" } else { "" };
    writeln!(out, "error    {}{parked}", stats.error)?;
    writeln!(out, "lag      {}", age(stats.lag_ms))?;
    print(&out)
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
    #[serde(flatten)]
    stats: prom_outbox::Stats,
}

/// An outbox that is there.
struct Outbox {
    rows: MongoOutbox,
    name: String,
    /// Without its password.
    url: String,
    timeout: Duration,
    json: bool,
}

impl Location {
    async fn open(self) -> anyhow::Result<Outbox> {
        let Some(url) = secret::mongo_url(self.mongo_url)? else {
            bail!("MONGO_URL is not set; it, or --mongo-url, says in which MongoDB the outbox is");
        };
        let names = settings::outboxes(&self.outbox)?;
        let [name] = &names[..] else {
            bail!("PROM_OUTBOX names {} outboxes; --outbox says which one is meant", names.len());
        };
        let rows = open_outbox(&url, name).await?;
        let (name, url) = (name.to_string(), mongo::redact(&url));
        Ok(Outbox { rows, name, url, timeout: self.timeout, json: self.json })
    }
}

impl Narrow {
    fn filter(self) -> Filter {
        Filter { ids: None, status: self.status, topic: self.topic, key: self.key }
    }
}

impl Which {
    /// Nothing is changed by leaving something out.
    fn filter(self) -> anyhow::Result<Filter> {
        let ids = (!self.ids.is_empty()).then_some(self.ids);
        let filter = Filter { ids, ..self.narrow.filter() };
        match (filter == Filter::default(), self.all) {
            (true, false) => bail!("which rows? Name ids, --status, --topic or --key; or --all for every row"),
            (false, true) => bail!("--all is every row; it goes without ids, --status, --topic and --key"),
            _ => Ok(filter),
        }
    }
}

impl Outbox {
    /// Waits for an answer, but not for ever.
    async fn ask<T>(&self, asked: impl Future<Output = Result<T, StoreError>>) -> anyhow::Result<T> {
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(answer) => answer.with_context(|| format!("{} at {}", self.name, self.url)),
            Err(_) => bail!(
                "{} at {} has not answered within {} (--timeout); it may still do what it was asked to",
                self.name,
                self.url,
                humantime::format_duration(self.timeout)
            ),
        }
    }

    async fn list(&self, filter: &Filter, limit: usize) -> anyhow::Result<Vec<Row>> {
        self.ask(self.rows.list(filter, limit)).await
    }

    /// Why rows that were named by their ids will be left as they are, a sentence each.
    async fn left(&self, filter: &Filter, touched: &[Status]) -> anyhow::Result<Vec<String>> {
        let Some(ids) = &filter.ids else { return Ok(Vec::new()) };
        let named = Filter { ids: Some(ids.clone()), ..Filter::default() };
        let rows = self.list(&named, MOST_ROWS as usize).await?;
        let why = |id: &String| {
            let mut of_id = rows.iter().filter(|row| row.id == *id).peekable();
            let Some(first) = of_id.peek() else { return Some(format!("there is no row {id} in {}", self.name)) };
            let Row { status, .. } = first;
            match of_id.clone().find(|row| filter.matches(row)) {
                None => Some(format!("row {id} is not what --status, --topic and --key say")),
                Some(_) if of_id.any(|row| touched.contains(&row.status)) => None,
                Some(_) => Some(format!("row {id} is {status}, so it is left as it is")),
            }
        };
        Ok(ids.iter().filter_map(why).collect())
    }

    /// Says what was done.
    fn done(&self, json: &serde_json::Value, text: &str) -> anyhow::Result<()> {
        let line = if self.json { json.to_string() } else { text.to_owned() };
        print(format!("{line}\n").as_bytes())
    }
}

fn rows(count: u64) -> String {
    if count == 1 { "1 row".into() } else { format!("{count} rows") }
}

fn are(count: u64) -> String {
    if count == 1 { "1 row is".into() } else { format!("{count} rows are") }
}

/// A time, in UTC; the number itself where no calendar goes.
fn time(ms: u64) -> String {
    /// The last millisecond of the year 9999.
    const LAST: u64 = 253_402_300_799_999;
    match UNIX_EPOCH.checked_add(Duration::from_millis(ms)) {
        Some(time) if ms <= LAST => humantime::format_rfc3339_millis(time).to_string(),
        _ => ms.to_string(),
    }
}

fn json_line(out: &mut Vec<u8>, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.push(b'\n');
    Ok(())
}

fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text)?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_are_none_are_shown_as_numbers() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        assert_eq!(time(253_402_300_800_000), "253402300800000");
        assert_eq!(time(u64::MAX), u64::MAX.to_string());
    }
}
