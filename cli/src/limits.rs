//! `[limits]` of the configuration file: what clients may take of the hub.
//!
//! ```toml
//! [limits]
//! sockets = 25000              # of the public port
//! sockets_per_address = 200    # none unless it is set
//! connections = 20000          # WebSockets
//! subscriptions = 128          # of one connection
//! head_timeout = "10s"         # for the head of an HTTP request
//! idle_timeout = "60s"         # between two of them
//! auth_timeout = "5s"
//! write_timeout = "30s"        # for taking something of what waits
//! exports = 32                 # under way; a quarter of these and the next two may be of one token
//! replays = 32
//! publishes = 256              # over HTTP
//! ```

use std::{ops::RangeInclusive, time::Duration};

use anyhow::bail;
use serde::Deserialize;

/// What a number may be.
const NUMBER: RangeInclusive<usize> = 1..=1_000_000;
/// What a time may be.
const TIME: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    sockets: Option<usize>,
    sockets_per_address: Option<usize>,
    connections: Option<usize>,
    subscriptions: Option<usize>,
    exports: Option<usize>,
    replays: Option<usize>,
    publishes: Option<usize>,
    head_timeout: Option<String>,
    idle_timeout: Option<String>,
    auth_timeout: Option<String>,
    write_timeout: Option<String>,
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
            ("exports", self.exports, &mut limits.exports),
            ("replays", self.replays, &mut limits.replays),
            ("publishes", self.publishes, &mut limits.publishes),
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
        Ok(())
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
