//! What tokens say about rights: a list of rules, or scopes that stand for some.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use super::{ANY_GROUP, Action, Effect, Policy, Rule};
use crate::{Group, NameError, Pattern};

/// Most characters of what is wrong with a claim: it goes back to who sent the token, and into the log.
const WHY_CHARS: usize = 200;

/// Why a policy was refused: where in it, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

impl Policy {
    /// Reads a `policy` claim: `{"rules": [{"effect", "action", "topics", "groups"?}]}`. Nothing else may stand in it: what
    /// is not understood might have been meant to narrow it.
    ///
    /// # Errors
    /// [`PolicyError`] when it has another shape; the message says where, like `policy.rules[2]`.
    pub fn from_claim(json: &str) -> Result<Self, PolicyError> {
        // What the parser says repeats what stands there instead, however long that is.
        let at = |place: &str, error: &dyn fmt::Display| {
            let why: String = error.to_string().chars().take(WHY_CHARS).collect();
            PolicyError(format!("{place}: {why}"))
        };
        let claim: PolicyClaim<Box<RawValue>> = serde_json::from_str(json).map_err(|error| at("policy", &error))?;
        let mut rules = Vec::with_capacity(claim.0.rules.len());
        for (n, rule) in claim.0.rules.iter().enumerate() {
            let place = format!("policy.rules[{n}]");
            let claim: RuleClaim = serde_json::from_str(rule.get()).map_err(|error| at(&place, &error))?;
            rules.push(Rule::try_from(claim).map_err(|error| PolicyError(format!("{place}.{error}")))?);
        }
        Ok(Self { rules })
    }

    /// The policy that the claim `scopes` stands for, which is the hub's own: `publish:<pattern>`, `read:<pattern>`,
    /// `subscribe:<pattern>`, `*:<pattern>`, each without a pattern for all topics; `consume:<pattern>:<group>` to subscribe as
    /// that group alone (`*`: as any); `ops:read`, `ops:admin`. Each is one allow rule. Scopes that are none of these grant nothing.
    ///
    /// ```
    /// use prom_protocol::{Policy, Topic};
    /// let policy = Policy::from_scopes(["publish:heartbeat.*", "openid"]);
    /// assert!(policy.may_publish(&Topic::new("heartbeat.received").unwrap()));
    /// assert!(!policy.may_publish(&Topic::new("orders.paid").unwrap()));
    /// ```
    pub fn from_scopes<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self { rules: scopes.into_iter().filter_map(|scope| rule(scope).or_else(|| everywhere(scope))).collect() }
    }

    /// The policy that the claim `scope` stands for, which a token's issuer shares among APIs: the same, but an action
    /// without a pattern grants nothing. It may be another API's.
    ///
    /// ```
    /// use prom_protocol::Policy;
    /// assert_eq!(Policy::from_scope_claim(["publish", "openid"]).rules, []);
    /// assert_eq!(Policy::from_scope_claim(["publish:**"]), Policy::from_scopes(["publish"]));
    /// ```
    pub fn from_scope_claim<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self { rules: scopes.into_iter().filter_map(rule).collect() }
    }
}

/// The rule of a scope with a colon.
fn rule(scope: &str) -> Option<Rule> {
    let on = |pattern| Some(vec![Pattern::new(pattern).ok()?]);
    match scope.split_once(':')? {
        ("ops", "read") => Some(allow(Action::OpsRead, Vec::new(), None)),
        ("ops", "admin") => Some(allow(Action::OpsAdmin, Vec::new(), None)),
        // A pattern holds no colon; a group may.
        ("consume", rest) => {
            let (pattern, group) = rest.split_once(':')?;
            let known = group == ANY_GROUP || Group::new(group).is_ok();
            known.then_some(allow(Action::Subscribe, on(pattern)?, Some(group)))
        }
        (name, pattern) => Some(allow(action(name)?, on(pattern)?, None)),
    }
}

/// The rule of an action alone.
fn everywhere(scope: &str) -> Option<Rule> {
    Some(allow(action(scope)?, vec![Pattern::new("**").ok()?], None))
}

fn action(name: &str) -> Option<Action> {
    match name {
        "publish" => Some(Action::Publish),
        "read" => Some(Action::Read),
        "subscribe" => Some(Action::Subscribe),
        "*" => Some(Action::Any),
        _ => None,
    }
}

fn allow(action: Action, topics: Vec<Pattern>, group: Option<&str>) -> Rule {
    Rule { effect: Effect::Allow, action, topics, groups: group.map(|group| vec![group.to_owned()]) }
}

/// A policy as it is written.
pub(super) type PolicyClaim<R> = Object<PolicyFields<R>>;

/// A rule as it is written.
pub(super) type RuleClaim = Object<RuleFields>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyFields<R> {
    rules: Vec<R>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleFields {
    effect: Effect,
    action: Action,
    #[serde(default)]
    topics: Vec<String>,
    #[serde(default)]
    groups: Option<Vec<String>>,
}

/// What is wrong with a pattern, and which of a rule's topics it is.
#[derive(Debug, thiserror::Error)]
#[error("topics[{0}]: {1}")]
pub(super) struct BadTopic(usize, NameError);

impl TryFrom<RuleClaim> for Rule {
    type Error = BadTopic;

    fn try_from(Object(RuleFields { effect, action, topics, groups }): RuleClaim) -> Result<Self, BadTopic> {
        let topics = topics.iter().enumerate().map(|(n, text)| Pattern::new(text).map_err(|error| BadTopic(n, error)));
        Ok(Self { effect, action, topics: topics.collect::<Result<_, _>>()?, groups })
    }
}

impl From<PolicyClaim<Rule>> for Policy {
    fn from(Object(PolicyFields { rules }): PolicyClaim<Rule>) -> Self {
        Self { rules }
    }
}

/// A `T` by the names of its fields. Derived alone, it could be read from a list too, by their order.
pub(super) struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(std::marker::PhantomData))
    }
}
