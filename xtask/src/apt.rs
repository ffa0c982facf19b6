//! Packages of Debian and Ubuntu.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::step::Log;
use crate::workspace::output;

const PROGRAM: &str = "/usr/bin/apt-get";

/// Installs a package, if this is such a system and we are root; otherwise tells how, if it is one.
pub(crate) fn install(log: &mut Log, package: &str) -> Result<Answer> {
    if !Path::new(PROGRAM).exists() {
        return Ok(Answer::NotHere);
    }
    if output(Command::new("id").arg("-u")).is_none_or(|id| id != "0") {
        return Ok(Answer::ByHand(format!("sudo sh -c '{}'", by_hand(package))));
    }
    log.run(&mut apt(&["update"]))?;
    log.run(&mut apt(&["install", "-y", package]))?;
    Ok(Answer::Installed)
}

/// What became of an installation.
pub(crate) enum Answer {
    Installed,
    /// The command that a person with the right to has to run.
    ByHand(String),
    /// There is no apt-get.
    NotHere,
}

/// The commands that root would type.
pub(crate) fn by_hand(package: &str) -> String {
    format!("apt-get update && apt-get install -y {package}")
}

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    command
}
