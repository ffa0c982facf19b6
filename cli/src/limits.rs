//! `[limits]` of the configuration file: what clients may take of the hub.
//!
//! ```toml
//! [limits]
//! sockets = 25000              # of the public port
//! sockets_per_address = 200    # none unless it is set
//! connections = 20000          # WebSockets
//! subscriptions = 128          # of one connection
//! followed_topics = 200000     # of one connection's subscriptions without a group together
//! head_timeout = "10s"         # for the head of an HTTP request
//! idle_timeout = "60s"         # between two of them
//! auth_timeout = "5s"
//! write_timeout = "30s"        # for taking something of what waits
//! exports = 32                 # under way; a quarter of these and the next two may be of one subject
//! replays = 32
//! publishes = 256              # over HTTP
//! connections_per_subject = 10000
//! subscriptions_per_subject = 100000
//! topics_per_subject = 25000   # that it makes
//! groups_per_subject = 10000
//! positions_per_subject = 250000   # that its groups make, one in each topic
//! auth_failures_per_minute = 100   # of one address; then answers to bad tokens come late
//!
//! [[limits.publish]]           # every rule that matches a topic counts
//! topics = "heartbeat.**"
//! events_per_second = 1000
//! bytes_per_second = "1MiB"    # of whole events
//! per = "subject"              # or connection, address, hub; default subject
//! burst = "1s"                 # so much may be saved up; default 1s
//! on_excess = "delay"          # or refuse; default delay
//! ```

use std::{ops::RangeInclusive, time::Duration};

use anyhow::bail;
use bytesize::ByteSize;
use prom_hub::{MAX_RATES, OnExcess, Per, Rate};
use prom_protocol::TopicOrPattern;
use serde::Deserialize;

/// What a number may be.
const NUMBER: RangeInclusive<usize> = 1..=1_000_000;
/// What a time may be.
const TIME: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// What a rate of bytes may be: one that takes longer than four seconds for the largest event holds its connection up for so
/// long that its client may take it for dead. Others wait for it for 5 s at the most.
const BYTES: RangeInclusive<u64> = 256 * 1024..=1 << 40;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    sockets: Option<usize>,
    sockets_per_address: Option<usize>,
    connections: Option<usize>,
    subscriptions: Option<usize>,
    followed_topics: Option<usize>,
    exports: Option<usize>,
    replays: Option<usize>,
    publishes: Option<usize>,
    head_timeout: Option<String>,
    idle_timeout: Option<String>,
    auth_timeout: Option<String>,
    write_timeout: Option<String>,
    connections_per_subject: Option<usize>,
    subscriptions_per_subject: Option<usize>,
    topics_per_subject: Option<usize>,
    groups_per_subject: Option<usize>,
    positions_per_subject: Option<usize>,
    auth_failures_per_minute: Option<usize>,
    #[serde(default)]
    publish: Vec<PublishRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishRule {
    topics: String,
    events_per_second: Option<usize>,
    bytes_per_second: Option<ByteSize>,
    #[serde(default)]
    per: Per,
    burst: Option<String>,
    #[serde(default)]
    on_excess: OnExcess,
}

impl Limits {
    /// Sets what is given.
    ///
    /// # Errors
    /// What is out of range, naming the field.
    pub(crate) fn apply(&self, limits: &mut prom_hub::Limits) -> anyhow::Result<()> {
        for (name, given, limit) in [
            ("sockets", self.sockets, &mut limits.sockets),
            ("connections", self.connections, &mut limits.connections),
            ("subscriptions", self.subscriptions, &mut limits.subscriptions),
            ("followed_topics", self.followed_topics, &mut limits.followed_topics),
            ("exports", self.exports, &mut limits.exports),
            ("replays", self.replays, &mut limits.replays),
            ("publishes", self.publishes, &mut limits.publishes),
            ("connections_per_subject", self.connections_per_subject, &mut limits.shares.connections),
            ("subscriptions_per_subject", self.subscriptions_per_subject, &mut limits.shares.subscriptions),
            ("topics_per_subject", self.topics_per_subject, &mut limits.shares.topics),
            ("groups_per_subject", self.groups_per_subject, &mut limits.shares.groups),
            ("positions_per_subject", self.positions_per_subject, &mut limits.shares.positions),
        ] {
            if let Some(given) = given {
                *limit = number(name, given)?;
            }
        }
        if let Some(given) = self.sockets_per_address {
            limits.sockets_per_address = Some(number("sockets_per_address", given)?);
        }
        for (name, given, limit) in [
            ("head_timeout", &self.head_timeout, &mut limits.head_timeout),
            ("idle_timeout", &self.idle_timeout, &mut limits.idle_timeout),
            ("auth_timeout", &self.auth_timeout, &mut limits.auth_timeout),
            ("write_timeout", &self.write_timeout, &mut limits.write_timeout),
        ] {
            if let Some(given) = given {
                *limit = time(name, given)?;
            }
        }
        if let Some(given) = self.auth_failures_per_minute {
            limits.shares.auth_failures = number("auth_failures_per_minute", given)? as u64;
        }
        if self.publish.len() > MAX_RATES {
            bail!("limits.publish has {} rules; at most {MAX_RATES}", self.publish.len());
        }
        let rules = self.publish.iter().enumerate().map(|(index, rule)| rule.checked(&format!("publish[{index}]")));
        limits.shares.publish = rules.collect::<anyhow::Result<_>>()?;
        Ok(())
    }
}

impl PublishRule {
    fn checked(&self, name: &str) -> anyhow::Result<Rate> {
        let topics = TopicOrPattern::new(&self.topics);
        let topics = topics.map_err(|error| anyhow::anyhow!("limits.{name}.topics: {error}"))?;
        if self.events_per_second.is_none() && self.bytes_per_second.is_none() {
            bail!("limits.{name} sets no limit: give events_per_second or bytes_per_second");
        }
        let events = self.events_per_second.map(|given| number(&format!("{name}.events_per_second"), given));
        let bytes = self.bytes_per_second.map(|size| size.as_u64());
        if bytes.is_some_and(|bytes| !BYTES.contains(&bytes)) {
            bail!("limits.{name}.bytes_per_second must be 256KiB to 1TiB");
        }
        let burst = self.burst.as_deref().map(|given| time(&format!("{name}.burst"), given)).transpose()?;
        Ok(Rate {
            topics,
            per: self.per,
            events: events.transpose()?.map(|events| events as u64),
            bytes,
            burst: burst.unwrap_or(Duration::from_secs(1)),
            on_excess: self.on_excess,
        })
    }
}

fn number(name: &str, given: usize) -> anyhow::Result<usize> {
    if !NUMBER.contains(&given) {
        bail!("limits.{name} must be {} to {}", NUMBER.start(), NUMBER.end());
    }
    Ok(given)
}

fn time(name: &str, given: &str) -> anyhow::Result<Duration> {
    let time = humantime::parse_duration(given);
    let time = time.map_err(|error| anyhow::anyhow!("limits.{name}: {error}; it is like 500ms, 10s, 1m"))?;
    if !TIME.contains(&time) {
        bail!("limits.{name} must be 100ms to 1h");
    }
    Ok(time)
}
