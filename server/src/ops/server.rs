//! A small HTTP server with bounds on everything: connections, headers, time.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::web::WriteTimeoutListener;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 64;
/// How long the headers of a request may take, and a connection idle between two.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a request's headers.
const HEADER_BYTES: usize = 16 * 1024;
/// Most headers of a request.
const HEADERS: usize = 64;
/// How long a peer may go without taking anything of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests may take to end when the hub does.
const ENDING: Duration = Duration::from_secs(1);

/// Takes the port.
pub(crate) async fn bind(ip: IpAddr, port: u16) -> (SocketAddr, io::Result<TcpListener>) {
    let address = SocketAddr::from((ip, port));
    (address, TcpListener::bind(address).await)
}

/// The ops port, serving.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(listener: TcpListener, router: Router) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let listener = WriteTimeoutListener { listener, limit: WRITE_TIMEOUT };
        let task = tokio::spawn(serve(listener, router, stop.clone()));
        Ok(Self { address, stop, task })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Finishes the requests under way, at most for a second, and ends.
    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(ENDING, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

async fn serve(mut listener: WriteTimeoutListener, router: Router, stop: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, (stream, _)) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEADERS_TIMEOUT)
            .max_header_size(HEADER_BYTES)
            .max_headers(HEADERS);
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
        let stop = stop.clone();
        connections.spawn(async move {
            let _slot = slot;
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::time::timeout(ENDING, connection).await.unwrap_or(Ok(()))
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to the ops port failed");
            }
        });
    }
    connections.close();
    connections.wait().await;
}
