//! One identity provider's key set, kept fresh by a task of its own.
//!
//! ```text
//!   check a token ──► find(kid) ──► a key                        no wait: the set is in memory
//!                        └─ unknown, or the token names none and fits none
//!                               └─► wanted() ──► the task reads the set, one read for all who wait
//!                                          └─ at most every 30 s: then the answer is what the set says now
//!   the task ──► reads at the start, when the set gets old, when a key is wanted; again and again while it fails
//! ```
//!
//! A read that fails changes nothing: the last good set stays, however old it gets.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    fetch::{Fetched, Place, TIMEOUT, fetch},
    key_set::Keys,
};
use crate::sparing::Sparing;

/// How often an unknown key may have the set read.
pub(super) const WANTED_EVERY: Duration = Duration::from_secs(30);
/// The age at which a set is read again, where the provider does not say.
const AGE: Duration = Duration::from_secs(5 * 60);
/// The least and the most of what the provider may say. A key that was withdrawn must not count for a day.
const AGES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60 * 60));
/// The first and the longest wait after a read that failed; doubled in between.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long a token waits for a read: for one under way, and its own after that.
const PATIENCE: Duration = Duration::from_secs(2 * TIMEOUT.as_secs() + 1);
/// Time between two log lines about reads that fail.
const LINES_EVERY: Duration = Duration::from_secs(60);

/// What is known of a set.
#[derive(Debug, Default)]
struct State {
    keys: Option<Arc<Keys>>,
    /// When they were read.
    read_at: Option<Instant>,
    /// Reads that have begun, and how many of them are over.
    begun: u64,
    over: u64,
    failed: u64,
    /// Why the last read failed; none: it did not.
    error: Option<String>,
    /// When the next read begins by itself.
    next: Option<Instant>,
}

/// What to do about a key that the set does not have.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Wait for this read: see [`Source::wait`].
    Read(u64),
    /// The set was read not long ago, and it does not have the key.
    Settled,
    /// The provider cannot be asked; look again in a while.
    Unavailable(Duration),
}

/// A key set and its state.
#[derive(Debug)]
pub(super) struct Source {
    place: Place,
    /// Whose keys these are; none: anybody's.
    pub(super) issuer: Option<String>,
    state: watch::Sender<State>,
    /// When an unknown key last had the set read, and which read that is.
    asked: Mutex<Option<(Instant, u64)>>,
    wake: Notify,
    log: Sparing,
}

impl Source {
    pub(super) fn new(place: Place, issuer: Option<String>) -> Self {
        Self {
            place,
            issuer,
            state: watch::Sender::default(),
            asked: Mutex::default(),
            wake: Notify::new(),
            log: Sparing::new(LINES_EVERY),
        }
    }

    /// The keys as they were read last; none: never yet.
    pub(super) fn keys(&self) -> Option<Arc<Keys>> {
        self.state.borrow().keys.clone()
    }

    /// A key is not there, as far as one can say, or no set is.
    pub(super) fn wanted(&self) -> Wanted {
        let state = self.state.borrow();
        if state.keys.is_none() {
            // The task tries by itself, as often as is decent.
            let first = state.begun == 0;
            return if first || state.begun > state.over {
                Wanted::Read(state.begun.max(1))
            } else {
                Wanted::Unavailable(unavailable(&state))
            };
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match *asked {
            Some((at, read)) if at.elapsed() < WANTED_EVERY => {
                if state.over < read {
                    Wanted::Read(read)
                } else {
                    settled(&state)
                }
            }
            _ => {
                // Not one that is under way: it may have begun before the key was there.
                let read = state.begun + 1;
                *asked = Some((Instant::now(), read));
                self.wake.notify_one();
                Wanted::Read(read)
            }
        }
    }

    /// What an unknown key means without another read.
    pub(super) fn settled(&self) -> Wanted {
        settled(&self.state.borrow())
    }

    /// Returns when that read is over, or it takes too long.
    pub(super) async fn wait(&self, read: u64) {
        let mut state = self.state.subscribe();
        let _ = tokio::time::timeout(PATIENCE, state.wait_for(|state| state.over >= read)).await;
    }

    /// Why tokens of this provider cannot be checked; none: they can.
    pub(super) fn not_ready(&self) -> Option<String> {
        let state = self.state.borrow();
        let why = state.error.as_deref().unwrap_or("not yet");
        state.keys.is_none().then(|| format!("the key set at {} has not been read: {why}", self.place))
    }

    /// Keeps the set fresh until the hub ends.
    pub(super) async fn run(self: Arc<Self>, ending: CancellationToken) {
        let place = self.place.clone();
        let read = move || {
            let place = place.clone();
            async move { fetch(&place).await.map_err(|error| error.to_string()) }
        };
        self.run_with(read, ending).await;
    }

    async fn run_with<F>(&self, fetch: impl Fn() -> F, ending: CancellationToken)
    where
        F: Future<Output = Result<Fetched, String>>,
    {
        let mut failures = 0_u32;
        let mut odd_before = Vec::new();
        loop {
            self.state.send_modify(|state| state.begun += 1);
            let read = tokio::select! {
                () = ending.cancelled() => return,
                read = fetch() => read,
            };
            let read = read.and_then(|fetched| Ok((Keys::parse(&fetched.body)?, fetched.max_age)));
            let wait = match &read {
                Ok((_, max_age)) => {
                    failures = 0;
                    age(*max_age)
                }
                Err(_) => {
                    failures += 1;
                    backoff(failures)
                }
            };
            match &read {
                Ok(((keys, odd), _)) => self.good(keys, odd, &mut odd_before),
                Err(error) => self.bad(error),
            }
            self.state.send_modify(|state| {
                state.over = state.begun;
                state.next = Some(Instant::now() + wait);
                match read {
                    Ok(((keys, _), _)) => {
                        state.keys = Some(Arc::new(keys));
                        state.read_at = Some(Instant::now());
                        state.error = None;
                    }
                    Err(error) => {
                        state.failed += 1;
                        state.error = Some(error);
                    }
                }
            });
            tokio::select! {
                () = ending.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    fn good(&self, keys: &Keys, odd: &[String], before: &mut Vec<String>) {
        let (was, keys) = (self.state.borrow().error.is_some(), keys.len());
        if was || self.state.borrow().keys.is_none() {
            self.log.reset();
            tracing::info!(set = %self.place, keys, "the key set was read");
        }
        // Said once, not every five minutes.
        for odd in odd.iter().filter(|odd| !before.contains(odd)) {
            tracing::warn!(set = %self.place, key = ?odd, "a key of the key set is left out");
        }
        before.clear();
        before.extend_from_slice(odd);
    }

    fn bad(&self, error: &str) {
        let Some(left_out) = self.log.turn() else { return };
        let so = match self.state.borrow().read_at {
            Some(at) => format!("the set read {} s ago stays in use", at.elapsed().as_secs()),
            None => "no token of its can be checked until it was read".to_owned(),
        };
        tracing::warn!(set = %self.place, ?error, left_out, "the key set cannot be read; {so}");
    }

    /// For the metrics.
    pub(super) fn figures(&self) -> KeySetFigures {
        let state = self.state.borrow();
        KeySetFigures {
            set: self.place.to_string(),
            issuer: self.issuer.clone().unwrap_or_default(),
            read: state.over - state.failed,
            failed: state.failed,
            keys: state.keys.as_ref().map_or(0, |keys| keys.len()),
            age: state.read_at.map(|at| at.elapsed().as_secs()),
        }
    }
}

/// Figures of one key set.
#[derive(Debug)]
pub(crate) struct KeySetFigures {
    /// Its URL, without the query.
    pub set: String,
    /// Whose it is; empty: anybody's. Several may have one URL.
    pub issuer: String,
    /// Reads that went well.
    pub read: u64,
    /// Reads that failed.
    pub failed: u64,
    /// Keys in use.
    pub keys: usize,
    /// Seconds since they were read; none: never.
    pub age: Option<u64>,
}

fn settled(state: &State) -> Wanted {
    if state.keys.is_some() && state.error.is_none() {
        Wanted::Settled
    } else {
        Wanted::Unavailable(unavailable(state))
    }
}

/// Until the next read, and then some for its answer.
fn unavailable(state: &State) -> Duration {
    let left = state.next.map(|next| next.saturating_duration_since(Instant::now()));
    left.unwrap_or_default().max(Duration::from_secs(1))
}

/// When a set that is fresh for so long is read again. A little earlier at random, so that hubs do not ask in step.
fn age(max_age: Option<Duration>) -> Duration {
    max_age.unwrap_or(AGE).clamp(AGES.0, AGES.1).mul_f64(0.8 + 0.2 * fastrand::f64())
}

/// The wait after so many failures in a row.
fn backoff(failures: u32) -> Duration {
    let doubled = RETRY.0.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(RETRY.1).mul_f64(0.5 + 0.5 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    const SET: &str =
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn source() -> Source {
        Source::new(Place::parse("https://login.example.com/keys").unwrap(), None)
    }

    /// Runs a source whose provider answers as `answer` says, by the number of the question from 1, after `takes`.
    async fn with(
        answer: impl Fn(u32) -> Result<Fetched, String>,
        takes: Duration,
        test: impl AsyncFnOnce(&Source, &Cell<u32>),
    ) {
        let (source, asked, ending) = (source(), Rc::new(Cell::new(0)), CancellationToken::new());
        let fetch = || {
            asked.set(asked.get() + 1);
            let answer = answer(asked.get());
            async move {
                tokio::time::sleep(takes).await;
                answer
            }
        };
        tokio::select! {
            () = source.run_with(fetch, ending) => panic!("ended by itself"),
            () = test(&source, &asked) => {}
        }
    }

    fn good(max_age: Option<u64>) -> Result<Fetched, String> {
        Ok(Fetched { body: SET.into(), max_age: max_age.map(Duration::from_secs) })
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_unknown_keys_make_one_read_in_thirty_seconds() {
        with(
            |_| good(Some(3600)),
            Duration::from_millis(100),
            async |source, asked| {
                source.wait(1).await;
                assert_eq!(asked.get(), 1);
                for _ in 0..10_000 {
                    assert_eq!(source.wanted(), Wanted::Read(2));
                }
                source.wait(2).await;
                for _ in 0..10_000 {
                    assert_eq!(source.wanted(), Wanted::Settled);
                }
                tokio::time::sleep(WANTED_EVERY - Duration::from_secs(1)).await;
                assert_eq!((source.wanted(), asked.get()), (Wanted::Settled, 2));
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(source.wanted(), Wanted::Read(3));
                source.wait(3).await;
                assert_eq!(asked.get(), 3);
            },
        )
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_is_read_again_when_it_gets_old() {
        for (max_age, at_least, at_most) in
            [(None, 240, 300), (Some(600), 480, 600), (Some(1), 48, 60), (Some(86_400), 2880, 3600)]
        {
            with(
                |_| good(max_age),
                Duration::ZERO,
                async |source, _| {
                    let begun = Instant::now();
                    source.wait(1).await;
                    let mut state = source.state.subscribe();
                    state.wait_for(|state| state.over == 2).await.unwrap();
                    let after = begun.elapsed().as_secs();
                    assert!((at_least..=at_most).contains(&after), "{max_age:?}: {after} s");
                },
            )
            .await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_set_stays_while_the_provider_is_down() {
        let down = |n: u32| if n == 1 { good(None) } else { Err("no connection".to_owned()) };
        with(down, Duration::ZERO, async |source, asked| {
            source.wait(1).await;
            tokio::time::sleep(Duration::from_secs(3600)).await;
            assert_eq!(source.keys().unwrap().len(), 1);
            assert!(source.not_ready().is_none());
            // Waits of 15 to 30 s once it has failed for a while.
            assert!((100..300).contains(&asked.get()), "{} reads in an hour", asked.get());
            // Whether a key is unknown cannot be said now.
            let Wanted::Read(read) = source.wanted() else { panic!("nobody has asked yet") };
            source.wait(read).await;
            assert!(matches!(source.wanted(), Wanted::Unavailable(_)));
            let figures = source.figures();
            assert_eq!((figures.read, figures.keys), (1, 1));
            assert!(figures.failed > 100 && figures.age > Some(3000), "{figures:?}");
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_set_tokens_wait_for_the_read_under_way_and_not_for_the_next() {
        let up_at_last = |n: u32| if n < 4 { Err("no connection".to_owned()) } else { good(None) };
        with(up_at_last, Duration::from_millis(100), async |source, asked| {
            assert_eq!(source.wanted(), Wanted::Read(1));
            source.wait(1).await;
            assert!(source.not_ready().unwrap().ends_with("no connection"));
            assert!(matches!(source.wanted(), Wanted::Unavailable(wait) if wait <= Duration::from_secs(1)));
            let mut state = source.state.subscribe();
            state.wait_for(|state| state.keys.is_some()).await.unwrap();
            assert_eq!((asked.get(), source.not_ready()), (4, None));
        })
        .await;
    }
}
