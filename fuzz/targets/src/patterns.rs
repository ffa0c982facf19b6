//! Patterns against a slower way to find the same: trying all topics of a small alphabet.

use std::collections::BTreeSet;

use prom_protocol::{Group, NameError, Pattern, Topic, TopicOrPattern, limits};

/// Most segments of a pattern that is held against all topics.
const SEGMENTS: usize = 3;
/// Longest segment of such a pattern: topics of five of them are none too long to be one.
const SEGMENT_BYTES: usize = 40;
/// What bytes stand for where they are not text.
const WORDS: [&str; 8] = ["a", "b", "*", "**", "dlq", "*", "**", "c"];

/// Two lines: names as they are. Behind a zero byte: two short patterns, of which each byte is a segment and 255 separates.
pub fn patterns(data: &[u8]) {
    if let [0, words @ ..] = data {
        let mut halves = words.splitn(2, |byte| *byte == 255).map(from_words);
        let (one, other) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        return compare(&one, &other);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.lines();
    let (one, other) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    names(one);
    names(other);
    let few = |name: &str| {
        name.split('.').count() <= SEGMENTS && name.split('.').all(|segment| segment.len() <= SEGMENT_BYTES)
    };
    if few(one) && few(other) {
        compare(one, other);
    } else if let (Ok(one), Ok(other)) = (Pattern::new(one), Pattern::new(other)) {
        laws(&one, &other);
    }
}

fn from_words(bytes: &[u8]) -> String {
    let words = bytes.iter().take(SEGMENTS).map(|byte| WORDS[usize::from(*byte) % WORDS.len()]);
    let name = words.collect::<Vec<_>>().join(".");
    // Some are the hub's own.
    if bytes.first().is_some_and(|byte| byte & 0x40 != 0) && !name.starts_with('*') { format!("${name}") } else { name }
}

/// Why a name is none, written as the documentation says it: not as the reader does.
fn valid(name: &str, wildcards: bool) -> bool {
    let mut counted = name;
    for _ in 0..limits::DLQ_LEVELS {
        counted = counted.strip_prefix("dlq.").filter(|rest| !rest.is_empty()).unwrap_or(counted);
    }
    let own = counted.strip_prefix('$').filter(|_| counted.len() == name.len());
    // What is the hub's own is named, not a wildcard.
    let bare = own.filter(|rest| !rest.starts_with('*')).unwrap_or(counted);
    let segment = |segment: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        !segment.is_empty() && (segment.chars().all(plain) || (wildcards && matches!(segment, "*" | "**")))
    };
    counted.len() <= limits::TOPIC_BYTES
        && counted.split('.').count() <= limits::TOPIC_SEGMENTS
        && bare.split('.').all(segment)
}

fn names(name: &str) {
    let (topic, pattern) = (Topic::new(name), Pattern::new(name));
    assert_eq!(topic.is_ok(), valid(name, false), "{name:?}: {topic:?}");
    assert_eq!(pattern.is_ok(), valid(name, true), "{name:?}: {pattern:?}");
    assert_eq!(TopicOrPattern::new(name).is_ok(), pattern.is_ok(), "{name:?}");
    for error in [topic.as_ref().err(), pattern.as_ref().err()].into_iter().flatten() {
        assert!(!error.to_string().is_empty() && *error != NameError::BadGroup);
    }
    if let Ok(topic) = topic {
        assert_eq!(topic.as_str(), name);
        let own = Pattern::from(topic.clone());
        assert!(own.matches(&topic) && own.covers(&own) && own.intersects(&own), "{name}");
        if let Some(dead) = topic.dead_letter() {
            assert_eq!(Topic::new(dead.as_str()).as_ref(), Ok(&dead), "{name}");
            assert!(dead.is_dead_letters(), "{name}");
        }
    }
    if let Ok(group) = Group::new(name) {
        assert!(!group.is_reserved() && group.as_str() == name && name.len() <= limits::GROUP_BYTES);
        assert!(Group::stored(name).is_ok(), "{name}");
    }
}

/// What holds for all patterns, however long.
fn laws(one: &Pattern, other: &Pattern) {
    for (a, b) in [(one, other), (other, one)] {
        assert!(a.covers(a) && a.intersects(a), "{a}");
        assert_eq!(a.intersects(b), b.intersects(a), "{a} and {b}");
        assert!(!a.covers(b) || a.intersects(b), "{a} covers {b} and has no topic in common with it");
        if let Ok(topic) = Topic::new(b.as_str()) {
            assert_eq!(a.matches(&topic), a.covers(b), "{a} and the topic {b}");
            assert_eq!(a.matches(&topic), a.intersects(b), "{a} and the topic {b}");
        }
    }
}

/// Whether a pattern matches a topic, tried out segment by segment.
pub(crate) fn matches(pattern: &str, topic: &str) -> bool {
    fn rest(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], []) => true,
            (["**", after @ ..], _) => (0..=topic.len()).any(|taken| rest(after, &topic[taken..])),
            (["*", after @ ..], [_, topics @ ..]) => rest(after, topics),
            ([own, after @ ..], [first, topics @ ..]) => own == first && rest(after, topics),
            _ => false,
        }
    }
    let (own, others): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), topic.split('.').collect());
    pattern.starts_with('$') == topic.starts_with('$') && rest(&own, &others)
}

/// How many segments these names spell out.
pub(crate) fn segments_of<'a>(names: impl IntoIterator<Item = &'a str>) -> usize {
    let segments = names.into_iter().flat_map(|name| name.split('.'));
    segments.filter(|segment| !segment.contains('*')).collect::<BTreeSet<_>>().len()
}

/// All topics of at most `length` segments that these names spell out, with one segment that none of them has.
pub(crate) fn topics_of<'a>(names: impl IntoIterator<Item = &'a str>, length: usize) -> Vec<String> {
    let spelt = names.into_iter().flat_map(|name| name.split('.')).filter(|segment| !segment.contains('*'));
    let (mut heads, mut segments): (BTreeSet<_>, BTreeSet<_>) =
        spelt.map(str::to_owned).partition(|segment| segment.starts_with('$'));
    for (own, sign) in [(&mut heads, "$"), (&mut segments, "")] {
        let other = (1..).map(|length| format!("{sign}{}", "z".repeat(length))).find(|name| !own.contains(name));
        own.extend(other);
    }
    let mut layer: Vec<String> = heads.into_iter().chain(segments.iter().cloned()).collect();
    let mut all = layer.clone();
    for _ in 1..length {
        layer = layer.iter().flat_map(|head| segments.iter().map(move |next| format!("{head}.{next}"))).collect();
        all.extend(layer.iter().cloned());
    }
    all
}

fn compare(one: &str, other: &str) {
    let (Ok(a), Ok(b)) = (Pattern::new(one), Pattern::new(other)) else { return };
    laws(&a, &b);
    // Of patterns of three segments: what both match, or one does and the other does not, shows in four.
    let length = if segments_of([one, other]) <= 4 { 5 } else { 4 };
    let (mut meet, mut covered) = (false, true);
    for name in topics_of([one, other], length) {
        let Ok(topic) = Topic::new(&name) else { continue };
        let (in_a, in_b) = (matches(one, &name), matches(other, &name));
        assert_eq!(a.matches(&topic), in_a, "{one} and the topic {name}");
        assert_eq!(b.matches(&topic), in_b, "{other} and the topic {name}");
        meet |= in_a && in_b;
        covered &= in_a || !in_b;
    }
    assert_eq!(a.intersects(&b), meet, "{one} and {other}");
    assert_eq!(a.covers(&b), covered, "{one} covers {other}");
}
