//! How long to wait before the next try.

use crate::entropy::Entropy;

/// Full jitter: a random wait between 0 and a bound that doubles.
#[derive(Debug)]
pub struct Backoff {
    min_ms: u64,
    max_ms: u64,
    failures: u32,
}

/// Failures a hub that has too many connections counts for: a wait of seconds, not of milliseconds.
const CROWDED: u32 = 5;

impl Backoff {
    /// Bounds of the first and of the longest wait, in milliseconds; at least 1.
    pub fn new(min_ms: u64, max_ms: u64) -> Self {
        Self { min_ms: min_ms.max(1), max_ms: max_ms.max(min_ms).max(1), failures: 0 }
    }

    /// It went well: the next wait is a first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    pub(crate) fn crowded(&mut self) {
        self.failures = self.failures.max(CROWDED);
    }

    /// The wait in milliseconds, not shorter than `at_least`.
    pub fn next(&mut self, entropy: &mut Entropy, at_least: u64) -> u64 {
        let bound = self.min_ms.saturating_mul(1 << self.failures.min(32)).min(self.max_ms);
        self.failures = self.failures.saturating_add(1);
        at_least.saturating_add(entropy.up_to(bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_longest_wait() {
        let mut entropy = Entropy::new([3, 4]);
        let mut longest = [0; 12];
        for _ in 0..500 {
            let mut backoff = Backoff::new(250, 30_000);
            for seen in &mut longest {
                *seen = backoff.next(&mut entropy, 0).max(*seen);
            }
        }
        for (failures, seen) in longest.into_iter().enumerate() {
            let bound = (250 << failures).min(30_000);
            assert!(seen <= bound && seen > bound * 9 / 10, "{failures}: {seen} of {bound}");
        }
    }

    #[test]
    fn odd_settings_are_mended() {
        let mut entropy = Entropy::new([3, 4]);
        assert!(Backoff::new(0, 0).next(&mut entropy, 7) <= 8);
        assert!(Backoff::new(500, 10).next(&mut entropy, 0) <= 500);
        let mut crowded = Backoff::new(250, 30_000);
        crowded.crowded();
        assert!((0..50).map(|_| crowded.next(&mut entropy, 0)).max() > Some(8_000));
    }
}
