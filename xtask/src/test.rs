//! Runs every test there is: Rust, the demo page, the SDK against a real hub, and a real browser against both.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::step::{Log, Outcome, Progress, format_time};
use crate::workspace::{Workspace, cargo, npm, on_path, output};
use crate::{apt, build, mongod, sdk, setup};

const CHROMIUM_NAMES: [&str; 5] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/// Modules of the hub's tests that know nothing of its store.
const ON_MONGODB: [&str; 3] = ["wire::", "original_client::", "http::"];

/// One that is small, to be built along with the programs. Where there is a test, cargo gives all crates the features
/// that all tests together ask for. So both builds are one; without it, hundreds of crates would be compiled twice.
const A_TEST: &str = "random";

/// Tests that are run, and reported, together. In the order they are run: quick to fail first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Rust,
    /// The hub's tests over the wire once more, on MongoDB.
    Mongodb,
    Demo,
    Sdk,
    /// The packed package as its users take it in: bundlers, compilers, pages. The quick ones.
    Packaging,
    E2e,
}

impl Group {
    const ALL: [Self; 6] = [Self::Rust, Self::Mongodb, Self::Demo, Self::Sdk, Self::Packaging, Self::E2e];

    /// Those named, in their own order; all when none is named.
    pub(crate) fn choose(names: &[String]) -> Result<Vec<Self>> {
        if let Some(unknown) = names.iter().find(|name| !Self::ALL.iter().any(|group| group.name() == name.as_str())) {
            bail!("there is no test group `{unknown}`; there are: rust, mongodb, demo, sdk, packaging, e2e");
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
            Self::Packaging => "packaging",
            Self::E2e => "e2e",
        }
    }

    fn needs(self) -> Needs {
        match self {
            Self::Rust | Self::Mongodb => Needs { rust_tests: true, mongod: true, ..Needs::default() },
            // Its tests import what knows neither the SDK nor a hub.
            Self::Demo => Needs { packages: true, ..Needs::default() },
            Self::Sdk => Needs { sdk: true, hub: true, ..Needs::default() },
            Self::Packaging => Needs { sdk: true, hub: true, chromium: true, ..Needs::default() },
            Self::E2e => Needs { page: true, hub: true, mongod: true, chromium: true, ..Needs::default() },
        }
    }

    fn command(self, ws: &Workspace, chromium: &str, mongod: &Path) -> Command {
        let mut command = match self {
            Self::Rust => cargo(&["test", "--workspace", "--no-fail-fast", "--", "--quiet"]),
            // Of the whole workspace, so that nothing is built a second time with other features.
            Self::Mongodb => {
                let mut command = cargo(&["test", "--workspace", "--test", "hub", "--", "--quiet"]);
                command.args(ON_MONGODB);
                command.env("PROM_TEST_STORE", "mongodb");
                command
            }
            Self::Demo => npm(&["test", "-w", "web-demo"]),
            Self::Sdk => npm(&["test", "-w", "sdk-wasm"]),
            Self::Packaging => npm(&["run", "packaging", "-w", "sdk-wasm", "--", "--quick"]),
            Self::E2e => npm(&["test", "-w", "e2e"]),
        };
        let needs = self.needs();
        if needs.rust_tests && std::env::var_os("RUST_TEST_THREADS").is_none() {
            // Many of these tests mostly wait: for an election, for a lease to run out, for a process to start.
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            command.env("RUST_TEST_THREADS", (2 * cores).to_string());
        }
        if needs.hub {
            command.env("PROM_BIN", ws.program("debug", "prom"));
            command.env("PROM_MONGOD_BIN", ws.program("debug", "prom-mongod"));
            command.env("PROM_CONFORMANCE_BIN", ws.program("debug", "prom-conformance"));
        }
        if needs.chromium {
            command.env("CHROMIUM", chromium);
        }
        if needs.mongod {
            command.env("MONGOD", mongod);
        }
        command
    }
}

/// What must be there before a group is run, or several.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Needs {
    packages: bool,
    /// With the npm packages.
    sdk: bool,
    /// With the SDK.
    page: bool,
    /// With the hub's program, as the tests of its commands run it.
    rust_tests: bool,
    /// The hub's program.
    hub: bool,
    mongod: bool,
    chromium: bool,
}

impl Needs {
    fn of(groups: &[Group]) -> Self {
        groups.iter().map(|group| group.needs()).fold(Self::default(), |all, one| Self {
            packages: all.packages || one.packages,
            sdk: all.sdk || one.sdk,
            page: all.page || one.page,
            rust_tests: all.rust_tests || one.rust_tests,
            hub: all.hub || one.hub,
            mongod: all.mongod || one.mongod,
            chromium: all.chromium || one.chromium,
        })
    }

    fn steps(self) -> usize {
        let web = match self {
            Self { page: true, .. } => build::PAGE_STEPS,
            Self { sdk: true, .. } => sdk::STEPS,
            Self { packages: true, .. } => setup::STEPS,
            _ => 0,
        };
        let mongod = if self.mongod { mongod::STEPS } else { 0 };
        web + mongod + usize::from(self.chromium) + usize::from(self.rust_tests || self.hub)
    }
}

/// How many steps a run of these groups has.
pub(crate) fn steps(groups: &[Group]) -> usize {
    Needs::of(groups).steps() + groups.len()
}

pub(crate) fn run(ws: &Workspace, progress: &mut Progress, groups: &[Group]) -> Result<()> {
    let needs = Needs::of(groups);
    match needs {
        Needs { page: true, .. } => build::page(ws, progress)?,
        Needs { sdk: true, .. } => sdk::run(ws, progress)?,
        Needs { packages: true, .. } => setup::run(ws, progress)?,
        _ => {}
    }
    let mongod = if needs.mongod { mongod::run(ws, progress)? } else { PathBuf::new() };
    let mut chromium = String::new();
    if needs.chromium {
        progress.step("Chromium", |log| {
            chromium = find_or_install_chromium(log)?;
            Ok(Outcome::Note(chromium.clone()))
        })?;
    }
    if needs.rust_tests || needs.hub {
        build::page_folder(ws)?;
        let name = if needs.rust_tests { "Rust tests (build)" } else { "Hub (debug)" };
        progress.step(name, |log| {
            if needs.rust_tests {
                log.run(&mut cargo(&["test", "--workspace", "--no-run"]))?;
            }
            if needs.hub {
                let programs = ["--bin", "prom", "--bin", "prom-mongod", "--bin", "prom-conformance"];
                log.run(cargo(&["build", "--workspace", "--test", A_TEST]).args(programs))?;
            }
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
        assert_eq!(choose(&[]).unwrap(), ["rust", "mongodb", "demo", "sdk", "packaging", "e2e"]);
    }

    #[test]
    fn runs_the_groups_named_in_their_own_order() {
        assert_eq!(choose(&["e2e", "rust"]).unwrap(), ["rust", "e2e"]);
    }

    #[test]
    fn a_group_needs_what_it_runs_and_no_more() {
        assert_eq!(Needs::of(&[Group::Demo]), Needs { packages: true, ..Needs::default() });
        let rust = Needs::of(&[Group::Rust, Group::Mongodb]);
        assert!(rust.rust_tests && !rust.packages && !rust.sdk && !rust.page && !rust.chromium, "{rust:?}");
        let sdk = Needs::of(&[Group::Sdk]);
        assert!(sdk.sdk && sdk.hub && !sdk.page && !sdk.rust_tests && !sdk.mongod, "{sdk:?}");
        let all = Needs::of(&Group::ALL);
        assert!(all.page && all.rust_tests && all.hub && all.mongod && all.chromium, "{all:?}");
    }

    #[test]
    fn counts_the_steps_it_takes() {
        assert_eq!(steps(&[Group::Demo]), setup::STEPS + 1);
        assert_eq!(steps(&[Group::Rust, Group::Mongodb]), mongod::STEPS + 1 + 2);
        assert_eq!(steps(&Group::ALL), build::PAGE_STEPS + mongod::STEPS + 2 + Group::ALL.len());
    }

    #[test]
    fn refuses_a_group_it_does_not_know() {
        let error = choose(&["unit"]).unwrap_err().to_string();
        assert!(error.contains("`unit`"), "{error}");
    }
}
