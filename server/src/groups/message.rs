//! Messages to a group.

use std::sync::Arc;

use prom_delivery::{MemberId, Nack};
use prom_protocol::{Refusal, SubscribeOptions, Topic, TopicOrPattern};
use prom_store::StoreError;
use tokio::sync::oneshot;

use super::consumer::ConsumerHandle;
use crate::quota::Positions;

/// What a member wants to be done with one delivery.
#[derive(Debug)]
pub(crate) struct Settlement {
    /// The event.
    pub id: Arc<str>,
    /// The lease, if the frame had one.
    pub lease: Option<u64>,
    /// What to do with it.
    pub verdict: Verdict,
    /// The `corr` of the frame, which its answer carries; without one there is no answer but an error.
    pub corr: Option<Box<str>>,
}

/// What to do with a delivery.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Settle it.
    Ack,
    /// Give it back.
    Nack(Nack),
    /// Extend its lease by this many milliseconds from now.
    Extend(u64),
}

/// A message to a group.
#[derive(Debug)]
pub(crate) enum ToGroup {
    /// A member joins.
    Join(Box<Join>),
    /// A member leaves; the answer comes when it is out.
    Leave(MemberId, Option<oneshot::Sender<()>>),
    /// A member leaves, and another hub may have the group from now on: without other members the group ends at once,
    /// and stores its cursors if that works the first time.
    End(MemberId),
    /// A member settles deliveries.
    Settle(MemberId, Vec<Settlement>),
    /// A member stops or starts taking events; the answer comes when it does.
    Pause(MemberId, bool, oneshot::Sender<()>),
    /// A member's consumer has room again.
    Unblock(MemberId),
    /// How many members there are, or on this topic.
    Members(Option<Topic>, oneshot::Sender<usize>),
    /// The group's positions are removed.
    Remove(Box<Remove>),
}

/// The group's positions are to be removed. Members on these topics are revoked.
#[derive(Debug)]
pub(crate) struct Remove {
    /// Only in this topic; none: in all.
    pub only: Option<Topic>,
    /// Topics in which it has a position.
    pub topics: Vec<Topic>,
    /// Only if the group has no members.
    pub idle: bool,
    /// Answered when they are gone; `false`: they are not, for it has members.
    pub reply: oneshot::Sender<Result<bool, StoreError>>,
}

/// A member that joins.
#[derive(Debug)]
pub(crate) struct Join {
    /// The member.
    pub id: MemberId,
    /// What it subscribes to.
    pub target: TopicOrPattern,
    /// Its options.
    pub options: SubscribeOptions,
    /// Where its events go.
    pub consumer: ConsumerHandle,
    /// Whose the positions are that it makes; none: nobody's, it is the hub's own.
    pub positions: Option<Positions>,
    /// Answered when the group's cursors are stored and the member takes part.
    pub reply: oneshot::Sender<Result<(), Refusal>>,
}
