//! Which tokens are revoked: the entries, as people write them, and the set that tokens are held against.

use std::collections::HashMap;

use prom_protocol::limits;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Access, LEEWAY, LIFETIME_LIMIT, claims::NAME_BYTES, refused::Refused};

/// Most entries of a set.
pub const MAX_REVOCATIONS: usize = 100_000;
/// Largest time, in seconds since 1970. Milliseconds are far beyond it.
const SECONDS_MAX: u64 = limits::TS_MAX / 1000;

/// Some tokens that count no more: those for which all that it says holds. A line of the file is one, as JSON:
/// `{"sub":"worker-7","iss":"https://login.example.com/"}`, `{"jti":"a1b2"}`, `{"issued_before":1790000000}`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Whose, 1 to 512 bytes. Alone: all of theirs, those made later too. Not beside `jti`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Which one, 1 to 512 bytes.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Made before then (`iat`), in seconds since 1970; a token that does not say when counts as made in 1970. Not beside
    /// `jti`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<u64>,
    /// By whom, 1 to 512 bytes; none: by anybody. Not alone.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// When it was revoked, in seconds since 1970. The entry ends when no token of then can be left: [`LIFETIME_LIMIT`] later,
    /// and some seconds. Without it one of a `sub` or a `jti` stays for ever.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

/// `null` is not the same as absent: with less said, an entry would hit more.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Revocation {
    /// Reads one from its JSON.
    ///
    /// # Errors
    /// What is wrong with it, naming the field.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        // A derived struct reads an array too, by position.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err("it must be a JSON object".into());
        }
        let own: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        own.check()?;
        Ok(own)
    }

    /// Refuses what could be meant in two ways, or hits nothing.
    ///
    /// # Errors
    /// What is wrong with it, naming the field.
    pub fn check(&self) -> Result<(), String> {
        match (&self.sub, &self.jti, &self.issued_before) {
            (None, None, None) => return Err("it needs sub, jti or issued_before".into()),
            (Some(_), Some(_), _) => return Err("sub and jti exclude each other; a jti names one token".into()),
            (_, Some(_), Some(_)) => return Err("jti and issued_before exclude each other".into()),
            _ => {}
        }
        for (field, text) in [("sub", &self.sub), ("jti", &self.jti), ("iss", &self.iss)] {
            if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > NAME_BYTES) {
                return Err(format!("{field} must be 1 to {NAME_BYTES} bytes"));
            }
        }
        for (field, time) in [("issued_before", self.issued_before), ("at", self.at)] {
            if time.is_some_and(|time| time > SECONDS_MAX) {
                return Err(format!("{field} must be at most {SECONDS_MAX}; it counts seconds since 1970"));
            }
        }
        Ok(())
    }

    /// When no token that it hits can be left, in milliseconds since 1970. The same whatever lifetime is configured: a token
    /// may be from a time when that was longer, and who writes the file does not know what the hub has.
    pub(super) fn ends_ms(&self) -> u64 {
        // Whoever was still given tokens after `at` is hit too, as long as the entry stands.
        let left = (LIFETIME_LIMIT + LEEWAY + LEEWAY).as_millis() as u64;
        self.at.max(self.issued_before).map_or(u64::MAX, |last| last.saturating_mul(1000).saturating_add(left))
    }

    /// What it hits: the same for two entries that hit the same tokens.
    pub(super) fn hits(&self) -> Hits<'_> {
        (self.sub.as_deref(), self.jti.as_deref(), self.iss.as_deref(), self.issued_before)
    }
}

/// `sub`, `jti`, `iss` and `issued_before` of an entry.
pub(super) type Hits<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>, Option<u64>);

#[derive(Debug, PartialEq, Eq, Hash)]
enum Of {
    All,
    Sub(String),
    Jti(String),
}

/// What is revoked of one of them.
#[derive(Debug, Default)]
struct Cut {
    /// Everything, until then; 0: not everything.
    all_until_ms: u64,
    /// What was made before then.
    before_ms: u64,
    /// And that until then.
    before_until_ms: u64,
}

impl Cut {
    fn hits(&self, iat_ms: u64, now_ms: u64) -> bool {
        now_ms < self.all_until_ms || iat_ms < self.before_ms && now_ms < self.before_until_ms
    }
}

/// All that is revoked. A token costs the same few look-ups however many entries there are.
#[derive(Debug, Default)]
pub(crate) struct Set {
    /// By issuer, if it matters, and what of it.
    cuts: HashMap<(Option<String>, Of), Cut>,
    entries: Vec<Revocation>,
}

impl Set {
    /// The set of these entries.
    pub(super) fn new(entries: Vec<Revocation>) -> Self {
        let mut cuts: HashMap<_, Cut> = HashMap::with_capacity(entries.len());
        for entry in &entries {
            let of = match (&entry.sub, &entry.jti) {
                (Some(sub), _) => Of::Sub(sub.clone()),
                (None, Some(jti)) => Of::Jti(jti.clone()),
                (None, None) => Of::All,
            };
            let cut = cuts.entry((entry.iss.clone(), of)).or_default();
            let ends = entry.ends_ms();
            match entry.issued_before {
                None => cut.all_until_ms = cut.all_until_ms.max(ends),
                Some(before) => {
                    cut.before_ms = cut.before_ms.max(before.saturating_mul(1000));
                    cut.before_until_ms = cut.before_until_ms.max(ends);
                }
            }
        }
        Self { cuts, entries }
    }

    /// The entries, as they stand in the file.
    pub(crate) fn entries(&self) -> &[Revocation] {
        &self.entries
    }

    /// Refuses a token that is revoked.
    pub(super) fn check(&self, access: &Access, now_ms: u64) -> Result<(), Refused> {
        if self.cuts.is_empty() {
            return Ok(());
        }
        let iat_ms = access.iat_ms.unwrap_or(0);
        let named = [access.sub.clone().map(Of::Sub), access.jti.clone().map(Of::Jti)];
        for of in named.into_iter().flatten().chain([Of::All]) {
            let mut key = (None, of);
            let hits = |key: &_| self.cuts.get(key).is_some_and(|cut| cut.hits(iat_ms, now_ms));
            let mut hit = hits(&key);
            if !hit && access.iss.is_some() {
                key.0.clone_from(&access.iss);
                hit = hits(&key);
            }
            if hit {
                let what = match key.1 {
                    Of::Sub(_) if access.iat_ms.is_none() => "the token was revoked, with others of its sub",
                    Of::Sub(_) => "the token was revoked, with its sub",
                    Of::Jti(_) => "the token was revoked, by its jti",
                    Of::All => "the token was revoked, with all that were made before a time (iat)",
                };
                return Err(Refused::invalid(what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prom_protocol::Policy;

    use super::*;

    fn set(lines: &[&str]) -> Set {
        Set::new(lines.iter().map(|line| Revocation::parse(line.as_bytes()).unwrap()).collect())
    }

    fn access(iss: &str, sub: &str, jti: &str, iat: Option<u64>) -> Access {
        let name = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let iat_ms = iat.map(|iat| iat * 1000);
        Access { iss: name(iss), sub: name(sub), jti: name(jti), iat_ms, ..Access::unlimited(Policy::default()) }
    }

    #[test]
    fn an_entry_hits_what_it_says_and_nothing_else() {
        let at = |sub: &str| access("i", sub, "j", Some(500));
        for (line, hit, missed) in [
            (r#"{"sub":"a"}"#, at("a"), at("b")),
            (r#"{"sub":"a"}"#, access("", "a", "", None), access("a", "", "a", None)),
            (r#"{"sub":"a","iss":"i"}"#, at("a"), access("other", "a", "j", Some(500))),
            (r#"{"sub":"a","iss":"i"}"#, at("a"), access("", "a", "j", Some(500))),
            (r#"{"jti":"j"}"#, at("a"), access("i", "j", "k", Some(500))),
            (r#"{"jti":"j","iss":"i"}"#, at("a"), access("k", "a", "j", Some(500))),
            (r#"{"issued_before":501}"#, at("a"), access("i", "a", "j", Some(501))),
            (r#"{"issued_before":1}"#, access("", "", "", None), at("a")),
            (r#"{"issued_before":501,"iss":"i"}"#, at("a"), access("k", "a", "j", Some(500))),
            (r#"{"issued_before":501,"sub":"a"}"#, at("a"), at("b")),
            (r#"{"issued_before":501,"sub":"a"}"#, at("a"), access("i", "a", "j", Some(501))),
        ] {
            let set = set(&[r#"{"jti":"of nobody"}"#, line]);
            let refused = set.check(&hit, 600_000).expect_err(line);
            assert!(refused.message().contains("revoked") && !refused.expired, "{refused}");
            assert!(set.check(&missed, 600_000).is_ok(), "{line}");
        }
    }

    #[test]
    fn an_entry_ends_when_no_token_of_then_can_be_left() {
        let one = access("", "a", "j", Some(99));
        let over = (100 + 1000 * 24 * 3600 + 10) * 1000;
        for line in [r#"{"sub":"a","at":100}"#, r#"{"jti":"j","at":100}"#, r#"{"issued_before":100}"#] {
            assert!(set(&[line]).check(&one, over - 1).is_err(), "{line}");
            assert!(set(&[line]).check(&one, over).is_ok(), "{line}");
        }
        assert!(set(&[r#"{"sub":"a"}"#]).check(&one, over * 1000).is_err(), "nobody said since when");
        // One that stands longer does not lengthen another.
        let both = set(&[r#"{"sub":"a","at":100}"#, r#"{"sub":"a","issued_before":50,"at":900}"#]);
        assert!(both.check(&one, over).is_ok());
    }

    #[test]
    fn an_entry_that_could_be_misread_is_refused_by_its_field() {
        let long = format!(r#"{{"sub":"{}"}}"#, "x".repeat(513));
        for (line, words) in [
            ("{}", "sub, jti or issued_before"),
            (r#"{"iss":"a"}"#, "sub, jti or issued_before"),
            (r#"{"sub":"a","jti":"b"}"#, "exclude"),
            (r#"{"jti":"a","issued_before":1}"#, "exclude"),
            (r#"{"sub":"","issued_before":1}"#, "sub must be 1 to 512 bytes"),
            (&long, "sub must be 1 to 512 bytes"),
            (r#"{"sub":null,"issued_before":1}"#, "null"),
            (r#"{"subject":"a"}"#, "unknown field `subject`"),
            (r#"{"sub":"a","sub":"b"}"#, "duplicate field `sub`"),
            (r#"{"issued_before":"2026"}"#, "invalid type"),
            (r#"{"issued_before":1790000000000000}"#, "issued_before must be at most"),
            (r#"["a"]"#, "a JSON object"),
            (r#"{"sub":"a"} {"sub":"b"}"#, "trailing"),
        ] {
            let said = Revocation::parse(line.as_bytes()).expect_err(line);
            assert!(said.contains(words), "{line}: {said}");
        }
    }
}
