//! Whether events are refused for want of room, and finding out that they no longer are.
//!
//! A commit notes what it refuses (`append.rs`, `plan.rs`), and the upkeep looks from time to time whether there is room for
//! it by now, in the way in which a commit would make it.

use std::io::{self, ErrorKind};

use prom_store::{StoreError, wall_clock};

use crate::{
    append::Appender,
    plan::Plan,
    shared::{Shared, lock},
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

/// Events are refused for want of room.
#[derive(Debug)]
pub(crate) struct Shortage {
    lack: Lack,
    reason: String,
}

impl Shared {
    /// Why events are refused for want of room, if they are.
    pub(crate) fn why_full(&self) -> Option<String> {
        lock(&self.full).as_ref().map(|full| full.reason.clone())
    }

    /// Notes that events were refused. Of the same lack the largest stays: less room than that does not help whoever wanted it.
    pub(crate) fn note_full(&self, lack: Lack, reason: String) {
        let mut full = lock(&self.full);
        let lack = match (full.as_ref().map(|full| full.lack), lack) {
            (Some(Lack::Disk(before)), Lack::Disk(now)) => Lack::Disk(before.max(now)),
            (Some(Lack::Budget(before)), Lack::Budget(now)) => Lack::Budget(before.max(now)),
            (_, now) => now,
        };
        *full = Some(Shortage { lack, reason });
    }

    /// Notes that a commit of events was written.
    pub(crate) fn note_written(&self) {
        let mut full = lock(&self.full);
        if full.as_ref().is_some_and(|full| full.lack == Lack::Write) {
            *full = None;
        }
    }
}

impl Appender {
    /// [`Appender::make_room`] for a commit, which notes it when there is none for `events`.
    pub(crate) fn make_room_for(
        &mut self,
        shared: &Shared,
        now: u64,
        bytes: usize,
        events: bool,
    ) -> Result<(), StoreError> {
        self.make_room(shared, now, bytes).inspect_err(|error| {
            if events {
                shared.note_full(Lack::Disk(bytes), error.to_string());
            }
        })
    }

    /// Looks whether there is room again for what was refused.
    pub(crate) fn look_for_room(&mut self, shared: &Shared) {
        let Some(lack) = lock(&shared.full).as_ref().map(|full| full.lack) else { return };
        let has_room = match lack {
            Lack::Disk(bytes) => self.make_room(shared, wall_clock(), bytes).is_ok(),
            Lack::Budget(bytes) => Plan::has_room(shared, &shared.read(), bytes),
            Lack::Write => false,
        };
        // Only who has the appender notes something there.
        if has_room {
            *lock(&shared.full) = None;
        }
    }
}

/// Whether a write failed because the disk, or what this user may have of it, is used up.
pub(crate) fn is_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
