//! An event as a document: `{_id, id, seq, ts, max_ts, at, topic, key?, sid?, headers?, tags?, caused_by?, by?, payload, json?}`.
//!
//! `_id` is any; topic and `id` are unique together. `at` is when it was committed, by the hub's clock, and never falls from
//! one event of a topic to the next. The fields after it are those of the event's wire JSON in their order, as BSON that other tools can query. Where
//! BSON does not give them back byte for byte (spaces, `1.0e2`, a name twice, nesting near MongoDB's limit), `json` holds
//! the text, and the text is what subscribers get.

use std::sync::Arc;

use mongodb::{
    IndexModel,
    bson::{
        RawDocumentBuf, cstr, doc,
        oid::ObjectId,
        raw::{CString, RawBsonRef, RawDocument},
    },
    options::IndexOptions,
};
use prom_bson::{Unreadable, parse, scalar, write};
use prom_protocol::{Event, encode_event_position};
use prom_store::{Record, StoreError};
use serde_json::value::RawValue;

/// Largest document, in bytes: MongoDB's limit is 16 MiB, and a transaction's entry in the oplog is somewhat larger.
pub(super) const MAX_BYTES: usize = 15 * 1024 * 1024;

/// How deep a field may nest as BSON. MongoDB takes documents nested 100 deep; the event and a dead letter around it take
/// some of that.
const LEVELS: usize = 90;

/// The index by which ids are unique within a topic.
pub(super) fn ids() -> IndexModel {
    let unique = IndexOptions::builder().unique(true).build();
    IndexModel::builder().keys(doc! { "topic": 1, "id": 1 }).options(unique).build()
}

const ID: &str = "id";
const SEQ: &str = "seq";
const TS: &str = "ts";
const TEXT: &str = "json";
/// Fields of the second part of the wire JSON. Whatever else somebody adds to a document is not the event's.
const BODY: [&str; 8] = ["topic", "key", "sid", "headers", "tags", "caused_by", BY, "payload"];
const BY: &str = "by";

/// Where an event stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position<'a> {
    pub(super) id: &'a str,
    pub(super) seq: u64,
    pub(super) ts: u64,
    /// The greatest `ts` of the topic up to here.
    pub(super) max_ts: u64,
    /// When it is committed.
    pub(super) at: u64,
}

/// The document of an event. `body` is the second part of its wire JSON. `None`: it is larger than [`MAX_BYTES`].
pub(super) fn encode(position: Position<'_>, topic: &str, key: Option<&str>, body: &[u8]) -> Option<RawDocumentBuf> {
    let fits = |document: RawDocumentBuf| (document.as_bytes().len() <= MAX_BYTES).then_some(document);
    let mut document = start(position);
    let whole = fields(&mut document, body).is_some();
    if whole {
        let mut back = Vec::with_capacity(body.len());
        if read_body(&document, &mut back).is_ok() && back == body {
            return fits(document);
        }
    }
    // The text beside the BSON, if there is room for both.
    if !whole || document.as_bytes().len() + body.len() > MAX_BYTES {
        document = start(position);
        document.append(cstr!("topic"), topic);
        if let Some(key) = key {
            document.append(cstr!("key"), key);
        }
    }
    if body.len() > MAX_BYTES {
        return None;
    }
    document.append(cstr!("json"), String::from_utf8_lossy(body).as_ref());
    fits(document)
}

fn start(position: Position<'_>) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_id"), ObjectId::new());
    document.append(cstr!("id"), position.id);
    document.append(cstr!("seq"), long(position.seq));
    document.append(cstr!("ts"), long(position.ts));
    document.append(cstr!("max_ts"), long(position.max_ts));
    document.append(cstr!("at"), long(position.at));
    document
}

/// A seq or a time as BSON's signed number. Both fit: the protocol bounds `ts`, and no topic has 2^63 events.
pub(super) fn long(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Appends the fields of a body; `None` if BSON cannot hold one of them.
fn fields(document: &mut RawDocumentBuf, body: &[u8]) -> Option<()> {
    let rest = body.strip_prefix(b",")?;
    let mut text = Vec::with_capacity(rest.len() + 1);
    text.push(b'{');
    text.extend_from_slice(rest);
    for (name, value) in serde_json::from_slice::<Fields<'_>>(&text).ok()?.0 {
        document.append(CString::try_from(name).ok()?, parse(value.get(), LEVELS).ok()?);
    }
    Some(())
}

/// The fields of an object, in order.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Fields<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> serde::de::Visitor<'de> for InOrder {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(InOrder).map(Fields)
    }
}

/// A whole number that is not negative, as whichever type a shell or another driver wrote it.
pub(super) fn whole(document: &RawDocument, name: &str) -> Option<u64> {
    match document.get(name).ok()?? {
        RawBsonRef::Int64(number) => u64::try_from(number).ok(),
        RawBsonRef::Int32(number) => u64::try_from(number).ok(),
        RawBsonRef::Double(number) if number >= 0.0 && number.fract() == 0.0 && number < 9e15 => Some(number as u64),
        _ => None,
    }
}

/// The event of a document.
pub(super) fn decode(document: &RawDocument) -> Result<Record, StoreError> {
    read(document).map_err(|error| {
        let id = document.get(ID).ok().flatten();
        StoreError::Damaged(format!("the event {id:?} in MongoDB is not what was written: {error}"))
    })
}

fn read(document: &RawDocument) -> Result<Record, Unreadable> {
    let text = |name: &str| document.get_str(name).map_err(|error| error.to_string());
    let number = |name: &str| whole(document, name).ok_or_else(|| format!("{name} is no number"));
    let id: Arc<str> = text(ID)?.into();
    let (seq, ts) = (number(SEQ)?, number(TS)?);
    let key = match document.get("key").map_err(|error| error.to_string())? {
        Some(RawBsonRef::String(key)) => Some(key.into()),
        Some(_) => return Err("key is no text".into()),
        None => None,
    };
    let mut json = Vec::with_capacity(document.as_bytes().len());
    encode_event_position(&mut json, &id, seq, ts);
    match document.get(TEXT).map_err(|error| error.to_string())? {
        Some(RawBsonRef::String(text)) => json.extend_from_slice(text.as_bytes()),
        Some(_) => return Err("json is no text".into()),
        None => read_body(document, &mut json)?,
    }
    check(&json, key.as_deref())?;
    json.shrink_to_fit();
    Ok(Record { id, seq, ts, key, json: json.into() })
}

/// Whether subscribers can read it: others write into this collection too, and whatever stands there is sent as it is.
fn check(json: &[u8], key: Option<&str>) -> Result<(), Unreadable> {
    let text = std::str::from_utf8(json).map_err(|error| error.to_string())?;
    let event = Event::parse(text).map_err(|error| error.to_string())?;
    if event.key.as_deref() != key {
        return Err("its key is not that of its text".into());
    }
    Ok(())
}

/// Appends the second part of the wire JSON.
fn read_body(document: &RawDocument, out: &mut Vec<u8>) -> Result<(), Unreadable> {
    for field in document {
        let (name, value) = field.map_err(|error| error.to_string())?;
        // Whoever had a field of that name beside an event when hubs wrote none keeps it, unless it is a text.
        let others = name == BY && !matches!(value, RawBsonRef::String(_));
        if !BODY.contains(&name.as_str()) || others {
            continue;
        }
        out.push(b',');
        scalar(out, name.as_str())?;
        out.push(b':');
        write(out, value)?;
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use prom_protocol::{EventOptions, Headers, Text, encode_event_body, encode_event_body_by};

    use super::*;

    const HERE: Position<'_> = Position { id: "e", seq: 7, ts: 12, max_ts: 40, at: 50 };

    fn body(options: &EventOptions<'_>, payload: &str) -> Vec<u8> {
        let mut body = Vec::new();
        encode_event_body(&mut body, "a.b", options, payload);
        body
    }

    #[test]
    fn every_field_of_an_event_can_be_queried_and_comes_back() {
        let options = EventOptions {
            key: Some(Text::from("k 1")),
            sid: Some(Text::from("s")),
            headers: Headers::from_iter([(Text::from("b"), Text::from("1")), (Text::from("a"), Text::from("2"))]),
            tags: vec![Text::from("x"), Text::from("y")],
            caused_by: vec![Text::from("c")],
            ..EventOptions::default()
        };
        let mut body = Vec::new();
        let payload = r#"{"order":{"id":7,"total":19.5}}"#;
        encode_event_body_by(&mut body, "a.b", &options, Some("auth0|\"7\""), payload);
        let document = encode(HERE, "a.b", Some("k 1"), &body).unwrap();
        assert_eq!(document.get_str("topic").unwrap(), "a.b");
        assert_eq!(document.get_str("by").unwrap(), "auth0|\"7\"");
        assert_eq!(document.get_document("headers").unwrap().get_str("a").unwrap(), "2");
        let order = document.get_document("payload").unwrap().get_document("order").unwrap();
        assert_eq!(order.get_i32("id").unwrap(), 7);
        assert!(document.get("json").unwrap().is_none(), "nothing is stored twice");
        let record = decode(&document).unwrap();
        let mut expected = Vec::new();
        encode_event_position(&mut expected, "e", 7, 12);
        expected.extend_from_slice(&body);
        assert_eq!(record.text().as_bytes(), expected);
        assert_eq!((&*record.id, record.seq, record.ts, record.key.as_deref()), ("e", 7, 12, Some("k 1")));
    }

    #[test]
    fn where_bson_does_not_give_back_the_text_the_text_is_kept() {
        let deep = format!("{}1{}", "[".repeat(96), "]".repeat(96));
        for (payload, queried) in
            [("{ }", true), (r#"{"a":1,"a":2}"#, true), ("1e400", false), (r#"{"\u0000":1}"#, false), (&deep, false)]
        {
            let body = body(&EventOptions { key: Some(Text::from("k")), ..EventOptions::default() }, payload);
            let document = encode(HERE, "a.b", Some("k"), &body).unwrap();
            assert_eq!(document.get("payload").unwrap().is_some(), queried, "{payload}");
            assert_eq!((document.get_str("topic").unwrap(), document.get_str("key").unwrap()), ("a.b", "k"));
            assert!(decode(&document).unwrap().json.ends_with(&body), "{payload}");
        }
    }

    /// What somebody added to a document went to every subscriber, or stopped the topic.
    #[test]
    fn fields_of_others_are_not_the_events() {
        let body = body(&EventOptions::default(), "1");
        let mut document = encode(HERE, "a.b", None, &body).unwrap();
        document.append(cstr!("exportedAt"), mongodb::bson::DateTime::now());
        document.append(cstr!("exported"), true);
        assert!(document.get("by").unwrap().is_none());
        // Hubs wrote no such field once.
        document.append(cstr!("by"), 7);
        assert!(decode(&document).unwrap().json.ends_with(&body));
    }

    /// One such event failed the whole commit it was in, again and again.
    #[test]
    fn what_is_larger_than_a_document_is_refused_and_what_fits_as_text_alone_is_not() {
        // As BSON, and as text, it fits; both together do not.
        let spaced = format!("[ {} ]", "\"x\",".repeat(900_000).trim_end_matches(','));
        let body_of = |payload: &str| body(&EventOptions::default(), payload);
        let document = encode(HERE, "a.b", None, &body_of(&spaced)).unwrap();
        assert!(document.get("payload").unwrap().is_none() && decode(&document).is_ok());
        let escaped = format!("\"{}\"", "\\\"".repeat(8 * 1024 * 1024));
        assert!(encode(HERE, "a.b", None, &body_of(&escaped)).is_some(), "as BSON it is half as long");
        let large = format!("\"{}\"", "x".repeat(MAX_BYTES));
        assert!(encode(HERE, "a.b", None, &body_of(&large)).is_none());
    }

    /// Such a document went to every subscriber as it was: as no JSON, or as no event.
    #[test]
    fn a_document_whose_text_is_no_event_is_said_to_be_damaged() {
        let whole = |fields: &[(&str, &str)]| {
            let mut document = start(HERE);
            for (name, value) in fields {
                document.append(CString::try_from(*name).unwrap(), *value);
            }
            document
        };
        assert!(decode(&whole(&[("topic", "a"), ("payload", "p")])).is_ok());
        assert!(decode(&whole(&[("topic", "a"), ("json", ",\"topic\":\"a\",\"payload\":1}")])).is_ok());
        for fields in [
            &[("topic", "a")][..],
            &[("payload", "p")],
            &[("topic", "a"), ("payload", "p"), ("payload", "q")],
            &[("topic", "a"), ("payload", "p"), ("headers", "h")],
            &[("topic", "a"), ("json", "nonsense")],
            &[("topic", "a"), ("json", ",\"topic\":\"a\",\"payload\":1}\n{}")],
            &[("topic", "a"), ("key", "k"), ("json", ",\"topic\":\"a\",\"payload\":1}")],
        ] {
            assert!(matches!(decode(&whole(fields)), Err(StoreError::Damaged(_))), "{fields:?}");
        }
    }

    #[test]
    fn a_document_that_is_no_event_is_said_to_be_damaged() {
        for (wrong, value) in [("id", "e"), ("seq", "1"), ("ts", "1")] {
            let mut document = RawDocumentBuf::new();
            for name in ["id", "seq", "ts"] {
                let name = CString::try_from(name).unwrap();
                match (name.as_str() == wrong, name.as_str()) {
                    (true, "id") => document.append(name, 7_i64),
                    (true, _) => document.append(name, value),
                    (false, "id") => document.append(name, "e"),
                    (false, _) => document.append(name, 1_i64),
                }
            }
            assert!(matches!(decode(&document), Err(StoreError::Damaged(_))), "{wrong}");
        }
    }
}
