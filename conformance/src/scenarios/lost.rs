//! What is lost with a connection: answers to calls that are open, acknowledgements, the hub itself.

use std::sync::Arc;

use serde_json::json;

use super::{join, numbers};
use crate::{
    check::{Failure, Outcome, check, check_eq},
    driver::{Call, Driver, Given},
    scenario::{Scenario, scenario},
    stage::Stage,
    tap::{Side, Verdict},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(
            a_login_that_is_not_answered_is_tried_again,
            [Reconnect],
            "The hub says nothing to the first AUTH: the client leaves that connection and logs in by another."
        ),
        scenario!(
            a_subscribe_whose_answer_is_lost_is_answered_by_the_next_connection,
            [Subscribe, Reconnect],
            "The line is cut between SUBSCRIBE and its answer: the call resolves once there is a subscription."
        ),
        scenario!(
            what_was_left_stays_left_after_a_cut,
            [Subscribe, Unsubscribe, Reconnect],
            "The line is cut between UNSUBSCRIBE and its answer: the call resolves, and no event comes any more."
        ),
        scenario!(
            a_handler_that_ends_without_a_connection_has_its_event_settled,
            [Subscribe, Reconnect],
            "A handler ends while the line is down: its event comes again, whose lease is used, and is settled."
        ),
        scenario!(
            acknowledgements_that_are_lost_bring_the_events_again,
            [Subscribe, Reconnect],
            "Ten acknowledgements are lost with the connection: their events come again and are settled."
        ),
        scenario!(
            a_watch_whose_snapshot_is_cut_off_begins_again,
            [Watch, Reconnect],
            "The line is cut before the snapshot is complete: watch resolves with the snapshot of the next connection."
        ),
        scenario!(
            a_close_without_a_hub_ends_what_is_open,
            [Reconnect],
            "There is no hub and publishes wait: close resolves, and they are refused."
        ),
        scenario!(
            a_drain_without_a_hub_ends_in_its_time,
            [Reconnect, Drain],
            "There is no hub and publishes wait: a drain of half a second is over after that, and they are refused."
        ),
    ]
}

fn is_one(frame: &serde_json::Value, op: &str, field: &str) -> bool {
    frame["op"] == op && (field.is_empty() || frame.get(field).is_some())
}

/// Loses the hub's next frames of this op for which `lost` is there; cuts the line; from then on everything passes.
async fn lose(stage: &Stage, op: &'static str, field: &'static str) -> Outcome {
    let losing = move |seen: &crate::tap::Seen| seen.side == Side::Hub && is_one(&seen.frame, op, field);
    let before = stage.tap.seen().iter().filter(|seen| losing(seen)).count();
    let came = |seen: &std::collections::VecDeque<crate::tap::Seen>| {
        (seen.iter().filter(|seen| losing(seen)).count() > before).then_some(())
    };
    stage.tap.until(&format!("the hub's {op}, which is lost"), came).await?;
    stage.relay.away(true);
    stage.relay.hang_up().await;
    stage.tap.pass();
    stage.relay.away(false);
    Ok(())
}

/// From now on the hub's frames of this op that have this field do not arrive.
fn swallow(stage: &Stage, op: &'static str, field: &'static str) {
    stage.tap.rule(move |side, frame| {
        let lost = side == Side::Hub && is_one(frame, op, field);
        if lost { Verdict::Swallow } else { Verdict::Pass }
    });
}

async fn a_login_that_is_not_answered_is_tried_again(stage: &Stage) -> Outcome {
    let driver = stage.driver().await?;
    let mut lost = 1;
    stage.tap.rule(move |side, frame| {
        if side == Side::Hub && frame["op"] == "OK" && lost > 0 {
            lost -= 1;
            return Verdict::Swallow;
        }
        Verdict::Pass
    });
    driver.ask("connect", stage.connect(json!({}))).await?;
    check_eq!(stage.tap.count(Side::Client, "AUTH"), 2, "how often the client has logged in");
    driver.ask("publish", json!({"topic": "a", "payload": 1})).await?;
    Ok(())
}

async fn a_subscribe_whose_answer_is_lost_is_answered_by_the_next_connection(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    swallow(stage, "OK", "group");
    let call = client.begin("subscribe", join(json!({}), json!({"from": "earliest"})));
    lose(stage, "OK", "group").await?;
    call.ok().await?;
    stage.publish("a", numbers([1])).await?;
    client.until_given(Some("g"), 1).await?;
    stage.until_settled("a", "g").await
}

async fn what_was_left_stays_left_after_a_cut(stage: &Stage) -> Outcome {
    let (client, other) = (stage.client().await?, stage.client().await?);
    client.ask("subscribe", join(json!({}), json!({"from": "earliest"}))).await?;
    swallow(stage, "OK", "");
    let call = client.begin("unsubscribe", json!({"topic": "a", "group": "g"}));
    lose(stage, "OK", "").await?;
    call.ok().await?;
    client.until_state("ready", 2).await?;
    other.until_state("ready", 2).await?;
    other.ask("subscribe", join(json!({}), json!({"from": "earliest"}))).await?;
    stage.publish("a", numbers(0..50)).await?;
    other.until_given(Some("g"), 50).await?;
    check_eq!(client.given(Some("g")).len(), 0, "how much the one that left was given");
    stage.until_settled("a", "g").await
}

async fn a_handler_that_ends_without_a_connection_has_its_event_settled(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    let options = json!({"from": "earliest", "maxAttempts": 1_000});
    client.ask("subscribe", join(json!({"hold": true}), options)).await?;
    stage.publish("a", numbers(0..5)).await?;
    client.until_given(Some("g"), 5).await?;
    stage.relay.away(true);
    stage.relay.hang_up().await;
    client.until_state("reconnecting", 1).await?;
    client.ask("release", json!({})).await?;
    stage.relay.away(false);
    stage.until_settled("a", "g").await
}

async fn acknowledgements_that_are_lost_bring_the_events_again(stage: &Stage) -> Outcome {
    const EVENTS: u64 = 10;
    let client = stage.client().await?;
    stage.tap.rule(|side, frame| {
        let lost = side == Side::Client && frame["op"] == "ACK";
        if lost { Verdict::Swallow } else { Verdict::Pass }
    });
    let options = json!({"from": "earliest", "maxAttempts": 1_000});
    client.ask("subscribe", join(json!({}), options)).await?;
    stage.publish("a", numbers(0..EVENTS)).await?;
    stage.tap.until_count(Side::Client, "ACK", EVENTS as usize).await?;
    stage.relay.away(true);
    stage.relay.hang_up().await;
    stage.tap.pass();
    stage.relay.away(false);
    stage.until_settled("a", "g").await?;
    let again = |given: &[Given]| (given.iter().filter(|given| given.attempt > 1).count() >= 10).then_some(());
    client.until_among("the ten events a second time", again).await
}

async fn a_watch_whose_snapshot_is_cut_off_begins_again(stage: &Stage) -> Outcome {
    stage.publish("a", (0..100_u64).map(|n| (json!(n), json!({"key": format!("k{n}")})))).await?;
    let client = stage.client().await?;
    swallow(stage, "LIVE", "");
    let call = client.begin("watch", json!({"topic": "a"}));
    lose(stage, "LIVE", "").await?;
    call.ok().await?;
    let view = client.ask("view", json!({"topic": "a"})).await?;
    check_eq!(view.as_object().map(serde_json::Map::len), Some(100), "how many keys the view has");
    check!(view["k42"] == 42, "a key has another value: {}", view["k42"]);
    Ok(())
}

async fn a_close_without_a_hub_ends_what_is_open(stage: &Stage) -> Outcome {
    let (client, calls) = publishes_without_a_hub(stage).await?;
    client.ask("close", json!({})).await?;
    are_refused_at_the_end(&client, calls).await
}

async fn a_drain_without_a_hub_ends_in_its_time(stage: &Stage) -> Outcome {
    let (client, calls) = publishes_without_a_hub(stage).await?;
    // It may resolve or tell that it did not end well; it must end.
    let _ = client.begin("close", json!({"drain": true, "timeoutMs": 500})).answer().await?;
    are_refused_at_the_end(&client, calls).await
}

/// A client whose hub is away, and publishes that wait for it.
async fn publishes_without_a_hub(stage: &Stage) -> Result<(Arc<Driver>, Vec<Call>), Failure> {
    let client = stage.client().await?;
    stage.relay.away(true);
    stage.relay.hang_up().await;
    client.until_state("reconnecting", 1).await?;
    let calls = (0..10).map(|n| client.begin("publish", json!({"topic": "a", "payload": n}))).collect();
    Ok((client, calls))
}

async fn are_refused_at_the_end(client: &Driver, calls: Vec<Call>) -> Outcome {
    for call in calls {
        let answer = call.answer().await?;
        check!(answer.is_err(), "a publish without a hub was answered {answer:?}");
    }
    client.told("state", |state| state == "closed").await.map(drop)
}
