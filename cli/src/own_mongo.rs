//! The MongoDB servers of `prom dev --mongo` and `prom bench --self --mongo`: one node, started for this hub. The one of
//! `dev` has its data in the hub's folder, that of `bench` in a temporary one.

use std::path::{Path, PathBuf};

use anyhow::bail;
#[cfg(all(unix, feature = "mongodb"))]
use prom_mongod::{Elections, Options, ReplicaSet};

use crate::settings::Listen;

/// Where its data is.
pub(crate) fn folder(data: &Path) -> PathBuf {
    data.join("mongo")
}

/// A server that runs. When this process ends, by whatever cause, so does the server.
pub(crate) struct OwnMongo {
    #[cfg(all(unix, feature = "mongodb"))]
    set: ReplicaSet,
    #[cfg(not(all(unix, feature = "mongodb")))]
    never: std::convert::Infallible,
}

impl OwnMongo {
    pub(crate) async fn start(listen: &Listen) -> anyhow::Result<Self> {
        if listen.mongo_url.is_some() {
            bail!("--mongo and MONGO_URL are both set: a MongoDB server of this hub's own, or that one");
        }
        if listen.memory_mb.is_some() {
            bail!("--mongo and PROM_MEMORY_MB are both set; a hub has one store");
        }
        Self::start_in(folder(&listen.data)).await
    }
}

#[cfg(all(unix, feature = "mongodb"))]
impl OwnMongo {
    async fn start_in(dir: PathBuf) -> anyhow::Result<Self> {
        Self::start_with(Options { dir: Some(dir), ..Options::default() }).await
    }

    /// One to be measured with a hub. Dropping it ends it and removes its data.
    pub(crate) async fn start_temporary() -> anyhow::Result<Self> {
        Self::start_with(Options { cache_mb: BENCH_CACHE_MB, ..Options::default() }).await
    }

    async fn start_with(options: Options) -> anyhow::Result<Self> {
        let options = Options { oplog_mb: OPLOG_MB, elections: Elections::Production, ..options };
        Ok(Self { set: ReplicaSet::start(options).await? })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.set.pids().first().copied().flatten()
    }

    /// Where it is, for this hub and for services.
    pub(crate) fn url(&self) -> &str {
        self.set.url()
    }

    /// Ends it in good order.
    pub(crate) async fn shutdown(self) -> anyhow::Result<()> {
        Ok(self.set.shutdown().await?)
    }
}

/// Enough for services to be away for a while and follow their change streams again.
#[cfg(all(unix, feature = "mongodb"))]
const OPLOG_MB: u32 = 512;
/// Enough to keep all that a bench writes.
#[cfg(all(unix, feature = "mongodb"))]
const BENCH_CACHE_MB: u32 = 1024;

#[cfg(not(all(unix, feature = "mongodb")))]
impl OwnMongo {
    async fn start_in(_: PathBuf) -> anyhow::Result<Self> {
        #[cfg(feature = "mongodb")]
        bail!("--mongo works on Linux and macOS only; start a MongoDB replica set yourself and set MONGO_URL");
        #[cfg(not(feature = "mongodb"))]
        Err(crate::without_mongo::without().context("--mongo is given"))
    }

    pub(crate) async fn start_temporary() -> anyhow::Result<Self> {
        Self::start_in(PathBuf::new()).await
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        match self.never {}
    }

    pub(crate) fn url(&self) -> &str {
        match self.never {}
    }

    pub(crate) async fn shutdown(self) -> anyhow::Result<()> {
        match self.never {}
    }
}
