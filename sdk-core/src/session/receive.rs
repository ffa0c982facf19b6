//! The frames of the hub.

use prom_protocol::{
    ErrorCode,
    client::{
        self,
        write::{self, Corr},
    },
    server::{Op, Scanned, scan},
};

use super::{Ending, Phase, Session};
use crate::{Answer, Delivery, Error, Output, State, SubscriptionId, requests::Kind, subscriptions::Standing, tokens};

impl Session {
    /// Takes a text frame of the open socket. An EVENT for one of the subscriptions is given back, borrowed from `text`;
    /// everything else comes out of [`Session::poll`].
    pub fn frame<'a>(&mut self, now: u64, text: &'a str) -> Option<Delivery<'a>> {
        if !matches!(self.phase, Phase::Auth { .. } | Phase::Ready) {
            return None;
        }
        self.liveness.heard(now);
        let Some(frame) = scan(text) else {
            self.out.push_back(Output::Error(Error::of(ErrorCode::BadJson, "a frame of the hub is not a JSON object")));
            return None;
        };
        match frame.op() {
            Some(Op::Event) => {
                // While it drains nothing new is begun: the hub gives the event to another member.
                let subscription = self.named(&frame).filter(|_| self.ending == Ending::No)?;
                let (Some(event), Some(context)) = (frame.event(), frame.context()) else {
                    self.out.push_back(Output::Error(Error::of(
                        ErrorCode::BadFrame,
                        "an EVENT of the hub is not complete",
                    )));
                    return None;
                };
                return Some(Delivery { subscription, connection: self.connection, event, context });
            }
            Some(Op::Ok) => self.ok(now, &frame),
            Some(Op::Err) => self.err(now, &frame),
            Some(Op::Live) => {
                if let Some(subscription) = self.named(&frame) {
                    self.out.push_back(Output::Live { subscription });
                }
            }
            Some(Op::Gap) => {
                let topic = frame.topic().0.into_owned();
                if let (Some(subscription), Some((from, to))) =
                    (self.subscriptions.of_topic(&topic, &frame.group()), frame.range())
                {
                    let reason = frame.reason().0.into_owned();
                    self.out.push_back(Output::Gap { subscription, topic, from, to, reason });
                }
            }
            Some(Op::Revoked) => {
                if let Some(subscription) = self.named(&frame) {
                    self.revoke(subscription, Error::from(&frame));
                }
            }
            // A PONG was heard, that is all it is for; other frames are of a later version.
            _ => {}
        }
        self.end_flushes();
        self.end_if_settled();
        None
    }

    /// The subscription that a frame names.
    fn named(&self, frame: &Scanned<'_>) -> Option<SubscriptionId> {
        self.subscriptions.on_wire(&frame.topic(), &frame.group())
    }

    fn ok(&mut self, now: u64, ok: &Scanned<'_>) {
        let Some(corr) = ok.corr_number() else { return };
        if let Some(entry) = self.publishes.take(corr) {
            let answer = Answer::Published { id: entry.id, seq: ok.seq().unwrap_or(0), duplicate: ok.duplicate() };
            return self.done(entry.request, Ok(answer));
        }
        match self.phase {
            Phase::Auth { corr: auth, .. } if auth == corr => {
                self.batching = self.config.batch && ok.batch();
                return self.authenticated(now, ok.expires_in_ms());
            }
            _ if self.tokens.is_renewal(corr) => return self.tokens.accepted(now, ok.expires_in_ms()),
            _ => {}
        }
        match self.requests.take(corr) {
            Some(kind @ (Kind::Subscribe(id) | Kind::Resubscribe(id))) => {
                self.subscribed(id, &ok.group());
                self.settle_kind(corr, kind, Ok(Answer::Done));
            }
            Some(Kind::Abandoned) => {
                self.send(write::about(client::Op::Unsubscribe, Corr::None, &ok.topic(), &ok.group()));
                self.undone(now, corr);
            }
            Some(kind) => self.settle_kind(corr, kind, Ok(Answer::Done)),
            None => {}
        }
    }

    /// A subscription that nobody wants any more is not there: one of its names need not wait longer.
    fn undone(&mut self, now: u64, request: u64) {
        self.subscriptions.undone(request);
        self.send_wanted(now);
    }

    fn authenticated(&mut self, now: u64, expires_in_ms: Option<u64>) {
        self.phase = Phase::Ready;
        self.backoff.reset();
        self.tokens.accepted(now, expires_in_ms);
        self.last_error = None;
        self.change(State::Ready, None, None);
        while let Some((request, _)) = self.requests.take_if(|_, kind| kind == Kind::Connect) {
            self.done(request, Ok(Answer::Done));
        }
        self.send_wanted(now);
        self.out.extend(self.publishes.unsent().map(Output::Send));
    }

    /// The hub has confirmed a subscription. Calls about it that had to wait are sent now.
    fn subscribed(&mut self, id: SubscriptionId, group: &str) {
        let Some(subscription) = self.subscriptions.find_mut(id) else { return };
        subscription.standing = Standing::Active;
        subscription.request = None;
        subscription.wire_group.clear();
        subscription.wire_group.push_str(group);
        if self.ending != Ending::No && subscription.group.is_some() {
            subscription.paused = true;
        }
        let request = subscription.pause_request;
        if subscription.paused {
            let corr = request.filter(|request| self.requests.contains(*request));
            let frame = subscription.about(client::Op::Pause, corr);
            self.send(frame);
        } else if let Some(request) = request
            && self.requests.take(request).is_some()
        {
            self.done(request, Ok(Answer::Done));
        }
    }

    fn err(&mut self, now: u64, err: &Scanned<'_>) {
        let error = Error::from(err);
        let corr = err.corr_number();
        let at_least = error.retry_after_ms().unwrap_or(0);
        if let Phase::Auth { corr: auth, .. } = self.phase {
            if !err.has_corr() || corr == Some(auth) {
                self.auth_refused(now, error, at_least);
            }
            return;
        }
        if error.code() == ErrorCode::ShuttingDown.as_str() {
            // What is open and may be sent again waits for the next connection instead of failing with this one.
            self.shut(1000, "the hub is shutting down");
            return self.away(now, error, at_least);
        }
        let Some(corr) = corr else {
            if error.code() == ErrorCode::TokenExpired.as_str() {
                self.shut(1000, "token expired");
                return if self.config.token.is_some() { self.fail(error) } else { self.away(now, error, 0) };
            }
            return self.out.push_back(Output::Error(error));
        };
        if let Some(entry) = self.publishes.take(corr) {
            return self.done(entry.request, Err(error));
        }
        if self.tokens.is_renewal(corr) {
            self.tokens.renewal_failed(now);
            return self.out.push_back(Output::Error(error));
        }
        match self.requests.take(corr) {
            Some(Kind::Subscribe(id)) => {
                self.drop_subscription(id);
                self.done(corr, Err(error));
            }
            Some(Kind::Resubscribe(id)) if error.retryable() => {
                let not_before = now.saturating_add(self.backoff.next(&mut self.entropy, at_least.max(100)));
                if let Some(subscription) = self.subscriptions.find_mut(id) {
                    subscription.standing = Standing::Wanted { not_before };
                }
            }
            Some(Kind::Resubscribe(id)) => self.revoke(id, error),
            Some(Kind::Abandoned) => self.undone(now, corr),
            Some(kind) => self.settle_kind(corr, kind, Err(error)),
            None => {}
        }
    }

    pub(super) fn auth_refused(&mut self, now: u64, error: Error, at_least: u64) {
        self.shut(1000, "not authenticated");
        let given_up = tokens::is_refusal(error.code()) && (self.config.token.is_some() || self.tokens.refused());
        if given_up { self.fail(error) } else { self.away(now, error, at_least) }
    }

    fn revoke(&mut self, subscription: SubscriptionId, error: Error) {
        self.drop_subscription(subscription);
        self.out.push_back(Output::Revoked { subscription, error });
    }

    fn drop_subscription(&mut self, id: SubscriptionId) {
        if let Some(subscription) = self.subscriptions.remove(id)
            && let Some(request) = subscription.pause_request
            && self.requests.take(request).is_some()
        {
            self.done(request, Err(Error::of(ErrorCode::NotSubscribed, "the subscription has ended")));
        }
    }
}
