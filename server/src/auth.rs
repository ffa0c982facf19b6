//! Tokens: JWTs, by a secret or by the key sets of identity providers, or one static token for trying things.
//!
//! ```text
//!   AUTH, Authorization: Bearer ──► Verifier::check ──► Access: a policy, until when, whose
//!                                      │  verifier.rs: the header, which key, the signature
//!                                      │  claims.rs:   what the claims say, each by its name
//!                                      │  refused.rs:  why not, and that the log says so
//!                                      ▼
//!                                   source.rs ──► fetch.rs: one key set, read by a task of its own
//!                                      └────────► key_set.rs: which of its keys
//!   provider.rs: the cryptography
//!   revocations.rs: what counts no more, kept as revocation_file.rs reads and writes it; revoked.rs: the set
//! ```

mod claims;
mod fetch;
pub(crate) mod fuzzing;
mod key_set;
mod provider;
mod refused;
mod revocation_file;
mod revocations;
mod revoked;
mod source;
mod verifier;

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use prom_protocol::Policy;
use prom_store::wall_clock;
use serde::Serialize;

pub(crate) use self::{
    refused::Refused,
    revocations::{Changes, Revocations, Told},
    source::KeySetFigures,
    verifier::{Check, Verifier},
};

pub use self::{
    fetch::is_loopback,
    revocation_file::{RevocationsError, revoke},
    revoked::{MAX_REVOCATIONS, Revocation},
};

/// Clock difference tolerated between the issuer and the hub: a token may be so young before its `nbf`, and a connection
/// that is open goes on for so long after its `exp`. A token that comes after its `exp` is refused all the same: what
/// would be left of it is too little to work with.
pub(crate) const LEEWAY: Duration = Duration::from_secs(5);

/// Shortest JWT secret outside dev mode, in bytes: RFC 7518 section 3.2 asks for the size of the hash.
pub const SECRET_BYTES: usize = 32;
/// Shortest static token, in bytes. It is for trying things, so that it may be typed; one that is guessed within a minute is
/// none.
pub const STATIC_TOKEN_BYTES: usize = 6;
/// How far away a token's `exp` may be where nothing else is said: 400 days.
pub const MAX_LIFETIME: Duration = Duration::from_secs(400 * 24 * 60 * 60);
/// The most that may be said instead: 1000 days. What was revoked is kept for so long.
pub const LIFETIME_LIMIT: Duration = Duration::from_secs(1000 * 24 * 60 * 60);

/// How tokens are checked.
#[derive(Clone)]
pub enum Auth {
    /// JWTs.
    Jwt(Jwt),
    /// One token that may do everything, for trying things: at least [`STATIC_TOKEN_BYTES`] bytes.
    Static(String),
}

/// How JWTs are checked: by a secret, by key sets, or by either, as the token's algorithm says.
#[derive(Clone)]
pub struct Jwt {
    /// The secret that HS256 tokens are signed with, at least [`SECRET_BYTES`] bytes; none: none are accepted.
    pub secret: Option<String>,
    /// The secret before a rotation, still accepted.
    pub previous: Option<String>,
    /// URLs of identity providers' key sets, for RS256, PS256, ES256 and EdDSA: `https`, or `http` on this machine.
    pub key_sets: Vec<String>,
    /// Accepted `iss`; none: any. With key sets: the issuer of each, in their order. A key counts for its issuer only.
    pub issuers: Vec<String>,
    /// Required `aud`; none: any.
    pub audience: Option<String>,
    /// How far away `exp` may be, 1 s to [`LIFETIME_LIMIT`]; default [`MAX_LIFETIME`].
    pub max_lifetime: Duration,
}

impl Default for Jwt {
    /// Accepts no token: there is neither a secret nor a key set.
    fn default() -> Self {
        Self {
            secret: None,
            previous: None,
            key_sets: Vec::new(),
            issuers: Vec::new(),
            audience: None,
            max_lifetime: MAX_LIFETIME,
        }
    }
}

impl Auth {
    /// HS256 tokens by this secret, from any issuer and for any audience.
    pub fn hs256(secret: impl Into<String>) -> Self {
        Self::Jwt(Jwt { secret: Some(secret.into()), ..Jwt::default() })
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Jwt(Jwt { secret: Some(_), key_sets, .. }) if !key_sets.is_empty() => "HS256 and key set",
            Self::Jwt(Jwt { key_sets, .. }) if !key_sets.is_empty() => "key set",
            Self::Jwt(_) => "HS256",
            Self::Static(_) => "static token",
        })
    }
}

/// What is wrong with the URL of a key set, to be read behind it; none: nothing.
pub(crate) fn check_key_set(url: &str) -> Result<(), &'static str> {
    fetch::Place::parse(url).map(|_| ())
}

/// What a token stands for.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// Who may do what.
    pub policy: Policy,
    /// The token's `exp`, in milliseconds since the Unix epoch; none for a token that does not expire.
    pub expires_at_ms: Option<u64>,
    /// `iss`: who says so.
    pub iss: Option<String>,
    /// `sub`: who it is, by that issuer's names.
    pub sub: Option<String>,
    /// `jti`: which token it is.
    pub jti: Option<String>,
    /// `iat`: when it was made, in milliseconds since the Unix epoch.
    pub iat_ms: Option<u64>,
    /// Whose share of the hub it uses: a hash of `iss` and `sub`, or of the token where it names nobody.
    pub holder: u64,
}

impl Access {
    /// For ever, for nobody in particular.
    fn unlimited(policy: Policy) -> Self {
        Self { policy, expires_at_ms: None, iss: None, sub: None, jti: None, iat_ms: None, holder: 0 }
    }

    /// When what was begun with the token ends, in milliseconds since the Unix epoch.
    pub(crate) fn ends_at_ms(&self) -> Option<u64> {
        self.expires_at_ms.map(|exp| exp.saturating_add(LEEWAY.as_millis() as u64))
    }

    /// Whether it has ended, and with it what was begun.
    pub(crate) fn has_ended(&self) -> bool {
        self.ends_at_ms().is_some_and(|end| wall_clock() >= end)
    }

    /// Whether both are the same subject's.
    pub(crate) fn is_of_the_same(&self, other: &Self) -> bool {
        (&self.iss, &self.sub) == (&other.iss, &other.sub)
    }
}

/// A token with these claims, signed as a hub verifies it: HS256, with the secret's bytes as they are.
///
/// # Errors
/// The claims are nothing that JSON can say.
pub fn sign(claims: &impl Serialize, secret: &str) -> Result<String, jsonwebtoken::errors::Error> {
    provider::install();
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use prom_protocol::{Action, ErrorCode, Topic, TopicOrPattern};
    use serde_json::json;

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "another-secret-of-thirty-two-bytes!!";

    fn auth() -> Auth {
        Auth::hs256(SECRET)
    }

    fn token(algorithm: Algorithm, secret: &str, claims: &serde_json::Value) -> String {
        provider::install();
        jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    fn later() -> u64 {
        prom_store::wall_clock() / 1000 + 60
    }

    fn code(verifier: &Verifier, token: &str) -> ErrorCode {
        verifier.verify(token).unwrap_err().code()
    }

    #[test]
    fn a_good_token_gives_its_policy() {
        let verifier = Verifier::new(&auth(), Revocations::none());
        let topic = Topic::new("heartbeat.received").unwrap();
        for claims in [
            json!({"exp": later(), "scopes": ["publish:heartbeat.*"]}),
            json!({"exp": later(), "scope": "openid publish:heartbeat.*"}),
            json!({"exp": later(), "policy": {"rules": [{"effect": "allow", "action": "publish", "topics": ["heartbeat.*"]}]}}),
        ] {
            let access = verifier.verify(&token(Algorithm::HS256, SECRET, &claims)).unwrap();
            assert!(access.policy.may_publish(&topic), "{claims}");
            assert!(!access.policy.may_read(&topic, None));
        }
        let none = verifier.verify(&token(Algorithm::HS256, SECRET, &json!({"exp": later()}))).unwrap();
        assert!(!none.policy.may_publish(&topic), "no claim, no access");
    }

    #[test]
    fn refuses_what_is_forged_expired_or_incomplete() {
        let verifier = Verifier::new(&auth(), Revocations::none());
        let past = prom_store::wall_clock() / 1000 - 1;
        assert_eq!(code(&verifier, ""), ErrorCode::NoToken);
        assert_eq!(code(&verifier, "x"), ErrorCode::JwtInvalid);
        assert_eq!(code(&verifier, &"x".repeat(20_000)), ErrorCode::JwtInvalid);
        assert_eq!(code(&verifier, &token(Algorithm::HS256, OTHER, &json!({"exp": later()}))), ErrorCode::JwtInvalid);
        assert_eq!(code(&verifier, &token(Algorithm::HS512, SECRET, &json!({"exp": later()}))), ErrorCode::JwtInvalid);
        let expired = verifier.verify(&token(Algorithm::HS256, SECRET, &json!({"exp": past}))).unwrap_err();
        assert!(expired.code() == ErrorCode::JwtInvalid && expired.expired, "{expired:?}");
        assert_eq!(code(&verifier, &token(Algorithm::HS256, SECRET, &json!({"scopes": []}))), ErrorCode::JwtInvalid);
        let unlimited = token(Algorithm::HS256, SECRET, &json!({"scopes": []}));
        assert_eq!(verifier.verify(&unlimited).unwrap_err().message(), "the token lacks the claim exp");
        let policy = json!({"exp": later(), "policy": {"rules": "all"}});
        assert_eq!(code(&verifier, &token(Algorithm::HS256, SECRET, &policy)), ErrorCode::JwtInvalid);
        // {"alg":"none","typ":"JWT"} . {"exp":9999999999,"scopes":["*:**"]} . (nothing)
        let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJleHAiOjk5OTk5OTk5OTksInNjb3BlcyI6WyIqOioqIl19.";
        assert_eq!(code(&verifier, unsigned), ErrorCode::JwtInvalid);
    }

    #[test]
    fn checks_audience_and_issuer_when_configured_and_takes_the_previous_secret() {
        let verifier = Verifier::new(
            &Auth::Jwt(Jwt {
                secret: Some(SECRET.into()),
                previous: Some(OTHER.into()),
                audience: Some("hub".into()),
                issuers: vec!["us".into()],
                ..Jwt::default()
            }),
            Revocations::none(),
        );
        let good = json!({"exp": later(), "aud": "hub", "iss": "us"});
        assert!(verifier.verify(&token(Algorithm::HS256, SECRET, &good)).is_ok());
        assert!(verifier.verify(&token(Algorithm::HS256, OTHER, &good)).is_ok());
        for claims in [
            json!({"exp": later(), "aud": "x", "iss": "us"}),
            json!({"exp": later(), "aud": "hub"}),
            json!({"exp": later(), "iss": "us"}),
        ] {
            assert_eq!(code(&verifier, &token(Algorithm::HS256, SECRET, &claims)), ErrorCode::JwtInvalid, "{claims}");
        }
    }

    #[test]
    fn a_static_token_is_compared_whole() {
        let verifier = Verifier::new(&Auth::Static("let-me-in".into()), Revocations::none());
        assert!(verifier.verify("let-me-in").is_ok_and(|access| access.expires_at_ms.is_none()));
        assert_eq!(code(&verifier, "let-me-i"), ErrorCode::JwtInvalid);
        assert_eq!(code(&verifier, "let-me-im"), ErrorCode::JwtInvalid);
    }

    /// A header with `crit` was taken whatever it asked for (RFC 7515, 4.1.11).
    #[test]
    fn a_header_that_asks_for_what_nobody_knows_is_refused() {
        let verifier = Verifier::new(&auth(), Revocations::none());
        let signed = |header: &str, payload: &str| {
            let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
            let key = EncodingKey::from_secret(SECRET.as_bytes());
            let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
            format!("{message}.{signature}")
        };
        let claims = json!({"exp": later()}).to_string();
        assert!(verifier.verify(&signed(r#"{"alg":"HS256","jku":"https://evil.example"}"#, &claims)).is_ok());
        for (header, words) in [
            (r#"{"alg":"HS256","crit":["x-must"],"x-must":1}"#, "crit"),
            (r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, "crit"),
            (r#"{"alg":"HS256","crit":[]}"#, "crit"),
            (r#"{"alg":"HS256","crit":null}"#, "crit"),
            (r#"{"alg":"HS256","alg":"HS256"}"#, "each name once"),
            (r#"["HS256"]"#, "not a JSON object"),
            ("{}", "lacks alg"),
            (r#"{"alg":5}"#, "alg must be a string"),
            (r#"{"alg":"none"}"#, "must be signed with HS256, not \"none\""),
            (r#"{"alg":"RS256"}"#, "must be signed with HS256, not \"RS256\""),
            ("{\"alg\":\"\u{202e}x\\n\"}", "not \"\\u{202e}x\\n\""),
            (r#"{"alg":"HS256","kid":["a"]}"#, "kid must be a string"),
        ] {
            let refused = verifier.verify(&signed(header, &claims)).expect_err(header);
            assert!(refused.message().contains(words), "{header}: {refused}");
        }
        for text in ["a", "a.b", ".", "..", "a.b.c.d.e", "e30.e30.!", "e30=.e30.x", "\u{e9}.\u{e9}.\u{e9}"] {
            assert_eq!(code(&verifier, text), ErrorCode::JwtInvalid, "{text}");
        }
    }

    /// What a token may do, by the files that authors of other clients and fakes use.
    #[test]
    fn claims_allow_what_the_vectors_say() {
        let verifier = Verifier::new(&auth(), Revocations::none());
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../protocol/tests/vectors/policies.json")).unwrap();
        let list = |value: &serde_json::Value| value.as_array().unwrap().clone();
        let verify = |case: &serde_json::Value| {
            let mut claims = case["claims"].clone();
            claims["exp"] = later().into();
            verifier.verify(&token(Algorithm::HS256, SECRET, &claims))
        };
        for case in list(&vectors["cases"]) {
            let policy = verify(&case).unwrap_or_else(|error| panic!("{}: {error}", case["name"])).policy;
            for ask in list(&case["asks"]) {
                let name = || ask["topic"].as_str().unwrap();
                let allowed = match ask["action"].as_str().unwrap() {
                    "publish" => policy.may_publish(&Topic::new(name()).unwrap()),
                    "read" | "subscribe" => {
                        policy.may_subscribe(&TopicOrPattern::new(name()).unwrap(), ask["group"].as_str())
                    }
                    "ops:read" => policy.may_operate(Action::OpsRead),
                    "ops:admin" => policy.may_operate(Action::OpsAdmin),
                    other => panic!("{other}"),
                };
                assert_eq!(allowed, ask["allowed"].as_bool().unwrap(), "{}: {ask}", case["name"]);
            }
        }
        for case in list(&vectors["invalid"]) {
            assert_eq!(verify(&case).unwrap_err().code().as_str(), case["error"].as_str().unwrap(), "{case}");
        }
    }
}
