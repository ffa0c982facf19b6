//! What the kinds of record say.

use std::{borrow::Cow, sync::Arc};

use prom_protocol::{encode_event_position, limits};
use prom_store::{Cursor, Record, Stored};

use crate::format::{
    Kind, Position, RECORD_HEADER, RawRecord, Reader, begin_record, end_record, put_text, text_length,
};

/// The id needs escaping in JSON, so it stands before it once more as it is.
const RAW_ID: u8 = 1;
/// The event has a key.
const KEYED: u8 = 2;
/// The key needs escaping in JSON, so it stands before it once more as it is.
const RAW_KEY: u8 = 4;
/// The id does not have topic number and seq in it, so the segment's id table has it.
const LISTED: u8 = 8;
/// The event stood earlier in the log and was copied here so that its segment could go.
const MOVED: u8 = 16;

/// Bytes of an event's record before its texts.
const EVENT_HEAD: usize = RECORD_HEADER + 4 + 8 + 8 + 2 + 2 + 2;

/// An event to be written.
#[derive(Debug)]
pub(crate) struct NewEvent<'a> {
    /// By number.
    pub(crate) topic: u32,
    pub(crate) topic_name: &'a str,
    pub(crate) seq: u64,
    pub(crate) ts: u64,
    pub(crate) id: &'a str,
    pub(crate) key: Option<&'a str>,
    /// See [`prom_store::Append::body`].
    pub(crate) body: &'a [u8],
    /// The segment's id table must have it.
    pub(crate) listed: bool,
}

/// Whether the text stands in JSON as it is.
fn plain(text: &str) -> bool {
    !text.bytes().any(|byte| byte < 0x20 || matches!(byte, b'"' | b'\\'))
}

impl NewEvent<'_> {
    /// Appends the record to `out`, whose first byte will stand at `base`; returns where its JSON stands in `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, store: u64, base: Position) -> std::ops::Range<usize> {
        let mut flags = 0;
        if !plain(self.id) {
            flags |= RAW_ID;
        }
        if self.listed {
            flags |= LISTED;
        }
        // The key stands right behind the topic: `,"topic":"…","key":"…"`.
        let key_in_body = 9 + 1 + self.topic_name.len() + 1 + 8;
        if let Some(key) = self.key {
            flags |= KEYED;
            let there = self.body.get(key_in_body - 1..key_in_body + key.len() + 1);
            let found = there.and_then(|text| text.strip_prefix(b"\"")?.strip_suffix(b"\""));
            if found != Some(key.as_bytes()) || !plain(key) {
                flags |= RAW_KEY;
            }
        }
        let start = begin_record(out, Kind::Event, flags);
        out.extend_from_slice(&self.topic.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.ts.to_le_bytes());
        let lengths = out.len();
        out.extend_from_slice(&[0; 6]);
        if flags & RAW_ID != 0 {
            put_text(out, self.id);
        }
        if flags & RAW_KEY != 0 {
            put_text(out, self.key.unwrap_or_default());
        }
        let json = out.len();
        encode_event_position(out, self.id, self.seq, self.ts);
        let key_at = out.len() - json + key_in_body;
        out.extend_from_slice(self.body);
        out[lengths..lengths + 2].copy_from_slice(&text_length(self.id));
        if flags & KEYED != 0 && flags & RAW_KEY == 0 {
            out[lengths + 2..lengths + 4].copy_from_slice(&text_length(self.key.unwrap_or_default()));
            // Behind an id, of which escapes make six times 512 bytes at most, two numbers and a topic.
            out[lengths + 4..lengths + 6].copy_from_slice(&(key_at as u16).to_le_bytes());
        }
        let end = out.len();
        end_record(out, start, store, Position(base.0 + start as u64));
        json..end
    }
}

/// Whether it can be the place of an event in its topic. What counts with seqs relies on it: 0 has none before it.
fn is_seq(number: u64) -> bool {
    (1..=limits::TS_MAX).contains(&number)
}

/// An event as it stands in the log.
#[derive(Debug, Clone)]
pub(crate) struct EventRecord<'a> {
    pub(crate) topic: u32,
    pub(crate) seq: u64,
    pub(crate) ts: u64,
    pub(crate) id: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) json: &'a [u8],
    /// The segment's id table has it.
    pub(crate) listed: bool,
    /// It is a copy of one that stood earlier.
    pub(crate) moved: bool,
}

impl<'a> EventRecord<'a> {
    /// The event in a record that is whole.
    pub(crate) fn decode(record: &RawRecord<'a>) -> Option<Self> {
        if record.kind != Kind::Event {
            return None;
        }
        let flags = record.flags;
        let mut reader = Reader(record.body);
        let (topic, seq, ts) = (reader.u32()?, reader.u64()?, reader.u64()?);
        let (id_length, key_length, key_at) = (reader.u16()?, reader.u16()?, reader.u16()?);
        if !is_seq(seq) {
            return None;
        }
        let raw_id = if flags & RAW_ID != 0 { Some(reader.text()?) } else { None };
        let raw_key = if flags & RAW_KEY != 0 { Some(reader.text()?) } else { None };
        let json = reader.0;
        let within = |at: usize, length: u16| std::str::from_utf8(json.get(at..at + usize::from(length))?).ok();
        let id = match raw_id {
            Some(id) => id,
            // Behind `{"id":"`.
            None => within(7, id_length)?,
        };
        let key = match raw_key {
            Some(key) => Some(key),
            None if flags & KEYED != 0 => Some(within(key_at.into(), key_length)?),
            None => None,
        };
        Some(Self { topic, seq, ts, id, key, json, listed: flags & LISTED != 0, moved: flags & MOVED != 0 })
    }

    /// Whether its text says what the record says of it. Those of a hub that cut a long key to what a record can hold do
    /// not, though their checksums are right.
    pub(crate) fn is_sound(&self) -> bool {
        let event = std::str::from_utf8(self.json).ok().and_then(|json| prom_protocol::Event::parse(json).ok());
        event.is_some_and(|event| {
            (&*event.id, event.seq, event.ts, event.key.as_deref()) == (self.id, self.seq, self.ts, self.key)
        })
    }

    /// The event as readers get it.
    pub(crate) fn stored(&self) -> Stored {
        Arc::new(Record {
            id: self.id.into(),
            seq: self.seq,
            ts: self.ts,
            key: self.key.map(Into::into),
            json: bytes::Bytes::copy_from_slice(self.json),
        })
    }
}

/// Whether a record that is whole says something that makes sense: an event must be one.
pub(crate) fn is_sound(record: &RawRecord<'_>) -> bool {
    record.kind != Kind::Event || EventRecord::decode(record).is_some_and(|event| event.is_sound())
}

/// Appends a copy of an event's record to `out`, whose first byte will stand at `base`; returns the copy's offset in the
/// segment.
pub(crate) fn encode_moved(out: &mut Vec<u8>, record: &RawRecord<'_>, store: u64, base: Position) -> u32 {
    let start = begin_record(out, Kind::Event, record.flags | MOVED);
    out.extend_from_slice(record.body);
    let at = Position(base.0 + start as u64);
    end_record(out, start, store, at);
    at.offset()
}

/// [`TopicRecord::epoch`] of a topic that was removed, with all that stands before this record under its number.
pub(crate) const NO_TOPIC: u64 = 0;
/// `epoch` of a cursor that was removed.
pub(crate) const NO_CURSOR: u64 = u64::MAX;

/// A topic: written when the topic is made, when it is trimmed or removed, and before the segment of its last record is
/// dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicRecord<'a> {
    pub(crate) number: u32,
    pub(crate) name: Cow<'a, str>,
    /// [`NO_TOPIC`]: it was removed.
    pub(crate) epoch: u64,
    /// First seq that is retained.
    pub(crate) first: u64,
    /// Last seq that was committed before this.
    pub(crate) tail: u64,
    /// Ranges of seqs between them whose events were damaged and given up, first and last of each, ascending.
    pub(crate) holes: Cow<'a, [(u64, u64)]>,
}

impl TopicRecord<'_> {
    /// The same, borrowed from nothing.
    pub(crate) fn into_owned(self) -> TopicRecord<'static> {
        let (name, holes) = (self.name.into_owned().into(), self.holes.into_owned().into());
        TopicRecord { name, holes, ..self }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>, store: u64, base: Position) -> u32 {
        let start = begin_record(out, Kind::Topic, 0);
        self.encode_body(out);
        let at = Position(base.0 + start as u64);
        end_record(out, start, store, at);
        at.offset()
    }

    pub(crate) fn encode_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_le_bytes());
        for number in [self.epoch, self.first, self.tail] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        put_text(out, &self.name);
        for (first, last) in &*self.holes {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&last.to_le_bytes());
        }
    }

    pub(crate) fn decode(body: &[u8]) -> Option<TopicRecord<'_>> {
        let mut reader = Reader(body);
        let (number, epoch, first, tail) = (reader.u32()?, reader.u64()?, reader.u64()?, reader.u64()?);
        let name = Cow::Borrowed(reader.text()?);
        let mut holes = Vec::new();
        while !reader.0.is_empty() {
            let (from, to) = (reader.u64()?, reader.u64()?);
            if !is_seq(from) || !is_seq(to) || from > to {
                return None;
            }
            holes.push((from, to));
        }
        // Of a topic that was trimmed whole the first one is still to come.
        if first == 0 || first > limits::TS_MAX + 1 || tail > limits::TS_MAX {
            return None;
        }
        Some(TopicRecord { number, name, epoch, first, tail, holes: holes.into() })
    }
}

/// A group's cursor in a topic. The last record of a group counts; with the epoch [`NO_CURSOR`] there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CursorRecord<'a> {
    pub(crate) topic: u32,
    pub(crate) group: &'a str,
    pub(crate) cursor: Cow<'a, Cursor>,
}

impl<'a> CursorRecord<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>, store: u64, base: Position) -> u32 {
        let start = begin_record(out, Kind::Cursor, 0);
        self.encode_body(out);
        let at = Position(base.0 + start as u64);
        end_record(out, start, store, at);
        at.offset()
    }

    pub(crate) fn encode_body(&self, out: &mut Vec<u8>) {
        let cursor = &*self.cursor;
        out.extend_from_slice(&self.topic.to_le_bytes());
        put_text(out, self.group);
        for number in [cursor.epoch, cursor.floor, cursor.delivered, cursor.last_ts] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        // No id is empty.
        put_text(out, cursor.last_id.as_deref().unwrap_or_default());
        out.extend_from_slice(&(cursor.settled.len() as u32).to_le_bytes());
        for (first, last) in &cursor.settled {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&last.to_le_bytes());
        }
        out.extend_from_slice(&(cursor.attempts.len() as u32).to_le_bytes());
        for (seq, attempts) in &cursor.attempts {
            out.extend_from_slice(&seq.to_le_bytes());
            out.extend_from_slice(&attempts.to_le_bytes());
        }
    }

    pub(crate) fn decode(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let (topic, group) = (reader.u32()?, reader.text()?);
        let (epoch, floor, delivered, last_ts) = (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
        let last_id = Some(reader.text()?).filter(|id| !id.is_empty()).map(Into::into);
        // Collecting stops at the end of the bytes, so a wrong count reserves nothing.
        let count = reader.u32()?;
        let settled = (0..count).map(|_| Some((reader.u64()?, reader.u64()?))).collect::<Option<_>>()?;
        let count = reader.u32()?;
        let attempts = (0..count).map(|_| Some((reader.u64()?, reader.u32()?))).collect::<Option<_>>()?;
        let cursor = Cursor { epoch, floor, last_id, last_ts, delivered, settled, attempts };
        Some(Self { topic, group, cursor: Cow::Owned(cursor) })
    }
}

/// What is written of a cursor that was removed.
pub(crate) fn gone() -> Cursor {
    Cursor { epoch: NO_CURSOR, ..Cursor::default() }
}

/// Bytes an event takes in the log beside its JSON.
pub(crate) const EVENT_OVERHEAD: usize = EVENT_HEAD;

#[cfg(test)]
mod tests {
    use prom_protocol::{Event, EventOptions, Text, encode_event_body};

    use super::*;
    use crate::format::decode_record;

    #[test]
    fn an_event_comes_back_as_it_was_written() {
        for (id, key) in [
            ("plain", None),
            ("0190aa00-0000-7000-8000-000000000001", Some("host:name:1")),
            ("with \"quotes\" and \\", Some("plain")),
            ("plain", Some("with \"quotes\" and \\")),
            ("ü", Some("ü")),
        ] {
            let options = EventOptions { key: key.map(Text::from), sid: Some("s".into()), ..EventOptions::default() };
            let mut body = Vec::new();
            encode_event_body(&mut body, "a.b", &options, r#"{"x":1}"#);
            let event = NewEvent { topic: 5, topic_name: "a.b", seq: 7, ts: 9, id, key, body: &body, listed: true };
            let mut out = vec![1, 2, 3];
            let base = Position::new(4, 100);
            let json = event.encode(&mut out, 11, base);
            let record = decode_record(&out[3..], 11, Position::new(4, 103)).unwrap();
            assert_eq!(record.length, out.len() - 3);
            let decoded = EventRecord::decode(&record).unwrap();
            assert_eq!((decoded.topic, decoded.seq, decoded.ts, decoded.id, decoded.key), (5, 7, 9, id, key));
            assert_eq!((decoded.json, decoded.listed, decoded.moved), (&out[json], true, false));
            let stored = decoded.stored();
            let parsed = Event::parse(stored.text()).unwrap();
            assert_eq!((&*parsed.id, parsed.key.as_deref()), (id, key));
            assert_eq!(parsed.payload.get(), r#"{"x":1}"#);
            if plain(id) && key.is_none_or(plain) {
                assert_eq!(record.length, EVENT_OVERHEAD + decoded.json.len(), "nothing is written twice");
            }
            let mut copy = Vec::new();
            encode_moved(&mut copy, &record, 11, Position::new(9, 64));
            let moved = decode_record(&copy, 11, Position::new(9, 64)).unwrap();
            let moved = EventRecord::decode(&moved).unwrap();
            assert!(moved.moved && moved.json == decoded.json && moved.key == key);
        }
    }

    /// A record has nothing of its own for it: it stands in the event's text, and only there.
    #[test]
    fn who_published_takes_its_text_and_nothing_where_nobody_is_known() {
        let length = |by: Option<&str>| {
            let options = EventOptions { key: Some("k".into()), ..EventOptions::default() };
            let mut body = Vec::new();
            prom_protocol::encode_event_body_by(&mut body, "a.b", &options, by, "1");
            let event = NewEvent {
                topic: 5,
                topic_name: "a.b",
                seq: 7,
                ts: 9,
                id: "i",
                key: Some("k"),
                body: &body,
                listed: false,
            };
            let (mut out, base) = (Vec::new(), Position::new(4, 100));
            event.encode(&mut out, 11, base);
            let record = decode_record(&out, 11, base).unwrap();
            let decoded = EventRecord::decode(&record).unwrap();
            assert!(decoded.is_sound());
            assert_eq!(Event::parse(decoded.stored().text()).unwrap().by.as_deref(), by);
            record.length
        };
        let plain = r#"{"id":"i","seq":7,"ts":9,"topic":"a.b","key":"k","payload":1}"#;
        assert_eq!(length(None), EVENT_OVERHEAD + plain.len());
        assert_eq!(length(Some("alice")), length(None) + r#","by":"alice""#.len());
        let longest = "\"".repeat(prom_protocol::limits::SUBJECT_BYTES);
        assert_eq!(length(Some(&longest)), length(None) + r#","by":"""#.len() + 2 * longest.len());
    }

    /// Whoever counts with seqs takes one from them: a log that had a seq of 0 ended the hub.
    #[test]
    fn what_names_no_seq_is_no_record() {
        let topic = |first, tail, holes: &[(u64, u64)]| {
            let (name, holes) = ("a".into(), holes.to_vec().into());
            let mut body = Vec::new();
            TopicRecord { number: 0, name, epoch: 1, first, tail, holes }.encode_body(&mut body);
            TopicRecord::decode(&body).is_some()
        };
        assert!(topic(1, 0, &[]) && topic(limits::TS_MAX + 1, limits::TS_MAX, &[(1, 1), (7, 9)]));
        assert!(!topic(0, 0, &[]) && !topic(u64::MAX, 0, &[]) && !topic(1, u64::MAX, &[]));
        assert!(!topic(1, 9, &[(0, 1)]) && !topic(1, 9, &[(3, 2)]) && !topic(1, 9, &[(3, u64::MAX)]));
        for (seq, taken) in [(0, false), (1, true), (limits::TS_MAX, true), (u64::MAX, false)] {
            let body = b",\"topic\":\"a\",\"payload\":1}";
            let event = NewEvent { topic: 0, topic_name: "a", seq, ts: 1, id: "i", key: None, body, listed: false };
            let (mut out, at) = (Vec::new(), Position::new(1, 64));
            event.encode(&mut out, 7, at);
            let record = decode_record(&out, 7, at).unwrap();
            assert_eq!(EventRecord::decode(&record).is_some(), taken, "{seq}");
        }
    }

    #[test]
    fn topics_and_cursors_come_back_as_they_were_written() {
        let holes = vec![(6, 6), (8, 9)].into();
        let topic = TopicRecord { number: 3, name: "a.b".into(), epoch: 1 << 40, first: 5, tail: 9, holes };
        let mut body = Vec::new();
        topic.encode_body(&mut body);
        assert_eq!(TopicRecord::decode(&body), Some(topic));
        let cursor = Cursor {
            epoch: 5,
            floor: 6,
            last_id: Some("id".into()),
            last_ts: 7,
            delivered: 90,
            settled: vec![(8, 9), (11, 12)],
            attempts: vec![(7, 3), (10, 0)],
        };
        for cursor in [cursor, Cursor::default()] {
            let record = CursorRecord { topic: 3, group: "g", cursor: Cow::Owned(cursor) };
            let mut body = Vec::new();
            record.encode_body(&mut body);
            assert_eq!(CursorRecord::decode(&body), Some(record.clone()));
            for length in 0..body.len() {
                assert_eq!(CursorRecord::decode(&body[..length]), None);
            }
            let counts = body.len() - record.cursor.attempts.len() * 12 - 4;
            body[counts..counts + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert_eq!(CursorRecord::decode(&body), None, "a count beyond the bytes");
        }
    }
}
