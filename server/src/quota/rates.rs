//! How fast may be published: rules by topic, each with buckets of those it holds apart.

use std::{fmt, sync::Arc, time::Duration};

use prom_protocol::{ErrorCode, Refusal, Topic, TopicOrPattern};

use serde::Deserialize;
use tokio::time::Instant;

use super::{
    bucket::{Bucket, Fill},
    table::Table,
};
use crate::{flow::metrics::Counter, sparing::Sparing};

/// Most rules.
pub const MAX_RATES: usize = 64;
const SECOND: Duration = Duration::from_secs(1);
/// Nothing is taken while more than this is owed, so that an answer over HTTP, which waits for the debt, comes in time.
const PATIENCE: Duration = Duration::from_secs(5);
/// So much later, and up to twice that, is asked again what was not taken: thousands may wait for one turn.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// A limit to how fast may be published. Every rule that matches a topic counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// On which topics, taken together.
    pub topics: TopicOrPattern,
    /// Whom it holds apart.
    pub per: Per,
    /// Events a second; none: any.
    pub events: Option<u64>,
    /// Bytes of events a second, as they are stored: payload, headers, tags and the rest. None: any.
    pub bytes: Option<u64>,
    /// What was not used for so long may be used at once.
    pub burst: Duration,
    /// What becomes of more.
    pub on_excess: OnExcess,
}

/// Whom a rate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// Each `sub` of a token by its `iss`, with all its connections; a token without one is for itself.
    #[default]
    Subject,
    /// Each connection; over HTTP each request.
    Connection,
    /// Each address, or /64 with IPv6.
    Address,
    /// All together.
    Hub,
}

/// What becomes of what is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExcess {
    /// It waits until it is not too much. Over HTTP it is taken, and its answer waits; `rate_limited` where more than 5 s are
    /// owed.
    #[default]
    Delay,
    /// `rate_limited`, with `retry_after_ms`.
    Refuse,
}

#[derive(Debug, Default)]
struct Buckets {
    events: Bucket,
    bytes: Bucket,
}

/// Who takes: hashes, which are not the same in another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whose {
    pub(crate) subject: u64,
    pub(crate) address: u64,
}

/// The rules of a hub.
#[derive(Debug)]
pub(super) struct Rates {
    rules: Vec<(Rate, Table<Buckets>)>,
    began: Instant,
    /// Publishes that were waited for.
    pub(super) delayed: Counter,
    /// Publishes refused.
    pub(super) refused: Counter,
    too_fast: Sparing,
}

impl Rates {
    /// One warning in `warn_every`.
    pub(super) fn new(rates: &[Rate], warn_every: Duration) -> Arc<Self> {
        Arc::new(Self {
            rules: rates.iter().map(|rate| (rate.clone(), Table::default())).collect(),
            began: Instant::now(),
            delayed: Counter::default(),
            refused: Counter::default(),
            too_fast: Sparing::new(warn_every),
        })
    }

    /// Nanoseconds since it began.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Rate {
    /// The longest of what `ask` says of each of its buckets, for an event of so many bytes.
    fn longest(&self, own: &Buckets, bytes: usize, ask: impl Fn(&Bucket, Fill, u64) -> Duration) -> Duration {
        let of = |bucket, most: Option<u64>, units| {
            let fill = |most| Fill { units: most, per: SECOND, burst: self.burst };
            most.map_or(Duration::ZERO, |most| ask(bucket, fill(most), units))
        };
        of(&own.events, self.events, 1).max(of(&own.bytes, self.bytes, bytes as u64))
    }
}

/// What became of an event that is within the rates, or waits for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// It was taken; after it, nothing more is to be taken for so long.
    Taken(Duration),
    /// Others owe too much: ask again after so long.
    Later(Duration),
}

/// One publisher's buckets, a rule each.
pub(crate) struct Pace {
    rates: Arc<Rates>,
    buckets: Vec<Arc<Buckets>>,
    /// The topic that was asked for last, and the rules that match it, a bit each.
    selected: Option<(Topic, u64)>,
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").field("rules", &self.buckets.len()).finish_non_exhaustive()
    }
}

impl Pace {
    /// For `whose`, and for nobody else what is per connection.
    pub(super) fn new(rates: &Arc<Rates>, whose: Whose) -> Self {
        let now = rates.now();
        let idle = |buckets: &Buckets| buckets.events.is_full(now) && buckets.bytes.is_full(now);
        let of = |(rate, table): &(Rate, Table<Buckets>)| match rate.per {
            Per::Subject => table.of(whose.subject, idle),
            Per::Address => table.of(whose.address, idle),
            Per::Hub => table.of(0, idle),
            Per::Connection => Arc::default(),
        };
        let buckets = rates.rules.iter().map(of).collect();
        Self { rates: Arc::clone(rates), buckets, selected: None }
    }

    /// Takes an event of so many bytes on `topic`, or says when to ask again.
    ///
    /// # Errors
    /// `rate_limited`, with how long to wait: nothing was taken.
    pub(crate) fn take(&mut self, topic: &Topic, bytes: usize) -> Result<Pass, Refusal> {
        let meant = self.select(topic);
        if meant == 0 {
            return Ok(Pass::Taken(Duration::ZERO));
        }
        let now = self.rates.now();
        let Some((wait, rate)) = self.look(meant, bytes, now)? else {
            return Ok(Pass::Taken(self.charge(meant, bytes, now)));
        };
        let spread = fastrand::u64(..ASK_AGAIN.as_millis() as u64);
        self.warn(rate);
        Ok(Pass::Later(wait.max(ASK_AGAIN) + Duration::from_millis(spread)))
    }

    /// The same for who cannot ask again: after it, nothing more is to be taken for so long.
    ///
    /// # Errors
    /// `rate_limited`, with how long to wait: nothing was taken.
    pub(crate) fn take_or_refuse(&mut self, topic: &Topic, bytes: usize) -> Result<Duration, Refusal> {
        let meant = self.select(topic);
        let now = self.rates.now();
        match self.look(meant, bytes, now)? {
            Some((wait, rate)) => Err(self.refuse(rate, wait)),
            None => Ok(self.charge(meant, bytes, now)),
        }
    }

    /// For how long nothing can be taken, and by which rule.
    fn look(&self, meant: u64, bytes: usize, now: u64) -> Result<Option<(Duration, &Rate)>, Refusal> {
        let mut longest: Option<(Duration, &Rate)> = None;
        for (rate, buckets) in self.rules(meant) {
            let wait = rate.longest(buckets, bytes, |bucket, fill, units| match rate.on_excess {
                OnExcess::Delay => bucket.owes_more_than(PATIENCE, fill, now),
                OnExcess::Refuse => bucket.lacks(fill, now, units),
            });
            if wait.is_zero() {
                continue;
            }
            if rate.on_excess == OnExcess::Refuse {
                return Err(self.refuse(rate, wait));
            }
            if longest.is_none_or(|(most, _)| wait > most) {
                longest = Some((wait, rate));
            }
        }
        Ok(longest)
    }

    /// Takes it. Between the look and this others may take too: as many as there are threads.
    fn charge(&self, meant: u64, bytes: usize, now: u64) -> Duration {
        let mut pause = Duration::ZERO;
        let mut slowest = None;
        for (rate, buckets) in self.rules(meant) {
            let debt = rate.longest(buckets, bytes, |bucket, fill, units| bucket.take(fill, now, units));
            // A large event that a rule gave which refuses is not waited for here: the next one is refused.
            if rate.on_excess == OnExcess::Delay && debt > pause {
                (pause, slowest) = (debt, Some(rate));
            }
        }
        if let Some(rate) = slowest {
            self.rates.delayed.add(1);
            self.warn(rate);
        }
        pause
    }

    fn refuse(&self, rate: &Rate, wait: Duration) -> Refusal {
        self.rates.refused.add(1);
        self.warn(rate);
        let message = format!("more than {} publishes on {}", rate.words(), rate.topics);
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        Refusal::new(ErrorCode::RateLimited, message).retry_after(wait)
    }

    /// The rules that match `topic`, a bit each.
    fn select(&mut self, topic: &Topic) -> u64 {
        if self.buckets.is_empty() {
            return 0;
        }
        match &self.selected {
            Some((selected, meant)) if selected == topic => *meant,
            _ => {
                let rules = self.rates.rules.iter().enumerate();
                let matching = rules.filter(|(_, (rate, _))| rate.topics.matches(topic));
                let meant = matching.fold(0, |bits, (at, _)| bits | 1 << at);
                self.selected = Some((topic.clone(), meant));
                meant
            }
        }
    }

    fn warn(&self, rate: &Rate) {
        if let Some(left_out) = self.rates.too_fast.turn() {
            let (topics, most, on_excess) = (rate.topics.as_str(), rate.words(), rate.on_excess);
            tracing::warn!(topics, ?on_excess, left_out, "more than {most} publishes: limits.publish");
        }
    }

    fn rules(&self, meant: u64) -> impl Iterator<Item = (&Rate, &Buckets)> {
        let rules = self.rates.rules.iter().zip(&self.buckets).enumerate();
        rules.filter(move |(at, _)| meant >> at & 1 == 1).map(|(_, ((rate, _), buckets))| (rate, &**buckets))
    }
}

impl Rate {
    /// What it allows, for people.
    fn words(&self) -> String {
        let most = match (self.events, self.bytes) {
            (Some(events), Some(bytes)) => format!("{events} events or {bytes} bytes a second"),
            (Some(events), None) => format!("{events} events a second"),
            (None, Some(bytes)) => format!("{bytes} bytes a second"),
            (None, None) => "nothing".into(),
        };
        match self.per {
            Per::Subject => format!("{most} that one subject"),
            Per::Connection => format!("{most} that one connection"),
            Per::Address => format!("{most} that one address"),
            Per::Hub => format!("{most} that the hub"),
        }
    }
}
