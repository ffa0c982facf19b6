//! The owner task: the only place that touches the socket and the session.
//!
//! ```text
//!   handles ──commands──►┐                       ┌──► Feed of each subscription
//!           ──publishes─►│  gather ─► feed the   │
//!   socket ──frames─────►│  what is   session ──►├──► answers (oneshot)
//!   token, timer, poke ─►┘  ready                └──► socket: all frames of a turn in one write
//! ```
//!
//! It works in turns: a turn takes everything that is ready, so the busier the client is, the more goes into one write.

mod backlog;
mod commands;
mod leases;
mod members;
mod socket;

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use prom_protocol::frames;
use prom_sdk_core::{Answer, Config, DeliveryRef, Output, Session, State, SubscriptionId};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, Sleep},
};

use self::{
    backlog::Backlog,
    leases::Leases,
    members::{Member, Members, Taken},
    socket::{Inbox, Opening, Socket},
};
use crate::{
    BoxError, ClientEvent, Error, Published, Status,
    command::{Command, PublishCommand, Reply},
    feed::{Feed, Gap, Item, Raw},
    lease::Lease,
    numbers::NumberMap,
    shared::Shared,
    tokens::TokenSource,
};

pub(crate) use self::socket::Transport;

/// Most commands, and most publishes, of one turn.
const PER_TURN: usize = 1024;

/// How often to look at the clock when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

enum Link {
    None,
    Opening(Opening),
    Open(Box<Socket>),
}

/// Who waits for an answer.
enum Waiting {
    Publish { reply: Reply<Published>, bytes: usize },
    Done(Reply<()>),
    Subscribe { reply: Reply<Feed>, feed: Box<Feed> },
}

/// What the owner is given.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) transport: Transport,
    /// None: the token is in `config`, and no other can be had.
    pub(crate) tokens: Option<TokenSource>,
    pub(crate) publishes: mpsc::UnboundedReceiver<PublishCommand>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) poked: mpsc::Receiver<()>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) max_queued: usize,
    pub(crate) max_queued_bytes: usize,
}

pub(crate) struct Owner {
    session: Session,
    start: Instant,
    transport: Transport,
    tokens: Option<TokenSource>,
    publishes: mpsc::UnboundedReceiver<PublishCommand>,
    commands: mpsc::Receiver<Command>,
    poked: mpsc::Receiver<()>,
    shared: Arc<Shared>,
    link: Link,
    asking: Option<(u32, JoinHandle<Result<String, BoxError>>)>,
    waiting: NumberMap<u64, Waiting>,
    members: Members,
    backlog: Backlog,
    /// Publishes without an answer, and their bytes.
    queued: usize,
    queued_bytes: usize,
    max_queued: usize,
    max_queued_bytes: usize,
    /// When to look at the leases of what waits, at the latest.
    leases_at: Option<Instant>,
    /// When a drain becomes a close.
    drain_until: Option<Instant>,
    sleep: Pin<Box<Sleep>>,
    turn: Turn,
    /// The socket's last words, to be awaited at the end.
    closing: Option<JoinHandle<()>>,
}

/// What a turn has gathered.
#[derive(Default)]
struct Turn {
    inbox: Inbox,
    opened: Option<Result<Box<Socket>, String>>,
    token: Option<(u32, Result<String, String>)>,
    commands: Vec<Command>,
    publishes: Vec<PublishCommand>,
    poked: bool,
    late: bool,
    /// The last handle is gone.
    abandoned: bool,
}

impl Owner {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { config, transport, tokens, publishes, commands, poked, shared, max_queued, max_queued_bytes } =
            parts;
        Self {
            session: Session::new(config, seed()),
            start: Instant::now(),
            transport,
            tokens,
            publishes,
            commands,
            poked,
            shared,
            link: Link::None,
            asking: None,
            waiting: NumberMap::default(),
            members: Members::default(),
            backlog: Backlog::default(),
            queued: 0,
            queued_bytes: 0,
            max_queued,
            max_queued_bytes,
            leases_at: None,
            drain_until: None,
            sleep: Box::pin(tokio::time::sleep(IDLE)),
            turn: Turn::default(),
            closing: None,
        }
    }

    /// Runs until the session is closed. Whoever still waits then learns it from the channels that close.
    pub(crate) async fn run(mut self) {
        while self.session.state() != State::Closed {
            self.arm();
            std::future::poll_fn(|cx| self.poll_gather(cx)).await;
            self.digest();
        }
        self.members.end(&self.shared.ended());
        if let Some((_, asking)) = self.asking.take() {
            asking.abort();
        }
        if let Some(closing) = self.closing.take() {
            let _ = closing.await;
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Sets the timer for what comes first. A timer that is early only looks again.
    fn arm(&mut self) {
        let deadline = self.session.deadline().and_then(|ms| self.start.checked_add(Duration::from_millis(ms)));
        let at = [deadline, self.leases_at, self.drain_until, self.backlog.due()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| Instant::now() + IDLE);
        if at < self.sleep.deadline() || self.sleep.is_elapsed() {
            self.sleep.as_mut().reset(at);
        }
    }

    fn has_room(&self) -> bool {
        self.queued < self.max_queued && self.queued_bytes < self.max_queued_bytes
    }

    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut ready = self.has_room() && !self.backlog.is_empty();
        let turn = &mut self.turn;
        match &mut self.link {
            Link::None => {}
            Link::Opening(opening) => {
                if let Poll::Ready(opened) = opening.as_mut().poll(cx) {
                    turn.opened = Some(opened.map(Box::new));
                    self.link = Link::None;
                    ready = true;
                }
            }
            Link::Open(socket) => ready |= socket.poll(cx, &mut turn.inbox).is_ready(),
        }
        if let Some((asked, asking)) = &mut self.asking
            && let Poll::Ready(token) = Pin::new(asking).poll(cx)
        {
            let token = match token {
                Ok(token) => token.map_err(|error| error.to_string()),
                Err(_) => Err("the token provider panicked".to_owned()),
            };
            turn.token = Some((*asked, token));
            self.asking = None;
            ready = true;
        }
        // Before the commands: what was sent before a poke is then seen in the same turn, or still stands in the queue.
        if self.poked.poll_recv(cx).is_ready() {
            turn.poked = true;
            ready = true;
        }
        if let Poll::Ready(taken) = self.commands.poll_recv_many(cx, &mut turn.commands, PER_TURN) {
            turn.abandoned = taken == 0;
            ready = true;
        }
        // The end of a drain has taken them all and closed the channel.
        if !self.publishes.is_closed() {
            ready |= self.publishes.poll_recv_many(cx, &mut turn.publishes, PER_TURN).is_ready();
        }
        if self.sleep.as_mut().poll(cx).is_ready() {
            turn.late = true;
            ready = true;
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Feeds the session what the turn has gathered.
    fn digest(&mut self) {
        let Turn { inbox, opened, token, mut commands, mut publishes, poked, late, abandoned } =
            std::mem::take(&mut self.turn);
        let now = self.now();
        if let Some(opened) = opened {
            match opened {
                Ok(socket) => {
                    self.link = Link::Open(socket);
                    self.session.opened(now);
                }
                Err(message) => self.session.lost(now, None, &message),
            }
            self.perform();
        }
        self.receive(now, inbox);
        if let Some((asked, token)) = token {
            self.session.token(now, asked, token);
            self.perform();
        }
        if poked {
            self.look_after_members(now);
        }
        // Before the commands: a flush is for what was published before it.
        self.backlog.extend(publishes.drain(..));
        for command in commands.drain(..) {
            self.command(now, command);
            self.perform();
        }
        if late {
            self.session.tick(now);
            self.perform();
            self.backlog.expire(Instant::now());
            self.keep_leases(now);
        }
        self.admit(now);
        if let Some(until) = self.drain_until {
            // What is held may still publish.
            if self.shared.held() == 0 && self.commands.is_empty() {
                self.publishes.close();
                self.admit_all(now);
                self.session.close_when_settled();
            }
            if until <= Instant::now() {
                self.session.close();
            }
            self.perform();
        }
        if abandoned {
            self.session.close();
            self.perform();
        }
        (self.turn.commands, self.turn.publishes) = (commands, publishes);
    }

    fn receive(&mut self, now: u64, mut inbox: Inbox) {
        if inbox.sign_of_life {
            self.session.heard(now);
        }
        let arrived = Instant::now();
        let messages = std::mem::take(&mut inbox.messages);
        // Where several frames in a message were not agreed, a message is a frame: what it holds is not ours to judge.
        for text in messages.iter().flat_map(|message| frames(message)) {
            // An earlier frame may have ended the socket, and with it all it said.
            if !matches!(self.link, Link::Open(_)) {
                break;
            }
            if let Some(delivery) = self.session.frame(now, text) {
                let context = delivery.context;
                let lease = context.lease.map(|lease| Lease::from(lease.as_str()));
                let deadline = arrived.checked_add(Duration::from_millis(context.ack_deadline_ms));
                let raw = Raw {
                    connection: delivery.connection,
                    number: 0,
                    event: delivery.event.into(),
                    deadline: deadline.filter(|_| lease.is_some()),
                    lease,
                    context: crate::Context::new(context.attempt, context.max_attempts, context.redelivered),
                };
                self.push(now, delivery.subscription, Item::Event(raw));
            }
            self.perform();
        }
        if let Some(end) = inbox.end.take()
            && matches!(self.link, Link::Open(_))
        {
            self.link = Link::None;
            self.session.lost(now, end.code, &end.reason);
            self.perform();
        }
    }

    fn push(&mut self, now: u64, id: SubscriptionId, item: Item) {
        let Some(member) = self.members.get_mut(id) else { return };
        let pushed = member.push(item);
        if let Some(due) = member.leases.as_ref().and_then(Leases::newest_due)
            && self.leases_at.is_none_or(|at| at > due)
        {
            self.leases_at = Some(due);
        }
        match pushed {
            Taken::Yes => {}
            Taken::HoldBack => {
                if !member.paused {
                    self.session.pause(now, id, true);
                }
            }
            // A poke tells of it, after what the program said before.
            Taken::Gone => {}
        }
    }

    /// Extends the leases of what waits for its consumer.
    fn keep_leases(&mut self, now: u64) {
        let instant = Instant::now();
        if self.leases_at.is_none_or(|at| at > instant) {
            return;
        }
        self.leases_at = None;
        // What is not taken before a drain goes to others.
        if self.shared.draining.load(Ordering::Acquire) {
            return;
        }
        let connection = self.shared.connection.load(Ordering::Acquire);
        for (subscription, leases) in self.members.leases() {
            let settle = prom_sdk_core::Settle::Extend(millis(leases.length()));
            for (id, lease) in leases.take_due(instant, connection) {
                let delivery = DeliveryRef { subscription, connection, id: &id, lease: Some(lease.as_str()) };
                self.session.settle_quietly(now, delivery, settle);
            }
            self.leases_at = [self.leases_at, leases.due()].into_iter().flatten().min();
        }
        self.perform();
    }

    fn leave(&mut self, now: u64, id: SubscriptionId, reply: Option<Reply<()>>) {
        if let Some(member) = self.members.remove(id) {
            member.end(Error::from(prom_sdk_core::Error::of(
                prom_protocol::ErrorCode::NotSubscribed,
                "the subscription was ended by this client",
            )));
        }
        let request = self.session.unsubscribe(now, id);
        if let Some(reply) = reply {
            self.waiting.insert(request.0, Waiting::Done(reply));
        }
    }

    fn look_after_members(&mut self, now: u64) {
        for id in self.members.gone() {
            self.leave(now, id, None);
            self.perform();
        }
        for id in self.members.go_on() {
            self.session.pause(now, id, false);
            self.perform();
        }
    }

    /// Does what the session wants done.
    fn perform(&mut self) {
        while let Some(output) = self.session.poll() {
            match output {
                Output::Open => self.link = Link::Opening(self.transport.open()),
                Output::Send(frame) => {
                    if let Link::Open(socket) = &mut self.link {
                        socket.send(&frame, self.session.batching());
                    }
                }
                Output::Shut { code, reason } => {
                    if let Link::Open(socket) = std::mem::replace(&mut self.link, Link::None) {
                        self.closing = Some(tokio::spawn(socket.close(code, reason)));
                    }
                }
                Output::NeedToken(asked) => {
                    if let Some((_, asking)) = self.asking.take() {
                        asking.abort();
                    }
                    self.asking = self.tokens.as_ref().map(|source| (asked, source.ask()));
                }
                Output::State(change) => self.state(change),
                Output::Done { request, result } => self.done(request.0, result),
                Output::Live { subscription } => {
                    let connection = self.session.connection();
                    self.push(self.now(), subscription, Item::Live(connection));
                }
                Output::Gap { subscription, topic, from, to, reason } => {
                    let gap = Gap { topic, from, to, reason };
                    tracing::warn!(topic = gap.topic, from, to, reason = gap.reason, "events were skipped");
                    self.shared.tell(ClientEvent::Gap(gap.clone()));
                    self.push(self.now(), subscription, Item::Gap(gap));
                }
                Output::Revoked { subscription, error } => self.revoked(subscription, error.into()),
                Output::Error(error) => {
                    tracing::debug!(%error, "an error of no request");
                    self.shared.tell(ClientEvent::Error(error.into()));
                }
            }
        }
    }

    fn state(&mut self, change: prom_sdk_core::StateChange) {
        let connection = if change.state == State::Ready { self.session.connection() } else { 0 };
        self.shared.connection.store(connection, Ordering::Release);
        let error = change.error.map(Error::from);
        match &error {
            Some(error) => tracing::debug!(state = %change.state, %error, "connection"),
            None => tracing::debug!(state = %change.state, "connection"),
        }
        let retry_in = change.retry_in_ms.map(Duration::from_millis);
        self.shared.status.send_replace(Status { state: change.state, error, retry_in });
    }

    fn done(&mut self, request: u64, result: Result<Answer, prom_sdk_core::Error>) {
        // A reply nobody waits for any more is dropped.
        match self.waiting.remove(&request) {
            Some(Waiting::Publish { reply, bytes }) => {
                self.queued -= 1;
                self.queued_bytes -= bytes;
                let _ = reply.send(match result {
                    Ok(Answer::Published { id, seq, duplicate }) => Ok(Published { id, seq, duplicate }),
                    Ok(_) => Err(Error::closed()),
                    Err(error) => Err(error.into()),
                });
            }
            Some(Waiting::Done(reply)) => {
                let _ = reply.send(result.map(|_| ()).map_err(Error::from));
            }
            Some(Waiting::Subscribe { reply, feed }) => match result {
                Ok(_) => {
                    let _ = reply.send(Ok(*feed));
                }
                Err(error) => {
                    self.members.remove(feed.id);
                    let _ = reply.send(Err(error.into()));
                }
            },
            None => {}
        }
    }

    fn revoked(&mut self, id: SubscriptionId, error: Error) {
        let Some(member) = self.members.remove(id) else { return };
        tracing::warn!(topic = member.topic, group = member.group, %error, "the hub ended a subscription");
        member.end(error.clone());
        self.shared.tell(ClientEvent::Revoked { topic: member.topic, group: member.group, error });
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The standard library keys its hash maps by the system's randomness.
pub(crate) fn seed() -> [u64; 2] {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let random = || RandomState::new().build_hasher().finish();
    [random(), random()]
}
