//! One connection: reads frames, keeps answers in order, writes all that a wake-up produced at once.

use std::{
    collections::VecDeque,
    future::poll_fn,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures_util::{
    FutureExt, SinkExt, StreamExt,
    future::BoxFuture,
    stream::{FuturesUnordered, SplitSink, SplitStream},
};
use prom_protocol::{
    ClientFrame, CloseCode, ErrorCode, Group, Op, ServerFrame, StartFrom, Text, Topic,
    client::{self, BadRequest, Settle, Subscribe, Target},
    server::{OkFrame, encode_event_context, parse_lease},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Gateway,
    handle::{ConnectionHandle, ToConnection},
    publish::Publishes,
    session::{Outcome, Session},
    subscriptions::{Source, Subscription, Subscriptions},
};
use crate::{
    delivery::{
        Delivery, MemberId, Nack,
        actor::{Join, Settlement, ToGroup, Verdict},
    },
    live::{self, Got, Live, Step},
    store::{StoreError, Stored},
    topics::{Signal, SignalSender, TopicState},
};

/// Most frames and messages handled between two writes.
const BURST: usize = 512;
/// Bytes waiting to be written beyond which the connection reads neither its socket nor the log.
const OUT_HIGH: usize = 1024 * 1024;
/// Bytes waiting beyond which ephemeral subscriptions read no further.
const LIVE_HIGH: usize = 256 * 1024;
/// How long the hub waits for a connection's publishes when it ends, and for its peer to take the close frame.
const ENDING: Duration = Duration::from_secs(5);
/// Wait before a failed read for an ephemeral subscription is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Deadline for a group's answer.
const GROUP_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a connection ends: with this close frame, or because the peer is gone.
type End = Option<CloseCode>;

/// Serves `socket` until either side ends it.
pub(super) async fn run(gateway: Arc<Gateway>, socket: WebSocket) {
    gateway.connections.fetch_add(1, Ordering::Relaxed);
    let (sink, stream) = socket.split();
    let (handle, messages) = ConnectionHandle::new();
    let (signals, signalled) = mpsc::unbounded_channel();
    let session = Session::new(gateway.limits.auth_timeout);
    let mut connection = Connection {
        session,
        handle,
        out: Out { sink, frames: VecDeque::new(), bytes: 0, flushed: true, progress: Instant::now() },
        publishes: Publishes::default(),
        subscriptions: Subscriptions::default(),
        signals,
        reads: FuturesUnordered::new(),
        waiting_live: Vec::new(),
        heard: Instant::now(),
        gateway,
    };
    let end = connection.serve(stream, messages, signalled).await;
    connection.end(end).await;
    connection.gateway.connections.fetch_sub(1, Ordering::Relaxed);
}

/// What is to be written.
struct Out {
    sink: SplitSink<WebSocket, Message>,
    /// With the bytes that count against the groups' reserve.
    frames: VecDeque<(Message, usize)>,
    bytes: usize,
    flushed: bool,
    /// When something was last taken by the socket, or nothing waited.
    progress: Instant,
}

impl Out {
    fn push(&mut self, frame: Vec<u8>, reserved: usize) {
        if self.frames.is_empty() && self.flushed {
            self.progress = Instant::now();
        }
        self.bytes += frame.len();
        // Every frame is made of validated text and our own encoders.
        let text = Utf8Bytes::try_from(Bytes::from(frame)).unwrap_or_default();
        self.frames.push_back((Message::Text(text), reserved));
    }

    fn is_idle(&self) -> bool {
        self.frames.is_empty() && self.flushed
    }

    /// Hands everything to the socket and flushes once. Answers the reserved bytes that left.
    fn poll_write(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<Result<(), axum::Error>> {
        while !self.frames.is_empty() {
            match self.sink.poll_ready_unpin(cx)? {
                Poll::Ready(()) => {}
                Poll::Pending => return Poll::Pending,
            }
            if let Some((message, reserved)) = self.frames.pop_front() {
                self.bytes -= match &message {
                    Message::Text(text) => text.len(),
                    _ => 0,
                };
                *left += reserved;
                self.flushed = false;
                self.progress = Instant::now();
                self.sink.start_send_unpin(message)?;
            }
        }
        if !self.flushed {
            match self.sink.poll_flush_unpin(cx)? {
                Poll::Ready(()) => self.flushed = true,
                Poll::Pending => return Poll::Pending,
            }
        }
        self.progress = Instant::now();
        Poll::Ready(Ok(()))
    }
}

type LiveRead = (MemberId, Result<Got, StoreError>);

struct Connection {
    gateway: Arc<Gateway>,
    session: Session,
    handle: ConnectionHandle,
    out: Out,
    publishes: Publishes,
    subscriptions: Subscriptions,
    signals: SignalSender,
    reads: FuturesUnordered<BoxFuture<'static, LiveRead>>,
    /// Ephemeral subscriptions that may have something to read.
    waiting_live: Vec<MemberId>,
    /// When the peer was last heard.
    heard: Instant,
}

impl Connection {
    async fn serve(
        &mut self,
        mut stream: SplitStream<WebSocket>,
        mut messages: mpsc::UnboundedReceiver<ToConnection>,
        mut signalled: mpsc::UnboundedReceiver<Signal>,
    ) -> End {
        let ending = self.gateway.ending.clone();
        let mut ping = tokio::time::interval(self.gateway.limits.ping_every);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ping.reset();
        let mut ended_at: Option<Instant> = None;
        loop {
            // One write of all the last wake-up produced; what the socket does not take now is waited for below.
            if !self.out.is_idle() {
                let mut left = 0;
                let written = poll_fn(|cx| self.out.poll_write(cx, &mut left)).now_or_never();
                self.released(left).await;
                if let Some(Err(_)) = written {
                    return None;
                }
            }
            self.pump_live();
            if let Some(at) = ended_at
                && (self.publishes.is_empty() || at.elapsed() > ENDING)
            {
                return Some(CloseCode::Shutdown);
            }
            let reading = ended_at.is_none() && self.out.bytes < OUT_HIGH && self.publishes.have_room();
            let mut left = 0;
            let writer = self.gateway.writer.clone();
            let auth_deadline = self.session.deadline;
            let stuck = self.out.progress + self.gateway.limits.write_timeout;
            let writing = !self.out.is_idle();
            tokio::select! {
                biased;
                () = ending.cancelled(), if ended_at.is_none() => ended_at = Some(Instant::now()),
                frame = stream.next(), if reading => {
                    if let ControlFlow::Break(end) = self.read_burst(frame, &mut stream).await {
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
                    self.signal(signal).await;
                    while let Ok(signal) = signalled.try_recv() {
                        self.signal(signal).await;
                    }
                }
                Some((member, got)) = self.reads.next() => self.read_done(member, got),
                written = poll_fn(|cx| self.out.poll_write(cx, &mut left)), if writing => {
                    self.released(left).await;
                    if written.is_err() {
                        return None;
                    }
                }
                sent = Self::send_parked(&writer, &mut self.publishes), if self.publishes.parked.is_some() => {
                    if !sent {
                        self.overloaded();
                    }
                }
                _ = ping.tick() => {
                    if self.heard.elapsed() > 3 * self.gateway.limits.ping_every {
                        tracing::debug!("connection silent, taken for dead");
                        return None;
                    }
                    self.out.frames.push_back((Message::Ping(Bytes::new()), 0));
                }
                () = sleep_until(auth_deadline) => return self.expired(),
                () = tokio::time::sleep_until(stuck), if writing => return Some(CloseCode::SlowConsumer),
                () = async { tokio::time::sleep_until(ended_at.unwrap_or(stuck) + ENDING).await }, if ended_at.is_some() => {}
            }
        }
    }

    /// Handles what is readable now, then hands over what it came to: one message per group, one to the writer.
    async fn read_burst(
        &mut self,
        first: Option<Result<Message, axum::Error>>,
        stream: &mut SplitStream<WebSocket>,
    ) -> ControlFlow<End> {
        let mut next = Some(first);
        let mut budget = BURST;
        let mut end = ControlFlow::Continue(());
        while let Some(frame) = next {
            self.heard = Instant::now();
            end = self.frame(frame).await;
            budget -= 1;
            if end.is_break() || budget == 0 || !self.publishes.have_room() {
                break;
            }
            next = stream.next().now_or_never();
        }
        self.flush_settlements().await;
        self.flush_publishes();
        end
    }

    async fn frame(&mut self, frame: Option<Result<Message, axum::Error>>) -> ControlFlow<End> {
        match frame {
            Some(Ok(Message::Text(text))) => {
                if self.session.policy().is_none() && text.len() > self.gateway.limits.frame_bytes_before_auth {
                    return ControlFlow::Break(Some(CloseCode::TooLarge));
                }
                match client::parse(&text) {
                    Ok(request) => return self.request(request.corr, request.frame).await,
                    Err(bad) => self.bad_request(&bad),
                }
            }
            Some(Ok(Message::Binary(_))) => {
                self.error(ErrorCode::BadFrame, "binary frames are not spoken here, send text", None)
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_))) | None => return ControlFlow::Break(None),
            Some(Err(error)) => {
                // tungstenite tells an oversized frame only by its message.
                let too_large = error.to_string().contains("too long") || error.to_string().contains("too large");
                return ControlFlow::Break(too_large.then_some(CloseCode::TooLarge));
            }
        }
        ControlFlow::Continue(())
    }

    fn bad_request(&mut self, bad: &BadRequest<'_>) {
        let corr = bad.corr.as_ref();
        if bad.op.is_some_and(|op| !op.open_to_all()) && self.session.policy().is_none() {
            self.error(ErrorCode::Unauthorized, "Call AUTH first.", corr);
        } else if bad.op == Some(Op::Publish) {
            // In its turn among the publishes before it.
            self.publishes.refuse(corr, bad.error.code(), bad.error.message());
            self.answer_refused_publishes();
        } else {
            self.error(bad.error.code(), bad.error.message(), corr);
        }
    }

    async fn request(&mut self, corr: Option<Text<'_>>, frame: ClientFrame<'_>) -> ControlFlow<End> {
        let corr = corr.as_ref();
        let Some(policy) = self.session.policy() else {
            match frame {
                ClientFrame::Auth(token) => return self.auth(&token, corr).await,
                ClientFrame::Ping => self.send(&ServerFrame::Pong { corr: corr.cloned() }),
                _ => self.error(ErrorCode::Unauthorized, "Call AUTH first.", corr),
            }
            return ControlFlow::Continue(());
        };
        match frame {
            ClientFrame::Publish(publish) => {
                self.publishes.add(&publish, corr, |topic| policy.may_publish(topic));
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
            ClientFrame::Auth(token) => return self.auth(&token, corr).await,
            ClientFrame::Ping => self.send(&ServerFrame::Pong { corr: corr.cloned() }),
            _ => self.error(ErrorCode::BadFrame, "op is not known", corr),
        }
        ControlFlow::Continue(())
    }

    async fn auth(&mut self, token: &str, corr: Option<&Text<'_>>) -> ControlFlow<End> {
        match self.session.authenticate(&self.gateway.verifier, token) {
            Outcome::Accepted(expires_in_ms) => {
                self.send(&ServerFrame::Ok(OkFrame { corr: corr.cloned(), expires_in_ms, ..OkFrame::default() }));
                self.revoke().await;
            }
            Outcome::Refused(error) => {
                tracing::debug!(%error, "AUTH refused");
                self.error(error.code, &error.message, corr);
            }
            Outcome::Banned(error) => {
                self.error(error.code, &error.message, corr);
                return ControlFlow::Break(Some(CloseCode::Token));
            }
        }
        ControlFlow::Continue(())
    }

    /// Ends the subscriptions that a new policy does not allow.
    async fn revoke(&mut self) {
        for id in self.subscriptions.ids() {
            let Some(subscription) = self.subscriptions.get_mut(id) else { continue };
            let durable = matches!(subscription.source, Source::Group { .. });
            let group = durable.then(|| subscription.group.as_str());
            if self.session.policy().is_some_and(|policy| policy.may_subscribe(&subscription.target, group)) {
                continue;
            }
            let frame = ServerFrame::Revoked {
                topic: Text::from(subscription.target.as_str().to_owned()),
                group: Text::from(subscription.group.as_str().to_owned()),
                code: ErrorCode::Forbidden.as_str().into(),
                msg: "the new token does not allow it".into(),
            };
            self.remove(id).await;
            self.send(&frame);
        }
    }

    /// The session's time is over.
    fn expired(&mut self) -> End {
        match self.session.expired() {
            Some(code) => {
                self.error(code, "the token's exp has passed", None);
                Some(CloseCode::Token)
            }
            None => Some(CloseCode::AuthTimeout),
        }
    }

    fn settle(&mut self, settle: &Settle<'_>, verdict: Verdict, corr: Option<&Text<'_>>) {
        let Some(id) = self.subscriptions.find(&settle.target.topic, &settle.target.group) else {
            self.not_subscribed(&settle.target, corr);
            return;
        };
        let extend = matches!(verdict, Verdict::Extend(_));
        let settlement = Settlement {
            id: settle.id.as_str().into(),
            // What is no token of ours matches no lease.
            lease: settle.lease.as_ref().map(|token| parse_lease(token).unwrap_or(0)),
            verdict,
            corr: corr.map(|corr| corr.as_str().into()),
        };
        if !self.subscriptions.settle(id, settlement) {
            // An ephemeral subscription: everything is settled as it is sent.
            if extend {
                self.error(ErrorCode::UnknownId, "no unsettled event of that id is leased to you", corr);
            } else if corr.is_some() {
                self.send(&ServerFrame::ok(corr.cloned()));
            }
        }
    }

    fn not_subscribed(&mut self, target: &Target<'_>, corr: Option<&Text<'_>>) {
        let topic: String = target.topic.chars().take(prom_protocol::limits::TOPIC_BYTES).collect();
        self.error(ErrorCode::NotSubscribed, &format!("this connection has no such subscription of {topic}"), corr);
    }

    async fn subscribe(&mut self, subscribe: Subscribe, corr: Option<&Text<'_>>) {
        self.flush_settlements().await;
        let Subscribe { topic: target, group, options } = subscribe;
        let group_name = group.as_ref().map(Group::as_str);
        if !self.session.policy().is_some_and(|policy| policy.may_subscribe(&target, group_name)) {
            return self.error(ErrorCode::Forbidden, &format!("subscribing to {target} is not allowed"), corr);
        }
        if let Some(group) = group_name
            && self.subscriptions.find(target.as_str(), group).is_some()
        {
            return self.error(
                ErrorCode::AlreadySubscribed,
                &format!("{target} is already subscribed as {group}"),
                corr,
            );
        }
        let limit = self.gateway.limits.subscriptions;
        if self.subscriptions.len() >= limit {
            return self.error(
                ErrorCode::Overloaded,
                &format!("a connection may have at most {limit} subscriptions"),
                corr,
            );
        }
        let one_topic = matches!(target, prom_protocol::TopicOrPattern::Topic(_));
        if !one_topic && matches!(options.from, StartFrom::AfterId(_) | StartFrom::AfterSeq(_)) {
            return self.error(
                ErrorCode::BadFrame,
                "opts.from afterId and afterSeq need one topic, not a pattern",
                corr,
            );
        }
        let id = next_member();
        let (group, source) = match group {
            Some(group) => {
                let joined = self.join(id, &group, &target, options).await;
                match joined {
                    Ok(sender) => (group, Source::Group { group: sender, settlements: Vec::new() }),
                    Err((code, message)) => return self.error(code, &message, corr),
                }
            }
            None => {
                let mut live = Live::new(target.clone(), &options.from, options.filter);
                for state in self.gateway.topics.follow(&target, &self.signals) {
                    match live::position(&*self.gateway.store, &state, &options.from).await {
                        Ok(Some(position)) => {
                            let link = state.listen(id, self.signals.clone());
                            live.add(state, link, position);
                        }
                        Ok(None) => {
                            return self.error(
                                ErrorCode::PositionGone,
                                "opts.afterId or opts.afterSeq is not in the log",
                                corr,
                            );
                        }
                        Err(error) => return self.error(ErrorCode::StoreUnavailable, &error.to_string(), corr),
                    }
                }
                (Group::generated(id), Source::Live(Box::new(live)))
            }
        };
        let ok = OkFrame {
            corr: corr.cloned(),
            topic: Some(target.as_str().to_owned().into()),
            group: Some(group.as_str().to_owned().into()),
            ..OkFrame::default()
        };
        self.send(&ServerFrame::Ok(ok));
        self.subscriptions.insert(id, Subscription::new(target, group, source));
        self.step(id, Step::default());
        self.waiting_live.push(id);
    }

    /// Joins a durable group. A group that has just ended is opened once more.
    async fn join(
        &mut self,
        id: MemberId,
        group: &Group,
        target: &prom_protocol::TopicOrPattern,
        options: prom_protocol::SubscribeOptions,
    ) -> Result<mpsc::Sender<ToGroup>, (ErrorCode, String)> {
        for _ in 0..3 {
            let sender = self.gateway.groups.open(group);
            let (reply, joined) = oneshot::channel();
            let join =
                Join { id, target: target.clone(), options: options.clone(), connection: self.handle.clone(), reply };
            if sender.send(ToGroup::Join(Box::new(join))).await.is_err() {
                continue;
            }
            match tokio::time::timeout(GROUP_TIMEOUT, joined).await {
                Ok(Ok(Ok(()))) => return Ok(sender),
                Ok(Ok(Err(refused))) => return Err((refused.code, refused.message)),
                Ok(Err(_)) => {}
                Err(_) => return Err((ErrorCode::Overloaded, "the group did not answer in time".into())),
            }
        }
        Err((ErrorCode::Internal, "the group could not be started".into()))
    }

    async fn unsubscribe(&mut self, target: &Target<'_>, corr: Option<&Text<'_>>) {
        self.flush_settlements().await;
        match self.subscriptions.find(&target.topic, &target.group) {
            Some(id) => {
                self.remove(id).await;
                self.send(&ServerFrame::ok(corr.cloned()));
            }
            None => self.not_subscribed(target, corr),
        }
    }

    async fn remove(&mut self, id: MemberId) {
        if let Some(Subscription { source: Source::Group { group, .. }, .. }) = self.subscriptions.remove(id) {
            let (reply, left) = oneshot::channel();
            if group.send(ToGroup::Leave(id, Some(reply))).await.is_ok() {
                let _ = tokio::time::timeout(GROUP_TIMEOUT, left).await;
            }
        }
    }

    async fn pause(&mut self, target: &Target<'_>, paused: bool, corr: Option<&Text<'_>>) {
        self.flush_settlements().await;
        let Some(id) = self.subscriptions.find(&target.topic, &target.group) else {
            return self.not_subscribed(target, corr);
        };
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            subscription.paused = paused;
            if let Source::Group { group, .. } = &subscription.source {
                let (reply, done) = oneshot::channel();
                if group.send(ToGroup::Pause(id, paused, reply)).await.is_ok() {
                    let _ = tokio::time::timeout(GROUP_TIMEOUT, done).await;
                }
            }
        }
        self.waiting_live.push(id);
        self.send(&ServerFrame::ok(corr.cloned()));
    }

    async fn flush_settlements(&mut self) {
        for (group, member, settlements) in self.subscriptions.take_settlements() {
            // A group that has ended has given its leases back; there is nothing left to settle.
            let _ = group.send(ToGroup::Settle(member, settlements)).await;
        }
    }

    fn flush_publishes(&mut self) {
        if self.publishes.parked.is_none()
            && let Some(write) = self.publishes.take_batch(&self.handle)
            && let Err(write) = self.gateway.writer.try_send(write)
        {
            self.publishes.parked = Some(write);
        }
    }

    /// Waits for room at the writer. Cancel-safe: the batch is taken only when there is room for it.
    async fn send_parked(writer: &crate::writer::Writer, publishes: &mut Publishes) -> bool {
        let room = writer.room().await;
        match (room, publishes.parked.take()) {
            (Some(permit), Some(write)) => {
                permit.send(write);
                true
            }
            (None, Some(write)) => {
                publishes.parked = Some(write);
                false
            }
            (_, None) => true,
        }
    }

    /// The writer had no room in time.
    fn overloaded(&mut self) {
        let Some(write) = self.publishes.parked.take() else { return };
        let refused = crate::store::Refused {
            code: ErrorCode::Overloaded,
            message: "the hub has more to write than it can queue".into(),
        };
        // Handed over as if the writer had answered, so that the order stays.
        self.message(ToConnection::Published(write.appends.iter().map(|_| Err(refused.clone())).collect()));
    }

    fn answer_refused_publishes(&mut self) {
        let out = &mut self.out;
        self.publishes.answer_refused(&mut |bytes| out.push(bytes, 0));
    }

    fn message(&mut self, message: ToConnection) {
        match message {
            ToConnection::Published(outcomes) => {
                let out = &mut self.out;
                self.publishes.answer(outcomes, |bytes| out.push(bytes, 0));
            }
            ToConnection::Deliver { member, deliveries, clock } => self.deliver(member, deliveries, clock),
            ToConnection::Gap { member, topic, from, to } => self.gap(member, &topic, from, to),
            ToConnection::Answer(bytes) => self.out.push(bytes, 0),
        }
    }

    fn deliver(&mut self, member: MemberId, deliveries: Vec<Delivery>, clock: Instant) {
        let now = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Some(subscription) = self.subscriptions.get_mut(member) else {
            // It has left, and its group has the leases back. The empty message carries the bytes to where they are
            // released with those of the others.
            let unsent = deliveries.iter().map(|delivery| delivery.event.json.len()).sum();
            self.out.frames.push_back((Message::Pong(Bytes::new()), unsent));
            return;
        };
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

    /// Bytes have left: tells groups that stopped for them to go on.
    async fn released(&mut self, bytes: usize) {
        if bytes > 0 && self.handle.release(bytes) {
            for (id, subscription) in self.subscriptions.iter_mut() {
                if let Source::Group { group, .. } = &subscription.source {
                    let _ = group.send(ToGroup::Unblock(id)).await;
                }
            }
        }
    }

    fn gap(&mut self, member: MemberId, topic: &Topic, from: u64, to: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(member) {
            let frame = ServerFrame::Gap {
                topic: topic.as_str().into(),
                group: Text::from(subscription.group.as_str().to_owned()),
                from,
                to,
                reason: "the events are no longer retained".into(),
            };
            self.send(&frame);
        }
    }

    /// Takes note of a topic's growth, or of a new topic.
    async fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Grown(member) => self.waiting_live.push(member),
            Signal::New(state) => {
                for (id, subscription) in self.subscriptions.iter_mut() {
                    if let Source::Live(live) = &mut subscription.source
                        && live.target.matches(&state.topic)
                        && !live.has(&state)
                    {
                        // All of a topic that comes while its pattern is subscribed is new.
                        let link = state.listen(id, self.signals.clone());
                        live.add(Arc::clone(&state), link, 0);
                        self.waiting_live.push(id);
                    }
                }
            }
        }
    }

    /// Starts reads for ephemeral subscriptions, while there is room for what they bring.
    fn pump_live(&mut self) {
        if self.out.bytes >= LIVE_HIGH {
            return;
        }
        for id in std::mem::take(&mut self.waiting_live) {
            let Some(Subscription { paused: false, source: Source::Live(live), .. }) = self.subscriptions.get_mut(id)
            else {
                continue;
            };
            let Some(wanted) = live.next_read() else { continue };
            let state: Arc<TopicState> = live.state_of(&wanted);
            let store = Arc::clone(&self.gateway.store);
            self.reads.push(Box::pin(async move {
                let got = live::read(&*store, &state, wanted).await;
                if got.is_err() {
                    tokio::time::sleep(RETRY).await;
                }
                (id, got)
            }));
        }
    }

    fn read_done(&mut self, id: MemberId, got: Result<Got, StoreError>) {
        let Some(Subscription { source: Source::Live(live), .. }) = self.subscriptions.get_mut(id) else { return };
        match got {
            Ok(got) => {
                let step = live.got(got);
                self.step(id, step);
            }
            Err(error) => {
                tracing::warn!(%error, "read for a subscription failed");
                live.failed();
            }
        }
        self.waiting_live.push(id);
    }

    /// Sends what an ephemeral subscription has to send.
    fn step(&mut self, id: MemberId, step: Step) {
        if let Some((state, from, to)) = &step.gap {
            self.gap(id, &state.topic, *from, *to);
        }
        let Some(subscription) = self.subscriptions.get_mut(id) else { return };
        for event in &step.events {
            self.out.push(live_frame(&subscription.head, event), 0);
        }
        let Source::Live(live) = &mut subscription.source else { return };
        if step.live || live.announce() {
            let frame = ServerFrame::Live {
                topic: Text::from(subscription.target.as_str().to_owned()),
                group: Text::from(subscription.group.as_str().to_owned()),
            };
            self.send(&frame);
        }
    }

    fn send(&mut self, frame: &ServerFrame<'_>) {
        let mut bytes = Vec::with_capacity(128);
        frame.encode(&mut bytes);
        self.out.push(bytes, 0);
    }

    fn error(&mut self, code: ErrorCode, message: &str, corr: Option<&Text<'_>>) {
        self.send(&ServerFrame::error(code, message, corr.cloned()));
    }

    /// Leaves the groups, sends what is left and closes.
    async fn end(&mut self, end: End) {
        self.flush_settlements().await;
        for id in self.subscriptions.ids() {
            if let Some(Subscription { source: Source::Group { group, .. }, .. }) = self.subscriptions.remove(id) {
                let _ = group.send(ToGroup::Leave(id, None)).await;
            }
        }
        let Some(code) = end else { return };
        let frame = CloseFrame { code: code.code(), reason: code.reason().into() };
        self.out.frames.push_back((Message::Close(Some(frame)), 0));
        let mut left = 0;
        let written = poll_fn(|cx| self.out.poll_write(cx, &mut left));
        // A peer that does not read is not waited for.
        let _ = tokio::time::timeout(ENDING, written).await;
    }
}

/// An EVENT of an ephemeral subscription: nothing to acknowledge.
fn live_frame(head: &[u8], event: &Stored) -> Vec<u8> {
    let mut frame = Vec::with_capacity(head.len() + event.json.len() + 112);
    frame.extend_from_slice(head);
    frame.extend_from_slice(&event.json);
    encode_event_context(&mut frame, 1, 1, 0, None);
    frame
}

/// A name for a subscription, unique while the hub runs.
fn next_member() -> MemberId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
