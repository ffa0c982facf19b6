//! `prom bench`: measure a hub, and check what it answers.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Subcommand;
use prom_bench::{
    DeliverOptions, Error, HubInfo, IdleOptions, LatencyOptions, Launch, Machine, OutboxOptions, OwnHub, Pids,
    PublishOptions, Report, Row, Scenario, Target,
};
use tokio::sync::oneshot;

use crate::{connect::Connection, filled::filled_if_set, own_mongo::OwnMongo, secret};

#[derive(Debug, clap::Args)]
#[command(mut_args(|argument| argument.global(true)), after_help = "Examples:
  prom bench --self all                               the standard rows, a fresh hub for each
  prom bench --self --durability os publish --connections 16 --window 64
  prom bench --self --times 3 --json bench.json all
  prom bench --self --mongo publish --connections 16 --window 64
  prom bench --self --mongo outbox --drain 50000
  prom bench --url ws://10.0.0.7:8090/ws latency --rate 5000

Topics are bench.<run>.<n>; a token needs publish:bench.** and subscribe:bench.**. The hub's events stay there, and rows of
an outbox until the hub removes them. outbox needs no right to publish, but the hub's MongoDB.")]
pub(crate) struct Args {
    /// Start a hub for this, in a temporary folder, a fresh one for each run; --url and --token are not looked at.
    #[arg(long = "self")]
    own: bool,
    /// PROM_DURABILITY of the hub of --self.
    #[arg(long, requires = "own")]
    durability: Option<String>,
    /// Keep the events of the hub of --self in a MongoDB replica set of one node, a fresh one for each run too, with a
    /// cache of 1 GB and its data in a temporary folder. The server: MONGOD, or mongod on PATH, or what
    /// `npm run setup -- mongod` fetched.
    #[arg(long, requires = "own")]
    mongo: bool,
    /// Write JSON to this file, or to standard output in place of the table with -
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Runs of each scenario, 1 to 100; the median one is reported.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    times: u32,
    /// Process of the hub [default: what its ops port says]
    #[arg(long)]
    pid: Option<u32>,
    /// The hub's ops port on this machine.
    #[arg(long, env = "OPS_PORT", default_value_t = 8082)]
    ops_port: u16,
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Acknowledged publishes a second.
    Publish(Publish),
    /// Deliveries a second to one durable group, each acknowledged.
    Deliver(Deliver),
    /// Time from when a publish was due to its OK, and to its delivery.
    Latency(Latency),
    /// Memory a hub takes for each idle connection.
    Idle(Idle),
    /// Rows that a service writes to an outbox in transactions: time from when one was due to its event, or rows drained a
    /// second.
    Outbox(Outbox),
    /// The standard rows: idle 1000, publish 1 x 1000 and 16 x 64, deliver, latency at 2000/s.
    All,
}

#[derive(Debug, clap::Args)]
struct Publish {
    /// Connections, 1 to 10000.
    #[arg(long, default_value_t = PublishOptions::default().connections)]
    connections: usize,
    /// Publishes in flight on each connection, 1 to 100000.
    #[arg(long, default_value_t = PublishOptions::default().window)]
    window: usize,
    /// Bytes of a payload.
    #[arg(long, default_value_t = PublishOptions::default().payload)]
    payload: usize,
    /// Topics, taken in turn, 1 to 1000.
    #[arg(long, default_value_t = PublishOptions::default().topics)]
    topics: usize,
    /// Publishes over all connections.
    #[arg(long, conflicts_with = "duration")]
    count: Option<u64>,
    /// How long to publish, like 5s, 1m.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Give each publish an id, as the SDKs do.
    #[arg(long)]
    ids: bool,
    /// Several frames in one message, both ways, as the SDKs do.
    #[arg(long)]
    batch: bool,
}

#[derive(Debug, clap::Args)]
struct Deliver {
    /// Events.
    #[arg(long, default_value_t = DeliverOptions::default().count)]
    count: u64,
    /// Members of the group, each on a connection of its own, 1 to 1000.
    #[arg(long, default_value_t = DeliverOptions::default().members)]
    members: usize,
    /// Events a member may have unsettled, 1 to 10000.
    #[arg(long, default_value_t = DeliverOptions::default().in_flight)]
    in_flight: u32,
    /// Bytes of a payload.
    #[arg(long, default_value_t = DeliverOptions::default().payload)]
    payload: usize,
    /// Topics, 1 to 1000; with more than one the group subscribes to a pattern.
    #[arg(long, default_value_t = DeliverOptions::default().topics)]
    topics: usize,
    /// Publish while the group receives, not before.
    #[arg(long)]
    live: bool,
    /// Publishes in flight, 1 to 100000.
    #[arg(long, default_value_t = DeliverOptions::default().window)]
    window: usize,
    /// Several frames in one message, both ways, as the SDKs do.
    #[arg(long)]
    batch: bool,
}

#[derive(Debug, clap::Args)]
struct Latency {
    /// Publishes a second.
    #[arg(long, default_value_t = LatencyOptions::default().rate)]
    rate: u64,
    /// For how long, like 10s, 1m.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Bytes of a payload.
    #[arg(long, default_value_t = LatencyOptions::default().payload)]
    payload: usize,
}

#[derive(Debug, clap::Args)]
struct Idle {
    /// Connections.
    #[arg(long, default_value_t = IdleOptions::default().connections)]
    connections: usize,
}

#[derive(Debug, clap::Args)]
struct Outbox {
    /// Rows a second, each in a transaction with one other document.
    #[arg(long, default_value_t = OutboxOptions::default().rate)]
    rate: u64,
    /// For how long, like 15s, 1m, or a number of seconds.
    #[arg(long, alias = "seconds", default_value = "15s", value_parser = seconds)]
    duration: Duration,
    /// Commit so many rows at one moment instead, 2 to 100000, and measure how fast the hub drains them. They are one
    /// transaction: MongoDB refuses what does not fit into its cache, 25000 in 256 MB, 100000 in 1 GB.
    #[arg(long, value_name = "ROWS", conflicts_with_all = ["rate", "duration"])]
    drain: Option<u64>,
    /// Bytes of a payload.
    #[arg(long, default_value_t = OutboxOptions::default().payload)]
    payload: usize,
    /// Keys, taken in turn, 1 to 1000000; the order of the rows of each is checked.
    #[arg(long, default_value_t = OutboxOptions::default().keys)]
    keys: u64,
    /// The hub's MongoDB, with its database; not looked at with --self.
    #[arg(long, env = "MONGO_URL", hide_env_values = true)]
    mongo_url: Option<String>,
    /// A collection that the hub drains, like outbox, or shop.outbox in another database.
    #[arg(long, default_value_t = OutboxOptions::default().outbox)]
    outbox: String,
}

fn seconds(text: &str) -> Result<Duration, humantime::DurationError> {
    text.parse().map(Duration::from_secs).or_else(|_| humantime::parse_duration(text))
}

impl What {
    /// What only `outbox` needs: where its rows go.
    fn rows_go_to(&self) -> anyhow::Result<(Option<String>, Option<String>)> {
        let Self::Outbox(Outbox { mongo_url, outbox, .. }) = self else { return Ok((None, None)) };
        #[cfg(feature = "mongodb")]
        prom_hub::OutboxName::new(outbox).map_err(|why| anyhow::anyhow!("--outbox: {why}"))?;
        Ok((filled_if_set("MONGO_URL", mongo_url.clone())?, Some(outbox.clone())))
    }

    fn scenarios(self) -> Vec<Scenario> {
        match self {
            Self::Publish(Publish { connections, window, payload, topics, count, duration, ids, batch }) => {
                let options = PublishOptions { connections, window, payload, topics, count, duration, ids, batch };
                vec![Scenario::Publish(options)]
            }
            Self::Deliver(Deliver { count, members, in_flight, payload, topics, live, window, batch }) => {
                let options = DeliverOptions { count, members, in_flight, payload, topics, live, window, batch };
                vec![Scenario::Deliver(options)]
            }
            Self::Latency(Latency { rate, duration, payload }) => {
                vec![Scenario::Latency(LatencyOptions { rate, duration, payload })]
            }
            Self::Idle(Idle { connections }) => vec![Scenario::Idle(IdleOptions { connections })],
            Self::Outbox(Outbox { rate, duration, drain, payload, keys, outbox, .. }) => {
                vec![Scenario::Outbox(OutboxOptions { rate, duration, drain, payload, keys, outbox })]
            }
            Self::All => Scenario::standard(),
        }
    }
}

/// What a token of the bench may do.
const SCOPES: [&str; 2] = ["publish:bench.**", "subscribe:bench.**"];
/// How long a token for a hub of the bench's own is good for.
const TTL: Duration = Duration::from_secs(24 * 3600);
/// Time between two looks at a hub that is starting.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { own, durability, mongo, json, times, pid, ops_port, connection, what } = args;
    let (mongo_url, outbox) = what.rows_go_to()?;
    let hubs = if own {
        if outbox.is_some() && !mongo {
            bail!(Error::NoMongo);
        }
        let secret = secret::random_hex()?;
        let token = secret::mint(&secret, &SCOPES.map(String::from), TTL, None)?;
        let exe = std::env::current_exe().context("cannot tell where this program is")?;
        Hubs::Own { launch: Launch { exe, secret, durability, mongo_url: None, outbox }, token, mongo }
    } else {
        let token = connection.token(&SCOPES.map(String::from))?;
        let mut target = Target::new(connection.url, token);
        target.connect = connection.timeout;
        target.mongo_url = mongo_url;
        if outbox.is_some() && target.mongo_url.is_none() {
            bail!(Error::NoMongo);
        }
        Hubs::There { target, pid, ops_port }
    };
    let scenarios = what.scenarios();
    scenarios.iter().try_for_each(Scenario::check)?;
    let interrupted = super::interruption()?;
    // Dropped at an interruption, and with it the hub it may have started.
    let report = tokio::select! {
        report = measure(&hubs, scenarios, times) => report?,
        () = interrupted => bail!("interrupted"),
    };
    print(&report, json.as_deref())?;
    if !report.is_good() {
        bail!("not every measurement could be made, or the hub did something wrong");
    }
    Ok(())
}

/// Where the hubs come from.
enum Hubs {
    Own { launch: Launch, token: String, mongo: bool },
    There { target: Target, pid: Option<u32>, ops_port: u16 },
}

/// A hub of the bench's own, and what it runs on. Dropped in this order.
struct Own {
    hub: OwnHub,
    /// Held for the hub's sake.
    _mongo: Option<OwnMongo>,
    target: Target,
    pids: Pids,
}

impl Own {
    async fn start(launch: &Launch, token: &str, mongo: bool) -> anyhow::Result<Self> {
        let mongo = if mongo { Some(OwnMongo::start_temporary().await?) } else { None };
        let mongo_url = mongo.as_ref().map(|mongo| mongo.url().to_owned());
        let mut hub = OwnHub::spawn(&Launch { mongo_url: mongo_url.clone(), ..launch.clone() })?;
        while !hub.is_ready()? {
            tokio::time::sleep(LOOK).await;
        }
        let mut target = Target::new(hub.url(), token);
        target.mongo_url = mongo_url;
        let pids = Pids { hub: Some(hub.pid()), mongod: mongo.as_ref().and_then(OwnMongo::pid) };
        Ok(Self { hub, _mongo: mongo, target, pids })
    }
}

async fn measure(hubs: &Hubs, scenarios: Vec<Scenario>, times: u32) -> anyhow::Result<Report> {
    let mut told = None;
    let mut rows = Vec::new();
    for scenario in scenarios {
        let mut runs = Vec::new();
        for _ in 0..times {
            eprintln!("{}: {}", scenario.name(), scenario.title());
            match once(hubs, &scenario, &mut told).await {
                Ok(row) => runs.push(row),
                Err(error) => {
                    // Others may still go well; of this one there is no median.
                    runs = vec![Row::failed(&scenario, format!("{error:#}"))];
                    break;
                }
            }
        }
        rows.extend(Row::median(runs));
    }
    let hub = told.unwrap_or_else(|| HubInfo::unknown(None));
    Ok(Report { hub, machine: Machine::this(), rows })
}

/// One run, with a hub of its own if so wanted.
async fn once(hubs: &Hubs, scenario: &Scenario, told: &mut Option<HubInfo>) -> anyhow::Result<Row> {
    let (target, mut pids, ops_port, own) = match hubs {
        Hubs::Own { launch, token, mongo } => {
            let own = Own::start(launch, token, *mongo).await?;
            (own.target.clone(), own.pids, own.hub.ops_port(), Some(own))
        }
        Hubs::There { target, pid, ops_port } => (target.clone(), Pids { hub: *pid, mongod: None }, *ops_port, None),
    };
    let scenario = scenario.clone();
    let own_version = own.is_some().then_some(env!("CARGO_PKG_VERSION"));
    let (sender, done) = oneshot::channel();
    // A thread that nobody waits for at the end, so that an interruption ends this program at once.
    std::thread::spawn(move || {
        let info = HubInfo::ask(ops_port, &target).unwrap_or_else(|| HubInfo {
            version: own_version.unwrap_or("unknown").into(),
            ..HubInfo::unknown(pids.hub)
        });
        pids.hub = pids.hub.or(info.pid);
        let row = prom_bench::run(&target, &scenario, pids);
        // Nobody listens after an interruption.
        let _ = sender.send((info, row));
    });
    let (info, row) = done.await.context("the bench itself failed")?;
    told.get_or_insert(info);
    Ok(row?)
}

fn print(report: &Report, json: Option<&Path>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let text = serde_json::to_string_pretty(report)? + "\n";
    match json {
        Some(path) if path == Path::new("-") => out.write_all(text.as_bytes())?,
        Some(path) => {
            out.write_all(report.table().as_bytes())?;
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        None => out.write_all(report.table().as_bytes())?,
    }
    Ok(out.flush()?)
}
