//! The way to a hub's ops port, for commands that change something.
//!
//! `hyper` alone, as the hub asks for key sets: one request on a connection of its own.

use std::{future::poll_fn, path::PathBuf, pin::pin, time::Duration};

use anyhow::{Context, bail};
use hyper::{Method, Request, Uri, body::Body, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::secret;

/// Largest answer that is read, in bytes.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// How long a token is good for that is made for one request.
const TTL: Duration = Duration::from_secs(60);

/// Which hub, and as whom.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Operate {
    /// The hub's ops port.
    #[arg(long, env = "PROM_OPS_URL", default_value = "http://127.0.0.1:8082")]
    ops_url: String,
    /// OPS_TOKEN of the hub, or a token with ops:admin. On 127.0.0.1 none is needed unless the hub asks for one
    /// [default: one made with the secret of the `prom dev` that runs in this folder, if any does]
    #[arg(long, env = "OPS_TOKEN", hide_env_values = true)]
    ops_token: Option<String>,
    /// Data folder of `prom dev`.
    #[arg(long, env = "PROM_DATA", default_value = "./prom-data")]
    data: PathBuf,
    /// How long the hub may take, like 500ms, 10s.
    #[arg(long, default_value = "15s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl Operate {
    /// DELETE of `path`, which is escaped as a URL wants it; the answer's JSON.
    ///
    /// # Errors
    /// The hub's words for why it refuses, or that there is none.
    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        match tokio::time::timeout(self.timeout, self.ask(Method::DELETE, path)).await {
            Ok(answer) => answer,
            Err(_) => {
                let took = humantime::format_duration(self.timeout);
                bail!("{} did not answer within {took}; whether anything was deleted is not known", self.ops_url)
            }
        }
    }

    fn token(&self) -> anyhow::Result<Option<String>> {
        let given = self.ops_token.clone().filter(|token| !token.is_empty());
        match (given, secret::load(&self.data)?) {
            (Some(token), _) => Ok(Some(token)),
            (None, Some(secret)) => secret::mint(&secret, &["ops:admin".to_owned()], TTL, None).map(Some),
            (None, None) => Ok(None),
        }
    }

    async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        let place = || format!("--ops-url or PROM_OPS_URL {:?}", self.ops_url);
        let uri: Uri = self.ops_url.trim_end_matches('/').parse().with_context(place)?;
        let (Some("http"), Some(host), "/" | "") = (uri.scheme_str(), uri.host(), uri.path()) else {
            bail!("{} must be like http://127.0.0.1:8082", place());
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let connecting = TcpStream::connect((bare, uri.port_u16().unwrap_or(80))).await;
        let stream = connecting.with_context(|| {
            format!("no hub at {}; --ops-url or PROM_OPS_URL says where its ops port is", self.ops_url)
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, uri.authority().map_or(host, |authority| authority.as_str()))
            .header(header::CONNECTION, "close");
        if let Some(token) = self.token()? {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(String::new()).context("a token or a name that HTTP cannot carry")?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let mut body = pin!(response.into_body());
            let mut bytes = Vec::new();
            while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                if let Ok(piece) = frame?.into_data() {
                    if bytes.len() + piece.len() > ANSWER_BYTES {
                        bail!("the answer is larger than {} MiB", ANSWER_BYTES >> 20);
                    }
                    bytes.extend_from_slice(&piece);
                }
            }
            let answer: Value = serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is no ops port of a hub (status {status})", self.ops_url))?;
            if !status.is_success() {
                bail!("{}", answer["error"].as_str().unwrap_or("the hub refuses"));
            }
            Ok(answer)
        };
        let (mut exchange, connection) = (pin!(exchange), pin!(connection));
        // The connection's end is not the answer's: what it has read may still wait to be taken.
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            _ = connection => exchange.await,
        }
    }
}
