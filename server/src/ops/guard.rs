//! Who may use the ops port.
//!
//! ```text
//!   on loopback        anybody on this machine, but for payloads; with a guard asked for, as elsewhere
//!   anywhere else      OPS_TOKEN, or a token with ops:read (what changes things: ops:admin)
//! ```

use axum::http::{HeaderMap, header};
use prom_protocol::{Action, ErrorCode};
use subtle::ConstantTimeEq;

use crate::{auth::Verifier, web::Failure};

/// What the ops port asks of who uses it.
pub(crate) struct Guard {
    /// A token that may do everything here.
    token: Option<String>,
    /// Every request needs a token, not only one for payloads.
    always: bool,
    /// Only this machine can reach the port.
    pub(super) loopback: bool,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("always", &self.always).field("loopback", &self.loopback).finish_non_exhaustive()
    }
}

impl Guard {
    /// `asked`: a guard is wanted on loopback too, as it is where there is a `token`.
    pub(crate) fn new(token: Option<String>, asked: bool, loopback: bool) -> Self {
        Self { always: asked || token.is_some() || !loopback, token, loopback }
    }

    /// Refuses who may not do `action` here.
    ///
    /// # Errors
    /// `no_token`, `jwt_invalid`, `token_expired` or `forbidden`.
    pub(super) fn check(&self, verifier: &Verifier, headers: &HeaderMap, action: Action) -> Result<(), Failure> {
        if self.always { self.check_payloads(verifier, headers, action) } else { Ok(()) }
    }

    /// The same for what shows payloads, which nobody reads without a token.
    ///
    /// # Errors
    /// As [`Guard::check`].
    pub(super) fn check_payloads(
        &self,
        verifier: &Verifier,
        headers: &HeaderMap,
        action: Action,
    ) -> Result<(), Failure> {
        let token = bearer(headers)?;
        if self.token.as_ref().is_some_and(|own| own.as_bytes().ct_eq(token.as_bytes()).into()) {
            return Ok(());
        }
        if verifier.verify(token)?.policy.may_operate(action) {
            return Ok(());
        }
        let scope = if action == Action::OpsAdmin { "ops:admin" } else { "ops:read" };
        Err(Failure::new(ErrorCode::Forbidden, format!("no operator permission: the token needs {scope}")))
    }
}

/// The token that a request carries.
fn bearer(headers: &HeaderMap) -> Result<&str, Failure> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value,
        (None, _) => {
            let message =
                "missing token: this needs the header Authorization: Bearer <OPS_TOKEN, or a token with ops:read>";
            return Err(Failure::new(ErrorCode::NoToken, message));
        }
        (Some(_), Some(_)) => {
            return Err(Failure::new(ErrorCode::JwtInvalid, "Authorization is given twice"));
        }
    };
    let bearer = value.to_str().ok().and_then(|value| value.split_once(' '));
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let (_, token) =
        bearer.ok_or_else(|| Failure::new(ErrorCode::JwtInvalid, "Authorization must be `Bearer <token>`"))?;
    Ok(token.trim())
}
