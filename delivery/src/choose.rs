//! Which event goes to which member next.

use prom_protocol::{AckMode, Event, Ordering};

use crate::{
    engine::{Delivery, Engine, Member, used_up},
    track::{MemberId, State},
};
use prom_store::Stored;

enum Choice {
    Member(MemberId),
    /// These want it, and none of them has credit.
    Later(Vec<MemberId>),
    /// No member's filter passes it.
    Nobody,
}

impl Engine {
    /// Delivers one event of a track: what waited for a member, else a retry, else the next one read.
    pub(crate) fn deliver_from(&mut self, index: usize, now: u64) -> Option<Delivery> {
        // Without credit anywhere there is no point in looking at events.
        if !self.tracks[index].members.iter().any(|id| self.has_credit(*id)) {
            return None;
        }
        if let Some((seq, member)) = self.unstalled(index) {
            return self.lease(index, seq, member, now);
        }
        while let Some(seq) = self.tracks[index].due.pop_first() {
            if let Some(delivery) = self.deliver_due(index, seq, now) {
                return Some(delivery);
            }
        }
        let ordered = self.tracks[index].ordered == Ordering::Key;
        while let Some(event) = self.tracks[index].ready.pop_front() {
            let track = &mut self.tracks[index];
            if ordered
                && let Some(key) = &event.key
                && track.busy.contains_key(key)
            {
                track.parked.entry(key.clone()).or_default().push_back(event);
                track.parked_count += 1;
                continue;
            }
            let seq = event.seq;
            self.ids.insert(event.id.clone(), (index, seq));
            track.take_up(event, ordered);
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
        let track = &self.tracks[index];
        let members = track.members.iter().filter(|id| self.has_credit(**id));
        let seq = members.filter_map(|id| track.stalled_for(*id)).min()?;
        let wanting = track.wanted_by(seq).iter().filter(|id| self.has_credit(**id));
        let member = wanting.min_by_key(|id| self.members.get(*id).map(|member| member.in_flight))?;
        Some((seq, *member))
    }

    /// Delivers an event that was taken off the due ones, or settles it, buries it or sets it aside.
    fn deliver_due(&mut self, index: usize, seq: u64, now: u64) -> Option<Delivery> {
        let unsettled = self.tracks[index].unsettled.get(&seq)?;
        let (event, attempts) = (unsettled.event.clone(), unsettled.attempts);
        match self.choose(index, &event) {
            Choice::Nobody => {
                self.settle(index, seq);
            }
            // A restart, or a first member that allows fewer.
            _ if used_up(attempts, self.tracks[index].max_attempts, &self.tracks[index].topic) => {
                self.bury(index, seq, "the last delivery was cut off".into());
            }
            Choice::Member(member) => return self.lease(index, seq, member, now),
            Choice::Later(members) => self.tracks[index].stall(seq, members),
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
        for id in &self.tracks[index].members {
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
        let track = &mut self.tracks[index];
        track.unstall(seq);
        let unsettled = track.unsettled.get_mut(&seq)?;
        unsettled.attempts += 1;
        track.delivered = track.delivered.max(seq);
        track.dirty = true;
        let mut delivery = Delivery {
            member: id,
            track: index,
            event: unsettled.event.clone(),
            attempt: unsettled.attempts,
            max_attempts: track.max_attempts,
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
