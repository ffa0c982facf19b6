//! The open log: what everybody reads, and the one who may write.

use std::sync::{Mutex, MutexGuard};

use crate::{
    append::Appender,
    shared::{Shared, lock},
};

/// A log that is open. [`open`](crate::open::open) returns it.
///
/// Order of locks: the appender first, then the state ([`Shared::state`]). Whoever holds the state must not take the
/// appender.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) shared: Shared,
    /// Whoever holds it may append.
    appender: Mutex<Appender>,
}

impl Log {
    pub(crate) fn new(shared: Shared, appender: Appender) -> Self {
        Self { shared, appender: Mutex::new(appender) }
    }

    /// The right to append. Waits while another thread has it.
    pub(crate) fn appender(&self) -> MutexGuard<'_, Appender> {
        lock(&self.appender)
    }
}
