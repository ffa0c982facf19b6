//! The way to a hub, shared by every command that talks to one.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use prom_sdk::{Client, ClientBuilder};

use crate::{
    filled::{ca_file, path},
    secret,
};

/// Which hub, and as whom.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// The hub's WebSocket.
    #[arg(long, env = "PROM_URL", default_value = "ws://127.0.0.1:8090/ws")]
    pub(crate) url: String,
    /// Token to authenticate with. Give it by PROM_TOKEN: as a flag it can be read by everybody on this machine, in the list of
    /// its processes [default: one made with the secret of the `prom dev` that runs in this folder]
    #[arg(long, env = "PROM_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File with the token, instead.
    #[arg(long, env = "PROM_TOKEN_FILE", value_parser = path())]
    pub(crate) token_file: Option<PathBuf>,
    /// Authorities to trust instead of the system's, PEM, for a hub whose certificate is of one's own making.
    #[arg(long, env = "PROM_CA_FILE", value_parser = path())]
    pub(crate) ca_file: Option<PathBuf>,
    /// Data folder of `prom dev`.
    #[arg(long, env = "PROM_DATA", default_value = "./prom-data")]
    pub(crate) data: PathBuf,
    /// How long to try to connect, like 500ms, 10s.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
}

/// How long a token is good for that is made on the fly; a new one is made before it runs out.
const TTL: Duration = Duration::from_secs(3600);

/// `builder`, which trusts `ca_file` if there is one.
pub(crate) fn trusting(builder: ClientBuilder, ca_file: Option<&Path>) -> ClientBuilder {
    match ca_file {
        Some(path) => builder.ca_file(path),
        None => builder,
    }
}

impl Connection {
    /// A token for `scopes`: the one that was given, or one made with the secret of `prom dev`.
    pub(crate) fn token(&self, scopes: &[String]) -> anyhow::Result<String> {
        match self.own_token()? {
            Some(token) => Ok(token),
            None => secret::mint(&self.secret()?, scopes, TTL, None),
        }
    }

    fn own_token(&self) -> anyhow::Result<Option<String>> {
        secret::given_by("token", "PROM_TOKEN", self.token.clone(), self.token_file.clone())
    }

    fn secret(&self) -> anyhow::Result<String> {
        let Some(secret) = secret::load(&self.data)? else {
            bail!(
                "no token: give one by PROM_TOKEN or PROM_TOKEN_FILE, or run this where `prom dev` has its data folder"
            );
        };
        Ok(secret)
    }

    /// Connects, with a token for `scope` if it has to make one.
    pub(crate) async fn open(&self, scope: &str) -> anyhow::Result<Client> {
        let ca_file = ca_file(self.ca_file.as_ref())?;
        let builder = match self.own_token()? {
            Some(token) => Client::builder(&self.url).token(token),
            None => {
                let secret = self.secret()?;
                let scopes = vec![scope.to_owned()];
                Client::builder(&self.url).token_provider(move || {
                    let token = secret::mint(&secret, &scopes, TTL, None);
                    async move { token.map_err(|error| error.to_string().into()) }
                })
            }
        };
        let builder = trusting(builder, ca_file.map(PathBuf::as_path));
        let connecting = tokio::time::timeout(self.timeout, builder.connect());
        match connecting.await {
            Ok(connected) => connected.with_context(|| format!("cannot connect to {}", self.url)),
            Err(_) => bail!(
                "cannot connect to {}: no hub answered within {}; --url or PROM_URL says where it is{}",
                self.url,
                humantime::format_duration(self.timeout),
                // Of the two it is the certificate as a rule.
                if self.url.starts_with("wss:") {
                    ", --ca-file or PROM_CA_FILE whose certificate to trust"
                } else {
                    ""
                }
            ),
        }
    }
}
