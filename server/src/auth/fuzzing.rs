//! What `fuzz/targets` asks of this folder.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};

use super::{
    Auth,
    key_set::{Find, Keys},
    provider,
    revocations::Revocations,
    verifier::{Check, Verifier},
};

/// What a token came to.
#[derive(Debug)]
pub struct Accepted {
    /// Who may do what.
    pub policy: prom_protocol::Policy,
    /// Milliseconds since the Unix epoch; none: it does not expire.
    pub expires_at_ms: Option<u64>,
    /// `iss`.
    pub iss: Option<String>,
    /// `sub`.
    pub sub: Option<String>,
}

/// Checks tokens as a hub does.
#[derive(Debug)]
pub struct Tokens(Verifier);

impl Tokens {
    /// A checker of tokens. With key sets a token may have to wait for one, which [`Self::check`] cannot.
    pub fn new(auth: &Auth) -> Self {
        Self(Verifier::new(auth, Revocations::none()))
    }

    /// Checks one.
    ///
    /// # Errors
    /// Why it is refused: the code, and the message.
    pub fn check(&self, token: &str) -> Result<Accepted, (prom_protocol::ErrorCode, String)> {
        match self.0.check(token) {
            Check::Done(Ok(access)) => Ok(Accepted {
                policy: access.policy,
                expires_at_ms: access.expires_at_ms,
                iss: access.iss,
                sub: access.sub,
            }),
            Check::Done(Err(refused)) => Err((refused.code(), refused.message().to_owned())),
            Check::Later(_) => Err((prom_protocol::ErrorCode::Overloaded, "there are key sets".into())),
        }
    }
}

/// A token of this header and these claims, whatever they are, signed with HS256; empty where that fails.
pub fn signed(header: &[u8], claims: &[u8], secret: &str) -> String {
    provider::install();
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap_or_default();
    format!("{message}.{signature}")
}

/// Reads a key set: how many of its keys can be used, and what is said of others.
///
/// Each of them is also asked to verify what nobody signed, because a key that is none shows only then. Those that verify it
/// are counted too.
///
/// # Errors
/// It is no key set, or has no key that can be used.
pub fn key_set(body: &[u8], kid: Option<&str>) -> Result<(usize, usize, Vec<String>), String> {
    provider::install();
    let (keys, odd) = Keys::parse(body)?;
    let mut verified = 0;
    for algorithm in [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA] {
        for kid in [None, kid] {
            if let Find::Key(key) = keys.find(kid, algorithm) {
                for bytes in [0, 32, 64, 256] {
                    let signature = URL_SAFE_NO_PAD.encode(vec![1; bytes]);
                    verified += usize::from(crypto::verify(&signature, b"a.b", key, algorithm).unwrap_or(false));
                }
            }
        }
    }
    Ok((keys.len(), verified, odd))
}
