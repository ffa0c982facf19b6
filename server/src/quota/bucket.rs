//! Token buckets that may go into debt.
//!
//! What is taken is had at once, and who takes more than there is waits afterwards until the debt is paid back. So an
//! event of 1 MiB passes a bucket of 256 KiB a second, and one that several buckets are asked for is taken from none twice.
//! How deep the debt may be is for the caller: [`Bucket::lacks`] allows none but that of what is large,
//! [`Bucket::owes_more_than`] a bounded one.
//! Libraries of rate limits refuse what is larger than the bucket, and take from the first what the second refuses.
//!
//! A bucket is one number: when it will be full again. All times are nanoseconds since the hub began.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// One bucket.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    full_at: AtomicU64,
}

/// How fast a bucket fills, and how much is in it at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fill {
    /// Units that come in each `per`.
    pub(super) units: u64,
    pub(super) per: Duration,
    /// As many as come in this time are in it when it is full.
    pub(super) burst: Duration,
}

impl Fill {
    /// How long it takes until so many have come.
    fn cost(self, units: u64) -> u64 {
        let cost = u128::from(units).saturating_mul(self.per.as_nanos()) / u128::from(self.units.max(1));
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    fn burst(self) -> u64 {
        u64::try_from(self.burst.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Bucket {
    /// For how long `units` are not there yet. More than half of a burst counts as that half: what is large passes when the
    /// bucket is half full, also where others take a little of it all the time.
    pub(super) fn lacks(&self, fill: Fill, now: u64, units: u64) -> Duration {
        let full_at = self.full_at.load(Relaxed);
        if full_at <= now {
            return Duration::ZERO;
        }
        let then = full_at.saturating_add(fill.cost(units).min(fill.burst() / 2)).saturating_sub(fill.burst());
        Duration::from_nanos(then.min(full_at).saturating_sub(now))
    }

    /// For how long more than `most` is owed. How much comes on top does not count: the large has the same turn as the small.
    pub(super) fn owes_more_than(&self, most: Duration, fill: Fill, now: u64) -> Duration {
        let owed = self.full_at.load(Relaxed).saturating_sub(now.saturating_add(fill.burst()));
        Duration::from_nanos(owed).saturating_sub(most)
    }

    /// Takes `units`; how long it then is in debt.
    pub(super) fn take(&self, fill: Fill, now: u64, units: u64) -> Duration {
        let cost = fill.cost(units);
        let then = |full_at: u64| full_at.max(now).saturating_add(cost);
        let before = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| Some(then(full_at)));
        let full_at = then(before.unwrap_or_else(|now| now));
        Duration::from_nanos(full_at.saturating_sub(now.saturating_add(fill.burst())))
    }

    /// Whether it is as it was made.
    pub(super) fn is_full(&self, now: u64) -> bool {
        self.full_at.load(Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::table::{SWEEP_MIN, Table},
        *,
    };

    const SECOND: u64 = 1_000_000_000;
    /// 10 a second, 20 when full.
    const FILL: Fill = Fill { units: 10, per: Duration::from_secs(1), burst: Duration::from_secs(2) };

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_what_comes() {
        let bucket = Bucket::default();
        for _ in 0..20 {
            assert_eq!(bucket.lacks(FILL, 0, 1), Duration::ZERO);
            assert_eq!(bucket.take(FILL, 0, 1), Duration::ZERO);
        }
        assert_eq!(bucket.lacks(FILL, 0, 1), Duration::from_millis(100));
        assert_eq!(bucket.lacks(FILL, SECOND / 10, 1), Duration::ZERO);
        assert_eq!(bucket.take(FILL, SECOND / 10, 3), Duration::from_millis(200));
        assert!(!bucket.is_full(SECOND));
        assert!(bucket.is_full(3 * SECOND));
        assert_eq!(bucket.lacks(FILL, 3 * SECOND, 20), Duration::ZERO, "no more than the burst was saved up");
        assert_eq!(bucket.take(FILL, 3 * SECOND, 21), Duration::from_millis(100));
    }

    #[test]
    fn what_is_larger_than_the_bucket_passes_one_that_is_half_full_and_is_waited_for_afterwards() {
        let bucket = Bucket::default();
        assert_eq!(bucket.lacks(FILL, SECOND, 1000), Duration::ZERO);
        assert_eq!(bucket.take(FILL, SECOND, 1000), Duration::from_secs(98));
        assert_eq!(bucket.lacks(FILL, 99 * SECOND, 1), Duration::from_millis(100));
        // Where a little is taken all the time it was once told to wait until the bucket is full, again and again.
        assert_eq!(bucket.lacks(FILL, 99 * SECOND, 1000), Duration::from_secs(1));
        assert_eq!(bucket.lacks(FILL, 100 * SECOND, 1000), Duration::ZERO);
    }

    #[test]
    fn debt_has_a_bound_and_the_large_have_the_same_turn_as_the_small() {
        let bucket = Bucket::default();
        let owes = |now| bucket.owes_more_than(Duration::from_secs(5), FILL, now);
        assert_eq!(owes(0), Duration::ZERO);
        // 20 were there, 160 are owed.
        bucket.take(FILL, 0, 180);
        assert_eq!(owes(0), Duration::from_secs(11));
        assert_eq!(owes(11 * SECOND), Duration::ZERO);
        bucket.take(FILL, 11 * SECOND, 10);
        assert_eq!(owes(11 * SECOND), Duration::from_secs(1));
    }

    #[test]
    fn over_any_time_no_more_passes_than_the_rate_and_the_burst() {
        let bucket = Bucket::default();
        let mut random = 1_u64;
        let (mut now, mut passed) = (0, 0);
        while now < 100 * SECOND {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            now += random >> 38;
            let units = 1 + (random >> 8) % 4;
            if bucket.lacks(FILL, now, units).is_zero() {
                bucket.take(FILL, now, units);
                passed += units;
            }
        }
        assert!((950..=20 + 1000 + 4).contains(&passed), "{passed}");
    }

    #[test]
    fn extreme_numbers_wait_long_and_do_not_wrap() {
        let bucket = Bucket::default();
        let slow = Fill { units: 1, per: Duration::MAX, burst: Duration::ZERO };
        bucket.take(slow, 5, u64::MAX);
        bucket.take(slow, 6, u64::MAX);
        assert!(bucket.lacks(slow, 7, 1) > Duration::from_secs(1_000_000_000));
    }

    #[test]
    fn buckets_that_are_full_and_nobodys_are_forgotten() {
        let table = Table::<Bucket>::default();
        let held = table.of(u64::MAX, |_| true);
        table.of(u64::MAX - 1, |_| true).take(FILL, 0, 1);
        for whose in 0..10 * SWEEP_MIN as u64 {
            table.of(whose, |bucket| bucket.is_full(0));
        }
        assert!(table.len() <= 2 * SWEEP_MIN + 2, "{}", table.len());
        assert!(Arc::ptr_eq(&held, &table.of(u64::MAX, |_| true)));
        assert!(!table.of(u64::MAX - 1, |_| true).is_full(0), "in use a moment ago: not new again");
    }
}
