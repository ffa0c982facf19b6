//! The names of a frame's fields: each stands here once, for every reader and writer that is written by hand.
//!
//! The structs that serde derives readers for ([`crate::server::OkFrame`] and its like) cannot take a name from here,
//! because a derive uses the name of the Rust field. The golden files hold them to the same text.

/// Makes of each name two constants: in [`field`] the name itself, in [`key`] the name as a writer puts it between two
/// fields.
macro_rules! names {
    ($($constant:ident = $name:literal;)+ => only written: $($written:ident = $other:literal;)+) => {
        /// Names, to compare with and to put into messages.
        pub(crate) mod field {
            $(pub(crate) const $constant: &str = $name;)+
        }

        /// Names with all that stands between two values, `,"name":`, so that a field's start is written at once.
        pub(crate) mod key {
            $(pub(crate) const $constant: &str = concat!(",\"", $name, "\":");)+
            $(pub(crate) const $written: &str = concat!(",\"", $other, "\":");)+
        }
    };
}

names! {
    // Of frames.
    OP = "op";
    CORR = "corr";
    TOKEN = "token";
    BATCH = "batch";
    TOPIC = "topic";
    GROUP = "group";
    PAYLOAD = "payload";
    OPTS = "opts";
    ID = "id";
    LEASE = "lease";
    REASON = "reason";
    DELAY_MS = "delay_ms";
    DEAD = "dead";
    EXTEND_MS = "extend_ms";
    SEQ = "seq";
    DUPLICATE = "duplicate";
    EXPIRES_IN_MS = "expires_in_ms";
    CODE = "code";
    MSG = "msg";
    RETRY_AFTER_MS = "retry_after_ms";
    EXPIRED = "expired";
    EVENT = "event";
    CTX = "ctx";
    FROM = "from";
    TO = "to";
    // Of an EVENT's `ctx`, `lease` aside.
    ATTEMPT = "attempt";
    MAX_ATTEMPTS = "max_attempts";
    ACK_DEADLINE_MS = "ack_deadline_ms";
    REDELIVERED = "redelivered";
    // Of an event and of a PUBLISH's `opts`, those above aside.
    TS = "ts";
    KEY = "key";
    SID = "sid";
    HEADERS = "headers";
    TAGS = "tags";
    CAUSED_BY = "caused_by";

    // No reader that is written by hand looks for these.
    => only written:
    BY = "by";
    VERSION = "version";
    HUB = "hub";
    MAX_FRAME_BYTES = "max_frame_bytes";
    MAX_PUBLISHES = "max_publishes";
    MAX_SUBSCRIPTIONS = "max_subscriptions";
}

/// A name as it is written at the start of an object, where no comma precedes it.
pub(crate) const fn first(key: &str) -> &str {
    key.split_at(1).1
}

/// These constants, one after another, as bytes that are put together when the crate is compiled: what a hub writes for
/// every event it writes in one piece.
macro_rules! joined {
    ($($part:expr),+ $(,)?) => {
        const {
            const PARTS: &[&str] = &[$($part),+];
            &$crate::names::join::<{ $crate::names::total(PARTS) }>(PARTS)
        }
    };
}
pub(crate) use joined;

/// The bytes of all parts.
pub(crate) const fn total(parts: &[&str]) -> usize {
    let (mut total, mut part) = (0, 0);
    while part < parts.len() {
        total += parts[part].len();
        part += 1;
    }
    total
}

/// The parts, `N` bytes in all.
pub(crate) const fn join<const N: usize>(parts: &[&str]) -> [u8; N] {
    let mut joined = [0; N];
    let (mut at, mut part) = (0, 0);
    while part < parts.len() {
        let (head, rest) = joined.split_at_mut(at);
        let bytes = parts[part].as_bytes();
        rest.split_at_mut(bytes.len()).0.copy_from_slice(bytes);
        at = head.len() + bytes.len();
        part += 1;
    }
    joined
}
