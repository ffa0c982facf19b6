//! One file a command: its arguments, and what it does.

pub(crate) mod bench;
pub(crate) mod dev;
pub(crate) mod group;
pub(crate) mod heartbeat;
pub(crate) mod hub;
pub(crate) mod ops;
#[cfg(feature = "mongodb")]
pub(crate) mod outbox;
pub(crate) mod publish;
pub(crate) mod store;
pub(crate) mod subscribe;
pub(crate) mod token;
pub(crate) mod topic;
pub(crate) mod watch;

/// Listens for Ctrl+C and SIGTERM from this call on; the future ends at the first of them. To be called before anything
/// is started that an interruption has to end: until then a signal ends this process on the spot.
pub(crate) fn interruption() -> std::io::Result<impl Future<Output = ()> + Unpin> {
    #[cfg(unix)]
    let (mut interrupt, mut terminate) = {
        use tokio::signal::unix::{SignalKind, signal};
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    #[cfg(windows)]
    let (mut interrupt, mut terminate) = (tokio::signal::windows::ctrl_c()?, tokio::signal::windows::ctrl_close()?);
    Ok(Box::pin(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }))
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
