//! What one subject has of what there is a limited number of.

use std::{
    collections::{HashMap, hash_map::Entry},
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
/// So many groups at a time: each is a question to the store, which may go through all topics for it.
const LOOK_AT: usize = 8;
/// So long after it was asked for, what is not there was not made, or is gone. A publish waits for room at the writer for
/// less (10 s), and is committed or fails soon after; one that waits for its rate is asked for again when its time has come.
const MADE_BY: Duration = Duration::from_secs(15);
/// So many names, or an eighth of what there may be, are not worth remembering.
const FEW: usize = 64;

fn few(most: usize) -> usize {
    FEW.min(most / 8)
}

/// One subject: those of its tokens, together.
#[derive(Debug, Default)]
pub(super) struct Subject {
    connections: AtomicUsize,
    subscriptions: AtomicUsize,
    /// Bytes of publishes that wait for their time.
    pub(super) held: AtomicUsize,
    made: Mutex<Made>,
}

/// What it has brought into being since the hub began.
#[derive(Debug, Default)]
struct Made {
    topics: Names<Topic>,
    groups: Names<Group>,
    /// Positions of its groups, together.
    positions: usize,
    /// When it was looked how many of them are still there.
    counted: Option<Instant>,
}

#[derive(Debug)]
struct Asked {
    /// When it was asked for, looked for, or left, last.
    at: Instant,
    /// Subscriptions as a group. As long as there are any it is not gone.
    members: usize,
    /// Positions that its subscriptions as a group have made, and that are still there for all that is known.
    positions: usize,
    /// When the last ones were made, or looked for.
    counted: Instant,
}

impl Default for Asked {
    fn default() -> Self {
        let now = Instant::now();
        Self { at: now, members: 0, positions: 0, counted: now }
    }
}

#[derive(Debug)]
struct Names<N> {
    names: HashMap<N, Asked>,
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
    pub(super) fn is_idle(&self, most_topics: usize, most_groups: usize, most_positions: usize) -> bool {
        let made = self.made();
        made.topics.names.len() <= few(most_topics)
            && made.groups.names.len() <= few(most_groups)
            && made.positions <= few(most_positions)
    }

    /// Takes note of a topic that it makes; `false`: it has made `most` that still exist.
    pub(super) fn makes_topic(&self, topic: &Topic, most: usize, exists: impl Fn(&Topic) -> bool) -> bool {
        let mut made = self.made();
        if made.topics.names.len() >= most && !made.topics.names.contains_key(topic) && is_due(&mut made.topics.looked)
        {
            made.topics.names.retain(|topic, asked| asked.at.elapsed() < MADE_BY || exists(topic));
        }
        made.topics.add(topic, most).is_some()
    }

    /// Some of the groups it has and is not in, those not looked at for longest, if it may have no more than `most`, this one
    /// is none of them, and it is time to look whether they still exist.
    pub(super) fn full_of_groups(&self, group: &Group, most: usize) -> Option<Vec<Group>> {
        let groups = &mut self.made().groups;
        if groups.names.len() < most || groups.names.contains_key(group) || !is_due(&mut groups.looked) {
            return None;
        }
        Some(groups.oldest(|asked| (asked.members == 0).then_some(&mut asked.at), Instant::now()))
    }

    /// Groups that are not there any more.
    pub(super) fn lost_groups(&self, gone: &[Group]) {
        let mut made = self.made();
        for group in gone {
            // It may have been joined again while it was looked for.
            if made.groups.names.get(group).is_some_and(|asked| asked.members == 0) {
                made.forget(group);
            }
        }
    }

    /// Takes note of `new` positions that it makes as `group`; an error: how many it has, for these would be more than `most`.
    pub(super) fn makes_positions(&self, group: &Group, new: usize, most: usize) -> Result<(), usize> {
        let made = &mut *self.made();
        if made.positions.saturating_add(new) > most {
            return Err(made.positions);
        }
        if let Some(asked) = made.groups.add(group, usize::MAX) {
            asked.positions += new;
            asked.counted = asked.at;
            made.positions += new;
        }
        Ok(())
    }

    /// So many of them were not made after all.
    pub(super) fn unmakes_positions(&self, group: &Group, count: usize) {
        let made = &mut *self.made();
        if let Some(asked) = made.groups.names.get_mut(group) {
            let gone = asked.positions.min(count);
            asked.positions -= gone;
            made.positions -= gone;
        }
    }

    /// How many positions it has made that still count.
    pub(super) fn positions(&self) -> usize {
        self.made().positions
    }

    /// Some of the groups whose positions count, those not looked at for longest, and when that was noted, if it is time to
    /// look how many of them are still there.
    pub(super) fn groups_to_count(&self) -> Option<(Vec<Group>, Instant)> {
        let mut made = self.made();
        let now = Instant::now();
        is_due(&mut made.counted)
            .then(|| (made.groups.oldest(|asked| (asked.positions > 0).then_some(&mut asked.counted), now), now))
    }

    /// A group has so many positions now, of whoever made them. `looked`: when it was chosen to be looked at; what it has made
    /// since then may not be in the store yet, and all of it counts.
    pub(super) fn has_positions(&self, group: &Group, there: usize, looked: Instant) {
        let made = &mut *self.made();
        if let Some(asked) = made.groups.names.get_mut(group)
            && asked.counted == looked
        {
            let gone = asked.positions.saturating_sub(there);
            asked.positions -= gone;
            made.positions -= gone;
        }
    }

    /// Takes note of a group that it joins, until it leaves it; `false`: it has as many as it may.
    fn joins_group(&self, group: &Group, most: usize) -> bool {
        self.made().groups.add(group, most).map(|asked| asked.members += 1).is_some()
    }

    /// What was a group of its becomes another's. A token without `sub` is a subject of its own, and each renewal would leave
    /// one behind that is remembered for its groups. Answers how many positions go with it.
    fn loses_group(&self, group: &Group) -> usize {
        let mut made = self.made();
        if made.groups.names.get(group).is_some_and(|asked| asked.members <= 1) {
            return made.forget(group);
        }
        if let Some(asked) = made.groups.names.get_mut(group) {
            asked.members -= 1;
        }
        0
    }

    fn leaves_group(&self, group: &Group) {
        if let Some(asked) = self.made().groups.names.get_mut(group) {
            asked.at = Instant::now();
            asked.members = asked.members.saturating_sub(1);
        }
    }
}

impl Made {
    /// Forgets a group; how many positions count no more.
    fn forget(&mut self, group: &Group) -> usize {
        let positions = self.groups.names.remove(group).map_or(0, |asked| asked.positions);
        self.positions -= positions;
        positions
    }
}

/// Whether it is time to look again, which is noted.
fn is_due(looked: &mut Option<Instant>) -> bool {
    let due = looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
    if due {
        *looked = Some(Instant::now());
    }
    due
}

impl<N: Clone + Eq + Hash> Names<N> {
    /// What is known of a name that is asked for now; none: it is new, and there are `most`.
    fn add(&mut self, name: &N, most: usize) -> Option<&mut Asked> {
        let room = self.names.len() < most;
        let asked = match self.names.entry(name.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) if room => new.insert(Asked::default()),
            Entry::Vacant(_) => return None,
        };
        asked.at = Instant::now();
        Some(asked)
    }

    /// Some of those of which there is a time, and it is long ago, the longest first; it is `now` then.
    fn oldest(&mut self, time: impl Fn(&mut Asked) -> Option<&mut Instant>, now: Instant) -> Vec<N> {
        let times = self.names.iter_mut().filter_map(|(name, asked)| Some((name, time(asked)?)));
        let mut old: Vec<_> = times.filter(|(_, at)| now.duration_since(**at) >= MADE_BY).collect();
        old.sort_unstable_by_key(|(_, at)| **at);
        old.truncate(LOOK_AT);
        let look = |(name, at): (&N, &mut Instant)| {
            *at = now;
            name.clone()
        };
        old.into_iter().map(look).collect()
    }
}

/// Counts one more; `false`: there are `most`.
pub(crate) fn one_more(count: &AtomicUsize, most: usize) -> bool {
    count.fetch_update(Relaxed, Relaxed, |count| (count < most).then_some(count + 1)).is_ok()
}

/// A connection's share of its subject's.
#[derive(Debug)]
pub(crate) struct Share {
    pub(super) subject: Arc<Subject>,
}

impl Share {
    /// One more connection; none: there are `most`.
    pub(super) fn take(subject: Arc<Subject>, most: usize) -> Option<Self> {
        // Made only then: dropped, it would count one less.
        one_more(&subject.connections, most).then(|| Self { subject })
    }

    /// One more subscription; none: the subject has `most`.
    pub(super) fn place(&self, most: usize) -> Option<Place> {
        one_more(&self.subject.subscriptions, most).then(|| Place { subject: Arc::clone(&self.subject), group: None })
    }

    /// Takes over a subscription that there is, however many the subject has: its connection has become the subject's.
    pub(crate) fn adopt(&self, place: &mut Place) {
        self.subject.subscriptions.fetch_add(1, Relaxed);
        let group = place.group.take();
        let positions = group.as_ref().map_or(0, |group| place.subject.loses_group(group));
        *place = Place { subject: Arc::clone(&self.subject), group: None };
        if let Some(group) = group {
            place.joins(&group, usize::MAX);
            let _ = self.subject.makes_positions(&group, positions, usize::MAX);
        }
    }
}

/// The place of one subscription among its subject's, from before it is made until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    subject: Arc<Subject>,
    group: Option<Group>,
}

impl Place {
    /// It is one as `group`; `false`: the subject has as many groups as it may.
    pub(super) fn joins(&mut self, group: &Group, most: usize) -> bool {
        let joins = self.subject.joins_group(group, most);
        if joins {
            self.group = Some(group.clone());
        }
        joins
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.subject.subscriptions.fetch_sub(1, Relaxed);
        if let Some(group) = &self.group {
            self.subject.leaves_group(group);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.subject.connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_small_part_of_a_share_is_forgotten() {
        for (most, made, idle) in [(1, 0, true), (1, 1, false), (8, 1, true), (8, 2, false), (25_000, FEW, true)] {
            let subject = Subject::default();
            for n in 0..made {
                assert!(subject.makes_topic(&Topic::new(&format!("t.{n}")).unwrap(), most, |_| false));
            }
            assert_eq!(subject.is_idle(most, 1, 1), idle, "{made} of {most}");
        }
        let subject = Subject::default();
        subject.makes_positions(&Group::new("g").unwrap(), FEW, 25_000).unwrap();
        assert!(subject.is_idle(25_000, 8, 25_000) && !subject.is_idle(25_000, 8, 8));
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_is_looked_for_only_when_the_subject_has_left_it() {
        let subject = Arc::new(Subject::default());
        let share = Share::take(Arc::clone(&subject), 1).unwrap();
        let (own, other) = (Group::new("own").unwrap(), Group::new("other").unwrap());
        let mut place = share.place(2).unwrap();
        assert!(place.joins(&own, 1));
        tokio::time::advance(2 * MADE_BY).await;
        assert_eq!(subject.full_of_groups(&other, 1), Some(Vec::new()));
        subject.lost_groups(std::slice::from_ref(&own));
        assert!(!share.place(2).unwrap().joins(&other, 1));
        drop(place);
        tokio::time::advance(2 * MADE_BY).await;
        assert_eq!(subject.full_of_groups(&other, 1), Some(vec![own.clone()]));
        subject.lost_groups(&[own]);
        assert!(share.place(2).unwrap().joins(&other, 1));
        assert_eq!(subject.subscriptions.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn positions_count_as_long_as_they_are_there() {
        let subject = Subject::default();
        let [g, h] = ["g", "h"].map(|name| Group::new(name).unwrap());
        assert_eq!(subject.makes_positions(&g, 6, 10), Ok(()));
        assert_eq!(subject.makes_positions(&h, 5, 10), Err(6));
        assert_eq!(subject.makes_positions(&h, 4, 10), Ok(()));
        subject.unmakes_positions(&h, 1);
        assert_eq!(subject.positions(), 9);
        // What was made just now may not be in the store yet.
        assert_eq!(subject.groups_to_count().map(|(groups, _)| groups), Some(Vec::new()));
        tokio::time::advance(MADE_BY).await;
        let (mut groups, looked) = subject.groups_to_count().unwrap();
        groups.sort_unstable();
        assert_eq!(groups, [g.clone(), h.clone()]);
        assert_eq!(subject.groups_to_count(), None, "not so soon");
        // Others may have made some of them.
        subject.has_positions(&g, 100, looked);
        tokio::time::advance(LOOK_EVERY).await;
        subject.makes_positions(&h, 1, 10).unwrap();
        subject.has_positions(&h, 0, looked);
        assert_eq!(subject.positions(), 10, "one more of its is under way");
        subject.has_positions(&g, 2, looked);
        subject.lost_groups(&[h]);
        assert_eq!(subject.positions(), 2);
    }

    #[test]
    fn who_is_another_subject_now_leaves_nothing_behind() {
        let (before, now) = (Arc::new(Subject::default()), Arc::new(Subject::default()));
        let (first, second) = (Share::take(Arc::clone(&before), 2).unwrap(), Share::take(Arc::clone(&now), 2).unwrap());
        let group = Group::new("own").unwrap();
        let mut places: Vec<_> = (0..2).map(|_| first.place(9).unwrap()).collect();
        for place in &mut places {
            assert!(place.joins(&group, 1));
        }
        before.makes_positions(&group, 7, 9).unwrap();
        for place in &mut places {
            second.adopt(place);
        }
        assert!(before.made().groups.names.is_empty());
        assert_eq!((before.positions(), now.positions()), (0, 7));
        assert_eq!(now.made().groups.names[&group].members, 2);
        assert_eq!((before.subscriptions.load(Relaxed), now.subscriptions.load(Relaxed)), (0, 2));
    }
}
