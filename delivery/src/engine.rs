//! The group delivery engine: a state machine over members, leases and tracks.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prom_protocol::{SubscribeOptions, Topic, TopicOrPattern, limits};

use prom_store::{Cursor, Page, Stored};

use crate::{
    ids::{Ids, Place},
    track::{Dead, MemberId, State, Track, Unsettled},
};

/// Most events of one topic held in memory for a group: unsettled, parked and read ahead.
const MAX_HELD: usize = 20_000;
/// Read when fewer events than this are read ahead.
const READ_BELOW: usize = 256;
/// Most events read at once.
const READ_LIMIT: usize = 1024;
/// First wait before a retry, in milliseconds; doubles with each attempt.
const BACKOFF_MIN: u64 = 100;
/// Longest wait before a retry.
const BACKOFF_MAX: u64 = 30_000;

/// One event to be sent to one member.
#[derive(Debug)]
pub struct Delivery {
    /// The member it goes to.
    pub member: MemberId,
    /// Index of its topic's track.
    pub track: usize,
    /// The event.
    pub event: Stored,
    /// How often the group was given it, this time included.
    pub attempt: u32,
    /// The attempt after which it becomes a dead letter.
    pub max_attempts: u32,
    /// Lease number, and when it runs out in milliseconds on the engine's clock; none with `ack: "none"`.
    pub lease: Option<(u64, u64)>,
}

/// What became of an ACK, NACK or MODACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Done, or was done before. It is stored with the next cursor of the track with this index.
    Done(usize),
    /// No unsettled event of that id.
    Unknown,
    /// The lease has run out, or is somebody else's.
    Stale,
}

/// How a NACK wants its event to go on.
#[derive(Debug, Default)]
pub struct Nack {
    /// What the consumer says about it; for the dead letter.
    pub reason: Option<Box<str>>,
    /// Milliseconds until it is delivered again; none: by the backoff.
    pub delay_ms: Option<u64>,
    /// Straight to the dead letters.
    pub dead: bool,
}

/// Events the engine wants to be read: answer with [`Engine::loaded`] or [`Engine::read_failed`].
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// Index of the topic's track.
    pub track: usize,
    /// The topic to read.
    pub topic: Topic,
    /// The last seq that was read before; reading goes on after it.
    pub after: u64,
    /// Most events to read.
    pub limit: usize,
}

/// A cursor to be stored, with the dead letters to be appended in the same commit. One at a time per topic: the engine
/// hands out no other for this topic until [`Engine::persisted`] is called. If storing fails, the shell tries this same
/// value again.
#[derive(Debug)]
pub struct Persist {
    /// Index of the topic's track.
    pub track: usize,
    /// The topic.
    pub topic: Topic,
    /// The whole cursor.
    pub cursor: Cursor,
    /// Dead letters that are settled in `cursor`.
    pub dead: Vec<Dead>,
}

#[derive(Debug)]
pub(crate) struct Member {
    target: TopicOrPattern,
    pub(crate) options: SubscribeOptions,
    pub(crate) in_flight: u32,
    paused: bool,
    /// Its consumer has more queued than it can send.
    blocked: bool,
}

impl Member {
    pub(crate) fn has_credit(&self) -> bool {
        !self.paused && !self.blocked && self.in_flight < self.options.max_in_flight
    }
}

/// The engine of one group. See the drawing in `lib.rs` for what goes in and out.
#[derive(Debug)]
pub struct Engine {
    pub(crate) members: BTreeMap<MemberId, Member>,
    pub(crate) tracks: Vec<Track>,
    by_topic: HashMap<Topic, usize>,
    /// Tracks that mean nothing, until there is one of their topic again.
    forgotten: HashMap<Topic, usize>,
    /// Events that were taken up and whose settle is not stored, by id: track and seq.
    pub(crate) ids: Ids,
    /// Leases and retries by the time they run out: time, track, seq.
    pub(crate) timers: BTreeSet<(u64, usize, u64)>,
    /// Lease numbers below this are of an earlier engine: a settle with one, whose id is not known here, is stale.
    first_lease: u64,
    pub(crate) next_lease: u64,
    /// Events that are leased.
    pub(crate) leases: usize,
    /// Track to look at first, so that none starves.
    turn: usize,
    random: fastrand::Rng,
}

impl Engine {
    /// An engine whose lease tokens start at `first_lease`, so that those of an earlier one are never mistaken for its
    /// own, and whose backoff jitter comes from `seed`.
    pub fn new(first_lease: u64, seed: u64) -> Self {
        Self {
            members: BTreeMap::new(),
            tracks: Vec::new(),
            by_topic: HashMap::new(),
            forgotten: HashMap::new(),
            ids: Ids::default(),
            timers: BTreeSet::new(),
            first_lease,
            next_lease: first_lease,
            leases: 0,
            turn: 0,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Whether nobody is subscribed and nothing waits to be stored.
    pub fn is_idle(&self) -> bool {
        self.members.is_empty()
            && self.tracks.iter().all(|track| !track.dirty && !track.persisting && track.dead.is_empty())
    }

    /// The index of the track of `topic`, if the engine has it.
    pub fn track_of(&self, topic: &Topic) -> Option<usize> {
        self.by_topic.get(topic).copied()
    }

    /// The topic of a track.
    pub fn topic(&self, track: usize) -> &Topic {
        &self.tracks[track].topic
    }

    /// Adds a topic with the group's stored cursor; the members whose subscription matches take part from now on.
    pub fn add_topic(&mut self, topic: Topic, cursor: Cursor, tail: u64) -> usize {
        if let Some(track) = self.track_of(&topic) {
            return track;
        }
        let index = self.forgotten.remove(&topic).unwrap_or(self.tracks.len());
        let mut track = Track::new(topic.clone(), cursor, tail);
        for (id, member) in self.members.iter().filter(|(_, member)| member.target.matches(&topic)) {
            track.join(*id, &member.options);
        }
        match self.tracks.get_mut(index) {
            Some(forgotten) => *forgotten = track,
            None => self.tracks.push(track),
        }
        self.by_topic.insert(topic, index);
        index
    }

    /// Forgets a topic: its position, what is leased of it, what waits to be stored. Its members stay members. Answers to reads
    /// and [`Persist`]s of it that are under way must not reach the engine any more.
    pub fn forget(&mut self, index: usize) {
        let seqs: Vec<u64> = self.tracks[index].unsettled.keys().copied().collect();
        for seq in seqs {
            self.release(index, seq);
            if let Some(unsettled) = self.tracks[index].unsettled.remove(&seq) {
                self.ids.remove(&unsettled.event.id, (index, seq));
            }
        }
        let track = &mut self.tracks[index];
        let unstored = std::mem::take(&mut track.unstored).into_iter().chain(std::mem::take(&mut track.storing));
        let topic = track.topic.clone();
        for event in unstored {
            self.ids.remove(&event.id, (index, event.seq));
        }
        self.tracks[index] = Track::new(topic.clone(), Cursor::default(), 0);
        self.by_topic.remove(&topic);
        self.forgotten.insert(topic, index);
    }

    /// Adds a member.
    pub fn join(&mut self, id: MemberId, target: TopicOrPattern, options: SubscribeOptions) {
        for index in 0..self.tracks.len() {
            let track = &self.tracks[index];
            if target.matches(&track.topic) && !self.forgotten.contains_key(&track.topic) {
                if track.members.is_empty() && track.ordered != options.ordered {
                    self.put_back(index);
                }
                self.tracks[index].join(id, &options);
            }
        }
        self.members.insert(id, Member { target, options, in_flight: 0, paused: false, blocked: false });
    }

    /// Forgets what was taken up while a topic had another order; it is taken up again in the new one.
    fn put_back(&mut self, index: usize) {
        self.timers.retain(|(_, track, _)| *track != index);
        self.first_lease = self.next_lease;
        let track = &mut self.tracks[index];
        for (seq, unsettled) in &track.unsettled {
            self.ids.remove(&unsettled.event.id, (index, *seq));
        }
        track.put_back();
    }

    /// Removes a member; what it held goes back at once.
    pub fn leave(&mut self, id: MemberId, now: u64) {
        if self.members.remove(&id).is_none() {
            return;
        }
        for index in 0..self.tracks.len() {
            let track = &mut self.tracks[index];
            if !track.members.contains(&id) {
                continue;
            }
            track.members.retain(|member| *member != id);
            track.unstall_all();
            let held: Vec<u64> = track
                .unsettled
                .iter()
                .filter(|(_, u)| matches!(u.state, State::Leased { member, .. } if member == id))
                .map(|(seq, _)| *seq)
                .collect();
            for seq in held {
                self.give_back(index, seq, now, Some(0), "the consumer's connection ended".into());
            }
        }
    }

    /// Stops or starts delivery to a member; its leases run on.
    pub fn pause(&mut self, id: MemberId, paused: bool) {
        if let Some(member) = self.members.get_mut(&id) {
            member.paused = paused;
        }
    }

    /// Blocks or unblocks a member. A blocked member is given nothing: its consumer has more queued than it can send.
    pub fn block(&mut self, id: MemberId, blocked: bool) {
        if let Some(member) = self.members.get_mut(&id) {
            member.blocked = blocked;
        }
    }

    /// The log of a track's topic now ends at `tail`.
    pub fn tail(&mut self, track: usize, tail: u64) {
        let track = &mut self.tracks[track];
        track.tail = track.tail.max(tail);
    }

    /// Settles a delivery.
    pub fn ack(&mut self, member: MemberId, id: &str, lease: Option<u64>) -> Settled {
        let (track, seq) = match self.leased(member, id, lease) {
            Ok(found) => found,
            Err(settled) => return settled,
        };
        self.settle(track, seq);
        Settled::Done(track)
    }

    /// How many events are leased to members.
    pub fn leases(&self) -> usize {
        self.leases
    }

    /// Gives a delivery back.
    pub fn nack(&mut self, member: MemberId, id: &str, lease: Option<u64>, nack: Nack, now: u64) -> Settled {
        let (track, seq) = match self.leased(member, id, lease) {
            Ok(found) => found,
            Err(settled) => return settled,
        };
        let reason = nack.reason.unwrap_or_else(|| "nack".into());
        // Where there are no dead letters an event cannot leave: it is tried again.
        if nack.dead && self.tracks[track].topic.dead_letter().is_some() {
            self.bury(track, seq, reason);
        } else {
            self.give_back(track, seq, now, nack.delay_ms, reason);
        }
        Settled::Done(track)
    }

    /// Makes a lease run out `extend_ms` from now.
    pub fn extend(&mut self, member: MemberId, id: &str, lease: Option<u64>, extend_ms: u64, now: u64) -> Settled {
        let (track, seq) = match self.leased(member, id, lease) {
            Ok(found) => found,
            Err(Settled::Done(_)) => return Settled::Unknown,
            Err(settled) => return settled,
        };
        if let Some(unsettled) = self.tracks[track].unsettled.get_mut(&seq)
            && let State::Leased { deadline, .. } = &mut unsettled.state
        {
            self.timers.remove(&(*deadline, track, seq));
            *deadline = now + extend_ms.clamp(limits::LEASE_MS_MIN, limits::LEASE_MS_MAX);
            self.timers.insert((*deadline, track, seq));
        }
        Settled::Done(track)
    }

    /// When [`Engine::expire`] has something to do.
    pub fn deadline(&self) -> Option<u64> {
        self.timers.first().map(|(due, _, _)| *due)
    }

    /// Takes back leases that have run out and makes retries due.
    pub fn expire(&mut self, now: u64) {
        while let Some(&(due, index, seq)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            let track = &mut self.tracks[index];
            match track.unsettled.get_mut(&seq).map(|u| (u.state, u)) {
                Some((State::Waiting { .. }, unsettled)) => {
                    unsettled.state = State::Due;
                    track.due.insert(seq);
                }
                Some((State::Leased { .. }, _)) => self.give_back(index, seq, now, None, "the lease ran out".into()),
                _ => {}
            }
        }
    }

    /// The next delivery, if a member with credit and an event for it exist.
    pub fn next_delivery(&mut self, now: u64) -> Option<Delivery> {
        for offset in 0..self.tracks.len() {
            let index = (self.turn + offset) % self.tracks.len();
            if self.tracks[index].has_work()
                && let Some(delivery) = self.deliver_from(index, now)
            {
                self.turn = index;
                return Some(delivery);
            }
        }
        // Start somewhere else next time.
        self.turn = self.turn.wrapping_add(1) % self.tracks.len().max(1);
        None
    }

    /// The next read to do.
    pub fn next_read(&mut self) -> Option<Read> {
        for (index, track) in self.tracks.iter_mut().enumerate() {
            let wanted = track.read_to < track.tail
                && !track.reading
                && track.ready.len() < READ_BELOW
                && track.held() < MAX_HELD;
            if wanted && track.members.iter().any(|id| self.members.get(id).is_some_and(Member::has_credit)) {
                track.reading = true;
                return Some(Read {
                    track: index,
                    topic: track.topic.clone(),
                    after: track.read_to,
                    limit: READ_LIMIT,
                });
            }
        }
        None
    }

    /// What a read found. Answers the ranges of events that are gone from the log: trimmed at its front, or, within it and
    /// at its end, damaged and given up. They count as settled, since nobody can ever settle them.
    pub fn loaded(&mut self, index: usize, page: Page) -> Vec<(u64, u64)> {
        let track = &mut self.tracks[index];
        track.reading = false;
        if track.epoch == 0 {
            // Until now there was no log.
            track.epoch = page.epoch;
        }
        let mut gaps = Vec::from_iter(track.skip_to(page.first.saturating_sub(1)));
        for event in page.events {
            if event.seq <= track.read_to {
                continue;
            }
            gaps.extend(track.skip_to(event.seq - 1));
            track.read_to = event.seq;
            if !track.is_settled(event.seq) {
                track.ready.push_back(event);
            }
        }
        gaps.extend(track.skip_to(page.read_to));
        track.read_to = track.read_to.max(page.read_to);
        gaps
    }

    /// A read did not succeed; it is asked for again.
    pub fn read_failed(&mut self, track: usize) {
        self.tracks[track].reading = false;
    }

    /// Whether somebody subscribes to exactly `target`.
    pub fn has_member_of(&self, target: &TopicOrPattern) -> bool {
        self.members.values().any(|member| member.target == *target)
    }

    /// The members of a track.
    pub fn members_of(&self, track: usize) -> &[MemberId] {
        &self.tracks[track].members
    }

    /// The next cursor to store.
    pub fn next_persist(&mut self) -> Option<Persist> {
        let (index, track) = self.tracks.iter_mut().enumerate().find(|(_, track)| track.dirty && !track.persisting)?;
        track.dirty = false;
        track.persisting = true;
        track.storing = std::mem::take(&mut track.unstored);
        Some(Persist {
            track: index,
            topic: track.topic.clone(),
            cursor: track.cursor(),
            dead: std::mem::take(&mut track.dead),
        })
    }

    /// The cursor handed out by [`Engine::next_persist`] is stored.
    pub fn persisted(&mut self, index: usize) {
        let track = &mut self.tracks[index];
        track.persisting = false;
        for event in std::mem::take(&mut track.storing) {
            self.ids.remove(&event.id, (index, event.seq));
        }
    }

    /// Finds the delivery `member` holds on `id`. Without its lease, of several topics' events with that id it is any that
    /// the member holds: it settles the others by the same words.
    fn leased(&mut self, member: MemberId, id: &str, lease: Option<u64>) -> Result<Place, Settled> {
        let mut settled = None;
        let mut known = false;
        for (index, seq) in self.ids.of(id) {
            known = true;
            match self.tracks[index].unsettled.get(&seq).map(|unsettled| unsettled.state) {
                Some(State::Leased { member: holder, lease: held, .. })
                    if holder == member && lease.is_none_or(|lease| lease == held) =>
                {
                    return Ok((index, seq));
                }
                Some(_) => {}
                None => settled = Some(index),
            }
        }
        Err(match settled {
            // Not stored yet: whoever asks is answered when it is.
            Some(index) => {
                self.tracks[index].dirty = true;
                Settled::Done(index)
            }
            None if known && lease.is_some() => Settled::Stale,
            // Of an earlier engine's lease nobody can say whether its event was settled: it may be read again any time.
            None if lease.is_some_and(|lease| lease < self.first_lease) => Settled::Stale,
            None => Settled::Unknown,
        })
    }

    /// Takes an unsettled event out of its state: its timer, its member's credit.
    fn release(&mut self, index: usize, seq: u64) {
        let track = &mut self.tracks[index];
        let Some(unsettled) = track.unsettled.get(&seq) else { return };
        match unsettled.state {
            State::Leased { member, deadline, .. } => {
                self.timers.remove(&(deadline, index, seq));
                self.leases -= 1;
                if let Some(member) = self.members.get_mut(&member) {
                    member.in_flight -= 1;
                }
            }
            State::Waiting { due } => {
                self.timers.remove(&(due, index, seq));
            }
            State::Due => {
                track.due.remove(&seq);
                track.unstall(seq);
            }
        }
    }

    pub(crate) fn settle(&mut self, index: usize, seq: u64) -> Option<Unsettled> {
        self.release(index, seq);
        let track = &mut self.tracks[index];
        let unsettled = track.unsettled.remove(&seq)?;
        track.settle(seq, &unsettled.event.id, unsettled.event.ts);
        track.dirty = true;
        // Its id is known until the settle is stored.
        track.unstored.push(unsettled.event.clone());
        if let Some(key) = &unsettled.event.key
            && track.busy.get(key) == Some(&seq)
        {
            track.free(key);
        }
        Some(unsettled)
    }

    /// Settles an event as a dead letter.
    pub(crate) fn bury(&mut self, index: usize, seq: u64, error: Box<str>) {
        if let Some(unsettled) = self.settle(index, seq) {
            let Unsettled { event, attempts, .. } = unsettled;
            self.tracks[index].dead.push(Dead { event, attempts, error });
        }
    }

    /// Puts an event back, or buries it when its attempts are used up.
    fn give_back(&mut self, index: usize, seq: u64, now: u64, delay: Option<u64>, reason: Box<str>) {
        self.release(index, seq);
        let track = &mut self.tracks[index];
        let Some(unsettled) = track.unsettled.get_mut(&seq) else { return };
        // Released already: the state must not release it again.
        unsettled.state = State::Due;
        if used_up(unsettled.attempts, track.max_attempts, &track.topic) {
            self.bury(index, seq, reason);
            return;
        }
        track.dirty = true;
        let delay = delay.unwrap_or_else(|| backoff(unsettled.attempts, &mut self.random));
        if delay == 0 {
            track.due.insert(seq);
        } else {
            let due = now.saturating_add(delay);
            unsettled.state = State::Waiting { due };
            self.timers.insert((due, index, seq));
        }
    }
}

/// Whether an event has had its last attempt. Topics without dead letters try for ever.
pub(crate) fn used_up(attempts: u32, max_attempts: u32, topic: &Topic) -> bool {
    attempts >= max_attempts && topic.dead_letter().is_some()
}

/// 100 ms doubling with each attempt to 30 s, half of it jitter, so that what failed together does not return together.
fn backoff(attempts: u32, random: &mut fastrand::Rng) -> u64 {
    let full = BACKOFF_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(20)).min(BACKOFF_MAX);
    full / 2 + random.u64(0..=full / 2)
}
