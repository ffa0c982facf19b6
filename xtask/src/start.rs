//! Runs the hub as a developer wants it: built from what is there, then `prom dev`.

use std::process::Command;

use anyhow::Result;

use crate::step::Progress;
use crate::workspace::Workspace;
use crate::{build, mongod};

/// What `npm start` was called with.
pub(crate) struct Start {
    /// The hub that is shipped and measured, instead of the one that is built soonest.
    release: bool,
    /// All else is the hub's.
    args: Vec<String>,
}

impl Start {
    pub(crate) fn new(args: &[String]) -> Self {
        let (ours, args): (Vec<_>, _) = args.iter().cloned().partition(|arg| arg == "--release");
        Self { release: !ours.is_empty(), args }
    }

    /// How many steps there are before the hub runs.
    pub(crate) fn steps(&self) -> usize {
        build::STEPS + if self.wants_mongod() { mongod::STEPS } else { 0 }
    }

    /// Only then is one looked for, or fetched: the hub's own store needs nothing.
    fn wants_mongod(&self) -> bool {
        self.args.iter().any(|arg| arg == "--mongo")
    }

    /// Whether the hub will speak to a MongoDB: the driver is a third of what there is to compile, and few who try the
    /// hub have one. All that is shipped has it.
    fn wants_driver(&self, url: bool) -> bool {
        // Also `--mongo-url`.
        url || self.args.iter().any(|arg| arg.starts_with("--mongo"))
    }

    pub(crate) fn run(&self, ws: &Workspace, progress: &mut Progress) -> Result<()> {
        let folder = if self.release { "release" } else { "try" };
        let mut hub = Command::new(ws.program(folder, "prom"));
        hub.arg("dev").args(&self.args);
        if self.release {
            build::run(ws, progress)?;
            self.mongod(ws, progress, &mut hub)?;
        } else {
            // It is what takes longest, and needs nothing of what the other steps make.
            let mut build = build::hub(ws, "try")?;
            if !self.wants_driver(std::env::var_os("MONGO_URL").is_some()) {
                build.arg("--no-default-features");
            }
            let building = progress.begin("Hub", &mut build)?;
            build::page(ws, progress)?;
            self.mongod(ws, progress, &mut hub)?;
            progress.finish(building)?;
        }
        become_hub(&mut hub)
    }

    fn mongod(&self, ws: &Workspace, progress: &mut Progress, hub: &mut Command) -> Result<()> {
        if self.wants_mongod() {
            hub.env("MONGOD", mongod::run(ws, progress)?);
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn start(args: &[&str]) -> Start {
        Start::new(&args.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn keeps_its_own_flag_from_the_hub() {
        let start = start(&["--port", "9000", "--release"]);
        assert!(start.release);
        assert_eq!(start.args, ["--port", "9000"]);
    }

    #[test]
    fn looks_for_mongodb_only_when_it_is_asked_for() {
        assert!(start(&["--mongo"]).wants_mongod());
        assert!(!start(&["--port", "9000"]).wants_mongod());
        assert!(start(&["--mongo"]).wants_driver(false));
        assert!(start(&["--mongo-url=mongodb://db"]).wants_driver(false));
        assert!(start(&[]).wants_driver(true));
        assert!(!start(&["--port", "9000"]).wants_driver(false));
    }
}
