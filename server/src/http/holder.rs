//! Whose a stream is: it ends when their token does, or is revoked.

use std::{fmt, sync::Arc};

use crate::{
    auth::{Access, Changes},
    node::Node,
};

/// Why a stream ended before its end. The client sees its connection break.
#[derive(Debug)]
pub(super) struct Aborted(pub(super) &'static str);

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Aborted {}

/// Who began a stream.
#[derive(Debug)]
pub(super) struct Holder {
    node: Arc<Node>,
    access: Access,
    revocations: Changes,
}

impl Holder {
    pub(super) fn new(node: &Arc<Node>, access: Access) -> Self {
        let mut revocations = node.verifier.revocations().changes();
        // What changed since the token was checked is still to be seen.
        revocations.mark_changed();
        Self { node: Arc::clone(node), access, revocations }
    }

    /// Refuses to go on, for a token that counts no more. Cheap: it is looked up only after a change.
    ///
    /// # Errors
    /// The token has expired, or was revoked.
    pub(super) fn check(&mut self) -> Result<(), Aborted> {
        if self.access.has_ended() {
            return Err(Aborted("the token has expired"));
        }
        if !self.revocations.has_changed().unwrap_or(true) {
            return Ok(());
        }
        // Before the look-up: a change after it is seen the next time.
        self.revocations.mark_unchanged();
        let revocations = self.node.verifier.revocations();
        revocations.check(&self.access).map_err(|_| {
            revocations.ended();
            Aborted("the token was revoked")
        })
    }
}
