//! Log lines about what strangers can bring about as often as they like: one in a while, which says how many were left out.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Lets one log line through in a while, and counts those it holds back.
#[derive(Debug)]
pub(crate) struct Sparing {
    every: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Sparing {
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, state: Mutex::default() }
    }

    /// Whether a line may be written now: then how many were left out since the last one.
    pub(crate) fn turn(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = &mut *state;
        if last.is_some_and(|last| last.elapsed() < self.every) {
            *left_out += 1;
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(left_out))
    }

    /// The next line is written whenever it comes.
    pub(crate) fn reset(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_in_a_while_says_how_many_were_left_out() {
        let lines = Sparing::new(Duration::from_secs(5));
        assert_eq!(lines.turn(), Some(0));
        for _ in 0..1000 {
            assert_eq!(lines.turn(), None);
        }
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(lines.turn(), Some(1000));
        assert_eq!(lines.turn(), None);
        lines.reset();
        assert_eq!(lines.turn(), Some(0));
    }
}
