//! Groups at their start and end, and while the store is away, on a clock of their own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use prom_delivery::Delivery;
use prom_protocol::{EventOptions, Group, Refusal, StartFrom, SubscribeOptions, Topic, TopicOrPattern, topics};
use prom_store::{
    Append, Appended, Batch, Cursor, CursorPut, LatestPage, MemoryStore, Page, Store, StoreError, Stored, Tail,
};
use tokio::sync::{mpsc, oneshot};

use super::projector::Projector;
use crate::{
    flow::{metrics::Metrics, topics::Topics, writer::Writer},
    groups::{ConsumerHandle, Context, Groups, Join, Settlement, ToConsumer, ToGroup, Verdict},
};

/// How long a group without members keeps its state.
const LINGER: Duration = Duration::from_secs(30);

/// A store that can be taken away, and whose leases can.
#[derive(Debug)]
struct Flaky {
    inner: MemoryStore,
    away: AtomicBool,
    /// Another hub has every lease.
    leased: AtomicBool,
    /// Nobody answers who has which.
    silent: AtomicBool,
}

impl Flaky {
    fn there(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::SeqCst) { Err(StoreError::Unavailable("away".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for Flaky {
    fn name(&self) -> &'static str {
        "flaky"
    }
    fn durability(&self) -> String {
        String::new()
    }
    async fn commit(&self, batch: Batch) -> Result<Vec<Result<Appended, Refusal>>, StoreError> {
        self.there()?;
        self.inner.commit(batch).await
    }
    async fn read(&self, topic: &Topic, after: u64, limit: usize, max_bytes: usize) -> Result<Page, StoreError> {
        self.inner.read(topic, after, limit, max_bytes).await
    }
    async fn topics_of(&self, group: &Group) -> Result<Vec<Topic>, StoreError> {
        self.inner.topics_of(group).await
    }
    async fn remove_topic(&self, topic: &Topic, only: Option<Tail>) -> Result<bool, StoreError> {
        self.there()?;
        self.inner.remove_topic(topic, only).await
    }
    async fn remove_cursors(&self, cursors: &[(Topic, Group)]) -> Result<(), StoreError> {
        self.there()?;
        self.inner.remove_cursors(cursors).await
    }
    async fn tail(&self, topic: &Topic) -> Result<Option<Tail>, StoreError> {
        self.inner.tail(topic).await
    }
    async fn topics(&self) -> Result<Vec<(Topic, Tail)>, StoreError> {
        self.inner.topics().await
    }
    async fn all_topics(&self) -> Result<Vec<(Topic, Tail)>, StoreError> {
        self.inner.all_topics().await
    }
    async fn seq_of(&self, topic: &Topic, id: &str) -> Result<Option<u64>, StoreError> {
        self.inner.seq_of(topic, id).await
    }
    async fn seq_before_ts(&self, topic: &Topic, ts: u64) -> Result<u64, StoreError> {
        self.inner.seq_before_ts(topic, ts).await
    }
    async fn latest(&self, topic: &Topic, key: &str) -> Result<Option<Stored>, StoreError> {
        self.inner.latest(topic, key).await
    }
    async fn latest_page(
        &self,
        topic: &Topic,
        after: Option<&str>,
        at: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<LatestPage, StoreError> {
        self.inner.latest_page(topic, after, at, limit, max_bytes).await
    }
    async fn cursor(&self, topic: &Topic, group: &Group) -> Result<Option<Cursor>, StoreError> {
        self.there()?;
        self.inner.cursor(topic, group).await
    }
    async fn cursors(&self, topic: &Topic) -> Result<Vec<(Group, Cursor)>, StoreError> {
        self.inner.cursors(topic).await
    }
    async fn lease(&self, _: &str, _: Duration) -> Result<bool, StoreError> {
        if self.silent.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(3)).await;
            return Err(StoreError::Unavailable("no answer".into()));
        }
        Ok(!self.leased.load(Ordering::SeqCst))
    }
}

struct World {
    store: Arc<Flaky>,
    context: Context,
    groups: Groups,
    group: Group,
}

impl World {
    fn new() -> Self {
        let inner = MemoryStore::new(1024 * 1024);
        let store = Arc::new(Flaky { inner, away: false.into(), leased: false.into(), silent: false.into() });
        let topics = Arc::new(Topics::default());
        let metrics = Arc::<Metrics>::default();
        let (writer, writing) = Writer::start(
            Arc::clone(&store) as Arc<dyn Store>,
            Arc::clone(&topics),
            Arc::clone(&metrics),
            Default::default(),
        );
        tokio::spawn(writing);
        let context = Context {
            store: Arc::clone(&store) as Arc<dyn Store>,
            topics,
            metrics,
            writer,
            tasks: tokio_util::task::TaskTracker::new(),
            ending: tokio_util::sync::CancellationToken::new(),
        };
        let groups = Groups::new(context.clone());
        Self { store, context, groups, group: Group::new("g").unwrap() }
    }

    async fn publish(&self, topic: &str) {
        self.publish_payload(topic, "1").await;
    }

    async fn publish_payload(&self, topic: &str, payload: &str) {
        let append = Append::new(Topic::new(topic).unwrap(), &EventOptions::default(), payload);
        self.context.writer.commit(vec![append], Vec::new()).await.unwrap().remove(0).unwrap();
    }

    /// Joins as a connection does: a group that ends meanwhile is opened again.
    async fn join(&self, id: u64, target: &str) -> Member {
        let (consumer, messages) = ConsumerHandle::new();
        for _ in 0..3 {
            let group = self.groups.open(&self.group);
            let (reply, joined) = oneshot::channel();
            let options = SubscribeOptions { from: StartFrom::Earliest, ..SubscribeOptions::default() };
            let target = TopicOrPattern::new(target).unwrap();
            let join = Join { id, target, options, consumer: consumer.clone(), positions: None, reply };
            if group.send(ToGroup::Join(Box::new(join))).await.is_err() {
                continue;
            }
            match joined.await {
                Ok(joined) => {
                    joined.unwrap();
                    return Member { id, group, messages };
                }
                Err(_) => continue,
            }
        }
        panic!("the group could not be started");
    }
}

struct Member {
    id: u64,
    group: mpsc::Sender<ToGroup>,
    messages: mpsc::UnboundedReceiver<ToConsumer>,
}

impl Member {
    async fn leave(self) {
        let (reply, left) = oneshot::channel();
        self.group.send(ToGroup::Leave(self.id, Some(reply))).await.unwrap();
        left.await.unwrap();
    }

    async fn delivery(&mut self) -> Delivery {
        match self.messages.recv().await.unwrap() {
            ToConsumer::Deliver { mut deliveries, .. } => deliveries.remove(0),
            other => panic!("a delivery expected, got {other:?}"),
        }
    }

    async fn ack(&self, delivery: &Delivery, corr: &str) {
        let lease = delivery.lease.map(|(lease, _)| lease);
        let id = delivery.event.id.clone();
        let settlement = Settlement { id, lease, verdict: Verdict::Ack, corr: Some(corr.into()) };
        self.group.send(ToGroup::Settle(self.id, vec![settlement])).await.unwrap();
    }

    async fn answer(&mut self) -> String {
        match self.messages.recv().await.unwrap() {
            ToConsumer::Answer(bytes) => String::from_utf8(bytes).unwrap(),
            other => panic!("an answer expected, got {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_joins_as_a_group_ends_is_in_one_that_lives() {
    // A request that came between the last look at the queue and its end was taken by a group that nobody could reach
    // any more, beside which the next member started a second one.
    let world = World::new();
    let mut member = world.join(1, "a").await;
    for id in 2..200 {
        // Started before the group's own, so that it rings first, and the request is there when that one rings.
        let mut timer = std::pin::pin!(tokio::time::sleep(LINGER));
        assert!(futures_util::poll!(&mut timer).is_pending());
        member.leave().await;
        timer.await;
        member = world.join(id, "a").await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!member.group.is_closed(), "round {id}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_without_members_waits_quietly_for_a_store_that_is_away() {
    // When its time was over it looked again and again whether it could end, without a pause. On this clock, which
    // moves only when everybody waits, such a test never ends.
    let world = World::new();
    world.publish("a").await;
    let mut member = world.join(1, "a").await;
    let delivery = member.delivery().await;
    world.store.away.store(true, Ordering::SeqCst);
    member.ack(&delivery, "1").await;
    member.leave().await;
    tokio::time::sleep(2 * LINGER).await;
    world.store.away.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let cursor = world.store.cursor(&Topic::new("a").unwrap(), &world.group).await.unwrap().unwrap();
    assert_eq!(cursor.floor, 1, "stored in the end");
    // And it has ended.
    world.context.tasks.close();
    world.context.tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn an_ack_that_is_tried_again_is_ok_only_when_it_is_stored() {
    // The second try was told that there is nothing left to settle, which there was not, but it was not stored either.
    let world = World::new();
    world.publish("a").await;
    let mut member = world.join(1, "a").await;
    let delivery = member.delivery().await;
    world.store.away.store(true, Ordering::SeqCst);
    for corr in ["1", "2", "3"] {
        member.ack(&delivery, corr).await;
        if corr == "1" {
            let failed = member.answer().await;
            assert!(failed.contains("ack_failed") && failed.contains(r#""corr":"1""#), "{failed}");
        }
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(member.messages.try_recv().is_err(), "nothing is stored, so nothing is OK");
    world.store.away.store(false, Ordering::SeqCst);
    for corr in ["2", "3"] {
        let ok = member.answer().await;
        assert!(ok.contains(r#""op":"OK""#) && ok.contains(&format!(r#""corr":"{corr}""#)), "{ok}");
    }
}

#[tokio::test(start_paused = true)]
async fn members_with_several_patterns_get_a_new_topic_once_each() {
    let world = World::new();
    let mut one = world.join(1, "a.*").await;
    let mut two = world.join(2, "**").await;
    let mut other = world.join(3, "b.*").await;
    for _ in 0..4 {
        world.publish("a.x").await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut seqs = Vec::new();
    for member in [&mut one, &mut two, &mut other] {
        while let Ok(message) = member.messages.try_recv() {
            if let ToConsumer::Deliver { deliveries, .. } = message {
                seqs.extend(deliveries.iter().map(|delivery| (delivery.event.seq, delivery.attempt)));
            }
        }
    }
    seqs.sort_unstable();
    assert_eq!(seqs, [(1, 1), (2, 1), (3, 1), (4, 1)]);
    assert!(other.messages.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_new_topic_is_taken_on_when_the_store_is_back() {
    let world = World::new();
    let mut member = world.join(1, "a.*").await;
    world.store.away.store(true, Ordering::SeqCst);
    world.context.topics.state(&Topic::new("a.x").unwrap());
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.store.away.store(false, Ordering::SeqCst);
    world.publish("a.x").await;
    assert_eq!(member.delivery().await.event.seq, 1);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_another_hub_may_have_ends_at_once_and_does_not_store_again() {
    let world = World::new();
    world.publish("a").await;
    let mut member = world.join(1, "a").await;
    let delivery = member.delivery().await;
    world.store.away.store(true, Ordering::SeqCst);
    member.ack(&delivery, "1").await;
    member.group.send(ToGroup::End(1)).await.unwrap();
    tokio::time::timeout(LINGER / 30, member.group.closed()).await.unwrap();
    world.store.away.store(false, Ordering::SeqCst);
    tokio::time::sleep(2 * LINGER).await;
    let cursor = world.store.cursor(&Topic::new("a").unwrap(), &world.group).await.unwrap().unwrap();
    assert_eq!(cursor.floor, 0, "the other hub's position would be gone");
}

impl World {
    fn project(&self) {
        let (store, writer) = (Arc::clone(&self.context.store), self.context.writer.clone());
        let projector = Projector::new(store, writer, self.groups.clone());
        tokio::spawn(projector.run(self.context.ending.clone()));
    }

    /// A heartbeat of a process of its own.
    async fn beat(&self, pid: u32) {
        let payload = format!(r#"{{"pid":{pid},"name":"n","host":"h","cpu_pct":1,"mem_mb":1}}"#);
        self.publish_payload(topics::HEARTBEAT, &payload).await;
    }

    /// Of which processes there are states, once there has been time to project.
    async fn states(&self) -> Vec<String> {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let page = self.store.read(&Topic::new(topics::STATE).unwrap(), 0, 100, 100_000).await.unwrap();
        page.events.iter().map(|event| event.key.as_deref().unwrap().to_owned()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_projector_that_loses_its_lease_stops_and_later_goes_on_where_others_have_come_to() {
    let world = World::new();
    world.project();
    world.beat(1).await;
    assert_eq!(world.states().await, ["h:n:1"]);
    world.store.leased.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.beat(2).await;
    assert_eq!(world.states().await, ["h:n:1"], "another hub does it");
    let (topic, group) = (Topic::new(topics::HEARTBEAT).unwrap(), Group::stored("$process-projector").unwrap());
    let cursor = world.store.cursor(&topic, &group).await.unwrap().unwrap();
    assert_eq!(cursor.floor, 1, "that hub goes on from there");
    let put = CursorPut { topic, group, cursor: Cursor { floor: 2, delivered: 2, ..cursor } };
    world.context.writer.commit(Vec::new(), vec![put]).await.unwrap();
    world.store.leased.store(false, Ordering::SeqCst);
    world.beat(3).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.states().await, ["h:n:1", "h:n:3"]);
}

#[tokio::test(start_paused = true)]
async fn a_projector_stops_ten_seconds_after_it_last_asked_for_its_lease_with_success() {
    let world = World::new();
    world.project();
    world.beat(1).await;
    assert_eq!(world.states().await, ["h:n:1"]);
    world.store.silent.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(8)).await;
    world.beat(2).await;
    assert_eq!(world.states().await, ["h:n:1", "h:n:2"], "9 s");
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.beat(3).await;
    assert_eq!(world.states().await, ["h:n:1", "h:n:2"], "10 s");
    world.store.silent.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.states().await, ["h:n:1", "h:n:2", "h:n:3"]);
}

/// Any client could join the projector's group and keep heartbeats from it, so its name is one that no client can say.
#[tokio::test(start_paused = true)]
async fn a_projector_goes_on_where_it_was_under_its_former_name() {
    let world = World::new();
    world.beat(1).await;
    world.beat(2).await;
    let topic = Topic::new(topics::HEARTBEAT).unwrap();
    let put = |name: &str, cursor| CursorPut { topic: topic.clone(), group: Group::stored(name).unwrap(), cursor };
    let epoch = world.store.tail(&topic).await.unwrap().unwrap().epoch;
    let former = Cursor { epoch, floor: 1, delivered: 1, ..Cursor::default() };
    world.context.writer.commit(Vec::new(), vec![put("process-projector", former)]).await.unwrap();
    world.project();
    assert_eq!(world.states().await, ["h:n:2"], "the first was projected before");
    let position = async |name| world.store.cursor(&topic, &Group::stored(name).unwrap()).await.unwrap().unwrap();
    assert_eq!(position("$process-projector").await.floor, 2);
    assert!(position("process-projector").await.is_retired(), "or it would hold heartbeats back for ever");
}

/// What once was the projector's name is free for clients, and the position that it left is not theirs.
#[tokio::test(start_paused = true)]
async fn a_retired_position_is_nobodys() {
    let world = World::new();
    world.publish("t").await;
    let put = CursorPut { topic: Topic::new("t").unwrap(), group: world.group.clone(), cursor: Cursor::retired(0) };
    world.context.writer.commit(Vec::new(), vec![put]).await.unwrap();
    let mut member = world.join(1, "t").await;
    let message = tokio::time::timeout(Duration::from_secs(10), member.messages.recv()).await;
    assert!(matches!(message, Ok(Some(ToConsumer::Deliver { deliveries, .. })) if deliveries.len() == 1));
}

#[tokio::test(start_paused = true)]
async fn states_that_no_hub_has_written_are_not_taken_for_the_projectors_own() {
    // One publish with a key that no event may have ended live state for good; one from the future hid all heartbeats.
    let world = World::new();
    let publish = async |key: &str, payload: serde_json::Value| {
        let options = EventOptions { key: Some(key.into()), ..EventOptions::default() };
        let append = Append::new(Topic::new(topics::STATE).unwrap(), &options, &payload.to_string());
        world.context.writer.commit(vec![append], Vec::new()).await.unwrap().remove(0).unwrap();
    };
    let state = |id: &str, seen: u64| {
        serde_json::json!({
            "processId": id, "name": "n", "host": "h", "pid": 1, "cpu_pct": 999, "mem_mb": 1, "last_seen_ts": seen,
            "status": "alive",
        })
    };
    publish("x", state(&"B".repeat(2_000), 1)).await;
    publish("other", state("h:n:1", 1)).await;
    let mut long = state("", 1);
    long["host"] = "h".repeat(1_000).into();
    long["processId"] = format!("{}:n:1", "h".repeat(1_000)).into();
    publish("long", long).await;
    publish("h:n:1", state("h:n:1", 9_007_199_254_740_991)).await;
    world.project();
    world.beat(1).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let states = world.states().await;
    assert_eq!(states[4..], ["h:n:1"], "the heartbeat alone is published, and nothing stale that was not alive");
}

/// What is taken back and was not seen for long is published as stale. Any state of the right shape was taken back, whoever
/// had written it.
#[tokio::test(start_paused = true)]
async fn a_state_is_taken_back_where_the_hub_wrote_it_or_its_heartbeat_says_the_same() {
    let world = World::new();
    let commit = async |append| world.context.writer.commit(vec![append], Vec::new()).await.unwrap().remove(0).unwrap();
    let mut beats = Vec::new();
    for pid in 0..9 {
        let payload = format!(r#"{{"pid":{pid},"name":"n","host":"h","cpu_pct":1,"mem_mb":1}}"#);
        let options = EventOptions { ts: Some(1_000), ..EventOptions::default() };
        beats.push(commit(Append::new(Topic::new(topics::HEARTBEAT).unwrap(), &options, &payload)).await.id);
    }
    let (heartbeats, group) = (Topic::new(topics::HEARTBEAT).unwrap(), Group::stored("$process-projector").unwrap());
    let epoch = world.store.tail(&heartbeats).await.unwrap().unwrap().epoch;
    let cursor = Cursor { epoch, floor: 9, delivered: 9, ..Cursor::default() };
    world.context.writer.commit(Vec::new(), vec![CursorPut { topic: heartbeats, group, cursor }]).await.unwrap();
    let state = async |pid: usize, cpu: u32, by: Option<&str>, cause: Option<&str>| {
        let key = format!("h:n:{pid}");
        let payload = serde_json::json!({
            "processId": key, "name": "n", "host": "h", "pid": pid, "cpu_pct": cpu, "mem_mb": 1, "last_seen_ts": 1_000,
            "status": "alive",
        });
        let options = EventOptions {
            key: Some(key.as_str().into()),
            caused_by: cause.map(Into::into).into_iter().collect(),
            ..EventOptions::default()
        };
        let topic = Topic::new(topics::STATE).unwrap();
        commit(Append::published_by(topic, &options, by, &payload.to_string())).await;
    };
    // Its own: the heartbeat may be gone by then.
    state(0, 7, Some("$process-projector"), Some("gone")).await;
    // That of a hub which did not write its name yet.
    state(1, 1, None, Some(&beats[1])).await;
    // A client's, whose token has a subject, and one's without: of no heartbeat, of one that is not there, of another
    // process's, and of its own that says otherwise.
    state(2, 1, Some("mallory"), Some(&beats[2])).await;
    state(3, 1, Some("process-projector"), None).await;
    state(4, 1, None, None).await;
    state(5, 1, None, Some("gone")).await;
    state(6, 1, None, Some(&beats[1])).await;
    state(7, 2, None, Some(&beats[7])).await;
    world.project();
    let mut stale = world.states().await.split_off(8);
    stale.sort_unstable();
    assert_eq!(stale, ["h:n:0", "h:n:1"]);
}
