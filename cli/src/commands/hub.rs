//! `prom hub`: run a hub.

use prom_hub::Hub;

use crate::{settings::Listen, tokens::Tokens};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  JWT_SECRET=$(openssl rand -hex 32) prom hub
  JWT_JWKS_URL=https://login.example.com/.well-known/jwks.json JWT_ISS=https://login.example.com/ JWT_AUD=hub prom hub
  JWT_SECRET=… BIND=0.0.0.0 TLS_CERT_FILE=fullchain.pem TLS_KEY_FILE=privkey.pem prom hub
  JWT_SECRET=… BIND=0.0.0.0 prom hub --allow-plaintext      behind a proxy that speaks TLS
  WS_TOKEN=try-me prom hub                                  one token for everything")]
pub(crate) struct Args {
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    tokens: Tokens,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    super::raise_open_files();
    let config = args.listen.config(args.tokens.auth()?)?;
    let mut interrupted = super::interruption()?;
    let hub = tokio::select! {
        hub = Hub::start(config) => hub?,
        () = &mut interrupted => return Ok(()),
    };
    interrupted.await;
    hub.shutdown().await;
    Ok(())
}
