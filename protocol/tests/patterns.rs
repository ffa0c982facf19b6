//! Patterns against a matcher too simple to be wrong, over every topic of a small world.

use prom_protocol::{Action, Pattern, Policy, Topic, TopicOrPattern};
use proptest::prelude::*;

/// The definition, written down: `*` takes one segment, `**` takes any number.
fn naive(pattern: &[&str], topic: &[&str]) -> bool {
    match pattern.split_first() {
        None => topic.is_empty(),
        Some((&"**", rest)) => (0..=topic.len()).any(|n| naive(rest, &topic[n..])),
        Some((&"*", rest)) => !topic.is_empty() && naive(rest, &topic[1..]),
        Some((literal, rest)) => topic.first() == Some(literal) && naive(rest, &topic[1..]),
    }
}

fn brute(pattern: &Pattern, topic: &Topic) -> bool {
    let pattern: Vec<_> = pattern.as_str().split('.').collect();
    let topic: Vec<_> = topic.as_str().split('.').collect();
    naive(&pattern, &topic)
}

/// Every topic of 1..=7 segments over three names, one of which no generated pattern spells out. Two patterns of at
/// most three segments that differ at all differ within these.
fn world() -> &'static [Topic] {
    static WORLD: std::sync::LazyLock<Vec<Topic>> = std::sync::LazyLock::new(|| {
        let mut world = Vec::new();
        let mut names = vec![String::new()];
        for _ in 0..7 {
            names = names
                .iter()
                .flat_map(|name| {
                    ["a", "b", "z"].map(|s| if name.is_empty() { s.to_owned() } else { format!("{name}.{s}") })
                })
                .collect();
            world.extend(names.iter().map(|name| Topic::new(name).expect("a valid topic")));
        }
        world
    });
    &WORLD
}

fn any_pattern() -> impl Strategy<Value = Pattern> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**"]), 1..=3)
        .prop_map(|segments| Pattern::new(&segments.join(".")).expect("a valid pattern"))
}

fn long_pattern() -> impl Strategy<Value = Pattern> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**"]), 1..=8)
        .prop_map(|segments| Pattern::new(&segments.join(".")).expect("a valid pattern"))
}

fn any_topic() -> impl Strategy<Value = Topic> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "z"]), 1..=9)
        .prop_map(|segments| Topic::new(&segments.join(".")).expect("a valid topic"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn matching_agrees_with_the_definition(pattern in long_pattern(), topic in any_topic()) {
        prop_assert_eq!(pattern.matches(&topic), brute(&pattern, &topic));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn intersection_is_exact(a in any_pattern(), b in any_pattern()) {
        let expected = world().iter().any(|topic| brute(&a, topic) && brute(&b, topic));
        prop_assert_eq!(a.intersects(&b), expected, "{} and {}", a, b);
    }

    #[test]
    fn coverage_is_exact(a in any_pattern(), b in any_pattern()) {
        let expected = world().iter().all(|topic| !brute(&b, topic) || brute(&a, topic));
        prop_assert_eq!(a.covers(&b), expected, "{} over {}", a, b);
    }

    #[test]
    fn coverage_implies_intersection(a in long_pattern(), b in long_pattern()) {
        prop_assert!(!a.covers(&b) || a.intersects(&b));
        prop_assert!(a.covers(&a));
    }
}

/// Every topic of 1..=6 segments over four names, one of which leads to dead letters.
fn world_with_dead_letters() -> &'static [Topic] {
    static WORLD: std::sync::LazyLock<Vec<Topic>> = std::sync::LazyLock::new(|| {
        let mut names = vec![String::new()];
        let mut world = Vec::new();
        for _ in 0..6 {
            names = names.iter().flat_map(|name| ["a", "b", "z", "dlq"].map(|s| format!("{name}.{s}"))).collect();
            world.extend(names.iter().map(|name| Topic::new(&name[1..]).expect("a valid topic")));
        }
        world
    });
    &WORLD
}

fn short_pattern() -> impl Strategy<Value = Pattern> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "dlq", "*", "**"]), 1..=3)
        .prop_map(|segments| Pattern::new(&segments.join(".")).expect("a valid pattern"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Behind a deny a subscription to a pattern is one to each of its topics, so no topic has to be looked at again when
    /// it comes; and the dead letters of what is denied are among them.
    #[test]
    fn a_pattern_is_refused_exactly_if_one_of_its_topics_is(denied in short_pattern(), asked in short_pattern()) {
        let rules = Policy::default().deny(Action::Read, denied.as_str()).and_then(|p| p.allow(Action::Read, "**"));
        let policy = rules.expect("valid patterns");
        let mut each = true;
        for topic in world_with_dead_letters() {
            let mut name = topic.as_str();
            let mut hit = denied.matches(topic);
            for _ in 0..2 {
                let Some(original) = name.strip_prefix("dlq.") else { break };
                name = original;
                hit |= denied.matches(&Topic::new(name).expect("a valid topic"));
            }
            prop_assert_eq!(policy.may_read(topic, None), !hit, "{} behind a deny of {}", topic, denied);
            each &= !(hit && asked.matches(topic));
        }
        let target = TopicOrPattern::new(asked.as_str()).expect("a topic or a pattern");
        prop_assert_eq!(policy.may_subscribe(&target, None), each, "{} behind a deny of {}", asked, denied);
    }
}
