//! The one error of a session.

use std::{borrow::Cow, fmt};

use prom_protocol::{CloseCode, ErrorCode, NameError, Refusal, server::Scanned};

/// Codes of the SDKs' own, beside those of the protocol.
pub mod codes {
    /// No answer in time. What was asked may have been done; the same publish may be repeated with its id.
    pub const TIMEOUT: &str = "timeout";
    /// The client was closed.
    pub const CLOSED: &str = "closed";
    /// The connection ended, or could not be made.
    pub const CONNECTION_LOST: &str = "connection_lost";
}

/// Why a request was not carried out, or why the connection is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    code: Cow<'static, str>,
    message: String,
    retryable: bool,
    retry_after_ms: Option<u64>,
}

impl Error {
    /// An error with one of the protocol's codes.
    pub fn of(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: Cow::Borrowed(code.as_str()),
            message: message.into(),
            retryable: code.temporary(),
            retry_after_ms: None,
        }
    }

    /// One of the protocol's codes, one of [`codes`], or one of a later version of the hub.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The reason, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same request may succeed later.
    pub fn retryable(&self) -> bool {
        self.retryable
    }

    /// Milliseconds to wait before the next try, if the hub gave a time.
    pub fn retry_after_ms(&self) -> Option<u64> {
        self.retry_after_ms
    }

    /// An error with the code [`codes::TIMEOUT`]; it is retryable.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(codes::TIMEOUT), message: message.into(), retryable: true, retry_after_ms: None }
    }

    /// An error with the code [`codes::CLOSED`]; it is not retryable.
    pub fn closed() -> Self {
        let message = "the client is closed".into();
        Self { code: Cow::Borrowed(codes::CLOSED), message, retryable: false, retry_after_ms: None }
    }

    /// An error with the code [`codes::CONNECTION_LOST`].
    pub fn lost(message: impl Into<String>, retryable: bool) -> Self {
        Self { code: Cow::Borrowed(codes::CONNECTION_LOST), message: message.into(), retryable, retry_after_ms: None }
    }

    /// The error that a close frame stands for, and whether connecting again can help.
    pub(crate) fn from_close(code: Option<u16>, reason: &str) -> (Self, bool) {
        let known = code.and_then(CloseCode::from_code);
        let text = if reason.is_empty() { known.map_or("the connection was lost", CloseCode::reason) } else { reason };
        let retry = known.is_none_or(CloseCode::retryable);
        let error = match known {
            Some(CloseCode::Origin) => Self::of(ErrorCode::Forbidden, text),
            Some(CloseCode::TooLarge) => Self::of(ErrorCode::TooLarge, text),
            Some(CloseCode::Shutdown) => Self::of(ErrorCode::ShuttingDown, text),
            _ => Self::lost(text, retry),
        };
        (error, retry)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        f.write_str(" (")?;
        f.write_str(&self.code)?;
        f.write_str(")")
    }
}

impl std::error::Error for Error {}

impl From<&Scanned<'_>> for Error {
    fn from(frame: &Scanned<'_>) -> Self {
        let code = frame.code().0;
        // At AUTH an expired token is `jwt_invalid`, with a mark: applications have one code for it, whenever it happens.
        let known = if frame.expired() { Some(ErrorCode::TokenExpired) } else { ErrorCode::from_wire(&code) };
        Self {
            code: known.map_or_else(|| Cow::Owned(code.into_owned()), |code| Cow::Borrowed(code.as_str())),
            message: frame.msg().0.into_owned(),
            retryable: known.is_some_and(ErrorCode::temporary),
            retry_after_ms: frame.retry_after_ms(),
        }
    }
}

impl From<Refusal> for Error {
    fn from(error: Refusal) -> Self {
        Self::of(error.code(), error.message())
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        Refusal::from(error).into()
    }
}
