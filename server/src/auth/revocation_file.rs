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
    /// It was changed, and the system does not say that it stays so.
    #[error("was changed and counts, but may be as it was before after a power failure; revoke once more: {0}")]
    Undurable(io::Error),
}

/// The bytes of the file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, RevocationsError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(RevocationsError::Unreadable)?;
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(RevocationsError::Unreadable)?;
    if bytes.len() as u64 > FILE_BYTES { Err(RevocationsError::TooLarge) } else { Ok(bytes) }
}

/// The entries in the file's bytes. Empty lines are none; those that have ended are left out.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Revocation>, RevocationsError> {
    let now = wall_clock();
    let mut entries = Vec::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let entry = Revocation::parse(line).map_err(|why| RevocationsError::Line { line: at + 1, why })?;
        if entry.ends_ms() <= now {
            continue;
        }
        if entries.len() == MAX_REVOCATIONS {
            return Err(RevocationsError::TooMany);
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Adds an entry to the file, which must be there; when this returns it is on the disk. Of those that hit the same tokens
/// the one that ends last stays, those that have ended are left out. Answers how many entries there are now. Blocks, for at
/// most a few seconds.
///
/// # Errors
/// The file cannot be used as it is, has no room, or cannot be written; it is as it was then, but with
/// [`RevocationsError::Undurable`].
pub fn revoke(path: &Path, entry: &Revocation) -> Result<usize, RevocationsError> {
    revoke_and(path, entry, File::sync_all)
}

/// The same, with what brings a folder to the disk.
fn revoke_and(path: &Path, entry: &Revocation, sync: fn(&File) -> io::Result<()>) -> Result<usize, RevocationsError> {
    entry.check().map_err(RevocationsError::Entry)?;
    // Where it is a link, what it leads to is replaced.
    let path = fs::canonicalize(path).map_err(RevocationsError::Unreadable)?;
    let _lock = lock(&path)?;
    let mut entries = parse(&read(&path)?)?;
    // One that has no end stays so, however often it is said again.
    let same = entries.extract_if(.., |own| own.hits() == entry.hits());
    let entry = same.fold(entry.clone(), |last, own| if own.ends_ms() > last.ends_ms() { own } else { last });
    if entries.len() >= MAX_REVOCATIONS {
        return Err(RevocationsError::TooMany);
    }
    entries.push(entry);
    let mut text = Vec::new();
    for entry in &entries {
        serde_json::to_writer(&mut text, entry).map_err(|error| RevocationsError::Unwritable(error.into()))?;
        text.push(b'\n');
    }
    if text.len() as u64 > FILE_BYTES {
        return Err(RevocationsError::TooLarge);
    }
    replace(&path, &text, sync)?;
    Ok(entries.len())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Keeps other writers of the file out until it is dropped: two would each lose what the other added.
fn lock(path: &Path) -> Result<File, RevocationsError> {
    let file = lock_file(path).map_err(RevocationsError::Unwritable)?;
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

fn lock_file(path: &Path) -> io::Result<File> {
    let lock = beside(path, "lock");
    let opened = || match OpenOptions::new().write(true).open(&lock) {
        // NFS locks only what may be written; elsewhere it is enough to read, where somebody else made it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(&lock),
        opened => opened,
    };
    match opened() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match File::create_new(&lock) {
        Ok(file) => {
            // One that stays another's would keep the hub out.
            fs::metadata(path).and_then(|of| like(&file, &of)).inspect_err(|_| drop(fs::remove_file(&lock)))?;
            Ok(file)
        }
        // Somebody else just has.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => opened(),
        Err(error) => Err(error),
    }
}

/// Gives a new file the permissions and the owner of another one: the hub must be able to use what another user made, like
/// an operator as root.
fn like(file: &File, other: &fs::Metadata) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (other.uid(), other.gid()) {
            fchown(file, Some(other.uid()), Some(other.gid()))?;
        }
    }
    // Afterwards, for a change of owner may take some away.
    file.set_permissions(other.permissions())
}

/// Under the lock.
fn replace(path: &Path, text: &[u8], sync: fn(&File) -> io::Result<()>) -> Result<(), RevocationsError> {
    let new = beside(path, "new");
    let written = || -> io::Result<Option<File>> {
        // The name is on the disk when its folder is. Windows has no such thing. Opened first: what cannot be is no change yet.
        let folder = if cfg!(unix) { path.parent().map(File::open).transpose()? } else { None };
        // What somebody left who was killed may be another user's.
        let _ = fs::remove_file(&new);
        let mut file = File::create_new(&new)?;
        like(&file, &fs::metadata(path)?)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        Ok(folder)
    };
    let folder = written().map_err(|error| {
        drop(fs::remove_file(&new));
        RevocationsError::Unwritable(error)
    })?;
    folder.as_ref().map_or(Ok(()), sync).map_err(RevocationsError::Undurable)
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    use super::*;

    fn one(jti: &str) -> Revocation {
        Revocation { jti: Some(jti.into()), ..Revocation::default() }
    }

    fn added(path: &Path, jti: &str) -> Result<usize, RevocationsError> {
        revoke(path, &one(jti))
    }

    /// An operator's `prom` may run as another user than the hub, which must be able to write after it.
    #[test]
    fn what_is_made_beside_the_file_is_of_who_has_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked.jsonl");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        // Only root may give files away.
        let owner = if fs::metadata(&path).unwrap().uid() == 0 { (54_321, 12_345) } else { own(&path) };
        chown(&path, Some(owner.0), Some(owner.1)).unwrap();
        // What somebody left who was killed.
        fs::write(beside(&path, "new"), "left").unwrap();
        added(&path, "one").unwrap();
        for path in [&path, &beside(&path, "lock")] {
            let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((own(path), mode), (owner, 0o660), "{}", path.display());
        }
        assert!(!beside(&path, "new").exists());
    }

    fn own(path: &Path) -> (u32, u32) {
        let of = fs::metadata(path).unwrap();
        (of.uid(), of.gid())
    }

    #[test]
    fn a_lock_that_may_only_be_read_is_one_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked.jsonl");
        fs::write(&path, "").unwrap();
        let lock = beside(&path, "lock");
        fs::write(&lock, "").unwrap();
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o444)).unwrap();
        assert_eq!(added(&path, "one").unwrap(), 1);
        let held = File::open(&lock).unwrap();
        held.try_lock().unwrap();
        let said = added(&path, "two").unwrap_err().to_string();
        assert!(said.contains("its .lock is held"), "{said}");
    }

    #[test]
    fn what_may_not_stay_is_said_to_have_been_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked.jsonl");
        fs::write(&path, "").unwrap();
        let failed = revoke_and(&path, &one("one"), |_| Err(io::Error::other("the disk is gone"))).unwrap_err();
        assert!(matches!(failed, RevocationsError::Undurable(_)), "{failed}");
        assert!(
            failed.to_string().contains("was changed") && failed.to_string().contains("the disk is gone"),
            "{failed}"
        );
        assert_eq!(parse(&read(&path).unwrap()).unwrap(), [one("one")]);
        // Once more is the same.
        assert_eq!(added(&path, "one").unwrap(), 1);
    }

    #[test]
    fn what_is_revoked_for_ever_stays_so_when_it_is_revoked_again() {
        // The second word took the first one's place, and with it the end of all.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked.jsonl");
        let now = wall_clock() / 1000;
        let ends = |at| Revocation { at, ..one("one") };
        fs::write(&path, "{\"jti\":\"one\"}\n").unwrap();
        assert_eq!(revoke(&path, &ends(Some(now))).unwrap(), 1);
        assert_eq!(parse(&read(&path).unwrap()).unwrap(), [ends(None)]);
        fs::write(&path, "").unwrap();
        for at in [now - 10, now, now - 5] {
            revoke(&path, &ends(Some(at))).unwrap();
        }
        assert_eq!(parse(&read(&path).unwrap()).unwrap(), [ends(Some(now))]);
    }
}
