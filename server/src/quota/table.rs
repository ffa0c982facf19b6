//! Something for each of many: made when it is first asked for, and forgotten when nobody holds it and it is as if new.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// So many are never looked through for some to forget.
pub(super) const SWEEP_MIN: usize = 1024;

/// Each by a hash of whose it is.
#[derive(Debug)]
pub(crate) struct Table<B>(Mutex<Known<B>>);

#[derive(Debug)]
struct Known<B> {
    own: HashMap<u64, Arc<B>>,
    sweep_at: usize,
}

impl<B> Default for Table<B> {
    fn default() -> Self {
        Self(Mutex::new(Known { own: HashMap::new(), sweep_at: SWEEP_MIN }))
    }
}

impl<B: Default> Table<B> {
    /// That of `whose`; `idle` says of one that nobody holds whether it can be forgotten.
    pub(super) fn of(&self, whose: u64, idle: impl Fn(&B) -> bool) -> Arc<B> {
        self.of_or(whose, idle, B::default)
    }
}

impl<B> Table<B> {
    /// The same, made by `new`.
    pub(crate) fn of_or(&self, whose: u64, idle: impl Fn(&B) -> bool, new: impl FnOnce() -> B) -> Arc<B> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = known.own.get(&whose) {
            return Arc::clone(own);
        }
        if known.own.len() >= known.sweep_at {
            known.own.retain(|_, own| Arc::strong_count(own) > 1 || !idle(own));
            // Where many are held, not all of them are walked through for each that is new.
            known.sweep_at = SWEEP_MIN.max(known.own.len() * 2);
        }
        Arc::clone(known.own.entry(whose).or_insert_with(|| Arc::new(new())))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).own.len()
    }
}
