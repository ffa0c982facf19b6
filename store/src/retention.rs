//! What is kept for how long, by topic.

use std::time::Duration;

use prom_protocol::{Topic, TopicOrPattern, topics};

/// Limits for the topics of one pattern. What is beyond any of them goes, the oldest first, a good part at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The topics it is for.
    pub topics: TopicOrPattern,
    /// Longest time an event is kept, from its commit on by the hub's clock: its `ts` is the publisher's, and says nothing.
    pub max_age: Option<Duration>,
    /// Most events of a topic.
    pub max_events: Option<u64>,
    /// Most bytes of a topic.
    pub max_bytes: Option<u64>,
    /// The newest event of each key stays, whatever the limits say.
    pub compact: bool,
    /// Also what a group has not settled may go; its members get a `GAP`.
    pub drop_unsettled: bool,
    /// A topic goes that has had neither events nor groups for so long. Not the store's work but the hub's.
    pub expire_empty: Option<Duration>,
}

impl Rule {
    /// A rule for these topics that limits nothing yet.
    pub fn new(topics: TopicOrPattern) -> Self {
        Self {
            topics,
            max_age: None,
            max_events: None,
            max_bytes: None,
            compact: false,
            drop_unsettled: false,
            expire_empty: None,
        }
    }
}

/// The rules of a hub: the first that matches a topic counts; where none does, everything is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention(Vec<Rule>);

impl Retention {
    /// Rules in their order.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// The rule that counts for a topic.
    pub fn rule(&self, topic: &Topic) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.topics.matches(topic))
    }

    /// These rules, and after them those of the hub's own topics: beats and states of processes stay for an hour, the
    /// newest state of each process for ever.
    #[must_use]
    pub fn with_own(mut self) -> Self {
        let hour = Some(Duration::from_secs(3600));
        for (topic, compact) in [(topics::HEARTBEAT, false), (topics::STATE, true)] {
            if let Ok(topics) = TopicOrPattern::new(topic) {
                self.0.push(Rule { max_age: hour, compact, ..Rule::new(topics) });
            }
        }
        self
    }

    /// Whether the newest event of a key stays when the log before it is trimmed.
    pub fn compacts(&self, topic: &Topic) -> bool {
        self.rule(topic).is_none_or(|rule| rule.compact)
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The shortest time after which an empty topic goes.
    pub fn shortest_expiry(&self) -> Option<Duration> {
        self.0.iter().filter_map(|rule| rule.expire_empty).min()
    }

    /// The shortest time any rule names.
    pub fn shortest_age(&self) -> Option<Duration> {
        self.0.iter().filter_map(|rule| rule.max_age).min()
    }
}
