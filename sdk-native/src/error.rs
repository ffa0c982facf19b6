//! The one error of this crate.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use prom_protocol::{ErrorCode, NameError};
use prom_sdk_core::codes;

/// An error of the caller's own, for instance of a token provider or a handler.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What sort of thing went wrong: what a program decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The token is missing, malformed, expired or refused.
    Unauthorized,
    /// The token does not allow it.
    Forbidden,
    /// A name, option or payload the protocol does not allow.
    Invalid,
    /// The event is larger than the hub accepts.
    TooLarge,
    /// This client has a subscription of that topic and group already.
    AlreadySubscribed,
    /// The subscription has ended.
    NotSubscribed,
    /// The delivery is not this client's to settle any more: the hub has given it to somebody, or will.
    LeaseLost,
    /// The position to start from is not in the log.
    PositionGone,
    /// The event could not be published, for instance because the hub has all the topics it may have.
    PublishFailed,
    /// Too many requests; see [`Error::retry_after`].
    Overloaded,
    /// The hub cannot do it at the moment.
    Unavailable,
    /// No answer in time. A publish may have been committed all the same: repeat it with the same id.
    Timeout,
    /// The connection ended, or could not be made.
    ConnectionLost,
    /// The client was closed.
    Closed,
    /// A payload that is not what was asked for, or a value that does not become JSON.
    Payload,
    /// The client cannot be built like this: its URL, its certificates.
    Config,
    /// An error of a later version of the hub.
    Other,
}

/// Why something was not done.
#[derive(Clone, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Error {
    kind: ErrorKind,
    code: Cow<'static, str>,
    message: Cow<'static, str>,
    retryable: bool,
    retry_after: Option<Duration>,
    #[source]
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// What sort of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The hub's code, for instance `stale_lease`; or one of this SDK's own: `timeout`, `closed`, `connection_lost`,
    /// `payload`, `config`.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The sentence for people, without the code.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same request may succeed later.
    pub fn retryable(&self) -> bool {
        self.retryable
    }

    /// How long to wait before the next try, if the hub gave a time.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    fn own(kind: ErrorKind, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let (code, message) = (Cow::Borrowed(code), message.into());
        Self { kind, code, message, retryable: false, retry_after: None, source: None }
    }

    pub(crate) fn config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::own(ErrorKind::Config, "config", message)
    }

    pub(crate) fn payload(message: impl Into<Cow<'static, str>>, source: serde_json::Error) -> Self {
        Self { source: Some(Arc::new(source)), ..Self::own(ErrorKind::Payload, "payload", message) }
    }

    /// An error with one of the protocol's codes.
    pub(crate) fn of(code: ErrorCode, message: impl Into<String>) -> Self {
        prom_sdk_core::Error::of(code, message).into()
    }

    /// An error with a code of a later version of the hub.
    pub(crate) fn unknown(code: String, message: String) -> Self {
        Self { code: Cow::Owned(code), ..Self::own(ErrorKind::Other, "", message) }
    }

    /// The connection ended, or could not be made; it may be tried again.
    pub(crate) fn lost(message: impl Into<String>) -> Self {
        prom_sdk_core::Error::lost(message, true).into()
    }

    pub(crate) fn closed() -> Self {
        prom_sdk_core::Error::closed().into()
    }

    pub(crate) fn timeout(message: &'static str) -> Self {
        prom_sdk_core::Error::timeout(message).into()
    }

    pub(crate) fn no_token() -> Self {
        Self::of(ErrorCode::NoToken, "the client was built without a token")
    }

    /// With words before its message.
    pub(crate) fn about(mut self, what: &str) -> Self {
        self.message = Cow::Owned([what, &*self.message].concat());
        self
    }

    /// With the time that the hub wants to be left alone.
    pub(crate) fn retry_in(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    pub(crate) fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.kind).field("code", &self.code).field("message", &self.message);
        if let Some(source) = &self.source {
            debug.field("source", source);
        }
        debug.finish_non_exhaustive()
    }
}

impl From<prom_sdk_core::Error> for Error {
    fn from(error: prom_sdk_core::Error) -> Self {
        let known = ErrorCode::from_wire(error.code());
        let code = match (known, error.code()) {
            (Some(known), _) => Cow::Borrowed(known.as_str()),
            (None, codes::TIMEOUT) => Cow::Borrowed(codes::TIMEOUT),
            (None, codes::CLOSED) => Cow::Borrowed(codes::CLOSED),
            (None, codes::CONNECTION_LOST) => Cow::Borrowed(codes::CONNECTION_LOST),
            (None, other) => Cow::Owned(other.to_owned()),
        };
        Self {
            kind: kind(known, &code),
            retryable: error.retryable(),
            retry_after: error.retry_after_ms().map(Duration::from_millis),
            message: Cow::Owned(error.message().to_owned()),
            code,
            source: None,
        }
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        prom_sdk_core::Error::from(error).into()
    }
}

fn kind(known: Option<ErrorCode>, code: &str) -> ErrorKind {
    use ErrorCode as C;
    use ErrorKind as K;
    let Some(known) = known else {
        return match code {
            codes::TIMEOUT => K::Timeout,
            codes::CLOSED => K::Closed,
            codes::CONNECTION_LOST => K::ConnectionLost,
            _ => K::Other,
        };
    };
    match known {
        C::Unauthorized | C::NoToken | C::JwtInvalid | C::TokenExpired => K::Unauthorized,
        C::Forbidden => K::Forbidden,
        C::BadJson | C::BadFrame | C::BadTopic | C::BadPayload => K::Invalid,
        C::TooLarge => K::TooLarge,
        C::AlreadySubscribed => K::AlreadySubscribed,
        C::NotSubscribed => K::NotSubscribed,
        C::UnknownId | C::StaleLease => K::LeaseLost,
        C::PositionGone => K::PositionGone,
        C::PublishFailed => K::PublishFailed,
        C::RateLimited | C::Overloaded => K::Overloaded,
        C::AckFailed | C::StoreUnavailable | C::ShuttingDown | C::Internal => K::Unavailable,
        _ => K::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn every_code_of_the_protocol_has_a_kind() {
        for code in ErrorCode::ALL {
            let error = Error::from(prom_sdk_core::Error::of(*code, "words"));
            assert_ne!(error.kind(), ErrorKind::Other, "{code}");
            assert_eq!((error.code(), error.retryable()), (code.as_str(), code.temporary()));
            assert_eq!(error.to_string(), format!("words ({code})"));
        }
        assert_eq!(Error::closed().kind(), ErrorKind::Closed);
        assert_eq!(Error::timeout("late").kind(), ErrorKind::Timeout);
    }

    #[test]
    fn the_source_is_kept_and_not_repeated() {
        let source = serde_json::from_str::<u8>("\"x\"").unwrap_err();
        let words = source.to_string();
        let error = Error::payload("the payload is not what was asked for", source);
        assert_eq!(error.source().unwrap().to_string(), words);
        assert!(!error.to_string().contains(&words));
    }
}
