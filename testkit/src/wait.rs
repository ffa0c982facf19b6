//! Waiting for what happens by itself.

use std::time::Duration;

/// The deadline of everything that is waited for. Far beyond what anything takes, also on a machine that is busy with
/// other work, so that only a defect meets it.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// The pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Runs a future with [`DEADLINE`], so that a lost wake-up is a failure of the test and not a hang.
pub async fn in_time<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

/// Waits until `check` returns true, at most [`DEADLINE`]; `what` says what was waited for when it does not.
pub async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    until_some(what, async || check().await.then_some(())).await;
}

/// Waits until `check` returns something, at most [`DEADLINE`], and returns that.
pub async fn until_some<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(DEADLINE, looking).await {
        Ok(found) => found,
        Err(_) => panic!("waited {DEADLINE:?} for {what}"),
    }
}
