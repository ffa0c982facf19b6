//! What a hub is told at start. Reading it from the environment is the binary's work; checking it is done here.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use prom_protocol::limits;

use crate::store::{embedded, mongo};

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

/// Where events are kept.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// In memory, this many bytes of them; nothing survives the process.
    Memory(usize),
    /// On this machine's disk, in this folder.
    Embedded(PathBuf, embedded::Options),
    /// In a MongoDB replica set.
    Mongo(mongo::Options),
}

/// Limits of the gateway.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections; default 20000.
    pub connections: usize,
    /// Subscriptions of one connection; default 128.
    pub subscriptions: usize,
    /// Time for a first good AUTH; default 5 s.
    pub auth_timeout: Duration,
    /// Time between pings; default 25 s. A connection that is silent for three of them is taken for dead.
    pub ping_every: Duration,
    /// Time a connection may go without taking anything that waits for it; default 30 s.
    pub write_timeout: Duration,
    /// Exports under way; default 32.
    pub exports: usize,
    /// Largest frame before AUTH; default 16 KiB.
    pub frame_bytes_before_auth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            subscriptions: 128,
            auth_timeout: Duration::from_secs(5),
            ping_every: Duration::from_secs(25),
            write_timeout: Duration::from_secs(30),
            exports: 32,
            frame_bytes_before_auth: limits::FRAME_BYTES_BEFORE_AUTH,
        }
    }
}

/// What a hub is told at start.
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
    /// Limits of the gateway.
    pub limits: Limits,
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
        }
    }

    /// Refuses what must not run.
    ///
    /// # Errors
    /// What must be changed, for people.
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
