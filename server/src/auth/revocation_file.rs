//! The file of revocations: one JSON object a line. It is written beside itself and renamed, so that it is whole at any time.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use prom_store::wall_clock;

use super::revoked::{MAX_REVOCATIONS, Revocation};

/// Largest file.
const FILE_BYTES: u64 = 64 * 1024 * 1024;
/// How long another writer of the file is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why revocations are not what their file says, or the file not what it should say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationsError {
    /// The system does not give it.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It is too large.
    #[error("is larger than {FILE_BYTES} bytes")]
    TooLarge,
    /// It says too much.
    #[error("has more than {MAX_REVOCATIONS} entries; one with issued_before stands for many")]
    TooMany,
    /// A line is no entry.
    #[error("line {line}: {why}")]
    Line {
        /// Which, from 1 on.
        line: usize,
        /// What is wrong with it, naming the field.
        why: String,
    },
    /// The entry itself is none.
    #[error("the entry cannot be added: {0}")]
    Entry(String),
    /// Somebody else is writing it.
    #[error("is being changed by somebody else for longer than {PATIENCE:?} (its .lock is held)")]
    Busy,
    /// The system does not take it.
    #[error("cannot be written: {0}")]
    Unwritable(io::Error),
}

/// The bytes of the file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, RevocationsError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(RevocationsError::Unreadable)?;
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(RevocationsError::Unreadable)?;
    if bytes.len() as u64 > FILE_BYTES { Err(RevocationsError::TooLarge) } else { Ok(bytes) }
}

/// The entries in the file's bytes. Empty lines are none; those that have ended are left out.
pub(super) fn parse(bytes: &[u8], lifetime: Duration) -> Result<Vec<Revocation>, RevocationsError> {
    let now = wall_clock();
    let mut entries = Vec::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let entry = Revocation::parse(line).map_err(|why| RevocationsError::Line { line: at + 1, why })?;
        if entry.ends_ms(lifetime) <= now {
            continue;
        }
        if entries.len() == MAX_REVOCATIONS {
            return Err(RevocationsError::TooMany);
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Adds an entry to the file, which must be there; when this returns it is on the disk. One that hits the same tokens is
/// replaced, those that have ended are left out (`lifetime` is how far away a token's `exp` may be). Answers how many
/// entries there are now. Blocks, for at most a few seconds.
///
/// # Errors
/// The file cannot be used as it is, has no room, or cannot be written. It is as it was then.
pub fn revoke(path: &Path, entry: &Revocation, lifetime: Duration) -> Result<usize, RevocationsError> {
    entry.check().map_err(RevocationsError::Entry)?;
    // Where it is a link, what it leads to is replaced.
    let path = fs::canonicalize(path).map_err(RevocationsError::Unreadable)?;
    let _lock = lock(&beside(&path, "lock"))?;
    let mut entries = parse(&read(&path)?, lifetime)?;
    entries.retain(|own| !own.is_of_the_same(entry));
    if entries.len() >= MAX_REVOCATIONS {
        return Err(RevocationsError::TooMany);
    }
    entries.push(entry.clone());
    let mut text = Vec::new();
    for entry in &entries {
        serde_json::to_writer(&mut text, entry).map_err(|error| RevocationsError::Unwritable(error.into()))?;
        text.push(b'\n');
    }
    if text.len() as u64 > FILE_BYTES {
        return Err(RevocationsError::TooLarge);
    }
    replace(&path, &text).map_err(RevocationsError::Unwritable)?;
    Ok(entries.len())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Keeps other writers out until it is dropped: two would each lose what the other added.
fn lock(path: &Path) -> Result<File, RevocationsError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(RevocationsError::Unwritable)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(Duration::from_millis(10)),
            Err(fs::TryLockError::WouldBlock) => return Err(RevocationsError::Busy),
            Err(fs::TryLockError::Error(error)) => return Err(RevocationsError::Unwritable(error)),
        }
    }
}

/// Under the lock. The new file is whose the old one was: the hub must be able to read what another user added.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = beside(path, "new");
    let written = || -> io::Result<()> {
        let old = fs::metadata(path)?;
        let mut file = File::create(&new)?;
        file.set_permissions(old.permissions())?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, fchown};
            let own = file.metadata()?;
            if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
        }
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    written().inspect_err(|_| drop(fs::remove_file(&new)))?;
    // The name is on the disk when its folder is. Windows has no such thing.
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
