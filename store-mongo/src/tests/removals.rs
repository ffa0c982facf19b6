//! Topics that are removed, by one hub and by several.

use prom_protocol::ErrorCode;

use super::*;

#[tokio::test]
async fn topics_that_are_removed_make_room_for_others() {
    let store = open(&fresh().await).await as Arc<dyn Store>;
    prom_store::conformance::topics_that_are_removed_make_room_for_others(&store).await;
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
    commit(&store, (0..2_500).map(|_| event("t", None, Some("k"), 1)).collect(), vec![put("t", "g", 3)]).await;
    let epoch = long(tail(&store, "t").await.epoch);
    let topics = store.database().collection::<Document>("topics");
    let claim = doc! { "$set": { "removed": epoch, "epoch": 0_i64, "bytes": 0_i64 } };
    topics.update_one(doc! { "_id": "t" }, claim).await.unwrap();
    assert_eq!(store.tail(&topic("t")).await, Ok(None), "nobody sees it");
    assert_eq!(store.topics().await, Ok(Vec::new()));
    assert!(store.latest(&topic("t"), "k").await.unwrap().is_none());
    // Who publishes there is told to come again until another hub has finished.
    let other = open(&options).await;
    assert_eq!(publish_until_it_may(&store, "t").await, 1);
    assert_eq!((seqs(&other, "t").await, other.cursors(&topic("t")).await.unwrap().len()), (vec![1], 0));
    let events = store.database().collection::<Document>("events");
    assert_eq!(events.count_documents(doc! {}).await.unwrap(), 1);
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
