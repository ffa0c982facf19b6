//! Events as a subscriber sees them.

use prom_protocol::{Headers, RawValue, Text};
use serde::{Deserialize, Serialize};

use crate::Error;

/// An immutable record of a topic. Serialises to the JSON it had on the wire.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// Its id, unique in its topic.
    pub id: String,
    /// Position in its topic, from 1.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub ts: u64,
    /// The concrete topic, never a pattern.
    pub topic: String,
    /// What the event is about, for instance the id of an order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The publisher's session or stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// Headers, in the publisher's order.
    #[serde(skip_serializing_if = "Headers::is_empty")]
    pub headers: Headers<'static>,
    /// Its tags, at most 32.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Ids of the events that led to it, at most 32.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caused_by: Vec<String>,
    /// Who published it: the `sub` of the publisher's token, at most 512 bytes, written by the hub. None where the token
    /// has no such claim, and on rows that the hub drained from an outbox. A name that starts with `$` is the hub's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    payload: Box<RawValue>,
}

impl Event {
    pub(crate) fn parse(json: &str) -> Result<Self, prom_protocol::Refusal> {
        let event = prom_protocol::Event::parse(json)?;
        let owned = |text: Text<'_>| text.0.into_owned();
        Ok(Self {
            id: owned(event.id),
            seq: event.seq,
            ts: event.ts,
            topic: owned(event.topic),
            key: event.key.map(owned),
            sid: event.sid.map(owned),
            headers: event.headers.into_owned(),
            tags: event.tags.into_iter().map(owned).collect(),
            caused_by: event.caused_by.into_iter().map(owned).collect(),
            by: event.by.map(owned),
            payload: event.payload.to_owned(),
        })
    }

    /// The payload as a `T`. Nothing of it is read before this is called.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Payload`], with the parser's error as its source.
    pub fn payload<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_json::from_str(self.payload.get())
            .map_err(|error| Error::payload("the payload is not what was asked for", error))
    }

    /// The payload's JSON text.
    pub fn raw(&self) -> &RawValue {
        &self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn an_event_keeps_all_it_had_on_the_wire() {
        let json = r#"{"id":"i\"d","seq":7,"ts":5,"topic":"a.b","key":"k","sid":"s","headers":{"h":"v"},"tags":["t"],"caused_by":["c","d"],"by":"alice","payload":{"x":1.50}}"#;
        let event = Event::parse(json).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), json);
        assert_eq!((event.id.as_str(), event.headers.value("h")), ("i\"d", Some("v")));
        assert_eq!(event.by.as_deref(), Some("alice"));
        assert_eq!(event.raw().get(), r#"{"x":1.50}"#);
        assert_eq!(event.payload::<u8>().unwrap_err().kind(), ErrorKind::Payload);
    }
}
