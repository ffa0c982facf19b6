//! Publishes what is in the outbox, for a hub that does not drain it by itself.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use prom_outbox::{Drainer, MongoOutbox, Options};
use prom_sdk::{BoxError, Client, Error, State};

/// How long to wait after the hub has refused the token for good.
const AGAIN: Duration = Duration::from_secs(5);

/// The hub, and where the token for it is.
pub(crate) struct Hub {
    url: String,
    token: PathBuf,
    client: Client,
}

impl Hub {
    /// The hub may start later than we do: orders are taken meanwhile.
    pub(crate) fn new(url: String, token: PathBuf) -> Result<Self, Error> {
        Ok(Self { client: connect(&url, &token)?, url, token })
    }

    /// Publishes until it is time to stop. A client gives up when the hub has refused its token a few times; a new one then
    /// finds the next token, as soon as there is one. Until then rows wait.
    pub(crate) async fn drain(mut self, outbox: Arc<MongoOutbox>, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            let drainer = Drainer::new(outbox.clone(), Arc::new(self.client.clone()), Options::default());
            let mut stopping = false;
            let end = async {
                tokio::select! {
                    () = &mut stop => stopping = true,
                    () = given_up(&self.client) => {}
                }
            };
            drainer.run(end).await;
            if stopping {
                return;
            }
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
            match connect(&self.url, &self.token) {
                Ok(client) => self.client = client,
                Err(error) => tracing::error!(%error, "the hub"),
            }
        }
    }
}

fn connect(url: &str, token: &Path) -> Result<Client, Error> {
    let token = token.to_path_buf();
    let read = move || {
        let token = token.clone();
        async move {
            let read = tokio::fs::read_to_string(&token).await;
            let text = read.map_err(|error| BoxError::from(format!("{}: {error}", token.display())))?;
            Ok(text.trim().to_owned())
        }
    };
    Client::builder(url).token_provider(read).connect_lazily()
}

/// Waits until the client has closed itself, and says why.
async fn given_up(client: &Client) {
    let mut state = client.state();
    if let Ok(closed) = state.wait_for(|status| status.state == State::Closed).await
        && let Some(error) = &closed.error
    {
        tracing::error!(%error, "the hub refuses the token; rows of the outbox wait for another one");
    }
}
