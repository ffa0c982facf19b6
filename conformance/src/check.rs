//! What a scenario ends with, and how it waits.

use std::{fmt, future::Future, time::Duration};

use tokio::{sync::watch, time::Instant};

/// Why a scenario failed, for the author of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub(crate) String);

/// How a scenario ends.
pub(crate) type Outcome = Result<(), Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Fails the scenario with these words unless the condition holds.
macro_rules! check {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err($crate::check::Failure::new(format!($($words)+)));
        }
    };
}

/// Fails the scenario unless both are equal; the words say what they are.
macro_rules! check_eq {
    ($found:expr, $expected:expr, $($words:tt)+) => {
        match (&$found, &$expected) {
            (found, expected) if found == expected => {}
            (found, expected) => {
                let what = format!($($words)+);
                let text = format!("{what}: it is {found:?}, and should be {expected:?}");
                return Err($crate::check::Failure::new(text));
            }
        }
    };
}

pub(crate) use {check, check_eq};

/// A promise that somebody answers within the patience of the suite.
pub(crate) async fn within<T>(patience: Duration, what: &str, future: impl Future<Output = T>) -> Result<T, Failure> {
    let over = || Failure::new(format!("waited {} s for {what}", patience.as_secs()));
    tokio::time::timeout(patience, future).await.map_err(|_| over())
}

/// Looks each time something changes, until `look` finds what it looks for.
pub(crate) async fn until_changed<T>(
    patience: Duration,
    what: &str,
    changed: &watch::Sender<()>,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T, Failure> {
    let mut changes = changed.subscribe();
    let looking = async {
        loop {
            changes.borrow_and_update();
            if let Some(found) = look() {
                return found;
            }
            // The sender is borrowed, so it is there.
            let _ = changes.changed().await;
        }
    };
    within(patience, what, looking).await
}

/// Looks again and again, where nothing tells of changes, until `look` finds what it looks for. Says what it saw last.
pub(crate) async fn until_polled<T, S: fmt::Debug>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Result<T, S>, Failure>,
) -> Result<T, Failure> {
    /// The pause between two looks.
    const PAUSE: Duration = Duration::from_millis(20);
    let end = Instant::now() + patience;
    loop {
        let seen = match look().await? {
            Ok(found) => return Ok(found),
            Err(seen) => seen,
        };
        let seconds = patience.as_secs();
        check!(Instant::now() < end, "waited {seconds} s for {what}; there was {seen:?}");
        tokio::time::sleep(PAUSE).await;
    }
}
