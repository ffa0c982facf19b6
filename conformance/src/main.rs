//! `prom-conformance`: tests a client of Prom Hub, in whatever language it is written.

use std::{ffi::OsString, process::ExitCode, time::Duration};

use clap::Parser;
use prom_conformance::{Can, Ended, Options, Verdict, all, run};

const EXAMPLES: &str = "Examples:
  prom-conformance -- node sdk-wasm/test/driver.mjs           the SDK for browsers and Node
  prom-conformance -- prom-conformance-rust                   the SDK for Rust
  prom-conformance --only cuts --seed 7 -- python driver.py   scenarios with `cuts` in their name

What a driver is: conformance/README.md";

/// Plays scenarios with a client of Prom Hub: it publishes and consumes through a line that is cut, delayed, chopped up
/// and falls silent, against a real hub in this process.
#[derive(Debug, Parser)]
#[command(name = "prom-conformance", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    /// Name the scenarios, what happens in them, and what they need, and play none.
    #[arg(long)]
    list: bool,

    /// Only scenarios with this in their name; may be given several times.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,

    /// How many scenarios play at once.
    #[arg(long, value_name = "N", default_value_t = 4)]
    jobs: usize,

    /// Seconds that every wait may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,

    /// Runs the same chances again; default: new ones, which are printed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// The command that starts the driver.
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "list")]
    command: Vec<OsString>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.list {
        list();
        return ExitCode::SUCCESS;
    }
    let mut options = Options::new(cli.command);
    options.only = cli.only;
    options.jobs = cli.jobs;
    options.patience = Duration::from_secs(cli.patience);
    options.seed = cli.seed.unwrap_or(options.seed);
    println!("seed {}", options.seed);
    let ended = tokio::select! {
        ended = run(options, tell) => ended,
        // Dropped, it ends the drivers it has started and removes its folders.
        _ = tokio::signal::ctrl_c() => return ExitCode::from(130),
    };
    match ended {
        Ok(ended) => sum_up(&ended),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    for scenario in all() {
        println!("{}\n    {}", scenario.name, scenario.about);
        if !scenario.needs.is_empty() {
            println!("    needs {}", names(scenario.needs));
        }
    }
}

fn tell(Ended { name, verdict, took }: &Ended) {
    match verdict {
        Verdict::Passed => println!("ok       {name} ({:.1} s)", took.as_secs_f32()),
        Verdict::Skipped(missing) => println!("skipped  {name}: the driver cannot {}", names(missing)),
        Verdict::Failed(failure, report) => {
            println!("FAILED   {name} ({:.1} s)\n    {failure}", took.as_secs_f32());
            for line in report {
                println!("    {line}");
            }
        }
    }
}

fn sum_up(ended: &[Ended]) -> ExitCode {
    let failed: Vec<_> = ended.iter().filter(|one| matches!(one.verdict, Verdict::Failed(..))).collect();
    let skipped = ended.iter().filter(|one| matches!(one.verdict, Verdict::Skipped(_))).count();
    let passed = ended.len() - failed.len() - skipped;
    println!("\n{passed} passed, {} failed, {skipped} skipped", failed.len());
    for one in &failed {
        println!("  failed: {}", one.name);
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn names(can: &[Can]) -> String {
    can.iter().map(|can| can.name()).collect::<Vec<_>>().join(", ")
}
