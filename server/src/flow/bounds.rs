//! Limits of the hub that are not the share of one subject: how often each was reached, and a line in the log that names
//! what sets it.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::exposition::line;
use crate::sparing::Sparing;

/// One warning of a kind in so long.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Exports under way.
    Exports,
    /// Pages of `/replay` under way.
    Replays,
    /// Publishes over HTTP under way.
    Publishes,
    /// Subscriptions of one connection.
    Subscriptions,
    /// Topics of one connection's subscriptions without a group.
    FollowedTopics,
    /// Topics of the hub.
    Topics,
}

impl Limit {
    const ALL: [Self; 6] =
        [Self::Exports, Self::Replays, Self::Publishes, Self::Subscriptions, Self::FollowedTopics, Self::Topics];

    /// As a label of a metric.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Exports => "exports",
            Self::Replays => "replays",
            Self::Publishes => "publishes",
            Self::Subscriptions => "subscriptions_of_connection",
            Self::FollowedTopics => "followed_topics",
            Self::Topics => "topics_of_hub",
        }
    }

    /// What the operator is told. It names what there is to be done: a setting, or a command.
    const fn warning(self) -> &'static str {
        match self {
            Self::Exports => "exports refused: limits.exports are under way, or a quarter of these for one subject",
            Self::Replays => "replays refused: limits.replays are under way, or a quarter of these for one subject",
            Self::Publishes => {
                "publishes over HTTP refused: limits.publishes are under way, or a quarter of these for one subject"
            }
            Self::Subscriptions => "a subscription was refused: its connection has limits.subscriptions",
            Self::FollowedTopics => {
                "a subscription without a group was refused or ended: its connection follows limits.followed_topics"
            }
            Self::Topics => {
                "publishes refused: the hub has all the topics it may have; `prom topic delete` removes some"
            }
        }
    }
}

/// How often each limit was reached.
#[derive(Debug)]
pub(crate) struct Bounds([(AtomicU64, Sparing); Limit::ALL.len()]);

impl Default for Bounds {
    fn default() -> Self {
        Self(std::array::from_fn(|_| (AtomicU64::new(0), Sparing::new(WARN_EVERY))))
    }
}

impl Bounds {
    /// Counts what was refused because there were `most` already, and warns of it, if that was not done a moment ago.
    pub(crate) fn reached(&self, limit: Limit, most: usize, refused: u64) {
        if refused == 0 {
            return;
        }
        let (counter, warnings) = &self.0[limit as usize];
        counter.fetch_add(refused, Relaxed);
        if let Some(left_out) = warnings.turn() {
            tracing::warn!(limit = most, left_out, "{}", limit.warning());
        }
    }

    /// Appends their lines of the metric.
    pub(crate) fn render(&self, out: &mut String) {
        for (limit, (counter, _)) in Limit::ALL.iter().zip(&self.0) {
            line(out, format_args!("limited_total{{limit=\"{}\"}} {}", limit.as_str(), counter.load(Relaxed)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_counted_by_its_own_name() {
        let bounds = Bounds::default();
        for (at, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, at);
            bounds.reached(limit, 7, at as u64);
        }
        let mut text = String::new();
        bounds.render(&mut text);
        let expected = [
            "limited_total{limit=\"exports\"} 0",
            "limited_total{limit=\"replays\"} 1",
            "limited_total{limit=\"publishes\"} 2",
            "limited_total{limit=\"subscriptions_of_connection\"} 3",
            "limited_total{limit=\"followed_topics\"} 4",
            "limited_total{limit=\"topics_of_hub\"} 5",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
