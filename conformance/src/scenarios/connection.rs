//! Beginnings and ends, and the token in between.

use prom_testkit::{token, token_for};
use serde_json::json;

use crate::{
    check::{Outcome, check, check_eq, within},
    scenario::{Scenario, scenario},
    stage::Stage,
    tap::Side,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(connects_and_publishes, [], "Connects, publishes, and is told the position."),
        scenario!(a_bad_token_is_told, [], "The hub refuses the token: so does connect, with the hub's code."),
        scenario!(
            a_bad_token_that_will_not_change_is_not_tried_again,
            [Reconnect],
            "A fixed token that the hub refuses is sent once, and the client is closed."
        ),
        scenario!(
            a_token_is_renewed_before_it_ends,
            [Renew],
            "A token of three seconds is replaced on the same connection before it ends."
        ),
        scenario!(
            an_expired_token_that_never_changes_ends_the_client,
            [Reconnect],
            "A fixed token runs out: the client says why it is closed."
        ),
        scenario!(
            a_lesser_token_ends_what_it_does_not_allow,
            [Renew, Subscribe],
            "A renewed token does not allow one of two subscriptions: that one is told as revoked, the other goes on."
        ),
        scenario!(
            a_provider_of_bad_tokens_ends_the_client,
            [Renew],
            "Every token the hub is given is refused: after a few tries connect says why, and the client is closed."
        ),
        scenario!(
            a_lost_connection_asks_for_a_token_of_its_own,
            [Renew, Reconnect],
            "The line is cut twice: each new connection begins with a token that it has asked for."
        ),
        scenario!(
            a_connection_that_the_hub_closed_comes_back,
            [Reconnect],
            "The hub closes with 1001, 4408, 4413, 4429 and with a code of its own: the client comes back each time."
        ),
        scenario!(
            a_client_that_is_not_wanted_stays_away,
            [Reconnect],
            "The hub closes with 4403: the client is closed, says forbidden, and does not come back."
        ),
        scenario!(
            an_idle_client_comes_back_after_each_cut,
            [Reconnect],
            "The line is cut five times while nothing is under way."
        ),
        scenario!(
            close_ends_the_connection,
            [],
            "After close nothing is left of the connection, and a publish is refused."
        ),
    ]
}

async fn connects_and_publishes(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    for seq in 1..=3 {
        let answer = client.ask("publish", json!({"topic": "a", "payload": {"n": seq}})).await?;
        check_eq!(answer["seq"], json!(seq), "the seq of publish {seq}");
        check!(answer["id"].as_str().is_some_and(|id| !id.is_empty()), "a publish has no id: {answer}");
    }
    let stored = stage.stored("a").await?;
    let payloads: Vec<_> = stored.iter().map(|event| event["payload"]["n"].clone()).collect();
    check_eq!(payloads, [json!(1), json!(2), json!(3)], "what is stored");
    Ok(())
}

async fn a_bad_token_is_told(stage: &Stage) -> Outcome {
    let driver = stage.driver().await?;
    let refused = driver.refused("connect", stage.connect(json!({"token": "nonsense"}))).await?;
    check_eq!(refused.code, "jwt_invalid", "the code of the refusal");
    check!(!refused.retryable, "a refused token is no retryable error");
    Ok(())
}

async fn a_bad_token_that_will_not_change_is_not_tried_again(stage: &Stage) -> Outcome {
    let driver = stage.driver().await?;
    driver.refused("connect", stage.connect(json!({"token": "nonsense"}))).await?;
    driver.told("state", |state| state == "closed").await?;
    let refused = driver.refused("publish", json!({"topic": "a", "payload": 1})).await?;
    check_eq!(refused.code, "jwt_invalid", "why a publish of a client that has ended is refused");
    check_eq!(stage.tap.count(Side::Client, "AUTH"), 1, "how often the token was sent");
    Ok(())
}

async fn a_token_is_renewed_before_it_ends(stage: &Stage) -> Outcome {
    let driver = stage.driver().await?;
    let tokens = [token_for(&["*:**"], 4), token_for(&["*:**"], 10), token(&["*:**"])];
    driver.ask("connect", stage.connect(json!({"tokens": tokens}))).await?;
    stage.tap.until_count(Side::Client, "AUTH", 3).await?;
    driver.ask("publish", json!({"topic": "a", "payload": 1})).await?;
    let seen = stage.tap.seen();
    let sent: Vec<_> = seen.iter().filter(|seen| seen.is(Side::Client, "AUTH")).collect();
    check_eq!(sent.iter().map(|seen| seen.line).max(), Some(0), "the newest connection");
    for (n, (seen, token)) in sent.iter().zip(&tokens).enumerate() {
        check_eq!(seen.frame["token"].as_str(), Some(token.as_str()), "token number {n}");
    }
    check!(!seen.iter().any(|seen| seen.frame["code"] == "token_expired"), "a token ran out before it was replaced");
    Ok(())
}

async fn an_expired_token_that_never_changes_ends_the_client(stage: &Stage) -> Outcome {
    let driver = stage.driver().await?;
    driver.ask("connect", stage.connect(json!({"token": token_for(&["*:**"], 2)}))).await?;
    driver.told("state", |state| state == "closed").await?;
    let refused = driver.refused("publish", json!({"topic": "a", "payload": 1})).await?;
    check_eq!(refused.code, "token_expired", "why the client has ended");
    Ok(())
}

async fn a_lesser_token_ends_what_it_does_not_allow(stage: &Stage) -> Outcome {
    let driver = stage.driver().await?;
    let tokens = [token_for(&["*:**"], 4), token(&["*:mine.**"])];
    driver.ask("connect", stage.connect(json!({"tokens": tokens}))).await?;
    for topic in ["mine.a", "theirs.a"] {
        driver.ask("subscribe", json!({"topic": topic, "group": "g", "handler": {}})).await?;
    }
    let revoked = driver.told("revoked", |_| true).await?;
    check_eq!(
        (revoked["topic"].as_str(), revoked["group"].as_str(), revoked["code"].as_str()),
        (Some("theirs.a"), Some("g"), Some("forbidden")),
        "the subscription that was revoked, and why"
    );
    driver.ask("publish", json!({"topic": "mine.a", "payload": 1})).await?;
    let given = driver.until_given(Some("g"), 1).await?;
    check_eq!((given[0].topic.as_str(), given[0].attempt), ("mine.a", 1), "what is still delivered");
    stage.until_settled("mine.a", "g").await?;
    let refused = driver.refused("publish", json!({"topic": "theirs.a", "payload": 1})).await?;
    check_eq!((refused.code.as_str(), refused.retryable), ("forbidden", false), "what is not allowed any more");
    Ok(())
}

async fn a_provider_of_bad_tokens_ends_the_client(stage: &Stage) -> Outcome {
    let driver = stage.driver().await?;
    let refused = driver.refused("connect", stage.connect(json!({"tokens": ["nonsense"]}))).await?;
    check_eq!((refused.code.as_str(), refused.retryable), ("jwt_invalid", false), "the refusal");
    driver.told("state", |state| state == "closed").await?;
    let tries = stage.tap.count(Side::Client, "AUTH");
    check!((1..=10).contains(&tries), "the hub was given a bad token {tries} times");
    Ok(())
}

async fn a_lost_connection_asks_for_a_token_of_its_own(stage: &Stage) -> Outcome {
    let driver = stage.driver().await?;
    let tokens = [token(&["*:**"]), token(&["*:a"]), token(&["*:**"])];
    driver.ask("connect", stage.connect(json!({"tokens": tokens}))).await?;
    for round in 1..=2 {
        stage.relay.cut().await;
        driver.until_state("ready", round + 1).await?;
    }
    let seen = stage.tap.seen();
    let sent: Vec<_> = seen
        .iter()
        .filter(|seen| seen.is(Side::Client, "AUTH"))
        .filter_map(|seen| seen.frame["token"].as_str())
        .collect();
    check_eq!(sent, tokens.each_ref().map(String::as_str), "the tokens of the three connections");
    Ok(())
}

async fn a_connection_that_the_hub_closed_comes_back(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    for (round, code) in (1..).zip([1001, 4408, 4413, 4429, 4999]) {
        client.until_state("ready", round).await?;
        stage.tap.close(code);
        client.until_state("reconnecting", round).await?;
    }
    client.until_state("ready", 6).await?;
    client.ask("publish", json!({"topic": "a", "payload": 1})).await?;
    Ok(())
}

async fn a_client_that_is_not_wanted_stays_away(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    stage.tap.close(4403);
    client.told("state", |state| state == "closed").await?;
    let refused = client.refused("publish", json!({"topic": "a", "payload": 1})).await?;
    check_eq!((refused.code.as_str(), refused.retryable), ("forbidden", false), "why the client has ended");
    check_eq!(stage.relay.opened(), 1, "how many connections there were");
    Ok(())
}

async fn an_idle_client_comes_back_after_each_cut(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    for round in 1..=5 {
        client.until_state("ready", round).await?;
        stage.relay.cut().await;
        stage.tap.until_count(Side::Client, "AUTH", round + 1).await?;
    }
    client.until_state("ready", 6).await?;
    check!(
        client.states("reconnecting") >= 5,
        "a lost connection was not told: {} of 5",
        client.states("reconnecting")
    );
    let answer = client.ask("publish", json!({"topic": "a", "payload": 1})).await?;
    check_eq!(answer["seq"], json!(1), "the seq of a publish after that");
    Ok(())
}

async fn close_ends_the_connection(stage: &Stage) -> Outcome {
    let client = stage.client().await?;
    client.ask("publish", json!({"topic": "a", "payload": 1})).await?;
    client.ask("close", json!({})).await?;
    let ended = async {
        while stage.relay.ended() < stage.relay.opened() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within(stage.patience(), "the connection to end", ended).await?;
    client.refused("publish", json!({"topic": "a", "payload": 2})).await?;
    check_eq!(stage.stored("a").await?.len(), 1, "how many events are stored");
    Ok(())
}
