//! The limits of the wire, in one place. A hub may be configured to be stricter, never wider.

/// Longest topic or pattern, in bytes, without leading `dlq` segments.
pub const TOPIC_BYTES: usize = 255;
/// Most segments of a topic or pattern, without leading `dlq` segments.
pub const TOPIC_SEGMENTS: usize = 16;
/// Most leading `dlq` segments: dead letters of dead letters exist, a third level does not.
pub const DLQ_LEVELS: usize = 2;
/// Longest group name, in bytes.
pub const GROUP_BYTES: usize = 128;
/// Longest event id and `sid` of a publisher, in bytes. The hub's own ids may be longer.
pub const ID_BYTES: usize = 128;
/// Longest event key, and longest reference to an event (`caused_by`, `afterId`), in bytes.
pub const KEY_BYTES: usize = 512;
/// Longest `sub` of a token, and so longest `by` of an event, in bytes.
pub const SUBJECT_BYTES: usize = 512;
/// Most headers of an event.
pub const HEADERS: usize = 32;
/// Longest header name, in bytes.
pub const HEADER_NAME_BYTES: usize = 64;
/// Longest header value, in bytes.
pub const HEADER_VALUE_BYTES: usize = 1024;
/// Most tags of an event.
pub const TAGS: usize = 32;
/// Ids in `caused_by` of an event.
pub const CAUSES: usize = 32;
/// Longest tag, in bytes.
pub const TAG_BYTES: usize = 64;
/// Longest `corr`, in bytes.
pub const CORR_BYTES: usize = 128;
/// Longest reason of a NACK that is kept, in bytes; a longer one is cut.
pub const REASON_BYTES: usize = 1024;
/// Largest `ts`: integers beyond 2^53 do not survive JavaScript.
pub const TS_MAX: u64 = (1 << 53) - 1;
/// Deepest nesting of a payload; a dead letter adds two levels and MongoDB ends at 100.
pub const PAYLOAD_DEPTH: usize = 96;
/// Most entries of one list in a subscription's filter.
pub const FILTER_ENTRIES: usize = 256;
/// Largest `maxInFlight`.
pub const MAX_IN_FLIGHT: u32 = 10_000;
/// Shortest lease, in milliseconds.
pub const LEASE_MS_MIN: u64 = 1_000;
/// Longest lease and longest `delay_ms` of a NACK, in milliseconds: twelve hours.
pub const LEASE_MS_MAX: u64 = 12 * 60 * 60 * 1_000;
/// Largest `maxAttempts`.
pub const ATTEMPTS_MAX: u32 = 1_000;
/// Largest frame before AUTH, in bytes.
pub const FRAME_BYTES_BEFORE_AUTH: usize = 16 * 1024;
/// Largest frame, and largest message to the hub however many frames it holds, in bytes.
pub const FRAME_BYTES: usize = 1024 * 1024;
/// Largest message of several frames from the hub, in bytes. A frame that is larger has a message to itself.
pub const BATCH_BYTES: usize = 64 * 1024;
