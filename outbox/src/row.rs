//! Rows: what a service writes, and what an operator sees.

use std::{fmt, str::FromStr, sync::Arc};

use prom_protocol::{ErrorCode, EventOptions, Headers, RawValue, Refusal, Text};
use serde::{Deserialize, Serialize};

use crate::OutboxEvent;

/// The state of a row on its way to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Waits to be published, now or at `next_try_at`.
    Pending,
    /// A drainer has it until `lease_until`.
    Claimed,
    /// Published; deleted after the retention.
    Sent,
    /// Parked: it will not be published until an operator asks for another try.
    Error,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Claimed, Self::Sent, Self::Error];

    /// As it stands in the row.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Claimed => "claimed",
            Self::Sent => "sent",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|status| status.as_str() == text);
        found.ok_or_else(|| format!("status must be pending, claimed, sent or error, not `{text}`"))
    }
}

/// A row's `_id`: its text, which is the event's id, and what the store needs to find the very row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowId {
    text: Arc<str>,
    native: Option<Arc<[u8]>>,
}

impl RowId {
    /// The event's id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// One that is no more than its text.
    pub(crate) fn plain(text: &str) -> Self {
        Self { text: text.into(), native: None }
    }

    #[cfg(feature = "mongodb")]
    pub(crate) fn native(text: &str, native: &[u8]) -> Self {
        Self { text: text.into(), native: Some(native.into()) }
    }

    #[cfg(feature = "mongodb")]
    pub(crate) fn as_native(&self) -> Option<&[u8]> {
        self.native.as_deref()
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A row to be written: an event and when it happened.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use prom_outbox::NewRow;
/// let row = NewRow::new("orders.paid", &serde_json::json!({"order": 7}))?.key("order-7").header("trace", "4bf92f35");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct NewRow {
    pub(crate) topic: String,
    pub(crate) payload: Box<RawValue>,
    pub(crate) id: Option<String>,
    pub(crate) ts: Option<u64>,
    pub(crate) key: Option<String>,
    pub(crate) sid: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) tags: Vec<String>,
    pub(crate) caused_by: Vec<String>,
}

impl NewRow {
    /// An event on `topic`.
    ///
    /// # Errors
    /// `bad_payload`: the value does not become JSON. Everything else is checked when the row is added.
    pub fn new<T: Serialize + ?Sized>(topic: impl Into<String>, payload: &T) -> Result<Self, Refusal> {
        let payload = serde_json::value::to_raw_value(payload)
            .map_err(|error| Refusal::new(ErrorCode::BadPayload, format!("payload does not become JSON: {error}")))?;
        Ok(Self::raw(topic, payload))
    }

    /// An event whose payload is JSON already.
    pub fn raw(topic: impl Into<String>, payload: Box<RawValue>) -> Self {
        Self {
            topic: topic.into(),
            payload,
            id: None,
            ts: None,
            key: None,
            sid: None,
            headers: Vec::new(),
            tags: Vec::new(),
            caused_by: Vec::new(),
        }
    }

    /// The row's id and the event's, 1 to 128 bytes, unique in the outbox and within its topic. Default: a new one.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Milliseconds since the Unix epoch: the event's `ts` and the row's place in the order. Default: now.
    #[must_use]
    pub fn ts(mut self, ts: u64) -> Self {
        self.ts = Some(ts);
        self
    }

    /// What the event is about, 1 to 512 bytes. Rows of one key are published in order.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The publisher's session or stream, 1 to 128 bytes.
    #[must_use]
    pub fn sid(mut self, sid: impl Into<String>) -> Self {
        self.sid = Some(sid.into());
        self
    }

    /// Adds a header; at most 32, each name once.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds a tag, 1 to 64 bytes; at most 32.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Adds the id of an event that led to this one; at most 32.
    #[must_use]
    pub fn caused_by(mut self, id: impl Into<String>) -> Self {
        self.caused_by.push(id.into());
        self
    }

    /// The row as it is first written, checked as the hub will check it. `new_id` makes the default id.
    pub(crate) fn into_row(self, now: u64, new_id: impl FnOnce() -> String) -> Result<Row, Refusal> {
        let row = Row {
            id: self.id.unwrap_or_else(new_id),
            topic: self.topic,
            payload: Some(self.payload),
            headers: self.headers,
            key: self.key,
            sid: self.sid,
            tags: self.tags,
            caused_by: self.caused_by,
            status: Status::Pending,
            claimed_by: None,
            lease_until: None,
            fence: None,
            last_err: None,
            ts: Some(self.ts.unwrap_or(now)),
            attempts: 0,
            next_try_at: None,
        };
        row.event().map(|_| row)
    }
}

/// A row as it stands in the outbox. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The row's id as text: the event's id.
    #[serde(rename = "_id")]
    pub id: String,
    /// Where it is published.
    pub topic: String,
    /// The payload's JSON; none: it has none, see `last_err`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
    /// Headers, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "pairs")]
    pub headers: Vec<(String, String)>,
    /// The key: events of one key are published in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The publisher's session or stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// Tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Ids of the events that led to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caused_by: Vec<String>,
    /// Its state.
    pub status: Status,
    /// The drainer that has it, or published it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_by: Option<String>,
    /// While claimed: until when. Once sent: since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<u64>,
    /// The number of the last claim that had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
    /// Why it was not published at the last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_err: Option<String>,
    /// When it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ts: Option<u64>,
    /// Tries that failed. Claims that ran out, and tries while the hub could not be reached, are none.
    #[serde(default)]
    pub attempts: u32,
    /// Not before then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_at: Option<u64>,
}

impl Row {
    /// The event it becomes.
    ///
    /// # Errors
    /// Why it becomes none, naming the field.
    pub fn event(&self) -> Result<OutboxEvent, Refusal> {
        let payload = self.payload.clone();
        let payload = payload.ok_or_else(|| Refusal::new(ErrorCode::BadPayload, "payload is missing"))?;
        let options = EventOptions {
            id: None,
            ts: self.ts,
            key: self.key.clone().map(Text::from),
            sid: self.sid.clone().map(Text::from),
            headers: self
                .headers
                .iter()
                .cloned()
                .map(|(name, value)| (Text::from(name), Text::from(value)))
                .collect::<Headers<'static>>(),
            tags: self.tags.iter().cloned().map(Text::from).collect(),
            caused_by: self.caused_by.iter().cloned().map(Text::from).collect(),
        };
        OutboxEvent::new(&self.topic, self.id.clone(), options, payload)
    }

    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        256 + self.payload.as_ref().map_or(0, |payload| payload.get().len())
    }
}

/// Pairs as an object, in their order.
mod pairs {
    use std::fmt;

    use serde::{Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Vec<(String, String)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_from_its_json() {
        let row = NewRow::new("a", &1.5).unwrap().id("i").ts(7).key("k").header("z", "1").header("a", "2").tag("x");
        let row = row.into_row(0, String::new).unwrap();
        let json = serde_json::to_string(&row).unwrap();
        let expected = r#"{"_id":"i","topic":"a","payload":1.5,"headers":{"z":"1","a":"2"},"key":"k","tags":["x"],"status":"pending","ts":7,"attempts":0}"#;
        assert_eq!(json, expected);
        let back: Row = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), expected);
    }

    #[test]
    fn a_status_is_one_of_four() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert!("done".parse::<Status>().is_err());
    }
}
