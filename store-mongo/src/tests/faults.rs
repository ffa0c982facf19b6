//! Commits through what goes wrong between a hub and its primary, made to happen by the server's own fail points.

use prom_mongod::ReplicaSet;
use tokio::sync::OnceCell;

use super::{removals::Hears, *};

/// One set for all of these: each disturbs only the commands of its own application name.
async fn server() -> (Arc<MongoStore>, Faults) {
    static SET: OnceCell<String> = OnceCell::const_new();
    let url = SET.get_or_init(|| async {
        let (url, started) = tokio::sync::oneshot::channel();
        // It lives as long as the process, and so does its runtime.
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let args = vec!["--setParameter".into(), "enableTestCommands=1".into()];
                let set = ReplicaSet::start(mongod::Options { args, ..mongod::Options::default() }).await.unwrap();
                url.send(set.url().to_owned()).unwrap();
                std::future::pending::<()>().await;
            });
        });
        started.await.unwrap()
    });
    let (hosts, options) = url.await.split_once("/?").unwrap();
    let name = fresh_database("faults");
    let options = Options {
        commit_deadline: Duration::from_secs(60),
        ..Options::new(format!("{hosts}/{name}?{options}&appName={name}"))
    };
    let store = open(&options).await;
    let admin = Client::with_uri_str(hosts).await.unwrap().database("admin");
    (store, Faults { admin, name })
}

struct Faults {
    admin: Database,
    name: String,
}

impl Faults {
    /// How often anything has met it before.
    async fn set(&self, mode: impl Into<mongodb::bson::Bson>, command: &str, what: Document) -> i64 {
        let mut data = doc! { "failCommands": [command], "appName": &self.name };
        data.extend(what);
        // Each test has its own, by the name of the application, but there is only one fail point: they take turns.
        let set = doc! { "configureFailPoint": "failCommand", "mode": mode.into(), "data": data };
        let set = self.admin.run_command(set).await.unwrap();
        set.get("count").and_then(|count| count.as_i64().or(count.as_i32().map(i64::from))).unwrap()
    }

    /// Until it was met so often.
    async fn met(&self, times: i64) {
        let wait = doc! { "waitForFailPoint": "failCommand", "timesEntered": times, "maxTimeMS": 120_000 };
        self.admin.run_command(wait).await.unwrap();
    }

    /// Another hub, which the faults are none of.
    async fn other(&self, store: &MongoStore) -> Arc<MongoStore> {
        let url = store.inner.options.url.replace(&format!("&appName={}", self.name), "");
        open(&Options { url, ..store.inner.options.clone() }).await
    }

    async fn off(&self) {
        self.admin.run_command(doc! { "configureFailPoint": "failCommand", "mode": "off" }).await.unwrap();
    }
}

/// There is only one fail point in a server.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn three() -> Vec<Append> {
    vec![event("t", Some("one"), None, 1), event("u", Some("two"), None, 1), event("t", Some("three"), None, 1)]
}

async fn stands_once(store: &MongoStore) {
    let fresh = MongoStore::open(store.inner.options.clone()).await.unwrap();
    for (on, ids) in [("t", vec!["one", "three"]), ("u", vec!["two"])] {
        let page = fresh.read(&topic(on), 0, 10, 10_000).await.unwrap();
        assert_eq!(page.events.iter().map(|event| &*event.id).collect::<Vec<_>>(), ids);
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_asked_for_again_and_not_doubled() {
    let _turn = TURN.lock().await;
    for fault in [
        // It is carried out, and the answer says that nobody knows.
        doc! { "writeConcernError": { "code": 91, "errmsg": "shutting down" } },
        // It is not carried out.
        doc! { "closeConnection": true },
    ] {
        let (store, faults) = server().await;
        faults.set(doc! { "times": 3 }, "commitTransaction", fault).await;
        let committed = commit(&store, three(), Vec::new()).await;
        assert_eq!(
            committed.iter().map(|a| (a.seq, a.duplicate)).collect::<Vec<_>>(),
            [(1, false), (1, false), (2, false)]
        );
        faults.off().await;
        stands_once(&store).await;
    }
}

#[tokio::test]
async fn a_commit_that_may_have_come_through_is_a_duplicate_when_it_is_published_again() {
    let _turn = TURN.lock().await;
    let (store, faults) = server().await;
    let hasty = Options { commit_deadline: Duration::from_secs(5), ..store.inner.options.clone() };
    let hasty = open(&hasty).await;
    let unknown = doc! { "writeConcernError": { "code": 91, "errmsg": "shutting down" } };
    faults.set("alwaysOn", "commitTransaction", unknown).await;
    let error = hasty.commit(Batch { now: 1, appends: three(), cursors: Vec::new() }).await.unwrap_err();
    assert!(error.to_string().contains("with the same id"), "{error}");
    faults.off().await;
    let again = commit(&hasty, three(), Vec::new()).await;
    assert!(again.iter().all(|appended| appended.duplicate), "{again:?}");
    let more = commit(&hasty, vec![event("t", None, None, 1)], Vec::new()).await;
    assert_eq!((more[0].seq, more[0].duplicate), (3, false), "no seq was lost");
    assert_eq!(hasty.read(&topic("t"), 0, 10, 10_000).await.unwrap().read_to, 3);
}

#[tokio::test]
async fn conflicts_and_elections_are_waited_out() {
    let _turn = TURN.lock().await;
    for (command, code) in [("insert", 112), ("update", 10_107), ("insert", 11_602), ("update", 189)] {
        let (store, faults) = server().await;
        let labels = ["TransientTransactionError"];
        faults.set(doc! { "times": 2 }, command, doc! { "errorCode": code, "errorLabels": labels }).await;
        let committed = commit(&store, three(), vec![put("t", "g", 1)]).await;
        assert!(committed.iter().all(|appended| !appended.duplicate));
        faults.off().await;
        stands_once(&store).await;
    }
}

#[tokio::test]
async fn a_primary_that_hangs_is_given_up_in_time_and_asked_again() {
    let _turn = TURN.lock().await;
    let (store, faults) = server().await;
    let hang = doc! { "blockConnection": true, "blockTimeMS": 30_000 };
    faults.set(doc! { "times": 1 }, "insert", hang).await;
    let since = Instant::now();
    let committed = commit(&store, three(), Vec::new()).await;
    assert!(committed.iter().all(|appended| !appended.duplicate));
    assert!(since.elapsed() < Duration::from_secs(20), "it was waited for: {:?}", since.elapsed());
    faults.off().await;
    stands_once(&store).await;
}

#[tokio::test]
async fn what_will_never_work_is_said_at_once() {
    let _turn = TURN.lock().await;
    let (store, faults) = server().await;
    faults.set("alwaysOn", "insert", doc! { "errorCode": 13 }).await;
    let since = Instant::now();
    let error = store.commit(Batch { now: 1, appends: three(), cursors: Vec::new() }).await.unwrap_err();
    assert_eq!(error, StoreError::Unavailable("the store cannot be written at the moment".into()));
    assert!(since.elapsed() < store.inner.options.commit_deadline / 2, "{:?}", since.elapsed());
    faults.off().await;
    assert_eq!(store.tail(&topic("t")).await, Ok(None), "nothing of it is there");
    commit(&store, three(), Vec::new()).await;
    stands_once(&store).await;
}

/// The stream of changes lags behind. What it then tells of the log that went is of no use to anybody.
#[tokio::test]
async fn what_is_heard_late_of_a_log_that_this_hub_removed_is_not_told() {
    let _turn = TURN.lock().await;
    let (here, faults) = server().await;
    let there = faults.other(&here).await;
    commit(&there, vec![event("t", None, None, 1)], Vec::new()).await;
    let mut hears = Hears::new(&here);
    hears.until(&("t".to_owned(), Change::Grown(1))).await;
    let slow = doc! { "blockConnection": true, "blockTimeMS": 3_000 };
    let met = faults.set("alwaysOn", "getMore", slow).await;
    faults.met(met + 1).await;
    commit(&there, (0..99).map(|_| event("t", None, None, 1)).collect(), Vec::new()).await;
    assert_eq!(here.remove_topic(&topic("t"), None).await, Ok(true));
    while hears.changes.try_recv().is_ok() {}
    faults.off().await;
    commit(&there, vec![event("end", None, None, 1)], Vec::new()).await;
    let end = ("end".to_owned(), Change::Grown(1));
    assert_eq!(hears.until(&end).await, std::slice::from_ref(&end));
    // The log that comes then is told of.
    commit(&there, vec![event("t", None, None, 1)], Vec::new()).await;
    assert_eq!(hears.until(&("t".to_owned(), Change::Grown(1))).await.len(), 1);
}

/// The stream of changes broke, and the first time that the topics were to be read that failed too.
#[tokio::test]
async fn removals_that_a_stream_missed_are_told_when_the_topics_can_be_read_again() {
    let _turn = TURN.lock().await;
    let (here, faults) = server().await;
    let there = faults.other(&here).await;
    commit(&there, vec![event("t", None, None, 1), event("stays", None, None, 1)], Vec::new()).await;
    let mut hears = Hears::new(&here);
    hears.until(&("t".to_owned(), Change::Grown(1))).await;
    // Its place in the oplog is gone: it is not taken up again but opened anew.
    let lost = doc! { "failCommands": ["getMore", "find"], "errorCode": 286 };
    let met = faults.set("alwaysOn", "getMore", lost).await;
    faults.met(met + 1).await;
    assert_eq!(there.remove_topic(&topic("t"), None).await, Ok(true));
    faults.met(met + 4).await;
    faults.off().await;
    commit(&there, vec![event("end", None, None, 1)], Vec::new()).await;
    let heard = hears.until(&("end".to_owned(), Change::Grown(1))).await;
    assert!(heard.contains(&("t".to_owned(), Change::Removed)), "{heard:?}");
}

/// It was one refusal among others, and nobody was told that it lasts.
#[tokio::test]
async fn that_the_servers_disk_is_full_is_said_until_it_takes_something_again() {
    let _turn = TURN.lock().await;
    let (store, faults) = server().await;
    faults.set("alwaysOn", "insert", doc! { "errorCode": 14031 }).await;
    let batch = || Batch { now: 1, appends: three(), cursors: Vec::new() };
    store.commit(batch()).await.unwrap_err();
    let why = store.full().expect("it is full");
    assert!(why.contains("MongoDB's disk is full"), "{why}");
    faults.off().await;
    store.ready().await.unwrap();
    assert_eq!(store.full(), None, "it has taken a write");
    faults.set("alwaysOn", "insert", doc! { "errorCode": 14031 }).await;
    store.commit(batch()).await.unwrap_err();
    assert!(store.full().is_some());
    faults.off().await;
    store.commit(batch()).await.unwrap();
    assert_eq!(store.full(), None, "it has taken events");
    stands_once(&store).await;
}
