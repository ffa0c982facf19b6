//! Which event goes to which member next.

use prom_protocol::{AckMode, Event, Ordering};

use super::{
    engine::{Delivery, Engine, Member, MemberId, used_up},
    log::State,
};
use crate::store::Stored;

enum Choice {
    Member(MemberId),
    /// These want it, and none of them has credit.
    Later(Vec<MemberId>),
    /// No member's filter passes it.
    Nobody,
}

impl Engine {
    /// Delivers one event of a log: what waited for a member, else a retry, else the next one read.
    pub(super) fn deliver_from(&mut self, index: usize, now: u64) -> Option<Delivery> {
        // Without credit anywhere there is no point in looking at events.
        if !self.logs[index].members.iter().any(|id| self.has_credit(*id)) {
            return None;
        }
        if let Some((seq, member)) = self.unstalled(index) {
            return self.lease(index, seq, member, now);
        }
        while let Some(seq) = self.logs[index].due.pop_first() {
            if let Some(delivery) = self.deliver_due(index, seq, now) {
                return Some(delivery);
            }
        }
        let ordered = self.ordered == Ordering::Key;
        while let Some(event) = self.logs[index].ready.pop_front() {
            let log = &mut self.logs[index];
            if ordered
                && let Some(key) = &event.key
                && log.busy.contains_key(key)
            {
                log.parked.entry(key.clone()).or_default().push_back(event);
                log.parked_count += 1;
                continue;
            }
            let seq = event.seq;
            self.ids.insert(event.id.clone(), (index, seq));
            log.take_up(event, ordered);
            if let Some(delivery) = self.deliver_due(index, seq, now) {
                return Some(delivery);
            }
        }
        None
    }

    fn has_credit(&self, id: MemberId) -> bool {
        self.members.get(&id).is_some_and(Member::has_credit)
    }

    /// The first event that waited for a member which has credit now, and who gets it.
    fn unstalled(&self, index: usize) -> Option<(u64, MemberId)> {
        let log = &self.logs[index];
        let members = log.members.iter().filter(|id| self.has_credit(**id));
        let seq = members.filter_map(|id| log.stalled_for(*id)).min()?;
        let wanting = log.wanted_by(seq).iter().filter(|id| self.has_credit(**id));
        let member = wanting.min_by_key(|id| self.members.get(*id).map(|member| member.in_flight))?;
        Some((seq, *member))
    }

    /// Delivers an event that was taken off the due ones, or settles it, buries it or sets it aside.
    fn deliver_due(&mut self, index: usize, seq: u64, now: u64) -> Option<Delivery> {
        let unsettled = self.logs[index].unsettled.get(&seq)?;
        let (event, attempts) = (unsettled.event.clone(), unsettled.attempts);
        match self.choose(index, &event) {
            Choice::Nobody => {
                self.settle(index, seq);
            }
            // A restart, or a first member that allows fewer.
            _ if used_up(attempts, self.max_attempts, &self.logs[index].topic) => {
                self.bury(index, seq, "the last delivery was cut off".into());
            }
            Choice::Member(member) => return self.lease(index, seq, member, now),
            Choice::Later(members) => self.logs[index].stall(seq, members),
        }
        None
    }

    /// Who gets `event`: among the members it passes the filter of, the one with credit that has the fewest in flight.
    fn choose(&self, index: usize, event: &Stored) -> Choice {
        let mut parsed = None;
        let mut passes = |member: &Member| {
            member.options.filter.is_empty() || {
                let event = parsed.get_or_insert_with(|| Event::parse(event.text()));
                event.as_ref().is_ok_and(|event| member.options.filter.passes(event))
            }
        };
        let mut best: Option<(u32, MemberId)> = None;
        let mut waiting = Vec::new();
        for id in &self.logs[index].members {
            let Some(member) = self.members.get(id) else { continue };
            let credit = member.has_credit();
            if (credit && best.is_some_and(|(fewest, _)| member.in_flight >= fewest)) || !passes(member) {
                continue;
            }
            if credit {
                best = Some((member.in_flight, *id));
            } else if best.is_none() {
                waiting.push(*id);
            }
        }
        match best {
            Some((_, id)) => Choice::Member(id),
            None if waiting.is_empty() => Choice::Nobody,
            None => Choice::Later(waiting),
        }
    }

    /// Gives an unsettled event to a member.
    fn lease(&mut self, index: usize, seq: u64, id: MemberId, now: u64) -> Option<Delivery> {
        let member = self.members.get_mut(&id)?;
        let log = &mut self.logs[index];
        log.unstall(seq);
        let unsettled = log.unsettled.get_mut(&seq)?;
        unsettled.attempts += 1;
        log.delivered = log.delivered.max(seq);
        log.dirty = true;
        let mut delivery = Delivery {
            member: id,
            log: index,
            event: unsettled.event.clone(),
            attempt: unsettled.attempts,
            max_attempts: self.max_attempts,
            lease: None,
        };
        if member.options.ack == AckMode::None {
            self.settle(index, seq);
            return Some(delivery);
        }
        let lease = self.next_lease;
        self.next_lease = self.next_lease.wrapping_add(1);
        let deadline = now.saturating_add(member.options.ack_timeout_ms);
        member.in_flight += 1;
        self.leases += 1;
        unsettled.state = State::Leased { member: id, lease, deadline };
        self.timers.insert((deadline, index, seq));
        delivery.lease = Some((lease, deadline));
        Some(delivery)
    }
}
