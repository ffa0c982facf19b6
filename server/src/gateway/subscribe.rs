//! What a connection does about its subscriptions: begins, ends, pauses them, and settles their events.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prom_delivery::MemberId;
use prom_protocol::{
    ErrorCode, Group, Refusal, ServerFrame, StartFrom, SubscribeOptions, Text, TopicOrPattern,
    client::{Settle, Subscribe, Target},
    server::{OkFrame, parse_lease},
};
use prom_store::{StartError, start_after};
use tokio::sync::{mpsc, oneshot};

use super::{
    connection::{Connection, sleep_until},
    feed::Feed,
    subscriptions::{Source, Subscription},
};
use crate::{
    flow::bounds::Limit,
    groups::{Join, Settlement, ToGroup, Verdict},
    rights,
};

/// Deadline for a group's answer.
const GROUP_TIMEOUT: Duration = Duration::from_secs(15);
/// Topics that are taken on before other tasks get their turn.
const BURST: usize = 256;

impl Connection {
    /// Ends the subscriptions that a new policy does not allow.
    pub(super) async fn revoke(&mut self) {
        self.flush_settlements().await;
        for id in self.subscriptions.ids() {
            let Some(subscription) = self.subscriptions.get_mut(id) else { continue };
            let durable = matches!(subscription.source, Source::Group { .. });
            let group = durable.then(|| subscription.group.as_str());
            if self.session.policy().is_some_and(|policy| policy.may_subscribe(&subscription.target, group)) {
                continue;
            }
            let frame = ServerFrame::Revoked {
                topic: Text::from(subscription.target.as_str().to_owned()),
                group: Text::from(subscription.group.as_str().to_owned()),
                code: ErrorCode::Forbidden.as_str().into(),
                msg: "the new token does not allow it".into(),
            };
            self.remove(id).await;
            self.send(&frame);
        }
    }

    pub(super) fn settle(&mut self, settle: &Settle<'_>, verdict: Verdict, corr: Option<&Text<'_>>) {
        let Some(id) = self.subscriptions.find(&settle.target.topic, &settle.target.group) else {
            self.not_subscribed(&settle.target, corr);
            return;
        };
        let extend = matches!(verdict, Verdict::Extend(_));
        let settlement = Settlement {
            id: settle.id.as_str().into(),
            // A lease that cannot be parsed becomes 0, which no lease is.
            lease: settle.lease.as_ref().map(|token| parse_lease(token).unwrap_or(0)),
            verdict,
            corr: corr.map(|corr| corr.as_str().into()),
        };
        if !self.subscriptions.settle(id, settlement) {
            // An ephemeral subscription: everything is settled as it is sent.
            if extend {
                self.error(ErrorCode::UnknownId, "no unsettled event of that id is leased to you", corr);
            } else if corr.is_some() {
                self.send(&ServerFrame::ok(corr.cloned()));
            }
        }
    }

    fn not_subscribed(&mut self, target: &Target<'_>, corr: Option<&Text<'_>>) {
        let topic: String = target.topic.chars().take(prom_protocol::limits::TOPIC_BYTES).collect();
        self.error(ErrorCode::NotSubscribed, &format!("this connection has no such subscription of {topic}"), corr);
    }

    pub(super) async fn subscribe(&mut self, subscribe: Subscribe, corr: Option<&Text<'_>>) {
        if self.is_over() {
            return;
        }
        self.flush_settlements().await;
        let Subscribe { topic: target, group, options } = subscribe;
        let group_name = group.as_ref().map(Group::as_str);
        let Some(policy) = self.session.policy() else {
            return self.error(ErrorCode::Unauthorized, "Call AUTH first.", corr);
        };
        if let Err(refusal) = rights::subscribe(policy, &target, group_name) {
            return self.refuse(&refusal, corr);
        }
        if let Some(group) = group_name
            && self.subscriptions.find(target.as_str(), group).is_some()
        {
            return self.error(
                ErrorCode::AlreadySubscribed,
                &format!("{target} is already subscribed as {group}"),
                corr,
            );
        }
        let limit = self.node.limits.subscriptions;
        if self.subscriptions.len() >= limit {
            self.node.metrics.bounds.reached(Limit::Subscriptions, limit, 1);
            return self.error(
                // Not `overloaded`: it would be refused for as long as the others last, however often it is tried.
                ErrorCode::BadFrame,
                &format!("a connection may have at most {limit} subscriptions; end one first"),
                corr,
            );
        }
        let place = match &self.share {
            Some((_, share)) => match self.node.quotas.subscribe(share, group.as_ref(), &*self.node.store).await {
                Ok(place) => Some(place),
                Err(refusal) => return self.refuse(&refusal, corr),
            },
            None => None,
        };
        let one_topic = matches!(target, TopicOrPattern::Topic(_));
        if !one_topic && matches!(options.from, StartFrom::AfterId(_) | StartFrom::AfterSeq(_)) {
            return self.error(
                ErrorCode::BadFrame,
                "opts.from afterId and afterSeq need one topic, not a pattern",
                corr,
            );
        }
        let id = next_member();
        let (group, source) = match group {
            Some(group) => {
                let joined = self.join(id, &group, &target, options).await;
                match joined {
                    Ok(sender) => (group, Source::Group { group: sender, settlements: Vec::new() }),
                    Err(refusal) => return self.refuse(&refusal, corr),
                }
            }
            None => match self.start_live(id, &target, options).await {
                Ok(feed) => (Group::generated(id), Source::Live(Box::new(feed))),
                Err(refusal) => {
                    self.unfollow(&target);
                    return self.refuse(&refusal, corr);
                }
            },
        };
        let ok = OkFrame {
            corr: corr.cloned(),
            topic: Some(target.as_str().to_owned().into()),
            group: Some(group.as_str().to_owned().into()),
            ..OkFrame::default()
        };
        self.send(&ServerFrame::Ok(ok));
        self.subscriptions.insert(id, Subscription::new(target, group, source, place));
        self.waiting_live.push_back(id);
    }

    /// Starts an ephemeral subscription.
    async fn start_live(
        &mut self,
        id: MemberId,
        target: &TopicOrPattern,
        options: SubscribeOptions,
    ) -> Result<Feed, Refusal> {
        let mut feed = Feed::new(target.clone(), &options.from, options.filter);
        let states = self.node.topics.follow(target, &self.signals);
        let limit = self.node.limits.followed_topics;
        if self.subscriptions.followed() + states.len() > limit {
            return Err(Refusal::new(ErrorCode::BadFrame, self.followed_limit()));
        }
        for (begun, state) in states.into_iter().enumerate() {
            // A pattern over very many topics must not keep the others of this thread waiting.
            if begun % BURST == BURST - 1 {
                tokio::task::yield_now().await;
                if self.is_over() {
                    return Err(over());
                }
            }
            // Before the position, which may be of a log that is then removed.
            let removals = state.removals();
            let position = match &options.from {
                // The tail that listeners know, not the store's: no read per topic, and a client whose publish was
                // answered before starts behind that event.
                StartFrom::Latest | StartFrom::Snapshot => state.tail(),
                from => match start_after(&*self.node.store, &state.topic, from).await {
                    Ok(after) => after,
                    Err(StartError::Store(error)) => return Err(Refusal::from(&error)),
                    Err(_) => {
                        let message = "opts.afterId or opts.afterSeq is not in the log";
                        return Err(Refusal::new(ErrorCode::PositionGone, message));
                    }
                },
            };
            feed.add(state, (position, removals), id, &self.signals);
        }
        Ok(feed)
    }

    /// Signals new topics of a pattern no more, unless another subscription has it too.
    pub(super) fn unfollow(&mut self, target: &TopicOrPattern) {
        let pattern = matches!(target, TopicOrPattern::Pattern(_));
        if pattern && !self.subscriptions.iter_mut().any(|(_, own)| own.is_live() && own.target == *target) {
            self.node.topics.unfollow(target, &self.signals);
        }
    }

    /// Joins a durable group. A group that has just ended is opened once more.
    async fn join(
        &mut self,
        id: MemberId,
        group: &Group,
        target: &TopicOrPattern,
        options: SubscribeOptions,
    ) -> Result<mpsc::Sender<ToGroup>, Refusal> {
        let mut revocations = self.node.verifier.revocations().changes();
        for _ in 0..3 {
            let sender = self.node.groups.open(group);
            let (reply, joined) = oneshot::channel();
            let (target, options, consumer) = (target.clone(), options.clone(), self.handle.clone());
            let positions = self.share.as_ref().map(|(_, share)| self.node.quotas.positions(share));
            let join = Join { id, target, options, consumer, positions, reply };
            if sender.send(ToGroup::Join(Box::new(join))).await.is_err() {
                continue;
            }
            let mut joined = std::pin::pin!(tokio::time::timeout(GROUP_TIMEOUT, joined));
            let joined = loop {
                tokio::select! {
                    joined = &mut joined => break joined,
                    () = sleep_until(self.session.deadline) => return Err(over()),
                    Ok(()) = revocations.changed() => if self.is_over() { return Err(over()) },
                }
            };
            match joined {
                Ok(Ok(Ok(()))) => return Ok(sender),
                Ok(Ok(Err(refused))) => return Err(refused),
                Ok(Err(_)) => {}
                Err(_) => return Err(Refusal::new(ErrorCode::Overloaded, "the group did not answer in time")),
            }
        }
        Err(Refusal::new(ErrorCode::Internal, "the group could not be started"))
    }

    pub(super) async fn unsubscribe(&mut self, target: &Target<'_>, corr: Option<&Text<'_>>) {
        self.flush_settlements().await;
        match self.subscriptions.find(&target.topic, &target.group) {
            Some(id) => {
                self.remove(id).await;
                self.send(&ServerFrame::ok(corr.cloned()));
            }
            None => self.not_subscribed(target, corr),
        }
    }

    async fn remove(&mut self, id: MemberId) {
        let Some(subscription) = self.subscriptions.remove(id) else { return };
        match subscription.source {
            Source::Group { group, .. } => {
                let (reply, left) = oneshot::channel();
                if group.send(ToGroup::Leave(id, Some(reply))).await.is_ok() {
                    let _ = tokio::time::timeout(GROUP_TIMEOUT, left).await;
                }
            }
            Source::Live(_) => self.unfollow(&subscription.target),
        }
    }

    /// Takes note that a group has ended a membership. What was to be settled for it is answered.
    pub(super) fn revoked(&mut self, id: MemberId, why: &'static str) {
        let Some(Subscription { target, group, source, .. }) = self.subscriptions.remove(id) else { return };
        if let Source::Group { group, settlements } = source {
            for corr in settlements.into_iter().filter_map(|settlement| settlement.corr) {
                self.error(ErrorCode::NotSubscribed, "the subscription was revoked", Some(&Text::from(&*corr)));
            }
            // It keeps the member until it hears that no more requests come.
            self.node.tasks.spawn(async move {
                let _ = group.send(ToGroup::Leave(id, None)).await;
            });
        }
        let (topic, group) = (Text::from(target.as_str()), Text::from(group.as_str()));
        let code = ErrorCode::PositionGone.as_str().into();
        self.send(&ServerFrame::Revoked { topic, group, code, msg: why.into() });
    }

    pub(super) async fn pause(&mut self, target: &Target<'_>, paused: bool, corr: Option<&Text<'_>>) {
        self.flush_settlements().await;
        let Some(id) = self.subscriptions.find(&target.topic, &target.group) else {
            return self.not_subscribed(target, corr);
        };
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            subscription.paused = paused;
            if let Source::Group { group, .. } = &subscription.source {
                let (reply, done) = oneshot::channel();
                if group.send(ToGroup::Pause(id, paused, reply)).await.is_ok() {
                    let _ = tokio::time::timeout(GROUP_TIMEOUT, done).await;
                }
            }
        }
        self.waiting_live.push_back(id);
        self.send(&ServerFrame::ok(corr.cloned()));
    }

    pub(super) async fn flush_settlements(&mut self) {
        for (group, member, settlements) in self.subscriptions.take_settlements() {
            let sent = group.send(ToGroup::Settle(member, settlements)).await;
            // A group ends only without members, so this one has failed; its leases are gone.
            let Err(mpsc::error::SendError(ToGroup::Settle(_, settlements))) = sent else { continue };
            for Settlement { corr, verdict, .. } in settlements {
                if corr.is_some() || matches!(verdict, Verdict::Extend(_)) {
                    let corr = corr.as_deref().map(Text::from);
                    self.error(ErrorCode::AckFailed, "the group has ended", corr.as_ref());
                }
            }
        }
    }
}

/// A subscription does not begin, as its connection is about to be closed.
fn over() -> Refusal {
    Refusal::new(ErrorCode::Unauthorized, "the token's time is over")
}

/// A name for a subscription, unique while the hub runs.
fn next_member() -> MemberId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
