//! Why a token was refused, and how that is logged: in words that stay bounded however many are refused.

use std::time::Duration;

use prom_protocol::{ErrorCode, Refusal};

use crate::sparing::Sparing;

/// Time between two log lines about refused tokens.
const LINES_EVERY: Duration = Duration::from_secs(5);

/// Why a token is refused.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{refusal}")]
pub(crate) struct Refused {
    refusal: Refusal,
    /// It was good once: a fresh one helps.
    pub(crate) expired: bool,
}

impl Refused {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { refusal: Refusal::new(code, message), expired: false }
    }

    /// `jwt_invalid`.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::JwtInvalid, message)
    }

    /// `jwt_invalid` for a token whose time is over.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self { expired: true, ..Self::invalid(message) }
    }

    /// Nothing is known against the token: the hub cannot check it now.
    pub(super) fn unchecked(retry_after: Duration) -> Self {
        let message =
            "the identity provider's key set cannot be read now, so that the token cannot be checked; try again";
        let wait = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        Self { refusal: Refusal::new(ErrorCode::Overloaded, message).retry_after(wait), expired: false }
    }

    pub(crate) const fn code(&self) -> ErrorCode {
        self.refusal.code()
    }

    pub(crate) fn message(&self) -> &str {
        self.refusal.message()
    }

    /// How long to wait before the same token is worth another try, in milliseconds; none: it never is.
    pub(crate) const fn retry_after_ms(&self) -> Option<u64> {
        self.refusal.retry_after_ms()
    }

    /// Whether it is the token's fault, so that it counts against who sent it.
    pub(crate) const fn is_of_the_token(&self) -> bool {
        self.retry_after_ms().is_none()
    }
}

/// Says in the log that tokens are refused.
#[derive(Debug)]
pub(super) struct RefusalLog(Sparing);

impl Default for RefusalLog {
    fn default() -> Self {
        Self(Sparing::new(LINES_EVERY))
    }
}

impl RefusalLog {
    /// `by` is where the token came: AUTH or HTTP.
    pub(super) fn refused(&self, by: &'static str, refused: &Refused) {
        if let Some(left_out) = self.0.turn() {
            // With `?`, which escapes what a token's author put into its claims.
            let message = refused.message();
            tracing::warn!(by, code = %refused.code(), reason = ?message, left_out, "a token was refused");
        }
    }
}
