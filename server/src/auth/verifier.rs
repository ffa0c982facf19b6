//! Checks tokens as configured.
//!
//! The algorithm decides which key a token is held against, and the configuration decides which algorithms there are: a
//! secret verifies HS256 and nothing else, a key set's key what it is for and nothing else. So neither `none` nor a public
//! key used as a secret gets through. What a header says beside `alg` and `kid` (`jku`, `x5u`, `jwk`) is not read.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::BoxFuture;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use prom_protocol::{ErrorCode, Policy};
use prom_store::wall_clock;
use serde::Deserialize;
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use super::{
    Access, Auth,
    claims::{self, Member, Rules},
    fetch::Place,
    key_set::{self, Find, Keys},
    provider,
    refused::{RefusalLog, Refused},
    revocations::Revocations,
    source::{KeySetFigures, Source, Wanted},
};
/// Longest token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;

/// Checks tokens. Clones share all they know.
#[derive(Clone)]
pub(crate) struct Verifier(Arc<Inner>);

struct Inner {
    way: Way,
    revocations: Revocations,
    log: RefusalLog,
    hasher: RandomState,
}

enum Way {
    /// One token that may do everything.
    Static(String),
    Jwt(Jwts),
}

struct Jwts {
    secrets: Vec<DecodingKey>,
    sources: Vec<Arc<Source>>,
    rules: Rules,
    /// The algorithms, for people.
    takes: &'static str,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secrets, sources) = match &self.0.way {
            Way::Static(_) => (0, &[][..]),
            Way::Jwt(jwts) => (jwts.secrets.len(), &*jwts.sources),
        };
        f.debug_struct("Verifier").field("secrets", &secrets).field("sources", &sources).finish_non_exhaustive()
    }
}

/// What a token came to.
pub(crate) enum Check {
    /// This, without a wait.
    Done(Result<Access, Refused>),
    /// It is known when a key set has been read: in a few seconds at most.
    Later(BoxFuture<'static, Result<Access, Refused>>),
}

impl Check {
    /// Waits if it must.
    pub(crate) async fn done(self) -> Result<Access, Refused> {
        match self {
            Self::Done(result) => result,
            Self::Later(result) => result.await,
        }
    }
}

/// Why there is no access.
enum Stop {
    Refused(Refused),
    /// Not before this read of a key set.
    Read(Arc<Source>, u64),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl Verifier {
    /// A verifier for a configuration that was checked: a key set whose URL is none would be left out.
    pub(crate) fn new(auth: &Auth, revocations: Revocations) -> Self {
        provider::install();
        let way = match auth {
            Auth::Static(token) => Way::Static(token.clone()),
            Auth::Jwt(jwt) => {
                let secrets = [&jwt.secret, &jwt.previous].into_iter().flatten();
                let places = jwt.key_sets.iter().filter_map(|url| Place::parse(url).ok());
                let source = |(at, place)| Arc::new(Source::new(place, jwt.issuers.get(at).cloned()));
                Way::Jwt(Jwts {
                    secrets: secrets.map(|secret| DecodingKey::from_secret(secret.as_bytes())).collect(),
                    sources: places.enumerate().map(source).collect(),
                    rules: Rules {
                        audience: jwt.audience.clone(),
                        issuers: jwt.issuers.clone(),
                        max_lifetime: jwt.max_lifetime,
                    },
                    takes: match (jwt.secret.is_some(), jwt.key_sets.is_empty()) {
                        (true, false) => "HS256, RS256, PS256, ES256 or EdDSA",
                        (false, false) => "RS256, PS256, ES256 or EdDSA",
                        (_, true) => "HS256",
                    },
                })
            }
        };
        Self(Arc::new(Inner { way, revocations, log: RefusalLog::default(), hasher: RandomState::new() }))
    }

    fn sources(&self) -> &[Arc<Source>] {
        match &self.0.way {
            Way::Static(_) => &[],
            Way::Jwt(jwts) => &jwts.sources,
        }
    }

    /// What keeps the key sets fresh: to be run until the hub ends.
    pub(crate) fn refreshers(&self, ending: &CancellationToken) -> Vec<impl Future<Output = ()> + Send + use<>> {
        self.sources().iter().map(|source| Arc::clone(source).run(ending.clone())).collect()
    }

    /// What `token` stands for.
    ///
    /// # Errors
    /// `no_token`, `jwt_invalid`; `overloaded` while a key set cannot be read.
    pub(crate) fn check(&self, token: &str) -> Check {
        let (source, read) = match self.0.access(token, true) {
            Ok(access) => return Check::Done(Ok(access)),
            Err(Stop::Refused(refused)) => return Check::Done(Err(refused)),
            Err(Stop::Read(source, read)) => (source, read),
        };
        let (inner, token) = (Arc::clone(&self.0), token.to_owned());
        Check::Later(Box::pin(async move {
            source.wait(read).await;
            inner.access(&token, false).map_err(|stop| match stop {
                Stop::Refused(refused) => refused,
                // It took longer than anybody can wait.
                Stop::Read(..) => Refused::unchecked(std::time::Duration::from_secs(1)),
            })
        }))
    }

    /// The same, where no key set can have to be read.
    #[cfg(test)]
    pub(super) fn verify(&self, token: &str) -> Result<Access, Refused> {
        match self.check(token) {
            Check::Done(result) => result,
            Check::Later(_) => panic!("there are key sets"),
        }
    }

    /// What is revoked.
    pub(crate) fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    /// Says in the log that a token was refused, with others that were if there are many.
    pub(crate) fn log(&self, by: &'static str, refused: &Refused) {
        self.0.log.refused(by, refused);
    }

    /// Why tokens cannot be checked; none: they can.
    pub(crate) fn not_ready(&self) -> Option<String> {
        self.sources().iter().find_map(|source| source.not_ready())
    }

    /// What is known of the key sets, one after another.
    pub(crate) fn key_sets(&self) -> Vec<KeySetFigures> {
        self.sources().iter().map(|source| source.figures()).collect()
    }
}

impl Inner {
    /// `may_ask`: a key that is not there may have its set read.
    fn access(&self, token: &str, may_ask: bool) -> Result<Access, Stop> {
        if token.is_empty() {
            return Err(Refused::new(ErrorCode::NoToken, "missing token").into());
        }
        if token.len() > MAX_TOKEN {
            return Err(Refused::invalid(format!("token is longer than {MAX_TOKEN} bytes")).into());
        }
        match &self.way {
            Way::Static(expected) if token.as_bytes().ct_eq(expected.as_bytes()).into() => {
                Ok(Access::unlimited(Policy::open()))
            }
            Way::Static(_) => Err(Refused::invalid("token is not the hub's WS_TOKEN").into()),
            Way::Jwt(jwts) => {
                let parsed = Token::parse(token)?;
                jwts.check_signature(&parsed, may_ask)?;
                let access = claims::access(&parsed.payload, &jwts.rules, wall_clock())?;
                self.revocations.check(&access)?;
                let holder = match &access.sub {
                    Some(sub) => self.hasher.hash_one((&access.iss, sub)),
                    None => self.hasher.hash_one(token),
                };
                Ok(Access { holder, ..access })
            }
        }
    }
}

impl Jwts {
    fn check_signature(&self, token: &Token<'_>, may_ask: bool) -> Result<(), Stop> {
        let wrong = || Refused::invalid("the token's signature does not match").into();
        if token.algorithm == "HS256" && !self.secrets.is_empty() {
            let signed = self.secrets.iter().any(|secret| token.is_signed_with(secret, Algorithm::HS256));
            return if signed { Ok(()) } else { Err(wrong()) };
        }
        let algorithm = key_set::algorithm(&token.algorithm).filter(|_| !self.sources.is_empty());
        let Some(algorithm) = algorithm else {
            let own: String = token.algorithm.chars().take(16).collect();
            return Err(Refused::invalid(format!("the token must be signed with {}, not {own:?}", self.takes)).into());
        };
        let source = self.source(token)?;
        let keys = source.keys();
        let found = keys.as_deref().map_or(Find::Unknown, |keys: &Keys| keys.find(token.kid.as_deref(), algorithm));
        let why = match found {
            Find::Key(key) if token.is_signed_with(key, algorithm) => return Ok(()),
            Find::Key(_) if token.kid.is_some() => return Err(wrong()),
            Find::Unfit => {
                return Err(Refused::invalid("the key that the token's kid names is not for its algorithm").into());
            }
            // A token that names no key may be signed with one that came since the set was read.
            Find::Key(_) => "the token's signature does not match",
            Find::Unnamed => "the token names no key (kid), and not exactly one of the key set fits",
            Find::Unknown => "the key set has no key of the token's kid",
        };
        match if may_ask { source.wanted() } else { source.settled() } {
            Wanted::Read(read) => Err(Stop::Read(Arc::clone(source), read)),
            Wanted::Settled => Err(Refused::invalid(why).into()),
            Wanted::Unavailable(wait) => Err(Refused::unchecked(wait).into()),
        }
    }

    /// Whose key set the token is held against: that of its issuer. It is not verified yet, but no other issuer's key can
    /// make it true.
    fn source(&self, token: &Token<'_>) -> Result<&Arc<Source>, Refused> {
        let issuer = claims::issuer(&token.payload)?;
        let own = |source: &&Arc<Source>| source.issuer.is_none() || source.issuer == issuer;
        self.sources.iter().find(own).ok_or_else(|| {
            let message =
                if issuer.is_some() { "the token's iss is not accepted here" } else { "the token lacks the claim iss" };
            Refused::invalid(message)
        })
    }
}

/// A JWT in its compact form, nothing of it verified.
struct Token<'a> {
    algorithm: String,
    kid: Option<String>,
    /// What is signed.
    message: &'a str,
    payload: Vec<u8>,
    signature: &'a str,
}

impl<'a> Token<'a> {
    fn parse(token: &'a str) -> Result<Self, Refused> {
        #[derive(Deserialize)]
        struct Header<'a> {
            #[serde(borrow, default)]
            alg: Member<'a>,
            #[serde(borrow, default)]
            kid: Member<'a>,
            #[serde(borrow, default)]
            crit: Member<'a>,
        }

        let none = || Refused::invalid("the token is not a JWT: three parts of base64url with dots between them");
        let (message, signature) = token.rsplit_once('.').ok_or_else(none)?;
        let (header, payload) = message.split_once('.').ok_or_else(none)?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| none());
        let (header, payload) = (decoded(header)?, decoded(payload)?);
        let header: Header<'_> = claims::object(&header, "the fields of the token's header")?;
        if header.crit.0.is_some() {
            return Err(Refused::invalid("the token's header has crit: it asks for what this hub does not know"));
        }
        let algorithm = header.alg.name("alg")?.ok_or_else(|| Refused::invalid("the token's header lacks alg"))?;
        Ok(Self { algorithm, kid: header.kid.name("kid")?, message, payload, signature })
    }

    fn is_signed_with(&self, key: &DecodingKey, algorithm: Algorithm) -> bool {
        crypto::verify(self.signature, self.message.as_bytes(), key, algorithm).unwrap_or(false)
    }
}
