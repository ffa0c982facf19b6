//! Patterns against a matcher too simple to be wrong, over every topic of a small world.

use prom_protocol::{Pattern, Topic};
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
