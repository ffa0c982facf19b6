//! How the owner carries out the commands of the handles.

use std::{
    sync::atomic::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

use prom_sdk_core::{DeliveryRef, Publish, SubscriptionId};
use tokio::time::Instant;

use super::{Member, Owner, PER_TURN, Waiting, millis};
use crate::{
    Error,
    command::{Command, PublishCommand, Reply, Settle, SettleCommand, SubscribeCommand},
    lease::Lease,
};

/// What a PUBLISH frame holds besides its texts, roughly.
const OVERHEAD: usize = 160;

impl Owner {
    /// Gives the session the publishes there is room for.
    pub(super) fn admit(&mut self, now: u64) {
        if self.backlog.is_empty() {
            return;
        }
        let (unix_ms, instant) = (unix_ms(), Instant::now());
        for _ in 0..PER_TURN {
            if !self.has_room() {
                return;
            }
            let Some(command) = self.backlog.pop() else { return };
            self.publish(now, instant, unix_ms, command);
            self.perform();
        }
    }

    fn publish(&mut self, now: u64, instant: Instant, unix_ms: u64, command: PublishCommand) {
        let PublishCommand { text, id, options, deadline, reply } = command;
        let (topic, payload) = text.parts();
        let timeout_ms = deadline.map(|at| millis(at.saturating_duration_since(instant)));
        let bytes = topic.len() + payload.len() + options.len() + OVERHEAD;
        let publish = Publish { topic, payload, id: id.as_deref(), options: &options, timeout_ms };
        let request = self.session.publish(now, unix_ms, publish);
        self.queued += 1;
        self.queued_bytes += bytes;
        self.waiting.insert(request.0, Waiting::Publish { reply, bytes });
    }

    pub(super) fn command(&mut self, now: u64, command: Command) {
        match command {
            Command::Connect(reply) => {
                let request = self.session.connect(now);
                self.waiting.insert(request.0, Waiting::Done(reply));
            }
            Command::Subscribe(command) => self.subscribe(now, *command),
            Command::Unsubscribe(id, reply) => self.leave(now, id, Some(reply)),
            Command::Pause(id, paused, reply) => self.pause(now, id, paused, reply),
            Command::Settle(command) => self.settle(now, command),
            Command::Close => self.session.close(),
            Command::Drain(until) => self.drain(now, until),
            Command::Flush(reply) => {
                // Commands are looked at before publishes: those that were made before this one are given to the session
                // now, room or not, and all of them are waited for.
                self.admit_all(now);
                let request = self.session.flush(now, None);
                self.waiting.insert(request.0, Waiting::Done(reply));
            }
        }
    }

    fn subscribe(&mut self, now: u64, command: SubscribeCommand) {
        let (group, timeout) = (command.group.as_deref(), command.timeout.map(millis));
        let (id, request) = self.session.subscribe(now, &command.topic, group, &command.json, timeout);
        let (member, feed) = Member::new(id, &command, &self.shared);
        self.members.insert(id, member);
        self.waiting.insert(request.0, Waiting::Subscribe { reply: command.reply, feed: Box::new(feed) });
    }

    fn pause(&mut self, now: u64, id: SubscriptionId, paused: bool, reply: Reply<()>) {
        let held_back = self.members.get_mut(id).is_some_and(|member| {
            member.paused = paused;
            member.held_back()
        });
        if held_back {
            // The hub has been asked already, and goes on when the queue is short and the program wants it.
            let _ = reply.send(Ok(()));
            return;
        }
        let request = self.session.pause(now, id, paused);
        self.waiting.insert(request.0, Waiting::Done(reply));
    }

    fn settle(&mut self, now: u64, command: SettleCommand) {
        let SettleCommand { subscription, connection, id, lease, settle, reply } = command;
        let delivery = DeliveryRef { subscription, connection, id: &id, lease: lease.as_ref().map(Lease::as_str) };
        let settle = match &settle {
            Settle::Ack => prom_sdk_core::Settle::Ack,
            Settle::Nack { reason, delay, dead } => {
                prom_sdk_core::Settle::Nack { reason: reason.as_deref(), delay_ms: delay.map(millis), dead: *dead }
            }
            Settle::Extend(by) => prom_sdk_core::Settle::Extend(millis(*by)),
        };
        match reply {
            Some(reply) => {
                let request = self.session.settle(now, delivery, settle);
                self.waiting.insert(request.0, Waiting::Done(reply));
            }
            None => {
                self.session.settle_quietly(now, delivery, settle);
            }
        }
        if self.members.get_mut(subscription).is_some_and(Member::heard) {
            self.leave(now, subscription, None);
        }
    }

    fn take_publishes(&mut self) {
        self.backlog.extend(std::iter::from_fn(|| self.publishes.try_recv().ok()));
    }

    /// Gives the session all publishes that there are, room or not: there will not be many more.
    pub(super) fn admit_all(&mut self, now: u64) {
        self.take_publishes();
        let (unix_ms, instant) = (unix_ms(), Instant::now());
        while let Some(command) = self.backlog.pop() {
            self.publish(now, instant, unix_ms, command);
        }
    }

    pub(super) fn drain(&mut self, now: u64, until: Instant) {
        let earliest = self.drain_until.map_or(until, |earlier| earlier.min(until));
        if self.drain_until.replace(earliest).is_some() {
            return;
        }
        // What was published before the drain is part of it.
        self.admit_all(now);
        self.session.drain();
        self.shared.draining.store(true, Ordering::SeqCst);
        self.members.end(&Error::closed());
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}
