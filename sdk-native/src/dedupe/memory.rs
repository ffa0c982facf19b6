//! Marks in memory.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Claim, DedupeStore};

type Key = (Box<str>, Box<str>);

/// A [`DedupeStore`] in memory: for consumers of one process whose effects do not outlive it either, and for tests.
///
/// Bounded: over its capacity the oldest marks are forgotten. Claims count apart; there are as many as handlers run.
#[derive(Debug)]
pub struct MemoryDedupe {
    capacity: usize,
    ttl: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    marks: HashMap<Key, Instant>,
    /// The same, oldest first, each once.
    order: VecDeque<Key>,
    /// By whom, and until when.
    claims: HashMap<Key, (Box<str>, Instant)>,
    sweep_at: usize,
}

impl MemoryDedupe {
    /// Keeps at most `capacity` marks (at least one), each for `ttl`.
    pub fn new(capacity: usize, ttl: Duration) -> Self {
        Self { capacity: capacity.max(1), ttl, state: Mutex::default() }
    }

    /// How many marks it has.
    pub fn len(&self) -> usize {
        self.state().marks.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The state without what has ended.
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done by a panic.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.trim(self.capacity, self.ttl);
        state
    }
}

impl State {
    fn trim(&mut self, capacity: usize, ttl: Duration) {
        // All marks live equally long, so the oldest end first.
        while let Some(oldest) = self.order.front() {
            let over = self.marks.get(oldest).is_none_or(|marked| marked.elapsed() >= ttl);
            if !over && self.marks.len() <= capacity {
                break;
            }
            if let Some(key) = self.order.pop_front() {
                self.marks.remove(&key);
            }
        }
    }

    /// Takes or renews a claim. Those nobody released are looked for each time their number has doubled.
    fn claim(&mut self, key: Key, holder: &str, lease: Duration) -> Claim {
        let now = Instant::now();
        if self.claims.get(&key).is_some_and(|(by, until)| **by != *holder && *until > now) {
            return Claim::Held;
        }
        if self.claims.len() >= self.sweep_at {
            self.claims.retain(|_, (_, until)| *until > now);
            self.sweep_at = 2 * self.claims.len().max(64);
        }
        self.claims.insert(key, (holder.into(), now + lease));
        Claim::Granted
    }
}

fn key(scope: &str, id: &str) -> Key {
    (scope.into(), id.into())
}

impl DedupeStore for MemoryDedupe {
    type Error = Infallible;

    async fn seen(&self, scope: &str, id: &str) -> Result<bool, Infallible> {
        Ok(self.state().marks.contains_key(&key(scope, id)))
    }

    async fn mark(&self, scope: &str, id: &str) -> Result<(), Infallible> {
        let key = key(scope, id);
        let mut state = self.state();
        state.claims.remove(&key);
        // A repeated mark keeps its age: the order stays that of the queue.
        if !state.marks.contains_key(&key) {
            state.marks.insert(key.clone(), Instant::now());
            state.order.push_back(key);
        }
        state.trim(self.capacity, self.ttl);
        Ok(())
    }

    async fn claim(&self, scope: &str, id: &str, holder: &str, lease: Duration) -> Result<Claim, Infallible> {
        let key = key(scope, id);
        let mut state = self.state();
        if state.marks.contains_key(&key) {
            return Ok(Claim::Marked);
        }
        Ok(state.claim(key, holder, lease))
    }

    async fn release(&self, scope: &str, id: &str, holder: &str) -> Result<(), Infallible> {
        let (key, mut state) = (key(scope, id), self.state());
        if state.claims.get(&key).is_some_and(|(by, _)| **by == *holder) {
            state.claims.remove(&key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn over_its_capacity_the_oldest_marks_are_forgotten() {
        let store = MemoryDedupe::new(2, LONG);
        for id in ["1", "2", "1", "3"] {
            let Ok(()) = store.mark("s", id).await;
        }
        assert_eq!(store.len(), 2);
        assert_eq!(
            [Ok(false), Ok(true), Ok(true)],
            [store.seen("s", "1").await, store.seen("s", "2").await, store.seen("s", "3").await]
        );
        assert_eq!(store.seen("t", "3").await, Ok(false), "another scope");
    }

    #[tokio::test]
    async fn a_mark_ends_with_its_time() {
        let store = MemoryDedupe::new(2, Duration::ZERO);
        let Ok(()) = store.mark("s", "1").await;
        assert_eq!(store.seen("s", "1").await, Ok(false));
        assert!(store.is_empty());
    }

    #[tokio::test]
    async fn a_claim_keeps_others_out_until_it_is_released_or_over() {
        let store = MemoryDedupe::new(2, LONG);
        assert_eq!(store.claim("s", "1", "a", LONG).await, Ok(Claim::Granted));
        assert_eq!(store.claim("s", "1", "b", LONG).await, Ok(Claim::Held));
        let Ok(()) = store.release("s", "1", "b").await;
        assert_eq!(store.claim("s", "1", "b", LONG).await, Ok(Claim::Held), "it was not b's to release");
        assert_eq!(store.claim("s", "1", "a", LONG).await, Ok(Claim::Granted), "renewed");
        let Ok(()) = store.release("s", "1", "a").await;
        assert_eq!(store.claim("s", "1", "b", Duration::ZERO).await, Ok(Claim::Granted));
        assert_eq!(store.claim("s", "1", "a", LONG).await, Ok(Claim::Granted), "b's is over");
        let Ok(()) = store.mark("s", "1").await;
        assert_eq!(store.claim("s", "1", "a", LONG).await, Ok(Claim::Marked));
    }
}
