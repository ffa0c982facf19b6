//! Validated names: topics, groups, and patterns over topics.
//!
//! ```text
//!   topic    process.state            1..=16 segments of [A-Za-z0-9_-]+, at most 255 bytes
//!   pattern  process.*   logs.**      a topic whose segments may be `*` (exactly one) or `**` (zero or more)
//!   group    billing                  1..=128 visible ASCII characters
//! ```
//!
//! A topic whose first segment starts with `$` is the hub's own; only a pattern that spells that segment out matches
//! it. Leading `dlq` segments, which the hub adds for dead letters, do not count against the limits.

mod pattern;

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits;
pub use pattern::Pattern;

/// Why a topic, pattern or group name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The topic is empty.
    #[error("topic is empty")]
    Empty,
    /// The topic is too long.
    #[error("topic is longer than {} bytes", limits::TOPIC_BYTES)]
    TooLong,
    /// The topic has too many segments.
    #[error("topic has more than {} segments", limits::TOPIC_SEGMENTS)]
    TooManySegments,
    /// Two dots in a row, or a dot at an end.
    #[error("topic has an empty segment")]
    EmptySegment,
    /// A character outside `[A-Za-z0-9_-]`.
    #[error("topic may hold only A-Z a-z 0-9 _ - and dots between segments")]
    BadCharacter,
    /// A wildcard where a topic was expected, or one that is not a whole segment.
    #[error("a wildcard is `*` or `**`, stands alone in its segment, and only where a pattern is allowed")]
    BadWildcard,
    /// A `$` that is not the first character.
    #[error("`$` may stand only at the start of a topic")]
    MisplacedDollar,
    /// The group name is empty, too long, or holds a character that is not visible ASCII.
    #[error(
        "group must be 1 to {} visible ASCII characters without quotes, backslashes or a leading `$`",
        limits::GROUP_BYTES
    )]
    BadGroup,
}

/// Length of the leading `dlq.` segments that do not count against the limits.
const fn dlq_prefix(name: &[u8]) -> usize {
    let mut at = 0;
    let mut level = 0;
    while level < limits::DLQ_LEVELS
        && name.len() > at + 4
        && name[at] == b'd'
        && name[at + 1] == b'l'
        && name[at + 2] == b'q'
        && name[at + 3] == b'.'
    {
        at += 4;
        level += 1;
    }
    at
}

/// Checks a topic, or a pattern when `wildcards` is set. `const`, so that `policy!` refuses a bad pattern at compile time.
pub(crate) const fn validate(name: &str, wildcards: bool) -> Result<(), NameError> {
    let name = name.as_bytes();
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    let skipped = dlq_prefix(name);
    if name.len() - skipped > limits::TOPIC_BYTES {
        return Err(NameError::TooLong);
    }
    let mut at = skipped;
    let mut segments = 0;
    let mut length = 0;
    let mut stars = 0;
    loop {
        let end = at == name.len();
        if end || name[at] == b'.' {
            if length == 0 {
                return Err(NameError::EmptySegment);
            }
            if stars > 0 && (stars != length || stars > 2 || !wildcards) {
                return Err(NameError::BadWildcard);
            }
            segments += 1;
            if segments > limits::TOPIC_SEGMENTS {
                return Err(NameError::TooManySegments);
            }
            if end {
                return Ok(());
            }
            length = 0;
            stars = 0;
        } else {
            match name[at] {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => {}
                b'*' => stars += 1,
                b'$' if at == 0 => {
                    if name.len() == 1 || name[1] == b'.' {
                        return Err(NameError::EmptySegment);
                    }
                }
                b'$' => return Err(NameError::MisplacedDollar),
                _ => return Err(NameError::BadCharacter),
            }
            length += 1;
        }
        at += 1;
    }
}

/// The name of one log of events, for instance `process.state`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The topic of a name that stands in the code.
    ///
    /// # Panics
    /// If `name` is not well formed.
    #[track_caller]
    pub fn from_static(name: &'static str) -> Self {
        match Self::new(name) {
            Ok(topic) => topic,
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// A topic, if `name` is well formed.
    ///
    /// # Errors
    /// [`NameError`], which says what is wrong with it.
    pub fn new(name: &str) -> Result<Self, NameError> {
        validate(name, false)?;
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether only the hub itself may publish here.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }

    /// Whether dead letters stand here: `dlq.<topic>`. Only the hub itself publishes them.
    pub fn is_dead_letters(&self) -> bool {
        dlq_prefix(self.0.as_bytes()) > 0
    }

    /// Where this topic's dead letters go: `dlq.<topic>`. `None` at the last level, where events are retried without end.
    pub fn dead_letter(&self) -> Option<Self> {
        if dlq_prefix(self.0.as_bytes()) == 4 * limits::DLQ_LEVELS || self.is_reserved() {
            return None;
        }
        let name: Arc<str> = format!("dlq.{}", self.0).into();
        validate(&name, false).is_ok().then_some(Self(name))
    }
}

/// A durable consumer's name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(Arc<str>);

impl Group {
    /// The group of a name that stands in the code, the hub's own included.
    ///
    /// # Panics
    /// If `name` is not well formed.
    #[track_caller]
    pub fn from_static(name: &'static str) -> Self {
        match Self::stored(name) {
            Ok(group) => group,
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// A group that a client may join, if `name` is well formed. A leading `$` is kept for the hub's own groups.
    ///
    /// # Errors
    /// [`NameError::BadGroup`], which names the rule.
    pub fn new(name: &str) -> Result<Self, NameError> {
        Self::stored(name).and_then(|group| if group.is_reserved() { Err(NameError::BadGroup) } else { Ok(group) })
    }

    /// A group as it stands in a store, or is asked for by an operator: a client's, or the hub's own with a leading `$`.
    ///
    /// # Errors
    /// [`NameError::BadGroup`], which names the rule.
    pub fn stored(name: &str) -> Result<Self, NameError> {
        let visible = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        let bare = name.strip_prefix('$').unwrap_or(name);
        if bare.is_empty() || bare.starts_with('$') || name.len() > limits::GROUP_BYTES || !name.bytes().all(visible) {
            return Err(NameError::BadGroup);
        }
        Ok(Self(name.into()))
    }

    /// Whether only the hub itself is a member.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }

    /// The name of an ephemeral subscription's group: `$live-<n>`. Unique per connection only.
    pub fn generated(n: u64) -> Self {
        Self(format!("$live-{n}").into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a SUBSCRIBE names: one topic, or a pattern over topics.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TopicOrPattern {
    /// Exactly this topic.
    Topic(Topic),
    /// Every topic that matches, also those that come later.
    Pattern(Pattern),
}

impl TopicOrPattern {
    /// A pattern when `name` has a wildcard, else a topic.
    ///
    /// # Errors
    /// [`NameError`], which says what is wrong with it.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.contains('*') { Pattern::new(name).map(Self::Pattern) } else { Topic::new(name).map(Self::Topic) }
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Topic(topic) => topic.as_str(),
            Self::Pattern(pattern) => pattern.as_str(),
        }
    }

    /// Whether `topic` is this topic, or matches this pattern.
    pub fn matches(&self, topic: &Topic) -> bool {
        match self {
            Self::Topic(own) => own == topic,
            Self::Pattern(pattern) => pattern.matches(topic),
        }
    }
}

impl fmt::Display for TopicOrPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! name_impls {
    ($($name:ident)+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = crate::Text::deserialize(deserializer)?;
                Self::new(&name).map_err(de::Error::custom)
            }
        }
    )+};
}

name_impls!(Topic Group Pattern);

#[cfg(test)]
mod tests {
    use super::*;

    // Which names are valid, and why others are not, is in `tests/vectors/names.json`.

    #[test]
    fn dead_letters_of_the_longest_topic_have_a_topic() {
        let longest = Topic::new(&"x".repeat(255)).unwrap();
        let dead = longest.dead_letter().unwrap();
        let dead_dead = dead.dead_letter().unwrap();
        assert!(Topic::new(dead_dead.as_str()).is_ok());
        assert_eq!(dead_dead.dead_letter(), None);
        assert_eq!(Topic::new("$audit").unwrap().dead_letter(), None);
        assert_eq!(Topic::new("dlq").unwrap().dead_letter().unwrap().as_str(), "dlq.dlq");
        assert!(dead.is_dead_letters() && dead_dead.is_dead_letters() && !longest.is_dead_letters());
        assert!(!Topic::new("dlq").unwrap().is_dead_letters());
    }

    #[test]
    fn the_hubs_groups_are_for_stores_and_operators_not_for_clients() {
        assert_eq!(Group::new("$mine"), Err(NameError::BadGroup));
        assert!(Group::stored("$mine").is_ok_and(|group| group.is_reserved()));
        assert!(Group::stored("mine").is_ok_and(|group| !group.is_reserved()));
        for bad in ["", "$", "$$mine", "$a b", "a\"", &"g".repeat(limits::GROUP_BYTES + 1)] {
            assert_eq!(Group::stored(bad), Err(NameError::BadGroup), "{bad}");
        }
    }
}
