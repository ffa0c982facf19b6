//! Policies: who may do what on which topics. Rules in order, the first that applies decides, none denies.
//!
//! ```text
//!   policy.rs         Policy, and what it decides      topic (patterns: matches, covers, intersects)
//!   policy/claim.rs   what tokens say: rules, scopes   policy.rs
//! ```

mod claim;

use serde::{Deserialize, Serialize};

pub use self::claim::PolicyError;
use crate::{NameError, Pattern, Topic, TopicOrPattern, topics};

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Action {
    /// Publishing events.
    #[serde(rename = "publish")]
    Publish,
    /// Reading without a group: live, watch, replay, export, latest by key.
    #[serde(rename = "read")]
    Read,
    /// Reading, and consuming as a group.
    #[serde(rename = "subscribe")]
    Subscribe,
    /// Publishing and subscribing, and so reading. The operators' actions are never implied.
    #[serde(rename = "*")]
    Any,
    /// Reading what the ops port shows.
    #[serde(rename = "ops:read")]
    OpsRead,
    /// Changing things by the ops port.
    #[serde(rename = "ops:admin")]
    OpsAdmin,
}

/// What a rule does to a request that it applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The request is allowed.
    Allow,
    /// The request is refused.
    Deny,
}

/// One rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "claim::RuleClaim")]
pub struct Rule {
    /// Whether it allows or denies.
    pub effect: Effect,
    /// What kind of request it applies to.
    pub action: Action,
    /// The topics it applies to, as patterns; not read for the operators' actions.
    pub topics: Vec<Pattern>,
    /// Narrows the rule to subscriptions of these groups, `*` being any; such a rule never applies to what has no group:
    /// publishing, and reading without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
}

/// An ordered list of rules. The default has none and allows nothing.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "claim::PolicyClaim<Rule>")]
pub struct Policy {
    /// The rules, first match decides.
    pub rules: Vec<Rule>,
}

/// What is asked of a policy about topics.
#[derive(Debug, Clone, Copy)]
enum Ask<'a> {
    Publish,
    /// Without a group.
    Read,
    /// As this group.
    Consume(&'a str),
}

impl<'a> Ask<'a> {
    fn reading_as(group: Option<&'a str>) -> Self {
        group.map_or(Self::Read, Self::Consume)
    }
}

impl Rule {
    /// Whether it is about what is asked, topics aside.
    fn is_about(&self, ask: Ask<'_>) -> bool {
        let action = match (self.action, ask) {
            (Action::Any, _) | (Action::Publish, Ask::Publish) => true,
            (Action::Subscribe, Ask::Read | Ask::Consume(_)) | (Action::Read, Ask::Read) => true,
            // Who consumes reads: to allow reading is not enough, to deny it is.
            (Action::Read, Ask::Consume(_)) => self.effect == Effect::Deny,
            _ => false,
        };
        action
            && match (&self.groups, ask) {
                (None, _) => true,
                (Some(groups), Ask::Consume(group)) => groups.iter().any(|own| own == ANY_GROUP || own == group),
                (Some(_), Ask::Publish | Ask::Read) => false,
            }
    }

    /// Whether one of its topics fits: an allow is of this topic alone, a deny is of its dead letters too.
    fn fits(&self, topic: &Topic) -> bool {
        self.topics.iter().any(|pattern| match self.effect {
            Effect::Allow => pattern.matches(topic),
            Effect::Deny => pattern.matches_dead_letters(topic),
        })
    }

    /// The same for all topics of a pattern: an allow must cover them, for a deny one that it reaches is enough.
    fn fits_all(&self, asked: &Pattern) -> bool {
        self.topics.iter().any(|pattern| match self.effect {
            Effect::Allow => pattern.covers(asked),
            Effect::Deny => pattern.intersects_dead_letters(asked),
        })
    }
}

/// In a rule's `groups`: any group.
const ANY_GROUP: &str = "*";

impl Policy {
    /// Allows publishing and subscribing wherever a wildcard reaches. For trying things.
    pub fn open() -> Self {
        Self::default().allow(Action::Any, "**").unwrap_or_default()
    }

    /// Adds a rule that allows `action` on `pattern`.
    ///
    /// # Errors
    /// [`NameError`] when `pattern` is not well formed.
    pub fn allow(self, action: Action, pattern: &str) -> Result<Self, NameError> {
        self.rule(Effect::Allow, action, pattern)
    }

    /// Adds a rule that denies `action` on `pattern`.
    ///
    /// # Errors
    /// [`NameError`] when `pattern` is not well formed.
    pub fn deny(self, action: Action, pattern: &str) -> Result<Self, NameError> {
        self.rule(Effect::Deny, action, pattern)
    }

    /// Adds a rule at the end of the list.
    ///
    /// # Errors
    /// [`NameError`] when `pattern` is not well formed.
    pub fn rule(mut self, effect: Effect, action: Action, pattern: &str) -> Result<Self, NameError> {
        self.rules.push(Rule { effect, action, topics: vec![Pattern::new(pattern)?], groups: None });
        Ok(self)
    }

    /// Whether publishing on `topic` is allowed. On the hub's own topics and on those of dead letters it never is, and on
    /// `process.state`, which the hub writes, only by a rule that names that topic: no wildcard reaches it.
    pub fn may_publish(&self, topic: &Topic) -> bool {
        if topic.is_reserved() || topic.is_dead_letters() {
            return false;
        }
        let written_by_hub = topic.as_str() == topics::STATE;
        self.decide(Ask::Publish, |rule| {
            if written_by_hub && rule.effect == Effect::Allow {
                rule.topics.iter().any(|pattern| pattern.as_str() == topic.as_str())
            } else {
                rule.fits(topic)
            }
        })
    }

    /// Whether reading `topic`, as `group` or without one, is allowed.
    pub fn may_read(&self, topic: &Topic, group: Option<&str>) -> bool {
        self.decide(Ask::reading_as(group), |rule| rule.fits(topic))
    }

    /// Whether subscribing to `target` is allowed. For a pattern, a deny that could match any of its topics denies, and
    /// an allow counts only if it covers them all.
    pub fn may_subscribe(&self, target: &TopicOrPattern, group: Option<&str>) -> bool {
        match target {
            TopicOrPattern::Topic(topic) => self.may_read(topic, group),
            TopicOrPattern::Pattern(pattern) => self.decide(Ask::reading_as(group), |rule| rule.fits_all(pattern)),
        }
    }

    /// Whether an operators' action is allowed. `ops:admin` implies `ops:read`.
    pub fn may_operate(&self, action: Action) -> bool {
        self.rules
            .iter()
            .find(|rule| {
                let implied =
                    action == Action::OpsRead && rule.action == Action::OpsAdmin && rule.effect == Effect::Allow;
                rule.action == action || implied
            })
            .is_some_and(|rule| rule.effect == Effect::Allow)
    }

    fn decide(&self, ask: Ask<'_>, fits: impl Fn(&Rule) -> bool) -> bool {
        self.rules.iter().find(|rule| rule.is_about(ask) && fits(rule)).is_some_and(|rule| rule.effect == Effect::Allow)
    }
}

/// Writes a [`Policy`] down. Patterns are checked when the program is compiled.
///
/// ```
/// use prom_protocol::{Topic, policy};
/// let policy = policy! {
///     deny subscribe "secret.**";
///     allow publish "heartbeat.*";
///     allow read "**";
/// };
/// assert!(policy.may_read(&Topic::new("process.state").unwrap(), None));
/// assert!(!policy.may_read(&Topic::new("secret.plans").unwrap(), None));
/// ```
///
/// ```compile_fail
/// prom_protocol::policy! { allow publish "heart beat"; };
/// ```
#[macro_export]
macro_rules! policy {
    ($($effect:ident $action:ident $pattern:literal);* $(;)?) => {{
        #[allow(unused_mut, reason = "a policy without rules changes nothing")]
        let mut rules = ::std::vec::Vec::new();
        $(
            const _: () = assert!($crate::Pattern::is_valid($pattern), "not a well-formed topic pattern");
            rules.extend($crate::Pattern::new($pattern).map(|pattern| $crate::Rule {
                effect: $crate::policy!(@effect $effect),
                action: $crate::policy!(@action $action),
                topics: ::std::vec![pattern],
                groups: ::std::option::Option::None,
            }));
        )*
        $crate::Policy { rules }
    }};
    (@effect allow) => { $crate::Effect::Allow };
    (@effect deny) => { $crate::Effect::Deny };
    (@action publish) => { $crate::Action::Publish };
    (@action read) => { $crate::Action::Read };
    (@action subscribe) => { $crate::Action::Subscribe };
    (@action any) => { $crate::Action::Any };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    // Who may do what is in `tests/vectors/policies.json`; here is what Rust alone has.

    #[test]
    fn policies_that_are_made_in_code() {
        let policy = policy! { deny any "a.secret"; allow any "a.*"; };
        let rules = Policy::default().deny(Action::Any, "a.secret").and_then(|policy| policy.allow(Action::Any, "a.*"));
        assert_eq!(rules, Ok(policy));
        assert_eq!(policy! {}, Policy::default());
        assert_eq!(policy! { allow read "a"; }, Policy::from_scopes(["read:a"]));
        assert!(Policy::default().allow(Action::Publish, "a b").is_err());
    }

    #[test]
    fn an_open_policy_is_for_everything_but_the_hubs_own() {
        let open = Policy::open();
        assert!(open.may_publish(&topic("a.b")) && open.may_read(&topic("a.b"), None));
        assert!(!open.may_read(&topic("$audit"), None) && !open.may_operate(Action::OpsRead));
        assert!(!open.may_publish(&topic("process.state")) && !open.may_publish(&topic("dlq.a")));
    }

    /// The refusal was as long as what stood in the token.
    #[test]
    fn little_is_said_of_a_claim_whatever_is_in_it() {
        let long = "\u{202e}".repeat(4_000);
        for claim in [
            format!(r#"{{"rules":[{{"effect":"allow","action":"{long}","topics":["a"]}}]}}"#),
            format!(r#"{{"rules":[{{"effect":"allow","action":"read","topics":["a"],"{long}":1}}]}}"#),
            format!(r#"{{"rules":"{long}"}}"#),
            format!(r#"{{"{long}":1}}"#),
        ] {
            let said = Policy::from_claim(&claim).unwrap_err().to_string();
            assert!(said.starts_with("policy") && said.len() < 1024, "{} bytes", said.len());
        }
    }

    /// A policy of 50 rules none of which applies, with topics that look alike: the longest that deciding takes.
    fn fifty_rules() -> Policy {
        let mut policy = Policy::default();
        for n in 0..10 {
            for (action, pattern) in [
                (Action::Publish, format!("shop.orders.eu.{n}")),
                (Action::Any, format!("shop.orders.us.{n}.**")),
                (Action::Subscribe, format!("shop.*.ap.{n}")),
                (Action::Read, format!("shop.**.internal{n}")),
                (Action::Any, format!("shop.orders.{n}.*.*")),
            ] {
                policy = policy.rule(if n % 2 == 0 { Effect::Deny } else { Effect::Allow }, action, &pattern).unwrap();
            }
        }
        policy
    }

    /// Prints what a decision costs. To be run with `--release --ignored --nocapture`.
    #[test]
    #[ignore = "measures, and proves nothing on a busy machine"]
    fn what_a_decision_costs() {
        let policy = fifty_rules();
        let target = |name: &str| TopicOrPattern::new(name).unwrap();
        let (of, dead) = (topic("shop.orders.eu.paid"), topic("dlq.shop.orders.eu.paid"));
        let (few, many) = (target("shop.orders.za.*"), target("shop.returns.**"));
        let cases: [(&str, &dyn Fn() -> bool); 5] = [
            ("publish on a topic", &|| policy.may_publish(&of)),
            ("read a topic", &|| policy.may_read(&of, None)),
            ("read its dead letters as a group", &|| policy.may_read(&dead, Some("billing"))),
            ("subscribe to `*`", &|| policy.may_subscribe(&few, None)),
            ("subscribe to `**`", &|| policy.may_subscribe(&many, Some("billing"))),
        ];
        for (name, decide) in cases {
            let mut best = f64::MAX;
            for _ in 0..20 {
                let started = std::time::Instant::now();
                for _ in 0..10_000 {
                    assert!(!std::hint::black_box(decide()));
                }
                best = best.min(started.elapsed().as_nanos() as f64 / 10_000.0);
            }
            println!("{name}: {best:.0} ns for 50 rules");
        }
    }
}
