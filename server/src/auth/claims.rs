//! What a token's claims say: until when, for whom, and what it may do.
//!
//! Every claim that is looked at is looked at strictly: one of the wrong type is named, and none is passed over because it
//! could not be read.

use std::time::Duration;

use prom_protocol::{Policy, RawValue, check_subject, limits};
use serde::{Deserialize, Deserializer};

use super::{Access, LEEWAY, refused::Refused};

/// Longest `sub`, `jti` and `iss`, in bytes. Who published stands in every event.
pub(super) const NAME_BYTES: usize = limits::SUBJECT_BYTES;

/// What a hub asks of claims.
#[derive(Debug)]
pub(super) struct Rules {
    /// Required `aud`.
    pub(super) audience: Option<String>,
    /// `iss` must be one of these; none: any.
    pub(super) issuers: Vec<String>,
    /// `exp` may be so far away.
    pub(super) max_lifetime: Duration,
}

/// A member of a JSON object: its text, also where that is `null`; none where it is absent.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Member<'a>(pub(super) Option<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Member<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|text| Self(Some(text)))
    }
}

impl<'a> Member<'a> {
    /// A string of 1 to [`NAME_BYTES`] bytes.
    pub(super) fn name(self, claim: &str) -> Result<Option<String>, Refused> {
        let Some(raw) = self.0 else { return Ok(None) };
        let Ok(text) = serde_json::from_str::<String>(raw.get()) else {
            return Err(Refused::invalid(format!("{claim} must be a string")));
        };
        if text.is_empty() || text.len() > NAME_BYTES {
            return Err(Refused::invalid(format!("{claim} must be 1 to {NAME_BYTES} bytes")));
        }
        Ok(Some(text))
    }

    /// What an event can hold as who published it.
    fn subject(self, claim: &str) -> Result<Option<String>, Refused> {
        let subject = self.name(claim)?;
        if let Some(subject) = &subject {
            check_subject(claim, subject).map_err(|refusal| Refused::invalid(refusal.message()))?;
        }
        Ok(subject)
    }

    /// A string, or a list of strings.
    fn strings(self, claim: &str) -> Result<Option<Strings>, Refused> {
        let Some(raw) = self.0 else { return Ok(None) };
        if let Ok(one) = serde_json::from_str(raw.get()) {
            return Ok(Some(Strings::One(one)));
        }
        match serde_json::from_str(raw.get()) {
            Ok(list) => Ok(Some(Strings::List(list))),
            Err(_) => Err(Refused::invalid(format!("{claim} must be a string or a list of strings"))),
        }
    }

    /// Seconds since the Unix epoch, as milliseconds.
    fn time_ms(self, claim: &str) -> Result<Option<u64>, Refused> {
        const SECONDS_MAX: u64 = limits::TS_MAX / 1000;
        let Some(raw) = self.0 else { return Ok(None) };
        // What is written like a number is one, also where no f64 is so large: 1e999 is infinite here.
        let number = raw.get().starts_with(|c: char| c == '-' || c.is_ascii_digit());
        let Some(seconds) = number.then(|| raw.get().parse::<f64>().ok()).flatten() else {
            return Err(Refused::invalid(format!("{claim} must be a number")));
        };
        if !(0.0..=SECONDS_MAX as f64).contains(&seconds) {
            let hint = "seconds since 1970-01-01";
            return Err(Refused::invalid(format!("{claim} must be a number from 0 to {SECONDS_MAX}, {hint}")));
        }
        Ok(Some((seconds * 1000.0) as u64))
    }
}

enum Strings {
    One(String),
    List(Vec<String>),
}

impl Strings {
    fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::One(own) => own == wanted,
            Self::List(list) => list.iter().any(|own| own == wanted),
        }
    }

    /// The scopes in it: one string has several, separated by spaces.
    fn scopes(&self) -> Vec<&str> {
        match self {
            Self::One(own) => own.split_ascii_whitespace().collect(),
            Self::List(list) => list.iter().map(String::as_str).collect(),
        }
    }
}

#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow, default)]
    exp: Member<'a>,
    #[serde(borrow, default)]
    nbf: Member<'a>,
    #[serde(borrow, default)]
    iat: Member<'a>,
    #[serde(borrow, default)]
    iss: Member<'a>,
    #[serde(borrow, default)]
    aud: Member<'a>,
    #[serde(borrow, default)]
    sub: Member<'a>,
    #[serde(borrow, default)]
    jti: Member<'a>,
    #[serde(borrow, default)]
    policy: Member<'a>,
    #[serde(borrow, default)]
    scopes: Member<'a>,
    #[serde(borrow, default)]
    scope: Member<'a>,
}

/// Reads a JSON object. `what` names it in the refusal.
pub(super) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, Refused> {
    // A derived struct reads an array too, by position.
    if bytes.trim_ascii_start().first() == Some(&b'{')
        // Also where nobody looks: what is no text is no JSON (RFC 7519, section 7.2).
        && let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(object) = serde_json::from_str(text)
    {
        return Ok(object);
    }
    Err(Refused::invalid(format!("{what} are not a JSON object with each name once")))
}

fn parse(payload: &[u8]) -> Result<Claims<'_>, Refused> {
    object(payload, "the token's claims")
}

/// The `iss` of claims that are not verified yet: whose key to verify them with.
pub(super) fn issuer(payload: &[u8]) -> Result<Option<String>, Refused> {
    parse(payload)?.iss.name("iss")
}

/// What verified claims stand for, at this time.
pub(super) fn access(payload: &[u8], rules: &Rules, now_ms: u64) -> Result<Access, Refused> {
    let claims = parse(payload)?;
    let exp = claims.exp.time_ms("exp")?.ok_or_else(|| lacks("exp"))?;
    if exp <= now_ms {
        let ago = (now_ms - exp) / 1000;
        return Err(Refused::expired(format!("the token has expired: its exp was {ago} s ago")));
    }
    let latest = now_ms.saturating_add(u64::try_from(rules.max_lifetime.as_millis()).unwrap_or(u64::MAX));
    if exp > latest.saturating_add(LEEWAY.as_millis() as u64) {
        let days = rules.max_lifetime.as_secs_f64() / 86_400.0;
        return Err(Refused::invalid(format!(
            "exp may be at most {days} days away; it counts seconds, not milliseconds"
        )));
    }
    if claims.nbf.time_ms("nbf")?.is_some_and(|nbf| nbf > now_ms.saturating_add(LEEWAY.as_millis() as u64)) {
        return Err(Refused::invalid("the token's nbf is in the future"));
    }
    let iat_ms = claims.iat.time_ms("iat")?;
    let iss = claims.iss.name("iss")?;
    if !rules.issuers.is_empty() {
        let iss = iss.as_ref().ok_or_else(|| lacks("iss"))?;
        if !rules.issuers.contains(iss) {
            return Err(Refused::invalid("the token's iss is not accepted here"));
        }
    }
    let aud = claims.aud.strings("aud")?;
    if let Some(audience) = &rules.audience
        && !aud.ok_or_else(|| lacks("aud"))?.contains(audience)
    {
        return Err(Refused::invalid("the token's aud is not this hub's"));
    }
    let (sub, jti) = (claims.sub.subject("sub")?, claims.jti.name("jti")?);
    Ok(Access { policy: policy(&claims)?, expires_at_ms: Some(exp), iss, sub, jti, iat_ms, holder: 0 })
}

fn lacks(claim: &str) -> Refused {
    Refused::invalid(format!("the token lacks the claim {claim}"))
}

/// The policy in the first of the claims that may hold one; without any, no access.
fn policy(claims: &Claims<'_>) -> Result<Policy, Refused> {
    if let Some(policy) = claims.policy.0 {
        return Policy::from_claim(policy.get()).map_err(|error| Refused::invalid(error.to_string()));
    }
    if let Some(scopes) = claims.scopes.strings("scopes")? {
        return Ok(Policy::from_scopes(scopes.scopes()));
    }
    Ok(match claims.scope.strings("scope")? {
        Some(scope) => Policy::from_scope_claim(scope.scopes()),
        None => Policy::default(),
    })
}

#[cfg(test)]
mod tests {
    use prom_protocol::{ErrorCode, Topic};
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn rules() -> Rules {
        Rules { audience: None, issuers: Vec::new(), max_lifetime: Duration::from_secs(400 * 86_400) }
    }

    fn check(payload: &str, rules: &Rules) -> Result<Access, Refused> {
        access(payload.as_bytes(), rules, NOW * 1000)
    }

    /// Claims that are good but for these.
    fn with(claims: &Value) -> String {
        let mut all = json!({"exp": NOW + 60});
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        all.to_string()
    }

    fn told(payload: &str, rules: &Rules) -> String {
        let refused = check(payload, rules).expect_err(payload);
        assert_eq!(refused.code(), ErrorCode::JwtInvalid);
        refused.message().to_owned()
    }

    /// "the token is malformed or not signed with HS256" was the answer to all of these.
    #[test]
    fn a_claim_of_the_wrong_type_is_named() {
        for (claims, message) in [
            (json!({"exp": "1795000000"}), "exp must be a number"),
            (json!({"exp": null}), "exp must be a number"),
            (json!({"exp": true}), "exp must be a number"),
            (json!({"exp": [1]}), "exp must be a number"),
            (json!({"exp": -1}), "exp must be a number from 0 to 9007199254740, seconds since 1970-01-01"),
            (json!({"exp": u64::MAX}), "exp must be a number from 0 to 9007199254740, seconds since 1970-01-01"),
            (json!({"nbf": null}), "nbf must be a number"),
            (json!({"nbf": "now"}), "nbf must be a number"),
            (json!({"nbf": {}}), "nbf must be a number"),
            (json!({"nbf": -0.5}), "nbf must be a number from 0 to 9007199254740, seconds since 1970-01-01"),
            (json!({"nbf": NOW + 6}), "the token's nbf is in the future"),
            (json!({"iat": "now"}), "iat must be a number"),
            (json!({"iss": ["a"]}), "iss must be a string"),
            (json!({"aud": 1}), "aud must be a string or a list of strings"),
            (json!({"aud": [1]}), "aud must be a string or a list of strings"),
            (json!({"sub": 5}), "sub must be a string"),
            (json!({"sub": ""}), "sub must be 1 to 512 bytes"),
            (json!({"sub": "s".repeat(513)}), "sub must be 1 to 512 bytes"),
            (json!({"sub": "a\nb"}), "sub must not hold control characters"),
            (json!({"sub": "$a"}), "sub must not start with `$`"),
            (json!({"jti": "j".repeat(513)}), "jti must be 1 to 512 bytes"),
            (json!({"scopes": ["*:**", 5]}), "scopes must be a string or a list of strings"),
            (json!({"scopes": null}), "scopes must be a string or a list of strings"),
            (json!({"scope": {"a": 1}}), "scope must be a string or a list of strings"),
        ] {
            assert_eq!(told(&with(&claims), &rules()), message, "{claims}");
        }
        assert_eq!(told("{}", &rules()), "the token lacks the claim exp");
        for payload in
            [r#"{"exp":NaN}"#, r#"{"exp":Infinity}"#, "[1800000060]", "\"x\"", "", "{", r#"{"exp":1,"exp":2}"#]
        {
            assert_eq!(told(payload, &rules()), "the token's claims are not a JSON object with each name once");
        }
        // Also in a claim that nobody looks at.
        let no_text = access(b"{\"exp\":1800000060,\"x\":\"\xff\"}", &rules(), NOW * 1000).unwrap_err();
        assert_eq!(no_text.message(), "the token's claims are not a JSON object with each name once");
        assert_eq!(
            told(r#"{"exp":1e999}"#, &rules()),
            "exp must be a number from 0 to 9007199254740, seconds since 1970-01-01"
        );
    }

    #[test]
    fn scopes_are_a_list_or_a_string_in_either_claim() {
        let topic = Topic::new("a").unwrap();
        for claims in [
            json!({"scope": ["openid", "publish:a"]}),
            json!({"scope": "openid publish:a"}),
            json!({"scopes": ["openid", "publish:a"]}),
            json!({"scopes": "openid publish:a"}),
            json!({"scopes": "publish:a", "scope": 5}),
            json!({"policy": {"rules": [{"effect": "allow", "action": "publish", "topics": ["a"]}]}, "scopes": 5}),
        ] {
            assert!(check(&with(&claims), &rules()).unwrap().policy.may_publish(&topic), "{claims}");
        }
        assert!(!check(&with(&json!({})), &rules()).unwrap().policy.may_publish(&topic), "no claim, no access");
    }

    #[test]
    fn exp_is_the_end_and_not_too_far_away() {
        let at = |exp: Value| check(&json!({"exp": exp}).to_string(), &rules());
        let expired = at(json!(NOW)).unwrap_err();
        assert!(expired.expired && expired.message().starts_with("the token has expired"), "{expired}");
        assert_eq!(at(json!(NOW as f64 + 0.5)).unwrap().expires_at_ms, Some(NOW * 1000 + 500));
        assert!(at(json!(NOW + 400 * 86_400)).is_ok());
        let far = at(json!((NOW + 60) * 1000)).unwrap_err();
        assert_eq!(far.message(), "exp may be at most 400 days away; it counts seconds, not milliseconds");
        assert!(!far.expired);
    }

    #[test]
    fn audience_and_issuer_are_asked_for_where_they_are_configured() {
        let own = Rules { audience: Some("hub".into()), issuers: vec!["us".into(), "them".into()], ..rules() };
        for good in [json!({"aud": "hub", "iss": "us"}), json!({"aud": ["x", "hub"], "iss": "them"})] {
            assert!(check(&with(&good), &own).is_ok(), "{good}");
        }
        for (claims, message) in [
            (json!({"iss": "us"}), "the token lacks the claim aud"),
            (json!({"aud": [], "iss": "us"}), "the token's aud is not this hub's"),
            (json!({"aud": "x", "iss": "us"}), "the token's aud is not this hub's"),
            (json!({"aud": "hub"}), "the token lacks the claim iss"),
            (json!({"aud": "hub", "iss": "else"}), "the token's iss is not accepted here"),
            (json!({"aud": "hub", "iss": ["us"]}), "iss must be a string"),
        ] {
            assert_eq!(told(&with(&claims), &own), message, "{claims}");
        }
    }

    #[test]
    fn says_who_it_is_for() {
        let access = check(&with(&json!({"sub": "s", "jti": "j", "iat": NOW - 1, "iss": "i"})), &rules()).unwrap();
        let Access { sub, jti, iat_ms, iss, .. } = access;
        assert_eq!((sub.as_deref(), jti.as_deref(), iss.as_deref()), (Some("s"), Some("j"), Some("i")));
        assert_eq!(iat_ms, Some((NOW - 1) * 1000));
    }
}
