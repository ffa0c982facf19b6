//! Why something was refused: the one error of this crate's parsers, and of everybody who answers a client.

use crate::{ErrorCode, NameError};

/// Why a request is refused, as the client reads it: the `code` and `msg` of an `ERR`.
///
/// The message says what is wrong and what the limit is; where a field is at fault it opens with the field's path in
/// the frame, `topic` or `opts.key`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    code: ErrorCode,
    message: String,
    retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal of `code` with a message for people.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None }
    }

    /// A `bad_frame` with a message that opens with the field's path.
    pub fn bad_frame(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadFrame, message)
    }

    /// The same, with how long to wait before the request is worth another try, in milliseconds.
    #[must_use]
    pub fn retry_after(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// The `retry_after_ms` of the ERR.
    pub const fn retry_after_ms(&self) -> Option<u64> {
        self.retry_after_ms
    }

    /// The `code` of the ERR.
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// The `msg` of the ERR.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The message where an option stands by itself, as in a query or in an outbox row: `key` instead of `opts.key`.
    pub fn message_without_opts(&self) -> String {
        // Not only at the start: "an entry of opts.tags must be …".
        self.message.replacen("opts.", "", 1)
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::new(ErrorCode::BadTopic, error.to_string())
    }
}
