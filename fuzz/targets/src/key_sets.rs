//! What an identity provider answers where its key set is asked for.

use prom_hub::fuzzing::key_set;
use serde_json::Value;

/// Most keys of a set.
const KEYS: usize = 100;
/// Longest that is said of one key, in bytes: it goes into the log.
const MESSAGE_BYTES: usize = 2048;

/// An answer's body.
pub fn key_sets(data: &[u8]) {
    let parsed: Option<Value> = serde_json::from_slice(data).ok();
    let listed = parsed.as_ref().and_then(|set| set.as_object()?.get("keys")?.as_array().cloned());
    let kid = listed.iter().flatten().find_map(|key| key.get("kid")?.as_str());
    match key_set(data, kid) {
        Ok((usable, verified, odd)) => {
            assert_eq!(verified, 0, "a key that verifies what nobody signed");
            assert!((1..=KEYS).contains(&usable), "{usable} keys");
            for said in &odd {
                assert!(said.len() <= MESSAGE_BYTES, "{} bytes are said of a key: {said}", said.len());
            }
            // What a value cannot hold, such as a number without end, no key of ours has.
            let Some(listed) = listed else { return };
            assert!(usable + odd.len() <= listed.len(), "more keys than there are");
            let kinds = ["RSA", "EC", "OKP"];
            let ours = listed.iter().filter(|key| key["kty"].as_str().is_some_and(|kty| kinds.contains(&kty)));
            assert!(usable <= ours.count(), "a key of no kind that can be used");
        }
        Err(why) => assert!(!why.is_empty() && why.len() <= 2 * MESSAGE_BYTES, "{} bytes: {why}", why.len()),
    }
}
