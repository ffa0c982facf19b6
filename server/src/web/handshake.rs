//! The beginning of a connection to a port that speaks TLS.
//!
//! It happens in the connection's own task and within the time that the first request's head has, so whoever says nothing
//! costs no more than whoever begins a head and does not end it.

use std::{fmt, io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{
    certificates::Current,
    sockets::{Cut, Seat},
    wire::Wire,
    write_timeout::WriteTimeout,
};

/// How long a peer that speaks no TLS is waited for until it has its answer.
const LINGER: Duration = Duration::from_secs(1);
/// The answer to a request in the clear.
const ANSWER: &str = r#"{"error":"this port speaks TLS: use https:// or wss://","code":"bad_frame"}"#;

/// The socket under TLS, by `by` at the latest; none: it is closed, and counted if that was not the peer's own wish.
pub(super) async fn shake(stream: TcpStream, write: Duration, tls: &Current, seat: &Seat, by: Instant) -> Option<Wire> {
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
    let shaken = tokio::select! {
        shaken = timeout_at(by, under_tls(stream, write, &acceptor)) => shaken,
        // Counted by who asked it to leave.
        () = seat.evicted() => return None,
    };
    match shaken {
        Ok(Ok(wire)) => Some(wire),
        Ok(Err(Failed::Gone(error))) => {
            tracing::debug!(%error, "a peer left before TLS was agreed");
            None
        }
        Ok(Err(failed)) => {
            seat.cut_as(Cut::Handshake, &failed);
            None
        }
        Err(_) => {
            seat.cut(Cut::Head);
            None
        }
    }
}

/// Why there is no TLS.
enum Failed {
    /// The peer went away.
    Gone(io::Error),
    /// It speaks plain HTTP.
    Plain,
    /// It wants what this port does not, or shows a certificate that is not good here.
    Refused(io::Error),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.write_str("plain HTTP"),
            Self::Gone(error) | Self::Refused(error) => error.fmt(f),
        }
    }
}

async fn under_tls(mut stream: TcpStream, write: Duration, acceptor: &TlsAcceptor) -> Result<Wire, Failed> {
    let mut first = [0];
    stream.peek(&mut first).await.map_err(Failed::Gone)?;
    // A method's first letter. No record of TLS begins with one.
    if first[0].is_ascii_uppercase() {
        refuse(&mut stream).await;
        return Err(Failed::Plain);
    }
    match acceptor.accept(WriteTimeout::new(stream, write)).await {
        Ok(stream) => Ok(Wire::Tls(Box::new(stream))),
        // So are the errors of TLS itself wrapped.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(Failed::Refused(error)),
        Err(error) => Err(Failed::Gone(error)),
    }
}

/// Tells a peer that it should speak TLS, in the words that it speaks.
async fn refuse(stream: &mut TcpStream) {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    let told = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // Closed with unread bytes, the socket is reset, and the peer may lose the answer.
        let mut unread = [0; 4096];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // It may be gone already.
    let _ = timeout(LINGER, told).await;
}
