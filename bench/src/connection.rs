//! Connections to the hub while a measurement is set up: the handshake, the login, one request at a time.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use tungstenite::{HandshakeError, client::IntoClientRequest, http::Uri};

use crate::{
    Error,
    frame::{self, Frame},
    scan,
};

/// Which hub to measure, with which token, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct Target {
    /// The hub's WebSocket, `ws://…`.
    pub url: String,
    /// A token that may publish to and subscribe `bench.**`.
    pub token: String,
    /// The hub's MongoDB, with its database; default: not known. Rows of `outbox` are written there.
    pub mongo_url: Option<String>,
    /// How long to try to connect. Default: 10 s.
    pub connect: Duration,
    /// A measurement fails when the hub sends nothing for this long. Default: 30 s.
    pub stall: Duration,
    /// Ask for several frames in one message; a hub that does not agree is an error. Default: no.
    pub(crate) batch: bool,
}

impl Target {
    /// A target with the default times and no MongoDB.
    pub fn new(url: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: token.into(),
            mongo_url: None,
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            batch: false,
        }
    }

    /// The same hub, with several frames in one message or not.
    pub(crate) fn batching(&self, batch: bool) -> Self {
        Self { batch, ..self.clone() }
    }

    fn uri(&self) -> Result<Uri, Error> {
        let bad = |what| Error::Url { url: self.url.clone(), what };
        let uri: Uri = self.url.parse().map_err(|_| bad("is not a URL"))?;
        match uri.scheme_str() {
            Some("ws") if uri.host().is_some() => Ok(uri),
            Some("wss") => Err(bad("asks for TLS, which would be measured too; use the ws:// URL behind it")),
            _ => Err(bad("is not a URL of the form ws://host:port/ws")),
        }
    }

    /// The port of the URL.
    pub(crate) fn port(&self) -> Option<u16> {
        self.uri().ok().map(|uri| uri.port_u16().unwrap_or(80))
    }
}

/// The `corr` of the requests that [`Connection::ask`] sends.
const CORR: &[u8] = b"ask";

/// An open connection. Bytes that were read after the last answer wait in `rest`.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) rest: Vec<u8>,
}

impl Connection {
    /// Connects and logs in.
    pub(crate) fn open(target: &Target) -> Result<Self, Error> {
        let uri = target.uri()?;
        let failed =
            |error: &dyn std::fmt::Display| Error::Connect { url: target.url.clone(), what: error.to_string() };
        let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
        let addresses = (host.trim_matches(['[', ']']), port).to_socket_addrs().map_err(|error| failed(&error))?;
        let mut stream = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        for address in addresses {
            stream = TcpStream::connect_timeout(&address, target.connect);
            if stream.is_ok() {
                break;
            }
        }
        let stream = stream.map_err(|error| failed(&error))?;
        let set = |stream: &TcpStream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(target.stall))?;
            stream.set_write_timeout(Some(target.stall))
        };
        set(&stream).map_err(|error| failed(&error))?;
        let request = target.url.as_str().into_client_request().map_err(|error| failed(&error))?;
        let (socket, _) = tungstenite::client(request, stream).map_err(|error| match error {
            HandshakeError::Interrupted(_) => {
                Error::Stalled { after: target.stall, state: "a handshake was sent".into() }
            }
            HandshakeError::Failure(error) => failed(&error),
        })?;
        // The hub sends nothing before the first request, so tungstenite's buffer, which is dropped here, is empty.
        let mut connection = Self { stream: socket.into_inner(), rest: Vec::new() };
        let token = serde_json::Value::from(target.token.as_str());
        let batch = if target.batch { r#","batch":true"# } else { "" };
        let agreed = connection.request("AUTH", &format!(r#""op":"AUTH","token":{token}{batch}"#), target.stall)?;
        if agreed != target.batch {
            return Err(failed(&"the hub does not take several frames in one message"));
        }
        Ok(connection)
    }

    /// Opens `count` connections, one after another.
    pub(crate) fn open_many(target: &Target, count: usize) -> Result<Vec<Self>, Error> {
        (0..count).map(|_| Self::open(target)).collect()
    }

    /// Sends a request and waits for its OK. `fields` is the text of its fields, `op` included and `corr` not.
    pub(crate) fn ask(&mut self, what: &str, fields: &str, patience: Duration) -> Result<(), Error> {
        self.request(what, fields, patience).map(drop)
    }

    /// The same; returns whether the OK agrees to several frames in one message.
    fn request(&mut self, what: &str, fields: &str, patience: Duration) -> Result<bool, Error> {
        let mut out = Vec::new();
        frame::text(&mut out, &[br#"{"corr":""#, CORR, b"\",", fields.as_bytes(), b"}"]);
        self.stream.write_all(&out).map_err(Error::Broken)?;
        let since = Instant::now();
        let mut at = 0;
        loop {
            while let Some((frame, len)) = frame::parse(&self.rest[at..]).map_err(|nonsense| refuse(&nonsense))? {
                let text = match frame {
                    Frame::Text(text) => text,
                    Frame::Close(code, reason) => return Err(closed(code, reason)),
                    Frame::Ping(_) | Frame::Pong => b"{}",
                };
                let line =
                    scan::lines(text).find(|line| scan::answer(line).is_ok_and(|answer| answer.corr == Some(CORR)));
                let line = line.unwrap_or(b"{}");
                let answer = scan::answer(line).map_err(|_| malformed(text))?;
                if answer.corr == Some(CORR) {
                    let result = if answer.op == b"OK" { Ok(answer.batch) } else { Err(refused(what, &answer)) };
                    // Events that a SUBSCRIBE brings may stand in the same message, behind its OK.
                    let mut rest = Vec::new();
                    for other in scan::lines(text).filter(|other| *other != line) {
                        frame::unmasked(&mut rest, other);
                    }
                    self.rest.splice(at..at + len, rest);
                    return result;
                }
                at += len;
            }
            let mut chunk = [0; 4096];
            let got = match self.stream.read(&mut chunk) {
                Ok(0) => return Err(hung_up()),
                Ok(got) => got,
                Err(error) if would_block(&error) => 0,
                Err(error) => return Err(Error::Broken(error)),
            };
            self.rest.extend_from_slice(&chunk[..got]);
            if since.elapsed() >= patience {
                return Err(Error::Stalled { after: patience, state: format!("{what} was asked") });
            }
        }
    }
}

/// Whether a read or write found the socket not ready, for now.
pub(crate) fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

pub(crate) fn closed(code: u16, reason: &[u8]) -> Error {
    Error::Closed { code, reason: String::from_utf8_lossy(reason).into_owned() }
}

/// The error of a connection that ended without a close frame.
pub(crate) fn hung_up() -> Error {
    closed(1006, b"without a word")
}

pub(crate) fn refuse(nonsense: &frame::NotAFrame) -> Error {
    Error::Nonsense(nonsense.0.into())
}

pub(crate) fn malformed(text: &[u8]) -> Error {
    let text: String = String::from_utf8_lossy(text).chars().take(200).collect();
    Error::Nonsense(format!("what is no answer: {text}"))
}

pub(crate) fn refused(what: &str, answer: &scan::Answer<'_>) -> Error {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Error::Refused { what: what.into(), code: text(answer.code), msg: text(answer.msg) }
}
