//! When things are due, and how long after that they were done.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Error;

/// Longest time a histogram can hold, in nanoseconds: one hour. Longer ones are recorded as this.
const LONGEST: u64 = 3_600_000_000_000;

/// When publishes or rows are due: at fixed times, whatever became of those before them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    start: Instant,
    /// Publishes or rows a second.
    rate: u64,
}

impl Schedule {
    /// A schedule of `rate` a second that starts in a moment.
    pub(crate) fn of(rate: u64) -> Self {
        Self { start: Instant::now() + Duration::from_millis(10), rate }
    }

    pub(crate) fn due(self, number: u64) -> Instant {
        self.start
            + Duration::from_nanos(
                u64::try_from(u128::from(number) * 1_000_000_000 / u128::from(self.rate)).unwrap_or(LONGEST),
            )
    }

    /// Records how long after it was due this was done.
    pub(crate) fn record(self, histogram: &mut Histogram<u64>, number: u64, now: Instant) {
        record(histogram, now.saturating_duration_since(self.due(number)));
    }
}

/// Records how long something took.
pub(crate) fn record(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(LONGEST).max(1));
}

/// An empty histogram of nanoseconds.
pub(crate) fn histogram() -> Result<Histogram<u64>, Error> {
    let failed = |error| Error::System("cannot make a histogram", std::io::Error::other(error));
    Histogram::new_with_bounds(1, LONGEST, 3).map_err(failed)
}
