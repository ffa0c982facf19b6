//! Tokens: HS256 JWTs, or one static token for trying things.

mod provider;

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use prom_protocol::{ErrorCode, Policy, RawValue, Refusal, limits};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// Clock difference tolerated between the issuer and the hub, in seconds.
const LEEWAY_SECS: u64 = 5;
/// Longest token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;

/// Shortest JWT secret outside dev mode, in bytes: RFC 7518 section 3.2 asks for the size of the hash.
pub const SECRET_BYTES: usize = 32;

/// How tokens are checked.
#[derive(Clone)]
pub enum Auth {
    /// HS256 JWTs.
    Hs256 {
        /// The secret tokens are signed with.
        secret: String,
        /// The secret before a rotation, still accepted.
        previous: Option<String>,
        /// Required `aud`.
        audience: Option<String>,
        /// Required `iss`.
        issuer: Option<String>,
    },
    /// One token that may do everything, for trying things.
    Static(String),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hs256 { .. } => "HS256",
            Self::Static(_) => "static token",
        })
    }
}

/// What a token stands for.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// Who may do what.
    pub policy: Policy,
    /// Milliseconds since the Unix epoch; none for a token that does not expire.
    pub expires_at_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Claims {
    /// Seconds since the Unix epoch. Required, and checked to be there with the signature.
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    policy: Option<Box<RawValue>>,
    #[serde(default)]
    scopes: Option<Vec<String>>,
    #[serde(default)]
    scope: Option<String>,
}

/// Checks tokens as configured. The algorithm is pinned, so neither `none` nor a confusion of key types gets through.
pub(crate) struct Verifier {
    keys: Vec<DecodingKey>,
    validation: Validation,
    static_token: Option<String>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier for a checked configuration.
    pub(crate) fn new(auth: &Auth) -> Self {
        provider::install();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECS;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp"]);
        validation.validate_aud = false;
        let mut keys = Vec::new();
        let mut static_token = None;
        match auth {
            Auth::Static(token) => static_token = Some(token.clone()),
            Auth::Hs256 { secret, previous, audience, issuer } => {
                keys.extend(
                    [Some(secret), previous.as_ref()]
                        .into_iter()
                        .flatten()
                        .map(|s| DecodingKey::from_secret(s.as_bytes())),
                );
                if let Some(audience) = audience {
                    validation.validate_aud = true;
                    validation.set_audience(&[audience]);
                }
                if let Some(issuer) = issuer {
                    validation.set_issuer(&[issuer]);
                }
                let required: Vec<&str> =
                    [Some("exp"), audience.as_ref().map(|_| "aud"), issuer.as_ref().map(|_| "iss")]
                        .into_iter()
                        .flatten()
                        .collect();
                validation.set_required_spec_claims(&required);
            }
        }
        Self { keys, validation, static_token }
    }

    /// What `token` stands for.
    ///
    /// # Errors
    /// `no_token`, `token_expired` or `jwt_invalid`.
    pub(crate) fn verify(&self, token: &str) -> Result<Access, Refusal> {
        if token.is_empty() {
            return Err(Refusal::new(ErrorCode::NoToken, "token is required"));
        }
        if token.len() > MAX_TOKEN {
            return Err(Refusal::new(ErrorCode::JwtInvalid, format!("token is longer than {MAX_TOKEN} bytes")));
        }
        if let Some(expected) = &self.static_token {
            return if token.as_bytes().ct_eq(expected.as_bytes()).into() {
                Ok(Access { policy: Policy::open(), expires_at_ms: None })
            } else {
                Err(Refusal::new(ErrorCode::JwtInvalid, "token is not the hub's WS_TOKEN"))
            };
        }
        let mut last = Refusal::new(ErrorCode::JwtInvalid, "no key is configured");
        for key in &self.keys {
            match jsonwebtoken::decode::<Claims>(token, key, &self.validation) {
                Ok(decoded) => return access(&decoded.claims),
                Err(error) => {
                    let wrong_key = matches!(error.kind(), ErrorKind::InvalidSignature);
                    last = refusal(&error);
                    if !wrong_key {
                        break;
                    }
                }
            }
        }
        Err(last)
    }
}

fn access(claims: &Claims) -> Result<Access, Refusal> {
    let exp = claims.exp.ok_or_else(|| Refusal::new(ErrorCode::JwtInvalid, "the token lacks the claim exp"))?;
    let policy = match (&claims.policy, &claims.scopes, &claims.scope) {
        (Some(policy), ..) => {
            Policy::from_claim(policy.get()).map_err(|error| Refusal::new(ErrorCode::JwtInvalid, error.to_string()))?
        }
        (None, Some(scopes), _) => Policy::from_scopes(scopes.iter().map(String::as_str)),
        (None, None, Some(scope)) => Policy::from_scope_claim(scope.split_ascii_whitespace()),
        (None, None, None) => Policy::default(),
    };
    // The cast saturates, so an `exp` beyond all time is just far away: as far as the protocol can say.
    let expires_at_ms = (exp * 1000.0) as u64;
    Ok(Access { policy, expires_at_ms: Some(expires_at_ms.saturating_add(LEEWAY_SECS * 1000).min(limits::TS_MAX)) })
}

fn refusal(error: &jsonwebtoken::errors::Error) -> Refusal {
    let (code, message) = match error.kind() {
        ErrorKind::ExpiredSignature => (ErrorCode::TokenExpired, "the token's exp has passed".to_owned()),
        ErrorKind::InvalidSignature => (ErrorCode::JwtInvalid, "the token's signature does not match".into()),
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            (ErrorCode::JwtInvalid, "the token must be signed with HS256".into())
        }
        ErrorKind::MissingRequiredClaim(claim) => (ErrorCode::JwtInvalid, format!("the token lacks the claim {claim}")),
        ErrorKind::InvalidAudience => (ErrorCode::JwtInvalid, "the token's aud is not this hub's".into()),
        ErrorKind::InvalidIssuer => (ErrorCode::JwtInvalid, "the token's iss is not accepted here".into()),
        ErrorKind::ImmatureSignature => (ErrorCode::JwtInvalid, "the token's nbf is in the future".into()),
        ErrorKind::InvalidToken => (ErrorCode::JwtInvalid, "the token is not a JWT".into()),
        // Its header is read first: an algorithm this library does not know, `none` for one, ends here.
        _ => (ErrorCode::JwtInvalid, "the token is malformed or not signed with HS256".into()),
    };
    Refusal::new(code, message)
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
    use prom_protocol::{Action, Topic, TopicOrPattern};
    use serde_json::json;

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "another-secret-of-thirty-two-bytes!!";

    fn auth() -> Auth {
        Auth::Hs256 { secret: SECRET.into(), previous: None, audience: None, issuer: None }
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
        let verifier = Verifier::new(&auth());
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
    fn a_token_that_expires_beyond_all_time_expires_as_late_as_can_be_said() {
        let access = Verifier::new(&auth()).verify(&token(Algorithm::HS256, SECRET, &json!({"exp": 9e15}))).unwrap();
        assert_eq!(access.expires_at_ms, Some(limits::TS_MAX));
    }

    #[test]
    fn refuses_what_is_forged_expired_or_incomplete() {
        let verifier = Verifier::new(&auth());
        let past = prom_store::wall_clock() / 1000 - 6;
        assert_eq!(code(&verifier, ""), ErrorCode::NoToken);
        assert_eq!(code(&verifier, "x"), ErrorCode::JwtInvalid);
        assert_eq!(code(&verifier, &"x".repeat(20_000)), ErrorCode::JwtInvalid);
        assert_eq!(code(&verifier, &token(Algorithm::HS256, OTHER, &json!({"exp": later()}))), ErrorCode::JwtInvalid);
        assert_eq!(code(&verifier, &token(Algorithm::HS512, SECRET, &json!({"exp": later()}))), ErrorCode::JwtInvalid);
        assert_eq!(code(&verifier, &token(Algorithm::HS256, SECRET, &json!({"exp": past}))), ErrorCode::TokenExpired);
        assert_eq!(code(&verifier, &token(Algorithm::HS256, SECRET, &json!({"scopes": []}))), ErrorCode::JwtInvalid);
        assert_eq!(code(&verifier, &token(Algorithm::HS256, SECRET, &json!({"exp": "soon"}))), ErrorCode::JwtInvalid);
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
        let verifier = Verifier::new(&Auth::Hs256 {
            secret: SECRET.into(),
            previous: Some(OTHER.into()),
            audience: Some("hub".into()),
            issuer: Some("us".into()),
        });
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
        let verifier = Verifier::new(&Auth::Static("let-me-in".into()));
        assert!(verifier.verify("let-me-in").is_ok_and(|access| access.expires_at_ms.is_none()));
        assert_eq!(code(&verifier, "let-me-i"), ErrorCode::JwtInvalid);
        assert_eq!(code(&verifier, "let-me-im"), ErrorCode::JwtInvalid);
    }
    /// What a token may do, by the files that authors of other clients and fakes use.
    #[test]
    fn claims_allow_what_the_vectors_say() {
        let verifier = Verifier::new(&auth());
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
