//! Who may have how much under way: so many at a time, and of these so many of one subject.

use std::{sync::Arc, time::Duration};

use prom_protocol::ErrorCode;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{
    flow::{bounds::Limit, metrics::Metrics},
    quota::Table,
    web::Failure,
};

/// Turns of one kind of request.
#[derive(Debug)]
pub(super) struct Turns {
    /// What they are, for people.
    what: &'static str,
    limit: Limit,
    metrics: Arc<Metrics>,
    /// Most of all, and of one subject.
    most: usize,
    each: usize,
    all: Arc<Semaphore>,
    /// Each subject's own.
    subjects: Table<Semaphore>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    own: OwnedSemaphorePermit,
    _one: OwnedSemaphorePermit,
}

impl Turn {
    /// Gives its place among all to others. What is left is its subject's own.
    pub(super) fn rest(self) -> OwnedSemaphorePermit {
        self.own
    }
}

impl Turns {
    /// At most `most` at a time, and a quarter of them of one subject. What is refused counts as of `limit`.
    pub(super) fn new(what: &'static str, most: usize, limit: Limit, metrics: Arc<Metrics>) -> Self {
        let (all, each) = (Arc::new(Semaphore::new(most)), most.div_ceil(4));
        Self { what, limit, metrics, most, each, all, subjects: Table::default() }
    }

    /// A turn for this subject (`Access::holder`), at the latest after `patience`.
    ///
    /// # Errors
    /// `rate_limited` when it has as many as it may, `overloaded` when there are no more.
    pub(super) async fn take(&self, subject: u64, patience: Duration) -> Result<Turn, Failure> {
        let deadline = Instant::now() + patience;
        // Its own first: while a subject waits for itself it takes nothing from the others.
        // Who has a turn, or waits for one, holds it.
        let own = self.subjects.of_or(subject, |_| true, || Semaphore::new(self.each));
        let Ok(Ok(own)) = timeout_at(deadline, own.acquire_owned()).await else {
            self.metrics.bounds.reached(self.limit, self.each, 1);
            let message =
                format!("this token's subject has {} {} under way, as many as one may have", self.each, self.what);
            return Err(Failure::new(ErrorCode::RateLimited, message));
        };
        let Ok(Ok(one)) = timeout_at(deadline, Arc::clone(&self.all).acquire_owned()).await else {
            self.metrics.bounds.reached(self.limit, self.most, 1);
            let message = format!("the hub has as many {} under way as it allows", self.what);
            return Err(Failure::new(ErrorCode::Overloaded, message));
        };
        Ok(Turn { own, _one: one })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(10);
    /// More than are remembered of those that have nothing under way.
    const KNOWN: usize = 4096;

    fn exports(most: usize) -> (Turns, Arc<Metrics>) {
        let metrics = Arc::<Metrics>::default();
        (Turns::new("exports", most, Limit::Exports, Arc::clone(&metrics)), metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn one_subject_has_a_quarter_and_the_others_have_the_rest() {
        let (turns, metrics) = exports(8);
        let code = async |subject| turns.take(subject, SOON).await.map_err(|failure| failure.code()).map(drop);
        let mut held = Vec::new();
        for subject in [1, 1, 2, 2, 3, 3, 4] {
            held.push(turns.take(subject, SOON).await.unwrap());
        }
        assert_eq!(code(1).await, Err(Some(ErrorCode::RateLimited)));
        assert_eq!(code(4).await, Ok(()));
        held.push(turns.take(4, SOON).await.unwrap());
        assert_eq!(code(5).await, Err(Some(ErrorCode::Overloaded)));
        held.remove(0);
        assert_eq!(code(5).await, Ok(()), "free again");
        assert_eq!(code(1).await, Ok(()));
        let mut counted = String::new();
        metrics.bounds.render(&mut counted);
        assert!(counted.contains("limited_total{limit=\"exports\"} 2\n"), "{counted}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_rests_leaves_its_place_to_others_but_not_to_its_own() {
        let (turns, _) = exports(1);
        let first = turns.take(1, SOON).await.unwrap();
        assert!(turns.take(2, SOON).await.is_err());
        let rests = first.rest();
        assert!(turns.take(1, SOON).await.is_err(), "of its subject it is one still");
        turns.take(2, SOON).await.unwrap();
        drop(rests);
        turns.take(1, SOON).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn subjects_that_have_nothing_under_way_are_forgotten() {
        let (turns, _) = exports(8);
        let held = turns.take(0, SOON).await.unwrap();
        for subject in 1..3 * KNOWN as u64 {
            turns.take(subject, SOON).await.unwrap();
        }
        assert!(turns.subjects.len() <= KNOWN);
        let _second = turns.take(0, SOON).await.unwrap();
        assert!(turns.take(0, SOON).await.is_err(), "this one was not");
        drop(held);
    }
}
