//! A connection's subscriptions: which there are, and what has been gathered for their groups.

use std::collections::HashMap;

use prom_delivery::MemberId;
use prom_protocol::{Group, TopicOrPattern, server::encode_event_head};
use tokio::sync::mpsc;

use super::feed::Feed;
use crate::{
    groups::{Settlement, ToGroup},
    quota::Place,
};

/// Where a subscription's events come from.
#[derive(Debug)]
pub(super) enum Source {
    /// A durable group.
    Group {
        group: mpsc::Sender<ToGroup>,
        /// Settles since the last wake-up.
        settlements: Vec<Settlement>,
    },
    /// The log itself.
    Live(Box<Feed>),
}

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) target: TopicOrPattern,
    pub(super) group: Group,
    /// The start of each of its EVENT frames.
    pub(super) head: Vec<u8>,
    pub(super) paused: bool,
    pub(super) source: Source,
    /// Its part of what its subject may have, given back with it.
    pub(super) place: Option<Place>,
}

impl Subscription {
    pub(super) fn new(target: TopicOrPattern, group: Group, source: Source, place: Option<Place>) -> Self {
        let mut head = Vec::with_capacity(128);
        encode_event_head(&mut head, target.as_str(), group.as_str());
        Self { target, group, head, paused: false, source, place }
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.source, Source::Live(_))
    }
}

/// The subscriptions of one connection, by their number and by the names the client gave them.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    by_name: HashMap<Box<str>, MemberId>,
    by_id: HashMap<MemberId, Subscription>,
    /// Reused to look names up.
    name: String,
    /// Members with settlements gathered.
    settled: Vec<MemberId>,
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// How many topics those without a group have together.
    pub(super) fn followed(&self) -> usize {
        let topics = |subscription: &Subscription| match &subscription.source {
            Source::Live(feed) => feed.len(),
            Source::Group { .. } => 0,
        };
        self.by_id.values().map(topics).sum()
    }

    /// The subscription of `topic` and `group`, as the client named them.
    pub(super) fn find(&mut self, topic: &str, group: &str) -> Option<MemberId> {
        self.name.clear();
        self.name.push_str(topic);
        self.name.push_str("::");
        self.name.push_str(group);
        self.by_name.get(self.name.as_str()).copied()
    }

    pub(super) fn get_mut(&mut self, id: MemberId) -> Option<&mut Subscription> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn insert(&mut self, id: MemberId, subscription: Subscription) {
        let name = format!("{}::{}", subscription.target, subscription.group);
        self.by_name.insert(name.into(), id);
        self.by_id.insert(id, subscription);
    }

    pub(super) fn remove(&mut self, id: MemberId) -> Option<Subscription> {
        let subscription = self.by_id.remove(&id)?;
        self.by_name.retain(|_, own| *own != id);
        self.settled.retain(|own| *own != id);
        Some(subscription)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (MemberId, &mut Subscription)> {
        self.by_id.iter_mut().map(|(id, subscription)| (*id, subscription))
    }

    pub(super) fn ids(&self) -> Vec<MemberId> {
        self.by_id.keys().copied().collect()
    }

    /// Gathers a settle; `false` when there is nothing to settle in this subscription.
    pub(super) fn settle(&mut self, id: MemberId, settlement: Settlement) -> bool {
        let Some(Subscription { source: Source::Group { settlements, .. }, .. }) = self.by_id.get_mut(&id) else {
            return false;
        };
        if settlements.is_empty() {
            self.settled.push(id);
        }
        settlements.push(settlement);
        true
    }

    /// What was gathered, for each group.
    pub(super) fn take_settlements(&mut self) -> Vec<(mpsc::Sender<ToGroup>, MemberId, Vec<Settlement>)> {
        let mut taken = Vec::new();
        for id in self.settled.drain(..) {
            if let Some(Subscription { source: Source::Group { group, settlements }, .. }) = self.by_id.get_mut(&id) {
                taken.push((group.clone(), id, std::mem::take(settlements)));
            }
        }
        taken
    }
}
