//! What travels: messages of one frame and of several, whole and in pieces, fast and slow, known and unknown.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    check::{Outcome, check, check_eq},
    scenario::{Scenario, scenario},
    stage::Stage,
    tap::{Seen, Side, Verdict},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(
            frames_in_small_pieces_are_put_together,
            [],
            "Seven bytes at a time, in both directions, characters of four bytes among them."
        ),
        scenario!(
            a_slow_line_only_takes_longer,
            [],
            "Every piece is held back: everything arrives, in order, on one connection."
        ),
        scenario!(a_large_event_arrives_whole, [Subscribe], "Half a megabyte there and back."),
        scenario!(
            what_a_later_hub_may_say_is_ignored,
            [],
            "Frames of unknown ops, unknown fields, and an unknown error code: the client goes on."
        ),
        scenario!(
            several_frames_in_a_message_are_read_and_sent,
            [Batch, Subscribe],
            "The hub agrees to several frames in a message: both sides send such."
        ),
        scenario!(
            a_hub_that_does_not_agree_gets_one_frame_a_message,
            [Batch, Subscribe],
            "The hub does not agree: every message holds one frame."
        ),
        scenario!(
            what_was_agreed_ends_with_the_connection,
            [Batch, Reconnect],
            "The hub agrees, and after a cut not any more: from there on every message holds one frame."
        ),
    ]
}

async fn frames_in_small_pieces_are_put_together(stage: &Stage) -> Outcome {
    stage.relay.pieces(7);
    let client = stage.client().await?;
    let calls: Vec<_> = (1..=50)
        .map(|n| {
            client.begin("publish", json!({"topic": "a", "payload": {"n": n, "text": "ä\u{1F600}\"\\\n€".repeat(20)}}))
        })
        .collect();
    for (n, call) in (1..).zip(calls) {
        check_eq!(call.ok().await?["seq"], json!(n), "the seq of publish {n}");
    }
    let stored = stage.stored("a").await?;
    let wanted = json!("ä\u{1F600}\"\\\n€".repeat(20));
    check!(stored.iter().all(|event| event["payload"]["text"] == wanted), "a payload has changed on its way");
    check_eq!(stage.relay.opened(), 1, "how many connections there were");
    Ok(())
}

async fn a_slow_line_only_takes_longer(stage: &Stage) -> Outcome {
    stage.relay.delay(Duration::from_millis(40));
    stage.relay.pieces(2_000);
    let client = stage.client().await?;
    let calls: Vec<_> = (1..=100).map(|n| client.begin("publish", json!({"topic": "a", "payload": n}))).collect();
    for (n, call) in (1..).zip(calls) {
        check_eq!(call.ok().await?["seq"], json!(n), "the seq of publish {n}");
    }
    check_eq!(stage.relay.opened(), 1, "how many connections there were");
    Ok(())
}

async fn a_large_event_arrives_whole(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    let subscribe = json!({"topic": "a", "group": "g", "handler": {}, "options": {"from": "earliest"}});
    client.ask("subscribe", subscribe).await?;
    let payload = json!("0123456789€".repeat(40_000));
    client.ask("publish", json!({"topic": "a", "payload": payload})).await?;
    let given = client.until_given(Some("g"), 1).await?;
    check!(given[0].payload == payload, "the payload has changed on its way");
    stage.until_settled("a", "g").await
}

async fn what_a_later_hub_may_say_is_ignored(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    let event = json!({"id": "x", "seq": 1, "ts": 1, "topic": "nobody", "payload": 1});
    let ctx = json!({"attempt": 1, "max_attempts": 5, "ack_deadline_ms": 9, "lease": "0a", "redelivered": false});
    for frame in [
        json!({"op": "FUTURE", "corr": "1", "topic": "a"}),
        json!({"op": "FUTURE"}),
        json!({"op": "EVENT", "topic": "nobody", "group": "asked", "event": event, "ctx": ctx}),
        json!({"op": "LIVE", "topic": "nobody", "group": "$live-77"}),
    ] {
        stage.tap.inject(&frame);
    }
    let mut refusals = 1;
    stage.tap.rule(move |side, frame| match side {
        Side::Client if frame["op"] == "PUBLISH" && refusals > 0 && frame["payload"] == "refuse me" => {
            refusals -= 1;
            let mut answer = json!({"op": "ERR", "code": "a_later_code", "msg": "words", "more": {"of": "it"}});
            if let Some(corr) = frame.get("corr") {
                answer["corr"] = corr.clone();
            }
            Verdict::Answer(answer)
        }
        Side::Hub if frame["op"] == "OK" => {
            let mut frame = frame.clone();
            frame["later"] = json!([{"field": null}]);
            Verdict::Replace(frame)
        }
        _ => Verdict::Pass,
    });
    client.ask("publish", json!({"topic": "a", "payload": 1})).await?;
    let refused = client.refused("publish", json!({"topic": "a", "payload": "refuse me"})).await?;
    check_eq!((refused.code.as_str(), refused.retryable), ("a_later_code", false), "a code of a later hub");
    let answer = client.ask("publish", json!({"topic": "a", "payload": 2})).await?;
    check_eq!(answer["seq"], json!(2), "the seq of a publish after all that");
    check_eq!(stage.relay.opened(), 1, "how many connections there were");
    Ok(())
}

/// How many frames each message of this side held, of the first connection or of later ones.
fn sizes(seen: &[Seen], side: Side, line: usize) -> Vec<usize> {
    let mut sizes: HashMap<usize, usize> = HashMap::new();
    for seen in seen.iter().filter(|seen| seen.side == side && seen.line == line) {
        *sizes.entry(seen.message).or_default() += 1;
    }
    sizes.into_values().collect()
}

/// A group is given what the client publishes itself, a hundred at a time.
async fn there_and_back(stage: &Stage) -> Outcome {
    const EVENTS: usize = 300;
    let client = stage.client().await?;
    let subscribe = json!({"topic": "a", "group": "g", "handler": {}, "options": {"from": "earliest"}});
    client.ask("subscribe", subscribe).await?;
    let calls: Vec<_> = (0..EVENTS).map(|n| client.begin("publish", json!({"topic": "a", "payload": n}))).collect();
    for call in calls {
        call.ok().await?;
    }
    let given = client.until_given(Some("g"), EVENTS).await?;
    let payloads: Vec<_> = given.iter().filter_map(|given| given.payload.as_u64()).collect();
    check!(payloads.iter().copied().eq(0..EVENTS as u64), "events are missing or not in their order: {payloads:?}");
    stage.until_settled("a", "g").await?;
    check_eq!(stage.relay.opened(), 1, "how many connections there were");
    Ok(())
}

/// Takes it out of what is agreed, as if the hub knew nothing of it.
fn disagree(side: Side, frame: &Value) -> Verdict {
    if side == Side::Client && frame["op"] == "AUTH" && frame.get("batch").is_some() {
        let mut frame = frame.clone();
        frame["batch"] = json!(false);
        return Verdict::Replace(frame);
    }
    Verdict::Pass
}

async fn several_frames_in_a_message_are_read_and_sent(stage: &Stage) -> Outcome {
    there_and_back(stage).await?;
    let seen = stage.tap.seen();
    check!(seen.iter().any(|seen| seen.is(Side::Hub, "OK") && seen.frame["batch"] == true), "the hub did not agree");
    check!(sizes(&seen, Side::Client, 0).iter().any(|size| *size > 1), "no message of the client held several frames");
    check!(sizes(&seen, Side::Hub, 0).iter().any(|size| *size > 1), "no message of the hub held several frames");
    Ok(())
}

async fn a_hub_that_does_not_agree_gets_one_frame_a_message(stage: &Stage) -> Outcome {
    stage.tap.rule(disagree);
    there_and_back(stage).await?;
    let seen = stage.tap.seen();
    check!(seen.iter().any(|seen| seen.frame["batch"] == true), "the client did not ask for it");
    check!(sizes(&seen, Side::Client, 0).iter().all(|size| *size == 1), "a message of the client held several frames");
    Ok(())
}

async fn what_was_agreed_ends_with_the_connection(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    client.ask("publish", json!({"topic": "a", "payload": 0})).await?;
    stage.tap.rule(disagree);
    stage.relay.cut().await;
    client.until_state("ready", 2).await?;
    let calls: Vec<_> = (1..=100).map(|n| client.begin("publish", json!({"topic": "a", "payload": n}))).collect();
    for (n, call) in (2..).zip(calls) {
        check_eq!(call.ok().await?["seq"], json!(n), "the seq of a publish");
    }
    let seen = stage.tap.seen();
    let last = seen.iter().map(|seen| seen.line).max().unwrap_or_default();
    check!(
        sizes(&seen, Side::Client, last).iter().all(|size| *size == 1),
        "a message of the client held several frames"
    );
    Ok(())
}
