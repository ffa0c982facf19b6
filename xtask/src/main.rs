//! Builds, tests and runs the whole project; what `npm start`, `npm test` and their kin call.
//!
//! ```text
//! main ── setup   the machine: Node, the wasm target, npm packages
//!      ├─ build   sdk (module, bindings, face, size), demo page, the `prom` binary as it is shipped
//!      ├─ start   sdk and page beside a hub that is built soon, MongoDB if asked for, then becomes `prom dev`
//!      ├─ test    what the groups of tests need and no more, then every group
//!      ├─ fuzz    one fuzz target or all, for a while, on nightly
//!      └─ lint    formatting, circles and long files, clippy, docs, dependencies, types
//!
//! step   runs one of the above's steps, alone or beside others, shows its progress, keeps its log
//! stamp  knows whether what a step reads has changed since it last succeeded
//! ```

mod apt;
mod build;
mod circles;
mod fuzz;
mod lint;
mod mongod;
mod sdk;
mod setup;
mod stamp;
mod start;
mod step;
mod test;
mod threats;
mod workspace;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::fuzz::Fuzz;
use crate::start::Start;
use crate::step::Progress;
use crate::workspace::Workspace;

const HELP: &str = "\
Usage: npm start [-- FLAGS]     build what has changed, then run the hub: prom dev FLAGS
                                (--mongo: on a MongoDB server of its own, which is fetched if there is none;
                                --release: the hub that `npm run build` makes, for measuring)
       npm test [-- GROUPS]     build, then run the tests: all, or some of rust mongodb demo sdk packaging e2e
       npm run build            the SDK's module, the demo page and target/release/prom
       npm run lint             formatting, circles and long files, clippy, docs, dependencies, types
       npm run fuzz [-- TARGET] [SECONDS]  look for inputs that break a reader, 60 s each
                                (needs nightly and cargo-fuzz; says how to get them)
       npm run setup            prepare this machine: wasm target and npm packages
       npm run setup -- mongod  that, and a MongoDB server for the tests

The same without npm: cargo run --package xtask -- start|test|build|lint|fuzz|setup";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let (verb, rest) = match args.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("help", args),
    };
    if matches!(verb, "help" | "--help" | "-h") {
        println!("{HELP}");
        return Ok(());
    }
    let with_mongod = verb == "setup" && rest == ["mongod"];
    if !matches!(verb, "start" | "test" | "fuzz") && !rest.is_empty() && !with_mongod {
        bail!("`{verb}` takes no such arguments: {}\n\n{HELP}", rest.join(" "));
    }

    let ws = Workspace::locate()?;
    // Paths in messages and configuration files are relative to the root, wherever one calls from.
    std::env::set_current_dir(ws.root()).with_context(|| format!("cannot enter {}", ws.root().display()))?;

    let progress = |steps| Progress::new(steps, ws.state().join("logs"));
    match verb {
        "setup" if with_mongod => {
            let mut progress = progress(setup::STEPS + mongod::STEPS)?;
            setup::run(&ws, &mut progress)?;
            mongod::run(&ws, &mut progress).map(|_| ())
        }
        "setup" => setup::run(&ws, &mut progress(setup::STEPS)?),
        "build" => build::run(&ws, &mut progress(build::STEPS)?),
        "start" => {
            let start = Start::new(rest);
            start.run(&ws, &mut progress(start.steps())?)
        }
        "test" => {
            let groups = test::Group::choose(rest)?;
            test::run(&ws, &mut progress(test::steps(&groups))?, &groups)
        }
        "fuzz" => {
            let targets = fuzz::targets(ws.root())?;
            Fuzz::new(rest, &targets)?.run(&ws, &targets)
        }
        "lint" => lint::run(&ws, &mut progress(lint::STEPS)?),
        other => bail!("there is no `{other}`\n\n{HELP}"),
    }
}
