//! Ids for events whose publisher chose none.

use std::sync::Arc;

/// A UUIDv7 of `now`, in milliseconds since the Unix epoch: it sorts by time, so that ids made later stand later.
pub fn new_id(now: u64) -> Arc<str> {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    uuid::Builder::from_unix_timestamp_millis(now, &random).into_uuid().to_string().into()
}
