//! Who may use the ops port.
//!
//! ```text
//!   on loopback        anybody on this machine, but for payloads and for revoking; with a guard asked for, as elsewhere
//!   anywhere else      OPS_TOKEN, or a token with ops:read (what changes things: ops:admin)
//! ```

use std::net::IpAddr;

use axum::http::HeaderMap;
use prom_protocol::{Action, ErrorCode};
use subtle::ConstantTimeEq;

use crate::{
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

/// What a route needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Right {
    action: Action,
    /// Nobody has it without a token, wherever the port can be reached.
    always: bool,
}

impl Right {
    /// To see how the hub fares.
    pub(super) const READ: Self = Self { action: Action::OpsRead, always: false };
    /// To see payloads.
    pub(super) const READ_PAYLOADS: Self = Self { action: Action::OpsRead, always: true };
    /// To change what is kept.
    pub(super) const CHANGE: Self = Self { action: Action::OpsAdmin, always: false };
    /// To lock others out. It lasts, so that no process of this machine does it without a token.
    pub(super) const REVOKE: Self = Self { action: Action::OpsAdmin, always: true };
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

    /// Refuses who may not do what needs `right` here.
    ///
    /// # Errors
    /// `no_token`, `jwt_invalid`, `forbidden`, or `overloaded` while a key set cannot be read.
    pub(super) async fn check(
        &self,
        node: &Node,
        headers: &HeaderMap,
        address: IpAddr,
        right: Right,
    ) -> Result<(), Failure> {
        if !self.always && !right.always {
            return Ok(());
        }
        let action = right.action;
        let scope = if action == Action::OpsAdmin { "ops:admin" } else { "ops:read" };
        let token = bearer(headers, &format!(": OPS_TOKEN, or a token with {scope}"));
        let is_own = |own: &String| token.as_ref().is_ok_and(|token| own.as_bytes().ct_eq(token.as_bytes()).into());
        if self.token.as_ref().is_some_and(is_own) {
            return Ok(());
        }
        if node.access("the ops port", token, address).await?.policy.may_operate(action) {
            return Ok(());
        }
        Err(Failure::new(ErrorCode::Forbidden, format!("no operator permission: the token needs {scope}")))
    }
}
