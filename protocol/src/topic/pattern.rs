//! Patterns over topics: matching, coverage and intersection, all exact.

use std::{collections::HashSet, sync::Arc};

use super::{NameError, Topic, validate};

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
        if self.is_reserved() != topic.is_reserved() {
            return false;
        }
        let mut pattern = self.0.split('.');
        let mut rest = topic.as_str().split('.');
        let mut retry = None;
        loop {
            let before = pattern.clone();
            match pattern.next() {
                Some(MANY) => {
                    retry = Some((before, rest.clone()));
                    continue;
                }
                Some(wanted) if rest.next().is_some_and(|segment| wanted == ONE || wanted == segment) => continue,
                Some(_) => {}
                None if rest.next().is_none() => return true,
                None => {}
            }
            // Let the latest `**` take one segment more and try again from there.
            let Some((many, mut from)) = retry.take() else { return false };
            if from.next().is_none() {
                return false;
            }
            rest = from.clone();
            pattern = many.clone();
            pattern.next();
            retry = Some((many, from));
        }
    }

    /// Whether some topic matches both.
    pub fn intersects(&self, other: &Self) -> bool {
        if self.is_reserved() != other.is_reserved() {
            return false;
        }
        let (a, b) = (self.segments(), other.segments());
        // `meet[i][j]`: a[i..] and b[j..] have a topic (or the empty rest) in common.
        let mut meet = vec![vec![false; b.len() + 1]; a.len() + 1];
        for i in (0..=a.len()).rev() {
            for j in (0..=b.len()).rev() {
                meet[i][j] = match (a.get(i), b.get(j)) {
                    (None, None) => true,
                    (Some(&MANY), _) if meet[i + 1][j] => true,
                    (_, Some(&MANY)) if meet[i][j + 1] => true,
                    // A `**` takes whatever the other side's next segment is and stays.
                    (Some(&MANY), Some(_)) => meet[i][j + 1],
                    (Some(_), Some(&MANY)) => meet[i + 1][j],
                    (Some(&x), Some(&y)) => (x == ONE || y == ONE || x == y) && meet[i + 1][j + 1],
                    (Some(_), None) | (None, Some(_)) => false,
                };
            }
        }
        meet[0][0]
    }

    /// Whether every topic that matches `other` matches this pattern too.
    ///
    /// Walks `other` as an automaton beside the set of this pattern's states and looks for a topic that only `other`
    /// accepts. One fresh segment stands for all that this pattern does not spell out.
    pub fn covers(&self, other: &Self) -> bool {
        if self.is_reserved() != other.is_reserved() {
            return false;
        }
        let (own, others) = (self.segments(), other.segments());
        // None stands for any segment this pattern does not name.
        let mut alphabet: Vec<Option<&str>> = own.iter().filter(|s| !is_wildcard(s)).map(|s| Some(*s)).collect();
        alphabet.push(None);

        let start = (0_usize, closure(&own, 1), true);
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
                        visit((at, step(&own, states, *symbol), false));
                    }
                }
                Some(&ONE) => {
                    for symbol in &alphabet {
                        visit((at + 1, step(&own, states, *symbol), false));
                    }
                }
                Some(&literal) => visit((at + 1, step(&own, states, Some(literal)), false)),
            }
        }
        true
    }

    fn segments(&self) -> Vec<&str> {
        self.0.split('.').collect()
    }
}

impl From<Topic> for Pattern {
    fn from(topic: Topic) -> Self {
        Self(topic.0)
    }
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
