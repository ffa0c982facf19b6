//! What one subject or one address may take, so that none can take all.
//!
//! ```text
//!   AUTH ────────► Quotas::share  ──► Share      a connection of its subject's, its subscriptions (subject.rs)
//!   SUBSCRIBE ───► Quotas::positions ► Positions what its group leaves in the store (positions.rs)
//!   PUBLISH ─────► Quotas::pace   ──► Pace       how fast, by topic (rates.rs, bucket.rs)
//!                  Quotas::backlog ─► Backlog    what waits for its time (backlog.rs)
//!   bad tokens ──► Quotas::failed ──► a wait     how late the answer comes, by address
//! ```
//!
//! What is known of each subject and address is in tables (table.rs) that forget.

mod backlog;
mod bucket;
mod positions;
mod rates;
mod subject;
mod table;

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use prom_protocol::{ErrorCode, Group, Refusal, Topic};
use prom_store::Store;

use self::{
    backlog::Backlogs,
    bucket::{Bucket, Fill},
    rates::{Rates, Whose},
    subject::Subject,
};
use crate::{
    flow::{
        bounds::Bounds,
        exposition::{head, line},
        metrics::Counter,
        topics::Topics,
    },
    sparing::Sparing,
};

pub use self::rates::{MAX_RATES, OnExcess, Per, Rate};
pub(crate) use self::{
    backlog::Backlog,
    positions::Positions,
    rates::{Pace, Pass},
    subject::{Place, Share, one_more},
    table::Table,
};

/// The longest that the answer to a bad token is kept back: less than the time for a first AUTH.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
const MINUTE: Duration = Duration::from_secs(60);
/// When to ask again for what frees itself when others end.
const AGAIN_MS: u64 = 5_000;
/// One warning of a kind in so long.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What a subject or an address may have.
#[derive(Debug, Clone)]
pub struct Shares {
    /// WebSocket connections of one subject; default 10000.
    pub connections: usize,
    /// Subscriptions of one subject, over its connections; default 100000.
    pub subscriptions: usize,
    /// Topics that one subject may make, as long as they exist; default 25000. Counted from the hub's start on.
    pub topics: usize,
    /// Groups that one subject may be in, as long as they have a position; default 10000. Counted from the hub's start on.
    pub groups: usize,
    /// Positions that one subject's subscriptions may make, one for each group and topic, as long as they are there; default
    /// 250000. Counted from the hub's start on.
    pub positions: usize,
    /// Bad tokens of one address a minute, and at once, before their answers come late; default 100.
    pub auth_failures: u64,
    /// How fast may be published; default: as fast as the hub takes it.
    pub publish: Vec<Rate>,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            connections: 10_000,
            subscriptions: 100_000,
            topics: 25_000,
            groups: 10_000,
            positions: 250_000,
            auth_failures: 100,
            publish: Vec::new(),
        }
    }
}

/// How often what was limited, for the metric.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// AUTHs refused because their subject has as many connections as it may.
    pub(crate) connections: Counter,
    /// Subscriptions refused.
    pub(crate) subscriptions: Counter,
    /// Publishes refused that would have made a topic.
    pub(crate) topics: Counter,
    /// Subscriptions refused because of their group.
    pub(crate) groups: Counter,
    /// Subscriptions refused because of the positions they would make, and topics not taken on by a pattern.
    pub(crate) positions: Counter,
    /// Answers to bad tokens that were kept back.
    pub(crate) failures: Counter,
}

impl Quotas {
    /// Appends the metric, with what the limits of all add to it.
    pub(crate) fn render(&self, out: &mut String, bounds: &Bounds) {
        let Counts { connections, subscriptions, topics, groups, positions, failures } = &self.counts;
        let all = [
            ("publish_delayed", &self.rates.delayed),
            ("publish_refused", &self.rates.refused),
            ("connections", connections),
            ("subscriptions", subscriptions),
            ("topics", topics),
            ("groups", groups),
            ("positions", positions),
            ("auth_failures", failures),
        ];
        head(out, "limited_total", "counter", "How often more was wanted than a limit allows.");
        for (limit, counter) in all {
            line(out, format_args!("limited_total{{limit=\"{limit}\"}} {}", counter.value()));
        }
        bounds.render(out);
        head(
            out,
            "publish_held_bytes",
            "gauge",
            "Publishes that wait for their rate, and what is kept to answer them.",
        );
        line(out, format_args!("publish_held_bytes {}", self.backlogs.bytes()));
    }
}

/// Looks in the store how many positions each of some groups has. One of which it does not say is left out.
async fn each(groups: Vec<Group>, store: &dyn Store, mut found: impl FnMut(Group, usize)) {
    for group in groups {
        if let Ok(topics) = store.topics_of(&group).await {
            found(group, topics.len());
        }
        // The store may answer without a wait, and each answer may be a walk through all topics.
        tokio::task::yield_now().await;
    }
}

/// Waits for so long. A sleep of nothing would last until the timer's next tick.
pub(crate) async fn pause(wait: Duration) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}

/// What everybody has, and may have.
#[derive(Debug)]
pub(crate) struct Quotas {
    most: Shares,
    rates: Arc<Rates>,
    subjects: Table<Subject>,
    failures: Table<Bucket>,
    counts: Counts,
    backlogs: Arc<Backlogs>,
    warned: Sparing,
    hasher: RandomState,
}

impl Quotas {
    pub(crate) fn new(most: Shares) -> Arc<Self> {
        Arc::new(Self {
            rates: Rates::new(&most.publish, WARN_EVERY),
            most,
            subjects: Table::default(),
            failures: Table::default(),
            counts: Counts::default(),
            backlogs: Backlogs::new(Sparing::new(WARN_EVERY)),
            warned: Sparing::new(WARN_EVERY),
            hasher: RandomState::new(),
        })
    }

    /// Who takes with a token of the holder `subject`, from `address`.
    pub(crate) fn whose(&self, subject: u64, address: IpAddr) -> Whose {
        Whose { subject, address: self.hasher.hash_one(address) }
    }

    /// How fast `whose` publishes may come.
    pub(crate) fn pace(&self, whose: Whose) -> Pace {
        Pace::new(&self.rates, whose)
    }

    /// What a connection of the subject of `share` holds of publishes that came too fast: nothing yet.
    pub(crate) fn backlog(&self, share: &Share) -> Backlog {
        Backlog::new(&self.backlogs, &share.subject)
    }

    fn subject(&self, subject: u64) -> Arc<Subject> {
        self.subjects.of(subject, |subject| subject.is_idle(self.most.topics, self.most.groups, self.most.positions))
    }

    /// A connection of `subject`.
    ///
    /// # Errors
    /// `rate_limited`: it has as many as it may.
    pub(crate) fn share(&self, subject: u64) -> Result<Share, Refusal> {
        let most = self.most.connections;
        Share::take(self.subject(subject), most).ok_or_else(|| {
            self.counts.connections.add(1);
            self.excess("connections", most)
        })
    }

    /// The place of one more subscription of the subject of `share`, as `group`. It is taken before the subscription is made,
    /// so that those made at once are not too many.
    ///
    /// # Errors
    /// `rate_limited`.
    pub(crate) async fn subscribe(
        &self,
        share: &Share,
        group: Option<&Group>,
        store: &dyn Store,
    ) -> Result<Place, Refusal> {
        let most = self.most.subscriptions;
        let Some(mut place) = share.place(most) else {
            self.counts.subscriptions.add(1);
            return Err(self.excess("subscriptions", most));
        };
        let Some(group) = group else { return Ok(place) };
        let most = self.most.groups;
        if let Some(groups) = share.subject.full_of_groups(group, most) {
            let mut gone = Vec::new();
            each(groups, store, |group, positions| {
                if positions == 0 {
                    gone.push(group);
                }
            })
            .await;
            share.subject.lost_groups(&gone);
        }
        if place.joins(group, most) {
            return Ok(place);
        }
        self.counts.groups.add(1);
        Err(self.excess("groups", most))
    }

    /// Whose the positions are that a subscription of the subject of `share` makes.
    pub(crate) fn positions(self: &Arc<Self>, share: &Share) -> Positions {
        Positions::new(Arc::clone(self), Arc::clone(&share.subject))
    }

    /// Refuses a publish by which the subject of `share` would make one more topic than it may.
    ///
    /// # Errors
    /// `rate_limited`.
    pub(crate) fn topic(&self, share: &Share, topic: &Topic, topics: &Topics) -> Result<(), Refusal> {
        self.makes(topic, topics, || Arc::clone(&share.subject))
    }

    /// The same without a connection.
    ///
    /// # Errors
    /// `rate_limited`.
    pub(crate) fn topic_of(&self, subject: u64, topic: &Topic, topics: &Topics) -> Result<(), Refusal> {
        self.makes(topic, topics, || self.subject(subject))
    }

    fn makes(&self, topic: &Topic, topics: &Topics, subject: impl FnOnce() -> Arc<Subject>) -> Result<(), Refusal> {
        let most = self.most.topics;
        if topics.has(topic) || subject().makes_topic(topic, most, |topic| topics.has(topic)) {
            return Ok(());
        }
        self.counts.topics.add(1);
        Err(self.excess("topics", most))
    }

    fn warn(&self, what: &'static str, most: usize) {
        if let Some(left_out) = self.warned.turn() {
            tracing::warn!(
                what,
                limit = most,
                left_out,
                "a subject wants more than its share: limits.{what}_per_subject"
            );
        }
    }

    fn excess(&self, what: &'static str, most: usize) -> Refusal {
        self.warn(what, most);
        let message = format!("this token's subject has {most} {what}, as many as one may have");
        Refusal::new(ErrorCode::RateLimited, message).retry_after(AGAIN_MS)
    }

    /// Takes note of a bad token from `address`; how long to keep its answer back.
    pub(crate) fn failed(&self, address: IpAddr) -> Duration {
        let now = self.rates.now();
        let fill = Fill { units: self.most.auth_failures, per: MINUTE, burst: MINUTE };
        let bucket = self.failures.of(self.hasher.hash_one(address), |bucket| bucket.is_full(now));
        let wait = bucket.lacks(fill, now, 1).min(LONGEST_WAIT);
        if wait.is_zero() {
            bucket.take(fill, now, 1);
        } else {
            // Nothing is taken: when it ends, all is as before within a minute, also for others of the same address.
            self.counts.failures.add(1);
        }
        wait
    }
}
