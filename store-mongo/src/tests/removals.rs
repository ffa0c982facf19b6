//! Topics that are removed, by one hub and by several.

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
    // Who publishes there waits until another hub has finished.
    let other = open(&options).await;
    assert_eq!(commit(&store, vec![event("t", None, None, 1)], Vec::new()).await[0].seq, 1);
    assert_eq!((seqs(&other, "t").await, other.cursors(&topic("t")).await.unwrap().len()), (vec![1], 0));
    let events = store.database().collection::<Document>("events");
    assert_eq!(events.count_documents(doc! {}).await.unwrap(), 1);
}
