//! Makes a machine with rustup and Node ready: the wasm target and the npm packages.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};

use crate::stamp::{Inputs, Stamp};
use crate::step::{Beside, Log, Outcome, Progress};
use crate::workspace::{Workspace, npm, output};

pub(crate) const STEPS: usize = 2;
pub(crate) const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// What Vite needs, the pickiest of the tools; see `is_supported`.
const NODE_NEEDED: &str = "Node 20.19, 22.12 or newer";

/// What says which packages there are.
const MANIFESTS: [&str; 5] =
    ["package-lock.json", "package.json", "sdk-wasm/package.json", "web-demo/package.json", "e2e/package.json"];

pub(crate) fn run(ws: &Workspace, progress: &mut Progress) -> Result<()> {
    tools(progress)?;
    Packages::begin(ws, progress)?.finish(ws, progress)
}

/// The first of the two steps.
pub(crate) fn tools(progress: &mut Progress) -> Result<()> {
    progress.step("Tools", |log| {
        check_node()?;
        add_wasm_target(log)
    })
}

fn check_node() -> Result<()> {
    let hint = format!("{NODE_NEEDED} is needed: install it from https://nodejs.org");
    let Some(version) = output(Command::new("node").arg("--version")) else {
        bail!("`node` was not found. {hint}");
    };
    if !is_supported(&version) {
        bail!("Node {version} is too old. {hint}");
    }
    Ok(())
}

/// Takes what `node --version` prints, such as `v20.19.1`.
fn is_supported(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    match (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) {
        (20, minor) => minor >= 19,
        (22, minor) => minor >= 12,
        (major, _) => major > 22,
    }
}

fn add_wasm_target(log: &mut Log) -> Result<Outcome> {
    if has_wasm_target() {
        return Ok(Outcome::UpToDate);
    }
    log.run(Command::new("rustup").args(["target", "add", WASM_TARGET])).with_context(|| {
        format!(
            "Rust's {WASM_TARGET} target is missing and could not be added. With rustup (https://rustup.rs): \
             `rustup target add {WASM_TARGET}`. Without it: install your system's package of that target for the \
             Rust of rust-toolchain.toml"
        )
    })?;
    if !has_wasm_target() {
        bail!("rustup added {WASM_TARGET}, but not to the `rustc` on PATH; put ~/.cargo/bin first on PATH");
    }
    Ok(Outcome::Done)
}

/// Asks the compiler, not rustup: right also for a toolchain that a system's package manager brought.
fn has_wasm_target() -> bool {
    output(Command::new("rustc").args(["--print", "target-libdir", "--target", WASM_TARGET]))
        .and_then(|folder| fs::read_dir(folder).ok())
        .is_some_and(|mut files| files.next().is_some())
}

/// The second step: the npm packages, on their way while other steps run.
pub(crate) struct Packages {
    /// None if they are there already.
    install: Option<Beside>,
}

const PACKAGES: &str = "npm packages";

impl Packages {
    pub(crate) fn begin(ws: &Workspace, progress: &Progress) -> Result<Self> {
        let lock = ws.path("package-lock.json");
        let stamp = packages_stamp(ws)?;
        // npm writes this file last: if it is the newest, someone has just installed by hand.
        let installed = modified(&ws.path("node_modules/.package-lock.json"));
        let by_hand = MANIFESTS.iter().all(|manifest| installed >= modified(&ws.path(manifest)));
        if lock.exists() && installed.is_some() && (by_hand || stamp.is_fresh(&[])) {
            return Ok(Self { install: None });
        }
        stamp.clear()?;
        let verb = if lock.exists() { "ci" } else { "install" };
        let install = progress.begin(PACKAGES, &mut npm(&[verb, "--no-audit", "--no-fund"]))?;
        Ok(Self { install: Some(install) })
    }

    /// Waits until they are there.
    pub(crate) fn finish(self, ws: &Workspace, progress: &mut Progress) -> Result<()> {
        let Some(install) = self.install else { return progress.step(PACKAGES, |_| Ok(Outcome::UpToDate)) };
        progress.finish(install).context("if it is not the network, `npm install` may tell more")?;
        // Anew, for `npm install` has just written the lock file.
        packages_stamp(ws)?.save()
    }
}

fn packages_stamp(ws: &Workspace) -> Result<Stamp> {
    let inputs =
        MANIFESTS.iter().try_fold(Inputs::new(ws.root()), |inputs, manifest| inputs.file(&ws.path(manifest)))?;
    Ok(Stamp::new(&ws.state(), "packages", &inputs))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_releases_of_node_that_vite_runs_on() {
        for good in ["v20.19.0", "v20.20.2", "v22.12.0", "v23.0.0", "v26.1.0"] {
            assert!(is_supported(good), "{good}");
        }
        for bad in ["v8.17.0", "v18.20.4", "v20.18.3", "v21.7.3", "v22.11.0", "", "node"] {
            assert!(!is_supported(bad), "{bad}");
        }
    }
}
