//! Every way into the hub, with every kind of policy. What is not in the table fails: an op, a method of a route.
//!
//! Rows of an outbox have no token; what they may do is tested beside their publisher, in `server/src/members/outbox.rs`.
//! The command line only brings tokens to these same ways in; `cli/tests/prom/rights.rs` walks it.

use std::{collections::BTreeSet, fs, net::Ipv4Addr, path::Path};

use prom_hub::{Config, Hub};
use prom_protocol::Op;
use prom_testkit::{
    Client, config,
    http::{Answer, raw, request},
    token, token_with,
};
use serde_json::{Value, json};

/// The kinds of policy, in the order of the table's columns.
fn tokens() -> [(&'static str, String); 14] {
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
        ("operator who may change things", token(&["ops:admin"])),
        ("everything", token(&["*:**"])),
    ]
}

/// What is asked.
enum Ask {
    /// A frame on a connection that has authenticated.
    Frame(Value),
    /// A request on the public port.
    Public(&'static str, &'static str),
    /// A request on the ops port of a hub that asks for a token there.
    Guarded(&'static str, &'static str),
    /// The same where it does not.
    Ops(&'static str, &'static str),
}

/// What comes of it.
enum Answers {
    /// `+`: allowed; `-`: `forbidden`. One for each kind of policy.
    ByPolicy(&'static str),
    /// This code, whatever the policy.
    Always(&'static str),
}

use Answers::{Always, ByPolicy};
use Ask::{Frame, Guarded, Ops, Public};

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
    //  d dead letters  o the hub's own  t states  x operator  m operator who may change things  a everything
    let watch = |topic: &str, keys: Value| Frame(json!({"op": "SUBSCRIBE", "topic": topic, "opts": {"from": "snapshot", "filter": {"keys": keys}}}));
    let past = |topic: &str| Frame(json!({"op": "SUBSCRIBE", "topic": topic, "opts": {"from": "earliest"}}));
    vec![
        //                                                       nprscTWGdotxma
        (Frame(json!({"op": "PING"})),                 ByPolicy("++++++++++++++")),
        (Frame(json!({"op": "AUTH", "token": "x"})),   Always("jwt_invalid")),

        (publish("a"),                                 ByPolicy("-+---+++-++--+")),
        (publish("heartbeat.received"),                ByPolicy("-+---+++-++--+")),
        (publish("secret.plans"),                      ByPolicy("-+----++-++--+")),
        (publish("process.state"),                     ByPolicy("----------+---")),
        (publish("dlq.a"),                             ByPolicy("--------------")),
        (publish("dlq.dlq.a"),                         ByPolicy("--------------")),
        (publish("dlq.process.state"),                 ByPolicy("--------------")),
        (publish("$audit"),                            ByPolicy("--------------")),

        (read("a"),                                    ByPolicy("--++-+++-++--+")),
        (read("**"),                                   ByPolicy("--++---+-++--+")),
        (read("secret.plans"),                         ByPolicy("--++---+-++--+")),
        (read("secret.*"),                             ByPolicy("--++---+-++--+")),
        (read("dlq.secret.plans"),                     ByPolicy("--++---++++--+")),
        (read("dlq.**"),                               ByPolicy("--++---++++--+")),
        (read("$audit"),                               ByPolicy("---------+----")),
        (past("secret.plans"),                         ByPolicy("--++---+-++--+")),
        (watch("process.state", json!([])),            ByPolicy("--++-+++-++--+")),
        (watch("secret.plans", json!(["k"])),          ByPolicy("--++---+-++--+")),
        (watch("secret.**", json!(["k"])),             ByPolicy("--++---+-++--+")),

        (join("a", "g"),                               ByPolicy("---++++--++--+")),
        (join("a", "h"),                               ByPolicy("---+-++--++--+")),
        (join("**", "g"),                              ByPolicy("---++----++--+")),
        (join("secret.plans", "g"),                    ByPolicy("---++----++--+")),
        (join("dlq.secret.plans", "g"),                ByPolicy("---++---+++--+")),
        (join("dlq.**", "g"),                          ByPolicy("---++---+++--+")),
        (join("$audit", "g"),                          ByPolicy("---------+----")),
        (join("heartbeat.received", "$process-projector"), Always("bad_topic")),
        (join("dlq.heartbeat.received", "$process-projector"), Always("bad_topic")),
        (join("$audit", "$mine"),                      Always("bad_topic")),

        (of_another("ACK", &json!({"id": "one"})),      Always("not_subscribed")),
        (of_another("NACK", &json!({"id": "one", "dead": true})), Always("not_subscribed")),
        (of_another("MODACK", &json!({"id": "one", "extend_ms": 1000})), Always("not_subscribed")),
        (of_another("PAUSE", &json!({})),               Always("not_subscribed")),
        (of_another("RESUME", &json!({})),              Always("not_subscribed")),
        (of_another("UNSUBSCRIBE", &json!({})),         Always("not_subscribed")),

        //                                                       nprscTWGdotxma
        (Public("POST", "/publish/a"),                 ByPolicy("-+---+++-++--+")),
        (Public("POST", "/publish/secret.plans"),      ByPolicy("-+----++-++--+")),
        (Public("POST", "/publish/process.state"),     ByPolicy("----------+---")),
        (Public("POST", "/publish/dlq.a"),             ByPolicy("--------------")),
        (Public("POST", "/publish/dlq.dlq.a"),         ByPolicy("--------------")),
        (Public("POST", "/publish/$audit"),            ByPolicy("--------------")),
        (Public("GET", "/replay?topic=a"),             ByPolicy("--++-+++-++--+")),
        (Public("GET", "/replay?topic=secret.plans"),  ByPolicy("--++---+-++--+")),
        (Public("GET", "/replay?topic=dlq.secret.plans"), ByPolicy("--++---++++--+")),
        (Public("GET", "/replay?topic=$audit"),        ByPolicy("---------+----")),
        (Public("GET", "/export?topic=a"),             ByPolicy("--++-+++-++--+")),
        (Public("GET", "/export?topic=secret.plans"),  ByPolicy("--++---+-++--+")),
        (Public("GET", "/export?topic=dlq.secret.plans"), ByPolicy("--++---++++--+")),
        (Public("GET", "/export?topic=$audit"),        ByPolicy("---------+----")),

        //                                                       nprscTWGdotxma
        (Guarded("GET", "/topics"),                    ByPolicy("-----------++-")),
        (Guarded("GET", "/groups"),                    ByPolicy("-----------++-")),
        (Guarded("GET", "/cursors?topic=a"),           ByPolicy("-----------++-")),
        (Guarded("GET", "/lag?topic=a&group=g"),       ByPolicy("-----------++-")),
        (Guarded("GET", "/outbox"),                    ByPolicy("-----------++-")),
        (Guarded("GET", "/metrics"),                   ByPolicy("-----------++-")),
        (Guarded("GET", "/latest-by-key?topic=a&key=k"),ByPolicy("-----------++-")),
        (Guarded("GET", "/revocations"),               ByPolicy("-----------++-")),
        (Guarded("POST", "/revocations"),              ByPolicy("------------+-")),
        (Ops("POST", "/revocations"),                  ByPolicy("------------+-")),
        (Guarded("GET", "/healthz"),                   ByPolicy("++++++++++++++")),
        (Guarded("GET", "/readyz"),                    ByPolicy("++++++++++++++")),
        (Guarded("DELETE", "/topics/a?dryRun=1"),      ByPolicy("------------+-")),
        (Guarded("DELETE", "/groups/g?dryRun=1"),      ByPolicy("------------+-")),
        (Ops("DELETE", "/topics/a?dryRun=1"),          ByPolicy("++++++++++++++")),
        (Ops("DELETE", "/groups/g?dryRun=1"),          ByPolicy("++++++++++++++")),
        (Ops("GET", "/topics"),                        ByPolicy("++++++++++++++")),
        (Ops("GET", "/groups"),                        ByPolicy("++++++++++++++")),
        (Ops("GET", "/cursors?topic=a"),               ByPolicy("++++++++++++++")),
        (Ops("GET", "/lag?topic=a&group=g"),           ByPolicy("++++++++++++++")),
        (Ops("GET", "/outbox"),                        ByPolicy("++++++++++++++")),
        (Ops("GET", "/metrics"),                       ByPolicy("++++++++++++++")),
        (Ops("GET", "/revocations"),                   ByPolicy("++++++++++++++")),
        (Ops("GET", "/healthz"),                       ByPolicy("++++++++++++++")),
        (Ops("GET", "/readyz"),                        ByPolicy("++++++++++++++")),
        (Ops("GET", "/latest-by-key?topic=a&key=k"),   ByPolicy("-----------++-")),
    ]
}

/// What needs no token because nothing comes of it: the page, and the WebSocket before AUTH.
const WITHOUT_TOKEN: [(&str, &str); 2] = [("GET", "/"), ("GET", "/ws")];

/// Two hubs whose ops ports are as [`Ops`] and [`Guarded`] say. Both have in them what is asked for.
struct Hubs {
    open: Hub,
    guarded: Hub,
    /// They have the delivery and the membership that others have no part in.
    _owners: [Client; 2],
    /// What they keep revocations in.
    _files: [tempfile::NamedTempFile; 2],
}

impl Hubs {
    async fn start() -> Self {
        let files = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
        let hub = async |ops_auth: bool| {
            let file = Some(files[usize::from(ops_auth)].path().to_owned());
            let hub =
                Hub::start(Config { ops_port: Some(0), ops_auth, revocations_file: file, ..config() }).await.unwrap();
            let mut owner = Client::open(&hub).await;
            for topic in ["a", "secret.plans"] {
                let opts = json!({"id": "one", "key": "k"});
                owner.ask(json!({"op": "PUBLISH", "topic": topic, "payload": 1, "opts": opts})).await;
            }
            owner.subscribe("a", "g", json!({"from": "earliest", "maxInFlight": 1})).await;
            assert_eq!(owner.next().await["event"]["id"], "one");
            (hub, owner)
        };
        let ((open, first), (guarded, second)) = (hub(false).await, hub(true).await);
        Self { open, guarded, _owners: [first, second], _files: files }
    }

    async fn end(self) {
        self.open.shutdown().await;
        self.guarded.shutdown().await;
    }

    /// `OK`, or the code of a refusal.
    async fn answer(&self, ask: &Ask, token: &str) -> String {
        let Frame(frame) = ask else {
            let answer = self.over_http(ask, Some(token)).await;
            return match answer.status {
                200 => "OK".to_owned(),
                _ => answer.json()["code"].as_str().unwrap_or("no code").to_owned(),
            };
        };
        let mut client = Client::connect(&self.open).await;
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

    async fn over_http(&self, ask: &Ask, token: Option<&str>) -> Answer {
        let (address, method, path, body) = match ask {
            Frame(_) => unreachable!("asked over the WebSocket"),
            Public(method, path) => (self.open.address(), method, path, "1"),
            Guarded(method, path) => (self.guarded.ops_address().unwrap(), method, path, r#"{"sub":"x"}"#),
            Ops(method, path) => (self.open.ops_address().unwrap(), method, path, r#"{"sub":"x"}"#),
        };
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(bearer.iter().map(|bearer| ("Authorization", bearer.as_str())));
        let body: &[u8] = if *method == "POST" { body.as_bytes() } else { b"" };
        raw(address, &request(method, path, &headers, body)).await
    }
}

impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Frame(frame) => write!(f, "{frame}"),
            Public(method, path) => write!(f, "{method} {path}"),
            Guarded(method, path) => write!(f, "{method} {path} on the ops port with a guard"),
            Ops(method, path) => write!(f, "{method} {path} on the ops port"),
        }
    }
}

#[tokio::test]
async fn every_way_in_asks_the_policy() {
    let hubs = Hubs::start().await;
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
            let answer = hubs.answer(&ask, token).await;
            if answer != expected {
                wrong.push(format!("{ask} with {policy}: {answer}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    hubs.end().await;
}

#[tokio::test]
async fn without_a_token_nothing_is_answered() {
    let hubs = Hubs::start().await;
    for (ask, _) in table() {
        let expected = match &ask {
            Frame(frame) => {
                let op = frame["op"].as_str().unwrap().to_owned();
                if op != "PING" && op != "AUTH" {
                    let answer = Client::connect(&hubs.open).await.ask(frame.clone()).await;
                    assert_eq!(answer["code"], "unauthorized", "{op}");
                }
                continue;
            }
            // Payloads, and to lock others out: nobody has that without a token.
            Ops("GET", path) if path.starts_with("/latest-by-key") => 401,
            Ops("POST", "/revocations") => 401,
            Ops(..) | Guarded("GET", "/healthz" | "/readyz") => 200,
            Public(..) | Guarded(..) => 401,
        };
        assert_eq!(hubs.over_http(&ask, None).await.status, expected, "{ask}");
    }
    hubs.end().await;
}

/// Methods of routes, as they are called in the code.
const METHODS: [&str; 8] = ["get", "post", "put", "delete", "patch", "head", "options", "trace"];

/// Method and path of all routes, as they stand in the code: a new one is found wherever it is.
fn routes(folder: &Path, found: &mut BTreeSet<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            routes(&path, found);
        } else {
            routes_of(&fs::read_to_string(&path).unwrap(), &path.display().to_string(), found);
        }
    }
}

fn routes_of(text: &str, place: &str, found: &mut BTreeSet<(String, String)>) {
    for other in [".nest(", ".nest_service(", ".route_service("] {
        assert!(!text.contains(other), "{place}: {other} is not looked through here");
    }
    for at in text.split(".route(").skip(1) {
        let (arguments, _) = closed(at).unwrap_or_else(|| panic!("{place}: a route without an end"));
        let literal = arguments.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
        let (route, methods) = literal.unwrap_or_else(|| panic!("{place}: a route that is no literal"));
        let mut rest = methods.trim_start_matches(',').trim();
        while !rest.is_empty() {
            let (method, handler) = rest.split_once('(').unwrap_or_else(|| panic!("{place}: {route} has no method"));
            let method = method.trim().trim_start_matches('.');
            assert!(METHODS.contains(&method), "{place}: {method}() of {route} is not looked through here");
            found.insert((method.to_uppercase(), route.to_owned()));
            let (_, after) = closed(handler).unwrap_or_else(|| panic!("{place}: {route} has no handler"));
            rest = after.trim().trim_end_matches(',').trim();
        }
    }
}

/// What stands before the parenthesis that closes one which is open, and what behind it.
fn closed(text: &str) -> Option<(&str, &str)> {
    let mut open = 1;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => open += 1,
            b')' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some((&text[..at], &text[at + 1..]));
        }
    }
    None
}

/// Whether a request for `path` comes to the route: they have the same parts, but for its parameters.
fn is_of(route: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap();
    let same = |(own, part): (&str, &str)| own == part || own.starts_with('{') && !part.is_empty();
    route.split('/').count() == path.split('/').count() && route.split('/').zip(path.split('/')).all(same)
}

#[test]
fn a_line_of_the_table_is_of_its_own_method_and_route_alone() {
    // A new DELETE beside a GET passed unseen, and so did what stood below a parameter.
    let mut found = BTreeSet::new();
    let text = r#".route("/revocations", get(list).delete(forget))
        .route(
            "/topics/{topic}/purge",
            post(move |state| purge(state, (1, 2))),
        )"#;
    routes_of(text, "here", &mut found);
    let route = |method: &str, path: &str| (method.to_owned(), path.to_owned());
    let all = [("GET", "/revocations"), ("DELETE", "/revocations"), ("POST", "/topics/{topic}/purge")];
    assert_eq!(found, all.map(|(method, path)| route(method, path)).into());
    assert!(is_of("/topics/{topic}", "/topics/a?dryRun=1") && is_of("/", "/"));
    for other in ["/topics", "/topics/b", "/topics/{topic}/purge", "/topics/{topic}/{what}", "/", "/{any}"] {
        assert!(!is_of(other, "/topics/a"), "{other}");
    }
}

#[test]
fn every_op_and_every_route_has_a_line_in_the_table() {
    let mut ops: BTreeSet<&str> = Op::ALL.iter().map(|op| op.as_str()).collect();
    let mut found = BTreeSet::new();
    routes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 10, "{found:?}");
    let mut missing = found.clone();
    for (ask, _) in &table() {
        match ask {
            Frame(frame) => drop(ops.remove(frame["op"].as_str().unwrap())),
            Public(method, path) | Guarded(method, path) | Ops(method, path) => {
                let own = |(of, route): &(String, String)| of == method && is_of(route, path);
                assert!(found.iter().any(own), "{ask}: there is no such route");
                missing.retain(|route| !own(route));
            }
        }
    }
    missing.retain(|(method, route)| !WITHOUT_TOKEN.contains(&(method.as_str(), route.as_str())));
    assert!(ops.is_empty() && missing.is_empty(), "nothing is said of who may use {ops:?} {missing:?}");
}

#[tokio::test]
async fn an_ops_port_that_others_can_reach_asks_for_a_token() {
    let own = "an-operators-token";
    let everywhere = Ipv4Addr::UNSPECIFIED.into();
    let far = Config {
        ops_port: Some(0),
        ops_bind: everywhere,
        ops_token: Some(own.into()),
        allow_plaintext: true,
        ..config()
    };
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
