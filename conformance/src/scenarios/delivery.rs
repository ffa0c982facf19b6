//! One delivery: what the handler sees, what becomes of it, the lease in between.

use std::{collections::VecDeque, sync::Arc};

use serde_json::{Value, json};

use super::{join, numbers};
use crate::{
    check::{Failure, Outcome, check, check_eq},
    driver::Driver,
    scenario::{Scenario, scenario},
    stage::Stage,
    tap::{Seen, Side, Verdict},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(
            a_handler_sees_what_the_publisher_said,
            [Subscribe],
            "Id, time, key, session, headers, tags and payload arrive as they were."
        ),
        scenario!(
            what_a_handler_finished_is_acknowledged,
            [Subscribe],
            "Twenty events are handled, and the hub has all of them settled."
        ),
        scenario!(
            a_failed_handler_gets_its_event_again_then_it_is_a_dead_letter,
            [Subscribe],
            "A handler fails twice of two attempts: the event is a dead letter with its reason, and settled."
        ),
        scenario!(
            no_more_events_are_held_than_was_asked_for,
            [Subscribe],
            "maxInFlight is two: two handlers at work, and the others wait in the hub."
        ),
        scenario!(
            what_needs_no_acknowledgement_gets_none,
            [Subscribe],
            "With ack none every event comes once and nothing is sent back."
        ),
        scenario!(
            an_expired_lease_brings_the_event_again,
            [Subscribe],
            "A handler takes longer than its lease, which is not extended: its event comes again, and is settled."
        ),
        scenario!(
            a_lease_is_kept_while_its_handler_runs,
            [Subscribe, Extend],
            "A handler takes several leases of a second: they are extended, and the event is handled once."
        ),
        scenario!(
            an_event_that_comes_again_is_not_handled_beside_itself,
            [Subscribe, Exclusive],
            "The lease of a running handler expires: its event comes again, runs once at a time, and is settled."
        ),
        scenario!(
            an_event_that_comes_again_after_a_cut_is_not_handled_beside_itself,
            [Subscribe, Exclusive, Reconnect],
            "The line is cut three times under a running handler: its event runs once at a time, and is settled."
        ),
    ]
}

/// A client whose handler does this with the events of `a`, as a member of `g`.
async fn member(stage: &Stage, handler: Value, options: Value) -> Result<Arc<Driver>, Failure> {
    let client = stage.client().await?;
    client.ask("subscribe", join(handler, options)).await?;
    Ok(client)
}

async fn a_handler_sees_what_the_publisher_said(stage: &Stage) -> Outcome {
    let client = member(stage, json!({}), json!({})).await?;
    let options = json!({
        "id": "mine",
        "ts": 1_767_225_600_000_u64,
        "key": "k\u{E9}y",
        "sid": "s",
        "headers": {"h": "ü\u{9}"},
        "tags": ["t", "u"],
    });
    let payload =
        json!({"text": "ä\"\\\u{2028}\u{1F600}", "n": [0, -1.5, 1e21, 9_007_199_254_740_991_u64], "no": null});
    client.ask("publish", json!({"topic": "a", "payload": payload, "options": options})).await?;
    let given = client.until_given(Some("g"), 1).await?;
    let event = &given[0].event;
    check_eq!(event["payload"], payload, "the payload");
    for (name, value) in options.as_object().into_iter().flatten() {
        check_eq!(event[name], *value, "the event's {name}");
    }
    check_eq!((event["topic"].as_str(), given[0].seq, given[0].attempt), (Some("a"), 1, 1), "topic, seq and attempt");
    Ok(())
}

async fn what_a_handler_finished_is_acknowledged(stage: &Stage) -> Outcome {
    let client = member(stage, json!({}), json!({"from": "earliest"})).await?;
    stage.publish("a", numbers(0..20)).await?;
    let given = client.until_given(Some("g"), 20).await?;
    check!(given.iter().all(|given| given.attempt == 1), "an event came twice");
    stage.until_settled("a", "g").await?;
    check_eq!(client.given(Some("g")).len(), 20, "how many deliveries there were");
    Ok(())
}

async fn a_failed_handler_gets_its_event_again_then_it_is_a_dead_letter(stage: &Stage) -> Outcome {
    let handler = json!({"fail": "the card service is down"});
    let client = member(stage, handler, json!({"from": "earliest", "maxAttempts": 2})).await?;
    stage.publish("a", [(json!("bad"), json!({"id": "bad", "key": "k"}))]).await?;
    let attempts: Vec<_> = client.until_given(Some("g"), 2).await?.iter().map(|given| given.attempt).collect();
    check_eq!(attempts, [1, 2], "the attempts");
    stage.until_settled("a", "g").await?;
    let letters = stage.stored("dlq.a").await?;
    check_eq!(letters.len(), 1, "how many dead letters there are");
    check_eq!(letters[0]["payload"]["original"]["id"], json!("bad"), "whose dead letter it is");
    let reason = letters[0]["payload"]["err"].as_str().unwrap_or_default();
    check!(reason.contains("the card service is down"), "the dead letter does not say why: {reason:?}");
    check_eq!(client.given(Some("g")).len(), 2, "how many deliveries there were");
    Ok(())
}

async fn no_more_events_are_held_than_was_asked_for(stage: &Stage) -> Outcome {
    stage.publish("a", numbers(0..10)).await?;
    let client = member(stage, json!({"hold": true}), json!({"from": "earliest", "maxInFlight": 2})).await?;
    client.until_given(Some("g"), 2).await?;
    // Its answer comes after whatever the hub had sent.
    client.ask("publish", json!({"topic": "other", "payload": 1})).await?;
    check_eq!(client.given(Some("g")).len(), 2, "how many handlers are at work");
    check_eq!(stage.tap.count(Side::Hub, "EVENT"), 2, "how many events the hub has sent");
    client.ask("release", json!({})).await?;
    client.until_given(Some("g"), 10).await?;
    stage.until_settled("a", "g").await
}

async fn what_needs_no_acknowledgement_gets_none(stage: &Stage) -> Outcome {
    let client = member(stage, json!({}), json!({"from": "earliest", "ack": "none"})).await?;
    stage.publish("a", numbers(0..20)).await?;
    client.until_given(Some("g"), 20).await?;
    stage.until_settled("a", "g").await?;
    client.ask("publish", json!({"topic": "other", "payload": 1})).await?;
    let sent = stage.tap.count(Side::Client, "ACK") + stage.tap.count(Side::Client, "NACK");
    check_eq!(sent, 0, "how many acknowledgements were sent");
    Ok(())
}

/// Loses every extension on its way; the client is told that it has worked.
fn lose_extensions(stage: &Stage) {
    stage.tap.rule(|side, frame| {
        if side != Side::Client || frame["op"] != "MODACK" {
            return Verdict::Pass;
        }
        match frame.get("corr") {
            Some(corr) => Verdict::Answer(json!({"op": "OK", "corr": corr})),
            None => Verdict::Swallow,
        }
    });
}

async fn an_expired_lease_brings_the_event_again(stage: &Stage) -> Outcome {
    lose_extensions(stage);
    let short = json!({"from": "earliest", "ackTimeoutMs": 1_000, "maxAttempts": 1_000});
    let client = member(stage, json!({"hold": true}), short).await?;
    stage.publish("a", numbers([1])).await?;
    client.until_given(Some("g"), 1).await?;
    let second = |seen: &VecDeque<Seen>| seen.iter().find(|seen| seen.frame["ctx"]["attempt"] == 2).map(drop);
    stage.tap.until("the hub to deliver it a second time", second).await?;
    client.ask("release", json!({})).await?;
    stage.until_settled("a", "g").await
}

async fn a_lease_is_kept_while_its_handler_runs(stage: &Stage) -> Outcome {
    let short = json!({"from": "earliest", "ackTimeoutMs": 1_500});
    let client = member(stage, json!({"hold": true}), short).await?;
    stage.publish("a", numbers([1])).await?;
    client.until_given(Some("g"), 1).await?;
    stage.tap.until_count(Side::Client, "MODACK", 4).await?;
    client.ask("release", json!({})).await?;
    stage.until_settled("a", "g").await?;
    check_eq!(client.given(Some("g")).len(), 1, "how often the event was handled");
    let seen = stage.tap.seen();
    let deliveries = seen.iter().filter(|seen| seen.is(Side::Hub, "EVENT")).count();
    check_eq!(deliveries, 1, "how often it was delivered");
    Ok(())
}

async fn an_event_that_comes_again_is_not_handled_beside_itself(stage: &Stage) -> Outcome {
    lose_extensions(stage);
    let short = json!({"from": "earliest", "ackTimeoutMs": 1_000, "maxAttempts": 1_000});
    let client = member(stage, json!({"hold": true}), short).await?;
    stage.publish("a", [(json!(1), json!({"id": "one"}))]).await?;
    client.until_given(Some("g"), 1).await?;
    stage.tap.until_count(Side::Hub, "EVENT", 3).await?;
    // What the client does with a delivery it has done before it answers to this.
    client.ask("publish", json!({"topic": "other", "payload": 1})).await?;
    check_eq!(client.given(Some("g")).len(), 1, "how often the event is being handled");
    stage.tap.pass();
    client.ask("release", json!({})).await?;
    stage.until_settled("a", "g").await
}

async fn an_event_that_comes_again_after_a_cut_is_not_handled_beside_itself(stage: &Stage) -> Outcome {
    let client = member(stage, json!({"hold": "first"}), json!({"from": "earliest", "maxAttempts": 1_000})).await?;
    stage.publish("a", [(json!("first"), json!({}))]).await?;
    client.until_given(Some("g"), 1).await?;
    for round in 0..3_u64 {
        stage.relay.cut().await;
        // What comes behind it says that it has come again.
        stage.publish("a", numbers([round])).await?;
        let came = |given: &[_]| given.iter().any(|given: &crate::driver::Given| given.payload == round).then_some(());
        client.until_among("the event behind it", came).await?;
        stage.until_lag("a", "g", 1).await?;
    }
    let times = client.given(Some("g")).iter().filter(|given| given.payload == "first").count();
    check_eq!(times, 1, "how often the event is being handled");
    client.ask("release", json!({})).await?;
    stage.until_settled("a", "g").await
}
