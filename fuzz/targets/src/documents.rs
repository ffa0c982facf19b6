//! Documents of MongoDB: what the hub wrote, and what others did.

use mongodb::bson::raw::RawDocument;
use prom_protocol::{
    Event, EventOptions, Group, RawValue, Text, Topic, check_payload, encode_event_body, encode_event_position,
};
use prom_store::CursorPut;
use prom_store_mongo::fuzzing::{cursor, cursor_document, document, event};

/// Behind a zero byte: a payload, stored and read. Else: the fields of a document.
pub fn documents(data: &[u8]) {
    match data {
        [0, text @ ..] => stored(text),
        _ => found(data),
    }
}

/// A document of these fields: its length and its end are put around them.
fn whole(fields: &[u8]) -> Vec<u8> {
    let length = i32::try_from(fields.len() + 5).unwrap_or(i32::MAX);
    [&length.to_le_bytes(), fields, &[0]].concat()
}

fn found(fields: &[u8]) {
    let bytes = whole(fields);
    if let Some(Ok(record)) = event(&bytes) {
        let text = std::str::from_utf8(&record.json).expect("an event is text");
        let parsed = Event::parse(text)
            .unwrap_or_else(|error| panic!("subscribers would get what is no event: {error}: {text}"));
        assert_eq!((&*parsed.id, parsed.seq, parsed.ts), (&*record.id, record.seq, record.ts), "{text}");
        assert_eq!(parsed.key.as_deref(), record.key.as_deref(), "{text}");
    }
    if let Some(Ok((name, read))) = cursor(&bytes)
        && let (Ok(topic), Ok(group)) = (Topic::new("a"), Group::stored(&name))
    {
        let put = CursorPut { topic, group, cursor: read };
        let again = cursor_document(&put).and_then(|bytes| cursor(&bytes));
        let (own, again) = match again {
            Some(Ok((own, again))) => (own, again),
            other => panic!("what was written is damaged: {other:?}"),
        };
        assert_eq!((own, again), (name, put.cursor));
    }
    let Ok(document) = RawDocument::from_bytes(&bytes) else { return };
    for field in document.iter().take(64) {
        let Ok((name, value)) = field else { break };
        if let Ok(json) = prom_bson::stringify(name.as_str(), value) {
            // What an outbox row says is published, and stored again.
            assert!(check_payload(json.get()).is_ok(), "no payload: {}", json.get());
            kept(json.get());
        }
        let mut out = Vec::new();
        if prom_bson::write(&mut out, value).is_ok() {
            let text = std::str::from_utf8(&out).expect("JSON is text");
            assert!(serde_json::from_str::<&RawValue>(text).is_ok(), "no JSON: {text}");
        }
    }
}

fn stored(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(payload) = serde_json::from_str::<&RawValue>(text) else { return };
    if check_payload(payload.get()).is_ok() {
        kept(payload.get());
    }
}

/// Whatever may be published comes back byte for byte.
fn kept(payload: &str) {
    for key in [None, Some("k\"ey")] {
        let options = EventOptions { key: key.map(Text::from), ..EventOptions::default() };
        let mut body = Vec::new();
        encode_event_body(&mut body, "a.b", &options, payload);
        let mut expected = Vec::new();
        encode_event_position(&mut expected, "i\"d", 7, 9);
        expected.extend_from_slice(&body);
        let bytes = document("i\"d", 7, 9, "a.b", key, &body).expect("it is small");
        let record = match event(&bytes) {
            Some(Ok(record)) => record,
            other => panic!("what was written is damaged: {other:?}: {payload}"),
        };
        assert_eq!(record.text().as_bytes(), expected, "{payload}");
        assert_eq!((&*record.id, record.seq, record.ts, record.key.as_deref()), ("i\"d", 7, 9, key));
    }
}
