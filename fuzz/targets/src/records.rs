//! One record of the log, its checksum right: as an older hub, or none at all, may have written it.

use prom_protocol::Event;
use prom_store_embedded::fuzzing::record;

/// Kind, flags, which bit is flipped for the check of the checksum, and what the record says.
pub fn records(data: &[u8]) {
    let [kind, flags, bit, body @ ..] = data else { return };
    let Some(said) = record(kind % 6, *flags, body, usize::from(*bit) * 7 + 3) else { return };
    assert!(!said.blind, "a flipped bit went unseen");
    if let Some(again) = said.again {
        assert_eq!(again, said.fields, "written again");
    }
    if let Some((json, true)) = said.event {
        let text = std::str::from_utf8(&json).expect("what is sound is text");
        assert!(Event::parse(text).is_ok(), "what is sound is an event: {text}");
    }
}
