//! What can be measured, with what options, within what limits.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use prom_protocol::limits;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Error, publisher::PAYLOAD_MIN};

/// Most rows that are committed at one moment.
const MOST_AT_ONCE: u64 = 100_000;

/// Options of `publish`: acknowledged publishes a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishOptions {
    /// Connections; default 1.
    pub connections: usize,
    /// Publishes in flight on each; default 1000.
    pub window: usize,
    /// Bytes of a payload; default 256.
    pub payload: usize,
    /// Topics, taken in turn; default 1.
    pub topics: usize,
    /// Publishes over all connections; default: as many as the duration allows.
    pub count: Option<u64>,
    /// How long to publish when there is no count; default 5 s.
    #[serde(serialize_with = "millis", rename = "durationMs")]
    pub duration: Duration,
    /// Whether each publish carries an id, as the SDKs' do; default no.
    pub ids: bool,
    /// Whether several frames go in one message, both ways, where the hub agrees; default no.
    pub batch: bool,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            connections: 1,
            window: 1000,
            payload: 256,
            topics: 1,
            count: None,
            duration: Duration::from_secs(5),
            ids: false,
            batch: false,
        }
    }
}

/// Options of `deliver`: deliveries a second to one durable group, each acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliverOptions {
    /// Events; default 200 000. The hub keeps all of them until the group has settled them.
    pub count: u64,
    /// Members of the group, each on a connection of its own; default 1.
    pub members: usize,
    /// Events a member may have unsettled; default 1000.
    pub in_flight: u32,
    /// Bytes of a payload; default 256.
    pub payload: usize,
    /// Topics; with more than one the group subscribes to a pattern. Default 1.
    pub topics: usize,
    /// Whether the events are published while the group receives; default: before.
    pub live: bool,
    /// Publishes in flight; default 1000.
    pub window: usize,
    /// Whether several frames go in one message, both ways, where the hub agrees; default no.
    pub batch: bool,
}

impl Default for DeliverOptions {
    fn default() -> Self {
        Self {
            count: 200_000,
            members: 1,
            in_flight: 1000,
            payload: 256,
            topics: 1,
            live: false,
            window: 1000,
            batch: false,
        }
    }
}

/// Options of `latency`: time from when a publish was due to its OK, and to its delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencyOptions {
    /// Publishes a second; default 2000.
    pub rate: u64,
    /// For how long; default 10 s.
    #[serde(serialize_with = "millis", rename = "durationMs")]
    pub duration: Duration,
    /// Bytes of a payload; default 256.
    pub payload: usize,
}

impl Default for LatencyOptions {
    fn default() -> Self {
        Self { rate: 2000, duration: Duration::from_secs(10), payload: 256 }
    }
}

/// Options of `idle`: memory a hub takes for each idle connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdleOptions {
    /// Connections; default 1000.
    pub connections: usize,
}

impl Default for IdleOptions {
    fn default() -> Self {
        Self { connections: 1000 }
    }
}

/// Options of `outbox`: a row's way from a service's transaction through the hub's drainer to a subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboxOptions {
    /// Rows a second, each in a transaction of its own with one other document; default 200.
    pub rate: u64,
    /// For how long; default 15 s.
    #[serde(serialize_with = "millis", rename = "durationMs")]
    pub duration: Duration,
    /// Instead: so many rows, committed at one moment, and how fast the hub drains them.
    pub drain: Option<u64>,
    /// Bytes of a payload; default 256.
    pub payload: usize,
    /// Keys, taken in turn; default 1000.
    pub keys: u64,
    /// The outbox: a collection of the hub's database, or `database.collection`. Default `outbox`.
    pub outbox: String,
}

impl Default for OutboxOptions {
    fn default() -> Self {
        Self {
            rate: 200,
            duration: Duration::from_secs(15),
            drain: None,
            payload: 256,
            keys: 1000,
            outbox: "outbox".into(),
        }
    }
}

/// What to measure, and with which options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scenario {
    /// How many publishes a second are acknowledged.
    Publish(PublishOptions),
    /// How many deliveries a second a durable group settles.
    Deliver(DeliverOptions),
    /// How long a publish takes to its OK and to its delivery.
    Latency(LatencyOptions),
    /// How much memory an idle connection takes.
    Idle(IdleOptions),
    /// How long a row takes from its transaction to a subscriber. Needs [`Target::mongo_url`](crate::Target).
    Outbox(OutboxOptions),
}

impl Scenario {
    /// The rows that hubs are compared by. Idle connections come first: a hub that has worked has memory to reuse.
    pub fn standard() -> Vec<Self> {
        let publish = PublishOptions::default();
        vec![
            Self::Idle(IdleOptions::default()),
            Self::Publish(publish.clone()),
            Self::Publish(PublishOptions { connections: 16, window: 64, ..publish }),
            Self::Deliver(DeliverOptions::default()),
            Self::Latency(LatencyOptions::default()),
        ]
    }

    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Publish(_) => "publish",
            Self::Deliver(_) => "deliver",
            Self::Latency(_) => "latency",
            Self::Idle(_) => "idle",
            Self::Outbox(_) => "outbox",
        }
    }

    /// Its options, as the table for people shows them.
    pub fn title(&self) -> String {
        match self {
            Self::Publish(PublishOptions { connections, window, payload, topics, ids, batch, .. }) => {
                let topics = if *topics > 1 { format!(", {topics} topics") } else { String::new() };
                let ids = if *ids { ", ids" } else { "" };
                let batch = batched(*batch);
                format!("{connections} x {window} in flight, {payload} B{topics}{ids}{batch}")
            }
            Self::Deliver(DeliverOptions { count, members, in_flight, payload, topics, live, batch, .. }) => {
                let topics = if *topics > 1 { format!(", {topics} topics") } else { String::new() };
                let live = if *live { ", live" } else { "" };
                let batch = batched(*batch);
                format!("{count} to {members} x {in_flight} in flight, {payload} B{topics}{live}{batch}")
            }
            Self::Latency(LatencyOptions { rate, payload, .. }) => format!("{rate}/s, {payload} B"),
            Self::Idle(IdleOptions { connections }) => format!("{connections} connections"),
            Self::Outbox(OutboxOptions { rate, drain, payload, keys, .. }) => {
                let what = drain.map_or_else(|| format!("{rate}/s"), |rows| format!("{rows} at once"));
                format!("{what}, {payload} B, {keys} keys")
            }
        }
    }

    /// Its options, as the JSON report holds them.
    pub fn parameters(&self) -> Value {
        match self {
            Self::Publish(options) => json!(options),
            Self::Deliver(options) => json!(options),
            Self::Latency(options) => json!(options),
            Self::Idle(options) => json!(options),
            Self::Outbox(options) => json!(options),
        }
    }

    /// Refuses options out of their limits.
    ///
    /// # Errors
    /// [`Error::Option`] with the option's name, its limits and its value.
    pub fn check(&self) -> Result<(), Error> {
        let payload = |value: usize| within("payload", value, PAYLOAD_MIN..=1_000_000);
        let topics = |value: usize| within("topics", value, 1..=1_000);
        let window = |value: usize| within("window", value, 1..=100_000);
        let seconds = |value: Duration| {
            let limits = Duration::from_millis(100)..=Duration::from_secs(3_600);
            if limits.contains(&value) { Ok(()) } else { refuse("duration", "100ms to 1h", format!("{value:?}")) }
        };
        match self {
            Self::Publish(options) => {
                within("connections", options.connections, 1..=10_000)?;
                window(options.window)?;
                payload(options.payload)?;
                topics(options.topics)?;
                // What is in flight on all connections waits in the hub's memory.
                within("connections times window", options.connections * options.window, 1..=1_000_000)?;
                within("count", options.count.unwrap_or(1), 1..=1_000_000_000)?;
                seconds(options.duration)
            }
            Self::Deliver(options) => {
                within("count", options.count, 1..=50_000_000)?;
                within("members", options.members, 1..=1_000)?;
                within("in-flight", options.in_flight, 1..=limits::MAX_IN_FLIGHT)?;
                payload(options.payload)?;
                topics(options.topics)?;
                window(options.window)
            }
            Self::Latency(options) => {
                within("rate", options.rate, 1..=200_000)?;
                payload(options.payload)?;
                seconds(options.duration)?;
                // Each is accounted for until the end.
                within("rate times duration", options.count(), 1..=50_000_000)
            }
            Self::Idle(options) => within("connections", options.connections, 1..=100_000),
            Self::Outbox(options) => {
                within("rate", options.rate, 1..=20_000)?;
                seconds(options.duration)?;
                within("rate times duration", options.count(), 1..=50_000_000)?;
                // A transaction must fit into a fifth of MongoDB's cache, and ends after a minute.
                within("drain", options.drain.unwrap_or(MOST_AT_ONCE), 2..=MOST_AT_ONCE)?;
                payload(options.payload)?;
                within("keys", options.keys, 1..=1_000_000)
            }
        }
    }
}

impl LatencyOptions {
    /// How many publishes the rate and the duration amount to.
    pub(crate) fn count(&self) -> u64 {
        count(self.rate, self.duration)
    }
}

impl OutboxOptions {
    /// How many rows the options amount to.
    pub(crate) fn count(&self) -> u64 {
        self.drain.unwrap_or_else(|| count(self.rate, self.duration))
    }
}

fn count(rate: u64, duration: Duration) -> u64 {
    u64::try_from(u128::from(rate) * duration.as_millis() / 1000).unwrap_or(u64::MAX)
}

fn within<T: PartialOrd + Display>(name: &'static str, value: T, limits: RangeInclusive<T>) -> Result<(), Error> {
    if limits.contains(&value) {
        return Ok(());
    }
    refuse(name, format!("{} to {}", limits.start(), limits.end()), value)
}

fn refuse(name: &'static str, limit: impl Into<String>, value: impl Display) -> Result<(), Error> {
    Err(Error::Option { name, limit: limit.into(), value: value.to_string() })
}

fn batched(batch: bool) -> &'static str {
    if batch { ", several frames in a message" } else { "" }
}

fn millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(scenario: &Scenario) -> String {
        scenario.check().unwrap_err().to_string()
    }

    #[test]
    fn options_are_refused_by_name_and_limit() {
        Scenario::standard().iter().for_each(|scenario| scenario.check().unwrap());
        let publish = PublishOptions::default();
        let bad = Scenario::Publish(PublishOptions { connections: 0, ..publish.clone() });
        assert_eq!(refusal(&bad), "connections must be 1 to 10000, not 0");
        let bad = Scenario::Publish(PublishOptions { payload: 7, ..publish.clone() });
        assert_eq!(refusal(&bad), format!("payload must be {PAYLOAD_MIN} to 1000000, not 7"));
        let bad = Scenario::Publish(PublishOptions { connections: 1_000, window: 10_000, ..publish.clone() });
        assert_eq!(refusal(&bad), "connections times window must be 1 to 1000000, not 10000000");
        let bad = Scenario::Publish(PublishOptions { duration: Duration::from_secs(7_200), ..publish });
        assert_eq!(refusal(&bad), "duration must be 100ms to 1h, not 7200s");
        let bad = Scenario::Deliver(DeliverOptions { in_flight: 10_001, ..DeliverOptions::default() });
        assert_eq!(refusal(&bad), "in-flight must be 1 to 10000, not 10001");
        let bad = Scenario::Latency(LatencyOptions { rate: 0, ..LatencyOptions::default() });
        assert_eq!(refusal(&bad), "rate must be 1 to 200000, not 0");
        let bad = LatencyOptions { rate: 1, duration: Duration::from_millis(100), ..LatencyOptions::default() };
        assert_eq!(refusal(&Scenario::Latency(bad)), "rate times duration must be 1 to 50000000, not 0");
        let bad = OutboxOptions { drain: Some(100_001), ..OutboxOptions::default() };
        assert_eq!(refusal(&Scenario::Outbox(bad)), "drain must be 2 to 100000, not 100001");
        let bad = OutboxOptions { keys: 0, ..OutboxOptions::default() };
        assert_eq!(refusal(&Scenario::Outbox(bad)), "keys must be 1 to 1000000, not 0");
        assert_eq!(refusal(&Scenario::Idle(IdleOptions { connections: 0 })), "connections must be 1 to 100000, not 0");
    }
}
