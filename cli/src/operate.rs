//! The way to a hub's ops port, for commands that change something.
//!
//! `hyper` alone, as the hub asks for key sets: one request on a connection of its own, in the clear or over rustls.

use std::{
    future::poll_fn,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use hyper::{Method, Request, Uri, body::Body, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use prom_hub::auth::is_loopback;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::{
    filled::{ca_file, filled_if_set, path},
    secret,
};

/// Largest answer that is read, in bytes.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// How long a token is good for that is made for one request.
const TTL: Duration = Duration::from_secs(60);

/// Which hub, and as whom.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Operate {
    /// The hub's ops port. Beyond this machine with https://, or no token is sent.
    #[arg(long, env = "PROM_OPS_URL", default_value = "http://127.0.0.1:8082")]
    ops_url: String,
    /// OPS_TOKEN of the hub, or a token with ops:admin; by the variable, for as a flag it can be read by everybody on this
    /// machine. On 127.0.0.1 none is needed but to revoke, unless the hub asks for one
    /// [default: for a hub on this machine one made with the secret of the `prom dev` that runs in this folder, if any does]
    #[arg(long, env = "OPS_TOKEN", hide_env_values = true)]
    ops_token: Option<String>,
    /// File that holds that token; a line break at its end does not count.
    #[arg(long, env = "OPS_TOKEN_FILE", value_parser = path())]
    ops_token_file: Option<PathBuf>,
    /// With https://: trust the authorities in this PEM file [default: those the system trusts]
    #[arg(long, env = "PROM_CA_FILE", value_parser = path())]
    ca_file: Option<PathBuf>,
    /// Certificate to show a hub that asks for one (OPS_TLS_CLIENT_CA_FILE), a PEM file, and what it is signed with behind it.
    #[arg(long, env = "PROM_OPS_CERT_FILE", value_parser = path(), requires = "ops_key_file")]
    ops_cert_file: Option<PathBuf>,
    /// The key of that certificate, a PEM file.
    #[arg(long, env = "PROM_OPS_KEY_FILE", value_parser = path(), requires = "ops_cert_file")]
    ops_key_file: Option<PathBuf>,
    /// Send the token over http:// to another machine too: everybody on the way can read it.
    #[arg(long)]
    allow_plaintext: bool,
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
        self.within(Method::DELETE, path, String::new()).await
    }

    /// POST of JSON to `path`; the answer's JSON.
    ///
    /// # Errors
    /// As [`Self::delete`].
    pub(crate) async fn post(&self, path: &str, body: String) -> anyhow::Result<Value> {
        self.within(Method::POST, path, body).await
    }

    async fn within(&self, method: Method, path: &str, body: String) -> anyhow::Result<Value> {
        match tokio::time::timeout(self.timeout, self.ask(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => {
                let took = humantime::format_duration(self.timeout);
                bail!("{} did not answer within {took}; whether it has done it is not known", self.ops_url)
            }
        }
    }

    /// The token for a hub that is on this machine, or elsewhere.
    fn token(&self, near: bool) -> anyhow::Result<Option<String>> {
        if let Some(given) = secret::given("OPS_TOKEN", self.ops_token.clone(), self.ops_token_file.clone())? {
            return Ok(Some(given));
        }
        // A hub elsewhere cannot have this secret, and its tokens are nobody else's business.
        let secret = if near { secret::load(&self.data)? } else { None };
        secret.map(|secret| secret::mint(&secret, &["ops:admin".to_owned()], TTL, None)).transpose()
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> anyhow::Result<Value> {
        let place = || format!("--ops-url or PROM_OPS_URL {:?}", self.ops_url);
        let uri: Uri = self.ops_url.trim_end_matches('/').parse().with_context(place)?;
        let (Some(scheme @ ("http" | "https")), Some(host), "/" | "") = (uri.scheme_str(), uri.host(), uri.path())
        else {
            bail!("{} must be like http://127.0.0.1:8082 or https://hub.example.com:8082", place());
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let (near, secure) = (is_loopback(bare), scheme == "https");
        ca_file(self.ca_file.as_ref())?;
        filled_if_set("PROM_OPS_CERT_FILE", self.ops_cert_file.as_ref())?;
        filled_if_set("PROM_OPS_KEY_FILE", self.ops_key_file.as_ref())?;
        let token = self.token(near)?;
        if token.is_some() && !near && !secure && !self.allow_plaintext {
            bail!(
                "{} would carry the token where others can read it; use https://, or --allow-plaintext on a network that is yours",
                place()
            );
        }
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, uri.authority().map_or(host, |authority| authority.as_str()))
            .header(header::CONNECTION, "close");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(body).context("a token or a name that HTTP cannot carry")?;
        let tls = if secure { Some(self.tls()?) } else { None };
        let connecting = TcpStream::connect((bare, uri.port_u16().unwrap_or(if secure { 443 } else { 80 }))).await;
        let stream = connecting.with_context(|| {
            format!("no hub at {}; --ops-url or PROM_OPS_URL says where its ops port is", self.ops_url)
        })?;
        let Some(tls) = tls else { return self.exchange(stream, request).await };
        let name = ServerName::try_from(bare.to_owned()).with_context(place)?;
        let shaken = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await;
        let stream = shaken.with_context(|| {
            format!("no TLS with {}; --ca-file or PROM_CA_FILE says whose certificate to trust", self.ops_url)
        })?;
        self.exchange(stream, request).await.map_err(|error| {
            // With TLS 1.3 the refusal of a client's certificate comes after the handshake, in place of an answer.
            if self.ops_cert_file.is_none() && error.is::<hyper::Error>() {
                return error.context("the hub may want a certificate: --ops-cert-file and --ops-key-file");
            }
            error
        })
    }

    fn tls(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        match &self.ca_file {
            Some(path) => {
                for authority in certificates(path)? {
                    roots.add(authority).with_context(|| format!("{} cannot be trusted", path.display()))?;
                }
            }
            None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        }
        if roots.is_empty() {
            bail!("the system has no certificates to trust; --ca-file or SSL_CERT_FILE names some");
        }
        // Named, because other parts of the program may bring other providers, and then there is no default.
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let (Some(cert), Some(key)) = (&self.ops_cert_file, &self.ops_key_file) else {
            return Ok(Arc::new(config.with_no_client_auth()));
        };
        let own = PrivateKeyDer::from_pem_file(key).with_context(|| format!("no key in {}", key.display()))?;
        let config = config.with_client_auth_cert(certificates(cert)?, own);
        Ok(Arc::new(config.with_context(|| format!("{} is not the key of {}", key.display(), cert.display()))?))
    }

    async fn exchange<S>(&self, stream: S, request: Request<String>) -> anyhow::Result<Value>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
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

/// Those in a PEM file, at least one.
fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let file = || format!("{} holds no certificate that can be read", path.display());
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).with_context(file)?.collect();
    let found = found.with_context(file)?;
    if found.is_empty() {
        bail!(file())
    }
    Ok(found)
}
