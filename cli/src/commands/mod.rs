//! One file a command: its arguments, and what it does.

pub(crate) mod bench;
pub(crate) mod dev;
pub(crate) mod heartbeat;
pub(crate) mod hub;
#[cfg(feature = "mongodb")]
pub(crate) mod outbox;
pub(crate) mod publish;
pub(crate) mod store;
pub(crate) mod subscribe;
pub(crate) mod token;
pub(crate) mod watch;

/// Resolves on Ctrl+C or SIGTERM.
pub(crate) async fn interrupted() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// Raises the number of files this process may have open to what it is allowed: each connection is one, and each 64 MiB
/// of the log are two, while many systems begin with 1024.
pub(crate) fn raise_open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
}
