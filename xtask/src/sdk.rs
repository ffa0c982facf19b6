//! Builds the npm package `@prom-hub/sdk` into `sdk-wasm/dist`.
//!
//! ```text
//! sdk-wasm/src ── cargo ──> prom_sdk_wasm.wasm ── bindgen ──> prom_sdk.js, .d.ts, _bg.wasm ── wasm-opt ──> dist
//! sdk-wasm/face ── tsc ──> index.js, slim.js, node.js, … and their .d.ts ──────────────────────────────> dist
//! dist ── bundle.mjs (esbuild) ──> one file with the module inside, and what `require` needs ──────────> dist/{single,cjs}
//! ```

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::setup::{self, WASM_TARGET};
use crate::stamp::{Inputs, Stamp};
use crate::step::{Log, Outcome, Progress};
use crate::workspace::{Workspace, cargo};

/// With the preparations they need.
pub(crate) const STEPS: usize = setup::STEPS + 5;
pub(crate) const DIST: &str = "sdk-wasm/dist";

/// What a page downloads of the default entry before its first event, minified as its bundler does and gzipped. A page on a slow phone link (1.6 Mbit/s) has this in half
/// a second. Raise it only with a reason in the commit.
const SIZE_LIMIT: usize = 93_500;

const OUT_NAME: &str = "prom_sdk";
const MODULE: &str = "prom_sdk_bg.wasm";
/// Files that the bindings step owns; all others in the folder are the face's.
const BINDINGS: [&str; 4] = ["prom_sdk.js", "prom_sdk.d.ts", MODULE, "prom_sdk_bg.wasm.d.ts"];
/// In `dist`, so that moving files out of it is a rename; never published half-made.
const STAGING: &str = ".new";
/// The file that `bundle.mjs` makes beside the others, and of the folders it makes the files that are made last.
const BUNDLES: [&str; 3] = ["module.js", "single/inline.js", "cjs/package.json"];
/// Among xtask's own files: the scripts of the default entry as a page loads them.
const MEASURED: &str = "sdk-default.min.js";

/// The features are those that rustc turns on for the target; every browser has had them since 2023.
const WASM_OPT: [&str; 9] = [
    "-Oz",
    // What is inlined compresses worse than a call: 4 of 85 kB.
    "--always-inline-max-function-size=0",
    "--one-caller-inline-max-function-size=20",
    "--enable-bulk-memory",
    "--enable-nontrapping-float-to-int",
    "--enable-sign-ext",
    "--enable-mutable-globals",
    "--enable-reference-types",
    "--enable-multivalue",
];

pub(crate) fn run(ws: &Workspace, progress: &mut Progress) -> Result<()> {
    setup::tools(progress)?;
    // They come over the network, and the module needs none of them.
    let packages = setup::Packages::begin(ws, progress)?;
    progress.step("SDK module (wasm)", |log| {
        let args = ["build", "-p", "prom-sdk-wasm", "--lib", "--target", WASM_TARGET, "--profile", "wasm"];
        log.run(&mut cargo(&args))?;
        Ok(Outcome::Done)
    })?;
    packages.finish(ws, progress)?;
    progress.step("SDK bindings", |log| bindings(ws, log))?;
    progress.step("SDK face (TypeScript)", |log| face(ws, log))?;
    progress.step("SDK bundles", |log| bundles(ws, log))?;
    progress.step("SDK size", |_| check_size(&ws.path(DIST).join(MODULE), &ws.state().join(MEASURED)))
}

fn bindings(ws: &Workspace, log: &mut Log) -> Result<Outcome> {
    let module = ws.target().join(WASM_TARGET).join("wasm/prom_sdk_wasm.wasm");
    let dist = ws.path(DIST);
    // The bindings generator's version needs no mention: the module carries it and would not be the same.
    let inputs = Inputs::new(ws.root())
        .file(&module)?
        .value(&WASM_OPT.join(" "))
        .file(&ws.path("node_modules/binaryen/package.json"))?;
    let stamp = Stamp::new(&ws.state(), "bindings", &inputs);
    if stamp.is_fresh(&BINDINGS.map(|name| dist.join(name))) {
        return Ok(Outcome::UpToDate);
    }

    stamp.clear()?;
    let staging = dist.join(STAGING);
    remove(&staging)?;
    let mut generator = cargo(&["run", "--package", "xtask-bindings", "--"]);
    log.run(generator.arg(&module).arg(OUT_NAME).arg(&staging))?;
    let optimised = staging.join("optimised.wasm");
    log.run(ws.npm_tool("wasm-opt").args(WASM_OPT).arg(staging.join(MODULE)).arg("-o").arg(&optimised))?;
    fs::rename(&optimised, staging.join(MODULE))?;

    for entry in list(&staging)? {
        let name = entry.file_name().unwrap_or_default();
        // Inline JavaScript (`snippets/`) would have to be packed and counted as well: a decision, not an accident.
        if !BINDINGS.iter().any(|known| name == *known) {
            bail!("the bindings generator made {}, which the SDK's package knows nothing of", name.display());
        }
        fs::rename(&entry, dist.join(name)).with_context(|| format!("cannot replace {}", name.display()))?;
    }
    remove(&staging)?;
    stamp.save()?;
    Ok(Outcome::Done)
}

fn face(ws: &Workspace, log: &mut Log) -> Result<Outcome> {
    let dist = ws.path(DIST);
    let inputs = Inputs::new(ws.root())
        .folder(&ws.path("sdk-wasm/face"))?
        .file(&ws.path("sdk-wasm/tsconfig.json"))?
        .file(&ws.path("sdk-wasm/package.json"))?
        .file(&dist.join("prom_sdk.d.ts"))?
        .file(&ws.path("package-lock.json"))?;
    let stamp = Stamp::new(&ws.state(), "face", &inputs);
    if stamp.is_fresh(&[dist.join("index.js"), dist.join("index.d.ts")]) {
        return Ok(Outcome::UpToDate);
    }

    stamp.clear()?;
    // What an older source made must be neither packed nor counted.
    for entry in list(&dist)? {
        if !BINDINGS.iter().any(|name| entry.ends_with(name)) {
            remove(&entry)?;
        }
    }
    log.run(ws.npm_tool("tsc").args(["-p", "sdk-wasm/tsconfig.json"]))?;
    stamp.save()?;
    Ok(Outcome::Done)
}

fn bundles(ws: &Workspace, log: &mut Log) -> Result<Outcome> {
    let dist = ws.path(DIST);
    let script = ws.path("sdk-wasm/bundle.mjs");
    let measured = ws.state().join(MEASURED);
    let mut inputs = Inputs::new(ws.root()).file(&script)?.file(&ws.path("sdk-wasm/utf8.mjs"))?;
    inputs = inputs.file(&ws.path("package-lock.json"))?;
    // Only what the other steps made: of its own, all but one file is in folders.
    for path in list(&dist)?.iter().filter(|path| path.is_file() && !path.ends_with(BUNDLES[0])) {
        inputs = inputs.file(path)?;
    }
    let stamp = Stamp::new(&ws.state(), "bundles", &inputs);
    let made = BUNDLES.map(|name| dist.join(name));
    if stamp.is_fresh(&made) && measured.is_file() {
        return Ok(Outcome::UpToDate);
    }

    stamp.clear()?;
    log.run(Command::new("node").arg(&script).arg(&measured))?;
    stamp.save()?;
    Ok(Outcome::Done)
}

fn check_size(module: &Path, scripts: &Path) -> Result<Outcome> {
    let (module, scripts) = (gzipped(module)?, gzipped(scripts)?);
    let total = module + scripts;
    let text = format!(
        "{} kB gzipped (limit {} kB): module {}, scripts {}",
        kilobytes(total),
        kilobytes(SIZE_LIMIT),
        kilobytes(module),
        kilobytes(scripts)
    );
    if total > SIZE_LIMIT {
        bail!("the SDK is too large, {text}; make it smaller, or raise SIZE_LIMIT in xtask/src/sdk.rs with a reason");
    }
    Ok(Outcome::Note(text))
}

fn gzipped(path: &Path) -> Result<usize> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&bytes)?;
    Ok(encoder.finish()?.len())
}

fn kilobytes(bytes: usize) -> String {
    format!("{}.{}", bytes / 1000, bytes % 1000 / 100)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// A file or a whole folder; one that is not there is fine.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_sizes_in_kilobytes() {
        assert_eq!(kilobytes(61_249), "61.2");
        assert_eq!(kilobytes(91_000), "91.0");
    }
}
