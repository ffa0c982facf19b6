//! Which appends are refused, whatever the backend: the rules that are the same in all of them.

use prom_protocol::{ErrorCode, Refusal, limits};

use crate::values::Append;

/// Most topics of a hub at a time that have or had events. One in which groups have positions alone does not count: who may
/// only subscribe must not use topics up.
pub const MAX_TOPICS: usize = 100_000;

/// Longest id of an event, in bytes: those of publishers are shorter, the hub's own are not.
const ID_BYTES: usize = limits::KEY_BYTES;
/// Longest key of an event, in bytes.
const KEY_BYTES: usize = limits::KEY_BYTES;
/// Largest [`Append::body`], in bytes: far more than a publisher may send, and less than what any backend can hold.
pub const BODY_BYTES: usize = 16 * 1024 * 1024;

/// Whether every backend can hold an append, whoever made it: the hub's own are checked like those of publishers, because
/// one that a record cannot hold would stop everybody who reads its topic.
///
/// # Errors
/// `bad_frame` for an id or a key that is empty or longer than 512 bytes, `too_large` for a body over [`BODY_BYTES`].
pub fn admit_append(append: &Append) -> Result<(), Refusal> {
    let length = |name: &str, text: &str, most: usize| {
        let fits = !text.is_empty() && text.len() <= most;
        if fits { Ok(()) } else { Err(Refusal::bad_frame(format!("{name} must be 1 to {most} bytes"))) }
    };
    if let Some(id) = &append.id {
        length("opts.id", id, ID_BYTES)?;
    }
    if let Some(key) = &append.key {
        length("opts.key", key, KEY_BYTES)?;
    }
    if append.body.len() > BODY_BYTES {
        let message = format!("the event is larger than {} MiB, the most a store takes", BODY_BYTES >> 20);
        return Err(Refusal::new(ErrorCode::TooLarge, message));
    }
    Ok(())
}

/// Whether an append is taken though the store is full or has all the topics it may have. These are the hub's own,
/// whose ids start with `$`: dead letters, committed with the cursors that settle what they are about, which is what
/// makes room.
pub fn is_exempt(append: &Append) -> bool {
    append.id.as_ref().is_some_and(|id| id.starts_with('$'))
}

/// Whether one more topic may get its first event beside the `topics` that have or had some.
///
/// # Errors
/// `overloaded`: there are [`MAX_TOPICS`] already, and the append is not [exempt](is_exempt). Topics can be removed, so it
/// may be taken later.
pub fn admit_topic(topics: usize, exempt: bool) -> Result<(), Refusal> {
    if topics < MAX_TOPICS || exempt {
        return Ok(());
    }
    let message = format!("the hub already has {MAX_TOPICS} topics; `prom topic delete` removes some");
    Err(Refusal::new(ErrorCode::Overloaded, message))
}
