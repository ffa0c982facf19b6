//! The `opts` of a SUBSCRIBE.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    Event, Refusal,
    event::Headers,
    fields::{Field, raw_fields},
    limits,
};

/// Where a group without a cursor, or an ephemeral subscription, starts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum StartFrom {
    /// Only what comes from now on.
    #[default]
    Latest,
    /// The first event that is retained.
    Earliest,
    /// The first event whose `ts` is at or after this, in milliseconds since the Unix epoch.
    Ts(u64),
    /// The event after the one with this id.
    AfterId(String),
    /// The event after this position.
    AfterSeq(u64),
    /// The newest event of each key, then what comes from now on. Only without a group.
    Snapshot,
}

/// In which order a group's events reach its members.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// In seq order on first delivery; a redelivered event may be overtaken.
    #[default]
    None,
    /// At most one unsettled event per key; events of a key never overtake one another.
    Key,
}

/// Who settles an event.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum AckMode {
    /// The member, with ACK or NACK.
    #[default]
    Explicit,
    /// The hub, as it sends the event: at most once.
    None,
}

/// Which events a subscription wants; the others count as settled. An empty list passes everything.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Filter {
    /// The event's key is one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// The event has at least one of these tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The event has all of these headers with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl Filter {
    /// Whether every event passes.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.tags.is_empty() && self.headers.is_empty()
    }

    /// Whether `event` passes each of the three lists.
    pub fn passes(&self, event: &Event<'_>) -> bool {
        (self.keys.is_empty() || event.key.as_ref().is_some_and(|key| self.keys.iter().any(|k| **k == **key)))
            && (self.tags.is_empty() || event.tags.iter().any(|tag| self.tags.iter().any(|t| **t == **tag)))
            && self.headers.iter().all(|(name, value)| event.headers.value(name) == Some(value))
    }
}

/// How a subscription behaves. [`Default`] gives the protocol's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Where to start; counts only when the group has no cursor yet.
    pub from: StartFrom,
    /// Unsettled events this member may hold, 1..=10000; default 100.
    pub max_in_flight: u32,
    /// Lease on each event in milliseconds, 1000..=43200000; default 30000.
    pub ack_timeout_ms: u64,
    /// Deliveries before an event becomes a dead letter, 1..=1000; default 5.
    pub max_attempts: u32,
    /// How many events to read ahead; a hint. Default: the hub decides.
    pub batch_size: Option<u32>,
    /// Order among events of a key.
    pub ordered: Ordering,
    /// Who settles the events: the member, or the hub as it sends them.
    pub ack: AckMode,
    /// Which events are wanted; the others count as settled.
    pub filter: Filter,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self {
            from: StartFrom::Latest,
            max_in_flight: 100,
            ack_timeout_ms: 30_000,
            max_attempts: 5,
            batch_size: None,
            ordered: Ordering::None,
            ack: AckMode::Explicit,
            filter: Filter::default(),
        }
    }
}

raw_fields! {
    RawOptions {
        from = "from",
        ts = "ts",
        after_id = "afterId",
        after_seq = "afterSeq",
        max_in_flight = "maxInFlight",
        ack_timeout_ms = "ackTimeoutMs",
        max_attempts = "maxAttempts",
        batch_size = "batchSize",
        ordered = "ordered",
        ack = "ack",
        filter = "filter",
    }
}

raw_fields! {
    RawFilter {
        keys = "keys",
        tags = "tags",
        headers = "headers",
    }
}

/// The options as they stand on the wire: what is at its default is left out.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct WireOptions<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_in_flight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ordered: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<&'a Filter>,
}

impl Serialize for SubscribeOptions {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let default = Self::default();
        let mut wire = WireOptions {
            max_in_flight: (self.max_in_flight != default.max_in_flight).then_some(self.max_in_flight),
            ack_timeout_ms: (self.ack_timeout_ms != default.ack_timeout_ms).then_some(self.ack_timeout_ms),
            max_attempts: (self.max_attempts != default.max_attempts).then_some(self.max_attempts),
            batch_size: self.batch_size,
            ordered: (self.ordered == Ordering::Key).then_some("key"),
            ack: (self.ack == AckMode::None).then_some("none"),
            filter: (!self.filter.is_empty()).then_some(&self.filter),
            ..WireOptions::default()
        };
        wire.from = match &self.from {
            StartFrom::Latest => None,
            StartFrom::Earliest => Some("earliest"),
            StartFrom::Snapshot => Some("snapshot"),
            StartFrom::Ts(ts) => {
                wire.ts = Some(*ts);
                Some("ts")
            }
            StartFrom::AfterId(id) => {
                wire.after_id = Some(id);
                Some("afterId")
            }
            StartFrom::AfterSeq(seq) => {
                wire.after_seq = Some(*seq);
                Some("afterSeq")
            }
        };
        wire.serialize(serializer)
    }
}

impl SubscribeOptions {
    /// Reads options from their JSON object, as they stand in a SUBSCRIBE.
    ///
    /// # Errors
    /// `bad_frame`, naming the option and the limit.
    pub fn parse(json: &str) -> Result<Self, Refusal> {
        let raw = serde_json::from_str(json)
            .map_err(|_| Refusal::bad_frame("opts must be an object without repeated fields"))?;
        Self::from_raw(&raw)
    }

    pub(crate) fn from_field(field: Field<'_>) -> Result<Self, Refusal> {
        match field.raw() {
            Some(raw) => Self::parse(raw.get()),
            None => Ok(Self::default()),
        }
    }

    fn from_raw(raw: &RawOptions<'_>) -> Result<Self, Refusal> {
        let default = Self::default();
        let count = |value: Option<u64>| value.and_then(|v| u32::try_from(v).ok());
        Ok(Self {
            from: start_from(raw)?,
            max_in_flight: count(raw.max_in_flight.integer("opts.maxInFlight", 1..=limits::MAX_IN_FLIGHT.into())?)
                .unwrap_or(default.max_in_flight),
            ack_timeout_ms: raw
                .ack_timeout_ms
                .integer("opts.ackTimeoutMs", limits::LEASE_MS_MIN..=limits::LEASE_MS_MAX)?
                .unwrap_or(default.ack_timeout_ms),
            max_attempts: count(raw.max_attempts.integer("opts.maxAttempts", 1..=limits::ATTEMPTS_MAX.into())?)
                .unwrap_or(default.max_attempts),
            batch_size: count(raw.batch_size.integer("opts.batchSize", 1..=limits::MAX_IN_FLIGHT.into())?),
            ordered: choice(raw.ordered, "opts.ordered", &[("key", Ordering::Key), ("none", Ordering::None)])?,
            ack: choice(raw.ack, "opts.ack", &[("explicit", AckMode::Explicit), ("none", AckMode::None)])?,
            filter: filter(raw.filter)?,
        })
    }
}

/// One of a few words; absent is the type's default.
fn choice<T: Copy + Default>(field: Field<'_>, name: &str, words: &[(&str, T)]) -> Result<T, Refusal> {
    let Some(word) = field.text(name)? else { return Ok(T::default()) };
    words.iter().find(|(w, _)| *w == word.as_str()).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(w, _)| *w).collect();
        Refusal::bad_frame(format!("{name} must be one of {}", words.join(", ")))
    })
}

fn start_from(raw: &RawOptions<'_>) -> Result<StartFrom, Refusal> {
    let missing = |name: &str| Refusal::bad_frame(format!("opts.{name} is required with opts.from \"{name}\""));
    let Some(word) = raw.from.text("opts.from")? else { return Ok(StartFrom::Latest) };
    Ok(match word.as_str() {
        "latest" => StartFrom::Latest,
        "earliest" => StartFrom::Earliest,
        "snapshot" => StartFrom::Snapshot,
        "ts" => StartFrom::Ts(raw.ts.integer("opts.ts", 0..=limits::TS_MAX)?.ok_or_else(|| missing("ts"))?),
        "afterId" => {
            let id = raw.after_id.bounded("opts.afterId", limits::KEY_BYTES)?.ok_or_else(|| missing("afterId"))?;
            StartFrom::AfterId(id.0.into_owned())
        }
        "afterSeq" => StartFrom::AfterSeq(
            raw.after_seq.integer("opts.afterSeq", 0..=limits::TS_MAX)?.ok_or_else(|| missing("afterSeq"))?,
        ),
        _ => {
            return Err(Refusal::bad_frame(
                "opts.from must be one of latest, earliest, ts, afterId, afterSeq, snapshot",
            ));
        }
    })
}

fn filter(field: Field<'_>) -> Result<Filter, Refusal> {
    let Some(raw) = field.parse::<RawFilter<'_>>("opts.filter", "an object")? else { return Ok(Filter::default()) };
    let owned = |list: Vec<crate::Text<'_>>| list.into_iter().map(|text| text.0.into_owned()).collect();
    Ok(Filter {
        keys: owned(raw.keys.list("opts.filter.keys", limits::FILTER_ENTRIES, limits::KEY_BYTES)?),
        tags: owned(raw.tags.list("opts.filter.tags", limits::FILTER_ENTRIES, limits::TAG_BYTES)?),
        headers: Headers::from_field(raw.headers, "opts.filter.headers")?
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_protocol() {
        let options = SubscribeOptions::parse("{}").unwrap();
        assert_eq!(options, SubscribeOptions::default());
        assert_eq!(serde_json::to_string(&options).unwrap(), "{}");
    }

    #[test]
    fn every_option_round_trips() {
        for json in [
            r#"{"from":"earliest","maxInFlight":1,"ackTimeoutMs":1000,"maxAttempts":1,"batchSize":7,"ordered":"key","ack":"none","filter":{"keys":["k"],"tags":["t"],"headers":{"h":"v"}}}"#,
            r#"{"from":"ts","ts":5}"#,
            r#"{"from":"afterId","afterId":"x"}"#,
            r#"{"from":"afterSeq","afterSeq":0}"#,
            r#"{"from":"snapshot"}"#,
        ] {
            assert_eq!(serde_json::to_string(&SubscribeOptions::parse(json).unwrap()).unwrap(), json);
        }
    }

    #[test]
    fn refuses_by_name_and_limit() {
        let cases = [
            (r#"{"maxInFlight":0}"#, "opts.maxInFlight must be an integer from 1 to 10000"),
            (r#"{"maxInFlight":10001}"#, "opts.maxInFlight must be an integer from 1 to 10000"),
            (r#"{"maxInFlight":"9"}"#, "opts.maxInFlight must be an integer from 1 to 10000"),
            (r#"{"ackTimeoutMs":999}"#, "opts.ackTimeoutMs must be an integer from 1000 to 43200000"),
            (r#"{"ordered":"yes"}"#, "opts.ordered must be one of key, none"),
            (r#"{"from":"ts"}"#, "opts.ts is required with opts.from \"ts\""),
            (r#"{"from":"never"}"#, "opts.from must be one of latest, earliest, ts, afterId, afterSeq, snapshot"),
            (r#"{"filter":[]}"#, "opts.filter must be an object"),
            (r#"{"filter":{"keys":[1]}}"#, "opts.filter.keys must be a list of strings"),
            ("[]", "opts must be an object without repeated fields"),
        ];
        for (json, message) in cases {
            assert_eq!(SubscribeOptions::parse(json).unwrap_err().message(), message, "{json}");
        }
        assert!(SubscribeOptions::parse(r#"{"unknown":1,"maxInFlight":null}"#).is_ok());
    }

    #[test]
    fn filters_by_key_tag_and_header() {
        let event = Event::parse(
            r#"{"id":"1","seq":1,"ts":1,"topic":"t","key":"k","headers":{"h":"v"},"tags":["a","b"],"payload":null}"#,
        )
        .unwrap();
        let passes =
            |json: &str| SubscribeOptions::parse(&format!("{{\"filter\":{json}}}")).unwrap().filter.passes(&event);
        assert!(passes("{}"));
        assert!(passes(r#"{"keys":["x","k"],"tags":["b"],"headers":{"h":"v"}}"#));
        assert!(!passes(r#"{"keys":["x"]}"#));
        assert!(!passes(r#"{"tags":["c"]}"#));
        assert!(!passes(r#"{"headers":{"h":"w"}}"#));
        assert!(!passes(r#"{"headers":{"i":"v"}}"#));
    }
}
