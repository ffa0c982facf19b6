//! The process projector: heartbeats in, the state of each process out.
//!
//! A member of the durable group `$process-projector` on `heartbeat.received`, like any client, but that no client can
//! join it. Each heartbeat becomes
//! the newest event of its process on `process.state`; a process that has not beaten for 15 seconds is published once
//! more as stale. What is known of the processes is the log itself: it is read back at start.
//!
//! Of hubs that share a store one projects for all: the one that holds the lease. It gives the lease back when its
//! cursor is stored; another goes on from there.

use std::{collections::HashMap, sync::Arc, time::Duration};

use prom_delivery::{Delivery, MemberId, Nack};
use prom_protocol::{
    Event, EventOptions, Group, Heartbeat, ProcessState, ProcessStatus, StartFrom, SubscribeOptions, Text, Topic,
    TopicOrPattern, limits, topics,
};
use prom_store::{Append, Cursor, CursorPut, Store, StoreError, Stored, wall_clock};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::lease::Lease;
use crate::{
    flow::writer::Writer,
    groups::{ConsumerHandle, Groups, Join, Settlement, ToConsumer, ToGroup, Verdict},
};

/// A process that has not beaten for this long is stale, in milliseconds.
const STALE_AFTER: u64 = 15_000;
/// How often that is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Keys read at once when the state is read back.
const PAGE: usize = 1_000;
/// Bytes of states read back at once.
const PAGE_BYTES: usize = 1024 * 1024;
/// First wait before a failed try is repeated; doubles with each.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest wait before a failed try is repeated.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long the group may take to store its cursor before the lease is given back all the same.
const STORED: Duration = Duration::from_secs(5);
/// How long a group that was lost may take to end: as long as a commit that was under way. One that has members on this
/// hub goes on.
const ENDED: Duration = Duration::from_secs(30);
/// The hub's own group. It is also the name under which states are published, which no token's `sub` may have.
const GROUP: &str = "$process-projector";
/// What it was called when clients could join it.
const FORMER_GROUP: &str = "process-projector";
/// The projector's subscription; connections count theirs from 1.
const MEMBER: MemberId = 0;

/// The projector of one hub.
#[derive(Debug)]
pub(crate) struct Projector {
    store: Arc<dyn Store>,
    writer: Writer,
    groups: Groups,
    /// The way to the group, once joined.
    joined: Option<mpsc::Sender<ToGroup>>,
    heartbeats: Topic,
    states: Topic,
    group: Group,
    /// What is alive, by key: the state that was published last.
    alive: HashMap<String, ProcessState>,
}

impl Projector {
    /// A projector that has not started.
    pub(crate) fn new(store: Arc<dyn Store>, writer: Writer, groups: Groups) -> Self {
        Self {
            store,
            writer,
            groups,
            joined: None,
            heartbeats: Topic::from_static(topics::HEARTBEAT),
            states: Topic::from_static(topics::STATE),
            group: Group::from_static(GROUP),
            alive: HashMap::new(),
        }
    }

    /// Projects whenever this hub is the one to do it, until the hub ends.
    pub(crate) async fn run(mut self, ending: CancellationToken) {
        let lease = Lease::new(Arc::clone(&self.store), "projector");
        while !ending.is_cancelled() {
            let until = tokio::select! {
                () = ending.cancelled() => break,
                until = lease.taken() => until,
            };
            tracing::info!("this hub projects heartbeats");
            let lost = tokio::select! {
                biased;
                () = lease.lost(until) => true,
                () = self.work(&ending) => false,
            };
            if lost {
                tracing::warn!("another hub may project heartbeats now");
                tokio::select! {
                    () = ending.cancelled() => {}
                    () = self.lose() => {}
                }
            }
        }
        lease.release().await;
    }

    /// Leaves the group to another hub. Whatever is known of it here is not to be used again.
    async fn lose(&mut self) {
        let Some(group) = self.joined.take() else { return };
        let ended = async {
            let _ = group.send(ToGroup::End(MEMBER)).await;
            group.closed().await;
        };
        if timeout(ENDED, ended).await.is_err() {
            tracing::warn!("the projector's group goes on without it");
        }
    }

    /// Projects until the hub ends, and then waits until the cursor is stored. A store that is away is waited for.
    async fn work(&mut self, ending: &CancellationToken) {
        let mut wait = RETRY_MIN;
        while !ending.is_cancelled() {
            let started = Instant::now();
            if let Err(error) = self.project(ending).await {
                tracing::warn!(%error, "process projector waits for the store");
                if started.elapsed() > RETRY_MAX {
                    wait = RETRY_MIN;
                }
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = ending.cancelled() => {}
                }
                wait = (wait * 2).min(RETRY_MAX);
            }
        }
        if let Some(group) = self.joined.take()
            && timeout(STORED, group.closed()).await.is_err()
        {
            tracing::warn!("the projector's position may not be stored");
        }
    }

    async fn project(&mut self, ending: &CancellationToken) -> Result<(), StoreError> {
        self.take_over().await?;
        self.restore().await?;
        let (consumer, mut messages) = ConsumerHandle::new();
        let group = self.groups.open(&self.group);
        self.joined = Some(group.clone());
        let (reply, joined) = oneshot::channel();
        let options = SubscribeOptions {
            from: StartFrom::Earliest,
            max_in_flight: 1_000,
            // What is no heartbeat is given up at once; the others only wait for the store.
            max_attempts: limits::ATTEMPTS_MAX,
            ..SubscribeOptions::default()
        };
        let target = TopicOrPattern::Topic(self.heartbeats.clone());
        let join = Join { id: MEMBER, target, options, consumer: consumer.clone(), positions: None, reply };
        let gone = || StoreError::Unavailable("the projector's group has ended".into());
        group.send(ToGroup::Join(Box::new(join))).await.map_err(|_| gone())?;
        joined.await.map_err(|_| gone())?.map_err(|refused| StoreError::Unavailable(refused.message().to_owned()))?;
        let mut check = tokio::time::interval(CHECK_EVERY);
        let result = loop {
            tokio::select! {
                () = ending.cancelled() => break Ok(()),
                () = group.closed() => break Err(gone()),
                _ = check.tick() => {
                    if let Err(error) = self.mark_stale().await {
                        break Err(error);
                    }
                }
                Some(message) = messages.recv() => {
                    let deliveries = match message {
                        ToConsumer::Deliver { deliveries, .. } => deliveries,
                        ToConsumer::Revoked { why, .. } => break Err(StoreError::Unavailable(why.into())),
                        _ => continue,
                    };
                    let bytes = deliveries.iter().map(|delivery| delivery.event.json.len()).sum();
                    let settled = self.apply(deliveries).await;
                    if consumer.release(bytes) {
                        let _ = group.send(ToGroup::Unblock(MEMBER)).await;
                    }
                    match settled {
                        Ok(settlements) => drop(group.send(ToGroup::Settle(MEMBER, settlements)).await),
                        Err(error) => break Err(error),
                    }
                }
            }
        };
        let (reply, left) = oneshot::channel();
        if group.send(ToGroup::Leave(MEMBER, Some(reply))).await.is_ok() {
            let _ = left.await;
        }
        result
    }

    /// Goes on where a hub that knew the group by its former name has come to, and lets go of that position, which would
    /// hold the log's heartbeats back for ever.
    async fn take_over(&self) -> Result<(), StoreError> {
        let former = Group::from_static(FORMER_GROUP);
        if self.store.cursor(&self.heartbeats, &self.group).await?.is_some() {
            return Ok(());
        }
        let Some(cursor) = self.store.cursor(&self.heartbeats, &former).await?.filter(|found| !found.is_retired())
        else {
            return Ok(());
        };
        tracing::info!(
            from = FORMER_GROUP,
            to = GROUP,
            position = cursor.floor,
            "the projector's group has a new name"
        );
        let retired = Cursor::retired(cursor.epoch);
        let put = |group: Group, cursor| CursorPut { topic: self.heartbeats.clone(), group, cursor };
        self.writer.commit(Vec::new(), vec![put(self.group.clone(), cursor), put(former, retired)]).await?;
        Ok(())
    }

    /// Reads back what was alive, from what a hub has written: whoever may publish here may write anything.
    async fn restore(&mut self) -> Result<(), StoreError> {
        self.alive.clear();
        let mut after: Option<Box<str>> = None;
        loop {
            let page = self.store.latest_page(&self.states, after.as_deref(), u64::MAX, PAGE, PAGE_BYTES).await?;
            for record in &page.events {
                if let Some(state) = self.written_by_a_hub(record).await? {
                    self.alive.insert(state.process_id.clone(), state);
                }
            }
            match page.events.last() {
                Some(last) if page.more => after.clone_from(&last.key),
                _ => return Ok(()),
            }
        }
    }

    /// The state in an event of `process.state`, if a process is alive by it and a hub has written it.
    async fn written_by_a_hub(&self, record: &Stored) -> Result<Option<ProcessState>, StoreError> {
        let Some((state, written)) = alive(record) else { return Ok(None) };
        match written {
            Written::Marked => Ok(Some(state)),
            // The hub did not write its name yet, or a token without a `sub` did this: true it is if its heartbeat says so.
            Written::After(cause) => Ok(self.heartbeat_says(&cause, &state).await?.then_some(state)),
        }
    }

    /// Whether the heartbeat of this id is there, and what follows from it is `state`.
    async fn heartbeat_says(&self, id: &str, state: &ProcessState) -> Result<bool, StoreError> {
        let Some(seq) = self.store.seq_of(&self.heartbeats, id).await? else { return Ok(false) };
        let page = self.store.read(&self.heartbeats, seq - 1, 1, PAGE_BYTES).await?;
        let Some(record) = page.events.first().filter(|record| *record.id == *id) else { return Ok(false) };
        let Ok(beat) = heartbeat(record.text()) else { return Ok(false) };
        Ok(ProcessState::alive(beat, record.ts) == *state)
    }

    /// Publishes the states that follow from heartbeats, and returns how to settle those.
    async fn apply(&mut self, deliveries: Vec<Delivery>) -> Result<Vec<Settlement>, StoreError> {
        let mut settlements = Vec::with_capacity(deliveries.len());
        let mut states = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let record = &delivery.event;
            let verdict = match heartbeat(record.text()) {
                Ok(beat) => {
                    // One from a clock that is ahead must not keep its process alive, nor hide the next ones.
                    let state = ProcessState::alive(beat, record.ts.min(wall_clock()));
                    // An old heartbeat that was redelivered must not make a process younger than it is.
                    if self.alive.get(&state.process_id).is_none_or(|known| known.last_seen_ts <= state.last_seen_ts) {
                        states.push((state, Some(record.id.clone())));
                    }
                    Verdict::Ack
                }
                Err(error) => Verdict::Nack(Nack { reason: Some(error.into()), delay_ms: None, dead: true }),
            };
            let lease = delivery.lease.map(|(lease, _)| lease);
            settlements.push(Settlement { id: record.id.clone(), lease, verdict, corr: None });
        }
        self.publish(states).await?;
        Ok(settlements)
    }

    /// Publishes what has gone stale since the last look.
    async fn mark_stale(&mut self) -> Result<(), StoreError> {
        let now = wall_clock();
        let stale = self.alive.values().filter(|state| state.last_seen_ts.saturating_add(STALE_AFTER) <= now);
        let states =
            stale.map(|state| (ProcessState { status: ProcessStatus::Stale, ..state.clone() }, None)).collect();
        self.publish(states).await
    }

    async fn publish(&mut self, states: Vec<(ProcessState, Option<Arc<str>>)>) -> Result<(), StoreError> {
        if states.is_empty() {
            return Ok(());
        }
        let appends = states.iter().map(|(state, cause)| self.append(state, cause.as_deref())).collect();
        let outcomes = self.writer.commit(appends, Vec::new()).await?;
        for ((state, _), outcome) in states.into_iter().zip(outcomes) {
            if let Err(error) = outcome {
                // A full store, for one. The next heartbeat or the next look tries again; to hold this heartbeat back
                // would only keep the store full.
                tracing::warn!(%error, process = state.process_id, "state not published");
                continue;
            }
            match state.status {
                ProcessStatus::Alive => self.alive.insert(state.process_id.clone(), state),
                ProcessStatus::Stale => self.alive.remove(&state.process_id),
            };
        }
        Ok(())
    }

    fn append(&self, state: &ProcessState, cause: Option<&str>) -> Append {
        let options = EventOptions {
            key: Some(Text::from(state.process_id.as_str())),
            sid: state.sid.as_deref().map(Text::from),
            caused_by: cause.map(Text::from).into_iter().collect(),
            ..EventOptions::default()
        };
        let payload = serde_json::to_string(state).unwrap_or_default();
        Append::published_by(self.states.clone(), &options, Some(GROUP), &payload)
    }
}

/// How one can tell that a hub wrote a state.
enum Written {
    /// It says so, as nobody else can.
    Marked,
    /// Nobody says who wrote it. It names this heartbeat.
    After(String),
}

/// The state of a process that is alive in an event of `process.state`, if it is of the shape in which hubs write them and
/// no client's. The time of its last heartbeat is not later than the event: one from the future would hide the heartbeats
/// that come.
fn alive(record: &Stored) -> Option<(ProcessState, Written)> {
    let event = Event::parse(record.text()).ok()?;
    let written = match (event.by.as_deref(), &*event.caused_by) {
        (Some(GROUP), _) => Written::Marked,
        (None, [cause]) => Written::After(cause.as_str().to_owned()),
        _ => return None,
    };
    let mut state: ProcessState = serde_json::from_str(event.payload.get()).ok()?;
    let key = Some(Text::from(state.process_id.as_str()));
    let options = EventOptions { key, sid: state.sid.as_deref().map(Text::from), ..EventOptions::default() };
    let is_own = record.key.as_deref() == Some(state.process_id.as_str()) && state.is_named_after_its_process();
    if !is_own || state.status != ProcessStatus::Alive || options.check().is_err() {
        return None;
    }
    state.last_seen_ts = state.last_seen_ts.min(record.ts).min(wall_clock());
    Some((state, written))
}

/// The heartbeat in an event, if it is one.
fn heartbeat(event: &str) -> Result<Heartbeat, String> {
    let event = Event::parse(event).map_err(|error| error.to_string())?;
    let beat: Heartbeat =
        serde_json::from_str(event.payload.get()).map_err(|error| format!("not a heartbeat: {error}"))?;
    let sid = beat.sid.as_deref().map(Text::from);
    let options = EventOptions { key: Some(beat.key().into()), sid, ..EventOptions::default() };
    options.check().map_err(|error| format!("not a heartbeat: {error}"))?;
    Ok(beat)
}
