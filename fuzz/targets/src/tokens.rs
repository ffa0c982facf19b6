//! Tokens: whatever their header and claims are, signed, so that they are looked at; and what is no token.

use std::{
    collections::BTreeMap,
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prom_hub::{
    Auth, Jwt,
    fuzzing::{Accepted, Tokens, signed},
};
use prom_protocol::{ErrorCode, RawValue};
use serde_json::{Map, Value};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// As long as it takes until the inputs of the corpus, whose tokens are good until 2096, are too old: a century.
const LIFETIME: Duration = Duration::from_secs(100 * 365 * 86_400);
/// What a clock may differ, in milliseconds.
const LEEWAY: f64 = 5_000.0;
/// Longest message of a refusal, in bytes.
const MESSAGE_BYTES: usize = 1024;

static STRICT: LazyLock<Tokens> = LazyLock::new(|| {
    Tokens::new(&Auth::Jwt(Jwt {
        secret: Some(SECRET.into()),
        issuers: vec!["us".into(), "them".into()],
        audience: Some("hub".into()),
        max_lifetime: LIFETIME,
        ..Jwt::default()
    }))
});
static LENIENT: LazyLock<Tokens> = LazyLock::new(|| {
    Tokens::new(&Auth::Jwt(Jwt { secret: Some(SECRET.into()), max_lifetime: LIFETIME, ..Jwt::default() }))
});

/// Two lines: a header and claims, to be signed. One line: a token as it is. One that begins with `{`: claims, under the
/// header that everybody uses.
pub fn tokens(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let (first, second) = (lines.next().unwrap_or_default(), lines.next());
    let (header, claims) = match second {
        Some(claims) => (first, claims),
        None if first.starts_with(b"{") => (&br#"{"alg":"HS256","typ":"JWT"}"#[..], first),
        None => {
            let Ok(text) = std::str::from_utf8(first) else { return };
            for tokens in [&*STRICT, &*LENIENT] {
                let refused = tokens.check(text).expect_err("nobody signed it");
                check_refusal(&refused, text.is_empty());
            }
            return;
        }
    };
    let token = signed(header, claims, SECRET);
    let strict = STRICT.check(&token);
    let lenient = LENIENT.check(&token);
    assert!(strict.is_err() || lenient.is_ok(), "who asks for more accepts no more");
    for refused in [&strict, &lenient].into_iter().filter_map(|checked| checked.as_ref().err()) {
        check_refusal(refused, false);
    }
    if let Ok(accepted) = &lenient {
        let claims = check_claims(header, claims, accepted);
        if let Ok(accepted) = &strict {
            assert!(matches!(accepted.iss.as_deref(), Some("us" | "them")), "{claims:?}");
            let audience = match claims.get("aud") {
                Some(Value::String(one)) => one == "hub",
                Some(Value::Array(list)) => list.iter().any(|one| one == "hub"),
                _ => false,
            };
            assert!(audience, "for somebody else: {claims:?}");
        }
        forged(&token);
    }
}

fn check_refusal((code, message): &(ErrorCode, String), empty: bool) {
    assert_eq!(*code, if empty { ErrorCode::NoToken } else { ErrorCode::JwtInvalid }, "{message}");
    assert!(!message.is_empty() && message.len() <= MESSAGE_BYTES, "a message of {} bytes: {message}", message.len());
}

/// These members of an object. What stands in others nobody looks at.
fn object(bytes: &[u8], names: &[&str]) -> Map<String, Value> {
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("accepted, and no object: {error}"));
    let known = members.into_iter().filter(|(name, _)| names.contains(&name.as_str()));
    known.map(|(name, raw)| (name, serde_json::from_str(raw.get()).expect("accepted, so it was read"))).collect()
}

/// What must be true of a token that is accepted, found another way.
fn check_claims(header: &[u8], claims: &[u8], accepted: &Accepted) -> Map<String, Value> {
    let header = object(header, &["alg", "kid", "crit"]);
    assert_eq!(header.get("alg"), Some(&Value::from("HS256")), "{header:?}");
    assert!(!header.contains_key("crit"), "it asks for what nobody knows: {header:?}");
    let claims = object(claims, &["exp", "nbf", "iat", "iss", "aud", "sub", "jti", "policy", "scopes", "scope"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    let ms = |name: &str| claims.get(name).map(|value| value.as_f64().unwrap_or(f64::NAN) * 1000.0);
    let exp = ms("exp").unwrap_or(f64::NAN);
    // A token may run out between the two looks at the clock.
    assert!(exp > now - 1000.0, "accepted after its time: {claims:?}");
    assert!(exp < now + LIFETIME.as_millis() as f64 + LEEWAY + 1000.0, "good for too long: {claims:?}");
    assert!(accepted.expires_at_ms.is_some_and(|own| (own as f64 - exp).abs() <= 1.0), "{accepted:?}: {claims:?}");
    if let Some(nbf) = ms("nbf") {
        assert!(nbf <= now + LEEWAY, "accepted before its time: {claims:?}");
    }
    for (name, own) in [("iss", &accepted.iss), ("sub", &accepted.sub)] {
        assert_eq!(claims.get(name).map(Value::as_str), own.as_deref().map(Some), "{name}: {claims:?}");
        assert!(own.as_ref().is_none_or(|own| (1..=512).contains(&own.len())), "{name}: {claims:?}");
    }
    if !["policy", "scopes", "scope"].iter().any(|name| claims.contains_key(*name)) {
        assert!(accepted.policy.rules.is_empty(), "rights out of nothing: {accepted:?}");
    }
    claims
}

/// No byte of what is signed can be changed.
fn forged(token: &str) {
    let end = token.rfind('.').unwrap_or_default();
    for at in [0, end / 3, end / 2, end.saturating_sub(1)] {
        let mut bytes = token.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let Ok(forged) = String::from_utf8(bytes) else { continue };
        assert!(LENIENT.check(&forged).is_err(), "forged at {at}: {forged}");
    }
    assert!(LENIENT.check(&token[..=end]).is_err(), "without a signature");
}
