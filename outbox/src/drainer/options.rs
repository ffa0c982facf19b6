//! What may be set, and how long to wait.

use std::time::Duration;

/// How a drainer drains. The defaults suit a hub and a database nearby.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who it is, for people: `claimed_by` of its rows. Default: `drainer-` with the process id and a random number.
    pub name: String,
    /// Most rows of a claim; fewer after a batch that was not published in time. Default: 500.
    pub batch: usize,
    /// About how many bytes a claim may have. Default: 8 MiB.
    pub max_bytes: usize,
    /// Most claims that are being published at once. Default: 2.
    pub in_flight: usize,
    /// How long rows stay claimed by a drainer that says nothing more. Default: 30 s.
    pub lease: Duration,
    /// How long a batch may take to be published; ends a tenth of the lease before the lease anyway. Default: 10 s.
    pub publish_timeout: Duration,
    /// How long a call of the store may take. Default: 10 s.
    pub store_timeout: Duration,
    /// How often it looks for rows when nothing wakes it. Default: 1 s.
    pub poll: Duration,
    /// Tries of a row before it is parked. Default: 10.
    pub max_attempts: u32,
    /// Wait after a row's first failed try; doubles with each. Default: 100 ms.
    pub backoff_first: Duration,
    /// Longest such wait. Default: 30 s.
    pub backoff_most: Duration,
    /// Wait after the hub or the store could not be reached; doubles with each failure. Default: 100 ms.
    pub pause_first: Duration,
    /// Longest such wait. Default: 5 s.
    pub pause_most: Duration,
    /// How long sent rows are kept; `None`: for ever. Default: 24 h.
    pub retention: Option<Duration>,
    /// How often older ones are deleted. Default: 60 s.
    pub cleanup_every: Duration,
    /// How long batches may go on once it is told to stop; then their rows are given back, which has a second more.
    /// Default: 2 s.
    pub stop_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: format!("drainer-{}-{:08x}", std::process::id(), fastrand::u32(..)),
            batch: 500,
            max_bytes: 8 * 1024 * 1024,
            in_flight: 2,
            lease: Duration::from_secs(30),
            publish_timeout: Duration::from_secs(10),
            store_timeout: Duration::from_secs(10),
            poll: Duration::from_secs(1),
            max_attempts: 10,
            backoff_first: Duration::from_millis(100),
            backoff_most: Duration::from_secs(30),
            pause_first: Duration::from_millis(100),
            pause_most: Duration::from_secs(5),
            retention: Some(Duration::from_secs(24 * 60 * 60)),
            cleanup_every: Duration::from_secs(60),
            stop_within: Duration::from_secs(2),
        }
    }
}

impl Options {
    /// The wait after a row's try number `attempts` failed, from 1.
    pub(super) fn backoff(&self, attempts: u32) -> Duration {
        jittered(self.backoff_first, attempts.saturating_sub(1), self.backoff_most)
    }
}

/// `first`, doubled so many times, at most `most`; half of it at random, so that what failed together is not tried together.
fn jittered(first: Duration, doubled: u32, most: Duration) -> Duration {
    let full = first.saturating_mul(2_u32.saturating_pow(doubled)).min(most);
    full.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Waits that double.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    doubled: u32,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, doubled: 0 }
    }

    pub(super) fn next(&mut self) -> Duration {
        let wait = jittered(self.first, self.doubled, self.most);
        self.doubled = self.doubled.saturating_add(1);
        wait
    }

    pub(super) fn reset(&mut self) {
        self.doubled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let options = Options::default();
        for (attempts, ms) in [(1, 100), (2, 200), (9, 25_600), (10, 30_000), (u32::MAX, 30_000)] {
            let full = Duration::from_millis(ms);
            for _ in 0..100 {
                let wait = options.backoff(attempts);
                assert!(wait >= full / 2 && wait <= full, "{attempts}: {wait:?}");
            }
        }
    }
}
