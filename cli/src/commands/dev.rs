//! `prom dev`: a hub for trying things.

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::Context;
use prom_hub::{Auth, Hub};
use prom_sdk::Client;

use super::heartbeat::{self, Which};
use crate::{
    connect::trusting,
    filled::{ca_file, filled_if_set, path},
    own_mongo::{self, OwnMongo},
    secret,
    settings::Listen,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  prom dev
  prom dev --port 9000 --no-heartbeat
  prom dev --mongo                                          on a MongoDB server of its own, which ends with it
  prom dev & prom sub '**' & prom pub hello.world '\"hi\"'     the clients find the hub's secret in ./prom-data")]
pub(crate) struct Args {
    #[command(flatten)]
    listen: Listen,
    /// Keep events in a MongoDB replica set of one node, started for this hub and ended with it; its data stays in the
    /// folder mongo of the data folder. The server: MONGOD, or mongod on PATH, or what `npm run setup -- mongod` fetched.
    #[arg(long)]
    mongo: bool,
    /// Authorities that the hub's own heartbeat trusts instead of the system's, PEM, where the hub speaks TLS.
    #[arg(long, env = "PROM_CA_FILE", value_parser = path())]
    ca_file: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// Do not publish this machine's processes.
    #[arg(long)]
    no_heartbeat: bool,
}

/// How long the printed tokens are good for.
const TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long those are that the hub makes for its own heartbeat; a new one is made before it runs out.
const OWN_TTL: Duration = Duration::from_secs(3600);

pub(crate) async fn run(mut args: Args) -> anyhow::Result<()> {
    args.listen.mongo_url = filled_if_set("MONGO_URL", args.listen.mongo_url)?;
    ca_file(args.ca_file.as_ref())?;
    let secret = secret::load_or_make(&args.listen.data)?;
    let mut interrupted = super::interruption()?;
    let mongo = if args.mongo {
        tokio::select! {
            mongo = OwnMongo::start(&args.listen) => Some(mongo?),
            // Dropped while it starts, it ends what it has started.
            () = &mut interrupted => return Ok(()),
        }
    } else {
        None
    };
    let kept = match (&mongo, args.listen.memory_mb, &args.listen.mongo_url) {
        (Some(_), ..) => format!("Events are kept in {}.", own_mongo::folder(&args.listen.data).display()),
        (None, Some(_), _) => "Events are kept in memory and are gone when it stops.".to_owned(),
        #[cfg(feature = "mongodb")]
        (None, None, Some(url)) => format!("Events are kept in MongoDB at {}.", prom_hub::mongo::redact(url)),
        #[cfg(not(feature = "mongodb"))]
        (None, None, Some(_)) => return Err(crate::without_mongo::without().context("MONGO_URL is set")),
        (None, None, None) => format!("Events are kept in {}.", args.listen.data.display()),
    };
    if let Some(mongo) = &mongo {
        args.listen.mongo_url = Some(mongo.url().to_owned());
    }
    let auth = Auth::hs256(secret.clone());
    super::raise_open_files();
    let config = args.listen.config(auth)?;
    let scheme = |tls: bool, scheme: &str| if tls { format!("{scheme}s") } else { scheme.to_owned() };
    let (http, ws) = (scheme(config.tls.is_some(), "http"), scheme(config.tls.is_some(), "ws"));
    let ops_http = scheme(config.ops_tls.is_some(), "http");
    let hub = tokio::select! {
        hub = Hub::start(config) => hub?,
        () = &mut interrupted => return end(mongo).await,
    };
    let address = hub.address();
    let ops = hub.ops_address().map(|ops| format!("\n  For operators   {ops_http}://{ops}/groups")).unwrap_or_default();
    let server = mongo.as_ref().map(|mongo| format!("\n  MongoDB         {}", mongo.url())).unwrap_or_default();
    let page = secret::mint(&secret, &["read:process.state".into()], TTL, Some("page"))?;
    let all = secret::mint(&secret, &["*:**".into()], TTL, Some("dev"))?;
    // Into a pipe too, and at once: whoever started this waits for the URL.
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "\n  Prom Hub {} is running. {kept}\n\n  \
         Live processes  {http}://{address}/#token={page}\n  \
         WebSocket       {ws}://{address}/ws{ops}{server}\n  \
         Token           {all}\n                  may do everything, good for 7 days\n\n  \
         Stop with Ctrl+C.\n",
        env!("CARGO_PKG_VERSION"),
    )?;
    out.flush()?;
    drop(out);

    let url = format!("{ws}://{address}/ws");
    let beating = async {
        if args.no_heartbeat {
            return std::future::pending().await;
        }
        let provider = move || {
            let token = secret::mint(&secret, &["publish:heartbeat.received".into()], OWN_TTL, Some("heartbeat"));
            async move { token.map_err(|error| error.to_string().into()) }
        };
        let builder = trusting(Client::builder(&url).token_provider(provider), args.ca_file.as_deref());
        let client = builder.connect().await.with_context(|| {
            format!("this machine's processes cannot be published to {url}; --no-heartbeat does without")
        })?;
        heartbeat::beat(&client, &args.which).await
    };
    let result = tokio::select! {
        result = beating => result,
        () = interrupted => Ok(()),
    };
    hub.shutdown().await;
    end(mongo).await?;
    result
}

/// Ends the MongoDB of this hub, if it has one, in good order.
async fn end(mongo: Option<OwnMongo>) -> anyhow::Result<()> {
    match mongo {
        Some(mongo) => mongo.shutdown().await,
        None => Ok(()),
    }
}
