//! A socket of a port as its protocol sees it: bounded in time both ways, and asked to leave where others need its place.
//!
//! ```text
//!   TcpStream ── WriteTimeout ── (TLS) ── ReadAhead ── Peer ──► HTTP, one head at a time (heads.rs) ──► a WebSocket
//! ```

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    heads::{Exchange, Part, Scan},
    read_ahead::ReadAhead,
    sockets::{Cut, Seat},
    wire::Wire,
};

/// How long a peer may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// For the head of a request, from its first byte; for the first one from when the socket was accepted.
    pub(crate) head: Duration,
    /// Between two requests.
    pub(crate) idle: Duration,
    /// For taking something of what waits for it.
    pub(crate) write: Duration,
}

/// A socket.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: ReadAhead<Wire>,
    /// None once there is no HTTP any more.
    exchange: Option<Arc<Exchange>>,
    seat: Arc<Seat>,
    times: Times,
    /// When the first head must be there.
    first_by: Instant,
    /// When the head that is awaited, or the wait for one, has taken too long.
    clock: Option<Clock>,
    requests: bool,
}

#[derive(Debug)]
struct Clock {
    timer: Pin<Box<Sleep>>,
    /// A head has begun.
    head: bool,
}

impl Peer {
    /// Its first request's head must be there at `first_by`.
    pub(super) fn new(wire: Wire, exchange: Arc<Exchange>, seat: Arc<Seat>, times: Times, first_by: Instant) -> Self {
        let stream = ReadAhead::new(wire);
        Self { stream, exchange: Some(exchange), seat, times, first_by, clock: None, requests: false }
    }

    /// Its place among the sockets of its port.
    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// Changes for how long it may take nothing.
    pub(crate) fn set_write_limit(&mut self, limit: Duration) {
        self.stream.stream.socket().set_limit(limit);
    }

    /// Waits for the head of a request, at most for as long as it may take.
    fn poll_late(&mut self, cx: &mut Context<'_>, begun: bool) -> Poll<io::Result<()>> {
        let first = !self.requests;
        let clock = self.clock.get_or_insert_with(|| {
            let by = match (first, begun) {
                (true, _) => self.first_by,
                (false, true) => Instant::now() + self.times.head,
                (false, false) => Instant::now() + self.times.idle,
            };
            Clock { timer: Box::pin(tokio::time::sleep_until(by)), head: first || begun }
        });
        if begun && !clock.head {
            clock.head = true;
            clock.timer.as_mut().reset(Instant::now() + self.times.head);
        }
        ready!(clock.timer.as_mut().poll(cx));
        if clock.head {
            self.seat.cut(Cut::Head);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head did not come in time")));
        }
        self.seat.cut(Cut::Idle);
        Poll::Ready(Ok(()))
    }

    /// Reads what `part` is of.
    fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        exchange: &Exchange,
        part: Part,
    ) -> Poll<io::Result<()>> {
        match part {
            Part::Rest => {
                self.exchange = None;
                self.clock = None;
                self.stream.poll_read_most(cx, buf, usize::MAX)
            }
            Part::Body(left) => {
                let before = buf.filled().len();
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                ready!(self.stream.poll_read_most(cx, buf, most))?;
                let left = left.saturating_sub((buf.filled().len() - before) as u64);
                exchange.set(if left == 0 { Part::Head(super::heads::Head::default()) } else { Part::Body(left) });
                Poll::Ready(Ok(()))
            }
            // The service will say what comes next, in this task. Until then an end is all that is looked for.
            Part::Between => {
                exchange.poll_answering(cx);
                if self.stream.is_ahead() {
                    return Poll::Pending;
                }
                match ready!(self.stream.poll_ahead(cx))? {
                    [] => Poll::Ready(Ok(())),
                    _ => Poll::Pending,
                }
            }
            Part::Refused(rest) => {
                let count = rest.len().min(buf.remaining());
                buf.put_slice(&rest[..count]);
                exchange.set(Part::Refused(&rest[count..]));
                Poll::Ready(Ok(()))
            }
            Part::Head(mut head) => {
                let Poll::Ready(ahead) = self.stream.poll_ahead(cx) else {
                    // While a request is answered the next one has all the time there is.
                    return if exchange.poll_answering(cx) { Poll::Pending } else { self.poll_late(cx, head.begun) };
                };
                let ahead = ahead?;
                let ahead = &ahead[..ahead.len().min(buf.remaining())];
                let (count, next) = match head.scan(ahead) {
                    Scan::More => (ahead.len(), Part::Head(head)),
                    Scan::End(count) => (count, Part::Between),
                    Scan::Bare(count) | Scan::Both(count) => (count, Part::refused()),
                };
                buf.put_slice(&ahead[..count]);
                self.stream.consume(count);
                exchange.set(next);
                if matches!(next, Part::Between) {
                    self.requests = true;
                    self.clock = None;
                }
                if count == 0 && matches!(next, Part::Refused(_)) {
                    return self.poll_part(cx, buf, exchange, next);
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

fn left() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "closed to make room for another socket")
}

impl AsyncRead for Peer {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = match this.exchange.clone() {
            None => this.stream.poll_read_most(cx, buf, usize::MAX),
            Some(exchange) => {
                let part = exchange.part();
                this.poll_part(cx, buf, &exchange, part)
            }
        };
        // Only who waits can be asked to leave.
        if read.is_pending() && this.seat.poll_evicted(cx) {
            return Poll::Ready(Err(left()));
        }
        read
    }
}

impl Peer {
    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if std::mem::take(&mut self.stream.stream.socket().failed) {
            self.seat.cut(Cut::Stalled);
        }
        if written.is_pending() && self.seat.poll_evicted(cx) {
            return Poll::Ready(Err(left()));
        }
        written
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
