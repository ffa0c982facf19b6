//! How a hub checks tokens, each setting from a variable or its flag, secrets from a file too.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use clap::Args;
use prom_hub::{Auth, Jwt};

use crate::{
    filled::{entries, filled, filled_if_set, path},
    secret,
};

/// How a hub checks tokens.
#[derive(Debug, Args)]
pub(crate) struct Tokens {
    /// Secret of HS256 tokens, at least 32 bytes. As a flag it can be read by everybody on this machine.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    jwt_secret: Option<String>,
    /// File that holds that secret; a line break at its end does not count.
    #[arg(long, env = "JWT_SECRET_FILE", value_parser = path())]
    jwt_secret_file: Option<PathBuf>,
    /// The secret before a rotation, still accepted.
    #[arg(long, env = "JWT_SECRET_PREVIOUS", hide_env_values = true)]
    jwt_secret_previous: Option<String>,
    /// File that holds the secret before a rotation.
    #[arg(long, env = "JWT_SECRET_PREVIOUS_FILE", value_parser = path())]
    jwt_secret_previous_file: Option<PathBuf>,
    /// Key set of an identity provider, for RS256, PS256, ES256 and EdDSA tokens, like
    /// <https://login.example.com/.well-known/jwks.json>; several comma-separated. Beside a secret: either is accepted.
    #[arg(long, env = "JWT_JWKS_URL", value_delimiter = ',')]
    jwt_jwks_url: Option<Vec<String>>,
    /// Required aud of tokens.
    #[arg(long, env = "JWT_AUD")]
    jwt_aud: Option<String>,
    /// Required iss of tokens; with several key sets that of each, comma-separated, in their order.
    #[arg(long, env = "JWT_ISS", value_delimiter = ',')]
    jwt_iss: Option<Vec<String>>,
    /// How far away the exp of a token may be, like 12h, 30d [default: 400d]
    #[arg(long, env = "JWT_MAX_LIFETIME", value_parser = lifetime)]
    jwt_max_lifetime: Option<Duration>,
    /// One token that may do everything, for trying things, at least 6 bytes.
    #[arg(long, env = "WS_TOKEN", hide_env_values = true)]
    ws_token: Option<String>,
    /// File that holds that token.
    #[arg(long, env = "WS_TOKEN_FILE", value_parser = path())]
    ws_token_file: Option<PathBuf>,
}

const NO_AUTH: &str = "no way to check tokens is configured, so nobody could connect. Set one of
  JWT_SECRET     the secret your tokens are signed with, HS256, at least 32 bytes (make one: openssl rand -hex 32),
                 or JWT_SECRET_FILE, a file that holds it
  JWT_JWKS_URL   where your identity provider publishes its keys; set JWT_ISS and JWT_AUD too
  WS_TOKEN       one token that may do everything, for trying things
or run `prom dev`, which makes a secret of its own";

pub(crate) fn lifetime(text: &str) -> Result<Duration, String> {
    filled("JWT_MAX_LIFETIME", text).map_err(|error| error.to_string())?;
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

impl Tokens {
    /// The way that is configured.
    pub(crate) fn auth(self) -> anyhow::Result<Auth> {
        let jwt = Jwt {
            secret: secret::given("JWT_SECRET", self.jwt_secret, self.jwt_secret_file)?,
            previous: secret::given("JWT_SECRET_PREVIOUS", self.jwt_secret_previous, self.jwt_secret_previous_file)?,
            key_sets: entries("JWT_JWKS_URL", self.jwt_jwks_url)?,
            issuers: entries("JWT_ISS", self.jwt_iss)?,
            audience: filled_if_set("JWT_AUD", self.jwt_aud)?,
            max_lifetime: self.jwt_max_lifetime.unwrap_or(prom_hub::auth::MAX_LIFETIME),
        };
        let Some(token) = secret::given("WS_TOKEN", self.ws_token, self.ws_token_file)? else {
            if jwt.secret.is_none() && jwt.previous.is_none() && jwt.key_sets.is_empty() {
                bail!(NO_AUTH);
            }
            return Ok(Auth::Jwt(jwt));
        };
        let others = [
            ("JWT_SECRET", jwt.secret.is_some()),
            ("JWT_SECRET_PREVIOUS", jwt.previous.is_some()),
            ("JWT_JWKS_URL", !jwt.key_sets.is_empty()),
            ("JWT_ISS", !jwt.issuers.is_empty()),
            ("JWT_AUD", jwt.audience.is_some()),
            ("JWT_MAX_LIFETIME", self.jwt_max_lifetime.is_some()),
        ];
        if let Some((name, _)) = others.iter().find(|(_, set)| *set) {
            bail!("{name} and WS_TOKEN are both set; with WS_TOKEN a hub checks no JWT");
        }
        Ok(Auth::Static(token))
    }
}
