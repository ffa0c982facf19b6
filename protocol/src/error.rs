//! The one error of this crate's parsers.

use crate::{ErrorCode, NameError};

/// A frame or value that does not follow the protocol. Its message names the field and the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProtocolError {
    code: ErrorCode,
    message: String,
}

impl ProtocolError {
    /// An error of `code` with a message for people.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A `bad_frame` with a message that names the field.
    pub fn bad_frame(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadFrame, message)
    }

    /// The code to answer with.
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// The message to answer with.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<NameError> for ProtocolError {
    fn from(error: NameError) -> Self {
        Self::new(ErrorCode::BadTopic, error.to_string())
    }
}
