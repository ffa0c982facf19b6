//! The settings of a session.

/// The settings of a session. [`Default`] gives those of the SDKs.
// No `Debug`: it holds a token.
#[derive(Clone)]
pub struct Config {
    /// A token that never changes; none: the session asks its shell with [`crate::Output::NeedToken`]. Default: none.
    pub token: Option<String>,
    /// How long a request may take, reconnects included; default 30000.
    pub request_timeout_ms: u64,
    /// How long opening the socket may take, and after it the answer to AUTH; default 10000 each.
    pub connect_timeout_ms: u64,
    /// How long the shell may take to give a token; default 30000.
    pub token_timeout_ms: u64,
    /// Bound of the first random wait before a reconnect; default 250.
    pub reconnect_min_ms: u64,
    /// Bound of the longest random wait before a reconnect; default 30000.
    pub reconnect_max_ms: u64,
    /// Unanswered publishes, sent or waiting; default 10000. Beyond it a publish ends with `overloaded`.
    pub max_queued: usize,
    /// Bytes of the frames of unanswered publishes; default 16 MiB. Beyond it a publish ends with `overloaded`.
    pub max_queued_bytes: usize,
    /// Send a PING after so much silence of the hub; default 25000.
    pub ping_after_ms: u64,
    /// Give the connection up when a PING is not followed by any frame for so long; default 35000.
    pub ping_timeout_ms: u64,
    /// The same while a request waits for its answer, so that a dead path is found before the request gives up: send a
    /// PING after so much silence; default 4000.
    pub waiting_ping_after_ms: u64,
    /// And give the connection up when nothing follows that PING for so long; default 8000.
    pub waiting_ping_timeout_ms: u64,
    /// Ask the hub for messages of several frames; default true. What it answered is [`crate::Session::batching`].
    pub batch: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            token: None,
            request_timeout_ms: 30_000,
            connect_timeout_ms: 10_000,
            token_timeout_ms: 30_000,
            reconnect_min_ms: 250,
            reconnect_max_ms: 30_000,
            max_queued: 10_000,
            max_queued_bytes: 16 * 1024 * 1024,
            ping_after_ms: 25_000,
            ping_timeout_ms: 35_000,
            waiting_ping_after_ms: 4_000,
            waiting_ping_timeout_ms: 8_000,
            batch: true,
        }
    }
}
