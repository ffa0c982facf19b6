//! The calls of the application.

use std::sync::Arc;

use prom_protocol::{
    ErrorCode, Group, NameError, Op, Pattern, Topic, TopicOrPattern, check_id,
    client::write::{self, Corr, Delivered},
    limits,
};

use super::{Ending, Phase, Session};
use crate::{
    Answer, DeliveryRef, Error, Output, RequestId, Settle, State, SubscriptionId,
    queue::Queued,
    requests::Kind,
    subscriptions::{Standing, Subscription},
};

/// An event to publish.
#[derive(Debug, Clone, Copy)]
pub struct Publish<'a> {
    /// The topic; patterns are refused.
    pub topic: &'a str,
    /// The payload: one valid JSON value. It is sent as it is, unchecked.
    pub payload: &'a str,
    /// The event's id, so that a repeat is recognised, 1 to 128 bytes; none: a new UUIDv7.
    pub id: Option<&'a str>,
    /// The other options of a PUBLISH as one valid JSON object without `id`, sent unchecked; empty: none.
    pub options: &'a str,
    /// How long it may take, reconnects included; none: as configured.
    pub timeout_ms: Option<u64>,
}

impl Session {
    /// Connects, unless a call before has done so. The call is done when the connection is ready. Failed tries are repeated
    /// until the session is closed, also after this call has timed out.
    pub fn connect(&mut self, now: u64) -> RequestId {
        self.connect_until(now, self.until(now, None))
    }

    /// As [`Self::connect`], however long it takes.
    pub fn ready(&mut self, now: u64) -> RequestId {
        self.connect_until(now, u64::MAX)
    }

    fn connect_until(&mut self, now: u64, deadline: u64) -> RequestId {
        let request = self.next_request();
        match self.phase {
            Phase::Ready => self.done(request, Ok(Answer::Done)),
            Phase::Closed => self.refuse_closed(request),
            _ => {
                self.requests.insert(request, Kind::Connect, deadline);
                self.start(now);
            }
        }
        RequestId(request)
    }

    /// Done when every publish, settle and other call that was made before is answered or has timed out.
    /// `timeout_ms`: how long it may take; none: as configured.
    pub fn flush(&mut self, now: u64, timeout_ms: Option<u64>) -> RequestId {
        let request = self.next_request();
        if matches!(self.phase, Phase::Closed) {
            self.refuse_closed(request);
        } else {
            self.requests.insert(request, Kind::Flush, self.until(now, timeout_ms));
            self.end_flushes();
        }
        RequestId(request)
    }

    /// Publishes an event, at once or as soon as there is a connection. `unix_ms` is the Unix time.
    ///
    /// It is sent again, with the same id and in order, on every connection until the hub answers. The result is
    /// [`Answer::Published`], or the error `overloaded` when too many wait for their answer.
    pub fn publish(&mut self, now: u64, unix_ms: u64, publish: Publish<'_>) -> RequestId {
        let request = self.next_request();
        if let Err(error) = self.enqueue(now, unix_ms, request, publish) {
            self.done(request, Err(error));
        }
        RequestId(request)
    }

    fn enqueue(&mut self, now: u64, unix_ms: u64, request: u64, publish: Publish<'_>) -> Result<(), Error> {
        self.check_open(Ending::Draining)?;
        let Publish { topic, payload, id, options, timeout_ms } = publish;
        if topic.contains('*') || !Pattern::is_valid(topic) {
            return Err(Topic::new(topic).err().unwrap_or(NameError::BadWildcard).into());
        }
        if let Some(id) = id {
            check_id("id", id).map_err(|refusal| Error::of(refusal.code(), refusal.message()))?;
        }
        let bytes = topic.len() + payload.len() + options.len();
        // Before the room for it is looked at: waiting would not help.
        if bytes > limits::FRAME_BYTES {
            return Err(too_large());
        }
        if !self.publishes.has_room(bytes) {
            return Err(Error::of(ErrorCode::Overloaded, "too many publishes wait for their answer"));
        }
        let id = id.map_or_else(|| self.entropy.event_id(unix_ms), str::to_owned);
        write::publish_into(&mut self.scratch, Corr::Number(request), topic, payload, Some(&id), options);
        let frame: Arc<str> = self.scratch.as_str().into();
        // The hub would end the connection for it, and with it everybody else's requests.
        if frame.len() > limits::FRAME_BYTES {
            return Err(too_large());
        }
        let sent = matches!(self.phase, Phase::Ready);
        if sent {
            self.out.push_back(Output::Send(frame.clone()));
        }
        if !self.waits() {
            self.liveness.asked(now);
        }
        self.publishes.push(Queued { request, id, frame, deadline: self.until(now, timeout_ms), sent });
        self.start(now);
        Ok(())
    }

    /// Subscribes, now and after every reconnect, until it is unsubscribed or revoked. Without `group` the subscription is
    /// ephemeral and starts at its `from` again on each connection. `options` is one valid JSON object, sent unchecked;
    /// empty: none.
    pub fn subscribe(
        &mut self,
        now: u64,
        topic: &str,
        group: Option<&str>,
        options: &str,
        timeout_ms: Option<u64>,
    ) -> (SubscriptionId, RequestId) {
        let request = self.next_request();
        self.last_subscription = self.last_subscription.wrapping_add(1);
        let id = SubscriptionId(self.last_subscription);
        match self.accept(id, request, topic, group, options) {
            Ok(subscription) => {
                self.subscriptions.push(subscription);
                self.expect(now, request, Kind::Subscribe(id), self.until(now, timeout_ms));
                self.start(now);
                self.send_wanted(now);
            }
            Err(error) => self.done(request, Err(error)),
        }
        (id, RequestId(request))
    }

    fn accept(
        &self,
        id: SubscriptionId,
        request: u64,
        topic: &str,
        group: Option<&str>,
        options: &str,
    ) -> Result<Subscription, Error> {
        self.check_open(Ending::No)?;
        let topic = TopicOrPattern::new(topic)?;
        let group = group.map(Group::new).transpose()?;
        if group.as_ref().is_some_and(|group| self.subscriptions.has(topic.as_str(), group)) {
            return Err(Error::of(ErrorCode::AlreadySubscribed, "this client has that subscription already"));
        }
        let subscription = Subscription {
            id,
            topic,
            group,
            options: options.to_owned(),
            standing: Standing::Wanted { not_before: 0 },
            wire_group: String::new(),
            request: Some(request),
            paused: false,
            pause_request: None,
        };
        // The hub would end the connection for it, and with it everybody else's requests.
        if subscription.subscribe(request).len() > limits::FRAME_BYTES {
            let message = "the options are too large: with its filter and the others SUBSCRIBE may take 1 MiB";
            return Err(Error::of(ErrorCode::TooLarge, message));
        }
        Ok(subscription)
    }

    /// Ends a subscription. Unsettled events go back to the group. While there is no connection the call is done at once.
    /// What still waited for the subscription is done as well: its caller has ended it.
    pub fn unsubscribe(&mut self, now: u64, subscription: SubscriptionId) -> RequestId {
        let request = self.next_request();
        let Some(subscription) = self.subscriptions.remove(subscription) else {
            self.done(request, Err(not_subscribed()));
            return RequestId(request);
        };
        for waiting in [subscription.request, subscription.pause_request].into_iter().flatten() {
            if self.requests.take(waiting).is_some() {
                self.done(waiting, Ok(Answer::Done));
            }
        }
        match subscription.standing {
            Standing::Wanted { .. } => self.done(request, Ok(Answer::Done)),
            Standing::Active => {
                self.send(subscription.about(Op::Unsubscribe, Some(request)));
                self.expect(now, request, Kind::Unsubscribe, self.until(now, None));
            }
            Standing::Sent(sent) => {
                // Its group has no name yet, or it may still be refused: undone when the answer comes.
                self.requests.take(sent);
                self.requests.insert(sent, Kind::Abandoned, u64::MAX);
                self.subscriptions.abandon(sent, subscription);
                self.done(request, Ok(Answer::Done));
            }
        }
        RequestId(request)
    }

    /// Stops delivery to this member, also over reconnects, or starts it again.
    pub fn pause(&mut self, now: u64, subscription: SubscriptionId, paused: bool) -> RequestId {
        let request = self.next_request();
        let deadline = self.until(now, None);
        let Some(subscription) = self.subscriptions.find_mut(subscription) else {
            self.done(request, Err(not_subscribed()));
            return RequestId(request);
        };
        subscription.paused = paused;
        let earlier = subscription.pause_request.replace(request);
        self.requests.insert(request, Kind::Pause(subscription.id), deadline);
        if subscription.standing == Standing::Active {
            let frame = subscription.about(if paused { Op::Pause } else { Op::Resume }, Some(request));
            self.send(frame);
        } else if let Some(earlier) = earlier
            && self.requests.take(earlier).is_some()
        {
            self.done(earlier, Ok(Answer::Done));
        }
        RequestId(request)
    }

    /// Settles a delivery, or extends its lease. The call is done when the hub has stored it.
    ///
    /// For a delivery of an older connection, or of a subscription that has ended, the result is `stale_lease` and nothing is
    /// sent: the hub has given the event back already.
    pub fn settle(&mut self, now: u64, delivery: DeliveryRef<'_>, settle: Settle<'_>) -> RequestId {
        let request = self.next_request();
        if self.send_settle(Some(request), delivery, settle) {
            self.expect(now, request, Kind::Settle, self.until(now, None));
        } else {
            let message = "the event's connection or subscription has ended; the hub delivers it again";
            self.done(request, Err(Error::of(ErrorCode::StaleLease, message)));
        }
        RequestId(request)
    }

    /// As [`Self::settle`], without a result; what the hub refuses comes as [`crate::Output::Error`]. Returns whether it was
    /// sent.
    pub fn settle_quietly(&mut self, now: u64, delivery: DeliveryRef<'_>, settle: Settle<'_>) -> bool {
        let corr = (self.ending != Ending::No).then(|| self.next_request());
        let sent = self.send_settle(corr, delivery, settle);
        if sent && let Some(corr) = corr {
            self.expect(now, corr, Kind::QuietSettle, self.until(now, None));
        }
        sent
    }

    fn send_settle(&mut self, corr: Option<u64>, delivery: DeliveryRef<'_>, settle: Settle<'_>) -> bool {
        let ready = matches!(self.phase, Phase::Ready) && delivery.connection == self.connection;
        let Some(subscription) = self.subscriptions.find(delivery.subscription).filter(|_| ready) else { return false };
        let corr = Corr::from(corr);
        let delivered = Delivered {
            topic: subscription.topic.as_str(),
            group: &subscription.wire_group,
            id: delivery.id,
            lease: delivery.lease,
        };
        let frame = match settle {
            Settle::Ack => {
                write::ack_into(&mut self.scratch, corr, delivered);
                self.out.push_back(Output::Send(self.scratch.as_str().into()));
                return true;
            }
            Settle::Nack { reason, delay_ms, dead } => {
                let reason = reason.map(|reason| &reason[..reason.floor_char_boundary(limits::REASON_BYTES)]);
                let delay_ms = delay_ms.map(|delay_ms| delay_ms.min(limits::LEASE_MS_MAX));
                write::nack(corr, delivered, reason, delay_ms, dead)
            }
            Settle::Extend(ms) => {
                let extend_ms = ms.clamp(limits::LEASE_MS_MIN, limits::LEASE_MS_MAX);
                write::modack(corr, delivered, extend_ms)
            }
        };
        self.send(frame);
        true
    }

    /// Takes no new deliveries and no new subscriptions, and pauses all durable ones, so that what runs can come to its end:
    /// it may settle and publish. Follow with [`Self::close_when_settled`] once the handlers have finished.
    pub fn drain(&mut self) {
        if self.ending != Ending::No || matches!(self.phase, Phase::Closed) {
            return;
        }
        self.ending = Ending::Draining;
        let active = |s: &&Subscription| s.standing == Standing::Active && s.group.is_some() && !s.paused;
        let frames: Vec<_> = self.subscriptions.iter().filter(active).map(|s| s.about(Op::Pause, None)).collect();
        frames.into_iter().for_each(|frame| self.send(frame));
    }

    /// Drains, and closes as soon as every publish and request is answered or has timed out.
    pub fn close_when_settled(&mut self) {
        self.drain();
        self.ending = Ending::WhenSettled;
        self.end_if_settled();
    }

    /// Closes now. Open calls end with the error `closed`.
    pub fn close(&mut self) {
        if !matches!(self.phase, Phase::Closed) {
            self.finish();
        }
    }

    /// Whether something new is taken: what a drain leaves to be done is, until it has come to `last`.
    fn check_open(&self, last: Ending) -> Result<(), Error> {
        match self.phase {
            Phase::Closed => Err(self.last_error.clone().unwrap_or_else(Error::closed)),
            _ if self.ending == Ending::No || self.ending == last => Ok(()),
            _ => Err(Error::closed()),
        }
    }

    fn refuse_closed(&mut self, request: u64) {
        let error = self.last_error.clone().unwrap_or_else(Error::closed);
        self.done(request, Err(error));
    }

    fn until(&self, now: u64, timeout_ms: Option<u64>) -> u64 {
        now.saturating_add(timeout_ms.unwrap_or(self.config.request_timeout_ms))
    }

    fn start(&mut self, now: u64) {
        if matches!(self.phase, Phase::Idle) {
            self.change(State::Connecting, None, None);
            self.attempt(now);
        }
    }

    /// Sends every SUBSCRIBE that is due.
    pub(super) fn send_wanted(&mut self, now: u64) {
        if !matches!(self.phase, Phase::Ready) || self.ending != Ending::No {
            return;
        }
        while let Some(id) = self.subscriptions.next_wanted(now) {
            let fresh = self.last_request + 1;
            let Some(subscription) = self.subscriptions.find_mut(id) else { return };
            let corr = subscription.request.unwrap_or(fresh);
            subscription.standing = Standing::Sent(corr);
            if corr == fresh {
                self.last_request = fresh;
                self.requests.insert(fresh, Kind::Resubscribe(id), u64::MAX);
            }
            self.out.push_back(Output::Send(subscription.subscribe(corr).into()));
        }
    }
}

fn too_large() -> Error {
    Error::of(ErrorCode::TooLarge, "the event is too large: with its options it takes more than 1 MiB")
}

fn not_subscribed() -> Error {
    Error::of(ErrorCode::NotSubscribed, "this client has no such subscription")
}
