//! Whether events are refused for want of room, and finding out that they no longer are.

use std::time::Duration;

use prom_store::Batch;
use tokio_util::sync::CancellationToken;

use crate::{Inner, connect::reason};

/// How often a store that is full is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Events are refused for want of room.
#[derive(Debug)]
pub(super) enum Full {
    /// In `max_bytes`: so many bytes of one are too many.
    Budget(u64),
    /// On the server's disk, as it says itself, until it has taken events, or the write by which
    /// [`ready`](prom_store::Store::ready) tries it.
    Disk(String),
}

impl Inner {
    /// Why events are refused for want of room, if they are.
    pub(super) fn why_full(&self) -> Option<String> {
        self.full().as_ref().map(|full| match full {
            Full::Budget(_) => crate::plan::FULL.to_owned(),
            Full::Disk(why) => format!("MongoDB's disk is full: {why}"),
        })
    }

    /// Notes what a commit has refused because of `max_bytes`. The largest stays: less room than that does not help whoever
    /// wanted it.
    pub(super) fn note_refused(&self, bytes: u64) {
        let mut full = self.full();
        let before = if let Some(Full::Budget(before)) = *full { before } else { 0 };
        *full = Some(Full::Budget(before.max(bytes)));
        drop(full);
        self.filled.notify_one();
    }

    /// Notes that MongoDB has no space for a commit.
    pub(super) fn note_no_space(&self, why: &str) {
        *self.full() = Some(Full::Disk(why.to_owned()));
    }

    /// Notes that MongoDB has taken something.
    pub(super) fn note_space(&self) {
        let mut full = self.full();
        if matches!(*full, Some(Full::Disk(_))) {
            *full = None;
        }
    }

    /// Looks, while the store is full, whether there is room again for what was refused, until the store is closed.
    pub(super) async fn look_for_room(&self, closed: &CancellationToken) {
        loop {
            let bytes = if let Some(Full::Budget(bytes)) = *self.full() { Some(bytes) } else { None };
            let Some(bytes) = bytes else {
                tokio::select! {
                    () = closed.cancelled() => return,
                    () = self.filled.notified() => continue,
                }
            };
            let looked = tokio::select! {
                () = closed.cancelled() => return,
                looked = self.has_room(bytes) => looked,
            };
            match looked {
                Ok(true) => {
                    let mut full = self.full();
                    // Another was refused meanwhile, which wanted more.
                    if matches!(*full, Some(Full::Budget(now)) if now <= bytes) {
                        *full = None;
                    }
                    continue;
                }
                Ok(false) => {}
                Err(why) => self.retrying(&why),
            }
            tokio::select! {
                () = closed.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Whether an event of so many bytes would be taken within `max_bytes`.
    async fn has_room(&self, bytes: u64) -> Result<bool, String> {
        // Others settle, trim and remove too.
        self.count_bytes().await.map_err(|error| reason(&error))?;
        let (_, room) = self.make_room(&Batch::default(), bytes).await.map_err(|error| reason(&error))?;
        Ok(bytes <= room)
    }
}
