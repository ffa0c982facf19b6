//! Serves the live page, whose files the hub is given.

use std::borrow::Cow;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

/// The files of the page: the contents of the one at a path like `index.html` or `assets/app.js`.
pub type Page = fn(path: &str) -> Option<Cow<'static, [u8]>>;

/// The policy of the page: it loads and connects to nothing but the hub it came from, which the browser knows as `host`.
/// Where the hub itself speaks TLS nothing in the clear is meant; where it does not, there may be TLS in front.
fn policy(headers: &HeaderMap, secure: bool) -> Option<HeaderValue> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| is_plain(host));
    // Not every browser takes 'self' for a WebSocket too.
    let sockets = match host {
        Some(host) if secure => format!(" wss://{host}"),
        Some(host) => format!(" ws://{host} wss://{host}"),
        None => String::new(),
    };
    let policy = format!(
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; \
         connect-src 'self'{sockets}; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    );
    HeaderValue::try_from(policy).ok()
}

/// Whether a host is a name or an address, with or without a port, and could say nothing else in a policy.
fn is_plain(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
}

const MISSING: &str = "This hub was built without its page. Build the page first (npm run build), then the hub.\n\
                       The WebSocket is at /ws.\n";

/// The file at `path`; the page itself for an empty one. `secure`: it leaves under the hub's own TLS.
pub(crate) fn serve(page: Option<Page>, path: &str, asked: &HeaderMap, secure: bool) -> Response {
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
    if let Some(policy) = policy(asked, secure) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy_of(host: &str) -> String {
        policy_under(host, false)
    }

    fn policy_under(host: &str, secure: bool) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        policy(&headers, secure).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn the_page_connects_to_its_own_hub_alone() {
        // It could connect to any WebSocket, so what was injected into it could tell anybody what it saw.
        let own = policy_of("hub.example.com:8090");
        assert!(own.contains("connect-src 'self' ws://hub.example.com:8090 wss://hub.example.com:8090;"), "{own}");
        assert!(policy_of("[::1]:8090").contains("ws://[::1]:8090 "));
        let under_tls = policy_under("hub.example.com", true);
        assert!(under_tls.contains("connect-src 'self' wss://hub.example.com;"), "{under_tls}");
        for host in ["a; script-src *", "a *", "*", "a,b", "a'b", ""] {
            assert!(policy_of(host).contains("connect-src 'self'; "), "{host}");
        }
    }
}
