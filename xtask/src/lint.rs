//! Checks everything that needs no running: formatting, clippy, docs, dependencies, types.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::setup::WASM_TARGET;
use crate::step::{Log, Outcome, Progress};
use crate::workspace::{Workspace, cargo, npm, output};
use crate::{build, circles, threats};

/// One check: its name, and what runs it.
type Check = (&'static str, fn(&mut Log) -> Result<Outcome>);

const CHECKS: [Check; 12] = [
    ("Format", |log| done(log, &mut cargo(&["fmt", "--all", "--check", "--", "--color", "never"]))),
    ("Circles and long files", |_| {
        // The root is where all checks are run.
        circles::check(Path::new("."))?;
        Ok(Outcome::Done)
    }),
    ("Threats and their tests", |_| {
        threats::check(Path::new("."))?;
        Ok(Outcome::Done)
    }),
    ("Clippy", |log| done(log, &mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))),
    ("Clippy (wasm)", |log| {
        let crates = ["-p", "prom-protocol", "-p", "prom-sdk-core", "-p", "prom-sdk-wasm"];
        done(log, cargo(&["clippy"]).args(crates).args(["--target", WASM_TARGET, "--", "-D", "warnings"]))
    }),
    ("Docs", |log| done(log, cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))),
    ("cargo-deny", install_deny),
    ("Licences and sources", |log| done(log, &mut cargo(&["deny", "check", "bans", "licenses", "sources"]))),
    ("Advisories", check_advisories),
    ("Types: sdk", |log| done(log, &mut npm(&["run", "typecheck", "-w", "sdk-wasm"]))),
    ("Types: demo", |log| done(log, &mut npm(&["run", "typecheck", "-w", "web-demo"]))),
    ("Types: e2e", |log| done(log, &mut npm(&["run", "typecheck", "-w", "e2e", "--if-present"]))),
];

pub(crate) const STEPS: usize = build::PAGE_STEPS + CHECKS.len();

/// Every check is run, whatever the others say.
pub(crate) fn run(ws: &Workspace, progress: &mut Progress) -> Result<()> {
    // The hub embeds the page, and the page's types are the SDK's: without them the checks would fail for that alone.
    build::page(ws, progress)?;
    let mut failures = Vec::new();
    for (name, check) in CHECKS {
        if let Err(error) = progress.step(name, check) {
            failures.push(format!("\n  {error:#}"));
        }
    }
    if !failures.is_empty() {
        bail!("{} of {} checks failed:{}", failures.len(), CHECKS.len(), failures.concat());
    }
    println!("All {} checks passed", CHECKS.len());
    Ok(())
}

fn done(log: &mut Log, command: &mut Command) -> Result<Outcome> {
    log.run(command)?;
    Ok(Outcome::Done)
}

fn install_deny(log: &mut Log) -> Result<Outcome> {
    if let Some(version) = output(&mut cargo(&["deny", "--version"])) {
        return Ok(Outcome::Note(version));
    }
    log.run(&mut cargo(&["install", "cargo-deny", "--locked"]))
        .context("cargo-deny could not be installed; try `cargo install cargo-deny --locked` by hand")?;
    Ok(Outcome::Note("installed with `cargo install cargo-deny --locked`".to_owned()))
}

/// The advisory database comes from the network, which a build machine may not have: that alone is no failure.
fn check_advisories(log: &mut Log) -> Result<Outcome> {
    let status = log.status(&mut cargo(&["deny", "check", "advisories"]))?;
    if status.success() {
        return Ok(Outcome::Done);
    }
    if log.text().contains("failed to fetch advisory database") {
        return Ok(Outcome::Note("not checked, the advisory database could not be fetched".to_owned()));
    }
    bail!("update what the advisories name, or judge them in deny.toml");
}
