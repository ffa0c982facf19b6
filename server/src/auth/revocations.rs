//! What is revoked now: the set, kept as its file is.
//!
//! ```text
//!   file ──looked at twice a second──► Set ──watch──► each live connection and export: is mine in it?
//!     ▲                                 └───────────► each AUTH and request
//!     └── POST /revocations, prom ops revoke, people
//! ```

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use prom_store::wall_clock;
use ring::digest::{SHA256, digest};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Access,
    refused::Refused,
    revocation_file::{self as file, RevocationsError},
    revoked::{Revocation, Set},
};

/// Time between two looks at the file: a change counts within a second.
const EVERY: Duration = Duration::from_millis(500);
/// A file that was changed so lately may be changed again without another time or size to show for it.
const FRESH: Duration = Duration::from_secs(3);

/// Tells who holds on to it that the set has changed.
pub(crate) type Changes = watch::Receiver<Arc<Set>>;

/// What is revoked. Clones share it.
#[derive(Clone)]
pub(crate) struct Revocations(Arc<Shared>);

struct Shared {
    current: watch::Sender<Arc<Set>>,
    /// How far away a token's `exp` may be.
    lifetime: Duration,
    kept: Option<Kept>,
    ended: AtomicU64,
}

/// A file that is looked at.
struct Kept {
    path: PathBuf,
    /// What was there at the last look. Held for a whole look, so that none overtakes another.
    seen: Mutex<Seen>,
    loaded: AtomicU64,
    failed: AtomicU64,
    broken: AtomicBool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Size and time of change; none: not known, or too fresh to tell anything.
    stamp: Option<(u64, SystemTime)>,
    /// The digest of the contents, or why there are none.
    contents: Result<Vec<u8>, String>,
}

impl Default for Seen {
    /// Nothing was looked at.
    fn default() -> Self {
        Self { stamp: None, contents: Err(String::new()) }
    }
}

/// What revocations tell of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) entries: usize,
    /// How often a file that had changed was taken, and was not.
    pub(crate) loaded: u64,
    pub(crate) failed: u64,
    /// The file cannot be used as it is now; what it said before still counts.
    pub(crate) broken: bool,
    /// Connections and streams that were ended.
    pub(crate) ended: u64,
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations").field("told", &self.told()).finish_non_exhaustive()
    }
}

impl Revocations {
    /// Nothing is revoked, and nothing can be.
    pub(crate) fn none() -> Self {
        Self::new(Set::default(), Duration::ZERO, None)
    }

    fn new(set: Set, lifetime: Duration, kept: Option<Kept>) -> Self {
        Self(Arc::new(Shared { current: watch::Sender::new(Arc::new(set)), lifetime, kept, ended: AtomicU64::new(0) }))
    }

    /// What the file says; tokens live for `lifetime` at most.
    ///
    /// # Errors
    /// It is not there, or not what it should be: a hub that starts without would let in who was locked out.
    pub(crate) async fn load(path: PathBuf, lifetime: Duration) -> Result<Self, RevocationsError> {
        let (seen, entries) = look_apart(path.clone(), Seen::default(), lifetime).await;
        let set = Set::new(entries.unwrap_or(Ok(Vec::new()))?, lifetime);
        let (loaded, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        let kept = Kept { path, seen: Mutex::new(seen), loaded, failed, broken: AtomicBool::new(false) };
        Ok(Self::new(set, lifetime, Some(kept)))
    }

    /// Looks at the file again and again until `ending`.
    pub(crate) async fn keep(self, ending: CancellationToken) {
        while self.0.kept.is_some() {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = ending.cancelled() => return,
            }
            tokio::select! {
                () = self.look() => {}
                () = ending.cancelled() => return,
            }
        }
    }

    async fn look(&self) {
        let Shared { current, lifetime, kept: Some(kept), .. } = &*self.0 else { return };
        let mut seen = kept.seen.lock().await;
        let (now, entries) = look_apart(kept.path.clone(), seen.clone(), *lifetime).await;
        *seen = now;
        let Some(entries) = entries else { return };
        kept.broken.store(entries.is_err(), Relaxed);
        let file = kept.path.display();
        match entries {
            Ok(entries) => {
                kept.loaded.fetch_add(1, Relaxed);
                tracing::info!(%file, entries = entries.len(), "REVOCATIONS_FILE has changed; tokens are held against what it says");
                current.send_replace(Arc::new(Set::new(entries, *lifetime)));
            }
            Err(error) => {
                kept.failed.fetch_add(1, Relaxed);
                tracing::warn!(%file, %error, "REVOCATIONS_FILE has changed and cannot be used; what it said before still counts");
            }
        }
    }

    /// Adds an entry to the file, and to what counts. Answers how many there are; none: there is no file.
    ///
    /// # Errors
    /// The file cannot be used, is full, or cannot be written.
    pub(crate) async fn add(&self, entry: Revocation) -> Option<Result<usize, RevocationsError>> {
        let (path, lifetime) = (self.0.kept.as_ref()?.path.clone(), self.0.lifetime);
        let added = tokio::task::spawn_blocking(move || file::revoke(&path, &entry, lifetime)).await;
        let added = added.unwrap_or_else(|_| Err(RevocationsError::Entry("writing it failed".into())));
        if added.is_ok() {
            self.look().await;
        }
        Some(added)
    }

    /// Refuses a token that is revoked.
    ///
    /// # Errors
    /// `jwt_invalid`, and by what it was.
    pub(crate) fn check(&self, access: &Access) -> Result<(), Refused> {
        self.0.current.borrow().check(access, wall_clock())
    }

    /// Changes from now on.
    pub(crate) fn changes(&self) -> Changes {
        self.0.current.subscribe()
    }

    /// What is revoked at present.
    pub(crate) fn current(&self) -> Arc<Set> {
        Arc::clone(&self.0.current.borrow())
    }

    /// Counts a connection or a stream that was ended.
    pub(crate) fn ended(&self) {
        self.0.ended.fetch_add(1, Relaxed);
    }

    /// Figures; none: nothing can be revoked.
    pub(crate) fn told_if_kept(&self) -> Option<Told> {
        self.0.kept.as_ref().map(|_| self.told())
    }

    fn told(&self) -> Told {
        let kept = self.0.kept.as_ref();
        let count = |of: fn(&Kept) -> &AtomicU64| kept.map_or(0, |kept| of(kept).load(Relaxed));
        Told {
            entries: self.0.current.borrow().entries().len(),
            loaded: count(|kept| &kept.loaded),
            failed: count(|kept| &kept.failed),
            broken: kept.is_some_and(|kept| kept.broken.load(Relaxed)),
            ended: self.0.ended.load(Relaxed),
        }
    }
}

type Entries = Result<Vec<Revocation>, RevocationsError>;

/// Looks at the file where a slow disk holds up nobody: what is there now, and what it says if that is new.
async fn look_apart(path: PathBuf, before: Seen, lifetime: Duration) -> (Seen, Option<Entries>) {
    let again = before.clone();
    // A panic changes nothing: what was there before is looked at again.
    tokio::task::spawn_blocking(move || look(&path, before, lifetime)).await.unwrap_or((again, None))
}

fn look(path: &std::path::Path, before: Seen, lifetime: Duration) -> (Seen, Option<Entries>) {
    let changed = std::fs::metadata(path).and_then(|of| Ok((of.len(), of.modified()?)));
    let stamp = changed.ok().filter(|(_, at)| at.elapsed().is_ok_and(|age| age >= FRESH));
    if stamp.is_some() && stamp == before.stamp {
        return (before, None);
    }
    let (contents, entries) = match file::read(path) {
        Ok(bytes) => (Ok(digest(&SHA256, &bytes).as_ref().to_vec()), Ok(bytes)),
        Err(error) => (Err(error.to_string()), Err(error)),
    };
    let is_new = contents != before.contents;
    // Parsed only if it is new: a file may be large.
    let entries = is_new.then(|| entries.and_then(|bytes| file::parse(&bytes, lifetime)));
    (Seen { stamp, contents }, entries)
}
