//! Why a request was refused, as its answer.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use prom_protocol::{ErrorCode, NameError, Refusal};
use prom_store::{StartError, StoreError};
use serde::Serialize;

use super::answer::json;
use crate::auth::Refused;

/// A refused request: its status, its code if it has one, and a message for people.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    code: Option<ErrorCode>,
    message: String,
    expired: bool,
    /// Seconds until another try may help.
    retry_after: u64,
}

#[derive(Serialize)]
struct Told<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    expired: bool,
}

impl Failure {
    /// With the code's own status.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status: status(code), code: Some(code), message: message.into(), expired: false, retry_after: 1 }
    }

    /// With a status that no code stands for.
    pub(crate) fn status(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, code: None, message: message.into(), expired: false, retry_after: 1 }
    }

    /// A parameter or header is missing or wrong; `message` names it.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadFrame, message)
    }

    pub(crate) fn method() -> Self {
        Self::status(StatusCode::METHOD_NOT_ALLOWED, "this method is not for this path; see the header Allow")
    }

    pub(crate) fn code(&self) -> Option<ErrorCode> {
        self.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Unauthorized | ErrorCode::NoToken | ErrorCode::JwtInvalid | ErrorCode::TokenExpired => {
            StatusCode::UNAUTHORIZED
        }
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::BadJson | ErrorCode::BadFrame | ErrorCode::BadTopic | ErrorCode::BadPayload => {
            StatusCode::BAD_REQUEST
        }
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::PositionGone | ErrorCode::PublishFailed => StatusCode::CONFLICT,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Overloaded | ErrorCode::StoreUnavailable | ErrorCode::ShuttingDown => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        let told = Told { error: &self.message, code: self.code.map(ErrorCode::as_str), expired: self.expired };
        let mut response = json(self.status, &told);
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE || self.status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after));
        }
        response
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(ErrorCode::StoreUnavailable, error.told())
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Self {
        Self::new(ErrorCode::BadTopic, error.to_string())
    }
}

impl From<Refusal> for Failure {
    fn from(error: Refusal) -> Self {
        let retry_after = error.retry_after_ms().map_or(1, |ms| ms.div_ceil(1000).max(1));
        Self { retry_after, ..Self::new(error.code(), error.message_without_opts()) }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self { expired: refused.expired, ..Self::new(refused.code(), refused.message()) }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Refusal::from(error).into()
    }
}
