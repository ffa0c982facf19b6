//! Serves the live page, whose files the hub is given.

use std::borrow::Cow;

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

/// The files of the page: the contents of the one at a path like `index.html` or `assets/app.js`.
pub type Page = fn(path: &str) -> Option<Cow<'static, [u8]>>;

/// The page loads and connects to nothing but the hub it came from.
const POLICY: &str = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; \
                      connect-src 'self' ws: wss:; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const MISSING: &str = "This hub was built without its page. Build the page first (npm run build), then the hub.\n\
                       The WebSocket is at /ws.\n";

/// The file at `path`; the page itself for an empty one.
pub(crate) fn serve(page: Option<Page>, path: &str) -> Response {
    let path = if path.is_empty() { "index.html" } else { path };
    let Some(file) = page.and_then(|page| page(path)) else {
        let message = if path == "index.html" { MISSING } else { "not found\n" };
        return (StatusCode::NOT_FOUND, message).into_response();
    };
    // Vite puts a hash of the content into the names under assets/.
    let cache = if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let mime = mime_guess::from_path(path).first_or_octet_stream();
    let mut response = Response::new(Body::from(Bytes::from_owner(file)));
    let headers = response.headers_mut();
    if let Ok(mime) = HeaderValue::from_str(mime.as_ref()) {
        headers.insert(header::CONTENT_TYPE, mime);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
