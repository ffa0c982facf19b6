//! What the log is told of a store that is full.

use std::time::Duration;

use tokio::time::Instant;

use crate::sparing::Sparing;

/// Least time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Whether the store was full when it was last looked at, and what of that is still to be told.
#[derive(Debug)]
pub(super) struct Fullness {
    /// Since when it is full.
    since: Option<Instant>,
    warnings: Sparing,
    /// The log knows of it.
    told: bool,
    /// Publishes that were refused for it, and not told of.
    refused: u64,
}

/// What there is to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// It is full, and has refused so many publishes since the last time it was told.
    Full(u64),
    /// It has room again after so long, and has refused so many more publishes meanwhile.
    Room(Duration, u64),
}

impl Fullness {
    pub(super) fn new() -> Self {
        Self { since: None, warnings: Sparing::new(WARN_EVERY), told: false, refused: 0 }
    }

    /// Whether it was full.
    pub(super) const fn is_full(&self) -> bool {
        self.since.is_some()
    }

    /// Takes on whether it is full, and how many publishes it has refused since the last call; says what the log is to know.
    pub(super) fn look(&mut self, full: bool, refused: u64) -> Option<Tell> {
        if full {
            let begins = self.since.is_none();
            self.since.get_or_insert_with(Instant::now);
            self.refused += refused;
            if (begins || self.refused > 0) && self.warnings.turn().is_some() {
                self.told = true;
                return Some(Tell::Full(std::mem::take(&mut self.refused)));
            }
            return None;
        }
        let since = self.since.take()?;
        // Of a time that nobody was told of, nobody need be told that it is over; what it refused is told with the next one.
        let told = std::mem::take(&mut self.told);
        told.then(|| Tell::Room(since.elapsed(), std::mem::take(&mut self.refused)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_told_when_it_begins_now_and_then_and_when_it_ends() {
        let second = Duration::from_secs(1);
        let mut room = Fullness::new();
        assert_eq!(room.look(false, 0), None);
        assert_eq!(room.look(true, 1), Some(Tell::Full(1)));
        assert!(room.is_full());
        for _ in 0..9 {
            tokio::time::advance(second).await;
            assert_eq!(room.look(true, 100), None, "not a line for each");
        }
        tokio::time::advance(second).await;
        assert_eq!(room.look(true, 0), Some(Tell::Full(900)), "also when nobody publishes any more");
        tokio::time::advance(WARN_EVERY).await;
        assert_eq!(room.look(true, 0), None, "there is nothing new");
        assert_eq!(room.look(true, 0), None);
        assert_eq!(room.look(false, 0), Some(Tell::Room(second * 20, 0)));
        assert!(!room.is_full());
        assert_eq!(room.look(false, 0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_full_and_is_not_in_turns_does_not_fill_the_log() {
        let mut room = Fullness::new();
        assert_eq!(room.look(true, 1), Some(Tell::Full(1)));
        let mut told = Vec::new();
        for _ in 0..99 {
            tokio::time::advance(Duration::from_millis(10)).await;
            told.extend(room.look(false, 0));
            told.extend(room.look(true, 1));
        }
        assert_eq!(told, [Tell::Room(Duration::from_millis(10), 0)]);
        tokio::time::advance(WARN_EVERY).await;
        assert_eq!(room.look(true, 1), Some(Tell::Full(100)), "none is left out");
    }
}
