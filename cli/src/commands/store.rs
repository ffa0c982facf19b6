//! `prom store`: what is done with a data folder while no hub uses it.

use std::{
    io::{BufWriter, IsTerminal, Write},
    path::PathBuf,
};

use anyhow::bail;
use bytesize::ByteSize;
use prom_hub::{
    embedded::{
        Options,
        tools::{self, Lost, Problem},
    },
    store::Retention,
};
use prom_protocol::TopicOrPattern;
use serde::Serialize;

use crate::{file, output::escaped};

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  prom store verify --data /var/lib/prom               is everything whole? Changes nothing
  prom store dump --topic 'orders.**' > orders.ndjson  what is in it
  prom store compact --config prom.toml                apply the retention now and give the space back
  prom store compact --drop-damaged                    go on with what is left of a damaged log

No hub may use the folder meanwhile.")]
pub(crate) enum Command {
    /// Read every byte and say what is damaged, what is lost by it, and what to do. Changes nothing.
    Verify(Looking),
    /// Segments, topics, groups and their sizes. Changes nothing.
    Stats(Looking),
    /// Print events as lines of JSON, topic by topic, each in the order of its log. Changes nothing.
    Dump(Dump),
    /// Give back the space of what nobody wants any more.
    Compact(Compact),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Folder {
    /// Folder the events are kept in.
    #[arg(long, env = "PROM_DATA", default_value = "./prom-data")]
    data: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Looking {
    #[command(flatten)]
    folder: Folder,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Dump {
    #[command(flatten)]
    folder: Folder,
    /// Which topics.
    #[arg(long, value_name = "PATTERN", default_value = "**")]
    topic: String,
    /// Only events that stand after this seq in their topic.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after_seq: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Compact {
    #[command(flatten)]
    looking: Looking,
    /// Configuration file, TOML, whose retention is applied first.
    #[arg(long, env = "PROM_CONFIG")]
    config: Option<PathBuf>,
    /// Go on without what is damaged; the damaged files stay beside as *.damaged.
    #[arg(long)]
    drop_damaged: bool,
}

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Verify(args) => verify(&args),
        Command::Stats(args) => stats(&args),
        Command::Dump(args) => dump(&args),
        Command::Compact(args) => compact(&args),
    }
}

fn verify(args: &Looking) -> anyhow::Result<()> {
    let report = tools::verify(&args.folder.data)?;
    let whole = report.is_whole();
    if args.json {
        json(&report)?;
    } else {
        let mut out = Vec::new();
        let bytes = ByteSize(report.bytes);
        writeln!(
            out,
            "format {}: {} segments, {bytes}, {} records, {} of them events",
            report.version, report.segments, report.records, report.events
        )?;
        for problem in &report.problems {
            writeln!(out, "{}", told(problem))?;
            if problem.derived {
                writeln!(out, "  nothing is lost by that: it is made again from the log at the next start")?;
            }
        }
        if let Some(torn) = &report.torn {
            writeln!(out, "{}; the next start cuts it off, and that is no error", told(torn))?;
        }
        if let Some(refused) = &report.refused {
            writeln!(out, "a hub would not start: {refused}")?;
        }
        losses(&mut out, &report.lost)?;
        if !whole {
            let data = args.folder.data.display();
            writeln!(out, "`prom store compact --drop-damaged --data {data}` goes on without it; a backup is better")?;
        } else {
            writeln!(out, "the log is whole")?;
        }
        print(&out)?;
    }
    if !whole {
        bail!("the log in {} is damaged", args.folder.data.display());
    }
    Ok(())
}

fn told(problem: &Problem) -> String {
    let at = problem.at.map(|at| format!(" at byte {at}")).unwrap_or_default();
    let bytes = problem.bytes.map(|bytes| format!(" ({bytes} bytes)")).unwrap_or_default();
    format!("{}{at}{bytes}: {}", problem.file, problem.what)
}

/// Says what is lost, topic by topic.
fn losses(out: &mut impl Write, lost: &[Lost]) -> std::io::Result<()> {
    for lost in lost {
        let ranges: Vec<String> = lost
            .events
            .iter()
            .map(|(first, last)| if first == last { first.to_string() } else { format!("{first} to {last}") })
            .collect();
        if !ranges.is_empty() {
            writeln!(out, "lost of {}: events {}", lost.topic, ranges.join(", "))?;
        }
        if lost.newest > 0 {
            writeln!(out, "lost of {}: the newest event of {} keys", lost.topic, lost.newest)?;
        }
        if let Some(after) = lost.unsure_after {
            writeln!(out, "lost of {}: perhaps events behind {after}; the topic gets a new epoch", lost.topic)?;
        }
    }
    Ok(())
}

fn stats(args: &Looking) -> anyhow::Result<()> {
    let stats = tools::stats(&args.folder.data)?;
    if args.json {
        return json(&stats);
    }
    let mut out = Vec::new();
    writeln!(out, "{} in {} segments", ByteSize(stats.bytes), stats.segments.len())?;
    for segment in &stats.segments {
        writeln!(out, "  {}  {:>10}  {:>3.0}% dead", segment.file, ByteSize(segment.bytes), segment.dead * 100.0)?;
    }
    for topic in &stats.topics {
        writeln!(
            out,
            "{}: {} events, {} to {}, {}, {} keys",
            topic.topic,
            topic.events,
            topic.first,
            topic.last,
            ByteSize(topic.bytes),
            topic.keys
        )?;
        for group in &topic.groups {
            writeln!(out, "  group {}: all settled up to {}, lag {}", group.group, group.floor, group.lag)?;
        }
    }
    print(&out)
}

fn dump(args: &Dump) -> anyhow::Result<()> {
    let topics = TopicOrPattern::new(&args.topic).map_err(|error| anyhow::anyhow!("--topic: {error}"))?;
    let stdout = std::io::stdout();
    // As they are stored, but where people look at them.
    let shown = stdout.is_terminal();
    let mut out = BufWriter::with_capacity(256 * 1024, stdout.lock());
    tools::dump(&args.folder.data, &topics, args.after_seq, |event| {
        if shown {
            out.write_all(escaped(&String::from_utf8_lossy(&event.json)).as_bytes())?;
        } else {
            out.write_all(&event.json)?;
        }
        out.write_all(b"\n")
    })??;
    out.flush()?;
    Ok(())
}

fn compact(args: &Compact) -> anyhow::Result<()> {
    let mut options = Options::default();
    if let Some(path) = &args.config {
        let file::Read { rules, .. } = file::read(path, &mut options, &mut prom_hub::Limits::default())?;
        options.retention = Retention::new(rules).with_own();
    }
    let data = &args.looking.folder.data;
    let done = tools::compact(data, options, args.drop_damaged)?;
    if args.looking.json {
        return json(&done);
    }
    let mut out = Vec::new();
    losses(&mut out, &done.lost)?;
    for kept in &done.kept {
        writeln!(out, "kept beside: {}", data.join(kept).display())?;
    }
    writeln!(out, "{} before, {} now", ByteSize(done.before), ByteSize(done.after))?;
    print(&out)
}

fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    print(&text)
}

fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text)?;
    out.flush()?;
    Ok(())
}
