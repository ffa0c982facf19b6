//! Membership of a group: over cuts and restarts, taken and left, and the end of a client.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{join, numbers};
use crate::{
    check::{Outcome, check, check_eq},
    driver::Given,
    scenario::{Scenario, scenario},
    stage::Stage,
    tap::Side,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(members_share_the_events, [Subscribe], "Two clients in one group: each event is with one of them."),
        scenario!(
            a_pattern_is_one_subscription,
            [Subscribe],
            "A group on a pattern gets the events of its topics by the name of the pattern, and of later topics too."
        ),
        scenario!(
            two_topics_of_a_pattern_may_have_the_same_id,
            [Subscribe],
            "Two topics have an event of the same id, in a handler at the same time: both are handled and settled."
        ),
        scenario!(
            a_filter_lets_only_some_events_through,
            [Subscribe],
            "Of ten events three have the key: those are given, and all ten are settled."
        ),
        scenario!(
            a_group_through_cuts_loses_nothing_and_keeps_the_order_of_keys,
            [Subscribe, Reconnect],
            "Two thousand events of ten keys through twenty cuts at random: all are handled, each key in order."
        ),
        scenario!(
            a_group_goes_on_after_its_hub_was_killed,
            [Subscribe, Reconnect],
            Disk,
            "The hub is killed between two halves of the events: the client subscribes again and gets the rest."
        ),
        scenario!(
            a_group_goes_on_after_its_hub_was_shut_down,
            [Subscribe, Reconnect],
            Disk,
            "The hub closes with 1001 and comes back: the client subscribes again and gets the rest."
        ),
        scenario!(
            what_was_left_comes_no_more,
            [Subscribe, Unsubscribe],
            "After unsubscribe nothing is given to the handler, and another member gets the events."
        ),
        scenario!(
            unsubscribing_in_a_handler_keeps_its_acknowledgement,
            [Subscribe, Unsubscribe],
            "A handler leaves its group while it works: its event is settled all the same."
        ),
        scenario!(
            subscribe_unsubscribe_subscribe_stays_subscribed,
            [Subscribe, Unsubscribe],
            "The three are begun at once, as by a page that mounts twice: the last counts."
        ),
        scenario!(
            a_second_subscription_of_the_same_name_is_refused,
            [Subscribe],
            "The same topic and group twice on one client: already_subscribed, and the first goes on."
        ),
        scenario!(
            a_drain_lets_handlers_publish_and_acknowledges_them,
            [Subscribe, Drain],
            "Close with drain under three handlers: what they publish is stored, they are settled, and nothing new begins."
        ),
        scenario!(
            a_drain_flushes_what_was_published_before_it,
            [Drain],
            "Two hundred publishes and then close with drain, without waiting: all are answered and stored."
        ),
    ]
}

fn earliest() -> Value {
    json!({"from": "earliest", "maxAttempts": 1_000})
}

fn payloads(given: &[Given]) -> HashSet<u64> {
    given.iter().filter_map(|given| given.payload.as_u64()).collect()
}

async fn members_share_the_events(stage: &Stage) -> Outcome {
    const EVENTS: u64 = 400;
    let (one, two) = (stage.client().await?, stage.client().await?);
    for client in [&one, &two] {
        client.ask("subscribe", join(json!({}), json!({"from": "earliest", "maxInFlight": 10}))).await?;
    }
    stage.publish("a", numbers(0..EVENTS)).await?;
    stage.until_settled("a", "g").await?;
    let (first, second) = (payloads(&one.given(Some("g"))), payloads(&two.given(Some("g"))));
    check!(!first.is_empty() && !second.is_empty(), "one of two members got nothing");
    check!(first.is_disjoint(&second), "an event was given to both members");
    check_eq!(first.union(&second).count() as u64, EVENTS, "how many events were handled");
    Ok(())
}

async fn a_pattern_is_one_subscription(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    let subscribe = json!({"topic": "logs.**", "group": "g", "handler": {}, "options": {"from": "earliest"}});
    client.ask("subscribe", subscribe).await?;
    for topic in ["logs.web", "logs.web.eu", "logs"] {
        client.ask("publish", json!({"topic": topic, "payload": topic})).await?;
    }
    client.ask("publish", json!({"topic": "other", "payload": 1})).await?;
    let topics: HashSet<_> = client.until_given(Some("g"), 3).await?.into_iter().map(|given| given.topic).collect();
    check_eq!(topics, HashSet::from(["logs.web", "logs.web.eu", "logs"].map(str::to_owned)), "the topics");
    for topic in ["logs.web", "logs.web.eu", "logs"] {
        stage.until_settled(topic, "g").await?;
    }
    Ok(())
}

async fn two_topics_of_a_pattern_may_have_the_same_id(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    let subscribe = json!({
        "topic": "logs.*", "group": "g", "handler": {"hold": true}, "options": {"from": "earliest", "maxAttempts": 1_000},
    });
    for topic in ["logs.a", "logs.b", "logs.c"] {
        stage.publish(topic, [(json!(topic), json!({"id": "own"}))]).await?;
    }
    client.ask("subscribe", subscribe).await?;
    let held = client.until_given(Some("g"), 3).await?;
    let topics: HashSet<_> = held.into_iter().map(|given| given.topic).collect();
    check_eq!(topics, HashSet::from(["logs.a", "logs.b", "logs.c"].map(str::to_owned)), "the topics");
    client.ask("release", json!({})).await?;
    for topic in ["logs.a", "logs.b", "logs.c"] {
        stage.until_settled(topic, "g").await?;
    }
    Ok(())
}

async fn a_filter_lets_only_some_events_through(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    let options = json!({"from": "earliest", "filter": {"keys": ["k1"], "tags": ["t", "u"]}});
    client.ask("subscribe", join(json!({}), options)).await?;
    let event =
        |n: u64| (json!(n), json!({"key": format!("k{}", n % 3), "tags": [if n == 1 { "other" } else { "t" }]}));
    stage.publish("a", (0..11).map(event)).await?;
    stage.until_settled("a", "g").await?;
    let given: Vec<_> = client.given(Some("g")).iter().filter_map(|given| given.payload.as_u64()).collect();
    check_eq!(given, [4, 7, 10], "what passed");
    Ok(())
}

async fn a_group_through_cuts_loses_nothing_and_keeps_the_order_of_keys(stage: &Stage) -> Outcome {
    const EVENTS: u64 = 2_000;
    const KEYS: u64 = 10;
    const CUTS: usize = 20;
    let keyed = |n: u64| (json!(n), json!({"key": format!("k{}", n % KEYS)}));
    stage.publish("a", (0..EVENTS).map(keyed)).await?;
    let client = stage.client().await?;
    stage.relay.pieces(1_000);
    let mut dice = stage.dice();
    let mut marks: Vec<usize> = (0..CUTS).map(|_| dice.usize(1..EVENTS as usize)).collect();
    marks.sort_unstable();
    let mut options = earliest();
    options["ordered"] = json!("key");
    client.ask("subscribe", join(json!({}), options)).await?;
    for mark in marks {
        let enough = |given: &[Given]| (payloads(given).len() >= mark).then_some(());
        client.until_among(&format!("{mark} different events"), enough).await?;
        stage.relay.hang_up().await;
    }
    let all = |given: &[Given]| (payloads(given).len() as u64 == EVENTS).then_some(());
    client.until_among(&format!("all {EVENTS} events"), all).await?;
    stage.until_settled("a", "g").await?;
    let mut seen = HashSet::new();
    let mut order: HashMap<String, Vec<u64>> = HashMap::new();
    for given in client.given(Some("g")) {
        let number = given.payload.as_u64().unwrap_or(u64::MAX);
        if seen.insert(number) {
            order.entry(given.key.unwrap_or_default()).or_default().push(number);
        }
    }
    for (key, numbers) in order {
        check!(numbers.is_sorted(), "events of {key} overtook one another: {numbers:?}");
    }
    Ok(())
}

async fn a_group_goes_on_after_its_hub_was_killed(stage: &Stage) -> Outcome {
    between_two_halves(stage, async || stage.kill_hub().await).await
}

async fn a_group_goes_on_after_its_hub_was_shut_down(stage: &Stage) -> Outcome {
    between_two_halves(stage, async || stage.restart_hub().await).await
}

async fn between_two_halves(stage: &Stage, happens: impl AsyncFnOnce() -> Outcome) -> Outcome {
    let client = stage.client().await?;
    client.ask("subscribe", join(json!({}), earliest())).await?;
    stage.publish("a", numbers(0..100)).await?;
    client.until_given(Some("g"), 100).await?;
    stage.until_settled("a", "g").await?;
    happens().await?;
    stage.publish("a", numbers(100..200)).await?;
    let all = |given: &[Given]| (payloads(given).len() == 200).then_some(());
    client.until_among("the events of both halves", all).await?;
    stage.until_settled("a", "g").await?;
    let again = client.given(Some("g")).iter().filter(|given| given.payload.as_u64() < Some(100)).count();
    check_eq!(again, 100, "how often events of the first half were given, which were settled before");
    Ok(())
}

async fn what_was_left_comes_no_more(stage: &Stage) -> Outcome {
    let (client, other) = (stage.client().await?, stage.client().await?);
    client.ask("subscribe", join(json!({}), earliest())).await?;
    stage.publish("a", numbers([1])).await?;
    client.until_given(Some("g"), 1).await?;
    stage.until_settled("a", "g").await?;
    client.ask("unsubscribe", json!({"topic": "a", "group": "g"})).await?;
    check_eq!(stage.tap.count(Side::Client, "UNSUBSCRIBE"), 1, "how often the hub was told");
    stage.publish("a", numbers([2])).await?;
    other.ask("subscribe", join(json!({}), earliest())).await?;
    let given = other.until_given(Some("g"), 1).await?;
    check_eq!((given[0].payload.as_u64(), given[0].attempt), (Some(2), 1), "what the other member is given");
    check_eq!(client.given(Some("g")).len(), 1, "how much the one that left was given");
    let refused = client.refused("unsubscribe", json!({"topic": "a", "group": "g"})).await?;
    check_eq!((refused.code.as_str(), refused.retryable), ("not_subscribed", false), "a second unsubscribe");
    Ok(())
}

async fn unsubscribing_in_a_handler_keeps_its_acknowledgement(stage: &Stage) -> Outcome {
    let (client, other) = (stage.client().await?, stage.client().await?);
    client.ask("subscribe", join(json!({"unsubscribe": true}), earliest())).await?;
    stage.publish("a", numbers([1])).await?;
    client.until_given(Some("g"), 1).await?;
    stage.tap.until_count(Side::Client, "UNSUBSCRIBE", 1).await?;
    stage.until_settled("a", "g").await?;
    stage.publish("a", numbers([2])).await?;
    other.ask("subscribe", join(json!({}), earliest())).await?;
    let given = other.until_given(Some("g"), 1).await?;
    check_eq!((given[0].payload.as_u64(), given[0].attempt), (Some(2), 1), "what another member is given first");
    Ok(())
}

async fn subscribe_unsubscribe_subscribe_stays_subscribed(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    let calls = [
        client.begin("subscribe", join(json!({}), earliest())),
        client.begin("unsubscribe", json!({"topic": "a", "group": "g"})),
        client.begin("subscribe", join(json!({}), earliest())),
    ];
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.answer().await?);
    }
    // What was taken away at once may say so; the last counts.
    if let Some(Err(refused)) = answers.pop() {
        check!(false, "the last subscribe was refused: {}: {}", refused.code, refused.message);
    }
    client.ask("publish", json!({"topic": "a", "payload": 1})).await?;
    client.until_given(Some("g"), 1).await?;
    stage.until_settled("a", "g").await
}

async fn a_second_subscription_of_the_same_name_is_refused(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    client.ask("subscribe", join(json!({}), earliest())).await?;
    let refused = client.refused("subscribe", join(json!({}), earliest())).await?;
    check_eq!((refused.code.as_str(), refused.retryable), ("already_subscribed", false), "the second");
    client.ask("publish", json!({"topic": "a", "payload": 1})).await?;
    client.until_given(Some("g"), 1).await?;
    stage.until_settled("a", "g").await
}

async fn a_drain_lets_handlers_publish_and_acknowledges_them(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    let handler = json!({"hold": true, "publish": "out"});
    let options = json!({"from": "earliest", "maxInFlight": 3});
    client.ask("subscribe", join(handler, options)).await?;
    stage.publish("a", numbers(0..5)).await?;
    client.until_given(Some("g"), 3).await?;
    let closing = client.begin("close", json!({"drain": true, "timeoutMs": stage.long_ms()}));
    client.refused("subscribe", json!({"topic": "b", "group": "g", "handler": {}})).await?;
    client.ask("release", json!({})).await?;
    closing.ok().await?;
    check_eq!(client.given(Some("g")).len(), 3, "how many handlers began");
    let mut out: Vec<_> = stage.stored("out").await?.iter().filter_map(|event| event["payload"].as_u64()).collect();
    out.sort_unstable();
    check_eq!(out, [0, 1, 2], "what the handlers published");
    stage.until_lag("a", "g", 2).await?;
    client.refused("publish", json!({"topic": "out", "payload": 9})).await?;
    let other: Arc<_> = stage.client().await?;
    other.ask("subscribe", join(json!({}), json!({}))).await?;
    let given = other.until_given(Some("g"), 2).await?;
    check_eq!(payloads(&given), HashSet::from([3, 4]), "what is left to another member");
    Ok(())
}

async fn a_drain_flushes_what_was_published_before_it(stage: &Stage) -> Outcome {
    const EVENTS: u64 = 200;
    let client = stage.client().await?;
    let calls: Vec<_> = (0..EVENTS).map(|n| client.begin("publish", json!({"topic": "a", "payload": n}))).collect();
    client.ask("close", json!({"drain": true, "timeoutMs": stage.long_ms()})).await?;
    for (seq, call) in (1..).zip(calls) {
        check_eq!(call.ok().await?["seq"], json!(seq), "the seq of a publish");
    }
    check_eq!(stage.stored("a").await?.len() as u64, EVENTS, "how many events are stored");
    Ok(())
}
