//! The session: one connection after the other, and what has to outlive them.
//!
//! ```text
//!   Idle ─► Token ─► Opening ─► Auth ─► Ready          Closed: by the caller, or when trying again cannot help
//!             ▲         │        │        │
//!             └─ Waiting ◄───────┴────────┘  lost: backoff, then again
//! ```
//!
//! `mod.rs` holds this circle and its timers, `calls.rs` the calls of the application, `receive.rs` the frames
//! of the hub.

mod calls;
mod receive;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use prom_protocol::{
    ErrorCode,
    client::write::{self, Corr},
    limits,
};

pub use calls::Publish;

use crate::{
    Answer, Config, Error, Output, RequestId, State, StateChange,
    backoff::Backoff,
    entropy::Entropy,
    liveness::{Check, Liveness, Patience},
    queue::PublishQueue,
    requests::{Kind, Requests},
    subscriptions::{Standing, Subscriptions},
    tokens::Tokens,
};

enum Phase {
    Idle,
    Waiting { until: u64 },
    Token { until: u64 },
    Opening { until: u64, token: String },
    Auth { until: u64, corr: u64 },
    Ready,
    Closed,
}

/// Whether the caller wants the session to end, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// No new deliveries or subscriptions. What runs goes on, and may publish.
    Draining,
    /// Nothing new at all, and the session closes as soon as nothing is open.
    WhenSettled,
}

/// The client session. See the crate's documentation for how a shell drives it.
// No `Debug`: it holds tokens.
pub struct Session {
    config: Config,
    entropy: Entropy,
    backoff: Backoff,
    liveness: Liveness,
    tokens: Tokens,
    publishes: PublishQueue,
    requests: Requests,
    subscriptions: Subscriptions,
    phase: Phase,
    state: State,
    ending: Ending,
    connection: u32,
    /// Whether the hub has agreed to messages of several frames on the present connection.
    batching: bool,
    last_request: u64,
    last_subscription: u32,
    /// Why the last connection, or try, ended.
    last_error: Option<Error>,
    out: VecDeque<Output>,
    /// What the last frame was written in, kept for its memory: at most a frame's.
    scratch: String,
}

impl Session {
    /// A session that does nothing until the first call. `seed` must be random and differ between clients: event ids and
    /// the jitter of reconnects come from it.
    pub fn new(config: Config, seed: [u64; 2]) -> Self {
        Self {
            entropy: Entropy::new(seed),
            backoff: Backoff::new(config.reconnect_min_ms, config.reconnect_max_ms),
            liveness: Liveness::new(
                Patience { ping_after_ms: config.ping_after_ms, timeout_ms: config.ping_timeout_ms },
                Patience { ping_after_ms: config.waiting_ping_after_ms, timeout_ms: config.waiting_ping_timeout_ms },
            ),
            tokens: Tokens::default(),
            publishes: PublishQueue::new(config.max_queued, config.max_queued_bytes),
            requests: Requests::new(),
            subscriptions: Subscriptions::default(),
            phase: Phase::Idle,
            state: State::Idle,
            ending: Ending::No,
            connection: 0,
            batching: false,
            last_request: 0,
            last_subscription: 0,
            last_error: None,
            out: VecDeque::new(),
            scratch: String::new(),
            config,
        }
    }

    /// The state of the connection.
    pub fn state(&self) -> State {
        self.state
    }

    /// Number of the present or latest connection, from 1.
    pub fn connection(&self) -> u32 {
        self.connection
    }

    /// Whether several frames may be sent in one message, one a line, on the present connection; the hub then does so too.
    pub fn batching(&self) -> bool {
        self.batching
    }

    /// How many publishes wait for their answer.
    pub fn queued(&self) -> usize {
        self.publishes.len()
    }

    /// The next thing to do. Call it until it has nothing after each input, and before the next.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Self::tick`] must be called at the latest, if nothing happens before.
    pub fn deadline(&self) -> Option<u64> {
        let phase = match self.phase {
            Phase::Idle | Phase::Closed => return None,
            Phase::Waiting { until }
            | Phase::Token { until }
            | Phase::Opening { until, .. }
            | Phase::Auth { until, .. } => until,
            Phase::Ready => {
                let resubscribe = if self.ending == Ending::No { self.subscriptions.due() } else { u64::MAX };
                self.liveness.deadline(self.waits()).min(self.tokens.renew_at()).min(resubscribe)
            }
        };
        Some(phase.min(self.requests.due()).min(self.publishes.due()))
    }

    /// Does what has become due by `now`: tries again, sends a PING, ends calls whose time is over.
    pub fn tick(&mut self, now: u64) {
        match self.phase {
            Phase::Waiting { until } if until <= now => self.attempt(now),
            Phase::Token { until } if until <= now => {
                self.tokens.give_up();
                self.away(now, Error::of(ErrorCode::NoToken, "the token provider gave no token in time"), 0);
            }
            Phase::Opening { until, .. } | Phase::Auth { until, .. } if until <= now => {
                self.shut(1000, "no answer in time");
                self.away(now, Error::lost("the hub did not answer in time", true), 0);
            }
            Phase::Ready => self.tick_ready(now),
            _ => {}
        }
        self.expire(now);
        self.end_if_settled();
    }

    fn tick_ready(&mut self, now: u64) {
        match self.liveness.check(now, self.waits()) {
            Check::Fine => {}
            Check::Ping => self.send(write::ping(Corr::None)),
            Check::Dead => {
                self.shut(1000, "no sign of life");
                return self.away(now, Error::lost("the hub gave no sign of life", true), 0);
            }
        }
        if self.tokens.renew_at() <= now {
            self.tokens.give_up();
            match self.config.token {
                // A token that never changes cannot be renewed; the hub will say when it has expired.
                Some(_) => self.tokens.lost(),
                None => {
                    self.tokens.renewing(now, self.config.token_timeout_ms, None);
                    self.ask_token();
                }
            }
        }
        self.send_wanted(now);
    }

    /// Whether something waits for an answer of the hub.
    fn waits(&self) -> bool {
        !self.publishes.is_empty() || !self.requests.is_empty()
    }

    /// Takes down a request, and that something waits from now on.
    fn expect(&mut self, now: u64, request: u64, kind: Kind, deadline: u64) {
        if !self.waits() {
            self.liveness.asked(now);
        }
        self.requests.insert(request, kind, deadline);
    }

    fn expire(&mut self, now: u64) {
        while let Some(entry) = self.publishes.expired(now) {
            self.done(entry.request, Err(self.timed_out()));
        }
        while let Some((request, kind)) = self.requests.expired(now) {
            let error = self.timed_out();
            if let Kind::Subscribe(id) = kind
                && let Some(subscription) = self.subscriptions.remove(id)
                && matches!(subscription.standing, Standing::Sent(_))
            {
                self.requests.insert(request, Kind::Abandoned, u64::MAX);
                self.subscriptions.abandon(request, subscription);
            }
            self.settle_kind(request, kind, Err(error));
        }
        self.end_flushes();
    }

    fn timed_out(&self) -> Error {
        match (&self.phase, &self.last_error) {
            (Phase::Ready, _) => Error::timeout("the hub did not answer in time"),
            (_, Some(error)) => {
                let mut message = String::from("no connection in time: ");
                message.push_str(error.message());
                Error::timeout(message)
            }
            (_, None) => Error::timeout("no connection in time"),
        }
    }

    /// The socket that [`Output::Open`] asked for is open.
    pub fn opened(&mut self, now: u64) {
        let Phase::Opening { token, .. } = &mut self.phase else { return };
        let token = std::mem::take(token);
        let corr = self.next_request();
        let frame = write::auth(Corr::Number(corr), &token, self.config.batch);
        self.phase = Phase::Auth { until: now.saturating_add(self.config.connect_timeout_ms), corr };
        self.liveness.heard(now);
        if frame.len() > limits::FRAME_BYTES_BEFORE_AUTH {
            return self.auth_refused(now, token_too_large(), 0);
        }
        self.send(frame);
    }

    /// The socket was closed, or could not be opened. `code` and `reason` are those of the close frame, if there was one;
    /// else `reason` may hold the transport's message.
    pub fn lost(&mut self, now: u64, code: Option<u16>, reason: &str) {
        if !matches!(self.phase, Phase::Opening { .. } | Phase::Auth { .. } | Phase::Ready) {
            return;
        }
        let (error, retry) = Error::from_close(code, reason);
        if !retry {
            return self.fail(error);
        }
        if code == Some(prom_protocol::CloseCode::ConnectionLimit.code()) {
            self.backoff.crowded();
        }
        self.away(now, error, 0);
    }

    /// Answers [`Output::NeedToken`] with a token, or with what went wrong.
    pub fn token(&mut self, now: u64, asked: u32, token: Result<String, String>) {
        if !self.tokens.answered(asked) {
            return;
        }
        match (&self.phase, token) {
            (Phase::Token { .. }, Ok(token)) => self.open(now, token),
            (Phase::Token { .. }, Err(message)) => self.away(now, Error::of(ErrorCode::NoToken, message), 0),
            (Phase::Ready, Ok(token)) => {
                let corr = self.next_request();
                let frame = write::auth(Corr::Number(corr), &token, self.config.batch);
                if frame.len() > limits::FRAME_BYTES_BEFORE_AUTH {
                    self.tokens.renewal_failed(now);
                    return self.out.push_back(Output::Error(token_too_large()));
                }
                self.tokens.renewing(now, self.config.connect_timeout_ms, Some(corr));
                self.send(frame);
            }
            (Phase::Ready, Err(message)) => {
                self.tokens.renewal_failed(now);
                self.out.push_back(Output::Error(Error::of(ErrorCode::NoToken, message)));
            }
            _ => {}
        }
    }

    /// Any sign of life that is no text frame, for instance a WebSocket ping.
    pub fn heard(&mut self, now: u64) {
        self.liveness.heard(now);
    }

    /// Tries again now, if a reconnect waits for its time: there is news of the network.
    pub fn hurry(&mut self, now: u64) {
        if matches!(self.phase, Phase::Waiting { .. }) {
            self.attempt(now);
        }
    }

    fn attempt(&mut self, now: u64) {
        match self.config.token.clone() {
            Some(token) => self.open(now, token),
            None => {
                self.phase = Phase::Token { until: now.saturating_add(self.config.token_timeout_ms) };
                self.ask_token();
            }
        }
    }

    fn ask_token(&mut self) {
        if let Some(asked) = self.tokens.ask() {
            self.out.push_back(Output::NeedToken(asked));
        }
    }

    fn open(&mut self, now: u64, token: String) {
        self.connection = self.connection.wrapping_add(1);
        self.phase = Phase::Opening { until: now.saturating_add(self.config.connect_timeout_ms), token };
        self.out.push_back(Output::Open);
    }

    /// The connection is gone, or was not made: tries again after a while.
    fn away(&mut self, now: u64, error: Error, at_least_ms: u64) {
        self.forget_connection();
        let wait = self.backoff.next(&mut self.entropy, at_least_ms);
        self.phase = Phase::Waiting { until: now.saturating_add(wait) };
        self.last_error = Some(error.clone());
        self.change(State::Reconnecting, Some(error), Some(wait));
        let subscriptions = &self.subscriptions;
        let waits_on = |request, kind| match kind {
            Kind::Connect | Kind::Subscribe(_) | Kind::Flush => true,
            Kind::Pause(id) => subscriptions.find(id).is_some_and(|s| s.pause_request == Some(request)),
            _ => false,
        };
        let mut over = Vec::new();
        while let Some((request, kind)) = self.requests.take_if(|request, kind| !waits_on(request, kind)) {
            over.push((request, kind));
        }
        for (request, kind) in over {
            match kind {
                Kind::Settle => {
                    self.done(request, Err(Error::lost("the connection was lost before the hub answered", false)));
                }
                // With the connection its memberships are gone: what was to be left is left.
                kind if kind.has_caller() => self.done(request, Ok(Answer::Done)),
                _ => {}
            }
        }
        self.end_flushes();
    }

    fn forget_connection(&mut self) {
        self.out.retain(|output| !matches!(output, Output::Send(_)));
        self.batching = false;
        self.tokens.lost();
        self.publishes.lost();
        self.subscriptions.lost();
    }

    /// Ends for good, because of an error.
    fn fail(&mut self, error: Error) {
        self.end(error.clone(), Some(error));
    }

    /// Ends for good, as the caller wished.
    fn finish(&mut self) {
        self.shut(1000, "closed by the client");
        self.end(Error::closed(), None);
    }

    fn end(&mut self, error: Error, cause: Option<Error>) {
        self.forget_connection();
        self.subscriptions.clear();
        self.phase = Phase::Closed;
        self.change(State::Closed, cause, None);
        while let Some(entry) = self.publishes.pop() {
            self.done(entry.request, Err(error.clone()));
        }
        while let Some((request, kind)) = self.requests.take_if(|_, _| true) {
            if kind.has_caller() {
                self.done(request, Err(error.clone()));
            }
        }
        self.last_error = Some(error);
    }

    /// Ends the socket from this side, if there is one.
    fn shut(&mut self, code: u16, reason: &'static str) {
        if matches!(self.phase, Phase::Opening { .. } | Phase::Auth { .. } | Phase::Ready) {
            self.out.push_back(Output::Shut { code, reason });
        }
    }

    /// Ends the flushes that have nothing to wait for any more.
    fn end_flushes(&mut self) {
        while let Some(flush) = self.requests.oldest(|kind| kind == Kind::Flush) {
            let asked = |kind| matches!(kind, Kind::Settle | Kind::Subscribe(_) | Kind::Unsubscribe | Kind::Pause(_));
            let open = [self.publishes.oldest(), self.requests.oldest(asked)];
            if open.into_iter().flatten().any(|request| request < flush) {
                return;
            }
            self.requests.take(flush);
            self.done(flush, Ok(Answer::Done));
        }
    }

    fn end_if_settled(&mut self) {
        if self.ending == Ending::WhenSettled
            && !matches!(self.phase, Phase::Closed)
            && self.publishes.is_empty()
            && self.requests.is_empty()
        {
            self.finish();
        }
    }

    fn change(&mut self, state: State, error: Option<Error>, retry_in_ms: Option<u64>) {
        self.state = state;
        self.out.push_back(Output::State(StateChange { state, error, retry_in_ms }));
    }

    fn done(&mut self, request: u64, result: Result<Answer, Error>) {
        self.out.push_back(Output::Done { request: RequestId(request), result });
    }

    /// Settles a request that was taken out of the table.
    fn settle_kind(&mut self, request: u64, kind: Kind, result: Result<Answer, Error>) {
        if kind.has_caller() {
            self.done(request, result);
        } else if let (Kind::QuietSettle, Err(error)) = (kind, result) {
            self.out.push_back(Output::Error(error));
        }
    }

    fn next_request(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    fn send(&mut self, frame: String) {
        self.out.push_back(Output::Send(frame.into()));
    }
}

fn token_too_large() -> Error {
    Error::of(ErrorCode::JwtInvalid, "the token is too large: with it AUTH takes more than 16 KiB")
}
