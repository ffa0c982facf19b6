//! The token that a request carries.

use axum::http::{HeaderMap, header};
use prom_protocol::ErrorCode;

use crate::auth::Refused;

/// The token in `Authorization: Bearer <token>`; `which` says in the refusal what token is meant, if that needs words.
///
/// # Errors
/// `no_token`, or `jwt_invalid` where the header is something else. A request that has it twice does not come so far.
pub(crate) fn bearer<'a>(headers: &'a HeaderMap, which: &str) -> Result<&'a str, Refused> {
    let missing = || {
        let message = format!("missing token: the header Authorization: Bearer <token> is required{which}");
        Refused::new(ErrorCode::NoToken, message)
    };
    let value = headers.get(header::AUTHORIZATION).ok_or_else(missing)?;
    let bearer = value.to_str().ok().and_then(|value| value.split_once(' '));
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let (_, token) = bearer.ok_or_else(|| Refused::invalid("Authorization must be `Bearer <token>`"))?;
    let token = token.trim();
    if token.is_empty() { Err(missing()) } else { Ok(token) }
}
