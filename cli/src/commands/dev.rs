//! `prom dev`: a hub for trying things.

use std::{io::Write, time::Duration};

use prom_hub::{Auth, Hub, store::mongo};
use prom_sdk::Client;

use super::heartbeat::{self, Which};
use crate::{secret, settings::Listen};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  prom dev
  prom dev --port 9000 --no-heartbeat
  prom dev & prom sub '**' & prom pub hello.world '\"hi\"'     the clients find the hub's secret in ./prom-data")]
pub(crate) struct Args {
    #[command(flatten)]
    listen: Listen,
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

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let secret = secret::load_or_make(&args.listen.data)?;
    let kept = match (args.listen.memory_mb, args.listen.mongo_url.as_deref().filter(|url| !url.is_empty())) {
        (Some(_), _) => "Events are kept in memory and are gone when it stops.".to_owned(),
        (None, Some(url)) => format!("Events are kept in MongoDB at {}.", mongo::redact(url)),
        (None, None) => format!("Events are kept in {}.", args.listen.data.display()),
    };
    let auth = Auth::Hs256 { secret: secret.clone(), previous: None, audience: None, issuer: None };
    super::raise_open_files();
    let hub = Hub::start(args.listen.config(auth)?).await?;
    let address = hub.address();
    let ops = hub.ops_address().map(|ops| format!("\n  For operators   http://{ops}/groups")).unwrap_or_default();
    let page = secret::mint(&secret, &["subscribe:process.state".into()], TTL, Some("page"))?;
    let all = secret::mint(&secret, &["*:**".into()], TTL, Some("dev"))?;
    // Into a pipe too, and at once: whoever started this waits for the URL.
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "\n  Prom Hub {} is running. {kept}\n\n  \
         Live processes  http://{address}/#token={page}\n  \
         WebSocket       ws://{address}/ws{ops}\n  \
         Token           {all}\n                  may do everything, good for 7 days\n\n  \
         Stop with Ctrl+C.\n",
        env!("CARGO_PKG_VERSION"),
    )?;
    out.flush()?;
    drop(out);

    let url = format!("ws://{address}/ws");
    let beating = async {
        if args.no_heartbeat {
            return std::future::pending().await;
        }
        let provider = move || {
            let token = secret::mint(&secret, &["publish:heartbeat.received".into()], OWN_TTL, Some("heartbeat"));
            async move { token.map_err(|error| error.to_string().into()) }
        };
        let client = Client::builder(&url).token_provider(provider).connect().await?;
        heartbeat::beat(&client, &args.which).await
    };
    let result = tokio::select! {
        result = beating => result,
        interrupted = super::interrupted() => interrupted.map_err(Into::into),
    };
    hub.shutdown().await;
    result
}
