//! The MongoDB server of `prom dev --mongo`: one node, started for this hub, with its data in the hub's folder.

use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::settings::Listen;

/// Where its data is.
pub(crate) fn folder(data: &Path) -> PathBuf {
    data.join("mongo")
}

/// A server that runs. When this process ends, by whatever cause, so does the server.
pub(crate) struct OwnMongo {
    #[cfg(unix)]
    set: prom_outbox::mongod::ReplicaSet,
    #[cfg(not(unix))]
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

#[cfg(unix)]
impl OwnMongo {
    async fn start_in(dir: PathBuf) -> anyhow::Result<Self> {
        use prom_outbox::mongod::{Elections, Options, ReplicaSet};

        let options =
            Options { dir: Some(dir), oplog_mb: OPLOG_MB, elections: Elections::Production, ..Options::default() };
        Ok(Self { set: ReplicaSet::start(options).await? })
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
#[cfg(unix)]
const OPLOG_MB: u32 = 512;

#[cfg(not(unix))]
impl OwnMongo {
    async fn start_in(_: PathBuf) -> anyhow::Result<Self> {
        bail!("--mongo works on Linux and macOS only; start a MongoDB replica set yourself and set MONGO_URL")
    }

    pub(crate) fn url(&self) -> &str {
        match self.never {}
    }

    pub(crate) async fn shutdown(self) -> anyhow::Result<()> {
        match self.never {}
    }
}
