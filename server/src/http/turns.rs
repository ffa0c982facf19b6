//! Who may have how much under way: so many at a time, and of these so many of one token.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use prom_protocol::ErrorCode;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::web::Failure;

/// Tokens that are remembered before those that have nothing under way are forgotten.
const KNOWN: usize = 4096;

/// Turns of one kind of request.
#[derive(Debug)]
pub(super) struct Turns {
    /// What they are, for people.
    what: &'static str,
    all: Arc<Semaphore>,
    /// Most of one token.
    each: usize,
    /// Those of tokens that have or await any, by the token's hash.
    tokens: Mutex<HashMap<u64, Weak<Semaphore>>>,
    hasher: RandomState,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _own: OwnedSemaphorePermit,
    _one: OwnedSemaphorePermit,
}

impl Turns {
    /// At most `all` at a time, and a quarter of them of one token.
    pub(super) fn new(what: &'static str, all: usize) -> Self {
        Self {
            what,
            all: Arc::new(Semaphore::new(all)),
            each: all.div_ceil(4),
            tokens: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// A turn for who has this token, at the latest after `patience`.
    ///
    /// # Errors
    /// `rate_limited` when the token has as many as it may, `overloaded` when there are no more.
    pub(super) async fn take(&self, token: &str, patience: Duration) -> Result<Turn, Failure> {
        let deadline = Instant::now() + patience;
        // Its own first: while a token waits for itself it takes nothing from the others.
        let own = self.of(self.hasher.hash_one(token));
        let Ok(Ok(own)) = timeout_at(deadline, own.acquire_owned()).await else {
            let message = format!("this token has {} {} under way, as many as one may have", self.each, self.what);
            return Err(Failure::new(ErrorCode::RateLimited, message));
        };
        let Ok(Ok(one)) = timeout_at(deadline, Arc::clone(&self.all).acquire_owned()).await else {
            let message = format!("the hub has as many {} under way as it allows", self.what);
            return Err(Failure::new(ErrorCode::Overloaded, message));
        };
        Ok(Turn { _own: own, _one: one })
    }

    fn of(&self, token: u64) -> Arc<Semaphore> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tokens.get(&token).and_then(Weak::upgrade) {
            return known;
        }
        if tokens.len() >= KNOWN {
            // So many are never under way: most are long gone.
            tokens.retain(|_, own| own.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(self.each));
        tokens.insert(token, Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn one_token_has_a_quarter_and_the_others_have_the_rest() {
        let turns = Turns::new("exports", 8);
        let code = async |token| turns.take(token, SOON).await.map_err(|failure| failure.code()).map(drop);
        let mut held = Vec::new();
        for token in ["a", "a", "b", "b", "c", "c", "d"] {
            held.push(turns.take(token, SOON).await.unwrap());
        }
        assert_eq!(code("a").await, Err(Some(ErrorCode::RateLimited)));
        assert_eq!(code("d").await, Ok(()));
        held.push(turns.take("d", SOON).await.unwrap());
        assert_eq!(code("e").await, Err(Some(ErrorCode::Overloaded)));
        held.remove(0);
        assert_eq!(code("e").await, Ok(()), "free again");
        assert_eq!(code("a").await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_that_have_nothing_under_way_are_forgotten() {
        let turns = Turns::new("exports", 8);
        let held = turns.take("held", SOON).await.unwrap();
        for token in 0..3 * KNOWN {
            turns.take(&token.to_string(), SOON).await.unwrap();
        }
        assert!(turns.tokens.lock().unwrap().len() <= KNOWN);
        let _second = turns.take("held", SOON).await.unwrap();
        assert!(turns.take("held", SOON).await.is_err(), "this one was not");
        drop(held);
    }
}
