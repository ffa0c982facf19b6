//! The shape of the collection: its indexes, and the filters and updates that several steps of a claim share.
//!
//! Each filter is asked for together with the index that answers it.

use mongodb::bson::{Bson, DateTime, Document, doc};

use crate::Status;

/// The index of claimed rows, by the end of their lease, and of sent rows, by when they were sent.
pub(super) fn leases() -> Document {
    doc! {"status": 1, "lease_until": 1}
}

/// The index of rows that wait to be tried again.
pub(super) fn waiting() -> Document {
    doc! {"next_try_at": 1}
}

/// The index of the order in which rows are published. It has the key, so that rows whose key is busy are passed over
/// without reading them.
pub(super) fn order() -> Document {
    doc! {"status": 1, "ts": 1, "_id": 1, "key": 1}
}

/// The value of `status` in a pending row. A row without a status is pending.
pub(super) fn pending() -> Document {
    doc! {"$in": ["pending", Bson::Null]}
}

/// Claimed rows whose lease has run out at `now`, in the server's time. A `lease_until` that is no date has run out.
pub(super) fn ran_out(now: impl Into<Bson>) -> Document {
    let runs = doc! {"$and": [{"$eq": [{"$type": "$lease_until"}, "date"]}, {"$gt": ["$lease_until", now.into()]}]};
    doc! {"status": "claimed", "$expr": {"$not": [runs]}}
}

/// Rows that may be claimed at `now`: pending, not waiting to be tried again, and their key is not one of `blocked`.
pub(super) fn claimable(now: DateTime, blocked: &[Bson]) -> Document {
    // Not `$lte`: a row whose `next_try_at` is no date would never be found.
    let mut filter = doc! {"status": pending(), "next_try_at": {"$not": {"$gt": now}}};
    if !blocked.is_empty() {
        filter.insert("key", doc! {"$nin": blocked});
    }
    filter
}

/// Rows whose status is not one of [`Status`].
pub(super) fn unknown_status() -> Document {
    let mut known: Vec<Bson> = Status::ALL.iter().map(|status| Bson::from(status.as_str())).collect();
    known.push(Bson::Null);
    doc! {"status": {"$nin": known}}
}

/// The update that makes a claimed row pending again. `fence` stays: it shows that the row was claimed before.
pub(super) fn unclaimed() -> Document {
    doc! {"$set": {"status": "pending"}, "$unset": {"claimed_by": "", "lease_until": ""}}
}
