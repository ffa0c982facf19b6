//! One connection: keeps answers in order, writes all that a wake-up produced at once.

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::IpAddr,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use prom_delivery::{Delivery, Found, MemberId, Nack};
use prom_protocol::{
    ClientFrame, CloseCode, ErrorCode, Op, Refusal, ServerFrame, Text, Topic, client::BadRequest,
    server::encode_event_context,
};
use prom_store::{StoreError, wall_clock};
use tokio::{sync::mpsc, time::Instant};
use tungstenite::{Message, Utf8Bytes, protocol::CloseFrame};

use super::{
    out::Out,
    publish::Publishes,
    session::Session,
    socket::{Incoming, Lost, Socket},
    subscriptions::{Source, Subscription, Subscriptions},
};
use crate::{
    auth::{Access, Refused},
    flow::{
        topics::{Signal, SignalSender},
        writer::{Answer, Write},
    },
    groups::{ConsumerHandle, ToConsumer, ToGroup, Verdict},
    node::Node,
    quota::{Share, one_more},
    rights,
};

/// Most frames and messages handled between two writes.
pub(super) const BURST: usize = 512;
/// Bytes waiting to be written beyond which the connection reads neither its socket nor the log.
const OUT_HIGH: usize = 1024 * 1024;
/// How long the hub waits for a connection's publishes when it shuts down, and then for its peer to take what is left.
const ENDING: Duration = Duration::from_secs(3);

/// How long a peer that does not read has to read again, and find out that it was closed for that.
pub(super) const PARTING: Duration = Duration::from_secs(30);

/// Why a connection ends.
pub(super) enum End {
    /// With this close frame.
    Close(CloseCode),
    /// The peer has sent one.
    Closed,
    /// The peer is gone.
    Gone,
}

/// Serves `socket` until either side ends it.
pub(super) async fn run(node: Arc<Node>, socket: Socket, address: IpAddr) {
    let _counted = Counted::within(&node.connections, usize::MAX);
    let (handle, messages) = ConsumerHandle::new();
    let (signals, signalled) = mpsc::unbounded_channel();
    let session = Session::new(node.limits.auth_timeout);
    let mut connection = Connection {
        session,
        answers: Arc::new(handle.clone()),
        handle,
        out: Out::new(socket),
        unread: None,
        checking: None,
        publishes: Publishes::new(Arc::clone(&node.metrics)),
        room: None,
        subscriptions: Subscriptions::default(),
        signals,
        reads: FuturesUnordered::new(),
        waiting_live: VecDeque::new(),
        heard: Instant::now(),
        address,
        share: None,
        place: None,
        over: false,
        node: Arc::clone(&node),
    };
    let end = connection.serve(messages, signalled).await;
    connection.end(end).await;
}

/// Counts the connection for as long as this lives.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// One more; none: there are `most`.
    pub(super) fn within(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        one_more(count, most).then(|| Self(Arc::clone(count)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type LiveRead = (MemberId, Result<Found, StoreError>);
type Room = Option<mpsc::OwnedPermit<Write>>;

/// An AUTH that waits.
pub(super) struct Checking {
    pub(super) access: BoxFuture<'static, Result<Access, Refused>>,
    pub(super) batch: bool,
    pub(super) corr: Option<Text<'static>>,
}

pub(super) struct Connection {
    pub(super) node: Arc<Node>,
    pub(super) session: Session,
    pub(super) handle: ConsumerHandle,
    /// The same, as the writer knows it.
    answers: Arc<dyn Answer>,
    pub(super) out: Out<Socket>,
    /// A message of several frames that was not handled to its end, and where its rest begins.
    pub(super) unread: Option<(Utf8Bytes, usize)>,
    /// An AUTH whose token cannot be checked before a key set has been read. Until then nothing more is read.
    pub(super) checking: Option<Checking>,
    pub(super) publishes: Publishes,
    /// Waits for room at the writer, for the batch that is held back. It keeps its place in the line from one wake-up to
    /// the next.
    room: Option<BoxFuture<'static, Room>>,
    pub(super) subscriptions: Subscriptions,
    pub(super) signals: SignalSender,
    pub(super) reads: FuturesUnordered<BoxFuture<'static, LiveRead>>,
    /// Ephemeral subscriptions that may have something to send or to read.
    pub(super) waiting_live: VecDeque<MemberId>,
    /// When the peer was last heard.
    pub(super) heard: Instant,
    /// The peer's.
    pub(super) address: IpAddr,
    /// Its token counts no more, which was found while frames were handled.
    pub(super) over: bool,
    /// Its place among the connections that have a token; none: it has none yet.
    pub(super) place: Option<Counted>,
    /// Its part of what its subject may have, and whose that is.
    pub(super) share: Option<(u64, Share)>,
}

impl Connection {
    async fn serve(
        &mut self,
        mut messages: mpsc::UnboundedReceiver<ToConsumer>,
        mut signalled: mpsc::UnboundedReceiver<Signal>,
    ) -> End {
        let ending = self.node.ending.clone();
        let mut ping = tokio::time::interval(self.node.limits.ping_every);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ping.reset();
        let mut ended_at: Option<Instant> = None;
        // From before the first AUTH on: what is revoked while a token is being checked is a change still to be seen.
        let mut revocations = self.node.verifier.revocations().changes();
        let seat = Arc::clone(self.out.socket.seat());
        loop {
            // One write of all the last wake-up produced; what the socket does not take now is waited for below.
            if !self.out.is_idle()
                && let Some(Err(_)) = poll_fn(|cx| self.out.poll_write(cx)).now_or_never()
            {
                return End::Gone;
            }
            if self.over && self.is_revoked() {
                return self.token_revoked();
            }
            self.release().await;
            self.pump_live();
            if let Some(at) = ended_at
                && (self.publishes.is_empty() || at.elapsed() >= ENDING)
            {
                return End::Close(CloseCode::Shutdown);
            }
            let reading = ended_at.is_none() && self.may_read(messages.len());
            let auth_deadline = self.session.deadline;
            let stuck = self.out.progress() + self.node.limits.write_timeout;
            let writing = !self.out.is_idle();
            let unread = self.unread.is_some();
            let next_publish = self.publishes.next_at();
            if reading && unread {
                // They are at hand, without a wait that gives other tasks their turn.
                tokio::task::yield_now().await;
            }
            // In no order: a client that never stops sending must not keep its events, or its token's end, from it.
            tokio::select! {
                () = ending.cancelled(), if ended_at.is_none() => {
                    // It would wait in vain: its client publishes it again.
                    self.publishes.drop_held();
                    ended_at = Some(Instant::now());
                }
                turn = poll_fn(|cx| poll_socket(&mut self.out, cx, reading && !unread, writing)),
                    if writing || reading && !unread =>
                {
                    match turn {
                        Turn::Read(read) => {
                            if let ControlFlow::Break(end) = self.read_burst(Some(read)).await {
                                return end;
                            }
                            if self.out.owes_pong() {
                                // A flood of pings is a turn for each: the others must not wait for many at once.
                                tokio::task::yield_now().await;
                            }
                        }
                        Turn::Written(Ok(())) => {}
                        Turn::Written(Err(_)) => return End::Gone,
                    }
                }
                () = std::future::ready(()), if reading && unread => {
                    if let ControlFlow::Break(end) = self.read_burst(None).await {
                        return end;
                    }
                }
                Some(message) = messages.recv() => {
                    self.message(message);
                    for _ in 0..BURST {
                        let Ok(message) = messages.try_recv() else { break };
                        self.message(message);
                    }
                }
                Some(signal) = signalled.recv() => {
                    self.signal(signal);
                    for _ in 0..BURST {
                        let Ok(signal) = signalled.try_recv() else { break };
                        self.signal(signal);
                    }
                }
                Some((member, found)) = self.reads.next() => self.read_done(member, found),
                room = async { self.room.as_mut()?.await }, if self.room.is_some() => self.send_held_back(room),
                Some(checked) = async { Some(self.checking.as_mut()?.access.as_mut().await) }, if self.checking.is_some() => {
                    if let Some(Checking { batch, corr, .. }) = self.checking.take()
                        && let ControlFlow::Break(end) = self.authenticated(checked, batch, corr.as_ref()).await
                    {
                        return end;
                    }
                }
                // Its socket, which would tell the same, is not read before that AUTH is answered.
                () = seat.evicted(), if self.checking.is_some() => return End::Gone,
                _ = ping.tick() => {
                    if self.is_silent(reading) {
                        tracing::debug!("connection silent, taken for dead");
                        return End::Gone;
                    }
                    self.out.control(Message::Ping(Bytes::new()));
                }
                () = sleep_until(auth_deadline) => return self.expired(),
                () = sleep_until(next_publish), if next_publish.is_some() => self.publish_held(),
                Ok(()) = revocations.changed() => {
                    if self.is_revoked() {
                        return self.token_revoked();
                    }
                }
                () = tokio::time::sleep_until(stuck), if writing => {
                    // Something may have been taken since the timer was set.
                    if self.out.progress().elapsed() >= self.node.limits.write_timeout {
                        return End::Close(CloseCode::SlowConsumer);
                    }
                }
                () = sleep_until(ended_at.map(|at| at + ENDING)), if ended_at.is_some() => {}
            }
        }
    }

    /// Whether it may read its socket, with so many messages for it queued: what a client asks for may not pile up faster
    /// than it is answered, pings included.
    fn may_read(&self, queued: usize) -> bool {
        self.out.bytes() < OUT_HIGH && queued < BURST && self.may_take_frames()
    }

    /// Whether the next frame may be handled: not while a publish would find no room, before an AUTH is answered, or while
    /// the answer to a ping waits.
    pub(super) fn may_take_frames(&self) -> bool {
        self.publishes.have_room() && self.checking.is_none() && !self.out.owes_pong() && !self.over
    }

    /// Whether nothing was heard of the peer for three pings. While its socket is not read, silence proves nothing.
    fn is_silent(&mut self, reading: bool) -> bool {
        if !reading {
            self.heard = Instant::now();
        }
        self.heard.elapsed() > 3 * self.node.limits.ping_every
    }

    pub(super) fn bad_request(&mut self, bad: &BadRequest<'_>) {
        let corr = bad.corr.as_ref();
        let closed = bad.unknown_op || bad.op.is_some_and(|op| !op.open_to_all());
        if closed && self.session.policy().is_none() {
            self.error(ErrorCode::Unauthorized, "Call AUTH first.", corr);
        } else if bad.op == Some(Op::Publish) {
            // In its turn among the publishes before it.
            self.publishes.refuse(corr, bad.error.clone());
            self.answer_refused_publishes();
        } else {
            self.refuse(&bad.error, corr);
        }
    }

    pub(super) async fn request(&mut self, corr: Option<Text<'_>>, frame: ClientFrame<'_>) -> ControlFlow<End> {
        let corr = corr.as_ref();
        let Some(policy) = self.session.policy() else {
            match frame {
                ClientFrame::Auth { token, batch } => return self.auth(&token, batch, corr).await,
                ClientFrame::Ping => self.send(&ServerFrame::Pong { corr: corr.cloned() }),
                _ => self.error(ErrorCode::Unauthorized, "Call AUTH first.", corr),
            }
            return ControlFlow::Continue(());
        };
        match frame {
            ClientFrame::Publish(publish) => {
                self.publishes.add(&publish, corr, self.session.subject(), |topic, same| {
                    rights::publish(policy, topic)?;
                    if same { Ok(()) } else { may_make(&self.node, self.share.as_ref(), topic) }
                });
                self.answer_refused_publishes();
            }
            ClientFrame::Ack(settle) => self.settle(&settle, Verdict::Ack, corr),
            ClientFrame::Nack(nack) => {
                let verdict = Verdict::Nack(Nack {
                    reason: nack.reason.map(|reason| reason.as_str().into()),
                    delay_ms: nack.delay_ms,
                    dead: nack.dead,
                });
                self.settle(&nack.settle, verdict, corr);
            }
            ClientFrame::ModAck { settle, extend_ms } => self.settle(&settle, Verdict::Extend(extend_ms), corr),
            ClientFrame::Subscribe(subscribe) => self.subscribe(*subscribe, corr).await,
            ClientFrame::Unsubscribe(target) => self.unsubscribe(&target, corr).await,
            ClientFrame::Pause(target) => self.pause(&target, true, corr).await,
            ClientFrame::Resume(target) => self.pause(&target, false, corr).await,
            ClientFrame::Auth { token, batch } => return self.auth(&token, batch, corr).await,
            ClientFrame::Ping => self.send(&ServerFrame::Pong { corr: corr.cloned() }),
            _ => self.error(ErrorCode::BadFrame, "op is not known", corr),
        }
        ControlFlow::Continue(())
    }

    pub(super) fn flush_publishes(&mut self) {
        if self.publishes.held_back.is_none()
            && let Some(write) = self.publishes.take_batch(&self.answers)
            && let Err(write) = self.node.writer.try_send(write)
        {
            self.publishes.held_back = Some(write);
            self.room = Some(Box::pin(self.node.writer.room()));
        }
    }

    /// Hands on what was held because it came too fast, as far as its time has come.
    fn publish_held(&mut self) {
        if let Some(policy) = self.session.policy() {
            self.publishes.go_on(|topic| {
                rights::publish(policy, topic)?;
                may_make(&self.node, self.share.as_ref(), topic)
            });
        }
        self.answer_refused_publishes();
        self.flush_publishes();
    }

    /// The writer has room for the batch that is held back, or had none in time.
    fn send_held_back(&mut self, room: Room) {
        self.room = None;
        match (room, self.publishes.held_back.take()) {
            (Some(room), Some(write)) => drop(room.send(write)),
            (None, Some(write)) => {
                let refusal = Refusal::new(ErrorCode::Overloaded, "the hub has more to write than it can queue");
                self.publishes.refuse_batch(write.appends.len(), &refusal);
                self.answer_refused_publishes();
            }
            (_, None) => {}
        }
    }

    fn answer_refused_publishes(&mut self) {
        let out = &mut self.out;
        self.publishes.answer_refused(&mut |bytes| out.push(bytes, 0));
    }

    fn message(&mut self, message: ToConsumer) {
        match message {
            ToConsumer::Published(outcomes) => {
                let out = &mut self.out;
                self.publishes.answer(outcomes, |bytes| out.push(bytes, 0));
            }
            ToConsumer::Deliver { member, deliveries, clock } => self.deliver(member, deliveries, clock),
            ToConsumer::Gap { member, topic, from, to } => self.gap(member, &topic, from, to),
            ToConsumer::Revoked { member, why } => self.revoked(member, why),
            ToConsumer::Answer(bytes) => self.out.push(bytes, 0),
        }
    }

    fn deliver(&mut self, member: MemberId, deliveries: Vec<Delivery>, clock: Instant) {
        let now = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Some(subscription) = self.subscriptions.get_mut(member) else {
            // It has left, and its group has the leases back.
            self.out.skip(deliveries.iter().map(|delivery| delivery.event.json.len()).sum());
            return;
        };
        let wall = wall_clock();
        let first = deliveries.iter().filter(|delivery| delivery.attempt == 1);
        let ages = first.map(|delivery| wall.saturating_sub(delivery.event.ts));
        self.node.metrics.latency.record(ages);
        for delivery in deliveries {
            let (lease, left) = match delivery.lease {
                Some((lease, deadline)) => (Some(lease), deadline.saturating_sub(now)),
                None => (None, 0),
            };
            let json = &delivery.event.json;
            let mut frame = Vec::with_capacity(subscription.head.len() + json.len() + 128);
            frame.extend_from_slice(&subscription.head);
            frame.extend_from_slice(json);
            encode_event_context(&mut frame, delivery.attempt, delivery.max_attempts, left, lease);
            self.out.push(frame, json.len());
        }
    }

    /// Tells groups that stopped for this connection to go on, when enough bytes have left.
    async fn release(&mut self) {
        let bytes = self.out.take_left();
        if bytes > 0 && self.handle.release(bytes) {
            for (id, subscription) in self.subscriptions.iter_mut() {
                if let Source::Group { group, .. } = &subscription.source {
                    let _ = group.send(ToGroup::Unblock(id)).await;
                }
            }
        }
    }

    pub(super) fn send(&mut self, frame: &ServerFrame<'_>) {
        let mut bytes = Vec::with_capacity(128);
        frame.encode(&mut bytes);
        self.out.push(bytes, 0);
    }

    pub(super) fn error(&mut self, code: ErrorCode, message: &str, corr: Option<&Text<'_>>) {
        self.send(&ServerFrame::error(code, message, corr.cloned()));
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal, corr: Option<&Text<'_>>) {
        self.send(&ServerFrame::refused(refusal, corr.cloned()));
    }

    /// Leaves the groups, sends what is left and closes.
    async fn end(&mut self, end: End) {
        if !matches!(end, End::Closed) {
            // Its client has no answer to it, and publishes it again.
            self.publishes.drop_held();
        }
        self.flush_settlements().await;
        for id in self.subscriptions.ids() {
            if let Some(Subscription { source: Source::Group { group, .. }, .. }) = self.subscriptions.remove(id) {
                let _ = group.send(ToGroup::Leave(id, None)).await;
            }
        }
        match end {
            End::Gone => {}
            End::Closed => {
                self.out.abandon();
                let _ = tokio::time::timeout(ENDING, self.written()).await;
                if self.publishes.has_more() {
                    self.out.socket.leave().await;
                    self.publish_rest().await;
                }
            }
            End::Close(code) => {
                self.node.metrics.closed(code);
                self.say_why(code).await;
            }
        }
    }

    /// Publishes what its client sent before it closed, as fast as it may, as long as its token counts.
    async fn publish_rest(&mut self) {
        let ending = self.node.ending.clone();
        let mut revocations = self.node.verifier.revocations().changes();
        while self.publishes.has_more() && !self.is_revoked() {
            let next_publish = self.publishes.next_at();
            tokio::select! {
                () = ending.cancelled() => return,
                () = sleep_until(self.session.deadline) => return,
                () = sleep_until(next_publish), if next_publish.is_some() => self.publish_held(),
                room = async { self.room.as_mut()?.await }, if self.room.is_some() => self.send_held_back(room),
                Ok(()) = revocations.changed() => {}
            }
        }
    }

    /// Sends the close frame, and waits for a moment for the peer's.
    async fn say_why(&mut self, code: CloseCode) {
        // A peer that does not read is not waited for long, but for the one who is closed for that: it reads the code when
        // it reads again. Until then it has its socket, which others may take, and nothing else.
        let mut patience = ENDING;
        if code == CloseCode::SlowConsumer {
            self.out.abandon();
            self.out.socket.distrust();
            patience = PARTING;
        }
        let frame = CloseFrame { code: code.code().into(), reason: code.reason().into() };
        self.out.control(Message::Close(Some(frame)));
        let ending = self.node.ending.clone();
        let written = tokio::select! {
            written = tokio::time::timeout(patience, self.written()) => written,
            () = ending.cancelled(), if patience > ENDING => return,
        };
        // At a shutdown it connects again either way.
        if matches!(written, Ok(Ok(()))) && code != CloseCode::Shutdown {
            self.out.socket.hang_up().await;
        }
    }

    async fn written(&mut self) -> Result<(), Lost> {
        poll_fn(|cx| self.out.poll_write(cx)).await
    }
}

/// What the socket was ready for.
enum Turn {
    Written(Result<(), Lost>),
    Read(Incoming),
}

fn poll_socket(out: &mut Out<Socket>, cx: &mut Context<'_>, reading: bool, writing: bool) -> Poll<Turn> {
    if writing && let Poll::Ready(written) = out.poll_write(cx) {
        return Poll::Ready(Turn::Written(written));
    }
    if reading { out.socket.poll_next(cx).map(Turn::Read) } else { Poll::Pending }
}

/// Refuses a publish by which its subject would make one more topic than it may.
fn may_make(node: &Node, share: Option<&(u64, Share)>, topic: &Topic) -> Result<(), Refusal> {
    share.map_or(Ok(()), |(_, share)| node.quotas.topic(share, topic, &node.topics))
}

pub(super) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
