//! Takes orders over HTTP. An order and the event that tells of it are written in one MongoDB transaction; the hub
//! publishes the event, or this service does, for a hub that cannot. The README shows what that is good for.
//!
//! ```text
//!   POST /orders ──► http.rs ──► order.rs (checks) ──► store.rs ──one transaction──► orders + outbox
//!                                                                                       │
//!                                         hub ◄── drainer, in the hub or here ◄─────────┘
//! ```

mod drain;
mod http;
mod order;
mod store;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use mongodb::options::ClientOptions;
use prom_outbox::MongoOutbox;
use tokio::{net::TcpListener, signal::unix, sync::watch};

use crate::store::{Store, Writes};

/// Takes orders over HTTP, and tells of them through a transactional outbox.
#[derive(Parser)]
struct Args {
    /// The replica set, for instance mongodb://127.0.0.1:27017/?replicaSet=rs0. Transactions need one; one node will do.
    #[arg(long, env = "MONGO_URL", hide_env_values = true)]
    mongo_url: String,

    /// The database with the collections `orders` and `outbox`.
    #[arg(long, default_value = "shop")]
    database: String,

    /// Where to take orders; port 0 takes any that is free.
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: SocketAddr,

    /// Publish what is in the outbox to this hub, for instance ws://127.0.0.1:8090/ws. Not needed where the hub drains the
    /// outbox by itself: when it keeps its events in the same MongoDB and has PROM_OUTBOX=shop.outbox.
    #[arg(long, env = "HUB_URL", requires = "hub_token_file")]
    hub_url: Option<String>,

    /// A file with the token for the hub, which must allow `publish:orders.placed`. It is read anew for each connection and
    /// before the token ends, so whoever renews the token only writes the file.
    #[arg(long, env = "HUB_TOKEN_FILE")]
    hub_token_file: Option<PathBuf>,

    /// WHAT NOT TO DO: write the order, then its event, each by itself. Who dies in between loses the event.
    #[arg(long)]
    unsafe_two_writes: bool,

    /// For trying things: wait between the order and its event, for instance 30s, so that one can kill it there. A
    /// transaction ends by itself after a minute.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s")]
    pause_between_writes: Duration,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mongo = mongodb::Client::with_options(read_url(&args.mongo_url).await?)?;
    let writes = if args.unsafe_two_writes {
        tracing::warn!("--unsafe-two-writes: this loses events");
        Writes::UnsafeTwoWrites
    } else {
        Writes::OneTransaction
    };
    let database = mongo.database(&args.database);
    let outbox = Arc::new(MongoOutbox::new(database.collection("outbox")));
    outbox.ensure_indexes().await.context("the outbox's indexes cannot be made")?;
    let store = Arc::new(Store::new(&database, Arc::clone(&outbox), writes, args.pause_between_writes));

    let (stop, stopping) = watch::channel(false);
    let drainer = match (args.hub_url, args.hub_token_file) {
        (Some(url), Some(token)) => {
            let hub = drain::Hub::new(url, token)?;
            let stopping = stopping.clone();
            Some(tokio::spawn(async move { hub.drain(outbox, told(stopping)).await }))
        }
        _ => None,
    };

    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    println!("Taking orders at http://{}", listener.local_addr()?);
    let serving = axum::serve(listener, http::routes(store)).with_graceful_shutdown(told(stopping)).into_future();
    let mut serving = tokio::spawn(serving);
    tokio::select! {
        ended = &mut serving => return Ok(ended??),
        asked = asked_to_end() => asked?,
    }
    stop.send_replace(true);
    // What runs may finish, and a client that keeps its connection open must not keep us.
    let last = tokio::time::timeout(Duration::from_secs(10), async {
        serving.await??;
        if let Some(drainer) = drainer {
            drainer.await?;
        }
        anyhow::Ok(())
    });
    last.await.unwrap_or(Ok(()))
}

/// Reads MongoDB's URL, and shows nothing of its password if it cannot: the driver takes one with a sign that is not escaped
/// to end too early, and quotes the rest. And it panics at a % that escapes nothing.
async fn read_url(url: &str) -> anyhow::Result<ClientOptions> {
    const ESCAPES: &str = "in a user or password, % is written %25, @ is %40, : is %3A, / is %2F and ? is %3F";
    let escapes = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|digit| digit.is_ascii_hexdigit());
    if !url.split('%').skip(1).all(escapes) {
        anyhow::bail!("the URL of MongoDB cannot be read; {ESCAPES}");
    }
    ClientOptions::parse(url).await.map_err(|error| match url.contains('@') {
        true => anyhow::anyhow!("the URL of MongoDB cannot be read; {ESCAPES}"),
        false => anyhow::Error::new(error).context("the URL of MongoDB cannot be read"),
    })
}

/// Waits until it is time to stop.
async fn told(mut stopping: watch::Receiver<bool>) {
    // The sender is gone only when the program is.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn asked_to_end() -> std::io::Result<()> {
    let mut terminate = unix::signal(unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupt = tokio::signal::ctrl_c() => interrupt,
    }
}
