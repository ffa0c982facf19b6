//! What is revoked now: the set, kept as its file is.
//!
//! ```text
//!   file ──looked at twice a second──► Set ──watch──► each live connection and export: is mine in it?
//!     ▲                                 └───────────► each AUTH and request
//!     └── POST /revocations, prom ops revoke, people
//! ```

use std::{
    collections::HashSet,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use prom_store::wall_clock;
use ring::digest::{SHA256, digest};
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Access,
    refused::Refused,
    revocation_file::{self as file, RevocationsError},
    revoked::{Hits, MAX_REVOCATIONS, Revocation, Set},
};

/// Time between two looks at the file: a change counts within a second.
const EVERY: Duration = Duration::from_millis(500);
/// A file that was changed so lately may be changed again without another time or size to show for it.
const FRESH: Duration = Duration::from_secs(3);

/// How long a file must lack entries that it had, before they count no more. Somebody may be writing it just now, or its disk
/// may be full.
const BELIEVED: Duration = Duration::from_secs(10);

/// Tells who holds on to it that the set has changed.
pub(crate) type Changes = watch::Receiver<Arc<Set>>;

/// What is revoked. Clones share it.
#[derive(Clone)]
pub(crate) struct Revocations(Arc<Shared>);

struct Shared {
    current: watch::Sender<Arc<Set>>,
    kept: Option<Kept>,
    ended: AtomicU64,
}

/// A file that is looked at.
struct Kept {
    path: PathBuf,
    /// What was there at the last look. Held for a whole look, so that none overtakes another.
    last: Mutex<Last>,
    loaded: AtomicU64,
    failed: AtomicU64,
    broken: AtomicBool,
}

#[derive(Debug, Default)]
struct Last {
    file: Glance,
    /// The file lacks entries that it had, and is not believed yet.
    shorter: Option<Shorter>,
}

/// What a file says that has lost entries.
#[derive(Debug)]
struct Shorter {
    set: Set,
    lost: usize,
    since: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Glance {
    /// Size and time of change; none: not known, or too fresh to tell anything.
    stamp: Option<(u64, SystemTime)>,
    /// The digest of the contents, or why there are none.
    contents: Result<Vec<u8>, String>,
}

impl Default for Glance {
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
        Self::new(Set::default(), None)
    }

    fn new(set: Set, kept: Option<Kept>) -> Self {
        Self(Arc::new(Shared { current: watch::Sender::new(Arc::new(set)), kept, ended: AtomicU64::new(0) }))
    }

    /// What the file says.
    ///
    /// # Errors
    /// It is not there, or not what it should be: a hub that starts without would let in who was locked out.
    pub(crate) async fn load(path: PathBuf) -> Result<Self, RevocationsError> {
        let (file, said) = look_apart(path.clone(), Glance::default(), Arc::default()).await;
        let failed = || Err(RevocationsError::Unreadable(std::io::Error::other("looking at it failed")));
        let said = said.unwrap_or_else(failed)?;
        let last = Mutex::new(Last { file, shorter: None });
        let (loaded, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self::new(said.set, Some(Kept { path, last, loaded, failed, broken: AtomicBool::new(false) })))
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
        let Shared { current, kept: Some(kept), .. } = &*self.0 else { return };
        let mut last = kept.last.lock().await;
        let (glance, said) = look_apart(kept.path.clone(), last.file.clone(), self.current()).await;
        last.file = glance;
        let file = kept.path.display();
        let Some(said) = said else {
            let Some(Shorter { set, lost, .. }) = last.shorter.take_if(|own| own.since.elapsed() >= BELIEVED) else {
                return;
            };
            tracing::warn!(%file, lost, entries = set.entries().len(), "REVOCATIONS_FILE lacks entries for {BELIEVED:?} now, which count no more");
            current.send_replace(Arc::new(set));
            return;
        };
        kept.broken.store(said.is_err(), Relaxed);
        // Whatever it lacked before, it says something else now.
        last.shorter = None;
        match said {
            Ok(Said { set, lost: None }) => {
                kept.loaded.fetch_add(1, Relaxed);
                tracing::info!(%file, entries = set.entries().len(), "REVOCATIONS_FILE has changed; tokens are held against what it says");
                current.send_replace(Arc::new(set));
            }
            Ok(Said { set, lost: Some((lost, both)) }) => {
                kept.loaded.fetch_add(1, Relaxed);
                tracing::warn!(%file, lost, entries = set.entries().len(), "REVOCATIONS_FILE has changed and lacks entries that have not ended; they count until it has lacked them for {BELIEVED:?}");
                last.shorter = Some(Shorter { set, lost, since: Instant::now() });
                current.send_replace(Arc::new(both));
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
        let path = self.0.kept.as_ref()?.path.clone();
        let added = tokio::task::spawn_blocking(move || file::revoke(&path, &entry)).await;
        let added = added.unwrap_or_else(|_| Err(RevocationsError::Entry("writing it failed".into())));
        if matches!(added, Ok(_) | Err(RevocationsError::Undurable(_))) {
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

/// What a file says that is new.
#[derive(Debug)]
struct Said {
    set: Set,
    /// How many entries count, have not ended, and are not in it; and a set with those, the last ones if they are very many.
    lost: Option<(usize, Set)>,
}

impl Said {
    fn new(entries: Vec<Revocation>, current: &Set) -> Self {
        let own: HashSet<Hits<'_>> = entries.iter().map(Revocation::hits).collect();
        let now = wall_clock();
        let is_lost = |entry: &&Revocation| !own.contains(&entry.hits()) && entry.ends_ms() > now;
        let lost: Vec<&Revocation> = current.entries().iter().filter(is_lost).collect();
        // A file that changes all the time must not fill the memory. What it has lost last stands first.
        let both = || entries.iter().chain(lost.iter().copied()).take(MAX_REVOCATIONS * 2).cloned().collect();
        let lost = (!lost.is_empty()).then(|| (lost.len(), Set::new(both())));
        Self { lost, set: Set::new(entries) }
    }
}

type Found = Result<Said, RevocationsError>;

/// Looks at the file where a slow disk holds up nobody: what is there now, and what it says if that is new.
async fn look_apart(path: PathBuf, before: Glance, current: Arc<Set>) -> (Glance, Option<Found>) {
    let again = before.clone();
    // A panic changes nothing: what was there before is looked at again.
    tokio::task::spawn_blocking(move || look(&path, before, &current)).await.unwrap_or((again, None))
}

fn look(path: &Path, before: Glance, current: &Set) -> (Glance, Option<Found>) {
    let changed = std::fs::metadata(path).and_then(|of| Ok((of.len(), of.modified()?)));
    let stamp = changed.ok().filter(|(_, at)| at.elapsed().is_ok_and(|age| age >= FRESH));
    if stamp.is_some() && stamp == before.stamp {
        return (before, None);
    }
    let (contents, bytes) = match file::read(path) {
        Ok(bytes) => (Ok(digest(&SHA256, &bytes).as_ref().to_vec()), Ok(bytes)),
        Err(error) => (Err(error.to_string()), Err(error)),
    };
    let is_new = contents != before.contents;
    // Parsed only if it is new: a file may be large.
    let said = is_new.then(|| Ok(Said::new(file::parse(&bytes?)?, current)));
    (Glance { stamp, contents }, said)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use prom_protocol::Policy;
    use tokio::time::sleep;

    use super::*;

    /// A hub's, of a file that says this.
    async fn kept(lines: &str) -> (tempfile::TempDir, PathBuf, Revocations) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked.jsonl");
        fs::write(&path, lines).unwrap();
        let revocations = Revocations::load(path.clone()).await.unwrap();
        tokio::spawn(revocations.clone().keep(CancellationToken::new()));
        (folder, path, revocations)
    }

    fn line(jti: &str) -> String {
        format!("{{\"jti\":\"{jti}\"}}\n")
    }

    fn counts(revocations: &Revocations, jti: &str) -> bool {
        let token = Access { jti: Some(jti.into()), ..Access::unlimited(Policy::default()) };
        revocations.check(&token).is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_file_counts_within_a_second() {
        let (_folder, path, revocations) = kept("").await;
        let mut changes = revocations.changes();
        let mut lines = String::new();
        for n in 0..10_u64 {
            // Anywhere between two looks.
            sleep(Duration::from_millis(n * 77)).await;
            lines += &line(&n.to_string());
            fs::write(&path, &lines).unwrap();
            let began = Instant::now();
            changes.changed().await.unwrap();
            assert!(counts(&revocations, &n.to_string()));
            assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_was_cut_off_lets_nobody_in_before_it_has_said_so_for_a_while() {
        let (_folder, path, revocations) = kept(&(line("a") + &line("b"))).await;
        // An editor that truncates and then writes.
        for _ in 0..10 {
            fs::write(&path, line("a")).unwrap();
            sleep(BELIEVED / 2).await;
            assert!(counts(&revocations, "a") && counts(&revocations, "b"));
            fs::write(&path, line("a") + &line("b")).unwrap();
            sleep(BELIEVED / 2 + EVERY).await;
            assert!(counts(&revocations, "a") && counts(&revocations, "b"));
        }
        sleep(BELIEVED * 2).await;
        assert!(counts(&revocations, "b"));
        // What such a file adds counts at once, and what it lacks as long as it goes on changing.
        fs::write(&path, "").unwrap();
        for n in 0..5 {
            sleep(BELIEVED - EVERY * 2).await;
            fs::write(&path, line(&n.to_string())).unwrap();
            sleep(EVERY * 2).await;
            for jti in ["a", "b", "0", &n.to_string()] {
                assert!(counts(&revocations, jti), "{jti} after {n}");
            }
            assert_eq!(revocations.told().entries, 3 + n);
        }
        sleep(BELIEVED + EVERY * 2).await;
        assert!(counts(&revocations, "4"));
        for jti in ["a", "b", "0", "3"] {
            assert!(!counts(&revocations, jti), "{jti}");
        }
        assert_eq!((revocations.told().entries, revocations.told().failed), (1, 0));
    }

    /// So that a file that changes all the time does not fill the memory.
    #[tokio::test(start_paused = true)]
    async fn what_a_file_lacks_is_kept_beside_it_up_to_a_limit() {
        let many = |of: &str| (0..MAX_REVOCATIONS).map(|n| line(&format!("{of}{n}"))).collect::<String>();
        let (_folder, path, revocations) = kept(&many("a")).await;
        fs::write(&path, many("b")).unwrap();
        sleep(EVERY * 2).await;
        assert!(counts(&revocations, "a0") && counts(&revocations, "b0"));
        fs::write(&path, many("c")).unwrap();
        sleep(EVERY * 2).await;
        assert!(!counts(&revocations, "a0") && counts(&revocations, "b0") && counts(&revocations, "c0"));
        sleep(BELIEVED + EVERY * 2).await;
        assert!(!counts(&revocations, "a0") && !counts(&revocations, "b0") && counts(&revocations, "c0"));
    }
}
