//! What a connection does for its ephemeral subscriptions: reads the log for them, and sends what they have to send,
//! while there is room for it.

use std::{sync::Arc, time::Duration};

use prom_delivery::{Found, Item, MemberId, Next};
use prom_protocol::{ErrorCode, ServerFrame, Text, Topic, server::encode_event_context};
use prom_store::{StoreError, Stored};

use super::{
    connection::Connection,
    feed,
    subscriptions::{Source, Subscription},
};
use crate::flow::{bounds::Limit, topics::Signal};

/// Bytes waiting to be written beyond which nothing is read or sent.
const LIVE_HIGH: usize = 256 * 1024;
/// Reads under way for one connection.
const READS: usize = 4;
/// Wait before a failed read is tried again.
const RETRY: Duration = Duration::from_millis(200);

impl Connection {
    /// Takes note of a topic's growth, or of a new topic.
    pub(super) fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Grown(key) => {
                let subscription = self.subscriptions.get_mut(key.listener);
                if let Some(Subscription { source: Source::Live(feed), .. }) = subscription {
                    feed.grown(key.topic);
                    self.waiting_live.push_back(key.listener);
                }
            }
            Signal::New(state) => {
                let mut room = self.node.limits.followed_topics.saturating_sub(self.subscriptions.followed());
                let mut over = Vec::new();
                for (id, subscription) in self.subscriptions.iter_mut() {
                    if let Source::Live(feed) = &mut subscription.source
                        && feed.wants(&state)
                    {
                        if room == 0 {
                            over.push(id);
                            continue;
                        }
                        room -= 1;
                        // The topic came after the subscription, so it is read from its start.
                        let removals = state.removals();
                        feed.add(Arc::clone(&state), (0, removals), id, &self.signals);
                        self.waiting_live.push_back(id);
                    }
                }
                for id in over {
                    self.end_overgrown(id);
                }
            }
        }
    }

    /// Ends a subscription that cannot take on a new topic: its client must not believe that it has all of them.
    fn end_overgrown(&mut self, id: MemberId) {
        let Some(Subscription { target, group, .. }) = self.subscriptions.remove(id) else { return };
        self.unfollow(&target);
        let (topic, group) = (Text::from(target.as_str()), Text::from(group.as_str()));
        let code = ErrorCode::BadFrame.as_str().into();
        self.send(&ServerFrame::Revoked { topic, group, code, msg: self.followed_limit().into() });
    }

    /// Counts that a client would follow too many topics; what is said to it.
    pub(super) fn followed_limit(&self) -> String {
        let limit = self.node.limits.followed_topics;
        self.node.metrics.bounds.reached(Limit::FollowedTopics, limit, 1);
        format!("a connection's subscriptions without a group may have at most {limit} topics together")
    }

    /// Sends what ephemeral subscriptions have to send and starts reads for them, while there is room.
    pub(super) fn pump_live(&mut self) {
        while self.out.bytes() < LIVE_HIGH
            && self.reads.len() < READS
            && let Some(id) = self.waiting_live.pop_front()
        {
            // One that is paused is looked at again when it is resumed.
            let Some(Subscription { paused: false, source: Source::Live(feed), .. }) = self.subscriptions.get_mut(id)
            else {
                continue;
            };
            match feed.next() {
                Some(Next::Send(items)) => {
                    self.send_items(id, &items);
                    self.waiting_live.push_back(id);
                }
                Some(Next::Read(wanted)) => {
                    let topic = feed.topic(wanted.topic()).clone();
                    let store = Arc::clone(&self.node.store);
                    self.reads.push(Box::pin(async move {
                        let found = feed::read(&*store, &topic, wanted).await;
                        if found.is_err() {
                            tokio::time::sleep(RETRY).await;
                        }
                        (id, found)
                    }));
                }
                None => {}
            }
        }
    }

    pub(super) fn read_done(&mut self, id: MemberId, found: Result<Found, StoreError>) {
        let Some(Subscription { source: Source::Live(feed), .. }) = self.subscriptions.get_mut(id) else { return };
        match found {
            Ok(found) => {
                self.node.metrics.damaged.add(found.damaged());
                feed.found(found);
            }
            Err(error) => {
                tracing::warn!(%error, "read for a subscription failed");
                feed.failed();
            }
        }
        self.waiting_live.push_back(id);
    }

    fn send_items(&mut self, id: MemberId, items: &[Item]) {
        let Some(subscription) = self.subscriptions.get_mut(id) else { return };
        for item in items {
            match item {
                Item::Event(event) => self.out.push(live_frame(&subscription.head, event), 0),
                Item::Gap(topic, from, to) => {
                    if let Source::Live(feed) = &subscription.source {
                        self.out.push(gap_frame(&subscription.group, feed.topic(*topic), *from, *to), 0);
                    }
                }
                Item::Live => {
                    let mut frame = Vec::with_capacity(128);
                    let topic = Text::from(subscription.target.as_str());
                    ServerFrame::Live { topic, group: Text::from(subscription.group.as_str()) }.encode(&mut frame);
                    self.out.push(frame, 0);
                }
            }
        }
    }

    /// Says that events of a member's topic will not come.
    pub(super) fn gap(&mut self, member: MemberId, topic: &Topic, from: u64, to: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(member) {
            self.out.push(gap_frame(&subscription.group, topic, from, to), 0);
        }
    }
}

fn gap_frame(group: &prom_protocol::Group, topic: &Topic, from: u64, to: u64) -> Vec<u8> {
    let mut frame = Vec::with_capacity(160);
    let reason = "the events are no longer retained, damaged, or of a topic that was removed".into();
    let (topic, group) = (Text::from(topic.as_str()), Text::from(group.as_str()));
    ServerFrame::Gap { topic, group, from, to, reason }.encode(&mut frame);
    frame
}

/// An EVENT of an ephemeral subscription: nothing to acknowledge.
fn live_frame(head: &[u8], event: &Stored) -> Vec<u8> {
    let mut frame = Vec::with_capacity(head.len() + event.json.len() + 112);
    frame.extend_from_slice(head);
    frame.extend_from_slice(&event.json);
    encode_event_context(&mut frame, 1, 1, 0, None);
    frame
}
