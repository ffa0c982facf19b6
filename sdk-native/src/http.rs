//! Plain HTTP to the hub, for the past: a connection of its own, one request at a time.
//!
//! `hyper` alone, over the TLS settings of the WebSocket: a pool or redirects would only be in the way of a stream that owns
//! its connection and takes it along when it is dropped.

use std::{sync::Arc, time::Duration};

use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
    http::HeaderValue,
};
use hyper_util::rt::TokioIo;
use prom_protocol::ErrorCode;
use prom_sdk_core::{Backoff, Config};
use serde::Deserialize;
use tokio::{net::TcpStream, task::JoinHandle};

use crate::{Error, host::Host, tokens::TokenSource};

/// Longest refusal that is read.
const REFUSAL_BYTES: usize = 64 * 1024;
/// Most bytes that a connection holds before somebody takes them; headers must fit.
const BUFFER_BYTES: usize = 256 * 1024;

/// Where the hub's HTTP is, and how to ask there.
pub(crate) struct Http {
    host: Arc<Host>,
    /// A token that never changes.
    token: Option<String>,
    tokens: Option<TokenSource>,
    connect_timeout: Duration,
    /// Until the answer begins, and between any two pieces of it.
    pub(crate) request_timeout: Duration,
    token_timeout: Duration,
    reconnect_ms: (u64, u64),
}

impl Http {
    pub(crate) fn new(host: Arc<Host>, config: &Config, tokens: Option<TokenSource>) -> Self {
        Self {
            host,
            token: config.token.clone(),
            tokens,
            connect_timeout: Duration::from_millis(config.connect_timeout_ms),
            request_timeout: Duration::from_millis(config.request_timeout_ms),
            token_timeout: Duration::from_millis(config.token_timeout_ms),
            reconnect_ms: (config.reconnect_min_ms, config.reconnect_max_ms),
        }
    }

    /// The waits between tries.
    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.reconnect_ms.0, self.reconnect_ms.1)
    }

    /// Whether a token that was refused may be followed by a better one.
    pub(crate) fn may_renew(&self) -> bool {
        self.tokens.is_some()
    }

    /// The value of `Authorization`, with a fresh token.
    pub(crate) async fn authorization(&self) -> Result<HeaderValue, Error> {
        let token = match (&self.tokens, &self.token) {
            (Some(source), _) => {
                let mut asking = OwnedTask(source.ask());
                let answer = tokio::time::timeout(self.token_timeout, &mut asking.0).await;
                let answer =
                    answer.map_err(|_| Error::of(ErrorCode::NoToken, "the token provider gave no token in time"))?;
                match answer {
                    Ok(Ok(token)) => token,
                    Ok(Err(error)) => return Err(Error::of(ErrorCode::NoToken, error.to_string())),
                    Err(_) => return Err(Error::of(ErrorCode::NoToken, "the token provider panicked")),
                }
            }
            (None, token) => token.clone().unwrap_or_default(),
        };
        let unfit = |_| Error::of(ErrorCode::JwtInvalid, "the token holds a character that no header can carry");
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(unfit)?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Asks for a path with its query: on the connection in `line`, or on a new one that stays there.
    pub(crate) async fn get(
        &self,
        line: &mut Option<Line>,
        authorization: &HeaderValue,
        path: &str,
    ) -> Result<Answer, Error> {
        if let Some(mut idle) = line.take().filter(|line| !line.sender.is_closed()) {
            match self.ask(&mut idle, authorization, path).await {
                // The hub may have ended it in that moment: not a failure yet.
                Err(error) if error.retryable() => {}
                answer => {
                    *line = Some(idle);
                    return self.admit(answer?).await;
                }
            }
        }
        let mut fresh = self.connect().await?;
        let answer = self.ask(&mut fresh, authorization, path).await?;
        *line = Some(fresh);
        self.admit(answer).await
    }

    async fn connect(&self) -> Result<Line, Error> {
        let Host { name, port, .. } = &*self.host;
        let connecting = async {
            let stream = TcpStream::connect((name.as_str(), *port)).await.map_err(unreachable)?;
            let _ = stream.set_nodelay(true);
            #[cfg(feature = "tls")]
            if let Some(tls) = &self.host.tls {
                let server = rustls::pki_types::ServerName::try_from(name.clone())
                    .map_err(|error| Error::config("the URL's host cannot have a certificate").with_source(error))?;
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
                let stream = connector.connect(server, stream).await.map_err(unreachable)?;
                return Line::over(stream).await;
            }
            Line::over(stream).await
        };
        let connected = tokio::time::timeout(self.connect_timeout, connecting).await;
        connected.map_err(|_| Error::timeout("no connection in time"))?
    }

    async fn ask(&self, line: &mut Line, authorization: &HeaderValue, path: &str) -> Result<Response<Incoming>, Error> {
        let request = Request::get(path)
            .header(header::HOST, &*self.host.authority)
            .header(header::AUTHORIZATION, authorization)
            .body(String::new())
            .map_err(|error| Error::config("the URL cannot be asked for").with_source(error))?;
        let answer = async {
            line.sender.ready().await?;
            line.sender.send_request(request).await
        };
        let answer = tokio::time::timeout(self.request_timeout, answer).await;
        answer.map_err(|_| Error::timeout("the hub did not answer in time"))?.map_err(broken)
    }

    /// The answer, or the error it stands for.
    async fn admit(&self, response: Response<Incoming>) -> Result<Answer, Error> {
        let (head, body) = response.into_parts();
        let text = |name: &str| head.headers.get(name)?.to_str().ok();
        let end = text("prom-end").and_then(|end| end.parse().ok());
        let gap = text("prom-gap").and_then(|gap| {
            let (from, to) = gap.split_once('-')?;
            Some((from.parse().ok()?, to.parse().ok()?))
        });
        let retry_after = text("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let mut answer = Answer { body, end, gap, silence: self.request_timeout };
        if head.status == StatusCode::OK {
            return Ok(answer);
        }
        let told = answer.whole(REFUSAL_BYTES).await.unwrap_or_default();
        Err(refusal(head.status, &told).retry_in(retry_after))
    }
}

fn unreachable(error: std::io::Error) -> Error {
    Error::lost(format!("the hub cannot be reached: {error}")).with_source(error)
}

fn broken(error: hyper::Error) -> Error {
    Error::lost("the connection was lost").with_source(error)
}

/// What a hub says when it refuses.
#[derive(Default, Deserialize)]
struct Refused {
    #[serde(default)]
    error: String,
    code: Option<String>,
    /// Of a token: a fresh one helps.
    #[serde(default)]
    expired: bool,
}

fn refusal(status: StatusCode, told: &[u8]) -> Error {
    let Refused { error, code, expired } = serde_json::from_slice(told).unwrap_or_default();
    let message =
        if error.is_empty() { format!("the hub answered with the HTTP status {}", status.as_u16()) } else { error };
    if expired {
        return Error::of(ErrorCode::TokenExpired, message);
    }
    match code.as_deref().map(|code| (ErrorCode::from_wire(code), code)) {
        Some((Some(code), _)) => Error::of(code, message),
        Some((None, code)) => Error::unknown(code.to_owned(), message),
        // Something between here and the hub, or no hub at all.
        None => Error::of(
            match status {
                StatusCode::UNAUTHORIZED => ErrorCode::Unauthorized,
                StatusCode::FORBIDDEN => ErrorCode::Forbidden,
                StatusCode::TOO_MANY_REQUESTS => ErrorCode::RateLimited,
                StatusCode::SERVICE_UNAVAILABLE => ErrorCode::Overloaded,
                _ => ErrorCode::Internal,
            },
            message,
        ),
    }
}

/// A task that ends with its owner.
struct OwnedTask<T>(JoinHandle<T>);

impl<T> Drop for OwnedTask<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One connection. Dropping it closes the socket, whatever is under way.
pub(crate) struct Line {
    sender: SendRequest<String>,
    _io: OwnedTask<()>,
}

impl Line {
    async fn over<S>(stream: S) -> Result<Self, Error>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) =
            http1::Builder::new().max_buf_size(BUFFER_BYTES).handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let io = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "an HTTP connection ended");
            }
        });
        Ok(Self { sender, _io: OwnedTask(io) })
    }
}

/// A good answer whose body comes.
pub(crate) struct Answer {
    body: Incoming,
    /// The seq that an export ends at.
    pub(crate) end: Option<u64>,
    /// First and last seq of what was gone before an export began.
    pub(crate) gap: Option<(u64, u64)>,
    silence: Duration,
}

impl Answer {
    /// The next piece of the body; none at its end, which it says itself: a connection that breaks is an error.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut self.body).poll_frame(cx));
            let frame = tokio::time::timeout(self.silence, frame).await;
            match frame.map_err(|_| Error::timeout("the hub fell silent in the middle of its answer"))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(error)),
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }

    /// All of the body, unless it is longer than `limit`.
    pub(crate) async fn whole(&mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut whole = Vec::new();
        while let Some(piece) = self.piece().await? {
            if whole.len() + piece.len() > limit {
                return Err(Error::of(ErrorCode::TooLarge, format!("the answer is longer than {limit} bytes")));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_refusal_is_told_in_the_hubs_words_or_by_its_status() {
        let cases = [
            (403, r#"{"error":"reading a is not allowed","code":"forbidden"}"#, ErrorKind::Forbidden, "reading a"),
            (400, r#"{"error":"limit must be","code":"bad_frame"}"#, ErrorKind::Invalid, "limit must be"),
            (
                401,
                r#"{"error":"it was","code":"jwt_invalid","expired":true}"#,
                ErrorKind::Unauthorized,
                "(token_expired)",
            ),
            (429, "slow down", ErrorKind::Overloaded, "status 429"),
            (503, "<html>", ErrorKind::Overloaded, "status 503"),
            (502, "", ErrorKind::Unavailable, "status 502"),
            (404, r#"{"error":"no such path"}"#, ErrorKind::Unavailable, "no such path"),
            (409, r#"{"error":"new","code":"of_tomorrow"}"#, ErrorKind::Other, "new (of_tomorrow)"),
        ];
        for (status, body, kind, words) in cases {
            let error = refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!(error.kind(), kind, "{status} {body}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
