//! Without a group: following a topic, and keeping the newest event of each key.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    check::{Outcome, check, check_eq, until_polled},
    driver::Driver,
    scenario::{Scenario, scenario},
    stage::Stage,
    tap::Side,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(
            a_live_subscription_follows_in_order,
            [Live],
            "Five hundred events come once each, in order, and nothing is acknowledged."
        ),
        scenario!(
            a_live_subscription_begins_where_it_is_told,
            [Live],
            "From a seq on; and without a word from now on."
        ),
        scenario!(
            what_the_log_has_dropped_is_told_as_a_gap,
            [Live],
            Small,
            "The log has dropped what a subscription begins with: a gap with its first and last seq, then the rest."
        ),
        scenario!(
            a_live_subscription_goes_on_after_a_cut,
            [Live, Reconnect],
            "The line is cut while nothing happens: what is published afterwards comes."
        ),
        scenario!(
            a_watch_begins_with_the_newest_of_each_key,
            [Watch],
            "A thousand events of a hundred keys, and then changes."
        ),
        scenario!(a_watch_of_nothing_is_complete, [Watch], "A topic without events: the view is there, and empty."),
        scenario!(
            a_watch_equals_the_newest_of_each_key_after_cuts,
            [Watch, Reconnect],
            "Keys change through ten cuts: in the end the view is what the log says."
        ),
        scenario!(
            a_watch_forgets_what_a_new_snapshot_does_not_have,
            [Watch, Reconnect],
            "The hub comes back without its events: keys that are gone leave the view."
        ),
    ]
}

async fn a_live_subscription_follows_in_order(stage: &Stage) -> Outcome {
    const EVENTS: u64 = 500;
    let client = stage.client().await?;
    client.ask("live", json!({"topic": "a", "options": {"from": "earliest"}})).await?;
    stage.publish("a", (0..EVENTS).map(|n| (json!(n), json!({})))).await?;
    let given = client.until_given(None, EVENTS as usize).await?;
    let payloads: Vec<_> = given.iter().filter_map(|given| given.payload.as_u64()).collect();
    check!(payloads.iter().copied().eq(0..EVENTS), "events are missing or not in their order: {payloads:?}");
    client.ask("publish", json!({"topic": "other", "payload": 1})).await?;
    let sent = stage.tap.count(Side::Client, "ACK") + stage.tap.count(Side::Client, "NACK");
    check_eq!(sent, 0, "how many acknowledgements were sent");
    Ok(())
}

async fn a_live_subscription_begins_where_it_is_told(stage: &Stage) -> Outcome {
    let (one, two) = (stage.client().await?, stage.client().await?);
    stage.publish("a", (1..=5).map(|n| (json!(n), json!({})))).await?;
    one.ask("live", json!({"topic": "a", "options": {"from": "afterSeq", "afterSeq": 3}})).await?;
    let seqs: Vec<_> = one.until_given(None, 2).await?.iter().map(|given| given.seq).collect();
    check_eq!(seqs, [4, 5], "the seqs that come");
    two.ask("live", json!({"topic": "a"})).await?;
    stage.publish("a", [(json!(6), json!({}))]).await?;
    let seqs: Vec<_> = two.until_given(None, 1).await?.iter().map(|given| given.seq).collect();
    check_eq!(seqs, [6], "the seqs that come from now on");
    Ok(())
}

async fn what_the_log_has_dropped_is_told_as_a_gap(stage: &Stage) -> Outcome {
    const EVENTS: u64 = 2_000;
    stage.publish("a", (1..=EVENTS).map(|n| (json!([n, "x".repeat(1_000)]), json!({})))).await?;
    let first = stage.stored("a").await?.first().and_then(|event| event["seq"].as_u64()).unwrap_or_default();
    check!(first > 1, "the hub has dropped nothing");
    let client = stage.client().await?;
    client.ask("live", json!({"topic": "a", "options": {"from": "afterSeq", "afterSeq": 0}})).await?;
    let gap = client.told("gap", |_| true).await?;
    check_eq!(
        (gap["topic"].as_str(), gap["from"].as_u64(), gap["to"].as_u64()),
        (Some("a"), Some(1), Some(first - 1)),
        "topic, first and last seq of the gap"
    );
    let given = client.until_given(None, (EVENTS - first + 1) as usize).await?;
    check!(given.iter().map(|given| given.seq).eq(first..=EVENTS), "what follows the gap is not the rest of the log");
    Ok(())
}

async fn a_live_subscription_goes_on_after_a_cut(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    client.ask("live", json!({"topic": "a"})).await?;
    for round in 1..=3 {
        stage.publish("a", [(json!(round), json!({}))]).await?;
        let came = |given: &[crate::driver::Given]| given.iter().any(|given| given.payload == round).then_some(());
        client.until_among(&format!("the event of round {round}"), came).await?;
        stage.relay.cut().await;
        // With the hub's answer the subscription is there again.
        let answers = round + 1;
        stage
            .tap
            .until("the subscription to be there again", |seen| {
                let subscribed = |seen: &&crate::tap::Seen| seen.is(Side::Hub, "OK") && seen.frame["group"].is_string();
                (seen.iter().filter(subscribed).count() >= answers).then_some(())
            })
            .await?;
    }
    Ok(())
}

type Keys = BTreeMap<String, Value>;

/// What the driver's view has now.
async fn view(client: &Driver) -> Result<Keys, crate::check::Failure> {
    let answer = client.ask("view", json!({"topic": "a"})).await?;
    let entries = answer.as_object().cloned().unwrap_or_default();
    Ok(entries.into_iter().collect())
}

/// Waits until the view is what it should be.
async fn until_view(stage: &Stage, client: &Driver, wanted: &Keys) -> Outcome {
    until_polled(stage.patience(), "the view to hold the newest of each key", async || {
        let found = view(client).await?;
        if found == *wanted {
            return Ok(Ok(()));
        }
        let differs = |key: &&String| found.get(*key) != wanted.get(*key);
        let wrong = found.keys().chain(wanted.keys()).find(differs).cloned().unwrap_or_default();
        Ok(Err((found.len(), wrong.clone(), found.get(&wrong).cloned(), wanted.get(&wrong).cloned())))
    })
    .await
}

fn keyed(n: u64, keys: u64) -> (Value, Value) {
    (json!(n), json!({"key": format!("k{}", n % keys)}))
}

/// The newest of each key, as the log has it.
async fn newest(stage: &Stage) -> Result<Keys, crate::check::Failure> {
    let stored = stage.stored("a").await?;
    Ok(stored.iter().filter_map(|event| Some((event["key"].as_str()?.to_owned(), event["payload"].clone()))).collect())
}

async fn a_watch_begins_with_the_newest_of_each_key(stage: &Stage) -> Outcome {
    stage.publish("a", (0..1_000).map(|n| keyed(n, 100))).await?;
    let client = stage.client().await?;
    client.ask("watch", json!({"topic": "a"})).await?;
    // It is complete when it is there.
    check_eq!(view(&client).await?, newest(stage).await?, "the view when watch has resolved");
    stage.publish("a", (1_000..1_150).map(|n| keyed(n, 110))).await?;
    until_view(stage, &client, &newest(stage).await?).await
}

async fn a_watch_of_nothing_is_complete(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    client.ask("watch", json!({"topic": "a"})).await?;
    check_eq!(view(&client).await?.len(), 0, "how many keys there are");
    stage.publish("a", [keyed(1, 10)]).await?;
    until_view(stage, &client, &Keys::from([("k1".to_owned(), json!(1))])).await
}

async fn a_watch_equals_the_newest_of_each_key_after_cuts(stage: &Stage) -> Outcome {
    stage.publish("a", (0..200).map(|n| keyed(n, 50))).await?;
    let client = stage.client().await?;
    client.ask("watch", json!({"topic": "a"})).await?;
    stage.relay.pieces(500);
    let mut dice = stage.dice();
    for round in 1..=10_u64 {
        stage.publish("a", (0..dice.u64(1..40)).map(|n| keyed(1_000 * round + n, 50))).await?;
        stage.relay.hang_up().await;
    }
    until_view(stage, &client, &newest(stage).await?).await
}

async fn a_watch_forgets_what_a_new_snapshot_does_not_have(stage: &Stage) -> Outcome {
    stage.publish("a", (0..10).map(|n| keyed(n, 10))).await?;
    let client = stage.client().await?;
    client.ask("watch", json!({"topic": "a"})).await?;
    check_eq!(view(&client).await?.len(), 10, "how many keys there are");
    // This one has its events in memory.
    stage.kill_hub().await?;
    stage.publish("a", [(json!("new"), json!({"key": "k3"}))]).await?;
    until_view(stage, &client, &Keys::from([("k3".to_owned(), json!("new"))])).await
}
