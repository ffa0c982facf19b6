//! Which appends are refused, whatever the backend: the rules that are the same in all of them.

use std::sync::Arc;

use prom_protocol::{ErrorCode, Refusal};

use crate::values::{Append, Appended};

/// Most topics of a hub.
pub const MAX_TOPICS: usize = 100_000;

/// Whether an append is taken though the store is full or has all the topics it may have. These are the hub's own,
/// whose ids start with `$`: dead letters, committed with the cursors that settle what they are about, which is what
/// makes room.
pub fn is_exempt(append: &Append) -> bool {
    append.id.as_ref().is_some_and(|id| id.starts_with('$'))
}

/// The outcome of an append whose id is there already, on the same topic or on another one.
///
/// # Errors
/// `publish_failed` when it is on another topic. Which one is not said: the publisher may not be allowed to know.
pub fn known_id(id: &Arc<str>, seq: u64, same_topic: bool) -> Result<Appended, Refusal> {
    if same_topic {
        Ok(Appended { id: id.clone(), seq, duplicate: true })
    } else {
        Err(Refusal::new(ErrorCode::PublishFailed, "opts.id stands on another topic"))
    }
}

/// Whether one more topic may come beside the `topics` there are.
///
/// # Errors
/// `publish_failed`: there are [`MAX_TOPICS`] already, and the append is not [exempt](is_exempt).
pub fn admit_topic(topics: usize, exempt: bool) -> Result<(), Refusal> {
    if topics < MAX_TOPICS || exempt {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::PublishFailed, format!("the hub already has {MAX_TOPICS} topics")))
}
