//! One set of one node for all tests of a binary.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tokio::sync::{OnceCell, oneshot};

use crate::{error::Error, options::Options, set::ReplicaSet};

/// The URL of the set of one node that all tests of this process share. The first call starts it; it ends with the
/// process. Do not kill or stop its node: a test that does starts a set of its own with [`ReplicaSet::start`].
///
/// This returns no client, because a client must not outlive the runtime that made it, and each test has its own.
///
/// # Errors
/// The set could not be started. The next call tries again.
pub async fn shared() -> Result<&'static str, Error> {
    static SHARED: OnceCell<String> = OnceCell::const_new();
    SHARED.get_or_try_init(start).await.map(String::as_str)
}

/// A database name that no other test of this process has, for the shared set. It begins with `label`, which tells
/// people which test it was: letters, digits and `_`, at most 40.
pub fn fresh_database(label: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{label}_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Starts it on a thread and a runtime of its own, because the test that happens to call first may end before others.
async fn start() -> Result<String, Error> {
    let thread_error = Error::io("start a thread for the shared replica set");
    let (answer, started) = oneshot::channel();
    let work = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(hold(answer)),
        // Nobody receives this if the first caller is gone; then the next one starts the set.
        Err(error) => drop(answer.send(Err(Error::io("start a runtime for the shared replica set")(error)))),
    };
    thread::Builder::new().name("shared-mongod".into()).spawn(work).map_err(thread_error)?;
    let ended = || Error::io("hear from the shared replica set")(std::io::ErrorKind::BrokenPipe.into());
    started.await.map_err(|_| ended())?
}

/// Keeps the set for as long as the process lives.
async fn hold(answer: oneshot::Sender<Result<String, Error>>) {
    match ReplicaSet::start(Options::default()).await {
        Ok(set) => {
            if answer.send(Ok(set.url().to_owned())).is_ok() {
                std::future::pending::<()>().await;
            }
        }
        Err(error) => drop(answer.send(Err(error))),
    }
}
