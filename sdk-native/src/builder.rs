//! How a client is made.

use std::{sync::Arc, time::Duration};

use prom_sdk_core::Config;
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::{
    BoxError, Client, Error,
    command::{Command, Inner},
    http::Http,
    owner::{Owner, Parts, Transport, millis},
    shared::Shared,
    tokens::TokenSource,
};

/// Where the client gets its token.
#[derive(Clone)]
enum Tokens {
    Missing,
    Fixed(String),
    Provider(TokenSource),
}

/// Settings of a [`Client`]; made by [`Client::builder`].
// No `Debug`: it holds a token.
#[derive(Clone)]
#[must_use]
pub struct ClientBuilder {
    url: String,
    tokens: Tokens,
    config: Config,
    max_queued: usize,
    max_queued_bytes: usize,
    #[cfg(feature = "tls")]
    ca_file: Option<std::path::PathBuf>,
}

impl ClientBuilder {
    pub(crate) fn new(url: impl Into<String>) -> Self {
        let config = Config::default();
        let (max_queued, max_queued_bytes) = (config.max_queued, config.max_queued_bytes);
        Self {
            url: url.into(),
            tokens: Tokens::Missing,
            config,
            max_queued,
            max_queued_bytes,
            #[cfg(feature = "tls")]
            ca_file: None,
        }
    }

    /// A token that never changes. When it expires or is refused the client closes; see [`Self::token_provider`].
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.tokens = Tokens::Fixed(token.into());
        self
    }

    /// Is called for a token on every connection, and again before the token expires.
    ///
    /// ```
    /// # async fn fetch() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// let builder = prom_sdk::Client::builder("ws://127.0.0.1:8090/ws").token_provider(|| async { Ok(fetch().await?) });
    /// ```
    pub fn token_provider<F, Fut>(mut self, provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, BoxError>> + Send + 'static,
    {
        self.tokens = Tokens::Provider(TokenSource::new(provider));
        self
    }

    /// Trusts the authorities in this PEM file with `wss://`, and no others: for a hub whose certificate is of one's own
    /// making. It is read once, when the client is made. Default: those the system trusts, or those of `SSL_CERT_FILE`.
    #[cfg(feature = "tls")]
    pub fn ca_file(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// How long a request may take, reconnects included; default 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout_ms = millis(timeout);
        self
    }

    /// How long one try to connect may take, and after it the answer to AUTH; default 10 s each.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout_ms = millis(timeout);
        self
    }

    /// How long the token provider may take; default 30 s.
    pub fn token_timeout(mut self, timeout: Duration) -> Self {
        self.config.token_timeout_ms = millis(timeout);
        self
    }

    /// Bounds of the random wait before a reconnect: of the first, doubling up to that of the longest. Default 250 ms
    /// and 30 s.
    pub fn reconnect(mut self, first: Duration, longest: Duration) -> Self {
        self.config.reconnect_min_ms = millis(first);
        self.config.reconnect_max_ms = millis(longest);
        self
    }

    /// Send a PING after so much silence of the hub, and give the connection up when nothing follows it for so long.
    /// Default 25 s and 35 s.
    pub fn keep_alive(mut self, ping_after: Duration, give_up_after: Duration) -> Self {
        self.config.ping_after_ms = millis(ping_after);
        self.config.ping_timeout_ms = millis(give_up_after);
        self
    }

    /// Unanswered publishes, by count and by bytes; further ones wait for room. Default 10,000 and 16 MiB.
    pub fn max_queued(mut self, count: usize, bytes: usize) -> Self {
        self.max_queued = count.max(1);
        self.max_queued_bytes = bytes.max(1);
        self
    }

    /// Connects, and resolves when the hub has taken the token. While the hub cannot be reached it goes on trying, as long
    /// as the request timeout allows.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unauthorized`]: the hub refuses the token; [`crate::ErrorKind::Timeout`]: no hub in time;
    /// [`crate::ErrorKind::Config`]: see [`Self::connect_lazily`].
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.start()?;
        client.inner().ask(Command::Connect).await?;
        Ok(client)
    }

    /// A client that connects by itself, now and for as long as it takes: for programs that may start before their hub.
    /// Publishes and subscriptions made meanwhile wait for the connection. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`]: the URL is none of a WebSocket, TLS has no certificates to trust, or not those of
    /// `ca_file`, or the waits of [`Self::reconnect`] are the wrong way round. [`crate::ErrorKind::Unauthorized`]: no token
    /// was given.
    pub fn connect_lazily(self) -> Result<Client, Error> {
        let client = self.start()?;
        let (reply, _) = tokio::sync::oneshot::channel();
        // The first command of an empty queue.
        let _ = client.inner().commands.try_send(Command::Connect(reply));
        Ok(client)
    }

    fn start(self) -> Result<Client, Error> {
        /// Commands on their way to the owner.
        const COMMANDS: usize = 4096;
        #[cfg(feature = "tls")]
        let trust = self.ca_file;
        #[cfg(not(feature = "tls"))]
        let trust: Option<std::path::PathBuf> = None;
        let Self { url, tokens, mut config, max_queued, max_queued_bytes, .. } = self;
        let tokens = match tokens {
            Tokens::Missing => return Err(Error::no_token()),
            Tokens::Fixed(token) => {
                config.token = Some(token);
                None
            }
            Tokens::Provider(provider) => Some(provider),
        };
        if config.reconnect_min_ms > config.reconnect_max_ms {
            return Err(Error::config("reconnect: the first wait must not be longer than the longest"));
        }
        let transport = Transport::new(&url, trust.as_deref())?;
        let span = tracing::debug_span!("prom_client", hub = transport.host().authority);
        let request_timeout = Duration::from_millis(config.request_timeout_ms);
        let http = Http::new(Arc::clone(transport.host()), &config, tokens.clone());
        // The owner stops taking publishes at the bounds, so that they wait instead of being refused.
        (config.max_queued, config.max_queued_bytes) = (usize::MAX, usize::MAX);
        let (poke, poked) = mpsc::channel(1);
        let shared = Arc::new(Shared::new(poke));
        let (publishes_in, publishes) = mpsc::unbounded_channel();
        let (commands_in, commands) = mpsc::channel(COMMANDS);
        let inner = Inner {
            publishes: publishes_in,
            commands: commands_in,
            shared: Arc::clone(&shared),
            request_timeout,
            http,
        };
        let parts =
            Parts { config, transport, tokens, publishes, commands, poked, shared, max_queued, max_queued_bytes };
        tokio::spawn(Owner::new(parts).run().instrument(span));
        Ok(Client::new(Arc::new(inner)))
    }
}
