//! A hub's settings, each from a variable or its flag.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::bail;
use clap::Args;
use prom_hub::{
    Auth, Config, StoreConfig,
    embedded::Options,
    store::{Durability, Retention},
};
#[cfg(feature = "mongodb")]
use prom_hub::{OutboxName, mongo};

use crate::{
    file,
    filled::{entries, filled_if_set, path, switch},
    page, secret,
    tls::Tls,
};

/// Where and how a hub listens: shared by `prom hub` and `prom dev`.
#[derive(Debug, Args)]
pub(crate) struct Listen {
    /// Port of the WebSocket and the page; 0 takes a free one.
    #[arg(long, env = "WS_PORT", default_value_t = 8090)]
    pub(crate) port: u16,
    /// Port of the operators' pages; 0 takes a free one.
    #[arg(long, env = "OPS_PORT", default_value_t = 8082)]
    pub(crate) ops_port: u16,
    /// Address of the operators' pages. Where other machines can reach it, they need OPS_TOKEN or a token with ops:read.
    #[arg(long, env = "OPS_BIND", default_value = "127.0.0.1")]
    pub(crate) ops_bind: IpAddr,
    /// A token that may do everything on the operators' port, at least 16 bytes; then it is asked for on 127.0.0.1 too. As a
    /// flag it can be read by everybody on this machine.
    #[arg(long, env = "OPS_TOKEN", hide_env_values = true)]
    pub(crate) ops_token: Option<String>,
    /// File that holds that token; a line break at its end does not count.
    #[arg(long, env = "OPS_TOKEN_FILE", value_parser = path())]
    pub(crate) ops_token_file: Option<PathBuf>,
    /// Ask for a token with ops:read on the operators' port on 127.0.0.1 too [default: only for payloads]
    #[arg(long, env = "PROM_OPS_AUTH", value_parser = switch("PROM_OPS_AUTH"))]
    pub(crate) ops_auth: bool,
    /// File of revoked tokens, a JSON object a line; it must be there, and is looked at twice a second. See `prom ops revoke`.
    #[arg(long, env = "REVOCATIONS_FILE", value_parser = path())]
    pub(crate) revocations_file: Option<PathBuf>,
    /// Address to listen on.
    #[arg(long, env = "BIND", default_value = "127.0.0.1")]
    pub(crate) bind: IpAddr,
    /// Origins of pages that may connect, comma-separated, like <https://app.example.com>, beside the hub's own page. Set it
    /// where other machines can reach the port [default: any; a token is needed all the same]
    #[arg(long, env = "PROM_ORIGINS", value_delimiter = ',')]
    pub(crate) origins: Option<Vec<String>>,
    /// Listen without TLS on an address other machines can reach although tokens then travel unencrypted: there is TLS
    /// in front.
    #[arg(long)]
    pub(crate) allow_plaintext: bool,
    #[command(flatten)]
    pub(crate) tls: Tls,
    /// Folder the events are kept in.
    #[arg(long, env = "PROM_DATA", default_value = "./prom-data")]
    pub(crate) data: PathBuf,
    /// Keep events in this MongoDB replica set instead: mongodb://user:password@host1,host2/database?replicaSet=rs0
    #[arg(long, env = "MONGO_URL", hide_env_values = true)]
    pub(crate) mongo_url: Option<String>,
    /// Collections of rows that services write in transactions and the hub publishes, comma-separated: outbox in the
    /// hub's own database, shop.outbox in another one of the same MongoDB; off for none
    #[arg(long, env = "PROM_OUTBOX", default_value = "outbox", value_delimiter = ',')]
    pub(crate) outbox: Vec<String>,
    /// When an event is acknowledged: commit (it is on disk), interval:50ms (on disk at most so much later), or os
    /// (on disk when the operating system writes it).
    #[arg(long, env = "PROM_DURABILITY", default_value = "commit", value_parser = durability)]
    pub(crate) durability: Durability,
    /// Configuration file, TOML: retention by topic, room for events, limits for clients.
    #[arg(long, env = "PROM_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Keep events in memory alone, so many MiB of them; nothing survives the hub.
    #[arg(long, env = "PROM_MEMORY_MB")]
    pub(crate) memory_mb: Option<usize>,
}

/// Longest interval: what is acknowledged must not stay in memory for ever.
const LONGEST_INTERVAL: u64 = 60_000;

/// Reads `commit`, `interval:<ms>` or `os`.
fn durability(text: &str) -> Result<Durability, String> {
    match text {
        // An empty variable is one that is not set.
        "commit" | "" => Ok(Durability::Commit),
        "os" => Ok(Durability::Os),
        other => {
            let ms = other.strip_prefix("interval:").map(|ms| ms.strip_suffix("ms").unwrap_or(ms));
            match ms.and_then(|ms| ms.parse().ok()) {
                Some(ms) if (1..=LONGEST_INTERVAL).contains(&ms) => Ok(Durability::Interval(Duration::from_millis(ms))),
                _ => Err(format!("it is commit, os, or interval:<ms> with 1 to {LONGEST_INTERVAL} ms")),
            }
        }
    }
}

/// Outboxes by their names: none where it says off, or nothing.
#[cfg(feature = "mongodb")]
pub(crate) fn outboxes(names: &[String]) -> anyhow::Result<Vec<OutboxName>> {
    let names: Vec<&str> = names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
    if names == ["off"] {
        return Ok(Vec::new());
    }
    let mut outboxes: Vec<OutboxName> = Vec::with_capacity(names.len());
    for name in names {
        if name == "off" {
            bail!("PROM_OUTBOX: off stands by itself, for no outbox at all");
        }
        let outbox = OutboxName::new(name).map_err(|why| anyhow::anyhow!("PROM_OUTBOX: {why}"))?;
        if outboxes.contains(&outbox) {
            bail!("PROM_OUTBOX names {name} twice");
        }
        outboxes.push(outbox);
    }
    Ok(outboxes)
}

impl Listen {
    /// The whole configuration.
    pub(crate) fn config(self, auth: Auth) -> anyhow::Result<Config> {
        let mut config = Config::new(auth);
        config.port = self.port;
        config.ops_port = Some(self.ops_port);
        config.ops_bind = self.ops_bind;
        config.ops_token = secret::given("OPS_TOKEN", self.ops_token, self.ops_token_file)?;
        config.ops_auth = self.ops_auth;
        config.revocations_file = filled_if_set("REVOCATIONS_FILE", self.revocations_file)?;
        config.bind = self.bind;
        // An origin has neither a path nor capitals, whatever was copied from the address bar.
        let origins = entries("PROM_ORIGINS", self.origins)?;
        let origins = origins.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase());
        let origins: Vec<String> = origins.collect();
        config.origins = (!origins.is_empty()).then_some(origins);
        config.allow_plaintext = self.allow_plaintext;
        config.page = Some(page::file);
        let mut options = Options { durability: self.durability, ..Options::default() };
        let read = |path| file::read(path, &mut options, &mut config.limits);
        let file::Read { rules, expire_groups, certificates } =
            self.config.as_deref().map(read).transpose()?.unwrap_or_default();
        config.expire_groups = expire_groups;
        self.tls.apply(certificates, &mut config)?;
        options.retention = Retention::new(rules).with_own();
        config.store = match (self.memory_mb, secret::mongo_url(self.mongo_url)?) {
            (Some(_), Some(_)) => bail!("MONGO_URL and PROM_MEMORY_MB are both set; a hub has one store"),
            (Some(mb), None) => StoreConfig::Memory(mb.saturating_mul(1024 * 1024)),
            #[cfg(feature = "mongodb")]
            (None, Some(url)) => {
                let Options { durability, retention, max_bytes, cache_bytes, .. } = options;
                let own = mongo::Options::new(url);
                let outboxes = outboxes(&self.outbox)?;
                StoreConfig::Mongo(mongo::Options { durability, retention, max_bytes, cache_bytes, ..own }, outboxes)
            }
            #[cfg(not(feature = "mongodb"))]
            (None, Some(_)) => return Err(crate::without_mongo::without().context("MONGO_URL is set")),
            (None, None) => StoreConfig::Embedded(self.data, options),
        };
        Ok(config)
    }
}
