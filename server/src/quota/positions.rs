//! Positions: what a subscription with a group leaves in each topic, and what the hub keeps for good, in memory and on disk.
//!
//! Those count that are new. What this does not see: what was made before the hub started; which of a group's positions were
//! made by whom. So when positions have gone, and others have made some in the same group since, they may count for the one
//! who made those before, but never more than it made. That positions have gone is found out when there is no room for more.

use std::sync::Arc;

use prom_protocol::{ErrorCode, Group, Refusal};
use prom_store::Store;

use super::{AGAIN_MS, Quotas, each, subject::Subject};

/// Whose share the positions count for that a subscription makes, now and later.
#[derive(Debug, Clone)]
pub(crate) struct Positions {
    quotas: Arc<Quotas>,
    subject: Arc<Subject>,
}

impl Positions {
    pub(super) fn new(quotas: Arc<Quotas>, subject: Arc<Subject>) -> Self {
        Self { quotas, subject }
    }

    /// Takes note of `new` positions of `group` that are about to be stored.
    ///
    /// # Errors
    /// `rate_limited`: the subject would have more than it may.
    pub(crate) async fn make(&self, group: &Group, new: usize, store: &dyn Store) -> Result<(), Refusal> {
        let most = self.quotas.most.positions;
        let makes = || self.subject.makes_positions(group, new, most);
        let Err(mut has) = makes() else { return Ok(()) };
        if self.count(store).await {
            match makes() {
                Ok(()) => return Ok(()),
                Err(now) => has = now,
            }
        }
        self.quotas.counts.positions.add(1);
        self.quotas.warn("positions", most);
        let message = format!(
            "{new} positions of this group would be new, and this token's subject has {has} of {most}, as many as one may have \
             (positions_per_subject)"
        );
        Err(Refusal::new(ErrorCode::RateLimited, message).retry_after(AGAIN_MS))
    }

    /// They were not stored.
    pub(crate) fn unmake(&self, group: &Group, count: usize) {
        self.subject.unmakes_positions(group, count);
    }

    /// Whether there is room for one more.
    pub(crate) async fn has_room(&self, store: &dyn Store) -> bool {
        let has_room = || self.subject.positions() < self.quotas.most.positions;
        has_room() || (self.count(store).await && has_room())
    }

    /// Looks how many positions some of the subject's groups still have, if it is time to; whether it was.
    async fn count(&self, store: &dyn Store) -> bool {
        let Some((groups, looked)) = self.subject.groups_to_count() else { return false };
        each(groups, store, |group, there| self.subject.has_positions(&group, there, looked)).await;
        true
    }
}
