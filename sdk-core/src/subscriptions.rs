//! What the session is subscribed to, over all its connections.

use prom_protocol::{
    Group, Op, TopicOrPattern,
    client::write::{self, Corr},
};

use crate::SubscriptionId;

/// Where a subscription stands on the present connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// To be sent when the connection is ready, not before the given time.
    Wanted { not_before: u64 },
    /// SUBSCRIBE was sent under this number.
    Sent(u64),
    /// The hub has confirmed it on this connection.
    Active,
}

/// One subscription of the application.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: SubscriptionId,
    pub(crate) topic: TopicOrPattern,
    /// None for an ephemeral subscription.
    pub(crate) group: Option<Group>,
    /// The options as a JSON object; empty for none.
    pub(crate) options: String,
    pub(crate) standing: Standing,
    /// The group's name on the present connection, once active.
    pub(crate) wire_group: String,
    /// The caller's SUBSCRIBE, while it is not answered.
    pub(crate) request: Option<u64>,
    pub(crate) paused: bool,
    /// The caller's PAUSE or RESUME, while it waits for the subscription to become active.
    pub(crate) pause_request: Option<u64>,
}

impl Subscription {
    /// The text of its SUBSCRIBE.
    pub(crate) fn subscribe(&self, corr: u64) -> String {
        let group = self.group.as_ref().map(Group::as_str);
        write::subscribe(Corr::Number(corr), self.topic.as_str(), group, &self.options)
    }

    /// The text of its UNSUBSCRIBE, PAUSE or RESUME.
    pub(crate) fn about(&self, op: Op, corr: Option<u64>) -> String {
        write::about(op, corr.into(), self.topic.as_str(), &self.wire_group)
    }
}

/// All of them, oldest first. There are few: a hub allows 128 a connection.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    all: Vec<Subscription>,
    /// Those that were ended before the hub had confirmed them, by the number of their SUBSCRIBE. Their UNSUBSCRIBE is
    /// sent when it has; until then no SUBSCRIBE of the same names may be, because the UNSUBSCRIBE would be for that one.
    abandoned: Vec<(u64, Subscription)>,
}

impl Subscriptions {
    pub(crate) fn push(&mut self, subscription: Subscription) {
        self.all.push(subscription);
    }

    /// Remembers that `request` is to be undone when it is answered.
    pub(crate) fn abandon(&mut self, request: u64, subscription: Subscription) {
        self.abandoned.push((request, subscription));
    }

    /// An abandoned SUBSCRIBE is answered.
    pub(crate) fn undone(&mut self, request: u64) {
        self.abandoned.retain(|(abandoned, _)| *abandoned != request);
    }

    /// Whether the SUBSCRIBE of one that is wanted has to wait for an UNSUBSCRIBE.
    fn held(&self, wanted: &Subscription) -> bool {
        let same = |(_, other): &(u64, Subscription)| other.topic == wanted.topic && other.group == wanted.group;
        wanted.group.is_some() && self.abandoned.iter().any(same)
    }

    pub(crate) fn find(&self, id: SubscriptionId) -> Option<&Subscription> {
        self.all.iter().find(|s| s.id == id)
    }

    pub(crate) fn find_mut(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        self.all.iter_mut().find(|s| s.id == id)
    }

    pub(crate) fn remove(&mut self, id: SubscriptionId) -> Option<Subscription> {
        let at = self.all.iter().position(|s| s.id == id)?;
        Some(self.all.remove(at))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.all.iter()
    }

    pub(crate) fn clear(&mut self) {
        self.abandoned.clear();
        self.all.clear();
    }

    /// Whether a durable subscription of these names is there.
    pub(crate) fn has(&self, topic: &str, group: &Group) -> bool {
        self.all.iter().any(|s| s.group.as_ref() == Some(group) && s.topic.as_str() == topic)
    }

    /// The subscription an EVENT, LIVE or REVOKED is for. Only an active one gets any.
    pub(crate) fn on_wire(&self, topic: &str, group: &str) -> Option<SubscriptionId> {
        let found =
            |s: &&Subscription| s.standing == Standing::Active && s.wire_group == group && s.topic.as_str() == topic;
        self.all.iter().find(found).map(|s| s.id)
    }

    /// The subscription a GAP is for, which names the concrete topic.
    pub(crate) fn of_topic(&self, topic: &str, group: &str) -> Option<SubscriptionId> {
        let topic = prom_protocol::Topic::new(topic).ok()?;
        let found =
            |s: &&Subscription| s.standing == Standing::Active && s.wire_group == group && s.topic.matches(&topic);
        self.all.iter().find(found).map(|s| s.id)
    }

    /// The connection is gone: everything is to be subscribed again.
    pub(crate) fn lost(&mut self) {
        self.abandoned.clear();
        for subscription in &mut self.all {
            subscription.standing = Standing::Wanted { not_before: 0 };
        }
    }

    /// One that is to be sent now.
    pub(crate) fn next_wanted(&self, now: u64) -> Option<SubscriptionId> {
        let wanted = |s: &&Subscription| {
            matches!(s.standing, Standing::Wanted { not_before } if not_before <= now) && !self.held(s)
        };
        self.all.iter().find(wanted).map(|s| s.id)
    }

    /// When the next one is to be sent.
    pub(crate) fn due(&self) -> u64 {
        let due = |s: &Subscription| match s.standing {
            Standing::Wanted { not_before } if !self.held(s) => not_before,
            _ => u64::MAX,
        };
        self.all.iter().map(due).min().unwrap_or(u64::MAX)
    }
}
