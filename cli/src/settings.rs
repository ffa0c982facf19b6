//! A hub's settings, each from a variable or its flag.

use std::net::IpAddr;

use anyhow::bail;
use clap::Args;
use prom_hub::{Auth, Config};

/// Where and how a hub listens: shared by `prom hub` and `prom dev`.
#[derive(Debug, Args)]
pub(crate) struct Listen {
    /// Port of the WebSocket and the page; 0 takes a free one.
    #[arg(long, env = "WS_PORT", default_value_t = 8090)]
    pub(crate) port: u16,
    /// Port of the operators' pages, always on 127.0.0.1; 0 takes a free one.
    #[arg(long, env = "OPS_PORT", default_value_t = 8082)]
    pub(crate) ops_port: u16,
    /// Address to listen on.
    #[arg(long, env = "BIND", default_value = "127.0.0.1")]
    pub(crate) bind: IpAddr,
    /// Origins of pages that may connect, comma-separated, like <https://app.example.com> [default: any; a token is
    /// needed all the same]
    #[arg(long, env = "PROM_ORIGINS", value_delimiter = ',')]
    pub(crate) origins: Vec<String>,
    /// Listen on an address other machines can reach although tokens then travel unencrypted: there is TLS in front.
    #[arg(long)]
    pub(crate) allow_plaintext: bool,
    /// Memory for events, in MiB.
    #[arg(long, env = "PROM_MEMORY_MB", default_value_t = 512)]
    pub(crate) memory_mb: usize,
}

/// How a hub checks tokens.
#[derive(Debug, Args)]
pub(crate) struct Tokens {
    /// Secret of HS256 tokens, at least 32 bytes.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub(crate) jwt_secret: Option<String>,
    /// The secret before a rotation, still accepted.
    #[arg(long, env = "JWT_SECRET_PREVIOUS", hide_env_values = true)]
    pub(crate) jwt_secret_previous: Option<String>,
    /// Required aud of tokens.
    #[arg(long, env = "JWT_AUD")]
    pub(crate) jwt_aud: Option<String>,
    /// Required iss of tokens.
    #[arg(long, env = "JWT_ISS")]
    pub(crate) jwt_iss: Option<String>,
    /// One token that may do everything, for trying things.
    #[arg(long, env = "WS_TOKEN", hide_env_values = true)]
    pub(crate) ws_token: Option<String>,
}

const NO_AUTH: &str = "no way to check tokens is configured, so nobody could connect. Set one of
  JWT_SECRET   the secret your tokens are signed with, HS256, at least 32 bytes (make one: openssl rand -hex 32)
  WS_TOKEN     one token that may do everything, for trying things
or run `prom dev`, which makes a secret of its own";

impl Tokens {
    /// The one way that is configured.
    pub(crate) fn auth(self) -> anyhow::Result<Auth> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        match (given(self.jwt_secret), given(self.ws_token)) {
            (Some(_), Some(_)) => bail!("JWT_SECRET and WS_TOKEN are both set; a hub checks tokens in one way"),
            (Some(secret), None) => Ok(Auth::Hs256 {
                secret,
                previous: given(self.jwt_secret_previous),
                audience: given(self.jwt_aud),
                issuer: given(self.jwt_iss),
            }),
            (None, Some(token)) => Ok(Auth::Static(token)),
            (None, None) => bail!(NO_AUTH),
        }
    }
}

impl Listen {
    /// The whole configuration.
    pub(crate) fn config(self, auth: Auth) -> anyhow::Result<Config> {
        for (name, what) in [("MONGO_URL", "the MongoDB store"), ("JWT_JWKS_URL", "JWKS")] {
            if std::env::var_os(name).is_some_and(|value| !value.is_empty()) {
                bail!("{name} is set, and this version does not have {what} yet; unset it to run without");
            }
        }
        if std::env::var_os("PROM_DURABILITY").is_some_and(|value| !value.is_empty()) {
            tracing::warn!("PROM_DURABILITY has no effect: this version keeps events in memory");
        }
        let mut config = Config::new(auth);
        config.port = self.port;
        config.ops_port = Some(self.ops_port);
        config.bind = self.bind;
        // An origin has neither a path nor capitals, whatever was copied from the address bar.
        let origins = self.origins.iter().map(|origin| origin.trim().trim_end_matches('/').to_ascii_lowercase());
        let origins: Vec<String> = origins.filter(|origin| !origin.is_empty()).collect();
        config.origins = (!origins.is_empty()).then_some(origins);
        config.allow_plaintext = self.allow_plaintext;
        config.memory_bytes = self.memory_mb.saturating_mul(1024 * 1024);
        Ok(config)
    }
}
