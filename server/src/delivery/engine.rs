//! The group delivery engine: a state machine over members, leases and logs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use prom_protocol::{Ordering, SubscribeOptions, Topic, TopicOrPattern, limits};

use super::log::{Dead, Log, State, Unsettled};
use crate::store::{Cursor, Page, Stored};

/// Names one subscription of one connection, unique in the hub's lifetime.
pub type MemberId = u64;

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
    /// To whom.
    pub member: MemberId,
    /// Index of its log.
    pub log: usize,
    /// What.
    pub event: Stored,
    /// How often the group was given it, this time included.
    pub attempt: u32,
    /// The attempt after which it becomes a dead letter.
    pub max_attempts: u32,
    /// Lease and the time at which it runs out; none with `ack: "none"`.
    pub lease: Option<(u64, u64)>,
}

/// What became of an ACK, NACK or MODACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Done, or was done before. It is stored with the next position of the log with this index.
    Done(usize),
    /// No unsettled event of that id.
    Unknown,
    /// The lease has run out, or is somebody else's.
    Stale,
}

/// How a NACK wants its event to go on.
#[derive(Debug, Default)]
pub struct Nack {
    /// Why.
    pub reason: Option<Box<str>>,
    /// When to deliver it again; none: by the backoff.
    pub delay_ms: Option<u64>,
    /// Straight to the dead letters.
    pub dead: bool,
}

/// Events the engine wants to be read: answer with [`Engine::loaded`] or [`Engine::read_failed`].
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// Index of the log.
    pub log: usize,
    /// Of which topic.
    pub topic: Topic,
    /// After which seq.
    pub after: u64,
    /// At most this many.
    pub limit: usize,
}

/// A position to be stored, with the dead letters to be appended in the same commit. One at a time per log: answer
/// with [`Engine::persisted`] when it is stored; until then it is asked for again and again by the same value.
#[derive(Debug)]
pub struct Persist {
    /// Index of the log.
    pub log: usize,
    /// Of which topic.
    pub topic: Topic,
    /// The whole position.
    pub cursor: Cursor,
    /// Dead letters that are settled in `cursor`.
    pub dead: Vec<Dead>,
}

#[derive(Debug)]
pub(super) struct Member {
    target: TopicOrPattern,
    pub(super) options: SubscribeOptions,
    pub(super) in_flight: u32,
    paused: bool,
    /// Its connection has more queued than it can send.
    blocked: bool,
}

impl Member {
    pub(super) fn has_credit(&self) -> bool {
        !self.paused && !self.blocked && self.in_flight < self.options.max_in_flight
    }
}

/// See [the module above](super).
#[derive(Debug)]
pub struct Engine {
    pub(super) members: BTreeMap<MemberId, Member>,
    pub(super) logs: Vec<Log>,
    by_topic: HashMap<Topic, usize>,
    /// Events that were taken up and whose settle is not stored, by id: log and seq.
    pub(super) ids: HashMap<Arc<str>, (usize, u64)>,
    /// Leases and retries by the time they run out: time, log, seq.
    pub(super) timers: BTreeSet<(u64, usize, u64)>,
    /// Tokens below are of an earlier engine.
    first_lease: u64,
    pub(super) next_lease: u64,
    /// Events that are leased.
    pub(super) leases: usize,
    /// Taken from the member that joined first while the group has members.
    pub(super) max_attempts: u32,
    pub(super) ordered: Ordering,
    /// Log to look at first, so that none starves.
    turn: usize,
    random: fastrand::Rng,
}

impl Engine {
    /// An engine whose lease tokens start at `first_lease`, so that those of an earlier one are never mistaken for its
    /// own, and whose backoff jitter comes from `seed`.
    pub fn new(first_lease: u64, seed: u64) -> Self {
        Self {
            members: BTreeMap::new(),
            logs: Vec::new(),
            by_topic: HashMap::new(),
            ids: HashMap::new(),
            timers: BTreeSet::new(),
            first_lease,
            next_lease: first_lease,
            leases: 0,
            max_attempts: SubscribeOptions::default().max_attempts,
            ordered: Ordering::None,
            turn: 0,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Whether nobody is subscribed and nothing waits to be stored.
    pub fn is_idle(&self) -> bool {
        self.members.is_empty() && self.logs.iter().all(|log| !log.dirty && !log.persisting && log.dead.is_empty())
    }

    /// The log of `topic`, if the engine has it.
    pub fn log_of(&self, topic: &Topic) -> Option<usize> {
        self.by_topic.get(topic).copied()
    }

    /// The topic of a log.
    pub fn topic(&self, log: usize) -> &Topic {
        &self.logs[log].topic
    }

    /// Adds a topic with the group's stored position; the members whose subscription matches take part from now on.
    pub fn add_log(&mut self, topic: Topic, cursor: Cursor, tail: u64) -> usize {
        if let Some(log) = self.log_of(&topic) {
            return log;
        }
        let index = self.logs.len();
        let mut log = Log::new(topic.clone(), cursor, tail);
        log.members = self.members.iter().filter(|(_, m)| m.target.matches(&topic)).map(|(id, _)| *id).collect();
        self.logs.push(log);
        self.by_topic.insert(topic, index);
        index
    }

    /// Adds a member.
    pub fn join(&mut self, id: MemberId, target: TopicOrPattern, options: SubscribeOptions) {
        if self.members.is_empty() {
            self.max_attempts = options.max_attempts;
            if self.ordered != options.ordered {
                self.ordered = options.ordered;
                self.put_back();
            }
        }
        for log in &mut self.logs {
            if target.matches(&log.topic) {
                log.members.push(id);
                log.unstall_all();
            }
        }
        self.members.insert(id, Member { target, options, in_flight: 0, paused: false, blocked: false });
    }

    /// Forgets what was taken up while the group had another order; it is taken up again in the new one.
    fn put_back(&mut self) {
        self.timers.clear();
        self.first_lease = self.next_lease;
        for log in &mut self.logs {
            for unsettled in log.unsettled.values() {
                self.ids.remove(&unsettled.event.id);
            }
            log.put_back();
        }
    }

    /// Removes a member; what it held goes back at once.
    pub fn leave(&mut self, id: MemberId, now: u64) {
        if self.members.remove(&id).is_none() {
            return;
        }
        for index in 0..self.logs.len() {
            let log = &mut self.logs[index];
            if !log.members.contains(&id) {
                continue;
            }
            log.members.retain(|member| *member != id);
            log.unstall_all();
            let held: Vec<u64> = log
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

    /// Says whether a member's connection can take more.
    pub fn block(&mut self, id: MemberId, blocked: bool) {
        if let Some(member) = self.members.get_mut(&id) {
            member.blocked = blocked;
        }
    }

    /// The topic's log now ends at `tail`.
    pub fn tail(&mut self, log: usize, tail: u64) {
        let log = &mut self.logs[log];
        log.tail = log.tail.max(tail);
    }

    /// Settles a delivery.
    pub fn ack(&mut self, member: MemberId, id: &str, lease: Option<u64>) -> Settled {
        let (log, seq) = match self.leased(member, id, lease) {
            Ok(found) => found,
            Err(settled) => return settled,
        };
        self.settle(log, seq);
        Settled::Done(log)
    }

    /// How many events are leased to members.
    pub fn leases(&self) -> usize {
        self.leases
    }

    /// Gives a delivery back.
    pub fn nack(&mut self, member: MemberId, id: &str, lease: Option<u64>, nack: Nack, now: u64) -> Settled {
        let (log, seq) = match self.leased(member, id, lease) {
            Ok(found) => found,
            Err(settled) => return settled,
        };
        let reason = nack.reason.unwrap_or_else(|| "nack".into());
        // Where there are no dead letters an event cannot leave: it is tried again.
        if nack.dead && self.logs[log].topic.dead_letter().is_some() {
            self.bury(log, seq, reason);
        } else {
            self.give_back(log, seq, now, nack.delay_ms, reason);
        }
        Settled::Done(log)
    }

    /// Makes a lease run out `extend_ms` from now.
    pub fn extend(&mut self, member: MemberId, id: &str, lease: Option<u64>, extend_ms: u64, now: u64) -> Settled {
        let (log, seq) = match self.leased(member, id, lease) {
            Ok(found) => found,
            Err(Settled::Done(_)) => return Settled::Unknown,
            Err(settled) => return settled,
        };
        if let Some(unsettled) = self.logs[log].unsettled.get_mut(&seq)
            && let State::Leased { deadline, .. } = &mut unsettled.state
        {
            self.timers.remove(&(*deadline, log, seq));
            *deadline = now + extend_ms.clamp(limits::LEASE_MS_MIN, limits::LEASE_MS_MAX);
            self.timers.insert((*deadline, log, seq));
        }
        Settled::Done(log)
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
            let log = &mut self.logs[index];
            match log.unsettled.get_mut(&seq).map(|u| (u.state, u)) {
                Some((State::Waiting { .. }, unsettled)) => {
                    unsettled.state = State::Due;
                    log.due.insert(seq);
                }
                Some((State::Leased { .. }, _)) => self.give_back(index, seq, now, None, "the lease ran out".into()),
                _ => {}
            }
        }
    }

    /// The next delivery, if a member with credit and an event for it exist.
    pub fn next_delivery(&mut self, now: u64) -> Option<Delivery> {
        for offset in 0..self.logs.len() {
            let index = (self.turn + offset) % self.logs.len();
            if self.logs[index].has_work()
                && let Some(delivery) = self.deliver_from(index, now)
            {
                self.turn = index;
                return Some(delivery);
            }
        }
        // Start somewhere else next time.
        self.turn = self.turn.wrapping_add(1) % self.logs.len().max(1);
        None
    }

    /// The next read to do.
    pub fn next_read(&mut self) -> Option<Read> {
        for (index, log) in self.logs.iter_mut().enumerate() {
            let wanted =
                log.read_to < log.tail && !log.reading && log.ready.len() < READ_BELOW && log.held() < MAX_HELD;
            if wanted && log.members.iter().any(|id| self.members.get(id).is_some_and(Member::has_credit)) {
                log.reading = true;
                return Some(Read { log: index, topic: log.topic.clone(), after: log.read_to, limit: READ_LIMIT });
            }
        }
        None
    }

    /// What a read found. Answers the range of events that are gone from the log, if some are.
    pub fn loaded(&mut self, index: usize, page: Page) -> Option<(u64, u64)> {
        let log = &mut self.logs[index];
        log.reading = false;
        let gap = log.skip_to(page.first.saturating_sub(1));
        for event in page.events {
            if event.seq > log.read_to && !log.is_settled(event.seq) {
                log.ready.push_back(event);
            }
        }
        log.read_to = log.read_to.max(page.read_to);
        gap
    }

    /// A read did not succeed; it is asked for again.
    pub fn read_failed(&mut self, log: usize) {
        self.logs[log].reading = false;
    }

    /// Whether somebody subscribes to exactly `target`.
    pub fn has_member_of(&self, target: &TopicOrPattern) -> bool {
        self.members.values().any(|member| member.target == *target)
    }

    /// The members of a log.
    pub fn members_of(&self, log: usize) -> &[MemberId] {
        &self.logs[log].members
    }

    /// The next position to store.
    pub fn next_persist(&mut self) -> Option<Persist> {
        let (index, log) = self.logs.iter_mut().enumerate().find(|(_, log)| log.dirty && !log.persisting)?;
        log.dirty = false;
        log.persisting = true;
        log.storing = std::mem::take(&mut log.unstored);
        Some(Persist {
            log: index,
            topic: log.topic.clone(),
            cursor: log.cursor(),
            dead: std::mem::take(&mut log.dead),
        })
    }

    /// The position handed out by [`Engine::next_persist`] is stored.
    pub fn persisted(&mut self, index: usize) {
        let log = &mut self.logs[index];
        log.persisting = false;
        for event in std::mem::take(&mut log.storing) {
            if self.ids.get(&event.id) == Some(&(index, event.seq)) {
                self.ids.remove(&event.id);
            }
        }
    }

    /// Finds the delivery `member` holds on `id`.
    fn leased(&mut self, member: MemberId, id: &str, lease: Option<u64>) -> Result<(usize, u64), Settled> {
        let Some(&(index, seq)) = self.ids.get(id) else {
            // Of an earlier engine's lease nobody can say whether its event was settled: it may be read again any time.
            let earlier = lease.is_some_and(|lease| lease < self.first_lease);
            return Err(if earlier { Settled::Stale } else { Settled::Unknown });
        };
        let log = &mut self.logs[index];
        match log.unsettled.get(&seq).map(|u| u.state) {
            Some(State::Leased { member: holder, lease: held, .. })
                if holder == member && lease.is_none_or(|lease| lease == held) =>
            {
                Ok((index, seq))
            }
            Some(_) if lease.is_some() => Err(Settled::Stale),
            Some(_) => Err(Settled::Unknown),
            None => {
                // Settled, and not stored yet: whoever asks is answered when it is.
                log.dirty = true;
                Err(Settled::Done(index))
            }
        }
    }

    /// Takes an unsettled event out of its state: its timer, its member's credit.
    fn release(&mut self, index: usize, seq: u64) {
        let log = &mut self.logs[index];
        let Some(unsettled) = log.unsettled.get(&seq) else { return };
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
                log.due.remove(&seq);
                log.unstall(seq);
            }
        }
    }

    pub(super) fn settle(&mut self, index: usize, seq: u64) -> Option<Unsettled> {
        self.release(index, seq);
        let log = &mut self.logs[index];
        let unsettled = log.unsettled.remove(&seq)?;
        log.settle(seq, &unsettled.event.id, unsettled.event.ts);
        log.dirty = true;
        // Its id is known until the settle is stored.
        log.unstored.push(unsettled.event.clone());
        if let Some(key) = &unsettled.event.key
            && log.busy.get(key) == Some(&seq)
        {
            log.free(key);
        }
        Some(unsettled)
    }

    /// Settles an event as a dead letter.
    pub(super) fn bury(&mut self, index: usize, seq: u64, error: Box<str>) {
        if let Some(unsettled) = self.settle(index, seq) {
            let Unsettled { event, attempts, .. } = unsettled;
            self.logs[index].dead.push(Dead { event, attempts, error });
        }
    }

    /// Puts an event back, or buries it when its attempts are used up.
    fn give_back(&mut self, index: usize, seq: u64, now: u64, delay: Option<u64>, reason: Box<str>) {
        self.release(index, seq);
        let log = &mut self.logs[index];
        let Some(unsettled) = log.unsettled.get_mut(&seq) else { return };
        // Released already: the state must not release it again.
        unsettled.state = State::Due;
        if used_up(unsettled.attempts, self.max_attempts, &log.topic) {
            self.bury(index, seq, reason);
            return;
        }
        log.dirty = true;
        let delay = delay.unwrap_or_else(|| backoff(unsettled.attempts, &mut self.random));
        if delay == 0 {
            log.due.insert(seq);
        } else {
            let due = now.saturating_add(delay);
            unsettled.state = State::Waiting { due };
            self.timers.insert((due, index, seq));
        }
    }
}

/// Whether an event has had its last attempt. Topics without dead letters try for ever.
pub(super) fn used_up(attempts: u32, max_attempts: u32, topic: &Topic) -> bool {
    attempts >= max_attempts && topic.dead_letter().is_some()
}

/// 100 ms doubling with each attempt to 30 s, half of it jitter, so that what failed together does not return together.
fn backoff(attempts: u32, random: &mut fastrand::Rng) -> u64 {
    let full = BACKOFF_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(20)).min(BACKOFF_MAX);
    full / 2 + random.u64(0..=full / 2)
}
