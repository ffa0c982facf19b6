//! Runs every test there is: Rust, the demo page, the SDK against a real hub, and a real browser against both.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::step::{Log, Outcome, Progress, format_time};
use crate::workspace::{Workspace, cargo, npm, on_path, output};
use crate::{apt, build, mongod};

const CHROMIUM_NAMES: [&str; 5] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/// Tests of the hub that know nothing of its store.
const ON_MONGODB: [&str; 3] = ["wire", "original_client", "http"];

/// Tests that are run, and reported, together. In the order they are run: quick to fail first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Rust,
    /// The hub's tests over the wire once more, on MongoDB.
    Mongodb,
    Demo,
    Sdk,
    E2e,
}

impl Group {
    const ALL: [Self; 5] = [Self::Rust, Self::Mongodb, Self::Demo, Self::Sdk, Self::E2e];

    /// Those named, in their own order; all when none is named.
    pub(crate) fn choose(names: &[String]) -> Result<Vec<Self>> {
        if let Some(unknown) = names.iter().find(|name| !Self::ALL.iter().any(|group| group.name() == name.as_str())) {
            bail!("there is no test group `{unknown}`; there are: rust, mongodb, demo, sdk, e2e");
        }
        let chosen = |group: &Self| names.is_empty() || names.iter().any(|name| name == group.name());
        Ok(Self::ALL.into_iter().filter(chosen).collect())
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Mongodb => "mongodb",
            Self::Demo => "demo",
            Self::Sdk => "sdk",
            Self::E2e => "e2e",
        }
    }

    fn is_cargo(self) -> bool {
        matches!(self, Self::Rust | Self::Mongodb)
    }

    /// The demo page's own tests know of no hub.
    fn needs_mongod(self) -> bool {
        self != Self::Demo
    }

    fn command(self, ws: &Workspace, chromium: &str, mongod: &Path) -> Command {
        let mut command = match self {
            Self::Rust => cargo(&["test", "--workspace", "--no-fail-fast", "--", "--quiet"]),
            // Of the whole workspace, so that nothing is built a second time with other features.
            Self::Mongodb => {
                let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
                command.args(ON_MONGODB.iter().flat_map(|test| ["--test", test])).args(["--", "--quiet"]);
                command.env("PROM_TEST_STORE", "mongodb");
                command
            }
            Self::Demo => npm(&["test", "-w", "web-demo"]),
            Self::Sdk => npm(&["test", "-w", "sdk-wasm"]),
            Self::E2e => npm(&["test", "-w", "e2e"]),
        };
        if !self.is_cargo() {
            command.env("PROM_BIN", ws.prom());
        }
        if self == Self::E2e {
            command.env("CHROMIUM", chromium);
        }
        if self.needs_mongod() {
            command.env("MONGOD", mongod);
        }
        command
    }
}

/// How many steps a run of these groups has.
pub(crate) fn steps(groups: &[Group]) -> usize {
    let preparations =
        usize::from(groups.iter().any(|group| group.is_cargo())) + usize::from(groups.contains(&Group::E2e));
    let mongod = if needs_mongod(groups) { mongod::STEPS } else { 0 };
    build::STEPS + mongod + preparations + groups.len()
}

fn needs_mongod(groups: &[Group]) -> bool {
    groups.iter().any(|group| group.needs_mongod())
}

pub(crate) fn run(ws: &Workspace, progress: &mut Progress, groups: &[Group]) -> Result<()> {
    build::run(ws, progress)?;
    let mongod = if needs_mongod(groups) { mongod::run(ws, progress)? } else { PathBuf::new() };
    let mut chromium = String::new();
    if groups.contains(&Group::E2e) {
        progress.step("Chromium", |log| {
            chromium = find_or_install_chromium(log)?;
            Ok(Outcome::Note(chromium.clone()))
        })?;
    }
    if groups.iter().any(|group| group.is_cargo()) {
        progress.step("Rust tests (build)", |log| {
            log.run(&mut cargo(&["test", "--workspace", "--no-run"]))?;
            Ok(Outcome::Done)
        })?;
    }

    let mut finished: Vec<(Group, Duration)> = Vec::new();
    for &group in groups {
        let (status, time) =
            progress.streamed(&format!("Tests: {}", group.name()), &mut group.command(ws, &chromium, &mongod))?;
        finished.push((group, time));
        if !status.success() {
            summary(&finished, groups, false);
            let name = group.name();
            bail!("the {name} tests failed; again, only these: npm test -- {name}");
        }
    }
    summary(&finished, groups, true);
    Ok(())
}

fn summary(finished: &[(Group, Duration)], groups: &[Group], passed: bool) {
    println!("\nTests");
    for (index, group) in groups.iter().enumerate() {
        let result = match finished.get(index) {
            Some((_, time)) if passed || index + 1 < finished.len() => format!("passed  {}", format_time(*time)),
            Some((_, time)) => format!("FAILED  {}", format_time(*time)),
            None => "not run".to_owned(),
        };
        println!("  {:<9}{result}", group.name());
    }
}

fn find_or_install_chromium(log: &mut Log) -> Result<String> {
    if let Ok(named) = std::env::var("CHROMIUM") {
        if let Some(path) = runnable(&named) {
            return Ok(path);
        }
        bail!("CHROMIUM is {named}, but `{named} --version` does not run");
    }
    if let Some(found) = find_chromium() {
        return Ok(found);
    }

    match apt::install(log, "chromium")? {
        apt::Answer::Installed => {}
        apt::Answer::ByHand(command) => bail!("{}", needs_chromium(&format!("run `{command}`"))),
        apt::Answer::NotHere if cfg!(target_os = "macos") => {
            bail!("{}", needs_chromium("run `brew install --cask chromium`"))
        }
        apt::Answer::NotHere => bail!("{}", needs_chromium("install your system's `chromium` package")),
    }
    match find_chromium() {
        Some(found) => Ok(found),
        // On Ubuntu the package is a note that Chromium comes as a snap.
        None => bail!(
            "`{}` gave no Chromium that runs here; install Chrome (https://www.google.com/chrome) or \
             `snap install chromium`, or set CHROMIUM to its path",
            apt::by_hand("chromium")
        ),
    }
}

fn needs_chromium(how: &str) -> String {
    format!("the e2e tests need Chromium: {how}, or set CHROMIUM to the path of a Chromium or Chrome")
}

fn find_chromium() -> Option<String> {
    CHROMIUM_NAMES.into_iter().find_map(runnable)
}

/// The full path, which is what the browser's driver wants, of a program that can be run. To be on PATH is not
/// enough: Ubuntu's `chromium-browser` may be a script that only says where to get it.
fn runnable(name: &str) -> Option<String> {
    let path = on_path(name)?;
    output(Command::new(&path).arg("--version"))?;
    path.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(names: &[&str]) -> Result<Vec<&'static str>> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        Ok(Group::choose(&names)?.into_iter().map(Group::name).collect())
    }

    #[test]
    fn runs_all_groups_unless_told() {
        assert_eq!(choose(&[]).unwrap(), ["rust", "mongodb", "demo", "sdk", "e2e"]);
    }

    #[test]
    fn runs_the_groups_named_in_their_own_order() {
        assert_eq!(choose(&["e2e", "rust"]).unwrap(), ["rust", "e2e"]);
    }

    #[test]
    fn refuses_a_group_it_does_not_know() {
        let error = choose(&["unit"]).unwrap_err().to_string();
        assert!(error.contains("`unit`"), "{error}");
    }
}
