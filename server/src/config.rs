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
    /// Port of the operators' pages, always on loopback; 0 takes a free one. Default: none.
    pub ops_port: Option<u16>,
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
}
