//! Who a connection is: its policy, and until when.

use std::time::Duration;

use prom_protocol::{ErrorCode, Policy, Refusal};
use prom_store::wall_clock;
use tokio::time::Instant;

use crate::auth::{Access, Verifier};

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
    Refused(Refusal),
    /// Refused, and once too often.
    Banned(Refusal),
}

impl Session {
    pub(super) fn new(auth_timeout: Duration) -> Self {
        Self { access: None, failures: 0, deadline: Some(Instant::now() + auth_timeout) }
    }

    /// The connection's policy, once it has one.
    pub(super) fn policy(&self) -> Option<&Policy> {
        self.access.as_ref().map(|access| &access.policy)
    }

    /// Checks a token. A good one replaces the policy; a bad one leaves it as it was.
    pub(super) fn authenticate(&mut self, verifier: &Verifier, token: &str) -> Outcome {
        match verifier.verify(token) {
            Ok(access) => {
                let left = access.expires_at_ms.map(|at| at.saturating_sub(wall_clock()));
                self.deadline = left.and_then(|left| Instant::now().checked_add(Duration::from_millis(left)));
                self.failures = 0;
                self.access = Some(access);
                Outcome::Accepted(left)
            }
            Err(error) => {
                self.failures += 1;
                if self.failures >= MAX_FAILURES { Outcome::Banned(error) } else { Outcome::Refused(error) }
            }
        }
    }

    /// The code to send when the deadline has passed: the token ran out. None if no AUTH ever succeeded.
    pub(super) fn expired(&self) -> Option<ErrorCode> {
        self.access.is_some().then_some(ErrorCode::TokenExpired)
    }
}
