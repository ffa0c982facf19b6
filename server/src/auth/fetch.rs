//! Fetches a key set: one GET on a connection of its own, bounded in time and size, that follows nothing.
//!
//! `hyper` alone, as the SDK does it: a client with redirects, cookies, proxies and a pool would be a hundred times the code
//! for one request every few minutes, and each of these a way to be led elsewhere.

use std::{fmt, future::poll_fn, io, pin::pin, sync::Arc, time::Duration};

use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Body, Incoming},
    client::conn::http1,
    header::{self, HeaderMap},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// How long it may take, from looking the name up to the last byte.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest key set, in bytes.
const BODY_BYTES: usize = 256 * 1024;
/// What a connection holds at most before it is taken; headers must fit.
const BUFFER_BYTES: usize = 32 * 1024;

/// Where a key set is: `https`, or `http` on this machine.
#[derive(Clone)]
pub(super) struct Place {
    secure: bool,
    /// Name or address, without the brackets of an IPv6 address.
    host: String,
    port: u16,
    authority: String,
    path: String,
}

/// Without the query, which may hold what is nobody's business.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{}://{}{path}", if self.secure { "https" } else { "http" }, self.authority)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Place {
    /// # Errors
    /// What is wrong with the URL, to be read behind it.
    pub(super) fn parse(url: &str) -> Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "is not a URL")?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("names no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("has a user in it; a key set is public");
        }
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_loopback(host) => false,
            Some("http") => {
                return Err("must start with https://: who can change the answer on its way can sign tokens");
            }
            _ => return Err("must start with https://"),
        };
        let port = uri.port_u16();
        Ok(Self {
            secure,
            host: host.to_owned(),
            port: port.unwrap_or(if secure { 443 } else { 80 }),
            authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
            path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }
}

/// Whether a URL's host, an IPv6 address without its brackets, is this machine: what goes there nobody on the way reads.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// An answer.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) body: Vec<u8>,
    /// For so long it is fresh, if it says so.
    pub(super) max_age: Option<Duration>,
}

/// Why there is no answer that counts.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no connection: {0}")]
    Connect(#[source] io::Error),
    #[error("the system has no certificates to trust; install them or set SSL_CERT_FILE")]
    NoRoots,
    #[error("TLS cannot be set up: {0}")]
    Tls(#[source] rustls::Error),
    #[error("the host cannot have a certificate")]
    Name,
    #[error("the exchange failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the answer is a redirect ({0}), and a redirect is not followed; set the URL it leads to")]
    Redirect(StatusCode),
    #[error("the answer has the status {0}")]
    Status(StatusCode),
    #[error("the answer is compressed, which was not asked for")]
    Encoded,
    #[error("the answer is larger than {BODY_BYTES} bytes")]
    TooLarge,
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// Asks once.
pub(super) async fn fetch(place: &Place) -> Result<Fetched, FetchError> {
    let fetching = async {
        let stream = TcpStream::connect((place.host.as_str(), place.port)).await.map_err(FetchError::Connect)?;
        if !place.secure {
            return ask(place, stream).await;
        }
        let name = rustls::pki_types::ServerName::try_from(place.host.clone()).map_err(|_| FetchError::Name)?;
        let connector = tokio_rustls::TlsConnector::from(tls().await?);
        ask(place, connector.connect(name, stream).await.map_err(FetchError::Connect)?).await
    };
    tokio::time::timeout(TIMEOUT, fetching).await.map_err(|_| FetchError::Timeout)?
}

/// Trusts what the system trusts. Read each time, so that certificates that were renewed count without a restart.
async fn tls() -> Result<Arc<rustls::ClientConfig>, FetchError> {
    let load = tokio::task::spawn_blocking(|| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    });
    let roots = load.await.map_err(|_| FetchError::NoRoots)?;
    if roots.is_empty() {
        return Err(FetchError::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(FetchError::Tls)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

async fn ask<S>(place: &Place, stream: S) -> Result<Fetched, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(BUFFER_BYTES).handshake(TokioIo::new(stream)).await?;
    let request = Request::get(&place.path)
        .header(header::HOST, &place.authority)
        .header(header::USER_AGENT, concat!("prom-hub/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(header::CONNECTION, "close")
        .body(String::new())?;
    let exchange = async { answer(sender.send_request(request).await?).await };
    let (mut exchange, connection) = (pin!(exchange), pin!(connection));
    // The connection's end is not the answer's: what it has read may still wait to be taken.
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

async fn answer(response: Response<Incoming>) -> Result<Fetched, FetchError> {
    let (head, body) = response.into_parts();
    if head.status.is_redirection() {
        return Err(FetchError::Redirect(head.status));
    }
    if head.status != StatusCode::OK {
        return Err(FetchError::Status(head.status));
    }
    if head.headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(FetchError::Encoded);
    }
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        if let Ok(piece) = frame?.into_data() {
            if bytes.len() + piece.len() > BODY_BYTES {
                return Err(FetchError::TooLarge);
            }
            bytes.extend_from_slice(&piece);
        }
    }
    Ok(Fetched { body: bytes, max_age: max_age(&head.headers) })
}

/// `max-age` of `Cache-Control`; none where the answer is not to be kept at all.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut found = None;
    for value in headers.get_all(header::CACHE_CONTROL) {
        for directive in value.to_str().ok()?.split(',') {
            let (name, value) = directive.trim().split_once('=').unwrap_or((directive.trim(), ""));
            if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
                return None;
            }
            if name.eq_ignore_ascii_case("max-age") {
                found = value.trim_matches('"').parse().ok().map(Duration::from_secs);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_set_is_at_https_or_on_this_machine() {
        for (url, shown, port) in [
            ("https://login.example.com/keys?p=secret", "https://login.example.com/keys", 443),
            ("https://login.example.com:8443", "https://login.example.com:8443/", 8443),
            ("http://127.0.0.1:9/k", "http://127.0.0.1:9/k", 9),
            ("http://LocalHost/k", "http://LocalHost/k", 80),
            ("http://[::1]:9/k", "http://[::1]:9/k", 9),
        ] {
            let place = Place::parse(url).unwrap();
            assert_eq!((place.to_string(), place.port), (shown.to_owned(), port));
        }
        for (url, why) in [
            ("http://login.example.com/keys", "must start with https://: who"),
            ("http://localhost.example.com/keys", "must start with https://: who"),
            ("http://128.0.0.1/", "must start with https://: who"),
            ("ftp://127.0.0.1/", "must start with https://"),
            ("file:///etc/passwd", "is not a URL"),
            ("/keys", "names no host"),
            ("login.example.com", "must start with https://"),
            ("https://user:word@login.example.com/", "has a user in it"),
            ("https://", "is not a URL"),
            ("", "is not a URL"),
            ("https://exa mple.com", "is not a URL"),
        ] {
            let said = Place::parse(url).unwrap_err();
            assert!(said.starts_with(why), "{url}: {said}");
        }
    }

    #[test]
    fn max_age_is_read_where_the_answer_may_be_kept() {
        for (value, seconds) in [
            ("public, max-age=20000, must-revalidate, no-transform", Some(20_000)),
            ("MAX-AGE=\"60\"", Some(60)),
            ("max-age=x", None),
            ("max-age=-1", None),
            ("no-store, max-age=60", None),
            ("max-age=60, no-cache", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(header::CACHE_CONTROL, value.parse().unwrap())]);
            assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{value}");
        }
    }
}
