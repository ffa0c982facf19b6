//! Every way into the hub, with every kind of policy. What is not in the table fails: an op, a route.
//!
//! Rows of an outbox have no token; what they may do is tested beside their publisher, in `server/src/members/outbox.rs`.
//! The command line only brings tokens to these same ways in; `cli/tests/prom/rights.rs` walks it.

use std::{collections::BTreeSet, fs, net::Ipv4Addr, path::Path};

use prom_hub::{Config, Hub};
use prom_protocol::Op;
use prom_testkit::{
    Client, config,
    http::{Answer, ops, ops_as, raw, request},
    token, token_with,
};
use serde_json::{Value, json};

/// The kinds of policy, in the order of the table's columns.
fn tokens() -> [(&'static str, String); 13] {
    let policy = |rules: Value| token_with(json!({"policy": {"rules": rules}}));
    let all = || json!({"effect": "allow", "action": "*", "topics": ["**"]});
    [
        ("none", token(&[])),
        ("publish", token(&["publish:**"])),
        ("read", token(&["read:**"])),
        ("subscribe", token(&["subscribe:**"])),
        ("one group", token(&["consume:**:g"])),
        ("deny of a topic", policy(json!([{"effect": "deny", "action": "*", "topics": ["secret.plans"]}, all()]))),
        ("deny of a wildcard", policy(json!([{"effect": "deny", "action": "read", "topics": ["*.plans"]}, all()]))),
        (
            "deny of any group",
            policy(json!([{"effect": "deny", "action": "subscribe", "topics": ["**"], "groups": ["*"]}, all()])),
        ),
        ("dead letters", token(&["*:dlq.**"])),
        ("the hub's own", token(&["*:**", "*:$audit"])),
        ("states", token(&["*:**", "publish:process.state"])),
        ("operator", token(&["ops:read"])),
        ("everything", token(&["*:**"])),
    ]
}

/// What is asked.
enum Ask {
    /// POST of JSON on an ops port that asks for a token: what needs `ops:admin`, and then says that no file is configured.
    Change(&'static str, Value),
    /// The same where it does not ask for one.
    OpsChange(&'static str, Value),
    /// A frame on a connection that has authenticated.
    Frame(Value),
    /// A request on the public port.
    Public(&'static str, &'static str),
    /// A request on the ops port of a hub that asks for a token there.
    Guarded(&'static str),
    /// The same where it does not.
    Ops(&'static str),
    /// DELETE on the ops port of a hub that asks for a token there.
    GuardedDelete(&'static str),
    /// The same where it does not.
    OpsDelete(&'static str),
}

/// What comes of it.
enum Answers {
    /// `+`: allowed; `-`: `forbidden`. One for each kind of policy.
    ByPolicy(&'static str),
    /// This code, whatever the policy.
    Always(&'static str),
}

use Answers::{Always, ByPolicy};
use Ask::{Change, Frame, Guarded, GuardedDelete, Ops, OpsChange, OpsDelete, Public};

fn publish(topic: &str) -> Ask {
    Frame(json!({"op": "PUBLISH", "topic": topic, "payload": 1, "opts": {"key": "k"}}))
}

fn read(topic: &str) -> Ask {
    Frame(json!({"op": "SUBSCRIBE", "topic": topic}))
}

fn join(topic: &str, group: &str) -> Ask {
    Frame(json!({"op": "SUBSCRIBE", "topic": topic, "group": group}))
}

/// Of a delivery or a membership that is another connection's.
fn of_another(op: &str, more: &Value) -> Ask {
    let mut frame = json!({"op": op, "topic": "a", "group": "g"});
    frame.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Frame(frame)
}

#[rustfmt::skip]
fn table() -> Vec<(Ask, Answers)> {
    //  n none  p publish  r read  s subscribe  c one group  T deny of a topic  W deny of a wildcard  G deny of any group
    //  d dead letters  o the hub's own  t states  x operator  a everything
    let watch = |topic: &str, keys: Value| Frame(json!({"op": "SUBSCRIBE", "topic": topic, "opts": {"from": "snapshot", "filter": {"keys": keys}}}));
    let past = |topic: &str| Frame(json!({"op": "SUBSCRIBE", "topic": topic, "opts": {"from": "earliest"}}));
    vec![
        //                                                       nprscTWGdotxa
        (Frame(json!({"op": "PING"})),                 ByPolicy("+++++++++++++")),
        (Frame(json!({"op": "AUTH", "token": "x"})),   Always("jwt_invalid")),

        (publish("a"),                                 ByPolicy("-+---+++-++-+")),
        (publish("heartbeat.received"),                ByPolicy("-+---+++-++-+")),
        (publish("secret.plans"),                      ByPolicy("-+----++-++-+")),
        (publish("process.state"),                     ByPolicy("----------+--")),
        (publish("dlq.a"),                             ByPolicy("-------------")),
        (publish("dlq.dlq.a"),                         ByPolicy("-------------")),
        (publish("$audit"),                            ByPolicy("-------------")),

        (read("a"),                                    ByPolicy("--++-+++-++-+")),
        (read("**"),                                   ByPolicy("--++---+-++-+")),
        (read("secret.plans"),                         ByPolicy("--++---+-++-+")),
        (read("secret.*"),                             ByPolicy("--++---+-++-+")),
        (read("dlq.secret.plans"),                     ByPolicy("--++---++++-+")),
        (read("dlq.**"),                               ByPolicy("--++---++++-+")),
        (read("$audit"),                               ByPolicy("---------+---")),
        (past("secret.plans"),                         ByPolicy("--++---+-++-+")),
        (watch("process.state", json!([])),            ByPolicy("--++-+++-++-+")),
        (watch("secret.plans", json!(["k"])),          ByPolicy("--++---+-++-+")),
        (watch("secret.**", json!(["k"])),             ByPolicy("--++---+-++-+")),

        (join("a", "g"),                               ByPolicy("---++++--++-+")),
        (join("a", "h"),                               ByPolicy("---+-++--++-+")),
        (join("**", "g"),                              ByPolicy("---++----++-+")),
        (join("secret.plans", "g"),                    ByPolicy("---++----++-+")),
        (join("dlq.secret.plans", "g"),                ByPolicy("---++---+++-+")),
        (join("dlq.**", "g"),                          ByPolicy("---++---+++-+")),
        (join("$audit", "g"),                          ByPolicy("---------+---")),
        (join("heartbeat.received", "$process-projector"), Always("bad_topic")),

        (of_another("ACK", &json!({"id": "one"})),      Always("not_subscribed")),
        (of_another("NACK", &json!({"id": "one", "dead": true})), Always("not_subscribed")),
        (of_another("MODACK", &json!({"id": "one", "extend_ms": 1000})), Always("not_subscribed")),
        (of_another("PAUSE", &json!({})),               Always("not_subscribed")),
        (of_another("RESUME", &json!({})),              Always("not_subscribed")),
        (of_another("UNSUBSCRIBE", &json!({})),         Always("not_subscribed")),

        //                                                       nprscTWGdotxa
        (Public("POST", "/publish/a"),                 ByPolicy("-+---+++-++-+")),
        (Public("POST", "/publish/secret.plans"),      ByPolicy("-+----++-++-+")),
        (Public("POST", "/publish/process.state"),     ByPolicy("----------+--")),
        (Public("POST", "/publish/dlq.a"),             ByPolicy("-------------")),
        (Public("POST", "/publish/$audit"),            ByPolicy("-------------")),
        (Public("GET", "/replay?topic=a"),             ByPolicy("--++-+++-++-+")),
        (Public("GET", "/replay?topic=secret.plans"),  ByPolicy("--++---+-++-+")),
        (Public("GET", "/replay?topic=dlq.secret.plans"), ByPolicy("--++---++++-+")),
        (Public("GET", "/replay?topic=$audit"),        ByPolicy("---------+---")),
        (Public("GET", "/export?topic=a"),             ByPolicy("--++-+++-++-+")),
        (Public("GET", "/export?topic=secret.plans"),  ByPolicy("--++---+-++-+")),
        (Public("GET", "/export?topic=dlq.secret.plans"), ByPolicy("--++---++++-+")),
        (Public("GET", "/export?topic=$audit"),        ByPolicy("---------+---")),

        //                                                       nprscTWGdotxa
        (Guarded("/topics"),                           ByPolicy("-----------+-")),
        (Guarded("/groups"),                           ByPolicy("-----------+-")),
        (Guarded("/cursors?topic=a"),                  ByPolicy("-----------+-")),
        (Guarded("/lag?topic=a&group=g"),              ByPolicy("-----------+-")),
        (Guarded("/outbox"),                           ByPolicy("-----------+-")),
        (Guarded("/metrics"),                          ByPolicy("-----------+-")),
        (Guarded("/latest-by-key?topic=a&key=k"),      ByPolicy("-----------+-")),
        (Guarded("/revocations"),                      ByPolicy("-----------+-")),
        (Change("/revocations", json!({"sub": "x"})),  ByPolicy("-------------")),
        (OpsChange("/revocations", json!({"sub": "x"})), ByPolicy("-------------")),
        (Guarded("/healthz"),                          ByPolicy("+++++++++++++")),
        (Guarded("/readyz"),                           ByPolicy("+++++++++++++")),
        // With ops:admin: removals.rs.
        (GuardedDelete("/topics/a?dryRun=1"),          ByPolicy("-------------")),
        (GuardedDelete("/groups/g?dryRun=1"),          ByPolicy("-------------")),
        (OpsDelete("/topics/a?dryRun=1"),              ByPolicy("+++++++++++++")),
        (OpsDelete("/groups/g?dryRun=1"),              ByPolicy("+++++++++++++")),
        (Ops("/topics"),                               ByPolicy("+++++++++++++")),
        (Ops("/groups"),                               ByPolicy("+++++++++++++")),
        (Ops("/cursors?topic=a"),                      ByPolicy("+++++++++++++")),
        (Ops("/lag?topic=a&group=g"),                  ByPolicy("+++++++++++++")),
        (Ops("/outbox"),                               ByPolicy("+++++++++++++")),
        (Ops("/metrics"),                              ByPolicy("+++++++++++++")),
        (Ops("/latest-by-key?topic=a&key=k"),          ByPolicy("-----------+-")),
    ]
}

/// What needs no token because nothing comes of it: the page, and the WebSocket before AUTH.
const WITHOUT_TOKEN: [&str; 2] = ["/", "/ws"];

fn with_ops(guarded: bool) -> Config {
    Config { ops_port: Some(0), ops_auth: guarded, ..config() }
}

async fn delete(hub: &Hub, path: &str, token: Option<&str>) -> Answer {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
    raw(hub.ops_address().unwrap(), &request("DELETE", path, &headers, b"")).await
}

/// POST of JSON on the ops port.
async fn change(hub: &Hub, path: &str, body: &Value, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("Content-Type", "application/json"), ("Authorization", &bearer)];
    let address = hub.ops_address().unwrap();
    raw(address, &request("POST", path, &headers, body.to_string().as_bytes())).await
}

/// `OK`, or the code of a refusal.
async fn answered(hub: &Hub, guarded: &Hub, ask: &Ask, token: &str) -> String {
    let of = |answer: Answer| match answer.status {
        200 => "OK".to_owned(),
        _ => answer.json()["code"].as_str().unwrap_or("no code").to_owned(),
    };
    match ask {
        Frame(frame) => {
            let mut client = Client::connect(hub).await;
            assert_eq!(client.ask(json!({"op": "AUTH", "token": token})).await["op"], "OK");
            let mut frame = frame.clone();
            frame["corr"] = json!("asked");
            let answer = client.ask(frame).await;
            assert_eq!(answer["corr"], "asked", "{answer}");
            match answer["op"].as_str().unwrap() {
                "OK" | "PONG" => "OK".to_owned(),
                _ => answer["code"].as_str().unwrap().to_owned(),
            }
        }
        Public(method, path) => {
            let bearer = format!("Bearer {token}");
            let body: &[u8] = if *method == "POST" { b"1" } else { b"" };
            of(raw(hub.address(), &request(method, path, &[("Authorization", &bearer)], body)).await)
        }
        GuardedDelete(path) => of(delete(guarded, path, Some(token)).await),
        OpsDelete(path) => of(delete(hub, path, Some(token)).await),
        Guarded(path) => of(ops_as(guarded, path, token).await),
        Ops(path) => of(ops_as(hub, path, token).await),
        Change(path, body) => of(change(guarded, path, body, token).await),
        OpsChange(path, body) => of(change(hub, path, body, token).await),
    }
}

#[tokio::test]
async fn every_way_in_asks_the_policy() {
    let revocations = tempfile::NamedTempFile::new().unwrap();
    let with_file = Config { revocations_file: Some(revocations.path().to_owned()), ..with_ops(true) };
    let (hub, guarded) = (Hub::start(with_ops(false)).await.unwrap(), Hub::start(with_file).await.unwrap());
    let mut owner = Client::open(&hub).await;
    for topic in ["a", "secret.plans"] {
        owner.ask(json!({"op": "PUBLISH", "topic": topic, "payload": 1, "opts": {"id": "one", "key": "k"}})).await;
    }
    // The delivery and the membership that others have no part in.
    owner.subscribe("a", "g", json!({"from": "earliest", "maxInFlight": 1})).await;
    assert_eq!(owner.next().await["event"]["id"], "one");
    let tokens = tokens();
    let mut wrong = Vec::new();
    for (ask, answers) in table() {
        for (column, (policy, token)) in tokens.iter().enumerate() {
            let expected = match answers {
                Always(code) => code,
                ByPolicy(row) => {
                    assert_eq!(row.len(), tokens.len(), "{row}");
                    if row.as_bytes()[column] == b'+' { "OK" } else { "forbidden" }
                }
            };
            let answer = answered(&hub, &guarded, &ask, token).await;
            if answer != expected {
                let ask = match &ask {
                    Frame(frame) => frame.to_string(),
                    Public(method, path) => format!("{method} {path}"),
                    Guarded(path) => format!("{path} on the ops port with a guard"),
                    Ops(path) => format!("{path} on the ops port"),
                    GuardedDelete(path) => format!("DELETE {path} on the ops port with a guard"),
                    OpsDelete(path) => format!("DELETE {path} on the ops port"),
                    Change(path, _) => format!("POST {path} on the ops port with a guard"),
                    OpsChange(path, _) => format!("POST {path} on the ops port"),
                };
                wrong.push(format!("{ask} with {policy}: {answer}, not {expected}"));
            }
        }
    }
    // No column of the table has it: with it the same is done.
    let admin = change(&guarded, "/revocations", &json!({"sub": "x"}), &token(&["ops:admin"])).await;
    assert_eq!(admin.status, 200, "{admin:?}");
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    hub.shutdown().await;
    guarded.shutdown().await;
}

#[tokio::test]
async fn without_a_token_nothing_is_answered() {
    let (hub, guarded) = (Hub::start(with_ops(false)).await.unwrap(), Hub::start(with_ops(true)).await.unwrap());
    for (ask, _) in table() {
        match ask {
            Frame(frame) => {
                let op = frame["op"].as_str().unwrap().to_owned();
                if op != "PING" && op != "AUTH" {
                    let answer = Client::connect(&hub).await.ask(frame).await;
                    assert_eq!(answer["code"], "unauthorized", "{op}");
                }
            }
            Public(method, path) => assert_eq!(raw(hub.address(), &request(method, path, &[], b"1")).await.status, 401),
            Guarded("/healthz" | "/readyz") => {}
            Change(path, body) => assert_eq!(change(&guarded, path, &body, "").await.status, 401, "{path}"),
            OpsChange(path, body) => assert_eq!(change(&hub, path, &body, "").await.status, 401, "{path}"),
            Guarded(path) => assert_eq!(ops(&guarded, path).await.status, 401, "{path}"),
            GuardedDelete(path) => assert_eq!(delete(&guarded, path, None).await.status, 401, "{path}"),
            // There is nothing of that name.
            OpsDelete(path) => assert_eq!(delete(&hub, path, None).await.status, 404, "{path}"),
            Ops(path) => {
                let payloads = path.starts_with("/latest-by-key");
                assert_eq!(ops(&hub, path).await.status, if payloads { 401 } else { 200 }, "{path}");
            }
        }
    }
    hub.shutdown().await;
    guarded.shutdown().await;
}

/// The paths of all routes, as they stand in the code: a new one is found wherever it is.
fn routes(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            routes(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for other in [".nest(", ".nest_service(", ".route_service("] {
            assert!(!text.contains(other), "{}: {other} is not looked through here", path.display());
        }
        for at in text.split(".route(").skip(1) {
            let literal = at.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
            let (route, _) = literal.unwrap_or_else(|| panic!("{}: a route that is no literal", path.display()));
            found.insert(route.to_owned());
        }
    }
}

#[test]
fn every_op_and_every_route_has_a_line_in_the_table() {
    let mut ops: BTreeSet<&str> = Op::ALL.iter().map(|op| op.as_str()).collect();
    let mut missing = BTreeSet::new();
    routes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut missing);
    assert!(missing.len() > 10, "{missing:?}");
    let table = table();
    // A path is that of a route if it is the same up to the route's first parameter.
    let is_of = |route: &str, path: &str| {
        let path = path.split('?').next().unwrap();
        route.split_once('{').map_or(route == path, |(start, _)| path.starts_with(start))
    };
    for (ask, _) in &table {
        match ask {
            Frame(frame) => drop(ops.remove(frame["op"].as_str().unwrap())),
            Public(_, path)
            | Guarded(path)
            | Ops(path)
            | Change(path, _)
            | OpsChange(path, _)
            | GuardedDelete(path)
            | OpsDelete(path) => missing.retain(|route| !is_of(route, path)),
        }
    }
    missing.retain(|route| !WITHOUT_TOKEN.contains(&route.as_str()));
    assert!(ops.is_empty() && missing.is_empty(), "nothing is said of who may use {ops:?} {missing:?}");
}

#[tokio::test]
async fn an_ops_port_that_others_can_reach_asks_for_a_token() {
    let own = "an-operators-token";
    let everywhere = Ipv4Addr::UNSPECIFIED.into();
    let far = Config { ops_bind: everywhere, ops_token: Some(own.into()), allow_plaintext: true, ..with_ops(false) };
    let hub = Hub::start(far).await.unwrap();
    let address = (Ipv4Addr::LOCALHOST, hub.ops_address().unwrap().port()).into();
    let ask = async |path: &str, bearer: &str| {
        let headers = [("Host", "hub.example:8082"), ("Authorization", bearer)];
        let headers = if bearer.is_empty() { &headers[..1] } else { &headers[..] };
        raw(address, &request("GET", path, headers, b"")).await
    };
    assert_eq!(ask("/healthz", "").await.status, 200, "who watches it has no token");
    ask("/topics", "").await.refused(401, "missing token");
    ask("/topics", "Basic YTpi").await.refused(401, "Bearer");
    assert_eq!(ask("/topics", "Bearer another-operators").await.status, 401);
    ask("/topics", &format!("Bearer {}", token(&["*:**"]))).await.refused(403, "needs ops:read");
    for good in [own.to_owned(), token(&["ops:read"]), token(&["ops:admin"])] {
        for path in ["/topics", "/metrics", "/latest-by-key?topic=a&key=k"] {
            assert_eq!(ask(path, &format!("Bearer {good}")).await.status, 200, "{path}");
        }
    }
    let two = [("Authorization", "Bearer x"), ("Authorization", "Bearer y")];
    raw(address, &request("GET", "/topics", &two, b"")).await.refused(400, "given twice");
    hub.shutdown().await;
}
