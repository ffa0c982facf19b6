//! The shell around a group's [`Engine`]: one task per group that has members.
//!
//! It never waits for a connection, and a connection never waits for anything that waits for it: connection → group →
//! writer is the only direction in which anybody waits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use prom_protocol::{ErrorCode, Group, ServerFrame, StartFrom, SubscribeOptions, Text, Topic, TopicOrPattern};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    dead_letter::dead_letter,
    engine::{Delivery, Engine, MemberId, Nack, Persist, Settled},
    tally::Tally,
};
use crate::{
    gateway::{ConnectionHandle, ToConnection},
    store::{Cursor, CursorPut, Page, Store, StoreError},
    topics::{Link, Signal, SignalSender, TopicState, Topics},
    writer::Writer,
};

/// Messages that may wait for a group.
const QUEUE: usize = 1024;
/// Most events given to connections between two looks at the queue.
const ROUND: usize = 4096;
/// Bytes read from the store at once.
const READ_BYTES: usize = 1024 * 1024;
/// How long a group without members keeps its state in memory.
const LINGER: Duration = Duration::from_secs(30);
/// Patterns a group may follow before it looks which of them are still wanted.
const PATTERNS: usize = 64;
/// Positions that are looked up at once for a pattern of many topics: a store may be a network away.
const POSITIONS: usize = 32;
/// Wait before a failed read or store of a position is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Why a SUBSCRIBE was refused.
#[derive(Debug)]
pub struct JoinError {
    /// The code to answer with.
    pub code: ErrorCode,
    /// The message to answer with.
    pub message: String,
}

/// What a member asks for. `corr` is that of the frame.
#[derive(Debug)]
pub struct Settlement {
    /// The event.
    pub id: Arc<str>,
    /// The lease, if the frame had one.
    pub lease: Option<u64>,
    /// What to do with it.
    pub verdict: Verdict,
    /// That of the frame.
    pub corr: Option<Box<str>>,
}

/// What to do with a delivery.
#[derive(Debug)]
pub enum Verdict {
    /// Settle it.
    Ack,
    /// Give it back.
    Nack(Nack),
    /// Extend its lease by this many milliseconds from now.
    Extend(u64),
}

/// A message to a group.
#[derive(Debug)]
pub enum ToGroup {
    /// A member joins.
    Join(Box<Join>),
    /// A member leaves; the answer comes when it is out.
    Leave(MemberId, Option<oneshot::Sender<()>>),
    /// A member leaves, and another hub may have the group from now on: without other members the group ends at once,
    /// and stores its position if that works the first time.
    End(MemberId),
    /// A member settles deliveries.
    Settle(MemberId, Vec<Settlement>),
    /// A member stops or starts taking events; the answer comes when it does.
    Pause(MemberId, bool, oneshot::Sender<()>),
    /// A member's connection has room again.
    Unblock(MemberId),
}

/// A member that joins.
#[derive(Debug)]
pub struct Join {
    /// The member.
    pub id: MemberId,
    /// What it subscribes to.
    pub target: TopicOrPattern,
    /// How.
    pub options: SubscribeOptions,
    /// Where its events go.
    pub connection: ConnectionHandle,
    /// Answered when the group's position is stored and the member takes part.
    pub reply: oneshot::Sender<Result<(), JoinError>>,
}

/// What every group needs of the hub.
#[derive(Debug, Clone)]
pub struct Context {
    /// The log.
    pub store: Arc<dyn Store>,
    /// The topics.
    pub topics: Arc<Topics>,
    /// The way to the log.
    pub writer: Writer,
    /// Owner of the groups' tasks.
    pub tasks: TaskTracker,
    /// The hub has begun to end.
    pub ending: CancellationToken,
}

/// The groups of a hub that have members.
#[derive(Debug, Clone)]
pub struct Groups {
    context: Context,
    running: Arc<Mutex<HashMap<Group, mpsc::Sender<ToGroup>>>>,
}

impl Groups {
    /// None yet.
    pub fn new(context: Context) -> Self {
        Self { context, running: Arc::default() }
    }

    /// The way to a group, which is started if it does not run. The group may end right after; then a message to it
    /// is lost with its channel, and the caller opens it again.
    pub fn open(&self, group: &Group) -> mpsc::Sender<ToGroup> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = running.get(group)
            && !sender.is_closed()
        {
            return sender.clone();
        }
        let (sender, messages) = mpsc::channel(QUEUE);
        running.insert(group.clone(), sender.clone());
        let actor = Actor::new(group.clone(), self.context.clone());
        let running = Arc::clone(&self.running);
        let group = group.clone();
        self.context.tasks.spawn(async move {
            actor.run(messages).await;
            // Another actor of the same group may have been started since this one closed its queue.
            let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
            if running.get(&group).is_some_and(mpsc::Sender::is_closed) {
                running.remove(&group);
            }
        });
        sender
    }
}

/// The result of something the actor waits for beside its messages.
enum Done {
    Read(usize, Result<Page, StoreError>),
    Persist(Box<Persist>, Result<(), StoreError>),
}

struct Actor {
    group: Group,
    context: Context,
    engine: Engine,
    connections: HashMap<MemberId, ConnectionHandle>,
    /// By log: its topic's state, and the link that signals its growth.
    topics: Vec<(Arc<TopicState>, Link)>,
    signals: SignalSender,
    signalled: mpsc::UnboundedReceiver<Signal>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Answers owed once the log's next position is stored, and those owed once the one being stored is. To the
    /// connection, whose member may have left the group by then.
    owed: Vec<(usize, ConnectionHandle, Box<str>)>,
    storing: Vec<(usize, ConnectionHandle, Box<str>)>,
    /// Patterns that new topics are signalled for.
    patterns: Vec<TopicOrPattern>,
    outbound: HashMap<MemberId, Vec<Delivery>>,
    tally: Tally,
    started: Instant,
    /// See [`ToGroup::End`].
    dismissed: bool,
}

impl Actor {
    fn new(group: Group, context: Context) -> Self {
        let (signals, signalled) = mpsc::unbounded_channel();
        let tally = Tally::new(Arc::clone(context.topics.metrics()));
        Self {
            group,
            context,
            // Four million tokens a millisecond: later than any of an earlier actor of this group.
            engine: Engine::new(crate::writer::wall_clock() << 22, fastrand::u64(..)),
            connections: HashMap::new(),
            topics: Vec::new(),
            signals,
            signalled,
            work: FuturesUnordered::new(),
            owed: Vec::new(),
            storing: Vec::new(),
            patterns: Vec::new(),
            outbound: HashMap::new(),
            tally,
            started: Instant::now(),
            dismissed: false,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn run(mut self, mut messages: mpsc::Receiver<ToGroup>) {
        let ending = self.context.ending.clone();
        let mut idle_since = Instant::now();
        let mut over = false;
        let mut more = false;
        loop {
            let timer = self
                .engine
                .deadline()
                .map_or(Duration::from_secs(3600), |due| Duration::from_millis(due.saturating_sub(self.now()).max(1)));
            tokio::select! {
                Some(message) = messages.recv() => {
                    self.handle(message).await;
                    for _ in 0..QUEUE {
                        let Ok(message) = messages.try_recv() else { break };
                        self.handle(message).await;
                    }
                }
                Some(signal) = self.signalled.recv() => self.signal(signal).await,
                Some(done) = self.work.next() => self.done(done),
                () = tokio::time::sleep(timer) => {}
                () = tokio::task::yield_now(), if more => {}
                () = tokio::time::sleep_until(idle_since + LINGER), if self.connections.is_empty() && !over => over = true,
                // The hub is shutting down: nobody will come back.
                () = ending.cancelled(), if self.connections.is_empty() && !over => over = true,
            }
            more = self.pump();
            if !self.connections.is_empty() {
                idle_since = Instant::now();
                over = false;
                continue;
            }
            over |= self.dismissed;
            if over && self.engine.is_idle() && self.work.is_empty() && self.owed.is_empty() {
                // Closed only now that everything is stored: whoever comes next starts from there. A member that was
                // about to join finds its request dropped, and opens the group again.
                messages.close();
                tracing::debug!(group = %self.group, "group has no members left");
                return;
            }
        }
    }

    async fn handle(&mut self, message: ToGroup) {
        let now = self.now();
        match message {
            ToGroup::Join(join) => {
                let Join { id, target, options, connection, reply } = *join;
                let joined = self.prepare(&target, &options).await;
                if joined.is_ok() {
                    self.dismissed = false;
                    self.engine.join(id, target, options);
                    self.connections.insert(id, connection);
                }
                if let Err(Ok(())) = reply.send(joined) {
                    // The connection is gone already.
                    self.leave(id);
                }
            }
            ToGroup::Leave(id, reply) => {
                self.leave(id);
                if let Some(reply) = reply {
                    let _ = reply.send(());
                }
            }
            ToGroup::End(id) => {
                self.leave(id);
                self.dismissed = true;
            }
            ToGroup::Settle(member, settlements) => {
                for settlement in settlements {
                    self.settle(member, settlement, now);
                }
            }
            ToGroup::Pause(id, paused, reply) => {
                self.engine.pause(id, paused);
                let _ = reply.send(());
            }
            ToGroup::Unblock(id) => self.engine.block(id, false),
        }
    }

    fn leave(&mut self, id: MemberId) {
        self.engine.leave(id, self.now());
        self.connections.remove(&id);
        self.outbound.remove(&id);
    }

    /// Makes sure the engine has the logs `target` means, with a stored position each.
    async fn prepare(&mut self, target: &TopicOrPattern, options: &SubscribeOptions) -> Result<(), JoinError> {
        if options.from == StartFrom::Snapshot {
            return Err(JoinError {
                code: ErrorCode::BadFrame,
                message: "opts.from \"snapshot\" is for subscriptions without a group".into(),
            });
        }
        self.follow(target);
        let topics = self.context.topics.follow(target, &self.signals);
        let new: Vec<_> = topics.into_iter().filter(|state| self.engine.log_of(&state.topic).is_none()).collect();
        let positions = stream::iter(new).map(|state| {
            let (store, group, from) = (Arc::clone(&self.context.store), self.group.clone(), options.from.clone());
            async move {
                let cursor = position(&*store, &group, &state.topic, &from).await?;
                Ok::<_, JoinError>((state, cursor))
            }
        });
        let missing = positions.buffered(POSITIONS).try_collect().await?;
        self.adopt(missing)
            .await
            .map_err(|error| JoinError { code: ErrorCode::StoreUnavailable, message: error.told() })
    }

    /// Forgets patterns that members had who left long ago. Until then new topics are taken on for them too, so that
    /// a member that comes back has missed none.
    fn follow(&mut self, target: &TopicOrPattern) {
        if matches!(target, TopicOrPattern::Topic(_)) || self.patterns.contains(target) {
            return;
        }
        if self.patterns.len() >= PATTERNS {
            let (topics, signals, engine) = (&self.context.topics, &self.signals, &self.engine);
            self.patterns.retain(|own| {
                let wanted = engine.has_member_of(own);
                if !wanted {
                    topics.unfollow(own, signals);
                }
                wanted
            });
        }
        self.patterns.push(target.clone());
    }

    /// Stores the positions that are new, so that the group exists from now on whatever happens, and takes them all on.
    async fn adopt(&mut self, logs: Vec<(Arc<TopicState>, (Cursor, bool))>) -> Result<(), StoreError> {
        let puts: Vec<CursorPut> = logs
            .iter()
            .filter(|(_, (_, new))| *new)
            .map(|(state, (cursor, _))| CursorPut {
                topic: state.topic.clone(),
                group: self.group.clone(),
                cursor: cursor.clone(),
            })
            .collect();
        if !puts.is_empty() {
            self.context.writer.commit(Vec::new(), puts).await?;
        }
        for (state, (cursor, _)) in logs {
            let index = self.engine.add_log(state.topic.clone(), cursor, state.tail());
            debug_assert_eq!(index, self.topics.len());
            self.tally.add_log(&state.topic, &self.group);
            let link = state.listen(index as u64, self.signals.clone());
            self.engine.tail(index, state.tail());
            self.topics.push((state, link));
        }
        Ok(())
    }

    async fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Grown(token) => {
                if let Some((state, link)) = usize::try_from(token).ok().and_then(|index| self.topics.get(index)) {
                    link.rearm();
                    let tail = state.tail();
                    self.engine.tail(token as usize, tail);
                }
            }
            Signal::New(state) => {
                if self.engine.log_of(&state.topic).is_some() {
                    return;
                }
                // A topic that comes while a pattern is subscribed is received from its start.
                let adopted =
                    match position(&*self.context.store, &self.group, &state.topic, &StartFrom::Earliest).await {
                        Ok(cursor) => {
                            self.adopt(vec![(Arc::clone(&state), cursor)]).await.map_err(|error| error.to_string())
                        }
                        Err(error) => Err(error.message),
                    };
                if let Err(error) = adopted {
                    tracing::warn!(topic = %state.topic, group = %self.group, error, "cannot take on a new topic yet");
                    let signals = self.signals.clone();
                    self.context.tasks.spawn(async move {
                        tokio::time::sleep(RETRY).await;
                        let _ = signals.send(Signal::New(state));
                    });
                }
            }
        }
    }

    fn settle(&mut self, member: MemberId, settlement: Settlement, now: u64) {
        let Settlement { id, lease, verdict, corr } = settlement;
        let extend = matches!(verdict, Verdict::Extend(_));
        let acked = matches!(verdict, Verdict::Ack);
        let settled = match verdict {
            Verdict::Ack => self.engine.ack(member, &id, lease),
            Verdict::Nack(nack) => self.engine.nack(member, &id, lease, nack, now),
            Verdict::Extend(extend_ms) => self.engine.extend(member, &id, lease, extend_ms, now),
        };
        let corr_text = || corr.as_deref().map(Text::from);
        let answer = match settled {
            // OK to a settle means it is stored.
            Settled::Done(log) if !extend => {
                if acked {
                    self.tally.acked(log);
                } else {
                    self.tally.nacked(log);
                }
                if let (Some(corr), Some(connection)) = (corr, self.connections.get(&member)) {
                    self.owed.push((log, connection.clone(), corr));
                }
                return;
            }
            Settled::Done(_) => ServerFrame::ok(corr_text()),
            Settled::Stale => {
                ServerFrame::error(ErrorCode::StaleLease, "the lease has run out or is not yours", corr_text())
            }
            Settled::Unknown if extend => {
                ServerFrame::error(ErrorCode::UnknownId, "no unsettled event of that id is leased to you", corr_text())
            }
            // Settled before, or never delivered here: either way nothing is left to do.
            Settled::Unknown if corr.is_some() => ServerFrame::ok(corr_text()),
            Settled::Unknown => return,
        };
        if let Some(connection) = self.connections.get(&member) {
            connection.answer(&answer);
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Read(log, Ok(page)) => {
                for (from, to) in self.engine.loaded(log, page) {
                    let topic = self.engine.topic(log).clone();
                    tracing::warn!(%topic, group = %self.group, from, to, "events were gone before the group had them");
                    for member in self.engine.members_of(log) {
                        if let Some(connection) = self.connections.get(member) {
                            connection.send(ToConnection::Gap { member: *member, topic: topic.clone(), from, to });
                        }
                    }
                }
            }
            Done::Read(log, Err(error)) => {
                tracing::warn!(group = %self.group, %error, "read failed");
                self.engine.read_failed(log);
            }
            Done::Persist(persist, Ok(())) => {
                let log = persist.log;
                self.engine.persisted(log);
                self.answer_stored(log, None);
            }
            // What is tried again might undo what another hub has stored since.
            Done::Persist(persist, Err(error)) if self.dismissed && self.connections.is_empty() => {
                tracing::warn!(group = %self.group, %error, "position not stored");
                self.answer_stored(persist.log, Some(&error));
                self.engine.persisted(persist.log);
            }
            Done::Persist(persist, Err(error)) => {
                tracing::warn!(group = %self.group, %error, "position not stored, trying again");
                self.answer_stored(persist.log, Some(&error));
                self.persist(*persist, RETRY);
            }
        }
    }

    /// Answers the settles whose position has been stored, or could not be.
    fn answer_stored(&mut self, log: usize, error: Option<&StoreError>) {
        for (_, connection, corr) in self.storing.extract_if(.., |(owed, ..)| *owed == log) {
            let corr = Some(Text::from(&*corr));
            let answer = match error {
                None => ServerFrame::ok(corr),
                Some(error) => ServerFrame::error(ErrorCode::AckFailed, format!("not stored yet: {error}"), corr),
            };
            connection.answer(&answer);
        }
    }

    /// Does what the engine wants done now; answers whether there is more.
    fn pump(&mut self) -> bool {
        let now = self.now();
        self.engine.expire(now);
        let mut more = true;
        for _ in 0..ROUND {
            let Some(delivery) = self.engine.next_delivery(now) else {
                more = false;
                break;
            };
            let member = delivery.member;
            self.tally.delivered(delivery.log, delivery.attempt);
            if let Some(connection) = self.connections.get(&member)
                && !connection.reserve(delivery.event.json.len())
            {
                self.engine.block(member, true);
            }
            self.outbound.entry(member).or_default().push(delivery);
        }
        for (member, deliveries) in self.outbound.drain() {
            if let Some(connection) = self.connections.get(&member) {
                connection.send(ToConnection::Deliver { member, deliveries, clock: self.started });
            }
        }
        self.tally.flush(self.engine.leases());
        while let Some(read) = self.engine.next_read() {
            let store = Arc::clone(&self.context.store);
            self.work.push(Box::pin(async move {
                let page = store.read(&read.topic, read.after, read.limit, READ_BYTES).await;
                if page.is_err() {
                    tokio::time::sleep(RETRY).await;
                }
                Done::Read(read.log, page)
            }));
        }
        while let Some(persist) = self.engine.next_persist() {
            self.storing.extend(self.owed.extract_if(.., |(log, ..)| *log == persist.log));
            self.persist(persist, Duration::ZERO);
        }
        more
    }

    /// Stores a position and its dead letters in one commit.
    fn persist(&mut self, persist: Persist, after: Duration) {
        let writer = self.context.writer.clone();
        let put = CursorPut { topic: persist.topic.clone(), group: self.group.clone(), cursor: persist.cursor.clone() };
        let appends = persist.dead.iter().filter_map(|dead| dead_letter(&persist.topic, &self.group, dead)).collect();
        self.work.push(Box::pin(async move {
            tokio::time::sleep(after).await;
            let result = writer.commit(appends, vec![put]).await;
            let result = result.and_then(|outcomes| match outcomes.into_iter().find_map(Result::err) {
                Some(refused) => Err(StoreError::Unavailable(refused.message)),
                None => Ok(()),
            });
            Done::Persist(Box::new(persist), result)
        }));
    }
}

/// The stored position of a group in a topic, or where `from` says it starts; whether it is new.
async fn position(
    store: &dyn Store,
    group: &Group,
    topic: &Topic,
    from: &StartFrom,
) -> Result<(Cursor, bool), JoinError> {
    if let Some(cursor) = store.cursor(topic, group).await? {
        return Ok((cursor, false));
    }
    let gone = |message: String| JoinError { code: ErrorCode::PositionGone, message };
    let tail = store.tail(topic).await?;
    let (first, last) = tail.map_or((1, 0), |tail| (tail.first, tail.seq));
    let floor = match from {
        StartFrom::Latest | StartFrom::Snapshot => last,
        StartFrom::Earliest => first - 1,
        StartFrom::Ts(ts) => store.seq_before_ts(topic, *ts).await?,
        StartFrom::AfterId(id) => {
            store.seq_of(topic, id).await?.ok_or_else(|| gone("opts.afterId is not in the log".into()))?
        }
        StartFrom::AfterSeq(seq) if *seq > last => {
            return Err(gone(format!("opts.afterSeq is after the log's end, {last}")));
        }
        StartFrom::AfterSeq(seq) => *seq,
    };
    Ok((Cursor { epoch: tail.map_or(0, |tail| tail.epoch), floor, delivered: floor, ..Cursor::default() }, true))
}

impl From<StoreError> for JoinError {
    fn from(error: StoreError) -> Self {
        Self { code: ErrorCode::StoreUnavailable, message: error.told() }
    }
}
