//! Marks in a real MongoDB, and effects committed together with them.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mongodb::{
    Client, ClientSession, Collection, IndexModel,
    bson::{Document, doc},
    error::Error,
    event::{EventHandler, command::CommandEvent},
    options::{Acknowledgment, ClientOptions, WriteConcern},
};
use prom_hub::Hub;
use prom_mongod::{Options, ReplicaSet, fresh_database, shared};
use prom_outbox::{MongoDedupe, Once, OnceError};
use prom_sdk::{Claim, DedupeStore, PublishOptions, Received, StartFrom};
use prom_testkit::{hub, in_time, token, until, url};
use tokio::sync::{Notify, mpsc};

const LONG: Duration = Duration::from_secs(3600);
const SCOPE: &str = "a::g";

/// A database of a test's own.
#[derive(Clone)]
struct World {
    mongo: Client,
    dedupe: MongoDedupe,
    marks: Collection<Document>,
    effects: Collection<Document>,
}

impl World {
    async fn new(label: &str) -> Self {
        Self::at(shared().await.unwrap(), label).await
    }

    async fn at(url: &str, label: &str) -> Self {
        let world = Self::of(Client::with_uri_str(url).await.unwrap(), &fresh_database(label));
        world.dedupe.ensure_indexes().await.unwrap();
        world
    }

    fn of(mongo: Client, database: &str) -> Self {
        let database = mongo.database(database);
        let marks = database.collection("dedupe");
        Self { dedupe: MongoDedupe::new(&marks), marks, effects: database.collection("effects"), mongo }
    }

    async fn effects(&self) -> u64 {
        self.effects.count_documents(doc! {}).await.unwrap()
    }

    /// Runs an effect that leaves a document each time it is there.
    async fn once(&self, id: &str) -> Result<Once<()>, OnceError> {
        let effects = self.effects.clone();
        in_time(self.dedupe.once(SCOPE, id, |session| Box::pin(leave_trace(session, effects.clone())))).await
    }

    async fn seen(&self, id: &str) -> bool {
        in_time(self.dedupe.seen(SCOPE, id)).await.unwrap()
    }

    /// Has the server fail commands; only a set with test commands does.
    async fn fail(&self, data: Document, times: i32) {
        let command = doc! {"configureFailPoint": "failCommand", "mode": {"times": times}, "data": data};
        self.mongo.database("admin").run_command(command).await.unwrap();
    }
}

async fn leave_trace(session: &mut ClientSession, effects: Collection<Document>) -> Result<(), Error> {
    effects.insert_one(doc! {"was": "here"}).session(session).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_removes_marks_that_are_over() {
    let args = ["--setParameter", "ttlMonitorSleepSecs=1"].map(Into::into).to_vec();
    let set = ReplicaSet::start(Options { args, ..Options::default() }).await.unwrap();
    let world = World::at(set.url(), "ttl").await;
    let index: IndexModel = {
        let mut indexes = world.marks.list_indexes().await.unwrap();
        loop {
            assert!(indexes.advance().await.unwrap(), "an index on expireAt");
            let index = indexes.deserialize_current().unwrap();
            if index.keys == doc! {"expireAt": 1} {
                break index;
            }
        }
    };
    assert_eq!(index.options.unwrap().expire_after, Some(Duration::ZERO));
    world.dedupe.ensure_indexes().await.unwrap();

    world.dedupe.clone().ttl(Duration::ZERO).mark(SCOPE, "short").await.unwrap();
    world.dedupe.mark(SCOPE, "long").await.unwrap();
    until("the mark to be removed", async || !world.seen("short").await).await;
    assert!(world.seen("long").await);
    set.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_belongs_to_one_event_of_one_consumer() {
    let world = World::new("marks").await;
    assert!(!world.seen("1").await);
    world.dedupe.mark(SCOPE, "1").await.unwrap();
    world.dedupe.mark(SCOPE, "1").await.unwrap();
    assert!(world.seen("1").await && !world.seen("2").await);
    assert!(!world.dedupe.seen("a::h", "1").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_keeps_others_out_until_it_is_released_or_over() {
    let World { dedupe, .. } = World::new("claims").await;
    // Names that MongoDB could take for expressions.
    let (a, b) = ("$state", "$$NOW");
    assert_eq!(dedupe.claim(SCOPE, "$1", a, LONG).await.unwrap(), Claim::Granted);
    assert_eq!(dedupe.claim(SCOPE, "$1", b, LONG).await.unwrap(), Claim::Held);
    dedupe.release(SCOPE, "$1", b).await.unwrap();
    assert_eq!(dedupe.claim(SCOPE, "$1", b, LONG).await.unwrap(), Claim::Held, "it was not b's to release");
    assert_eq!(dedupe.claim(SCOPE, "$1", a, LONG).await.unwrap(), Claim::Granted, "renewed");
    dedupe.release(SCOPE, "$1", a).await.unwrap();
    assert_eq!(dedupe.claim(SCOPE, "$1", b, Duration::ZERO).await.unwrap(), Claim::Granted);
    assert_eq!(dedupe.claim(SCOPE, "$1", a, LONG).await.unwrap(), Claim::Granted, "b's is over");
    assert!(!dedupe.seen(SCOPE, "$1").await.unwrap(), "a claim is no mark");
    dedupe.mark(SCOPE, "$1").await.unwrap();
    assert_eq!(dedupe.claim(SCOPE, "$1", a, LONG).await.unwrap(), Claim::Marked);
    dedupe.release(SCOPE, "$1", a).await.unwrap();
    assert!(dedupe.seen(SCOPE, "$1").await.unwrap(), "a mark is not released");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_claims_at_the_same_time_one_is_granted() {
    let World { dedupe, .. } = World::new("race").await;
    let claims: Vec<_> = (0..16)
        .map(|n| {
            let dedupe = dedupe.clone();
            tokio::spawn(async move { dedupe.claim(SCOPE, "1", &n.to_string(), LONG).await.unwrap() })
        })
        .collect();
    let mut granted = 0;
    for claim in claims {
        granted += usize::from(in_time(claim).await.unwrap() == Claim::Granted);
    }
    assert_eq!(granted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_is_there_once_however_often_it_is_asked_for() {
    let world = World::new("once").await;
    assert_eq!(world.once("1").await.unwrap(), Once::Done(()));
    assert!(world.seen("1").await);
    assert_eq!(world.once("1").await.unwrap(), Once::Duplicate);
    world.dedupe.mark(SCOPE, "2").await.unwrap();
    assert_eq!(world.once("2").await.unwrap(), Once::Duplicate, "marked by itself");
    assert_eq!(world.effects().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_at_the_same_time_give_one_effect() {
    let world = World::new("duplicates").await;
    let all: Vec<_> = (0..16)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.once("1").await.unwrap() })
        })
        .collect();
    let mut done = 0;
    for one in all {
        done += usize::from(in_time(one).await.unwrap() == Once::Done(()));
    }
    assert_eq!((done, world.effects().await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_that_fails_leaves_no_trace_and_no_mark() {
    let world = World::new("fails").await;
    let effects = world.effects.clone();
    let refused = world.dedupe.once(SCOPE, "1", |session| {
        let effects = effects.clone();
        Box::pin(async move {
            leave_trace(session, effects).await?;
            Err::<(), prom_sdk::BoxError>(io::Error::other("no").into())
        })
    });
    let Err(OnceError::Effect(error)) = in_time(refused).await else { panic!("the effect's error") };
    assert_eq!(error.to_string(), "no");
    assert_eq!((world.effects().await, world.seen("1").await), (0, false));
    assert_eq!(world.once("1").await.unwrap(), Once::Done(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_between_effect_and_commit_it_leaves_nothing() {
    let world = World::new("dropped").await;
    let (effects, there) = (world.effects.clone(), Arc::new(Notify::new()));
    let dedupe = world.dedupe.clone();
    let reached = Arc::clone(&there);
    let stuck = tokio::spawn(async move {
        let once = dedupe.once(SCOPE, "1", |session| {
            let (effects, reached) = (effects.clone(), Arc::clone(&reached));
            Box::pin(async move { stop_after_trace(session, effects, &reached).await })
        });
        once.await.map(drop)
    });
    in_time(there.notified()).await;
    stuck.abort();
    assert!(in_time(stuck).await.unwrap_err().is_cancelled());
    assert_eq!(world.once("1").await.unwrap(), Once::Done(()));
    assert_eq!(world.effects().await, 1);
}

async fn stop_after_trace(
    session: &mut ClientSession,
    effects: Collection<Document>,
    reached: &Notify,
) -> Result<(), Error> {
    leave_trace(session, effects).await?;
    reached.notify_one();
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_waits_for_a_claim_and_takes_over_when_it_is_over() {
    let url = shared().await.unwrap();
    let world = World::at(url, "waits").await;
    assert_eq!(world.dedupe.claim(SCOPE, "1", "other", LONG).await.unwrap(), Claim::Granted);
    // Counts how often it has tried to take the event.
    let (tries, count) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let mut options = ClientOptions::parse(url).await.unwrap();
    options.command_event_handler = Some(EventHandler::callback(move |event| {
        if let CommandEvent::Succeeded(event) = event
            && event.command_name == "findAndModify"
        {
            counted.store(1 + count.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        }
    }));
    let other = World::of(Client::with_options(options).unwrap(), &world.marks.namespace().db);
    let waiting = tokio::spawn(async move { other.once("1").await });
    until("the claim to be asked for twice", async || tries.load(Ordering::SeqCst) > 1).await;
    assert!(!waiting.is_finished());
    // As long as the claim is there another effect of this consumer runs, and this one does not.
    assert_eq!(world.once("2").await.unwrap(), Once::Done(()));
    assert_eq!(world.effects().await, 1);
    assert_eq!(world.dedupe.claim(SCOPE, "1", "other", Duration::from_millis(1)).await.unwrap(), Claim::Granted);
    assert_eq!(in_time(waiting).await.unwrap().unwrap(), Once::Done(()));
    assert_eq!(world.effects().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_errors_and_commits_of_unknown_result_are_tried_again() {
    let args = ["--setParameter", "enableTestCommands=1"].map(Into::into).to_vec();
    let set = ReplicaSet::start(Options { args, ..Options::default() }).await.unwrap();
    let world = World::at(set.url(), "retries").await;

    let transient = doc! {
        "failCommands": ["insert"], "errorCode": 112, "errorLabels": ["TransientTransactionError"],
    };
    world.fail(transient, 2).await;
    assert_eq!(world.once("1").await.unwrap(), Once::Done(()));
    // More often than the driver tries again by itself. The server has not seen these.
    world.fail(doc! {"failCommands": ["commitTransaction"], "closeConnection": true}, 4).await;
    assert_eq!(world.once("2").await.unwrap(), Once::Done(()));
    // And these it has carried out.
    let unsure = doc! {
        "failCommands": ["commitTransaction"], "writeConcernError": {"code": 64, "errmsg": "timed out"},
    };
    world.fail(unsure, 4).await;
    assert_eq!(world.once("3").await.unwrap(), Once::Done(()));
    for id in ["1", "2", "3"] {
        assert_eq!(world.once(id).await.unwrap(), Once::Duplicate);
    }
    assert_eq!(world.effects().await, 3);
    set.shutdown().await.unwrap();
}

/// A new primary may not know yet that a mark was acknowledged; here all of a set are made to be as slow to learn.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_a_majority_is_not_known_to_have_is_waited_for() {
    let args = ["--setParameter", "enableTestCommands=1"].map(Into::into).to_vec();
    let set = ReplicaSet::start(Options { nodes: 3, args, ..Options::default() }).await.unwrap();
    let world = World::at(set.url(), "election").await;
    world.dedupe.mark(SCOPE, "0").await.unwrap();
    let primary = set.primary().await.unwrap();
    let replicate = async |mode: &str| {
        for node in (0..3).filter(|node| *node != primary) {
            let point = doc! {"configureFailPoint": "stopReplProducer", "mode": mode};
            set.client_of(node).await.unwrap().database("admin").run_command(point).await.unwrap();
        }
    };
    replicate("alwaysOn").await;
    let one_node = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
    let mark = doc! {"_id": {"scope": SCOPE, "id": "1"}, "state": "marked"};
    world.marks.insert_one(mark).write_concern(one_node).await.unwrap();

    let seen = tokio::spawn({
        let dedupe = world.dedupe.clone();
        async move { dedupe.seen(SCOPE, "1").await }
    });
    let asked = async || {
        let find = doc! {"currentOp": true, "command.find": "dedupe"};
        let found = world.mongo.database("admin").run_command(find).await.unwrap();
        seen.is_finished() || !found.get_array("inprog").unwrap().is_empty()
    };
    until("the read to be there", asked).await;
    replicate("off").await;
    assert!(in_time(seen).await.unwrap().unwrap());
    set.shutdown().await.unwrap();
}

async fn client(hub: &Hub) -> prom_sdk::Client {
    let builder = prom_sdk::Client::builder(url(hub)).token(token(&["*:**"]));
    in_time(builder.connect()).await.unwrap()
}

async fn publish(client: &prom_sdk::Client, id: &str) {
    in_time(client.publish_with("a", &id, PublishOptions::new().id(id))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_commits_effect_and_mark_together() {
    let (world, hub) = (World::new("subscription").await, hub().await);
    let (one, two) = (client(&hub).await, client(&hub).await);
    let subscribe = |client: &prom_sdk::Client| client.subscribe("a", "g").from(StartFrom::Earliest);
    world.dedupe.mark(SCOPE, "0").await.unwrap();
    publish(&one, "0").await;
    publish(&one, "1").await;

    // The first member dies between its effect and the commit.
    let there = Arc::new(Notify::new());
    let (effects, reached) = (world.effects.clone(), Arc::clone(&there));
    let dying = world.dedupe.handle_in_transaction(subscribe(&one), move |session, _: &Received<String>| {
        let (effects, reached) = (effects.clone(), Arc::clone(&reached));
        Box::pin(async move { stop_after_trace(session, effects, &reached).await })
    });
    let handling = in_time(dying).await.unwrap();
    in_time(there.notified()).await;
    drop(handling);
    in_time(one.close()).await;

    // The second gets the event again.
    let (tell, mut told) = mpsc::unbounded_channel();
    let effects = world.effects.clone();
    let working = world.dedupe.handle_in_transaction(subscribe(&two), move |session, received: &Received<String>| {
        let (effects, tell) = (effects.clone(), tell.clone());
        let what = (received.payload.clone(), received.context.attempt);
        Box::pin(async move {
            leave_trace(session, effects).await?;
            tell.send(what).map_err(Error::custom)
        })
    });
    let handling = in_time(working).await.unwrap();
    assert_eq!(in_time(told.recv()).await.unwrap(), ("1".to_owned(), 2));
    until("the mark", async || world.seen("1").await).await;
    in_time(handling.stop()).await;
    assert_eq!(world.effects().await, 1);

    // Both events are settled.
    publish(&two, "2").await;
    let mut rest = in_time(subscribe(&two).into_future()).await.unwrap();
    assert_eq!(in_time(rest.next()).await.unwrap().event().id, "2");
}

/// A handler that outlives its transaction was called for ever: no attempt was counted, and nothing was said.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_slower_than_its_transaction_uses_up_its_attempts() {
    let args = ["--setParameter", "transactionLifetimeLimitSeconds=1"].map(Into::into).to_vec();
    let set = ReplicaSet::start(Options { args, ..Options::default() }).await.unwrap();
    let (world, hub) = (World::at(set.url(), "slow").await, hub().await);
    let client = client(&hub).await;
    publish(&client, "1").await;
    let subscribe = client.subscribe("a", "g").from(StartFrom::Earliest).max_attempts(2);
    let (effects, calls) = (world.effects.clone(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&calls);
    // Two tries take longer than a second, which is the least that a transaction has.
    let dedupe = world.dedupe.clone().patience(Duration::from_secs(1));
    let slow = dedupe.handle_in_transaction(subscribe, move |session, _: &Received<String>| {
        count.fetch_add(1, Ordering::SeqCst);
        let effects = effects.clone();
        Box::pin(async move { write_until_refused(session, effects).await })
    });
    let handling = in_time(slow).await.unwrap();
    let mut dead = in_time(client.subscribe("dlq.a", "g").from(StartFrom::Earliest).into_future()).await.unwrap();
    let letter = in_time(dead.next()).await.unwrap();
    let why: serde_json::Value = letter.payload().unwrap();
    assert!(why["err"].as_str().unwrap().contains("NoSuchTransaction"), "{why}");
    in_time(handling.stop()).await;
    assert!((2..=4).contains(&calls.load(Ordering::SeqCst)), "{calls:?} calls for two attempts");
    assert_eq!((world.effects().await, world.seen("1").await), (0, false));
    set.shutdown().await.unwrap();
}

async fn write_until_refused(session: &mut ClientSession, effects: Collection<Document>) -> Result<(), Error> {
    loop {
        leave_trace(session, effects.clone()).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_while_mongodb_is_away_and_those_within_the_patience_use_up_no_attempt() {
    let args = ["--setParameter", "enableTestCommands=1"].map(Into::into).to_vec();
    let set = ReplicaSet::start(Options { args, ..Options::default() }).await.unwrap();
    let (world, hub) = (World::at(set.url(), "away").await, hub().await);
    let client = client(&hub).await;
    let away = doc! {"failCommands": ["insert"], "closeConnection": true};
    let conflict = doc! {
        "failCommands": ["insert"], "errorCode": 112, "errorLabels": ["TransientTransactionError"],
    };
    for (id, data, dedupe) in
        [("1", away, world.dedupe.clone().patience(Duration::ZERO)), ("2", conflict, world.dedupe.clone())]
    {
        let (tell, mut told) = mpsc::unbounded_channel();
        let effects = world.effects.clone();
        world.fail(data, 3).await;
        publish(&client, id).await;
        let subscribe = client.subscribe("a", "g").from(StartFrom::Earliest);
        let working = dedupe.handle_in_transaction(subscribe, move |session, received: &Received<String>| {
            tell.send((received.payload.clone(), received.context.attempt)).unwrap();
            let effects = effects.clone();
            Box::pin(async move { leave_trace(session, effects).await })
        });
        let handling = in_time(working).await.unwrap();
        until("the mark", async || world.seen(id).await).await;
        in_time(handling.stop()).await;
        for _ in 0..4 {
            assert_eq!(told.try_recv().unwrap(), (id.to_owned(), 1));
        }
        assert!(told.try_recv().is_err(), "four tries, and one attempt");
    }
    set.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_outside_a_transaction_is_not_called_again_once_its_event_is_marked() {
    let (world, hub) = (World::new("handler").await, hub().await);
    let client = client(&hub).await;
    let calls = Arc::new(AtomicUsize::new(0));
    world.dedupe.mark(SCOPE, "1").await.unwrap();
    let count = Arc::clone(&calls);
    let handler = move |_: Received<String>| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>(()) }
    };
    let handling = in_time(client.subscribe_exactly_once("a", "g", world.dedupe.clone(), handler)).await.unwrap();
    publish(&client, "1").await;
    publish(&client, "2").await;
    until("the mark", async || world.seen("2").await).await;
    in_time(handling.stop()).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}
