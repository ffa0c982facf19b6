//! Policies: who may do what on which topics. Rules in order, the first that applies decides, none denies.

use serde::{Deserialize, Serialize};

use crate::{NameError, Pattern, Topic, TopicOrPattern};

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Action {
    /// Publishing events.
    #[serde(rename = "publish")]
    Publish,
    /// Subscribing, and every other way to read: replay, export, latest by key, watch, dead letters.
    #[serde(rename = "subscribe")]
    Subscribe,
    /// Publishing and subscribing. The operators' actions are never implied.
    #[serde(rename = "*")]
    Any,
    /// Reading what the ops port shows.
    #[serde(rename = "ops:read")]
    OpsRead,
    /// Changing things by the ops port.
    #[serde(rename = "ops:admin")]
    OpsAdmin,
}

impl Action {
    fn applies_to(self, asked: Self) -> bool {
        self == asked || (self == Self::Any && matches!(asked, Self::Publish | Self::Subscribe))
    }
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
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Whether it allows or denies.
    pub effect: Effect,
    /// What kind of request it applies to.
    pub action: Action,
    /// The topics it applies to, as patterns; not read for the operators' actions.
    #[serde(default)]
    pub topics: Vec<Pattern>,
    /// Narrows a subscribe rule to these groups; such a rule never applies to a subscription without a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
}

/// An ordered list of rules. The default has none and allows nothing.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The rules, first match decides.
    pub rules: Vec<Rule>,
}

/// Why a policy was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

impl Policy {
    /// Allows publishing and subscribing on every topic but the hub's own. For trying things.
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

    /// Reads a `policy` claim: `{"rules": [{"effect", "action", "topics", "groups"?}]}`.
    ///
    /// # Errors
    /// [`PolicyError`] when it has another shape; the message says where.
    pub fn from_claim(json: &str) -> Result<Self, PolicyError> {
        serde_json::from_str(json).map_err(|error| PolicyError(format!("policy: {error}")))
    }

    /// The policy that `scopes` stand for: `publish:<pattern>`, `subscribe:<pattern>`, `*:<pattern>`, `ops:read`,
    /// `ops:admin`. A scope is cut at its first colon. Scopes that are none of these grant nothing.
    ///
    /// ```
    /// use prom_protocol::{Policy, Topic};
    /// let policy = Policy::from_scopes(["publish:heartbeat.*", "openid"]);
    /// assert!(policy.may_publish(&Topic::new("heartbeat.received").unwrap()));
    /// assert!(!policy.may_publish(&Topic::new("process.state").unwrap()));
    /// ```
    pub fn from_scopes<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        let mut policy = Self::default();
        for scope in scopes {
            let Some((action, rest)) = scope.split_once(':') else { continue };
            let (action, topics) = match (action, rest) {
                ("ops", "read") => (Action::OpsRead, Vec::new()),
                ("ops", "admin") => (Action::OpsAdmin, Vec::new()),
                ("publish" | "subscribe" | "*", pattern) => {
                    let Ok(pattern) = Pattern::new(pattern) else { continue };
                    let action = match action {
                        "publish" => Action::Publish,
                        "subscribe" => Action::Subscribe,
                        _ => Action::Any,
                    };
                    (action, vec![pattern])
                }
                _ => continue,
            };
            policy.rules.push(Rule { effect: Effect::Allow, action, topics, groups: None });
        }
        policy
    }

    /// Whether publishing on `topic` is allowed. The hub's own topics never are.
    pub fn may_publish(&self, topic: &Topic) -> bool {
        !topic.is_reserved() && self.decide(Action::Publish, None, |rule, _| rule.matches(topic))
    }

    /// Whether reading `topic`, as `group` or without one, is allowed.
    pub fn may_read(&self, topic: &Topic, group: Option<&str>) -> bool {
        self.decide(Action::Subscribe, group, |rule, _| rule.matches(topic))
    }

    /// Whether subscribing to `target` is allowed. For a pattern, a deny that could match any of its topics denies, and
    /// an allow counts only if it covers them all.
    pub fn may_subscribe(&self, target: &TopicOrPattern, group: Option<&str>) -> bool {
        match target {
            TopicOrPattern::Topic(topic) => self.may_read(topic, group),
            TopicOrPattern::Pattern(pattern) => self.decide(Action::Subscribe, group, |rule, effect| match effect {
                Effect::Allow => rule.covers(pattern),
                Effect::Deny => rule.intersects(pattern),
            }),
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

    fn decide(&self, action: Action, group: Option<&str>, applies: impl Fn(&Pattern, Effect) -> bool) -> bool {
        self.rules
            .iter()
            .find(|rule| {
                rule.action.applies_to(action)
                    && rule
                        .groups
                        .as_ref()
                        .is_none_or(|groups| group.is_some_and(|g| groups.iter().any(|own| own == g)))
                    && rule.topics.iter().any(|pattern| applies(pattern, rule.effect))
            })
            .is_some_and(|rule| rule.effect == Effect::Allow)
    }
}

/// Writes a [`Policy`] down. Patterns are checked when the program is compiled.
///
/// ```
/// use prom_protocol::{Topic, policy};
/// let policy = policy! {
///     deny subscribe "secret.**";
///     allow publish "heartbeat.*";
///     allow subscribe "**";
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
        assert!(Policy::default().allow(Action::Publish, "a b").is_err());
    }

    #[test]
    fn an_open_policy_is_for_everything_but_the_hubs_own() {
        let open = Policy::open();
        assert!(open.may_publish(&topic("a.b")) && open.may_read(&topic("a.b"), None));
        assert!(!open.may_read(&topic("$audit"), None) && !open.may_operate(Action::OpsRead));
    }
}
