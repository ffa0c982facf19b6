//! Patterns over topics: matching, coverage and intersection, all exact.

use std::{collections::HashSet, sync::Arc};

use super::{NameError, Topic, validate};
use crate::limits;

const ONE: &str = "*";
const MANY: &str = "**";

/// A topic whose segments may be `*` (exactly one segment) or `**` (zero or more). Cheap to clone.
///
/// `covers` and `intersects` are exact over topics of any length: the length limits of topics are not used to sharpen
/// them, so at those limits `covers` may return false and `intersects` true, which is the safe side for a policy.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Checks `pattern`. A topic is a pattern too.
    ///
    /// # Errors
    /// What is wrong with it, as [`NameError`].
    pub fn new(pattern: &str) -> Result<Self, NameError> {
        validate(pattern, true)?;
        Ok(Self(pattern.into()))
    }

    /// Whether `pattern` is well formed, at compile time: what `policy!` asserts.
    pub const fn is_valid(pattern: &str) -> bool {
        validate(pattern, true).is_ok()
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether only topics of the hub itself can match.
    fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }

    /// Whether `topic` matches. Linear: only the latest `**` ever needs to be reconsidered.
    ///
    /// ```
    /// use prom_protocol::{Pattern, Topic};
    /// let pattern = Pattern::new("logs.**.error").unwrap();
    /// assert!(pattern.matches(&Topic::new("logs.error").unwrap()));
    /// assert!(pattern.matches(&Topic::new("logs.web.eu.error").unwrap()));
    /// assert!(!pattern.matches(&Topic::new("logs.web").unwrap()));
    /// ```
    pub fn matches(&self, topic: &Topic) -> bool {
        matches(&self.0, topic.as_str())
    }

    /// Whether `topic` matches, or holds the dead letters, or theirs, of a topic that does.
    pub(crate) fn matches_dead_letters(&self, topic: &Topic) -> bool {
        let mut name = topic.as_str();
        for _ in 0..limits::DLQ_LEVELS {
            if matches(&self.0, name) {
                return true;
            }
            match name.strip_prefix("dlq.") {
                Some(original) => name = original,
                None => return false,
            }
        }
        matches(&self.0, name)
    }

    /// Whether some topic matches both.
    pub fn intersects(&self, other: &Self) -> bool {
        self.is_reserved() == other.is_reserved() && meet(&Segments::of(self), &Segments::of(other))
    }

    /// Whether some topic matches `other` that matches this pattern, or holds the dead letters, or theirs, of one that
    /// does.
    pub(crate) fn intersects_dead_letters(&self, other: &Self) -> bool {
        if self.is_reserved() != other.is_reserved() {
            return false;
        }
        let (own, others) = (Segments::of_dead_letters(self), Segments::of(other));
        let levels = if self.is_reserved() { 0 } else { limits::DLQ_LEVELS };
        (0..=levels).any(|level| meet(&own[limits::DLQ_LEVELS - level..], &others))
    }

    /// Whether every topic that matches `other` matches this pattern too.
    ///
    /// Walks `other` as an automaton beside the set of this pattern's states and looks for a topic that only `other`
    /// accepts. One fresh segment stands for all that this pattern does not spell out.
    pub fn covers(&self, other: &Self) -> bool {
        if self.is_reserved() != other.is_reserved() {
            return false;
        }
        let (own, others) = (&*Segments::of(self), &*Segments::of(other));
        if differ(own, others) {
            return false;
        }
        // None stands for any segment this pattern does not name.
        let mut alphabet: Vec<Option<&str>> = own.iter().filter(|s| !is_wildcard(s)).map(|s| Some(*s)).collect();
        alphabet.push(None);

        let start = (0_usize, closure(own, 1), true);
        let mut seen = HashSet::from([start]);
        let mut open = vec![start];
        while let Some((at, states, empty)) = open.pop() {
            let mut visit = |next| {
                if seen.insert(next) {
                    open.push(next);
                }
            };
            match others.get(at) {
                // The empty topic does not exist, so it is no counterexample.
                None if !empty && states & (1 << own.len()) == 0 => return false,
                None => {}
                Some(&MANY) => {
                    visit((at + 1, states, empty));
                    for symbol in &alphabet {
                        visit((at, step(own, states, *symbol), false));
                    }
                }
                Some(&ONE) => {
                    for symbol in &alphabet {
                        visit((at + 1, step(own, states, *symbol), false));
                    }
                }
                Some(&literal) => visit((at + 1, step(own, states, Some(literal)), false)),
            }
        }
        true
    }
}

impl From<Topic> for Pattern {
    fn from(topic: Topic) -> Self {
        Self(topic.0)
    }
}

/// Whether `topic` matches `pattern`. Most do not, and differ before the first wildcard or behind the last: what both
/// begin and end with holds none, since topics have none, and is compared as bytes.
fn matches(pattern: &str, topic: &str) -> bool {
    if pattern.starts_with('$') != topic.starts_with('$') {
        return false;
    }
    let (own, others) = (pattern.as_bytes(), topic.as_bytes());
    let same = own.iter().zip(others).take_while(|(a, b)| a == b).count();
    match &own[same..] {
        [] => same == others.len(),
        // A wildcard is a whole segment, so both are at the beginning of one.
        [b'*', ..] => ends_fit(&own[same..], &others[same..]),
        // `**` takes no segment either: `a.**` is `a` too.
        [b'.', b'*', b'*', ..] if same == others.len() => only_many(&own[same + 1..]),
        _ => false,
    }
}

/// Whether a pattern matches a topic that has no segments left.
fn only_many(pattern: &[u8]) -> bool {
    pattern.split(|byte| *byte == b'.').all(|segment| segment == MANY.as_bytes())
}

/// For a pattern that begins with a wildcard.
fn ends_fit(pattern: &[u8], topic: &[u8]) -> bool {
    let same = pattern.iter().rev().zip(topic.iter().rev()).take_while(|(a, b)| a == b).count();
    let fit = same == topic.len() || pattern[..pattern.len() - same].ends_with(ONE.as_bytes());
    fit && (pattern == MANY.as_bytes() || matches_segments(pattern, topic))
}

fn matches_segments(pattern: &[u8], topic: &[u8]) -> bool {
    let (one, many) = (ONE.as_bytes(), MANY.as_bytes());
    let mut pattern = pattern.split(|byte| *byte == b'.');
    let mut rest = topic.split(|byte| *byte == b'.');
    let mut retry = None;
    loop {
        let before = pattern.clone();
        match pattern.next() {
            Some(segment) if segment == many => {
                retry = Some((before, rest.clone()));
                continue;
            }
            Some(wanted) if rest.next().is_some_and(|segment| wanted == one || wanted == segment) => continue,
            Some(_) => {}
            None if rest.next().is_none() => return true,
            None => {}
        }
        // Let the latest `**` take one segment more and try again from there.
        let Some((before, mut from)) = retry.take() else { return false };
        if from.next().is_none() {
            return false;
        }
        rest = from.clone();
        pattern = before.clone();
        pattern.next();
        retry = Some((before, from));
    }
}

/// Most segments of a pattern: those that count against the limit, and twice what leads to dead letters.
const SEGMENTS: usize = limits::TOPIC_SEGMENTS + 2 * limits::DLQ_LEVELS;

/// The segments of a pattern, without a heap: a policy has many patterns.
struct Segments<'a>([&'a str; SEGMENTS], usize);

impl<'a> Segments<'a> {
    fn of(pattern: &'a Pattern) -> Self {
        Self([""; SEGMENTS], 0).and(pattern)
    }

    /// With the segments before them that lead to the dead letters of its topics' dead letters.
    fn of_dead_letters(pattern: &'a Pattern) -> Self {
        let mut own = Self([""; SEGMENTS], limits::DLQ_LEVELS);
        own.0[..limits::DLQ_LEVELS].fill("dlq");
        own.and(pattern)
    }

    fn and(mut self, pattern: &'a Pattern) -> Self {
        for segment in pattern.0.split('.') {
            self.0[self.1] = segment;
            self.1 += 1;
        }
        self
    }
}

impl<'a> std::ops::Deref for Segments<'a> {
    type Target = [&'a str];

    fn deref(&self) -> &[&'a str] {
        &self.0[..self.1]
    }
}

/// Whether two patterns differ before either has a wildcard, and so in every topic.
fn differ(a: &[&str], b: &[&str]) -> bool {
    let mut pairs = a.iter().zip(b).take_while(|(x, y)| !is_wildcard(x) && !is_wildcard(y));
    pairs.any(|(x, y)| x != y)
}

/// Whether two patterns have a topic in common.
fn meet(a: &[&str], b: &[&str]) -> bool {
    if differ(a, b) {
        return false;
    }
    // `row[j]`: a[i..] and b[j..] have a topic (or the empty rest) in common; `below` is the same for i + 1.
    let mut below = [false; SEGMENTS + 1];
    for i in (0..=a.len()).rev() {
        let mut row = [false; SEGMENTS + 1];
        for j in (0..=b.len()).rev() {
            row[j] = match (a.get(i), b.get(j)) {
                (None, None) => true,
                (Some(&MANY), _) if below[j] => true,
                (_, Some(&MANY)) if row[j + 1] => true,
                // A `**` takes whatever the other side's next segment is and stays.
                (Some(&MANY), Some(_)) => row[j + 1],
                (Some(_), Some(&MANY)) => below[j],
                (Some(&x), Some(&y)) => (x == ONE || y == ONE || x == y) && below[j + 1],
                (Some(_), None) | (None, Some(_)) => false,
            };
        }
        below = row;
    }
    below[0]
}

fn is_wildcard(segment: &str) -> bool {
    segment == ONE || segment == MANY
}

/// The states reachable from `states` without a segment: a `**` may be skipped. Bit `i` is "before segment `i`".
fn closure(pattern: &[&str], mut states: u32) -> u32 {
    for (i, segment) in pattern.iter().enumerate() {
        if *segment == MANY && states & (1 << i) != 0 {
            states |= 1 << (i + 1);
        }
    }
    states
}

/// The states after one segment; `None` is a segment the pattern does not name.
fn step(pattern: &[&str], states: u32, symbol: Option<&str>) -> u32 {
    let mut next = 0;
    for (i, segment) in pattern.iter().enumerate() {
        if states & (1 << i) != 0 {
            match *segment {
                MANY => next |= 1 << i,
                ONE => next |= 1 << (i + 1),
                literal if symbol == Some(literal) => next |= 1 << (i + 1),
                _ => {}
            }
        }
    }
    closure(pattern, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    // What matches, covers and intersects is in `tests/vectors/patterns.json`.

    #[test]
    fn the_costliest_cover_is_bounded() {
        let hard = pattern(&format!("**.a{}", ".*".repeat(14)));
        assert!(!hard.covers(&pattern("**")));
        assert!(pattern("**").covers(&hard));
        assert!(hard.covers(&hard));
    }
}
