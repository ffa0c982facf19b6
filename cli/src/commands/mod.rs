//! One file a command: its arguments, and what it does.

pub(crate) mod bench;
pub(crate) mod dev;
pub(crate) mod heartbeat;
pub(crate) mod hub;
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
