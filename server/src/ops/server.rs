//! The ops port: where it listens, and its bounds. They are small, so that it answers whatever the public port is at.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{reads::Ops, routes::router};
use crate::web::{Bounds, Current, Port, Sockets, Times};

/// Sockets at a time. One more takes the place of the one that is idle longest.
const SOCKETS: usize = 64;
/// How long the head of a request may take, and a socket be idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
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
pub(crate) struct Running {
    port: Port,
    stop: CancellationToken,
}

/// Serves the ops port, which tells of its own sockets too.
pub(crate) fn start(
    listener: TcpListener,
    tls: Option<Current>,
    ops: impl FnOnce(Arc<Sockets>) -> Ops,
) -> io::Result<Running> {
    let sockets = Sockets::new("ops", SOCKETS, None);
    let router = router(Arc::new(ops(Arc::clone(&sockets))));
    let stop = CancellationToken::new();
    let bounds = Bounds {
        sockets,
        times: Times { head: HEAD_TIMEOUT, idle: HEAD_TIMEOUT, write: WRITE_TIMEOUT },
        tls,
        // Its few sockets may take from what others leave.
        files: None,
        ending: ENDING,
    };
    Ok(Running { port: Port::start(listener, router, bounds, stop.clone())?, stop })
}

impl Running {
    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Finishes the requests under way, at most for a second, and ends.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.port.ended(ENDING).await;
    }
}
