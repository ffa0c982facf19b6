//! The shell around a group's [`Engine`]: one task per group that has members. It gives the engine its clock and carries
//! out what the engine asks for.
//!
//! It never waits for a consumer, and a consumer never waits for anything that waits for it: consumer → group → writer is
//! the only direction in which anybody waits.

mod patterns;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use prom_delivery::{Delivery, Engine, MemberId, Persist, Settled};
use prom_protocol::{ErrorCode, Group, Refusal, ServerFrame, StartFrom, SubscribeOptions, Text, Topic, TopicOrPattern};
use prom_store::{Cursor, CursorPut, Page, Store, StoreError, start, wall_clock};
use tokio::{sync::mpsc, time::Instant};

use super::{
    consumer::{ConsumerHandle, ToConsumer},
    context::Context,
    dead_letter::dead_letter,
    message::{Join, Remove, Settlement, ToGroup, Verdict},
    tally::Tally,
};
use crate::{
    flow::topics::{Link, ListenerKey, Signal, SignalSender, TopicState},
    quota::Positions,
};

/// Messages that may wait for a group.
pub(super) const QUEUE: usize = 1024;
/// Most events given to consumers between two looks at the queue.
const DELIVERIES_PER_PUMP: usize = 4096;
/// Bytes read from the store at once.
const READ_BYTES: usize = 1024 * 1024;
/// How long a group without members keeps its state in memory.
const LINGER: Duration = Duration::from_secs(30);
/// Cursors that are looked up at once for a pattern of many topics: a store may be a network away.
const CURSOR_LOOKUPS: usize = 32;
/// How long what is being stored may take before a removal is given up.
const REMOVAL: Duration = Duration::from_secs(5);
/// Wait before a failed read or store of a cursor is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The result of something the actor waits for beside its messages.
enum Done {
    Read(Life, Result<Page, StoreError>),
    Persist(Life, Box<Persist>, Result<(), StoreError>),
}

/// A track, and how often it was forgotten before: what is under way for it is of no use once it is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    track: usize,
    times: u64,
}

/// A topic that the group has a track of.
struct Followed {
    state: Arc<TopicState>,
    /// Signals its growth and its removal.
    link: Link,
    /// Of these removals the group knows.
    removals: u64,
}

/// A topic to be taken on: how often it was removed when its position was looked up, the position, and whether that is new.
type Found = (Arc<TopicState>, u64, (Cursor, bool));

pub(super) struct Actor {
    group: Group,
    context: Context,
    engine: Engine,
    consumers: HashMap<MemberId, ConsumerHandle>,
    /// Members that were revoked, until they say that they leave: their requests under way are to be answered.
    revoked: HashMap<MemberId, ConsumerHandle>,
    /// By track; none: it was forgotten.
    topics: Vec<Option<Followed>>,
    /// By track: how often it was forgotten.
    lives: Vec<u64>,
    signals: SignalSender,
    signalled: mpsc::UnboundedReceiver<Signal>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// OKs to send once the track's next cursor is stored, and those to send once the one being stored is. To the
    /// connection, whose member may have left the group by then.
    owed: Vec<(usize, ConsumerHandle, Box<str>)>,
    storing: Vec<(usize, ConsumerHandle, Box<str>)>,
    /// Patterns that new topics are signalled for.
    patterns: Vec<Pattern>,
    /// Topics of them could not be taken on for want of positions: when to try again.
    behind: Option<Instant>,
    outbound: HashMap<MemberId, Vec<Delivery>>,
    tally: Tally,
    started: Instant,
    /// See [`ToGroup::End`].
    dismissed: bool,
}

/// A pattern that new topics are signalled for.
struct Pattern {
    target: TopicOrPattern,
    /// Whose the positions in new topics are: of who subscribed to it last.
    payer: Option<Positions>,
}

impl Actor {
    pub(super) fn new(group: Group, context: Context) -> Self {
        let (signals, signalled) = mpsc::unbounded_channel();
        let tally = Tally::new(Arc::clone(&context.metrics));
        Self {
            group,
            context,
            // Lease numbers start at the wall clock in milliseconds times 2^22, so they are above those of an earlier actor
            // of this group, unless it gave more than 4 million leases a millisecond.
            engine: Engine::new(wall_clock() << 22, fastrand::u64(..)),
            consumers: HashMap::new(),
            revoked: HashMap::new(),
            topics: Vec::new(),
            lives: Vec::new(),
            signals,
            signalled,
            work: FuturesUnordered::new(),
            owed: Vec::new(),
            storing: Vec::new(),
            patterns: Vec::new(),
            behind: None,
            outbound: HashMap::new(),
            tally,
            started: Instant::now(),
            dismissed: false,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<ToGroup>) {
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
                () = tokio::time::sleep_until(self.behind.unwrap_or(idle_since)), if self.behind.is_some() => {
                    self.catch_up().await;
                }
                () = tokio::task::yield_now(), if more => {}
                () = tokio::time::sleep_until(idle_since + LINGER), if self.consumers.is_empty() && !over => over = true,
                // The hub is shutting down: nobody will come back.
                () = ending.cancelled(), if self.consumers.is_empty() && !over => over = true,
            }
            more = self.pump();
            if !self.consumers.is_empty() {
                idle_since = Instant::now();
                over = false;
                continue;
            }
            over |= self.dismissed;
            if over && self.engine.is_idle() && self.work.is_empty() && self.owed.is_empty() {
                // Closed only now that everything is stored: the next actor of this group starts from there. A member that was
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
                let Join { id, target, options, consumer, positions, reply } = *join;
                let joined = self.prepare(&target, &options, positions.as_ref()).await;
                if joined.is_ok() {
                    self.dismissed = false;
                    self.pays(&target, positions);
                    self.engine.join(id, target, options);
                    self.consumers.insert(id, consumer);
                }
                if let Err(Ok(())) = reply.send(joined) {
                    // The consumer is gone already.
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
            ToGroup::Members(topic, reply) => {
                let _ = reply.send(self.members(topic.as_ref()).len());
            }
            ToGroup::Remove(remove) => {
                let Remove { only, topics, idle, reply } = *remove;
                let busy = idle && !self.consumers.is_empty();
                let removed = if busy { Ok(false) } else { self.remove(only.as_ref(), topics).await.map(|()| true) };
                let _ = reply.send(removed);
            }
        }
    }

    /// The members that have to do with a topic, or all.
    fn members(&self, topic: Option<&Topic>) -> Vec<MemberId> {
        match topic {
            None => self.consumers.keys().copied().collect(),
            Some(topic) => {
                self.engine.track_of(topic).map_or(Vec::new(), |track| self.engine.members_of(track).to_vec())
            }
        }
    }

    /// Ends the memberships that have to do with a topic or all of them, forgets the positions, and removes them.
    async fn remove(&mut self, only: Option<&Topic>, mut topics: Vec<Topic>) -> Result<(), StoreError> {
        self.revoke(&self.members(only), "the group's position was removed");
        // What is being stored now would be there again.
        let settled = async {
            while let Some(done) = self.work.next().await {
                self.done(done);
            }
        };
        if tokio::time::timeout(REMOVAL, settled).await.is_err() {
            return Err(StoreError::Unavailable("the group's position is still being stored".into()));
        }
        for track in 0..self.topics.len() {
            let Some(followed) = &self.topics[track] else { continue };
            let topic = &followed.state.topic;
            if only.is_none_or(|only| only == topic) {
                topics.push(topic.clone());
                self.forget(track, "the group's position was removed");
            }
        }
        if only.is_none() {
            for pattern in self.patterns.drain(..) {
                self.context.topics.unfollow(&pattern.target, &self.signals);
            }
        }
        topics.sort_unstable();
        topics.dedup();
        let cursors = topics.into_iter().map(|topic| (topic, self.group.clone())).collect();
        self.context.writer.remove_cursors(cursors).await
    }

    /// Ends memberships.
    fn revoke(&mut self, members: &[MemberId], why: &'static str) {
        for member in members {
            if let Some(consumer) = self.consumers.get(member).cloned() {
                self.leave(*member);
                consumer.send(ToConsumer::Revoked { member: *member, why });
                self.revoked.insert(*member, consumer);
            }
        }
    }

    /// Forgets a topic with all that is under way for it.
    fn forget(&mut self, track: usize, why: &'static str) {
        let owed = self.owed.extract_if(.., |(own, ..)| *own == track);
        let owed: Vec<_> = owed.chain(self.storing.extract_if(.., |(own, ..)| *own == track)).collect();
        for (_, consumer, corr) in owed {
            consumer.reply(&ServerFrame::error(ErrorCode::AckFailed, why, Some(Text::from(&*corr))));
        }
        self.engine.forget(track);
        self.topics[track] = None;
        self.lives[track] += 1;
    }

    /// A topic was removed: positions in it mean nothing any more.
    fn removed(&mut self, track: usize) {
        const WHY: &str = "the topic was removed";
        let members = self.engine.members_of(track).to_vec();
        self.revoke(&members, WHY);
        self.forget(track, WHY);
    }

    fn life(&self, track: usize) -> Life {
        Life { track, times: self.lives[track] }
    }

    fn leave(&mut self, id: MemberId) {
        self.engine.leave(id, self.now());
        self.consumers.remove(&id);
        self.revoked.remove(&id);
        self.outbound.remove(&id);
    }

    /// Makes sure the engine has a track for each topic that `target` means now, and that each has a stored cursor.
    async fn prepare(
        &mut self,
        target: &TopicOrPattern,
        options: &SubscribeOptions,
        payer: Option<&Positions>,
    ) -> Result<(), Refusal> {
        if options.from == StartFrom::Snapshot {
            return Err(Refusal::bad_frame("opts.from \"snapshot\" is for subscriptions without a group"));
        }
        self.follow(target, payer);
        let topics = self.context.topics.follow(target, &self.signals);
        let new: Vec<_> = topics.into_iter().filter(|state| self.engine.track_of(&state.topic).is_none()).collect();
        let cursors = stream::iter(new).map(|state| {
            let (store, group, from) = (Arc::clone(&self.context.store), self.group.clone(), options.from.clone());
            async move {
                let removals = state.removals();
                let cursor = stored_or_new_cursor(&*store, &group, &state.topic, &from).await?;
                Ok::<_, Refusal>((state, removals, cursor))
            }
        });
        let missing = cursors.buffered(CURSOR_LOOKUPS).try_collect().await?;
        self.adopt(missing, payer).await
    }

    /// Stores the cursors that are new, so that the group exists from now on whatever happens, and takes them all on.
    async fn adopt(&mut self, new: Vec<Found>, payer: Option<&Positions>) -> Result<(), Refusal> {
        let puts: Vec<CursorPut> = new
            .iter()
            .filter(|(.., (_, is_new))| *is_new)
            .map(|(state, _, (cursor, _))| CursorPut {
                topic: state.topic.clone(),
                group: self.group.clone(),
                cursor: cursor.clone(),
            })
            .collect();
        if !puts.is_empty() {
            let count = puts.len();
            if let Some(payer) = payer {
                payer.make(&self.group, count, &*self.context.store).await?;
            }
            if let Err(error) = self.context.writer.commit(Vec::new(), puts).await {
                if let Some(payer) = payer {
                    payer.unmake(&self.group, count);
                }
                return Err(Refusal::from(&error));
            }
        }
        for (state, removals, (cursor, _)) in new {
            let index = self.engine.add_topic(state.topic.clone(), cursor, state.tail());
            if index == self.topics.len() {
                self.tally.add_topic(&state.topic, &self.group);
                self.topics.push(None);
                self.lives.push(0);
            }
            let link = state.listen(ListenerKey { listener: 0, topic: index }, self.signals.clone());
            self.engine.tail(index, state.tail());
            let gone = state.removals() != removals;
            self.topics[index] = Some(Followed { state, link, removals });
            if gone {
                self.removed(index);
                return Err(Refusal::from(&StoreError::Unavailable("the topic was removed meanwhile".into())));
            }
        }
        Ok(())
    }

    async fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Grown(ListenerKey { topic, .. }) => {
                let Some(Some(followed)) = self.topics.get(topic) else { return };
                followed.link.rearm();
                if followed.state.removals() != followed.removals {
                    return self.removed(topic);
                }
                self.engine.tail(topic, followed.state.tail());
            }
            Signal::New(state) => self.appeared(state).await,
        }
    }

    fn settle(&mut self, member: MemberId, settlement: Settlement, now: u64) {
        let Settlement { id, lease, verdict, corr } = settlement;
        let extend = matches!(verdict, Verdict::Extend(_));
        if let Some(consumer) = self.revoked.get(&member) {
            let corr = corr.as_deref().map(Text::from);
            return consumer.reply(&ServerFrame::error(ErrorCode::NotSubscribed, "the subscription was revoked", corr));
        }
        let acked = matches!(verdict, Verdict::Ack);
        let settled = match verdict {
            Verdict::Ack => self.engine.ack(member, &id, lease),
            Verdict::Nack(nack) => self.engine.nack(member, &id, lease, nack, now),
            Verdict::Extend(extend_ms) => self.engine.extend(member, &id, lease, extend_ms, now),
        };
        let corr_text = || corr.as_deref().map(Text::from);
        let answer = match settled {
            // OK to a settle means it is stored.
            Settled::Done(track) if !extend => {
                if acked {
                    self.tally.acked(track);
                } else {
                    self.tally.nacked(track);
                }
                if let (Some(corr), Some(consumer)) = (corr, self.consumers.get(&member)) {
                    self.owed.push((track, consumer.clone(), corr));
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
        if let Some(consumer) = self.consumers.get(&member) {
            consumer.reply(&answer);
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Read(life, _) | Done::Persist(life, ..) if self.life(life.track) != life => {}
            Done::Read(Life { track, .. }, Ok(page)) => {
                for (from, to) in self.engine.loaded(track, page) {
                    let topic = self.engine.topic(track).clone();
                    tracing::warn!(%topic, group = %self.group, from, to, "events were gone before the group had them");
                    for member in self.engine.members_of(track) {
                        if let Some(consumer) = self.consumers.get(member) {
                            consumer.send(ToConsumer::Gap { member: *member, topic: topic.clone(), from, to });
                        }
                    }
                }
            }
            Done::Read(Life { track, .. }, Err(error)) => {
                tracing::warn!(group = %self.group, %error, "read failed");
                self.engine.read_failed(track);
            }
            Done::Persist(_, persist, Ok(())) => {
                let track = persist.track;
                self.engine.persisted(track);
                self.answer_stored(track, None);
            }
            // What is tried again might undo what another hub has stored since.
            Done::Persist(_, persist, Err(error)) if self.dismissed && self.consumers.is_empty() => {
                tracing::warn!(group = %self.group, %error, "position not stored");
                self.answer_stored(persist.track, Some(&error));
                self.engine.persisted(persist.track);
            }
            Done::Persist(_, persist, Err(error)) => {
                tracing::warn!(group = %self.group, %error, "position not stored, trying again");
                self.answer_stored(persist.track, Some(&error));
                self.persist(*persist, RETRY);
            }
        }
    }

    /// Answers the settles whose cursor has been stored, or could not be.
    fn answer_stored(&mut self, track: usize, error: Option<&StoreError>) {
        for (_, consumer, corr) in self.storing.extract_if(.., |(owed, ..)| *owed == track) {
            let corr = Some(Text::from(&*corr));
            let answer = match error {
                None => ServerFrame::ok(corr),
                Some(error) => ServerFrame::error(ErrorCode::AckFailed, format!("not stored yet: {error}"), corr),
            };
            consumer.reply(&answer);
        }
    }

    /// Does what the engine wants done now; `true` when there is more to do.
    fn pump(&mut self) -> bool {
        let now = self.now();
        self.engine.expire(now);
        let mut more = true;
        for _ in 0..DELIVERIES_PER_PUMP {
            let Some(delivery) = self.engine.next_delivery(now) else {
                more = false;
                break;
            };
            let member = delivery.member;
            self.tally.delivered(delivery.track, delivery.attempt);
            if let Some(consumer) = self.consumers.get(&member)
                && !consumer.reserve(delivery.event.json.len())
            {
                self.engine.block(member, true);
            }
            self.outbound.entry(member).or_default().push(delivery);
        }
        for (member, deliveries) in self.outbound.drain() {
            if let Some(consumer) = self.consumers.get(&member) {
                consumer.send(ToConsumer::Deliver { member, deliveries, clock: self.started });
            }
        }
        self.tally.flush(self.engine.leases());
        while let Some(read) = self.engine.next_read() {
            let (store, life) = (Arc::clone(&self.context.store), self.life(read.track));
            self.work.push(Box::pin(async move {
                let page = store.read(&read.topic, read.after, read.limit, READ_BYTES).await;
                if page.is_err() {
                    tokio::time::sleep(RETRY).await;
                }
                Done::Read(life, page)
            }));
        }
        while let Some(persist) = self.engine.next_persist() {
            self.storing.extend(self.owed.extract_if(.., |(track, ..)| *track == persist.track));
            self.persist(persist, Duration::ZERO);
        }
        more
    }

    /// Stores a cursor and the dead letters it settles in one commit.
    fn persist(&mut self, persist: Persist, after: Duration) {
        let (writer, life) = (self.context.writer.clone(), self.life(persist.track));
        let put = CursorPut { topic: persist.topic.clone(), group: self.group.clone(), cursor: persist.cursor.clone() };
        let appends = persist.dead.iter().filter_map(|dead| dead_letter(&persist.topic, &self.group, dead)).collect();
        self.work.push(Box::pin(async move {
            tokio::time::sleep(after).await;
            let result = writer.commit(appends, vec![put]).await;
            let result = result.and_then(|outcomes| match outcomes.into_iter().find_map(Result::err) {
                Some(refused) => Err(StoreError::Unavailable(refused.message().to_owned())),
                None => Ok(()),
            });
            Done::Persist(life, Box::new(persist), result)
        }));
    }
}

/// The stored cursor of a group in a topic, or one where `from` says it starts; whether it is new.
async fn stored_or_new_cursor(
    store: &dyn Store,
    group: &Group,
    topic: &Topic,
    from: &StartFrom,
) -> Result<(Cursor, bool), Refusal> {
    let stored = store.cursor(topic, group).await.map_err(|error| Refusal::from(&error))?;
    if let Some(cursor) = stored.filter(|cursor| !cursor.is_retired()) {
        return Ok((cursor, false));
    }
    let start = start(store, topic, from).await?;
    let cursor = Cursor { epoch: start.epoch, floor: start.after, delivered: start.after, ..Cursor::default() };
    Ok((cursor, true))
}
