//! A running hub: starts everything in order, owns every task, ends them in order.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use prom_protocol::Topic;
use prom_store::{Change, MemoryStore, Store, StoreError};
use prom_store_embedded::{EmbeddedStore, OpenError};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::{Auth, Jwt, Revocations, RevocationsError, Verifier},
    config::{Config, ConfigError, StoreConfig},
    doors,
    flow::{metrics::Metrics, topics::Topics, writer::Writer},
    groups::{Context, Groups},
    members::{expiry::Expiry, outbox::Drained, projector::Projector},
    node::{Limits, Node, RefusedConnections, WRITE_GRACE},
    ops::{self, Guard, Ops},
    quota::Quotas,
    web::{self, Bounds, Certificates, Current, Port, Sockets, Times, TlsError},
};

/// How long connections, groups and the writer may take to end.
const ENDING: Duration = Duration::from_secs(8);
/// And after them, requests for the page.
const REQUESTS: Duration = Duration::from_secs(1);

/// Why a hub did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// TLS cannot be spoken with the files that are there.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What is revoked cannot be told from the file that says it.
    #[error("REVOCATIONS_FILE {}: {fault}", file.display())]
    Revocations {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        fault: RevocationsError,
    },
    /// The port cannot be had.
    #[error("cannot listen on {address}: {}", explain(source))]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The ops port cannot be had.
    #[error("cannot listen on {address} for operators: {}", explain_ops(source))]
    ListenOps {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    /// The data folder cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// MongoDB cannot be the store.
    #[cfg(feature = "mongodb")]
    #[error(transparent)]
    Mongo(#[from] prom_store_mongo::OpenError),
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use; stop what uses it or choose another with WS_PORT or --port".into()
        }
        io::ErrorKind::PermissionDenied => "not permitted; ports below 1024 are for root".into(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; see BIND or --bind".into(),
        _ => error.to_string(),
    }
}

fn explain_ops(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use; stop what uses it or choose another with OPS_PORT or --ops-port".into()
        }
        _ => explain(error),
    }
}

/// A running hub. Dropping it leaves its tasks running; end it with [`Hub::shutdown`].
#[derive(Debug)]
pub struct Hub {
    address: SocketAddr,
    ending: CancellationToken,
    /// Cancelled when nothing is left that could send the writer a request.
    over: CancellationToken,
    tasks: TaskTracker,
    server: Port,
    /// Resolves when the writer has ended. It ends last, when nothing is left that could send it a request.
    writer: oneshot::Receiver<()>,
    store: Arc<dyn Store>,
    ops: Option<ops::Running>,
}

impl Hub {
    /// Starts a hub. When this returns it takes connections.
    ///
    /// # Errors
    /// What keeps it from starting, for people.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.check()?;
        let (tls, ops_tls) = certificates(&config).await?;
        let revocations = revocations(&config).await?;
        let address = SocketAddr::new(config.bind, config.port);
        let listen = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let ops = match config.ops_port {
            Some(port) => {
                let (address, listener) = ops::bind(config.ops_bind, port).await;
                Some(listener.map_err(|source| StartError::ListenOps { address, source })?)
            }
            None => None,
        };

        let retention = config.store.retention();
        let Opened { store, outboxes } = open(config.store).await?;
        let metrics = Arc::<Metrics>::default();
        let topics = Arc::new(Topics::load(&*store, Arc::clone(&metrics)).await?);
        let over = CancellationToken::new();
        let (writer, writing) =
            Writer::start(Arc::clone(&store), Arc::clone(&topics), Arc::clone(&metrics), over.clone());
        let writer_ended = on_its_own_thread("writer", writing).map_err(listen)?;
        let tasks = TaskTracker::new();
        let ending = CancellationToken::new();
        tasks.spawn(follow(Arc::clone(&store), Arc::clone(&topics), ending.clone()));
        let outboxes: Arc<[Drained]> = outboxes(&writer).into();
        for drained in 0..outboxes.len() {
            let (outboxes, ending) = (Arc::clone(&outboxes), ending.clone());
            tasks.spawn(async move { outboxes[drained].run(ending.cancelled_owned()).await });
        }
        let groups = Groups::new(Context {
            store: Arc::clone(&store),
            topics: Arc::clone(&topics),
            metrics: Arc::clone(&metrics),
            writer: writer.clone(),
            tasks: tasks.clone(),
            ending: ending.clone(),
        });
        let projector = Projector::new(Arc::clone(&store), writer.clone(), groups.clone());
        tasks.spawn(projector.run(ending.clone()));
        let expiry = Expiry {
            store: Arc::clone(&store),
            writer: writer.clone(),
            groups: groups.clone(),
            retention,
            expire_groups: config.expire_groups,
        };
        tasks.spawn(expiry.run(ending.clone()));

        tasks.spawn(revocations.clone().keep(ending.clone()));
        let verifier = Verifier::new(&config.auth, revocations);
        for refresher in verifier.refreshers(&ending) {
            tasks.spawn(refresher);
        }
        let (limits, sockets) = sockets(config.limits);
        let (public_tls, own_tls) =
            (tls.as_ref().map(Certificates::current), ops_tls.as_ref().map(Certificates::current));
        let shown = [&tls, &ops_tls].into_iter().flatten().map(Certificates::figures).collect();
        for certificates in [tls, ops_tls].into_iter().flatten() {
            tasks.spawn(certificates.keep(ending.clone()));
        }
        let node = Arc::new(Node {
            store: Arc::clone(&store),
            topics,
            writer,
            metrics,
            groups,
            verifier,
            quotas: Quotas::new(limits.shares.clone()),
            limits,
            secure: public_tls.is_some(),
            origins: config.origins,
            page: config.page,
            tasks: tasks.clone(),
            ending: ending.clone(),
            connections: Arc::default(),
            admitted: Arc::default(),
            refused: RefusedConnections::default(),
        });
        let server = public_port(listener, &node, sockets, public_tls, ending.clone()).map_err(listen)?;
        let public = Arc::clone(server.sockets());
        let guard = Guard::new(config.ops_token, config.ops_auth, config.ops_bind.is_loopback());
        let started = Instant::now();
        let ops = ops.map(|listener| {
            ops::start(listener, own_tls, |own| Ops {
                node,
                guard,
                outboxes,
                address,
                started,
                sockets: [public, own],
                certificates: shown,
            })
        });
        let ops = ops.transpose().map_err(listen)?;
        if matches!(config.auth, Auth::Static(_)) {
            tracing::warn!("WS_TOKEN is set: whoever has it may publish and read everything. For trying things only");
        }
        if let Auth::Jwt(Jwt { key_sets, issuers, audience, .. }) = &config.auth
            && !key_sets.is_empty()
            && (issuers.is_empty() || audience.is_none())
        {
            // Some providers sign the tokens of all their customers with the same keys.
            tracing::warn!("JWT_JWKS_URL is set without JWT_ISS or JWT_AUD: tokens made for others may be accepted");
        }
        let ops_port = ops.as_ref().map(|ops| ops.address().to_string());
        let (tls, ops_tls) = (config.tls.is_some(), config.ops_tls.is_some());
        tracing::info!(%address, tls, ops = ops_port, ops_tls, store = store.name(), durability = store.durability(), auth = ?config.auth, "hub ready");
        Ok(Self { address, ending, over, tasks, server, writer: writer_ended, store, ops })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the operators' pages are, if anywhere.
    pub fn ops_address(&self) -> Option<SocketAddr> {
        self.ops.as_ref().map(ops::Running::address)
    }

    /// Stops accepting, finishes commits, gives leases back, closes connections with 1001, and ends within ten seconds.
    pub async fn shutdown(self) {
        let Self { ending, over, tasks, server, writer, store, ops, .. } = self;
        ending.cancel();
        store.hurry();
        tasks.close();
        let ended = async {
            tasks.wait().await;
            over.cancel();
            let _ = writer.await;
            // Nothing is written any more.
            if let Err(error) = store.close().await {
                tracing::warn!(%error, "the store was not closed; it is brought up to date when it is opened");
            }
        };
        if tokio::time::timeout(ENDING, ended).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        server.ended(REQUESTS).await;
        // Last: until here it says that the hub is not ready.
        if let Some(ops) = ops {
            ops.end().await;
        }
        tracing::info!("hub ended");
    }
}

/// What is revoked, if there is a file that says it.
async fn revocations(config: &Config) -> Result<Revocations, StartError> {
    match (&config.revocations_file, &config.auth) {
        (Some(file), Auth::Jwt(_)) => {
            let loaded = Revocations::load(file.clone()).await;
            loaded.map_err(|fault| StartError::Revocations { file: file.clone(), fault })
        }
        _ => Ok(Revocations::none()),
    }
}

/// The certificates of the public port and of the ops port.
async fn certificates(config: &Config) -> Result<(Option<Certificates>, Option<Certificates>), TlsError> {
    let public = match config.tls.clone() {
        Some(tls) => Some(Certificates::load(web::PUBLIC, tls, None).await?),
        None => None,
    };
    let ops = match config.ops_tls.clone() {
        // Without the port its files are no matter.
        Some(tls) if config.ops_port.is_some() => {
            Some(Certificates::load(web::OPS, tls, config.ops_client_ca.clone()).await?)
        }
        _ => None,
    };
    Ok((public, ops))
}

/// The sockets of the public port, and the limits as the open files of this process allow them.
fn sockets(mut limits: Limits) -> (Limits, Arc<Sockets>) {
    let mut most = limits.sockets;
    if let Some(room) = web::room() {
        most = most.min(usize::try_from(room.free).unwrap_or(usize::MAX)).max(1);
        if most < limits.sockets.min(limits.connections) {
            let default = Limits::default();
            // What nobody asked for is no reason to worry: the defaults are for large machines.
            if (limits.sockets, limits.connections) == (default.sockets, default.connections) {
                tracing::info!(sockets = most, "as many sockets as the limit of open files allows");
            } else {
                tracing::warn!(sockets = most, "the limit of open files allows fewer sockets than configured");
            }
        }
    }
    // Who connects when these are all taken is to be told so, for which it needs a socket.
    limits.connections = limits.connections.min(most - most / 16);
    let sockets = Sockets::new("public", most, limits.sockets_per_address);
    (limits, sockets)
}

/// Serves the public port until the hub ends.
fn public_port(
    listener: TcpListener,
    node: &Arc<Node>,
    sockets: Arc<Sockets>,
    tls: Option<Current>,
    ending: CancellationToken,
) -> io::Result<Port> {
    let Limits { head_timeout, idle_timeout, write_timeout, .. } = node.limits;
    let bounds = Bounds {
        sockets,
        times: Times { head: head_timeout, idle: idle_timeout, write: write_timeout + WRITE_GRACE },
        tls,
        files: web::room().map(|room| room.below),
        ending: ENDING,
    };
    Port::start(listener, doors::router(Arc::clone(node)), bounds, ending)
}

/// Makes the drainers of the outboxes that a store has beside its log.
type Outboxes = Box<dyn FnOnce(&Writer) -> Vec<Drained> + Send>;

/// A store, and the outboxes beside it.
struct Opened {
    store: Arc<dyn Store>,
    outboxes: Outboxes,
}

async fn open(config: StoreConfig) -> Result<Opened, StartError> {
    let store: Arc<dyn Store> = match config {
        StoreConfig::Memory(bytes) => Arc::new(MemoryStore::new(bytes)),
        StoreConfig::Embedded(path, options) => {
            let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&path, options)).await;
            Arc::new(opened.map_err(|error| StoreError::Unavailable(error.to_string()))??)
        }
        #[cfg(feature = "mongodb")]
        StoreConfig::Mongo(options, names) => {
            let store = prom_store_mongo::MongoStore::open(options).await?;
            let own = store.database().clone();
            let outboxes: Outboxes =
                Box::new(move |writer| crate::members::mongo_outbox::drained(&names, &own, writer));
            return Ok(Opened { store: Arc::new(store), outboxes });
        }
    };
    Ok(Opened { store, outboxes: Box::new(|_| Vec::new()) })
}

/// Wakes who listens to topics that other hubs write to or remove.
async fn follow(store: Arc<dyn Store>, topics: Arc<Topics>, ending: CancellationToken) {
    let changed = Box::new(move |topic: &Topic, change| match change {
        Change::Grown(seq) => topics.grown_elsewhere(topic, seq),
        Change::Removed => topics.removed(topic),
    });
    tokio::select! {
        () = ending.cancelled() => {}
        () = store.follow(changed) => {}
    }
}

/// Runs what may block, such as commits that wait for the disk, where it holds no other task up. Answers when it ends.
fn on_its_own_thread(name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        runtime.block_on(work);
        let _ = ended.send(());
    })?;
    Ok(end)
}
