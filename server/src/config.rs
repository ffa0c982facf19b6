//! The configuration of a hub. Reading it from the environment is the binary's work; checking it is done here.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use prom_store::Retention;
use prom_store_embedded as embedded;
#[cfg(feature = "mongodb")]
use prom_store_mongo as mongo;

#[cfg(feature = "mongodb")]
use crate::members::mongo_outbox::OutboxName;
use crate::{
    auth::{self, Auth, Jwt, LIFETIME_LIMIT, SECRET_BYTES, STATIC_TOKEN_BYTES},
    node::Limits,
    web::{Page, Tls},
};

/// Shortest token for the ops port, in bytes: it has no name and no end, so it must not be guessed.
pub const OPS_TOKEN_BYTES: usize = 16;

/// Where events are kept.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// In memory, this many bytes of them; nothing survives the process.
    Memory(usize),
    /// On this machine's disk, in this folder.
    Embedded(PathBuf, embedded::Options),
    /// In a MongoDB replica set, whose outboxes of these names the hub drains.
    #[cfg(feature = "mongodb")]
    Mongo(mongo::Options, Vec<OutboxName>),
}

impl StoreConfig {
    /// What is kept for how long.
    pub(crate) fn retention(&self) -> Retention {
        match self {
            Self::Memory(_) => Retention::default(),
            Self::Embedded(_, options) => options.retention.clone(),
            #[cfg(feature = "mongodb")]
            Self::Mongo(options, _) => options.retention.clone(),
        }
    }
}

#[cfg(feature = "mongodb")]
impl StoreConfig {
    /// In a MongoDB replica set, with the outbox that is drained by default: `outbox` in the hub's own database.
    pub fn mongo(options: mongo::Options) -> Self {
        Self::Mongo(options, OutboxName::new("outbox").into_iter().collect())
    }
}

/// The configuration of a hub.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to listen on; default 127.0.0.1.
    pub bind: IpAddr,
    /// Port; 0 takes a free one. Default 8090.
    pub port: u16,
    /// Port of the operators' pages; 0 takes a free one. Default: none.
    pub ops_port: Option<u16>,
    /// Address it is on; default 127.0.0.1. On one that other machines can reach, every request but those for health
    /// needs a token with `ops:read`, or `ops_token`.
    pub ops_bind: IpAddr,
    /// A token that may do everything on the ops port, at least [`OPS_TOKEN_BYTES`] long; with it, it is asked for on
    /// loopback too. Default: none.
    pub ops_token: Option<String>,
    /// The ops port asks for a token on loopback too; default: only for payloads.
    pub ops_auth: bool,
    /// TLS of the port; default: none, and then only loopback, or `allow_plaintext`.
    pub tls: Option<Tls>,
    /// TLS of the operators' pages; default: none, with the same limits.
    pub ops_tls: Option<Tls>,
    /// Authorities, PEM: with `ops_tls`, who connects to the operators' pages needs a certificate that one of them signed,
    /// beside the token that is asked for all the same. Default: no certificate is asked for.
    pub ops_client_ca: Option<PathBuf>,
    /// How tokens are checked.
    pub auth: Auth,
    /// File of revoked tokens, which is looked at twice a second and must be there; default: none, and nothing can be revoked.
    pub revocations_file: Option<PathBuf>,
    /// Origins of pages that may connect; none: any.
    pub origins: Option<Vec<String>>,
    /// Listening on other than loopback without TLS of the hub's own is intended.
    pub allow_plaintext: bool,
    /// Where events are kept; default: in memory, 512 MiB of them.
    pub store: StoreConfig,
    /// A group goes that has had no members for so long. Default: never. Not with MongoDB, where no hub knows of the members on
    /// others.
    pub expire_groups: Option<Duration>,
    /// What connections and requests may take.
    pub limits: Limits,
    /// The live page, served at `/`; default: none.
    pub page: Option<Page>,
}

/// Why a hub refuses its configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The secret is too short.
    #[error("JWT_SECRET is {0} bytes long; HS256 needs at least {SECRET_BYTES} (try: openssl rand -hex 32)")]
    ShortSecret(usize),
    /// The static token is too short.
    #[error("WS_TOKEN is {0} bytes long; it needs at least {STATIC_TOKEN_BYTES}")]
    ShortToken(usize),
    /// Nothing to check tokens with.
    #[error("there is neither a secret (JWT_SECRET) nor a key set (JWT_JWKS_URL) to check tokens with")]
    NoKeys,
    /// A previous secret without a present one.
    #[error("JWT_SECRET_PREVIOUS is set without JWT_SECRET")]
    PreviousAlone,
    /// The URL of a key set is refused.
    #[error("JWT_JWKS_URL {0:?} {1}")]
    KeySet(String, &'static str),
    /// Several key sets need to know whose each is.
    #[error("{key_sets} JWT_JWKS_URL with {issuers} JWT_ISS: several key sets need the issuer of each, in their order")]
    Issuers {
        /// How many key sets there are.
        key_sets: usize,
        /// And issuers.
        issuers: usize,
    },
    /// An issuer is named twice, or nothing.
    #[error("JWT_ISS names {0:?} twice or is empty; every key set is that of another issuer")]
    Issuer(String),
    /// The required audience is empty.
    #[error("JWT_AUD is empty; unset it to take tokens for any audience")]
    EmptyAudience,
    /// No token could be accepted, or one that outlives its revocation.
    #[error("JWT_MAX_LIFETIME must be 1s to 1000d; what was revoked is kept for so long")]
    Lifetime,
    /// Groups cannot expire where no hub knows of all members.
    #[error("groups.expire is not for MongoDB: no hub knows of the members on other hubs; use `prom group delete`")]
    ExpireGroups,
    /// The one token has no claims to revoke it by.
    #[error("REVOCATIONS_FILE and WS_TOKEN are both set; the static token is revoked by changing it")]
    StaticRevocations,
    /// The operators' token is too short.
    #[error("OPS_TOKEN is {0} bytes long; it needs at least {OPS_TOKEN_BYTES} (try: openssl rand -hex 32)")]
    ShortOpsToken(usize),
    /// The ops port asks for tokens that nobody can have.
    #[error("the ops port needs a token here, and with WS_TOKEN there are none with ops:read; set OPS_TOKEN")]
    NoOpsToken,
    /// The ops port is not on loopback, and there is no TLS.
    #[error(
        "OPS_BIND {0} is reachable from other machines and tokens would travel unencrypted; set OPS_TLS_CERT_FILE and OPS_TLS_KEY_FILE, or put TLS in front and pass --allow-plaintext"
    )]
    OpsPlaintext(IpAddr),
    /// Not loopback, and no TLS.
    #[error(
        "BIND {0} is reachable from other machines and tokens would travel unencrypted; set TLS_CERT_FILE and TLS_KEY_FILE, or put TLS in front and pass --allow-plaintext"
    )]
    Plaintext(IpAddr),
    /// Certificates cannot be asked for without TLS.
    #[error("OPS_TLS_CLIENT_CA_FILE is set without OPS_TLS_CERT_FILE and OPS_TLS_KEY_FILE")]
    ClientCaAlone,
}

impl Config {
    /// A configuration with everything at its default.
    pub fn new(auth: Auth) -> Self {
        Self {
            bind: IpAddr::from([127, 0, 0, 1]),
            port: 8090,
            ops_port: None,
            ops_bind: IpAddr::from([127, 0, 0, 1]),
            ops_token: None,
            ops_auth: false,
            tls: None,
            ops_tls: None,
            ops_client_ca: None,
            auth,
            revocations_file: None,
            origins: None,
            allow_plaintext: false,
            store: StoreConfig::Memory(512 * 1024 * 1024),
            expire_groups: None,
            limits: Limits::default(),
            page: None,
        }
    }

    /// Refuses what must not run.
    ///
    /// # Errors
    /// What must be changed, in words for people.
    pub fn check(&self) -> Result<(), ConfigError> {
        match &self.auth {
            Auth::Jwt(jwt) => check_jwt(jwt)?,
            Auth::Static(token) if token.len() < STATIC_TOKEN_BYTES => {
                return Err(ConfigError::ShortToken(token.len()));
            }
            Auth::Static(_) if self.revocations_file.is_some() => return Err(ConfigError::StaticRevocations),
            Auth::Static(_) => {}
        }
        if !self.bind.is_loopback() && self.tls.is_none() && !self.allow_plaintext {
            return Err(ConfigError::Plaintext(self.bind));
        }
        #[cfg(feature = "mongodb")]
        if self.expire_groups.is_some() && matches!(self.store, StoreConfig::Mongo(..)) {
            return Err(ConfigError::ExpireGroups);
        }
        self.check_ops()
    }

    fn check_ops(&self) -> Result<(), ConfigError> {
        match &self.ops_token {
            Some(token) if token.len() < OPS_TOKEN_BYTES => return Err(ConfigError::ShortOpsToken(token.len())),
            None if matches!(self.auth, Auth::Static(_)) && (self.ops_auth || !self.ops_bind.is_loopback()) => {
                return Err(ConfigError::NoOpsToken);
            }
            _ => {}
        }
        if self.ops_client_ca.is_some() && self.ops_tls.is_none() {
            return Err(ConfigError::ClientCaAlone);
        }
        if !self.ops_bind.is_loopback() && self.ops_tls.is_none() && !self.allow_plaintext {
            return Err(ConfigError::OpsPlaintext(self.ops_bind));
        }
        Ok(())
    }
}

fn check_jwt(jwt: &Jwt) -> Result<(), ConfigError> {
    let Jwt { secret, previous, key_sets, issuers, audience, max_lifetime } = jwt;
    match (secret, previous) {
        (None, None) if key_sets.is_empty() => return Err(ConfigError::NoKeys),
        (None, Some(_)) => return Err(ConfigError::PreviousAlone),
        _ => {}
    }
    for secret in [secret, previous].into_iter().flatten() {
        if secret.len() < SECRET_BYTES {
            return Err(ConfigError::ShortSecret(secret.len()));
        }
    }
    for url in key_sets {
        auth::check_key_set(url).map_err(|why| ConfigError::KeySet(url.clone(), why))?;
    }
    // Which issuer one key set is for may be left open.
    let fits = match key_sets.len() {
        0 => true,
        1 => issuers.len() <= 1,
        several => issuers.len() == several,
    };
    if !fits {
        return Err(ConfigError::Issuers { key_sets: key_sets.len(), issuers: issuers.len() });
    }
    for (at, issuer) in issuers.iter().enumerate() {
        if issuer.is_empty() || issuers[..at].contains(issuer) {
            return Err(ConfigError::Issuer(issuer.clone()));
        }
    }
    if audience.as_ref().is_some_and(String::is_empty) {
        return Err(ConfigError::EmptyAudience);
    }
    if max_lifetime.as_secs() == 0 || *max_lifetime > LIFETIME_LIMIT {
        return Err(ConfigError::Lifetime);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_must_not_run() {
        assert_eq!(Config::new(Auth::hs256("short")).check(), Err(ConfigError::ShortSecret(5)));
        assert_eq!(Config::new(Auth::Static("12345".into())).check(), Err(ConfigError::ShortToken(5)));
        let mut open = Config::new(Auth::hs256("s".repeat(32)));
        assert_eq!(open.check(), Ok(()));
        open.bind = IpAddr::from([0, 0, 0, 0]);
        assert!(matches!(open.check(), Err(ConfigError::Plaintext(_))));
        open.allow_plaintext = true;
        assert_eq!(open.check(), Ok(()));
    }

    #[test]
    fn a_port_with_tls_needs_no_leave_to_be_reachable_and_one_without_still_does() {
        let everywhere = IpAddr::from([0, 0, 0, 0]);
        let tls = || Some(Tls { cert: "cert.pem".into(), key: "key.pem".into() });
        let mut both = Config::new(Auth::hs256("s".repeat(32)));
        (both.bind, both.ops_bind) = (everywhere, everywhere);
        both.tls = tls();
        assert_eq!(both.check(), Err(ConfigError::OpsPlaintext(everywhere)), "each port has its own");
        both.ops_tls = tls();
        assert_eq!(both.check(), Ok(()));
        both.tls = None;
        assert_eq!(both.check(), Err(ConfigError::Plaintext(everywhere)));
        both.allow_plaintext = true;
        (both.ops_tls, both.ops_client_ca) = (None, Some("ca.pem".into()));
        assert_eq!(both.check(), Err(ConfigError::ClientCaAlone));
    }

    #[test]
    fn refuses_a_way_to_check_tokens_that_does_not_say_what_is_meant() {
        let secret = || Some("s".repeat(32));
        let urls = |hosts: &[&str]| hosts.iter().map(|host| format!("https://{host}/keys")).collect::<Vec<_>>();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let check = |jwt: Jwt| Config::new(Auth::Jwt(jwt)).check();
        let jwt = Jwt::default;
        for good in [
            Jwt { secret: secret(), issuers: names(&["a", "b"]), ..jwt() },
            Jwt { secret: secret(), key_sets: urls(&["a"]), ..jwt() },
            Jwt { key_sets: urls(&["a"]), issuers: names(&["a"]), ..jwt() },
            Jwt { key_sets: urls(&["a", "b"]), issuers: names(&["a", "b"]), ..jwt() },
        ] {
            assert_eq!(check(good), Ok(()));
        }
        for (bad, words) in [
            (jwt(), "neither a secret"),
            (Jwt { previous: secret(), key_sets: urls(&["a"]), ..jwt() }, "JWT_SECRET_PREVIOUS is set without"),
            (Jwt { secret: secret(), previous: Some("short".into()), ..jwt() }, "JWT_SECRET is 5 bytes long"),
            (Jwt { key_sets: vec!["http://a".into()], ..jwt() }, "JWT_JWKS_URL \"http://a\" must start with https://"),
            (Jwt { key_sets: urls(&["a", "b"]), issuers: names(&["a"]), ..jwt() }, "2 JWT_JWKS_URL with 1 JWT_ISS"),
            (Jwt { key_sets: urls(&["a"]), issuers: names(&["a", "b"]), ..jwt() }, "1 JWT_JWKS_URL with 2 JWT_ISS"),
            (Jwt { key_sets: urls(&["a", "b"]), issuers: names(&["a", "a"]), ..jwt() }, "names \"a\" twice"),
            (Jwt { secret: secret(), issuers: names(&[""]), ..jwt() }, "is empty"),
            (Jwt { secret: secret(), audience: Some(String::new()), ..jwt() }, "JWT_AUD is empty"),
            (Jwt { secret: secret(), max_lifetime: std::time::Duration::ZERO, ..jwt() }, "JWT_MAX_LIFETIME"),
            (
                Jwt { secret: secret(), max_lifetime: LIFETIME_LIMIT + std::time::Duration::from_secs(1), ..jwt() },
                "JWT_MAX_LIFETIME",
            ),
        ] {
            let said = check(bad).unwrap_err().to_string();
            assert!(said.contains(words), "{said:?} does not say {words:?}");
        }
    }

    #[test]
    fn refuses_an_ops_port_that_anybody_could_use_or_nobody() {
        let config = |auth: Auth| Config { ops_port: Some(0), ..Config::new(auth) };
        let hs256 = Auth::hs256("s".repeat(32));
        let everywhere = IpAddr::from([0, 0, 0, 0]);
        let mut own = config(hs256.clone());
        own.ops_bind = everywhere;
        assert_eq!(own.check(), Err(ConfigError::OpsPlaintext(everywhere)));
        own.allow_plaintext = true;
        assert_eq!(own.check(), Ok(()), "tokens with ops:read can be made");
        own.ops_token = Some("short".into());
        assert_eq!(own.check(), Err(ConfigError::ShortOpsToken(5)));
        let mut one = config(Auth::Static("w".repeat(32)));
        assert_eq!(one.check(), Ok(()));
        one.ops_auth = true;
        assert_eq!(one.check(), Err(ConfigError::NoOpsToken));
        one.ops_token = Some("t".repeat(OPS_TOKEN_BYTES));
        assert_eq!(one.check(), Ok(()));
        one.ops_token = None;
        (one.ops_auth, one.ops_bind, one.allow_plaintext) = (false, everywhere, true);
        assert_eq!(one.check(), Err(ConfigError::NoOpsToken));
    }
}
