//! The configuration of a hub. Reading it from the environment is the binary's work; checking it is done here.

use std::{net::IpAddr, path::PathBuf};

use prom_store_embedded as embedded;
#[cfg(feature = "mongodb")]
use prom_store_mongo as mongo;

#[cfg(feature = "mongodb")]
use crate::members::mongo_outbox::OutboxName;
use crate::{
    auth::{Auth, SECRET_BYTES},
    node::Limits,
    web::Page,
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
    /// How tokens are checked.
    pub auth: Auth,
    /// Origins of pages that may connect; none: any.
    pub origins: Option<Vec<String>>,
    /// Listening on other than loopback without TLS is intended.
    pub allow_plaintext: bool,
    /// Where events are kept; default: in memory, 512 MiB of them.
    pub store: StoreConfig,
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
    /// The static token is empty.
    #[error("WS_TOKEN is empty")]
    EmptyToken,
    /// The operators' token is too short.
    #[error("OPS_TOKEN is {0} bytes long; it needs at least {OPS_TOKEN_BYTES} (try: openssl rand -hex 32)")]
    ShortOpsToken(usize),
    /// The ops port asks for tokens that nobody can have.
    #[error("the ops port needs a token here, and with WS_TOKEN there are none with ops:read; set OPS_TOKEN")]
    NoOpsToken,
    /// The ops port is not on loopback, and there is no TLS.
    #[error(
        "OPS_BIND {0} is reachable from other machines and tokens would travel unencrypted; put TLS in front and pass --allow-plaintext"
    )]
    OpsPlaintext(IpAddr),
    /// Not loopback, and no TLS.
    #[error(
        "BIND {0} is reachable from other machines and tokens would travel unencrypted; put TLS in front and pass --allow-plaintext"
    )]
    Plaintext(IpAddr),
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
            auth,
            origins: None,
            allow_plaintext: false,
            store: StoreConfig::Memory(512 * 1024 * 1024),
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
            Auth::Hs256 { secret, previous, .. } => {
                for secret in [Some(secret), previous.as_ref()].into_iter().flatten() {
                    if secret.len() < SECRET_BYTES {
                        return Err(ConfigError::ShortSecret(secret.len()));
                    }
                }
            }
            Auth::Static(token) if token.is_empty() => return Err(ConfigError::EmptyToken),
            Auth::Static(_) => {}
        }
        if !self.bind.is_loopback() && !self.allow_plaintext {
            return Err(ConfigError::Plaintext(self.bind));
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
        if !self.ops_bind.is_loopback() && !self.allow_plaintext {
            return Err(ConfigError::OpsPlaintext(self.ops_bind));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_must_not_run() {
        let hs256 = |secret: &str| Auth::Hs256 { secret: secret.into(), previous: None, audience: None, issuer: None };
        assert_eq!(Config::new(hs256("short")).check(), Err(ConfigError::ShortSecret(5)));
        assert_eq!(Config::new(Auth::Static(String::new())).check(), Err(ConfigError::EmptyToken));
        let mut open = Config::new(hs256(&"s".repeat(32)));
        assert_eq!(open.check(), Ok(()));
        open.bind = IpAddr::from([0, 0, 0, 0]);
        assert!(matches!(open.check(), Err(ConfigError::Plaintext(_))));
        open.allow_plaintext = true;
        assert_eq!(open.check(), Ok(()));
    }

    #[test]
    fn refuses_an_ops_port_that_anybody_could_use_or_nobody() {
        let config = |auth: Auth| Config { ops_port: Some(0), ..Config::new(auth) };
        let hs256 = Auth::Hs256 { secret: "s".repeat(32), previous: None, audience: None, issuer: None };
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
