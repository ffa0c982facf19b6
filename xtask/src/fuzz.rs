//! Runs the fuzz targets under libFuzzer: needs a nightly compiler and cargo-fuzz, which nothing else here does.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::workspace::{Workspace, output};

/// How long each target runs where nothing is said, in seconds.
const SECONDS: u32 = 60;

/// What `npm run fuzz` was called with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fuzz {
    /// None: all, one after another.
    target: Option<String>,
    seconds: u32,
}

impl Fuzz {
    /// A target, a number of seconds, both or neither.
    pub(crate) fn new(args: &[String], targets: &[String]) -> Result<Self> {
        let mut fuzz = Self { target: None, seconds: SECONDS };
        for arg in args {
            if let Ok(seconds) = arg.parse() {
                fuzz.seconds = seconds;
            } else if targets.contains(arg) {
                fuzz.target = Some(arg.clone());
            } else {
                bail!("there is no fuzz target `{arg}`; there are: {}", targets.join(", "));
            }
        }
        // libFuzzer takes it for no limit.
        ensure!(fuzz.seconds > 0, "a target runs for at least a second");
        Ok(fuzz)
    }

    pub(crate) fn run(&self, ws: &Workspace, targets: &[String]) -> Result<()> {
        check_tools()?;
        let chosen = targets.iter().filter(|target| self.target.as_ref().is_none_or(|own| own == *target));
        for target in chosen {
            println!("{target}: {} s", self.seconds);
            self.run_one(ws, target)?;
        }
        Ok(())
    }

    fn run_one(&self, ws: &Workspace, target: &str) -> Result<()> {
        // What is found on the way is kept here; the committed corpus stays as it is.
        let corpus = ws.target().join("fuzz-corpus").join(target);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
        // Nothing of ours is unsafe, so the sanitizer that is the default would only make it slow.
        let mut command = nightly(&["fuzz", "run", "--sanitizer", "none", "--target-dir"]);
        command.arg(ws.target().join("fuzz")).arg(target).arg(corpus);
        for kept in ["corpus", "regressions"] {
            command.args(Some(ws.path("fuzz").join(kept).join(target)).filter(|folder| folder.is_dir()));
        }
        command.args(["--", "-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1"]);
        command.arg(format!("-max_total_time={}", self.seconds)).current_dir(ws.path("fuzz"));
        let status = command.status().context("cannot run cargo-fuzz")?;
        ensure!(
            status.success(),
            "{target} has found something: its input is in fuzz/artifacts/{target}. Once it is mended, the input goes into \
             fuzz/regressions/{target}, under a name that says what it is"
        );
        Ok(())
    }
}

/// The names of all targets.
pub(crate) fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn nightly(args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    // Set by the `cargo run` that started this program, which is another toolchain's.
    command.args(["run", "nightly", "cargo"]).args(args).env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    command
}

fn check_tools() -> Result<()> {
    if output(&mut nightly(&["--version"])).is_none() {
        bail!("fuzzing needs a nightly compiler: rustup toolchain install nightly --profile minimal");
    }
    if output(&mut nightly(&["fuzz", "--version"])).is_none() {
        bail!("fuzzing needs cargo-fuzz: cargo install cargo-fuzz --locked");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_and_seconds_come_in_any_order() {
        let targets = ["frames".to_owned(), "tokens".to_owned()];
        let fuzz = |args: &[&str]| Fuzz::new(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>(), &targets);
        assert_eq!(fuzz(&[]).unwrap(), Fuzz { target: None, seconds: SECONDS });
        for args in [["frames", "5"], ["5", "frames"]] {
            assert_eq!(fuzz(&args).unwrap(), Fuzz { target: Some("frames".into()), seconds: 5 });
        }
        assert!(fuzz(&["nothing"]).unwrap_err().to_string().contains("frames, tokens"));
        assert!(fuzz(&["0"]).is_err());
    }

    #[test]
    fn finds_the_targets_of_this_workspace() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(targets(root).unwrap().contains(&"frames".to_owned()));
    }
}
