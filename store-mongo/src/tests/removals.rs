//! Topics that are removed, by one hub and by several.

use prom_protocol::ErrorCode;
use tokio::{sync::mpsc, task::JoinHandle};

use super::*;

#[tokio::test]
async fn topics_that_are_removed_make_room_for_others() {
    let store = open(&fresh().await).await as Arc<dyn Store>;
    prom_store::conformance::topics_that_are_removed_make_room_for_others(&store).await;
}

#[tokio::test]
async fn positions_alone_use_no_topics_up() {
    let store = open(&fresh().await).await as Arc<dyn Store>;
    prom_store::conformance::positions_alone_use_no_topics_up(&store).await;
}

/// What was made for the positions of one group is deleted with them, but not where another group begins at that moment.
#[tokio::test]
async fn a_group_that_begins_while_the_last_position_goes_is_found() {
    const TOPICS: usize = 100;
    let options = fresh().await;
    let (here, there) = (open(&options).await, open(&options).await);
    let puts = |group| (0..TOPICS).map(move |n| put(&format!("t{n}"), group, 0));
    commit(&here, Vec::new(), puts("g").collect()).await;
    let removed = async {
        for n in 0..TOPICS {
            here.remove_cursors(&[(topic(&format!("t{n}")), Group::new("g").unwrap())]).await.unwrap();
        }
    };
    let begun = async {
        for one in puts("h") {
            commit(&there, Vec::new(), vec![one]).await;
        }
    };
    tokio::join!(removed, begun);
    let found = here.all_topics().await.unwrap();
    assert_eq!(found.len(), TOPICS);
    for (topic, _) in found {
        let groups: Vec<_> = here.cursors(&topic).await.unwrap().into_iter().map(|(group, _)| group).collect();
        assert_eq!(groups, [Group::new("h").unwrap()], "{topic}");
    }
}

/// One hub removes what another one has in memory, and publishes there again.
#[tokio::test]
async fn a_hub_that_does_not_know_of_a_removal_writes_to_the_new_log() {
    let options = fresh().await;
    let (here, there) = (open(&options).await, open(&options).await);
    commit(&here, (0..5).map(|_| event("t", None, Some("k"), 1)).collect(), vec![put("t", "g", 5)]).await;
    let before = tail(&here, "t").await;
    assert_eq!(there.remove_topic(&topic("t"), None).await, Ok(true));
    assert_eq!(commit(&here, vec![event("t", None, None, 1)], Vec::new()).await[0].seq, 1);
    let after = tail(&here, "t").await;
    assert!(after.epoch != before.epoch && after.seq == 1);
    assert_eq!(seqs(&here, "t").await, [1], "not what it has in memory");
    assert_eq!(here.latest(&topic("t"), "k").await.unwrap().map(|event| event.seq), None);
    // A position of before, which it stores late.
    let stale = Cursor { epoch: before.epoch, floor: 5, delivered: 5, ..Cursor::default() };
    let group = Group::new("g").unwrap();
    commit(&here, Vec::new(), vec![CursorPut { topic: topic("t"), group: group.clone(), cursor: stale }]).await;
    assert_eq!(there.cursor(&topic("t"), &group).await, Ok(None));
}

/// The hub ended when it had claimed the topic and deleted nothing.
#[tokio::test]
async fn a_removal_that_was_cut_short_is_finished() {
    let options = Options { upkeep_every: Duration::from_millis(50), ..fresh().await };
    let store = open(&Options { upkeep_every: Duration::from_secs(3600), ..options.clone() }).await;
    commit(&store, (0..2_500).map(|_| event("t", None, Some("k"), 1)).collect(), Vec::new()).await;
    let was = tail(&store, "t").await.epoch;
    let at = |group: &str, epoch, floor| {
        let cursor = Cursor { epoch, floor, delivered: floor, ..Cursor::default() };
        CursorPut { topic: topic("t"), group: Group::new(group).unwrap(), cursor }
    };
    let epoch = long(was);
    let topics = store.database().collection::<Document>("topics");
    let claim = doc! { "$set": { "removed": epoch, "epoch": 0_i64, "bytes": 0_i64 } };
    topics.update_one(doc! { "_id": "t" }, claim).await.unwrap();
    assert_eq!(store.tail(&topic("t")).await, Ok(None), "nobody sees it");
    assert_eq!(store.topics().await, Ok(Vec::new()));
    assert!(store.latest(&topic("t"), "k").await.unwrap().is_none());
    // One that was stored late, one of a group that has begun since, and one of a later log.
    commit(&store, Vec::new(), vec![at("late", was, 3), at("begun", 0, 0), at("later", was ^ 1, 2)]).await;
    // Who publishes there is told to come again until another hub has finished.
    let other = open(&options).await;
    assert_eq!(publish_until_it_may(&store, "t").await, 1);
    assert_eq!(seqs(&other, "t").await, [1]);
    let cursors = store.database().collection::<Document>("cursors");
    let mut left = cursors.distinct("group", doc! { "topic": "t" }).await.unwrap();
    left.sort_by_key(ToString::to_string);
    assert_eq!(left, ["begun".into(), "later".into()]);
    let events = store.database().collection::<Document>("events");
    assert_eq!(events.count_documents(doc! {}).await.unwrap(), 1);
}

/// Without the topic's document there is nothing that could be as it was seen.
#[tokio::test]
async fn positions_without_a_topic_go_only_if_all_is_to_go() {
    let store = open(&fresh().await).await;
    commit(&store, Vec::new(), vec![put("t", "g", 0)]).await;
    store.database().collection::<Document>("topics").delete_many(doc! {}).await.unwrap();
    let seen = Tail { epoch: 0, first: 1, seq: 0 };
    assert_eq!(store.remove_topic(&topic("t"), Some(seen)).await, Ok(false));
    assert_eq!(store.cursors(&topic("t")).await.unwrap().len(), 1);
    assert_eq!(store.remove_topic(&topic("t"), None).await, Ok(true));
    assert_eq!(store.cursors(&topic("t")).await, Ok(Vec::new()));
}

/// It begins before the removal, which then is none, or behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_begins_while_an_idle_topic_goes_keeps_its_position() {
    let options = fresh().await;
    let (here, there) = (open(&options).await, open(&options).await);
    for round in 0..40 {
        let name = format!("t{round}");
        commit(&here, vec![event(&name, None, None, 1)], Vec::new()).await;
        let (seen, gone) = (tail(&here, &name).await, topic(&name));
        let begin = async {
            // Each round somewhat later.
            tokio::time::sleep(Duration::from_micros(round * 100)).await;
            commit(&there, Vec::new(), vec![put(&name, "g", 0)]).await;
        };
        let (removed, ()) = tokio::join!(here.remove_topic(&gone, Some(seen)), begin);
        assert_eq!(there.cursors(&gone).await.unwrap().len(), 1, "round {round}: {removed:?}");
    }
}

/// What a hub that does not know of the removal stores late is nothing against the positions in the log that came then.
#[tokio::test]
async fn a_late_position_of_a_log_that_went_overwrites_none() {
    let store = open(&fresh().await).await;
    commit(&store, vec![event("t", None, None, 1)], Vec::new()).await;
    let before = tail(&store, "t").await.epoch;
    assert_eq!(store.remove_topic(&topic("t"), None).await, Ok(true));
    commit(&store, vec![event("t", None, None, 1), event("t", None, None, 1)], Vec::new()).await;
    let after = tail(&store, "t").await.epoch;
    let group = Group::new("g").unwrap();
    let at = |epoch, floor| {
        let cursor = Cursor { epoch, floor, delivered: floor, ..Cursor::default() };
        CursorPut { topic: topic("t"), group: group.clone(), cursor }
    };
    // Where there is none yet, the late one stands in nobody's way.
    for (put, floor) in
        [(at(before, 9), None), (at(after, 1), Some(1)), (at(before, 9), Some(1)), (at(after, 2), Some(2))]
    {
        commit(&store, Vec::new(), vec![put]).await;
        let found = store.cursor(&topic("t"), &group).await.unwrap();
        assert_eq!(found.map(|cursor| cursor.floor), floor);
        assert_eq!(store.topics_of(&group).await.unwrap().len(), usize::from(floor.is_some()));
    }
}

/// Publishes again and again while the topic is being removed; the seq.
async fn publish_until_it_may(store: &MongoStore, on: &str) -> u64 {
    until("the topic is removed", async || {
        let batch = Batch { now: 1, appends: vec![event(on, Some("again"), None, 1)], cursors: Vec::new() };
        match store.commit(batch).await.unwrap().remove(0) {
            Ok(appended) => {
                assert!(!appended.duplicate);
                Some(appended.seq)
            }
            Err(refusal) => {
                assert_eq!(refusal.code(), ErrorCode::StoreUnavailable);
                None
            }
        }
    })
    .await
}

/// They waited for it, and failed with it when the deadline was over.
#[tokio::test]
async fn a_topic_that_is_being_removed_holds_up_no_other() {
    let options = Options { upkeep_every: Duration::from_secs(3600), ..fresh().await };
    let store = open(&Options { commit_deadline: Duration::from_secs(5), ..options.clone() }).await;
    commit(&store, vec![event("t", Some("again"), None, 1)], Vec::new()).await;
    let epoch = long(tail(&store, "t").await.epoch);
    let topics = store.database().collection::<Document>("topics");
    let claim = doc! { "$set": { "removed": epoch, "epoch": 0_i64, "bytes": 0_i64 } };
    topics.update_one(doc! { "_id": "t" }, claim).await.unwrap();
    // The id of the first is in the log that goes, and is taken there.
    for id in ["again", "new"] {
        let appends = vec![event("t", Some(id), None, 1), event("other", None, None, 1)];
        let done = store.commit(Batch { now: 1, appends, cursors: Vec::new() }).await.unwrap();
        assert_eq!(done[0].as_ref().unwrap_err().code(), ErrorCode::StoreUnavailable);
        assert!(done[1].is_ok());
    }
    assert_eq!(seqs(&store, "other").await, [1, 2]);
}

/// Nobody waits for an upkeep, be there as much as there may.
#[tokio::test]
async fn a_large_topic_is_removed_behind_the_answer() {
    let options = Options { upkeep_every: Duration::from_secs(3600), ..fresh().await };
    let store = open(&options).await;
    for _ in 0..3 {
        commit(&store, (0..3_000).map(|_| event("t", None, None, 1)).collect(), vec![put("t", "g", 3)]).await;
    }
    assert_eq!(store.remove_topic(&topic("t"), None).await, Ok(true));
    assert_eq!(store.tail(&topic("t")).await, Ok(None));
    let done = store.commit(Batch { now: 1, appends: vec![event("other", None, None, 1)], cursors: Vec::new() }).await;
    assert!(done.unwrap()[0].is_ok());
    assert_eq!(publish_until_it_may(&store, "t").await, 1);
    assert_eq!((seqs(&store, "t").await, store.cursors(&topic("t")).await), (vec![1], Ok(Vec::new())));
    let events = store.database().collection::<Document>("events");
    assert_eq!(events.count_documents(doc! { "topic": "t" }).await.unwrap(), 1);
}

/// What a store's follower hears.
pub(super) struct Hears {
    pub(super) changes: mpsc::UnboundedReceiver<(String, Change)>,
    _task: JoinHandle<()>,
}

impl Hears {
    pub(super) fn new(store: &Arc<MongoStore>) -> Self {
        let (heard, changes) = mpsc::unbounded_channel();
        let store = Arc::clone(store);
        let told = move |topic: &Topic, change| drop(heard.send((topic.to_string(), change)));
        Self { changes, _task: tokio::spawn(async move { store.follow(Box::new(told)).await }) }
    }

    async fn next(&mut self) -> (String, Change) {
        tokio::time::timeout(PATIENCE, self.changes.recv()).await.unwrap().unwrap()
    }

    /// All that is heard until then.
    pub(super) async fn until(&mut self, last: &(String, Change)) -> Vec<(String, Change)> {
        let mut heard = Vec::new();
        loop {
            heard.push(self.next().await);
            if heard.last() == Some(last) {
                return heard;
            }
        }
    }
}

/// The one that comes too late took the other's removal for its own when it heard of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_hubs_that_remove_a_topic_at_once_one_hears_of_it() {
    let options = fresh().await;
    let stores = [open(&options).await, open(&options).await];
    let mut hear = stores.each_ref().map(Hears::new);
    for round in 0..20 {
        let name = format!("t{round}");
        commit(&stores[0], vec![event(&name, None, None, 1)], Vec::new()).await;
        for hears in &mut hear {
            hears.until(&(name.clone(), Change::Grown(1))).await;
        }
        let gone = topic(&name);
        let (here, there) = tokio::join!(stores[0].remove_topic(&gone, None), stores[1].remove_topic(&gone, None));
        let removed = [here.unwrap(), there.unwrap()];
        assert_eq!(removed.iter().filter(|removed| **removed).count(), 1, "one of them does it");
        let end = format!("end{round}");
        commit(&stores[0], vec![event(&end, None, None, 1)], Vec::new()).await;
        for (hears, removed) in hear.iter_mut().zip(removed) {
            let heard = hears.until(&(end.clone(), Change::Grown(1))).await;
            let told = heard.contains(&(name.clone(), Change::Removed));
            assert_eq!(told, !removed, "who has not done it hears of it, once: {heard:?}");
        }
    }
}
