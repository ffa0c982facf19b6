//! The HTTP server of both ports, with bounds on everything: sockets, heads, time.
//!
//! ```text
//!   accept ──► a seat (sockets.rs) ──► TLS (handshake.rs) ──► Peer (peer.rs) ──► hyper ──► strict (one Host, …) ──► router
//! ```

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header},
    response::IntoResponse,
};
use futures_util::future::BoxFuture;
use hyper::{
    body::{Body as _, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::Service,
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    certificates::Current,
    failure::Failure,
    handshake::shake,
    heads::Exchange,
    peer::{Peer, Times},
    sockets::{Cut, Seat, Sockets},
    wire::Wire,
    write_timeout::WriteTimeout,
};

/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Most headers of a request.
const HEADERS: usize = 64;
/// Bytes that the HTTP library has of a socket at a time, each way.
const BUFFER: usize = 64 * 1024;
/// The first and the longest pause after the system could not accept a socket.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What a port takes and how it ends.
#[derive(Debug)]
pub(crate) struct Bounds {
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) times: Times,
    /// What it speaks TLS with; none: it speaks none.
    pub(crate) tls: Option<Current>,
    /// Open files of the process that sockets leave alone; none where that is not known.
    pub(crate) files: Option<u64>,
    /// How long requests may take to end when the port does.
    pub(crate) ending: Duration,
}

/// Who sent a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    seat: Arc<Seat>,
}

impl Caller {
    /// It may do what it asks for: its socket is not asked to leave before it is answered.
    pub(crate) fn is_known(&self) {
        self.seat.keep();
    }

    /// Its address; with IPv6 that of its /64.
    pub(crate) fn address(&self) -> IpAddr {
        self.seat.address()
    }
}

/// A port, serving.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    sockets: Arc<Sockets>,
    task: JoinHandle<()>,
}

impl Port {
    /// Serves `router` until `stop`.
    pub(crate) fn start(
        listener: TcpListener,
        router: Router,
        bounds: Bounds,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let sockets = Arc::clone(&bounds.sockets);
        let task = tokio::spawn(serve(listener, router, bounds, stop));
        Ok(Self { address, sockets, task })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sockets it has.
    pub(crate) fn sockets(&self) -> &Arc<Sockets> {
        &self.sockets
    }

    /// Waits for its end, which must have begun, at most for so long.
    pub(crate) async fn ended(mut self, within: Duration) {
        if tokio::time::timeout(within, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

async fn serve(listener: TcpListener, router: Router, bounds: Bounds, stop: CancellationToken) {
    let router = TowerToHyperService::new(router);
    let mut connections = JoinSet::new();
    let mut pause = PAUSES.0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = stop.cancelled() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_the_peer(&error) => continue,
            Err(error) => {
                bounds.sockets.cut(Cut::Accept, &error);
                let retry = async {
                    // Of no use is this where other processes have all the files there are.
                    bounds.sockets.make_room().await;
                    tokio::time::sleep(pause).await;
                };
                tokio::select! {
                    () = retry => {}
                    () = stop.cancelled() => break,
                }
                pause = (pause * 2).min(PAUSES.1);
                continue;
            }
        };
        pause = PAUSES.0;
        let seat = tokio::select! {
            seat = seat(stream, address.ip(), &bounds) => seat,
            () = stop.cancelled() => break,
        };
        match seat {
            Ok((stream, seat)) => {
                connections.spawn(connection(stream, seat, router.clone(), &bounds, stop.clone()));
            }
            Err(why) => bounds.sockets.cut(why, &address.ip()),
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Whether accepting failed because of the one peer, who has gone again.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A place for a socket, and the socket where its descriptor leaves the store its own.
async fn seat(stream: TcpStream, address: IpAddr, bounds: &Bounds) -> Result<(TcpStream, Arc<Seat>), Cut> {
    let seat = bounds.sockets.admit(address).await?;
    // The system gives the lowest number that is free, so a high one says how many are taken, whoever has them.
    if bounds.files.is_none_or(|files| descriptor(&stream) < files) {
        return Ok((stream, seat));
    }
    // Its own seat waits too, behind all others.
    seat.keep();
    if !bounds.sockets.make_room().await {
        return Err(Cut::Files);
    }
    seat.wait();
    let stream = lower(stream).map_err(|_| Cut::Files)?;
    // Taken by somebody else meanwhile.
    if bounds.files.is_some_and(|files| descriptor(&stream) >= files) { Err(Cut::Files) } else { Ok((stream, seat)) }
}

#[cfg(unix)]
fn descriptor(stream: &TcpStream) -> u64 {
    use std::os::fd::AsRawFd;
    u64::try_from(stream.as_raw_fd()).unwrap_or(0)
}

#[cfg(not(unix))]
fn descriptor(_: &TcpStream) -> u64 {
    0
}

/// The same socket under the lowest number that is free.
fn lower(stream: TcpStream) -> io::Result<TcpStream> {
    let high = stream.into_std()?;
    TcpStream::from_std(high.try_clone()?)
}

fn connection(
    stream: TcpStream,
    seat: Arc<Seat>,
    router: TowerToHyperService<Router>,
    bounds: &Bounds,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    // Answers are written whole; waiting to fill a packet would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY not set");
    }
    let Bounds { times, ending, .. } = *bounds;
    let tls = bounds.tls.clone();
    let head_by = Instant::now() + times.head;
    async move {
        let wire = match tls {
            None => Wire::Plain(WriteTimeout::new(stream, times.write)),
            Some(tls) => {
                let shaken = tokio::select! {
                    shaken = shake(stream, times.write, &tls, &seat, head_by) => shaken,
                    () = stop.cancelled() => return,
                };
                let Some(wire) = shaken else { return };
                wire
            }
        };
        let exchange = Arc::new(Exchange::new());
        let peer = Peer::new(wire, Arc::clone(&exchange), Arc::clone(&seat), times, head_by);
        let service = Connected { router, exchange, seat: Arc::clone(&seat) };
        let mut http = http1::Builder::new();
        // The time that heads may take is the peer's matter.
        http.header_read_timeout(None).max_header_size(HEAD_BYTES).max_headers(HEADERS).max_buf_size(BUFFER);
        let mut connection = pin!(http.serve_connection(TokioIo::new(peer), service).with_upgrades());
        let ended = tokio::select! {
            // The connection first: whether it may be asked to leave changes in there.
            biased;
            ended = connection.as_mut() => ended,
            // Its socket may not be read meanwhile, which would tell it the same: while a body waits to be asked for.
            () = seat.evicted() => return,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(ending, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "an HTTP connection failed");
        }
    }
}

/// The service of one connection.
struct Connected {
    router: TowerToHyperService<Router>,
    exchange: Arc<Exchange>,
    seat: Arc<Seat>,
}

impl Service<Request<Incoming>> for Connected {
    type Response = Response<Answered>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let body = request.body().size_hint().exact();
        let exchange = Arc::clone(&self.exchange);
        exchange.begin(body, request.headers().contains_key(header::UPGRADE));
        let seat = Arc::clone(&self.seat);
        let refused = strict(request.headers(), request.version());
        request.extensions_mut().insert(Caller { seat: Arc::clone(&seat) });
        let answer = match refused {
            Some(refused) => Err(refused),
            None => Ok(self.router.call(request)),
        };
        Box::pin(async move {
            let mut response = match answer {
                Ok(answer) => answer.await?,
                Err(refused) => refused.into_response(),
            };
            let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            exchange.answered(upgraded);
            if body.is_none() {
                // Where its body ends is not known here, so another head cannot be told from it.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            let under_way = (!upgraded).then_some(UnderWay { seat, exchange });
            Ok(response.map(|body| Answered { body, _under_way: under_way }))
        })
    }
}

/// Why a request is refused whose headers could mean one thing here and another to a proxy.
fn strict(headers: &HeaderMap, version: Version) -> Option<Failure> {
    let count = |name| headers.get_all(name).iter().take(2).count();
    let name = match () {
        () if count(header::HOST) > 1 => "Host",
        () if count(header::AUTHORIZATION) > 1 => "Authorization",
        () if version == Version::HTTP_11 && count(header::HOST) == 0 => {
            return Some(Failure::bad("the header Host is required"));
        }
        () => return None,
    };
    Some(Failure::bad(format!("the header {name} is given twice")))
}

/// A request, until it is answered.
#[derive(Debug)]
struct UnderWay {
    seat: Arc<Seat>,
    exchange: Arc<Exchange>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.seat.wait();
        self.exchange.over();
    }
}

/// The body of an answer. With it the request ends.
pub(crate) struct Answered {
    body: Body,
    _under_way: Option<UnderWay>,
}

impl hyper::body::Body for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
