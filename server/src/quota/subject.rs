//! What one subject has of what there is a limited number of.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use prom_protocol::{Group, Topic};
use tokio::time::Instant;

/// What is gone is looked for at most so often, where there is no room for more.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many groups at a time: each is a question to the store.
const LOOK_AT: usize = 64;
/// So long after it was asked for, what is not there was not made, or is gone. A publish waits for room at the writer for
/// less (10 s), and is committed or fails soon after.
const MADE_BY: Duration = Duration::from_secs(15);
/// So many names are not worth remembering.
const FEW: usize = 64;

/// One subject: those of its tokens, together.
#[derive(Debug, Default)]
pub(super) struct Subject {
    connections: AtomicUsize,
    subscriptions: AtomicUsize,
    made: Mutex<Made>,
}

/// What it has brought into being since the hub began.
#[derive(Debug, Default)]
struct Made {
    topics: Names<Topic>,
    groups: Names<Group>,
}

#[derive(Debug)]
struct Names<N> {
    /// And when it was first asked for, or looked for last.
    names: HashMap<N, Instant>,
    looked: Option<Instant>,
}

impl<N> Default for Names<N> {
    fn default() -> Self {
        Self { names: HashMap::new(), looked: None }
    }
}

impl Subject {
    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so little is known of it that it may be forgotten: many subjects come once and make one group or topic.
    pub(super) fn is_idle(&self) -> bool {
        let made = self.made();
        made.topics.names.len() < FEW && made.groups.names.len() < FEW
    }

    /// Takes note of a topic that it makes; `false`: it has made `most` that still exist.
    pub(super) fn makes_topic(&self, topic: &Topic, most: usize, exists: impl Fn(&Topic) -> bool) -> bool {
        let mut made = self.made();
        if made.topics.names.len() >= most && !made.topics.names.contains_key(topic) && made.topics.may_look() {
            made.topics.names.retain(|topic, asked| asked.elapsed() < MADE_BY || exists(topic));
        }
        made.topics.add(topic, most)
    }

    /// Some of the groups it has, those not looked at for longest, if it may have no more than `most`, this one is none of
    /// them, and it is time to look whether they still exist.
    pub(super) fn full_of_groups(&self, group: &Group, most: usize) -> Option<Vec<Group>> {
        let groups = &mut self.made().groups;
        if groups.names.len() < most || groups.names.contains_key(group) || !groups.may_look() {
            return None;
        }
        let mut old: Vec<_> = groups.names.iter_mut().filter(|(_, asked)| asked.elapsed() >= MADE_BY).collect();
        old.sort_unstable_by_key(|(_, asked)| **asked);
        old.truncate(LOOK_AT);
        let now = Instant::now();
        let look = |(group, asked): (&Group, &mut Instant)| {
            *asked = now;
            group.clone()
        };
        Some(old.into_iter().map(look).collect())
    }

    /// Groups that are not there any more.
    pub(super) fn lost_groups(&self, gone: &[Group]) {
        let groups = &mut self.made().groups;
        for group in gone {
            groups.names.remove(group);
        }
    }

    /// Takes note of a group that it joins; `false`: it has as many as it may.
    pub(super) fn joins_group(&self, group: &Group, most: usize) -> bool {
        self.made().groups.add(group, most)
    }
}

impl<N: Clone + Eq + Hash> Names<N> {
    fn add(&mut self, name: &N, most: usize) -> bool {
        if !self.names.contains_key(name) {
            if self.names.len() >= most {
                return false;
            }
            self.names.insert(name.clone(), Instant::now());
        }
        true
    }

    fn may_look(&mut self) -> bool {
        let due = self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
        if due {
            self.looked = Some(Instant::now());
        }
        due
    }
}

/// A connection's share of its subject's.
#[derive(Debug)]
pub(crate) struct Share {
    pub(super) subject: Arc<Subject>,
    subscriptions: usize,
}

impl Share {
    /// One more connection; none: there are `most`.
    pub(super) fn take(subject: Arc<Subject>, most: usize) -> Option<Self> {
        let more = |connections: usize| (connections < most).then_some(connections + 1);
        subject.connections.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Self { subject, subscriptions: 0 })
    }

    /// It has so many subscriptions now.
    pub(crate) fn subscriptions(&mut self, now: usize) {
        let before = std::mem::replace(&mut self.subscriptions, now);
        // The sum of the differences of all is the sum of what they have.
        self.subject.subscriptions.fetch_add(now.wrapping_sub(before), Relaxed);
    }

    /// How many its subject has.
    pub(super) fn all_subscriptions(&self) -> usize {
        self.subject.subscriptions.load(Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.subscriptions(0);
        self.subject.connections.fetch_sub(1, Relaxed);
    }
}
