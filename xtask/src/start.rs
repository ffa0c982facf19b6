//! Runs the hub as a developer wants it: built from what is there, then `prom dev`.

use std::process::Command;

use anyhow::Result;

use crate::step::Progress;
use crate::workspace::Workspace;
use crate::{build, mongod};

/// How many steps there are before the hub runs.
pub(crate) fn steps(args: &[String]) -> usize {
    build::STEPS + if wants_mongod(args) { mongod::STEPS } else { 0 }
}

/// Only then is one looked for, or fetched: the hub's own store needs nothing.
fn wants_mongod(args: &[String]) -> bool {
    args.iter().any(|arg| arg == "--mongo")
}

pub(crate) fn run(ws: &Workspace, progress: &mut Progress, args: &[String]) -> Result<()> {
    build::run(ws, progress)?;
    let mut hub = Command::new(ws.prom());
    hub.arg("dev").args(args);
    if wants_mongod(args) {
        hub.env("MONGOD", mongod::run(ws, progress)?);
    }
    become_hub(&mut hub)
}

/// The hub takes this process's place, so that signals meant for `npm start` reach it.
#[cfg(unix)]
fn become_hub(hub: &mut Command) -> Result<()> {
    use std::os::unix::process::CommandExt as _;

    let error = hub.exec();
    Err(anyhow::Error::new(error).context(format!("cannot run {}", hub.get_program().display())))
}

#[cfg(not(unix))]
fn become_hub(hub: &mut Command) -> Result<()> {
    use anyhow::Context as _;

    let status = hub.status().with_context(|| format!("cannot run {}", hub.get_program().display()))?;
    std::process::exit(status.code().unwrap_or(1));
}
