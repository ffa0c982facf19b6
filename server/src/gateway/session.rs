//! Who a connection is: its policy, and until when.

use std::time::Duration;

use prom_protocol::{ErrorCode, Policy};
use prom_store::wall_clock;
use tokio::time::Instant;

use crate::auth::{Access, Refused};

/// Failed AUTHs after which the connection is closed.
const MAX_FAILURES: u32 = 3;

/// The access of one connection.
#[derive(Debug)]
pub(super) struct Session {
    access: Option<Access>,
    failures: u32,
    /// When the connection is closed for lack of a valid token.
    pub(super) deadline: Option<Instant>,
}

/// What an AUTH came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Good; milliseconds until the token expires.
    Accepted(Option<u64>),
    /// Refused, try again.
    Refused(Refused),
    /// Refused, and once too often.
    Banned(Refused),
}

impl Session {
    pub(super) fn new(auth_timeout: Duration) -> Self {
        Self { access: None, failures: 0, deadline: Some(Instant::now() + auth_timeout) }
    }

    /// The connection's policy, once it has one.
    pub(super) fn policy(&self) -> Option<&Policy> {
        self.access.as_ref().map(|access| &access.policy)
    }

    /// Whose the connection is, which stays so: the token's `sub`.
    pub(super) fn subject(&self) -> Option<&str> {
        self.access.as_ref()?.sub.as_deref()
    }

    /// What the connection's token stands for, once it has one.
    pub(super) fn access(&self) -> Option<&Access> {
        self.access.as_ref()
    }

    /// Takes what a token came to. A good one replaces the policy; a bad one, or one of somebody else, leaves it as it was.
    pub(super) fn authenticate(&mut self, checked: Result<Access, Refused>) -> Outcome {
        let checked = checked.and_then(|access| match &self.access {
            // Leases, and what is under way, are those of who began them.
            Some(before) if !before.is_of_the_same(&access) => {
                let message =
                    "the token is another subject's (sub, iss) than this connection's; open one of its own for it";
                Err(Refused::new(ErrorCode::Forbidden, message))
            }
            _ => Ok(access),
        });
        match checked {
            Ok(access) => {
                let now = wall_clock();
                let left = |at: Option<u64>| at.map(|at| at.saturating_sub(now));
                let ends_in = left(access.ends_at_ms());
                self.deadline = ends_in.and_then(|left| Instant::now().checked_add(Duration::from_millis(left)));
                self.failures = 0;
                let left = left(access.expires_at_ms);
                tracing::debug!(iss = ?access.iss, sub = ?access.sub, jti = ?access.jti, iat_ms = access.iat_ms, "AUTH accepted");
                self.access = Some(access);
                Outcome::Accepted(left)
            }
            Err(refused) if !refused.is_of_the_token() => Outcome::Refused(refused),
            Err(refused) => {
                self.failures += 1;
                if self.failures >= MAX_FAILURES { Outcome::Banned(refused) } else { Outcome::Refused(refused) }
            }
        }
    }

    /// The code to send when the deadline has passed: the token ran out. None if no AUTH ever succeeded.
    pub(super) fn expired(&self) -> Option<ErrorCode> {
        self.access.is_some().then_some(ErrorCode::TokenExpired)
    }
}
