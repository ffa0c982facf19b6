//! Where things are, and how the tools that build them are called.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The folders of one checkout.
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    pub(crate) fn locate() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask stands in no workspace")?.to_owned();
        Ok(Self { target: target_folder().unwrap_or_else(|| root.join("target")), root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// What xtask itself keeps: logs, stamps, intermediate files.
    pub(crate) fn state(&self) -> PathBuf {
        self.target.join("xtask")
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// A program of this workspace; `folder` is its profile's in the target folder: `debug`, `try` or `release`.
    pub(crate) fn program(&self, folder: &str, name: &str) -> PathBuf {
        self.target.join(folder).join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
    }

    /// A tool that an npm package brought, such as `tsc`.
    pub(crate) fn npm_tool(&self, name: &str) -> Command {
        Command::new(self.path("node_modules/.bin").join(script(name)))
    }
}

/// The folder this very program was built into: right also with `CARGO_TARGET_DIR` or `build.target-dir` set.
fn target_folder() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).map(Path::to_owned)
}

pub(crate) fn cargo(args: &[&str]) -> Command {
    // Set by the `cargo run` that started this program: the same toolchain for all steps.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    // Left in, these belong to xtask, not to what is built or run next.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

pub(crate) fn npm(args: &[&str]) -> Command {
    let mut command = Command::new(script("npm"));
    command
        .args(args)
        // The browser under test is the system's; a package that would fetch its own must not.
        .env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1")
        .env("PUPPETEER_SKIP_DOWNLOAD", "1")
        .env("npm_config_update_notifier", "false");
    command
}

/// The full path of the first file on PATH that has this name, or of this file if the name is absolute.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    // Joining an absolute path gives that path.
    std::env::split_paths(&search).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The standard output of a command that succeeded.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// npm and the tools it installs are scripts, which Windows finds only by their full name.
fn script(name: &str) -> String {
    if cfg!(windows) { format!("{name}.cmd") } else { name.to_owned() }
}
