//! The configuration file: what does not fit a variable.
//!
//! ```toml
//! [store]
//! max_bytes = "50GiB"      # of retained events, beyond which the oldest settled ones make room
//! cache_bytes = "64MiB"    # memory for the newest events
//!
//! [limits]                 # what clients may take: see limits.rs
//! sockets = 25000
//!
//! [tls]                    # certificates of the ports: see tls.rs
//! cert_file = "fullchain.pem"
//!
//! [[retention]]            # the first rule that matches a topic counts
//! topics = "orders.**"
//! max_age = "30d"
//! max_events = 1000000     # of each topic
//! max_bytes = "10GiB"      # of each topic
//! compact = true           # the newest event of each key stays, whatever the limits say; default false
//! unsettled = "drop"       # also what a group has not settled may go; default "keep"
//! expire_empty = "7d"      # a topic that has had neither events nor groups for so long is removed; default never
//!
//! [groups]
//! expire = "30d"           # a group that has had no members for so long is removed; default never
//! ```

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use bytesize::ByteSize;
use prom_hub::{embedded::Options, store::Rule};
use prom_protocol::TopicOrPattern;
use serde::Deserialize;

use crate::{limits::Limits, tls};

/// Least room for events, and least memory for the newest ones.
const LEAST: ByteSize = ByteSize::mib(1);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    store: Store,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    tls: tls::Public,
    #[serde(default)]
    ops_tls: tls::Ops,
    #[serde(default)]
    retention: Vec<RetentionRule>,
    #[serde(default)]
    groups: Groups,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Groups {
    expire: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Store {
    max_bytes: Option<ByteSize>,
    cache_bytes: Option<ByteSize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetentionRule {
    topics: String,
    max_age: Option<String>,
    max_events: Option<u64>,
    max_bytes: Option<ByteSize>,
    #[serde(default)]
    compact: bool,
    #[serde(default)]
    unsettled: Unsettled,
    expire_empty: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unsettled {
    #[default]
    Keep,
    Drop,
}

/// What a file says beside options and limits.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Rules of retention.
    pub(crate) rules: Vec<Rule>,
    /// A group goes that has had no members for so long.
    pub(crate) expire_groups: Option<Duration>,
    /// Where certificates are.
    pub(crate) certificates: tls::InFile,
}

/// Reads a file into `options` and `limits`.
///
/// # Errors
/// What is wrong with it, naming the field.
pub(crate) fn read(path: &Path, options: &mut Options, limits: &mut prom_hub::Limits) -> anyhow::Result<Read> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, options, limits).with_context(|| path.display().to_string())
}

fn parse(text: &str, options: &mut Options, limits: &mut prom_hub::Limits) -> anyhow::Result<Read> {
    let file: File = toml::from_str(text)?;
    file.limits.apply(limits)?;
    for (name, size) in [("store.max_bytes", file.store.max_bytes), ("store.cache_bytes", file.store.cache_bytes)] {
        if size.is_some_and(|size| size < LEAST) {
            bail!("{name} must be at least 1MiB");
        }
    }
    options.max_bytes = file.store.max_bytes.map(|size| size.as_u64());
    if let Some(size) = file.store.cache_bytes {
        options.cache_bytes = usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    }
    let rules = file.retention.iter().enumerate();
    let rules = rules.map(|(index, rule)| rule.checked(&format!("retention[{index}]"))).collect::<Result<_, _>>()?;
    let expire_groups = time("groups.expire", file.groups.expire.as_deref())?;
    Ok(Read { rules, expire_groups, certificates: tls::InFile { tls: file.tls, ops_tls: file.ops_tls } })
}

/// A time of at least a second.
fn time(name: &str, given: Option<&str>) -> anyhow::Result<Option<Duration>> {
    let time = given.map(humantime::parse_duration).transpose();
    let time = time.map_err(|error| anyhow::anyhow!("{name}: {error}; it is like 90s, 12h, 30d"))?;
    if time.is_some_and(|time| time < Duration::from_secs(1)) {
        bail!("{name} must be at least 1s");
    }
    Ok(time)
}

impl RetentionRule {
    fn checked(&self, name: &str) -> anyhow::Result<Rule> {
        let topics = TopicOrPattern::new(&self.topics).map_err(|error| anyhow::anyhow!("{name}.topics: {error}"))?;
        let max_age = time(&format!("{name}.max_age"), self.max_age.as_deref())?;
        let expire_empty = time(&format!("{name}.expire_empty"), self.expire_empty.as_deref())?;
        let limits = [max_age.is_some(), self.max_events.is_some(), self.max_bytes.is_some(), expire_empty.is_some()];
        if !limits.contains(&true) {
            bail!("{name} sets no limit: give max_age, max_events, max_bytes or expire_empty");
        }
        if self.max_events == Some(0) {
            bail!("{name}.max_events must be at least 1");
        }
        Ok(Rule {
            topics,
            max_age,
            max_events: self.max_events,
            max_bytes: self.max_bytes.map(|size| size.as_u64()),
            compact: self.compact,
            drop_unsettled: self.unsettled == Unsettled::Drop,
            expire_empty,
        })
    }
}

#[cfg(test)]
mod tests {
    use prom_hub::{OnExcess, Per, Rate};

    use super::*;

    #[test]
    fn a_file_says_what_is_kept() {
        let mut options = Options::default();
        let text = r#"
            [store]
            max_bytes = "2GiB"
            [limits]
            sockets = 500
            sockets_per_address = 7
            head_timeout = "2s"
            topics_per_subject = 3
            positions_per_subject = 9
            auth_failures_per_minute = 4
            [[limits.publish]]
            topics = "logs.**"
            bytes_per_second = "1MiB"
            per = "address"
            on_excess = "refuse"
            [[limits.publish]]
            topics = "a"
            events_per_second = 5
            burst = "2s"
            [[retention]]
            topics = "orders.**"
            max_age = "30d"
            compact = true
            [[retention]]
            topics = "logs"
            max_events = 10
            max_bytes = "5MB"
            unsettled = "drop"
            expire_empty = "7d"
            [groups]
            expire = "1h"
        "#;
        let mut limits = prom_hub::Limits::default();
        let Read { rules, expire_groups, certificates } = parse(text, &mut options, &mut limits).unwrap();
        assert_eq!(expire_groups, Some(Duration::from_secs(3600)));
        let week = Some(Duration::from_secs(7 * 24 * 3600));
        assert_eq!((rules[0].expire_empty, rules[1].expire_empty), (None, week));
        assert_eq!(certificates, tls::InFile::default());
        assert_eq!((limits.sockets, limits.sockets_per_address, limits.exports), (500, Some(7), 32));
        assert_eq!(limits.head_timeout, Duration::from_secs(2));
        let prom_hub::Shares { topics, positions, auth_failures, publish, .. } = limits.shares;
        assert_eq!((topics, positions, auth_failures), (3, 9, 4));
        let own = |rate: &Rate| (rate.per, rate.events, rate.bytes, rate.burst.as_secs(), rate.on_excess);
        assert_eq!(own(&publish[0]), (Per::Address, None, Some(1 << 20), 1, OnExcess::Refuse));
        assert_eq!(own(&publish[1]), (Per::Subject, Some(5), None, 2, OnExcess::Delay));
        assert_eq!(options.max_bytes, Some(2 << 30));
        assert_eq!(rules[0].max_age, Some(Duration::from_secs(30 * 24 * 3600)));
        assert!(rules[0].compact && !rules[0].drop_unsettled);
        assert_eq!(
            (rules[1].max_events, rules[1].max_bytes, rules[1].drop_unsettled),
            (Some(10), Some(5_000_000), true)
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, message) in [
            ("[store]\nmax_byte = 1", "max_byte"),
            ("[store]\nmax_bytes = \"1KiB\"", "store.max_bytes must be at least 1MiB"),
            ("[[retention]]\ntopics = \"a\"", "retention[0] sets no limit"),
            ("[[retention]]\ntopics = \"a..b\"\nmax_events = 1", "retention[0].topics"),
            ("[[retention]]\ntopics = \"a\"\nmax_age = \"soon\"", "retention[0].max_age"),
            ("[[retention]]\ntopics = \"a\"\nmax_age = \"10ms\"", "retention[0].max_age must be at least 1s"),
            ("[[retention]]\ntopics = \"a\"\nmax_events = 0", "retention[0].max_events must be at least 1"),
            ("[[retention]]\ntopics = \"a\"\nmax_events = 1\nunsettled = \"x\"", "unsettled"),
            ("[[retention]]\ntopics = \"a\"\nexpire_empty = \"10ms\"", "retention[0].expire_empty must be at least 1s"),
            ("[groups]\nexpire = \"soon\"", "groups.expire: "),
            ("[groups]\nexpires = \"1h\"", "unknown field `expires`"),
            ("[limits]\nsocket = 1", "unknown field `socket`"),
            ("[limits]\nexports = 0", "limits.exports must be 1 to 1000000"),
            ("[limits]\nsockets_per_address = 0", "limits.sockets_per_address must be 1 to 1000000"),
            ("[limits]\nhead_timeout = \"soon\"", "limits.head_timeout"),
            ("[limits]\nidle_timeout = \"1ms\"", "limits.idle_timeout must be 100ms to 1h"),
            ("[limits]\nconnections_per_subject = 0", "limits.connections_per_subject must be 1 to 1000000"),
            ("[[limits.publish]]\ntopics = \"a\"", "limits.publish[0] sets no limit: give events_per_second or bytes"),
            ("[[limits.publish]]\ntopics = \"a..b\"\nevents_per_second = 1", "limits.publish[0].topics: "),
            (
                "[[limits.publish]]\ntopics = \"a\"\nbytes_per_second = 1",
                "limits.publish[0].bytes_per_second must be 256KiB to 1TiB",
            ),
            (
                "[[limits.publish]]\ntopics = \"a\"\nevents_per_second = 0",
                "limits.publish[0].events_per_second must be 1 to 1000000",
            ),
            (
                "[[limits.publish]]\ntopics = \"a\"\nevents_per_second = 1\nburst = \"1ms\"",
                "limits.publish[0].burst must be 100ms to 1h",
            ),
            ("[[limits.publish]]\ntopics = \"a\"\nevents_per_second = 1\nper = \"me\"", "unknown variant `me`"),
            ("[tls]\ncert = \"a\"", "unknown field `cert`"),
            ("nonsense", "nonsense"),
        ] {
            let error =
                format!("{:#}", parse(text, &mut Options::default(), &mut prom_hub::Limits::default()).unwrap_err());
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
