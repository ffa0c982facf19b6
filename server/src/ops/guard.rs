//! Who may use the ops port.
//!
//! ```text
//!   on loopback        anybody on this machine, but for payloads and for revoking; with a guard asked for, as elsewhere
//!   anywhere else      OPS_TOKEN, or a token with ops:read (what changes things: ops:admin)
//! ```

use axum::http::HeaderMap;
use prom_protocol::{Action, ErrorCode};
use subtle::ConstantTimeEq;

use crate::{
    auth::Refused,
    node::Node,
    web::{Failure, bearer},
};

/// What the ops port asks of who uses it.
pub(crate) struct Guard {
    /// A token that may do everything here.
    token: Option<String>,
    /// Every request needs a token, not only one for payloads or to revoke.
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
    /// `no_token`, `jwt_invalid`, `forbidden`, or `overloaded` while a key set cannot be read.
    pub(super) async fn check(&self, node: &Node, headers: &HeaderMap, action: Action) -> Result<(), Failure> {
        if self.always { self.check_always(node, headers, action).await } else { Ok(()) }
    }

    /// The same for what nobody does without a token: to read payloads, to lock others out.
    ///
    /// # Errors
    /// As [`Guard::check`].
    pub(super) async fn check_always(&self, node: &Node, headers: &HeaderMap, action: Action) -> Result<(), Failure> {
        let refused = |refused: Refused| {
            node.refused_token("the ops port", &refused);
            Failure::from(refused)
        };
        let scope = if action == Action::OpsAdmin { "ops:admin" } else { "ops:read" };
        let token = bearer(headers, &format!(": OPS_TOKEN, or a token with {scope}")).map_err(refused)?;
        if self.token.as_ref().is_some_and(|own| own.as_bytes().ct_eq(token.as_bytes()).into()) {
            return Ok(());
        }
        if node.verifier.check(token).done().await.map_err(refused)?.policy.may_operate(action) {
            return Ok(());
        }
        Err(Failure::new(ErrorCode::Forbidden, format!("no operator permission: the token needs {scope}")))
    }
}
