//! Publishing: what was answered is stored, once, whatever happens to the line.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::{
    check::{Failure, Outcome, check, check_eq},
    driver::Driver,
    scenario::{Scenario, scenario},
    stage::Stage,
    tap::{Side, Verdict},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(
            a_repeated_id_is_told_as_a_duplicate,
            [],
            "The same id twice on one topic: one event, and the second answer says so."
        ),
        scenario!(
            many_publishes_at_once_keep_their_order,
            [],
            "A thousand publishes are begun one after the other and stored in that order."
        ),
        scenario!(
            one_bad_publish_is_one_bad_publish,
            [],
            "Refused publishes between good ones: each is told by its code, the others are stored."
        ),
        scenario!(
            what_the_hub_refuses_for_now_is_tried_again_or_told,
            [],
            "A publish is answered rate_limited: the client tries again, or tells that it may."
        ),
        scenario!(
            an_answer_that_is_lost_makes_no_second_event,
            [Reconnect],
            "The hub has stored a publish and the line is cut before the answer: it is sent again with the same id."
        ),
        scenario!(
            what_was_not_answered_is_sent_again_in_its_order,
            [Reconnect],
            "Publishes that never reached the hub go first on the next connection, in their order, before newer ones."
        ),
        scenario!(
            publishes_through_fifty_cuts_are_stored_once_each,
            [Reconnect],
            "Ten thousand publishes, two hundred at once, fifty cuts at random: each is stored once, in order."
        ),
        scenario!(
            a_killed_hub_is_found_again_and_has_each_publish_once,
            [Reconnect],
            Disk,
            "The hub is killed three times under a thousand publishes and comes back: each is stored once."
        ),
        scenario!(
            a_hub_that_shuts_down_is_found_again,
            [Reconnect],
            Disk,
            "The hub closes with 1001 under publishes, twice, and comes back: each is stored once."
        ),
        scenario!(
            a_silent_line_is_left_before_publishes_give_up,
            [Reconnect, Ping],
            "Nothing passes on the line any more, and nobody says so: publishes arrive by another within 30 s."
        ),
        scenario!(
            an_event_that_is_too_large_is_refused_and_ends_nothing,
            [Reconnect],
            "More than a frame may hold: refused as too_large, which no retry mends, and the connection goes on."
        ),
        scenario!(
            a_publish_that_cannot_arrive_ends_in_time,
            [Reconnect],
            "There is no hub for longer than a publish may take: it is refused as timeout, and may be tried again."
        ),
    ]
}

async fn a_repeated_id_is_told_as_a_duplicate(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    let publish = json!({"topic": "a", "payload": 1, "options": {"id": "mine"}});
    let first = client.ask("publish", publish.clone()).await?;
    check_eq!(first, json!({"id": "mine", "seq": 1, "duplicate": false}), "the first answer");
    let second = client.ask("publish", publish).await?;
    check_eq!(second, json!({"id": "mine", "seq": 1, "duplicate": true}), "the second answer");
    check_eq!(stage.stored("a").await?.len(), 1, "how many events are stored");
    Ok(())
}

async fn many_publishes_at_once_keep_their_order(stage: &Stage) -> Outcome {
    const EVENTS: u64 = 1_000;
    let client = stage.client().await?;
    let calls: Vec<_> =
        (1..=EVENTS).map(|n| (n, client.begin("publish", json!({"topic": "a", "payload": n})))).collect();
    for (n, call) in calls {
        check_eq!(call.ok().await?["seq"], json!(n), "the seq of publish {n}");
    }
    let stored: Vec<_> = stage.stored("a").await?.iter().filter_map(|event| event["payload"].as_u64()).collect();
    check!(stored.iter().copied().eq(1..=EVENTS), "what is stored is not in the order of the calls: {stored:?}");
    Ok(())
}

async fn one_bad_publish_is_one_bad_publish(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    for (round, (topic, options, code)) in
        [("a.*", json!({}), "bad_topic"), ("$audit", json!({}), "forbidden"), ("a", json!({"key": ""}), "bad_frame")]
            .into_iter()
            .enumerate()
    {
        let good = client.begin("publish", json!({"topic": "a", "payload": round}));
        let refused = client.refused("publish", json!({"topic": topic, "payload": 1, "options": options})).await?;
        check_eq!((refused.code.as_str(), refused.retryable), (code, false), "the refusal of {topic}");
        good.ok().await?;
    }
    client.ask("publish", json!({"topic": "a", "payload": 3})).await?;
    check_eq!(stage.stored("a").await?.len(), 4, "how many events are stored");
    check_eq!(stage.relay.opened(), 1, "how many connections there were");
    Ok(())
}

async fn what_the_hub_refuses_for_now_is_tried_again_or_told(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    let mut refusals = 2;
    stage.tap.rule(move |side, frame| {
        if side == Side::Client && frame["op"] == "PUBLISH" && refusals > 0 {
            refusals -= 1;
            let mut answer = json!({"op": "ERR", "code": "rate_limited", "msg": "slow down", "retry_after_ms": 40});
            if let Some(corr) = frame.get("corr") {
                answer["corr"] = corr.clone();
            }
            return Verdict::Answer(answer);
        }
        Verdict::Pass
    });
    match client.begin("publish", json!({"topic": "a", "payload": 1})).answer().await? {
        Ok(answer) => check_eq!(answer["seq"], json!(1), "the seq once it was tried again"),
        Err(refused) => {
            check_eq!((refused.code.as_str(), refused.retryable), ("rate_limited", true), "what is told");
            check_eq!(refused.retry_after_ms, Some(40), "the time to wait, as it is told");
            stage.tap.pass();
            client.ask("publish", json!({"topic": "a", "payload": 1})).await?;
        }
    }
    check_eq!(stage.stored("a").await?.len(), 1, "how many events are stored");
    Ok(())
}

async fn an_answer_that_is_lost_makes_no_second_event(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    for round in 1..=3 {
        stage.tap.rule(|side, frame| {
            let lost = side == Side::Hub && frame["op"] == "OK" && frame.get("seq").is_some();
            if lost { Verdict::Swallow } else { Verdict::Pass }
        });
        let answers = stage.tap.seen().iter().filter(|seen| is_answer(seen)).count();
        let call = client.begin("publish", json!({"topic": "a", "payload": round}));
        let stored = |seen: &VecDeque<_>| (seen.iter().filter(|seen| is_answer(seen)).count() > answers).then_some(());
        stage.tap.until("the hub to have stored it", stored).await?;
        // Nothing of the next connection is lost.
        stage.relay.away(true);
        stage.relay.hang_up().await;
        stage.tap.pass();
        stage.relay.away(false);
        let answer = call.ok().await?;
        check_eq!((&answer["seq"], &answer["duplicate"]), (&json!(round), &json!(true)), "the answer in round {round}");
        check_eq!(stage.stored("a").await?.len(), round, "how many events are stored");
    }
    Ok(())
}

/// Whether the hub answers a publish with it.
fn is_answer(seen: &crate::tap::Seen) -> bool {
    seen.is(Side::Hub, "OK") && seen.frame.get("seq").is_some()
}

async fn what_was_not_answered_is_sent_again_in_its_order(stage: &Stage) -> Outcome {
    const EVENTS: u64 = 100;
    let client = stage.client().await?;
    stage.tap.rule(|side, frame| {
        let lost = side == Side::Client && frame["op"] == "PUBLISH";
        if lost { Verdict::Swallow } else { Verdict::Pass }
    });
    let mut calls: Vec<_> =
        (1..=EVENTS).map(|n| client.begin("publish", json!({"topic": "a", "payload": n}))).collect();
    stage.tap.until_count(Side::Client, "PUBLISH", 1).await?;
    stage.relay.away(true);
    stage.relay.hang_up().await;
    client.until_state("reconnecting", 1).await?;
    calls.extend((EVENTS + 1..=2 * EVENTS).map(|n| client.begin("publish", json!({"topic": "a", "payload": n}))));
    stage.tap.pass();
    stage.relay.away(false);
    for (n, call) in (1..).zip(calls) {
        check_eq!(call.ok().await?["seq"], json!(n), "the seq of publish {n}");
    }
    Ok(())
}

/// The answers to `count` publishes of 0, 1, 2… on `a`, so many under way at once; calls `each` when one is answered. Ends
/// with the first failure.
async fn publish_all(
    client: &Driver,
    count: usize,
    window: usize,
    each: impl AsyncFn(usize),
) -> Result<Vec<Value>, Failure> {
    let (answered, each) = (&AtomicUsize::new(0), &each);
    let mut under_way = stream::iter(0..count)
        .map(|n| {
            let call = client.begin("publish", json!({"topic": "a", "payload": n}));
            async move {
                let answer = call.ok().await?;
                each(answered.fetch_add(1, Ordering::SeqCst)).await;
                Ok((n, answer))
            }
        })
        .buffer_unordered(window);
    let mut answers = vec![Value::Null; count];
    while let Some(one) = under_way.next().await {
        let (n, answer) = one?;
        answers[n] = answer;
    }
    Ok(answers)
}

/// Checks that each of them is stored once, where its answer says, and in the order in which they were called: on every
/// connection what was not answered goes first.
async fn are_stored_once(stage: &Stage, answers: &[Value]) -> Outcome {
    let stored = stage.stored("a").await?;
    let mut times: HashMap<u64, usize> = HashMap::new();
    for event in &stored {
        *times.entry(event["payload"].as_u64().unwrap_or(u64::MAX)).or_default() += 1;
    }
    let more: Vec<_> = times.iter().filter(|(_, times)| **times > 1).map(|(payload, _)| *payload).collect();
    check!(more.is_empty(), "{} events are stored more than once, for instance {:?}", more.len(), more.first());
    let lost: Vec<_> = (0..answers.len() as u64).filter(|n| !times.contains_key(n)).collect();
    check!(lost.is_empty(), "{} events were answered and are not stored, for instance {:?}", lost.len(), lost.first());
    check_eq!(stored.len(), answers.len(), "how many events are stored");
    for event in &stored {
        let n = event["payload"].as_u64().unwrap_or_default() as usize;
        check_eq!((&answers[n]["seq"], &answers[n]["id"]), (&event["seq"], &event["id"]), "what was answered to {n}");
    }
    let overtaken = stored.windows(2).find(|pair| pair[0]["payload"].as_u64() > pair[1]["payload"].as_u64());
    check!(overtaken.is_none(), "a publish overtook one that was called before it: {overtaken:?}");
    Ok(())
}

async fn publishes_through_fifty_cuts_are_stored_once_each(stage: &Stage) -> Outcome {
    const EVENTS: usize = 10_000;
    const CUTS: usize = 50;
    let client = stage.client().await?;
    stage.relay.pieces(1_000);
    let mut dice = stage.dice();
    let mut marks = HashSet::new();
    while marks.len() < CUTS {
        marks.insert(dice.usize(..EVENTS));
    }
    let cut = async |answered: usize| {
        if marks.contains(&answered) {
            stage.relay.hang_up().await;
        }
    };
    let answers = publish_all(&client, EVENTS, 200, cut).await?;
    check!(stage.relay.opened() > 1, "no cut met a connection");
    are_stored_once(stage, &answers).await
}

async fn a_killed_hub_is_found_again_and_has_each_publish_once(stage: &Stage) -> Outcome {
    const EVENTS: usize = 1_000;
    let client = stage.client().await?;
    let kill = async |answered: usize| {
        if [150, 400, 700].contains(&answered) {
            // What fails in it fails the publishes too, which wait for a hub.
            let _ = stage.kill_hub().await;
        }
    };
    let answers = publish_all(&client, EVENTS, 100, kill).await?;
    are_stored_once(stage, &answers).await
}

async fn a_hub_that_shuts_down_is_found_again(stage: &Stage) -> Outcome {
    const EVENTS: usize = 600;
    let client = stage.client().await?;
    let restart = async |answered: usize| {
        if [150, 400].contains(&answered) {
            let _ = stage.restart_hub().await;
        }
    };
    let answers = publish_all(&client, EVENTS, 50, restart).await?;
    are_stored_once(stage, &answers).await?;
    client.until_state("ready", 3).await
}

async fn a_silent_line_is_left_before_publishes_give_up(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    client.ask("publish", json!({"topic": "a", "payload": 0})).await?;
    stage.relay.black_hole();
    let calls: Vec<_> = (1..=10)
        .map(|n| client.begin("publish", json!({"topic": "a", "payload": n, "options": {"timeoutMs": 30_000}})))
        .collect();
    for (n, call) in (2..).zip(calls) {
        check_eq!(call.ok().await?["seq"], json!(n), "the seq of a publish that went into the silence");
    }
    check_eq!(stage.stored("a").await?.len(), 11, "how many events are stored");
    Ok(())
}

async fn an_event_that_is_too_large_is_refused_and_ends_nothing(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    let large = "x".repeat(1_200_000);
    let refused = client.refused("publish", json!({"topic": "a", "payload": large})).await?;
    check_eq!((refused.code.as_str(), refused.retryable), ("too_large", false), "the refusal");
    let answer = client.ask("publish", json!({"topic": "a", "payload": 1})).await?;
    check_eq!(answer["seq"], json!(1), "the seq of the next publish");
    check_eq!(stage.relay.opened(), 1, "how many connections there were");
    Ok(())
}

async fn a_publish_that_cannot_arrive_ends_in_time(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    stage.relay.away(true);
    stage.relay.hang_up().await;
    client.until_state("reconnecting", 1).await?;
    let late = json!({"topic": "a", "payload": 1, "options": {"timeoutMs": 200}});
    let refused = client.refused("publish", late).await?;
    check_eq!((refused.code.as_str(), refused.retryable), ("timeout", true), "how it ended");
    stage.relay.away(false);
    client.until_state("ready", 2).await?;
    // Whoever asked was told that it did not work, so it is not done behind his back.
    client.ask("publish", json!({"topic": "a", "payload": 2})).await?;
    let stored: Vec<_> = stage.stored("a").await?.iter().map(|event| event["payload"].clone()).collect();
    check_eq!(stored, [json!(2)], "what is stored");
    Ok(())
}
