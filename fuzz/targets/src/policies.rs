//! What tokens say about rights, and what follows from it, held against the rules as the documentation has them.

use prom_protocol::{Action, Effect, Pattern, Policy, Rule, Topic, TopicOrPattern};

use crate::patterns::{matches, segments_of, topics_of};

/// Most rules that are decided on the slow way.
const RULES: usize = 6;
/// Most segments that the patterns of such a policy spell out.
const SEGMENTS: usize = 5;
const TOPICS: [&str; 10] =
    ["a", "a.b", "b.a", "dlq.a", "dlq.dlq.a.b", "dlq.dlq.dlq.a", "process.state", "$audit", "$audit.a", "dlq"];
const PATTERNS: [&str; 10] = ["*", "**", "a.*", "a.**", "**.b", "dlq.*", "dlq.**", "*.a", "$audit.**", "process.*"];
const GROUPS: [Option<&str>; 3] = [None, Some("g"), Some("h")];
/// Pieces that bytes stand for where they are no JSON.
const SOME: [&str; 12] =
    ["a", "a.b", "*", "**", "a.*", "a.**", "dlq.**", "dlq.a", "process.state", "$audit", "*.b", "$audit.*"];

/// JSON: a `policy` claim. Behind a zero byte: rules of two bytes each. Any other text: scopes.
pub fn policies(data: &[u8]) {
    if let [0, rules @ ..] = data {
        let rules: Vec<Rule> = rules.chunks_exact(2).take(RULES).map(|pair| made_of([pair[0], pair[1]])).collect();
        return decisions(&Policy { rules });
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Policy::from_claim(text) {
        Ok(policy) => {
            written_and_read(&policy);
            assert_eq!(serde_json::from_str(text).ok().as_ref(), Some(&policy), "both readers say the same: {text}");
            decisions(&policy);
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.starts_with("policy") && said.len() <= 1024, "it names the claim, in few words: {said}");
            assert!(serde_json::from_str::<Policy>(text).is_err(), "one reader takes what the other refuses: {text}");
        }
    }
    let (own, shared) =
        (Policy::from_scopes(text.split_ascii_whitespace()), Policy::from_scope_claim(text.split_ascii_whitespace()));
    for policy in [&own, &shared] {
        assert!(policy.rules.iter().all(|rule| rule.effect == Effect::Allow), "a scope allows: {text}");
        assert!(policy.rules.len() <= text.split_ascii_whitespace().count());
        written_and_read(policy);
        decisions(policy);
    }
    assert!(shared.rules.iter().all(|rule| own.rules.contains(rule)), "`scope` grants no more than `scopes`: {text}");
}

fn made_of([what, topic]: [u8; 2]) -> Rule {
    let actions = [
        Action::Publish,
        Action::Read,
        Action::Subscribe,
        Action::Any,
        Action::OpsRead,
        Action::OpsAdmin,
        Action::Any,
        Action::Subscribe,
    ];
    let groups = [None, Some(vec!["g"]), Some(vec!["*"]), Some(vec![])];
    let pattern = SOME[usize::from(topic) % SOME.len()];
    Rule {
        effect: if what & 1 == 0 { Effect::Allow } else { Effect::Deny },
        action: actions[usize::from(what >> 1 & 7)],
        topics: Pattern::new(pattern).into_iter().collect(),
        groups: groups[usize::from(what >> 4 & 3)].as_ref().map(|list| list.iter().map(|g| (*g).to_owned()).collect()),
    }
}

fn written_and_read(policy: &Policy) {
    let json = serde_json::to_string(policy).expect("plain values");
    assert_eq!(Policy::from_claim(&json).as_ref(), Ok(policy), "{json}");
}

fn decisions(policy: &Policy) {
    let small = |pattern: &Pattern| pattern.as_str().split('.').count() <= 3;
    if policy.rules.len() > RULES
        || !policy.rules.iter().all(|rule| rule.topics.len() <= 3 && rule.topics.iter().all(small))
    {
        return;
    }
    for name in TOPICS {
        let topic = Topic::from_static(name);
        assert_eq!(policy.may_publish(&topic), publish(policy, name), "publish {name}: {policy:?}");
        for group in GROUPS {
            let expected = decide(policy, Some(group), |rule| fits(rule, name));
            assert_eq!(policy.may_read(&topic, group), expected, "read {name} as {group:?}: {policy:?}");
            let target = TopicOrPattern::Topic(topic.clone());
            assert_eq!(policy.may_subscribe(&target, group), expected, "{name} as {group:?}: {policy:?}");
        }
    }
    // All patterns take long; which one is asked for follows from the policy, so that an input always does the same.
    let asked = PATTERNS
        [policy.rules.iter().map(|rule| rule.topics.len() + rule.action as usize).sum::<usize>() % PATTERNS.len()];
    pattern(policy, asked);
    operate(policy);
}

fn is_about(rule: &Rule, asked: Option<Option<&str>>) -> bool {
    let Some(group) = asked else {
        return matches!(rule.action, Action::Publish | Action::Any) && rule.groups.is_none();
    };
    let action = match rule.action {
        Action::Any | Action::Subscribe => true,
        Action::Read => group.is_none() || rule.effect == Effect::Deny,
        _ => false,
    };
    let grouped = rule
        .groups
        .as_ref()
        .is_none_or(|listed| group.is_some_and(|group| listed.iter().any(|own| own == "*" || own == group)));
    action && grouped
}

/// The first rule that applies decides. `asked`: none to publish, else as which group, or none.
fn decide(policy: &Policy, asked: Option<Option<&str>>, fits: impl Fn(&Rule) -> bool) -> bool {
    policy
        .rules
        .iter()
        .find(|rule| is_about(rule, asked) && fits(rule))
        .is_some_and(|rule| rule.effect == Effect::Allow)
}

fn fits(rule: &Rule, topic: &str) -> bool {
    let fits = |name: &str| rule.topics.iter().any(|pattern| matches(pattern.as_str(), name));
    if rule.effect == Effect::Allow {
        return fits(topic);
    }
    let dead = topic.strip_prefix("dlq.");
    fits(topic) || dead.is_some_and(|of| fits(of) || of.strip_prefix("dlq.").is_some_and(fits))
}

fn publish(policy: &Policy, topic: &str) -> bool {
    if topic.starts_with('$') || topic.starts_with("dlq.") {
        return false;
    }
    let exactly = |rule: &Rule| rule.topics.iter().any(|pattern| pattern.as_str() == topic);
    decide(policy, None, |rule| {
        fits(rule, topic) && (topic != "process.state" || rule.effect == Effect::Deny || exactly(rule))
    })
}

/// For a pattern an allow must cover it, and a deny need only reach it.
fn pattern(policy: &Policy, asked: &str) {
    let own: Vec<&str> = policy.rules.iter().flat_map(|rule| rule.topics.iter().map(Pattern::as_str)).collect();
    let all = || own.iter().copied().chain([asked]);
    if segments_of(all()) > SEGMENTS {
        return;
    }
    // Four segments tell any two patterns of three apart; dead letters have up to two more in front.
    let mut names = topics_of(all(), 4);
    for prefix in ["dlq.", "dlq.dlq."] {
        names.extend(topics_of(all(), 3).iter().map(|name| format!("{prefix}{name}")));
    }
    names.retain(|name| Topic::new(name).is_ok() && matches(asked, name));
    let applies: Vec<bool> = policy
        .rules
        .iter()
        .map(|rule| match rule.effect {
            // Alone: what several allow together does not count.
            Effect::Allow => rule.topics.iter().any(|pattern| names.iter().all(|name| matches(pattern.as_str(), name))),
            Effect::Deny => names.iter().any(|name| fits(rule, name)),
        })
        .collect();
    let Ok(target) = TopicOrPattern::new(asked) else { return };
    for group in GROUPS {
        let mut rules = policy.rules.iter().zip(&applies);
        let first = rules.find(|(rule, applies)| **applies && is_about(rule, Some(group)));
        let expected = first.is_some_and(|(rule, _)| rule.effect == Effect::Allow);
        assert_eq!(policy.may_subscribe(&target, group), expected, "{asked} as {group:?}: {policy:?}");
    }
}

fn operate(policy: &Policy) {
    let first = |applies: &dyn Fn(&Rule) -> bool| {
        policy.rules.iter().find(|rule| applies(rule)).is_some_and(|rule| rule.effect == Effect::Allow)
    };
    assert_eq!(policy.may_operate(Action::OpsAdmin), first(&|rule| rule.action == Action::OpsAdmin), "{policy:?}");
    let reads = |rule: &Rule| {
        rule.action == Action::OpsRead || (rule.action == Action::OpsAdmin && rule.effect == Effect::Allow)
    };
    assert_eq!(policy.may_operate(Action::OpsRead), first(&reads), "{policy:?}");
}
