//! Whether events are refused for want of room, and what for.
//!
//! A commit notes what it refuses (`append.rs`, `plan.rs`), and the upkeep looks from time to time whether there is room for
//! it by now, in the way in which a commit would make it.

use std::{
    io::{self, ErrorKind},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What there was no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// So many bytes at the end of the log.
    Disk(usize),
    /// So many bytes within `max_bytes`.
    Budget(u64),
    /// A commit in space that was taken for reserved. There is no asking for that: the next commit shows it.
    Write,
}

/// For want of what events are refused, and in which words, if they are.
#[derive(Debug, Default)]
pub(crate) struct Shortage(Mutex<Option<(Lack, String)>>);

impl Shortage {
    fn noted(&self) -> MutexGuard<'_, Option<(Lack, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why events are refused, if they are.
    pub(crate) fn why(&self) -> Option<String> {
        self.noted().as_ref().map(|(_, reason)| reason.clone())
    }

    /// What there was no room for.
    pub(crate) fn lack(&self) -> Option<Lack> {
        self.noted().as_ref().map(|(lack, _)| *lack)
    }

    /// Notes that events were refused. Of the same lack the largest stays: less room than that does not help whoever wanted it.
    pub(crate) fn note(&self, lack: Lack, reason: String) {
        let mut noted = self.noted();
        let lack = match (noted.as_ref().map(|(lack, _)| *lack), lack) {
            (Some(Lack::Disk(before)), Lack::Disk(now)) => Lack::Disk(before.max(now)),
            (Some(Lack::Budget(before)), Lack::Budget(now)) => Lack::Budget(before.max(now)),
            (_, now) => now,
        };
        *noted = Some((lack, reason));
    }

    /// Notes that a commit of events was written.
    pub(crate) fn written(&self) {
        let mut noted = self.noted();
        if matches!(*noted, Some((Lack::Write, _))) {
            *noted = None;
        }
    }

    /// Notes that there is room again.
    pub(crate) fn over(&self) {
        *self.noted() = None;
    }
}

/// Whether a write failed because the disk, or what this user may have of it, is used up.
pub(crate) fn is_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
