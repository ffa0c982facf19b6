//! JSON: what a client cuts out of it without a parser, and which of it may be a payload.

use prom_protocol::{RawValue, check_payload, limits, scan, single_line};
use serde::de::{MapAccess, Visitor};
use serde_json::Value;

/// Any bytes. What serde_json takes is held against it; nothing else may panic.
pub fn payloads(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut found = Vec::new();
    let whole = scan::fields(text, |name, value| found.push((name, value)));
    for (name, value) in &found {
        let _ = (scan::string(name), scan::string(value), scan::number(value), scan::between_quotes(value));
    }
    let _ = (scan::string(text), scan::number(text), single_line(text));
    let mut quoted = String::new();
    scan::quote(&mut quoted, text);
    assert_eq!(quoted, serde_json::to_string(text).expect("a string"), "both write a string alike");
    assert_eq!(scan::string(&quoted).as_deref(), Some(text));
    let Ok(raw) = serde_json::from_str::<&RawValue>(text) else { return };
    let json = raw.get();
    if json.starts_with('{') {
        let fields: Fields<'_> = serde_json::from_str(text).expect("an object");
        assert!(whole, "an object was taken for none: {text}");
        same(&found, &fields.0, text);
    } else {
        assert!(!whole, "what is no object was taken for one: {text}");
    }
    profile(json);
}

/// The raw names and values of an object, as serde_json cuts them out.
struct Fields<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Fields<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(&'de RawValue, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(InOrder).map(Fields)
    }
}

fn same(found: &[(&str, &str)], fields: &[(&RawValue, &RawValue)], text: &str) {
    assert_eq!(found.len(), fields.len(), "{text}");
    for ((name, value), (own_name, own_value)) in found.iter().zip(fields) {
        assert_eq!(format!("\"{name}\""), own_name.get(), "{text}");
        assert_eq!(*value, own_value.get(), "{text}");
        // A string, or a lone surrogate, which is none.
        let string: Option<String> = serde_json::from_str(value).ok();
        assert_eq!(scan::string(value).map(std::borrow::Cow::into_owned), string, "{value}");
        let number: Option<u64> = serde_json::from_str(value).ok();
        let negative_zero = value.starts_with('-');
        assert_eq!(scan::number(value), number.filter(|_| !negative_zero), "{value}");
    }
}

/// Which JSON may be a payload, and that what may be one survives being put on a line.
fn profile(json: &str) {
    let depth = depth(json);
    let value = serde_json::from_str::<Value>(json);
    let expected = depth <= limits::PAYLOAD_DEPTH && value.is_ok();
    let checked = check_payload(json);
    assert_eq!(checked.is_ok(), expected, "{checked:?}, depth {depth}, {:?}: {json}", value.err());
    if let Err(refusal) = checked {
        assert!(refusal.message().starts_with("payload ") && refusal.message().len() < 200, "{refusal}");
    }
    let line = single_line(json);
    assert!(!line.contains(['\n', '\r']), "{line}");
    let again: &RawValue = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    if let Ok(value) = value {
        let other: Value = serde_json::from_str(again.get()).expect("the same value");
        // As text, in which all numbers are equal to themselves.
        assert_eq!(other.to_string(), value.to_string(), "{json}");
    }
}

/// How deep valid JSON nests.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth -= 1,
            _ => {}
        }
    }
    deepest
}
