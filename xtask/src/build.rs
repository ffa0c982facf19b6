//! Builds all there is to run: the SDK, the demo page, and the hub, which carries the page inside.

use anyhow::Result;

use crate::stamp::{Inputs, Stamp};
use crate::step::{Log, Outcome, Progress};
use crate::workspace::{Workspace, cargo, npm};
use crate::{sdk, setup};

pub(crate) const STEPS: usize = PAGE_STEPS + 1;
/// As far as the demo page: what clippy, rustdoc and tsc need to find in place.
pub(crate) const PAGE_STEPS: usize = setup::STEPS + sdk::STEPS + 1;

pub(crate) fn run(ws: &Workspace, progress: &mut Progress) -> Result<()> {
    page(ws, progress)?;
    progress.step("Hub (release)", |log| {
        log.run(&mut cargo(&["build", "--release", "-p", "prom-cli", "--bin", "prom"]))?;
        Ok(Outcome::Done)
    })
}

pub(crate) fn page(ws: &Workspace, progress: &mut Progress) -> Result<()> {
    setup::run(ws, progress)?;
    sdk::run(ws, progress)?;
    progress.step("Demo page", |log| demo(ws, log))
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
