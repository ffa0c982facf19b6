//! Builds what there is to run: the SDK, the demo page, and the hub, which shows the page.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::sdk;
use crate::stamp::{Inputs, Stamp};
use crate::step::{Log, Outcome, Progress};
use crate::workspace::{Workspace, cargo, npm};

pub(crate) const STEPS: usize = PAGE_STEPS + 1;
/// As far as the demo page: what clippy, rustdoc and tsc need to find in place.
pub(crate) const PAGE_STEPS: usize = sdk::STEPS + 1;

/// What `npm run build` is for: the hub that is shipped, with the page inside.
pub(crate) fn run(ws: &Workspace, progress: &mut Progress) -> Result<()> {
    page(ws, progress)?;
    progress.step("Hub (release)", |log| {
        log.run(&mut hub(ws, "release")?)?;
        Ok(Outcome::Done)
    })
}

pub(crate) fn page(ws: &Workspace, progress: &mut Progress) -> Result<()> {
    sdk::run(ws, progress)?;
    progress.step("Demo page", |log| demo(ws, log))
}

/// Builds the hub in a profile. That of `release` has the page inside, which must have been built; all others read it
/// when it is asked for.
pub(crate) fn hub(ws: &Workspace, profile: &str) -> Result<Command> {
    page_folder(ws)?;
    Ok(cargo(&["build", "--profile", profile, "-p", "prom-cli", "--bin", "prom"]))
}

/// Where the page goes. The hub does not compile without this folder, whether or not there is a page in it.
pub(crate) fn page_folder(ws: &Workspace) -> Result<PathBuf> {
    let folder = ws.path("web-demo/dist");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

fn demo(ws: &Workspace, log: &mut Log) -> Result<Outcome> {
    let inputs = Inputs::new(ws.root())
        .folder(&ws.path("web-demo"))?
        .folder(&ws.path(sdk::DIST))?
        .file(&ws.path("sdk-wasm/package.json"))?
        .file(&ws.path("package-lock.json"))?;
    let stamp = Stamp::new(&ws.state(), "demo", &inputs);
    if stamp.is_fresh(&[ws.path("web-demo/dist/index.html")]) {
        return Ok(Outcome::UpToDate);
    }
    stamp.clear()?;
    log.run(&mut npm(&["run", "build", "-w", "web-demo"]))?;
    stamp.save()?;
    Ok(Outcome::Done)
}
