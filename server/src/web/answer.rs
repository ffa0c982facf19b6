//! Answers with the headers that all of them carry.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};

/// The content type of JSON.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer that no cache keeps, and whose content type no browser second-guesses.
pub(crate) fn answer(status: StatusCode, content_type: HeaderValue, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// `value` as JSON.
pub(crate) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    // Plain structs of strings and numbers: serializing them does not fail.
    answer(status, JSON, serde_json::to_vec(value).unwrap_or_default())
}
