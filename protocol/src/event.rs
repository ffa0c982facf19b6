//! The event record: what a publisher may set, and the wire JSON that is stored and sent.

use serde::{Deserialize, Deserializer, Serialize, ser::SerializeMap};
use serde_json::value::RawValue;

use crate::{
    Refusal, Text,
    fields::{Field, TextMap, check_integer, check_list, check_text, raw_fields},
    limits,
    names::{self, first, joined, key},
};

/// What headers must be, in words.
const EACH_ONCE: &str = "an object of strings, each name once";

/// Headers of an event: names and values in the order the publisher wrote them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Headers<'a>(TextMap<'a>);

impl<'a> Headers<'a> {
    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.0.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of the header called `name`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// Whether there are no headers.
    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    /// The same headers, owned.
    pub fn into_owned(self) -> Headers<'static> {
        self.0.0.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
    }

    pub(crate) fn from_field(field: Field<'a>, name: &str) -> Result<Self, Refusal> {
        let headers = Self(field.parse(name, EACH_ONCE)?.unwrap_or_default());
        headers.check(name)?;
        Ok(headers)
    }

    /// Checks all but that each name stands there once, which no reader lets pass.
    fn check(&self, name: &str) -> Result<(), Refusal> {
        if self.0.0.len() > limits::HEADERS {
            return Err(Refusal::bad_frame(format!("{name} may hold at most {} headers", limits::HEADERS)));
        }
        for (key, value) in self.iter() {
            // The words are put together only where they are needed: this is done for every event.
            check_text(name, key, limits::HEADER_NAME_BYTES)
                .or_else(|_| check_text(&format!("a name in {name}"), key, limits::HEADER_NAME_BYTES))?;
            if value.len() > limits::HEADER_VALUE_BYTES {
                return Err(Refusal::bad_frame(format!(
                    "{name}.{key} must be at most {} bytes",
                    limits::HEADER_VALUE_BYTES
                )));
            }
        }
        Ok(())
    }
}

impl<'a> FromIterator<(Text<'a>, Text<'a>)> for Headers<'a> {
    fn from_iter<I: IntoIterator<Item = (Text<'a>, Text<'a>)>>(entries: I) -> Self {
        Self(TextMap(entries.into_iter().collect()))
    }
}

impl<'a> Extend<(Text<'a>, Text<'a>)> for Headers<'a> {
    fn extend<I: IntoIterator<Item = (Text<'a>, Text<'a>)>>(&mut self, entries: I) {
        self.0.0.extend(entries);
    }
}

impl Serialize for Headers<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.0.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Headers<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        TextMap::deserialize(deserializer).map(Self)
    }
}

/// What a publisher may say about an event: the `opts` of a PUBLISH. All optional.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct EventOptions<'a> {
    /// The event's id, 1..=128 bytes; publishing it again is answered with the first commit. Default: made by the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Text<'a>>,
    /// Milliseconds since the Unix epoch. Default: the hub's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ts: Option<u64>,
    /// What the event is about, 1..=512 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Text<'a>>,
    /// The publisher's session or stream, 1..=128 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<Text<'a>>,
    /// At most 32 headers.
    #[serde(skip_serializing_if = "Headers::is_empty")]
    pub headers: Headers<'a>,
    /// At most 32 tags of 1..=64 bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Text<'a>>,
    /// Ids of the events that led to this one: at most 32, of 1..=512 bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caused_by: Vec<Text<'a>>,
}

raw_fields! {
    RawOptions {
        id = names::field::ID,
        ts = names::field::TS,
        key = names::field::KEY,
        sid = names::field::SID,
        headers = names::field::HEADERS,
        tags = names::field::TAGS,
        caused_by = names::field::CAUSED_BY,
    }
}

impl<'a> EventOptions<'a> {
    /// Whether no option is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks lengths and counts, as the hub does.
    ///
    /// # Errors
    /// `bad_frame`, naming the option and the limit.
    pub fn check(&self) -> Result<(), Refusal> {
        let text = |name: &str, text: &Option<Text<'_>>, max: usize| match text {
            Some(text) => check_text(name, text, max),
            None => Ok(()),
        };
        self.id.as_ref().map_or(Ok(()), |id| check_id("opts.id", id))?;
        if let Some(ts) = self.ts {
            check_integer("opts.ts", ts, 0..=limits::TS_MAX)?;
        }
        text("opts.key", &self.key, limits::KEY_BYTES)?;
        text("opts.sid", &self.sid, limits::ID_BYTES)?;
        // Before names are compared: there are few then.
        self.headers.check("opts.headers")?;
        let mut names = self.headers.iter().map(|(name, _)| name);
        while let Some(name) = names.next() {
            if names.clone().any(|other| other == name) {
                return Err(Refusal::bad_frame(format!("opts.headers must be {EACH_ONCE}")));
            }
        }
        check_list("opts.tags", &self.tags, limits::TAGS, limits::TAG_BYTES)?;
        check_list("opts.caused_by", &self.caused_by, limits::CAUSES, limits::KEY_BYTES)
    }

    pub(crate) fn from_field(field: Field<'a>) -> Result<Self, Refusal> {
        match field.parse::<RawOptions<'a>>("opts", "an object without repeated fields")? {
            Some(raw) => EventOptions::from_raw(&raw),
            None => Ok(Self::default()),
        }
    }

    fn from_raw<'b>(raw: &RawOptions<'b>) -> Result<EventOptions<'b>, Refusal> {
        Ok(EventOptions {
            id: own_id(raw.id)?,
            ts: raw.ts.integer("opts.ts", 0..=limits::TS_MAX)?,
            key: raw.key.bounded("opts.key", limits::KEY_BYTES)?,
            sid: raw.sid.bounded("opts.sid", limits::ID_BYTES)?,
            headers: Headers::from_field(raw.headers, "opts.headers")?,
            tags: raw.tags.list("opts.tags", limits::TAGS, limits::TAG_BYTES)?,
            caused_by: raw.caused_by.one_or_list("opts.caused_by", limits::CAUSES, limits::KEY_BYTES)?,
        })
    }

    /// The same options, owned.
    pub fn into_owned(self) -> EventOptions<'static> {
        EventOptions {
            id: self.id.map(Text::into_owned),
            ts: self.ts,
            key: self.key.map(Text::into_owned),
            sid: self.sid.map(Text::into_owned),
            headers: self.headers.into_owned(),
            tags: self.tags.into_iter().map(Text::into_owned).collect(),
            caused_by: self.caused_by.into_iter().map(Text::into_owned).collect(),
        }
    }
}

/// Checks an id that a publisher chooses. Those that start with `$` are the hub's own.
///
/// # Errors
/// `bad_frame`, with `name` and the limit.
pub fn check_id(name: &str, id: &str) -> Result<(), Refusal> {
    check_text(name, id, limits::ID_BYTES)?;
    if id.starts_with('$') {
        return Err(Refusal::bad_frame(format!("{name} must not start with `$`")));
    }
    Ok(())
}

/// Checks the `sub` of a token, which becomes [`Event::by`] of what is published with it. Names that start with `$` are the
/// hub's: by them one can tell what it writes itself.
///
/// # Errors
/// `bad_frame`, with `name` and the limit.
pub fn check_subject(name: &str, subject: &str) -> Result<(), Refusal> {
    check_text(name, subject, limits::SUBJECT_BYTES)?;
    if subject.starts_with('$') {
        return Err(Refusal::bad_frame(format!("{name} must not start with `$`")));
    }
    Ok(())
}

fn own_id(field: Field<'_>) -> Result<Option<Text<'_>>, Refusal> {
    let id = field.text("opts.id")?;
    if let Some(id) = &id {
        check_id("opts.id", id)?;
    }
    Ok(id)
}

/// An event as stored and sent, parsed. Borrows from its JSON; the payload stays raw.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Event<'a> {
    /// Its id, unique in its topic.
    #[serde(borrow)]
    pub id: Text<'a>,
    /// Position in its topic, from 1.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub ts: u64,
    /// The topic it stands on.
    #[serde(borrow)]
    pub topic: Text<'a>,
    /// What the event is about, for instance the id of an order.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Text<'a>>,
    /// The publisher's session or stream.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<Text<'a>>,
    /// At most 32 headers.
    #[serde(borrow, default, skip_serializing_if = "Headers::is_empty")]
    pub headers: Headers<'a>,
    /// At most 32 tags.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Text<'a>>,
    /// Ids of the events that led to it. Events of older hubs have one string.
    #[serde(borrow, default, deserialize_with = "one_or_list", skip_serializing_if = "Vec::is_empty")]
    pub caused_by: Vec<Text<'a>>,
    /// Who published it: the `sub` of the publisher's token, at most 512 bytes. The hub writes it, a client cannot. None
    /// where there was no such claim. One that starts with `$` is the hub itself: `$process-projector` on `process.state`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Text<'a>>,
    /// The payload: one JSON value, as the publisher wrote it.
    #[serde(borrow)]
    pub payload: &'a RawValue,
}

fn one_or_list<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Text<'a>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either<'a> {
        One(#[serde(borrow)] Text<'a>),
        List(#[serde(borrow)] Vec<Text<'a>>),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::One(one) => vec![one],
        Either::List(list) => list,
    })
}

impl<'a> Event<'a> {
    /// Parses an event's wire JSON.
    ///
    /// # Errors
    /// `bad_frame` with the parser's message.
    pub fn parse(json: &'a str) -> Result<Self, Refusal> {
        serde_json::from_str(json).map_err(|e| Refusal::bad_frame(format!("event: {e}")))
    }
}

/// Appends an event's wire JSON to `out`. `options.id` and `options.ts` are not read: the store has decided them.
pub fn encode_event(
    out: &mut Vec<u8>,
    id: &str,
    seq: u64,
    ts: u64,
    topic: &str,
    options: &EventOptions<'_>,
    payload: &str,
) {
    encode_event_position(out, id, seq, ts);
    encode_event_body(out, topic, options, payload);
}

/// Appends the first part of an event's wire JSON: what the store decides at commit.
pub fn encode_event_position(out: &mut Vec<u8>, id: &str, seq: u64, ts: u64) {
    out.extend_from_slice(joined!("{", first(key::ID)));
    json(out, id);
    field(out, key::SEQ, &seq);
    field(out, key::TS, &ts);
}

/// Appends the second part of an event's wire JSON: what the publisher decides, known before the commit. It does not say
/// who published.
pub fn encode_event_body(out: &mut Vec<u8>, topic: &str, options: &EventOptions<'_>, payload: &str) {
    encode_event_body_by(out, topic, options, None, payload);
}

/// The same, with who published, as the publisher's token says. It is no part of [`EventOptions`], so that nothing a
/// client sends can become it.
pub fn encode_event_body_by(
    out: &mut Vec<u8>,
    topic: &str,
    options: &EventOptions<'_>,
    by: Option<&str>,
    payload: &str,
) {
    out.extend_from_slice(joined!(key::TOPIC, "\""));
    out.extend_from_slice(topic.as_bytes()); // a topic needs no escaping
    out.push(b'"');
    for (name, value) in [(key::KEY, &options.key), (key::SID, &options.sid)] {
        if let Some(value) = value {
            field(out, name, value);
        }
    }
    if !options.headers.is_empty() {
        field(out, key::HEADERS, &options.headers);
    }
    if !options.tags.is_empty() {
        field(out, key::TAGS, &options.tags);
    }
    if !options.caused_by.is_empty() {
        field(out, key::CAUSED_BY, &options.caused_by);
    }
    if let Some(by) = by {
        field(out, key::BY, by);
    }
    out.extend_from_slice(key::PAYLOAD.as_bytes());
    out.extend_from_slice(crate::single_line(payload).as_bytes());
    out.push(b'}');
}

/// Appends a field; `key` is its name as [`key`] has it.
#[inline]
fn field<T: Serialize + ?Sized>(out: &mut Vec<u8>, key: &str, value: &T) {
    out.extend_from_slice(key.as_bytes());
    json(out, value);
}

/// Appends `value` as JSON. Writing strings, numbers and maps of strings to memory does not fail.
pub(crate) fn json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok(), "writing plain values to memory cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_event_parses_back_equal() {
        let options = EventOptions {
            key: Some("host:na\"me:1".into()),
            sid: Some("s".into()),
            headers: [(Text::from("trace"), Text::from("ü\n"))].into_iter().collect(),
            tags: vec!["a".into(), "b".into()],
            caused_by: vec!["c".into(), "d".into()],
            ..EventOptions::default()
        };
        let mut out = Vec::new();
        encode_event(&mut out, "i\\d", 7, 1_700_000_000_000, "a.b", &options, "{\n\"x\": [1.50]}");
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains('\n'));
        let event = Event::parse(&text).unwrap();
        assert_eq!(
            (event.id.as_str(), event.seq, event.ts, event.topic.as_str()),
            ("i\\d", 7, 1_700_000_000_000, "a.b")
        );
        assert_eq!((event.key, event.sid, event.caused_by), (options.key, options.sid, options.caused_by));
        assert_eq!((event.headers, event.tags), (options.headers, options.tags));
        assert_eq!(event.payload.get(), "{ \"x\": [1.50]}");
    }

    #[test]
    fn who_published_stands_beside_what_the_publisher_said() {
        let options = EventOptions { caused_by: vec!["c".into()], ..EventOptions::default() };
        for by in ["alice", "auth0|a \"b\" \\ ü", "https://issuer.example/users/7"] {
            let mut out = Vec::new();
            encode_event_position(&mut out, "i", 1, 2);
            encode_event_body_by(&mut out, "a", &options, Some(by), "1");
            let text = String::from_utf8(out).unwrap();
            let event = Event::parse(&text).unwrap();
            assert_eq!((event.by.as_deref(), event.caused_by.len(), event.payload.get()), (Some(by), 1, "1"));
            assert_eq!(serde_json::to_string(&event).unwrap(), text);
        }
        let mut none = Vec::new();
        encode_event_body(&mut none, "a", &options, "1");
        assert!(!String::from_utf8(none).unwrap().contains("\"by\""));
    }

    /// A client that could say who it is could say that it is somebody else.
    #[test]
    fn what_a_client_says_of_who_it_is_is_not_read() {
        for json in [r#"{"by":"root"}"#, r#"{"by":7}"#, r#"{"by":{"sub":"root"}}"#, r#"{"by":""}"#] {
            let raw: RawOptions<'_> = serde_json::from_str(json).unwrap();
            assert!(EventOptions::from_raw(&raw).unwrap().is_empty(), "{json}");
        }
    }

    #[test]
    fn one_cause_is_a_list_of_one() {
        for (json, wanted) in [
            ("", &[][..]),
            (r#""caused_by":"c\u00fc","#, &["cü"]),
            (r#""caused_by":[],"#, &[]),
            (r#""caused_by":["a","b\n"],"#, &["a", "b\n"]),
        ] {
            let event = format!(r#"{{"id":"i","seq":1,"ts":2,"topic":"a",{json}"payload":1}}"#);
            assert_eq!(
                Event::parse(&event).unwrap().caused_by,
                wanted.iter().map(|&id| Text::from(id)).collect::<Vec<_>>(),
                "{json}"
            );
        }
        assert!(Event::parse(r#"{"id":"i","seq":1,"ts":2,"topic":"a","caused_by":7,"payload":1}"#).is_err());
        let read = |json: &str| {
            let raw: RawOptions<'_> = serde_json::from_str(json).unwrap();
            EventOptions::from_raw(&raw)
                .map(|options| options.caused_by.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(read(r#"{"caused_by":"a"}"#).unwrap(), ["a"]);
        assert_eq!(read(r#"{"caused_by":["a","b"]}"#).unwrap(), ["a", "b"]);
        let said = |json| read(json).unwrap_err().message().to_owned();
        assert_eq!(said(r#"{"caused_by":7}"#), "opts.caused_by must be a string or a list of strings");
        assert_eq!(said(r#"{"caused_by":["a",7]}"#), "opts.caused_by must be a string or a list of strings");
        assert_eq!(said(r#"{"caused_by":[""]}"#), "an entry of opts.caused_by must be 1 to 512 bytes");
    }

    #[test]
    fn options_are_checked_by_name_and_limit() {
        let long = EventOptions { key: Some("k".repeat(513).into()), ..EventOptions::default() };
        assert_eq!(long.check().unwrap_err().message(), "opts.key must be 1 to 512 bytes");
        let tags = EventOptions { tags: vec!["t".into(); 33], ..EventOptions::default() };
        assert_eq!(tags.check().unwrap_err().message(), "opts.tags may hold at most 32 strings");
        assert!(EventOptions::default().check().is_ok());
    }

    #[test]
    fn what_is_checked_is_what_a_reader_of_the_wire_checks() {
        let plain = EventOptions::default;
        let text = |bytes: usize| Some(Text::from("x".repeat(bytes)));
        let headers = |list: &[(&str, usize)]| {
            list.iter().map(|(name, value)| (Text::from((*name).to_owned()), Text::from("v".repeat(*value)))).collect()
        };
        let names: Vec<String> = (0..33).map(|n| n.to_string()).collect();
        let many: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 0)).collect();
        let mut cases = vec![
            EventOptions { ts: Some(limits::TS_MAX), ..plain() },
            EventOptions { ts: Some(limits::TS_MAX + 1), ..plain() },
            EventOptions { id: Some("$own".into()), ..plain() },
            EventOptions { id: Some("a\nb".into()), ..plain() },
            EventOptions { tags: vec!["t".into(), "".into()], ..plain() },
            EventOptions { tags: vec!["t".repeat(65).into()], ..plain() },
            EventOptions { tags: vec!["\t".into()], ..plain() },
            EventOptions { tags: vec!["t".into(); 32], ..plain() },
            EventOptions { caused_by: vec!["c".into(); 32], ..plain() },
            EventOptions { caused_by: vec!["c".into(); 33], ..plain() },
            EventOptions { caused_by: vec!["c".into(), "".into()], ..plain() },
            EventOptions { headers: headers(&many), ..plain() },
            EventOptions { headers: headers(&many[..32]), ..plain() },
        ];
        cases.extend([0, 1, 128, 129, 512, 513].into_iter().flat_map(|bytes| {
            [
                EventOptions { id: text(bytes), ..plain() },
                EventOptions { key: text(bytes), ..plain() },
                EventOptions { sid: text(bytes), ..plain() },
                EventOptions { caused_by: text(bytes).into_iter().collect(), ..plain() },
            ]
        }));
        cases.extend(
            [&[("", 1)][..], &[("n\u{1}", 1)], &[("n", 1025)], &[("n", 1024)], &[("n", 1), ("m", 1), ("n", 2)]]
                .map(|list| EventOptions { headers: headers(list), ..plain() }),
        );
        let mut refused = 0;
        for options in cases {
            let json = serde_json::to_string(&options).unwrap();
            let raw: RawOptions<'_> = serde_json::from_str(&json).unwrap();
            let read = EventOptions::from_raw(&raw).map(|_: EventOptions<'_>| ());
            assert_eq!(options.check(), read, "{json}");
            refused += usize::from(read.is_err());
        }
        assert_eq!(refused, 25);
    }
}
