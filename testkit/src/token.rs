//! Tokens that the hubs of [`config`](crate::config) accept.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// The HS256 secret of the hubs that tests start.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Seconds since 1970, by this machine's clock.
pub fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token with these scopes, good for ten minutes.
pub fn token(scopes: &[&str]) -> String {
    token_for(scopes, 600)
}

/// A token with these scopes, good for so many seconds.
pub fn token_for(scopes: &[&str], seconds: u64) -> String {
    token_with(json!({ "exp": now_secs() + seconds, "scopes": scopes }))
}

/// A token with these claims. Without an `exp` among them it is good for ten minutes.
pub fn token_with(mut claims: Value) -> String {
    if claims.get("exp").is_none() {
        claims["exp"] = json!(now_secs() + 600);
    }
    prom_hub::auth::sign(&claims, SECRET).unwrap()
}
