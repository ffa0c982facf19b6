//! Tokens that are revoked: by the file, by the ops port, before AUTH and after it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use prom_hub::{
    Config, Hub,
    auth::{MAX_REVOCATIONS, Revocation, revoke},
};
use prom_testkit::{
    Client, config, http,
    http::{Answer, get, parse, raw, request},
    in_time, now_secs, token_with, until,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SUB: &str = "worker-7";

/// A folder with a file of these lines in it, and the file.
fn file(lines: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("revocations.jsonl");
    fs::write(&path, lines).unwrap();
    (folder, path)
}

fn config_of(file: &Path) -> Config {
    Config { revocations_file: Some(file.to_path_buf()), ops_port: Some(0), ..config() }
}

async fn hub_of(file: &Path) -> Hub {
    Hub::start(config_of(file)).await.unwrap()
}

fn token(sub: &str, jti: &str, iat: u64) -> String {
    token_with(json!({"sub": sub, "jti": jti, "iat": iat, "scopes": ["*:**"]}))
}

/// A connection was ended as the protocol says it is.
async fn is_ended(client: &mut Client) {
    let told = in_time(client.next()).await;
    assert_eq!((&told["op"], &told["code"]), (&json!("ERR"), &json!("token_expired")), "{told}");
    assert!(told["msg"].as_str().unwrap().contains("revoked") && told.get("corr").is_none(), "{told}");
    assert_eq!(in_time(client.closed()).await, 4401);
}

/// The token is refused, on the WebSocket and by HTTP.
async fn is_refused(hub: &Hub, token: &str) {
    let answer = Client::connect(hub).await.ask(json!({"op": "AUTH", "token": token})).await;
    assert_eq!(answer["code"], "jwt_invalid", "{answer}");
    assert!(answer["msg"].as_str().unwrap().contains("revoked") && answer.get("expired").is_none(), "{answer}");
    for path in ["/replay?topic=a", "/export?topic=a"] {
        get(hub, path, token).await.refused(401, "revoked");
    }
    http::post(hub, "/publish/a", token, b"1").await.refused(401, "revoked");
}

async fn revoke_at(hub: &Hub, entry: &Value) -> Answer {
    revoke_as(hub, entry, Some(&operator())).await
}

fn operator() -> String {
    token_with(json!({"sub": "operator", "iat": now_secs(), "scopes": ["ops:admin"]}))
}

async fn revoke_as(hub: &Hub, entry: &Value, token: Option<&str>) -> Answer {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let kind = ("Content-Type", "application/json");
    let headers: Vec<_> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).chain([kind]).collect();
    raw(hub.ops_address().unwrap(), &request("POST", "/revocations", &headers, entry.to_string().as_bytes())).await
}

async fn metric(hub: &Hub, name: &str) -> u64 {
    let text = http::ops(hub, "/metrics").await.text().to_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
}

#[tokio::test]
async fn each_kind_ends_live_connections_and_keeps_others() {
    let then = now_secs() - 100;
    for by_file in [true, false] {
        for entry in [
            json!({"sub": SUB}),
            json!({"jti": "one"}),
            json!({"issued_before": then + 1}),
            json!({"sub": SUB, "issued_before": then + 1}),
        ] {
            let (_folder, path) = file("");
            let hub = hub_of(&path).await;
            let (hit, spared) = (token(SUB, "one", then), token("other", "two", then + 50));
            let mut live = Client::open_as(&hub, &hit).await;
            live.subscribe("a", "g", json!({})).await;
            let mut other = Client::open_as(&hub, &spared).await;
            if by_file {
                fs::write(&path, format!("\n{entry}")).unwrap();
            } else {
                let answer = revoke_at(&hub, &entry).await;
                assert_eq!((answer.status, answer.json()["entries"].as_u64()), (200, Some(1)), "{answer:?}");
            }
            is_ended(&mut live).await;
            is_refused(&hub, &hit).await;
            assert_eq!(other.publish("a", json!(1)).await["op"], "OK", "{entry}");
            assert_eq!(get(&hub, "/replay?topic=a", &spared).await.status, 200);
            // A connection that has another token stays, also when it tries the revoked one.
            let again = other.ask(json!({"op": "AUTH", "token": hit})).await;
            assert_eq!(again["code"], "jwt_invalid", "{again}");
            assert_eq!(other.publish("a", json!(2)).await["op"], "OK", "{entry}");
            assert_eq!(metric(&hub, "revoked_ended_total").await, 1);
            hub.shutdown().await;
        }
    }
}

/// A token that does not say when it was made might be any age.
#[tokio::test]
async fn a_token_without_iat_was_made_before_any_time() {
    let then = now_secs() - 100;
    let (_folder, path) = file(&format!("{{\"issued_before\":{then}}}\n"));
    let hub = hub_of(&path).await;
    is_refused(&hub, &token_with(json!({"scopes": ["*:**"]}))).await;
    Client::open_as(&hub, &token(SUB, "one", then)).await;
    hub.shutdown().await;
}

/// Leases and subscriptions are those of who began them.
#[tokio::test]
async fn a_live_connection_stays_that_of_its_subject() {
    let (_folder, path) = file("");
    let hub = hub_of(&path).await;
    let mut live = Client::open_as(&hub, &token(SUB, "one", 1)).await;
    let other = live.ask(json!({"op": "AUTH", "token": token("other", "two", 1)})).await;
    assert_eq!(other["code"], "forbidden", "{other}");
    assert_eq!(live.ask(json!({"op": "AUTH", "token": token(SUB, "three", 1)})).await["op"], "OK");
    // It is judged by the token it has now.
    assert_eq!(revoke_at(&hub, &json!({"jti": "one"})).await.status, 200);
    assert_eq!(live.publish("a", json!(1)).await["op"], "OK");
    assert_eq!(revoke_at(&hub, &json!({"jti": "three"})).await.status, 200);
    is_ended(&mut live).await;
    hub.shutdown().await;
}

#[tokio::test]
async fn subscriptions_that_take_long_to_begin_break_off() {
    // The connection looked at nothing else until the last of all that was read at once had begun.
    const TOPICS: usize = 4000;
    const ASKED: usize = 50;
    let (_folder, path) = file("");
    let hub = hub_of(&path).await;
    let hit = token(SUB, "one", now_secs());
    let mut client = Client::open_as(&hub, &hit).await;
    client.send_all((0..TOPICS).map(|n| json!({"op": "PUBLISH", "topic": format!("t.{n}"), "payload": n}))).await;
    for _ in 0..TOPICS {
        assert_eq!(client.next().await["op"], "OK");
    }
    let options = json!({"from": "earliest"});
    let asked = |n| json!({"op": "SUBSCRIBE", "topic": "t.*", "corr": format!("s{n}"), "opts": options});
    client.send_all((0..ASKED).map(asked)).await;
    assert_eq!(revoke_at(&hub, &json!({"sub": SUB})).await.status, 200);
    let mut begun = 0;
    loop {
        let frame = client.next().await;
        if frame["code"] == "token_expired" {
            break;
        }
        begun += usize::from(frame["corr"].is_string());
    }
    assert!(begun < ASKED, "all had begun");
    assert_eq!(in_time(client.closed()).await, 4401);
}

#[tokio::test]
async fn what_is_being_sent_breaks_off() {
    for path in ["/export?topic=a&ndjson=1", "/replay?topic=a&limit=1000"] {
        let (_folder, file) = file("");
        let hub = hub_of(&file).await;
        let (reader, writer) = (token(SUB, "one", 1), token("other", "two", 1));
        let payload = json!("x".repeat(900_000)).to_string();
        // A page of a replay is at most about 5 MB: more than sockets hold, if the reader's buffer is kept small.
        for _ in 0..60 {
            assert_eq!(http::post(&hub, "/publish/a", &writer, payload.as_bytes()).await.status, 200);
        }
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let mut stream: TcpStream = socket.connect(hub.address()).await.unwrap();
        let bearer = format!("Bearer {reader}");
        stream.write_all(&request("GET", path, &[("Authorization", &bearer)], b"")).await.unwrap();
        let mut bytes = vec![0; 1000];
        in_time(stream.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(revoke_at(&hub, &json!({"sub": SUB})).await.status, 200);
        let _ = in_time(stream.read_to_end(&mut bytes)).await;
        let answer = parse(&bytes);
        assert_eq!(answer.status, 200);
        assert!(!answer.whole, "{path}: {} bytes", answer.body.len());
        assert_eq!(metric(&hub, "revoked_ended_total").await, 1, "{path}");
        hub.shutdown().await;
    }
}

#[tokio::test]
async fn a_body_that_is_still_coming_is_not_published() {
    let (_folder, file) = file("");
    let hub = hub_of(&file).await;
    let bearer = format!("Bearer {}", token(SUB, "one", 1));
    // Asked for it, the hub says when it has taken the token and waits for the body.
    let headers = [("Authorization", bearer.as_str()), ("Expect", "100-continue")];
    let whole = request("POST", "/publish/a", &headers, b"\"payload\"");
    let mut stream = TcpStream::connect(hub.address()).await.unwrap();
    let (head, last) = whole.split_at(whole.len() - 9);
    stream.write_all(head).await.unwrap();
    let mut taken = [0; 25];
    in_time(stream.read_exact(&mut taken)).await.unwrap();
    assert_eq!(&taken, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(revoke_at(&hub, &json!({"sub": SUB})).await.status, 200);
    stream.write_all(last).await.unwrap();
    let mut bytes = Vec::new();
    in_time(stream.read_to_end(&mut bytes)).await.unwrap();
    parse(&bytes).refused(401, "revoked");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_broken_file_keeps_what_it_said_before() {
    let (_folder, path) = file("{\"jti\":\"one\"}\n");
    let hub = hub_of(&path).await;
    for (n, broken) in ["{\"jti\":\"one\"}\n{\"subject\":\"x\"}\n", "[]", "\u{1}"].iter().enumerate() {
        fs::write(&path, broken).unwrap();
        let failed = n as u64 + 1;
        until("the look", async || metric(&hub, "revocations_reloads_total{result=\"failed\"}").await == failed).await;
        assert_eq!(metric(&hub, "revocations_file_broken").await, 1);
        is_refused(&hub, &token(SUB, "one", 1)).await;
        // What cannot be read is not written over.
        let answer = revoke_at(&hub, &json!({"jti": "two"})).await;
        answer.refused(409, "REVOCATIONS_FILE line");
        assert_eq!(fs::read_to_string(&path).unwrap(), *broken);
    }
    fs::remove_file(&path).unwrap();
    until("the look", async || metric(&hub, "revocations_reloads_total{result=\"failed\"}").await == 4).await;
    is_refused(&hub, &token(SUB, "one", 1)).await;
    fs::write(&path, "").unwrap();
    until("the look", async || metric(&hub, "revocations_file_broken").await == 0).await;
    // It might be one that is being written just now.
    is_refused(&hub, &token(SUB, "one", 1)).await;
    until("that it is believed", async || metric(&hub, "revocations").await == 0).await;
    Client::open_as(&hub, &token(SUB, "one", 1)).await;
    hub.shutdown().await;
}

#[tokio::test]
async fn a_hub_does_not_start_without_knowing_what_is_revoked() {
    let (folder, path) = file("{\"sub\":\"a\"}\nnonsense");
    let said = Hub::start(config_of(&path)).await.unwrap_err().to_string();
    assert!(said.starts_with("REVOCATIONS_FILE ") && said.contains("line 2: it must be a JSON object"), "{said}");
    let said = Hub::start(config_of(&folder.path().join("none"))).await.unwrap_err().to_string();
    assert!(said.starts_with("REVOCATIONS_FILE ") && said.contains("cannot be read"), "{said}");
    let fixed = Config { auth: prom_hub::Auth::Static("let-me-in".into()), ..config_of(&path) };
    let said = Hub::start(fixed).await.unwrap_err().to_string();
    assert!(said.contains("REVOCATIONS_FILE and WS_TOKEN"), "{said}");
}

#[tokio::test]
async fn what_was_revoked_stays_so_after_a_restart() {
    let (folder, path) = file("{\"jti\":\"by hand\"}\n");
    let hub = hub_of(&path).await;
    assert_eq!(revoke_at(&hub, &json!({"sub": SUB})).await.status, 200);
    let again = revoke_at(&hub, &json!({"sub": SUB})).await;
    assert_eq!(again.json()["entries"], 2, "the same twice is one");
    hub.shutdown().await;
    let hub = hub_of(&path).await;
    is_refused(&hub, &token(SUB, "one", 1)).await;
    is_refused(&hub, &token("other", "by hand", 1)).await;
    let listed = http::ops(&hub, "/revocations").await.json();
    assert_eq!((&listed["entries"], &listed["next"]), (&json!(2), &Value::Null), "{listed}");
    assert_eq!(listed["revocations"][0], json!({"jti": "by hand"}));
    assert!(listed["revocations"][1]["at"].as_u64().is_some_and(|at| at.abs_diff(now_secs()) < 600), "{listed}");
    let page = http::ops(&hub, "/revocations?limit=1&after=1").await.json();
    assert_eq!((&page["revocations"][0]["sub"], &page["next"]), (&json!(SUB), &Value::Null), "{page}");
    assert_eq!(http::ops(&hub, "/revocations?limit=1").await.json()["next"], 1);
    assert!(!folder.path().join("revocations.jsonl.new").exists());
    hub.shutdown().await;
}

/// Two writers at once would each write the file without what the other added.
#[tokio::test]
async fn no_writer_loses_what_another_added() {
    let (_folder, path) = file("");
    let hub = hub_of(&path).await;
    let by_hand = path.clone();
    let by_hand = tokio::task::spawn_blocking(move || {
        for n in 0..20 {
            let entry = Revocation { jti: Some(format!("file-{n}")), ..Revocation::default() };
            revoke(&by_hand, &entry).unwrap();
        }
    });
    for n in 0..20 {
        assert_eq!(revoke_at(&hub, &json!({"jti": format!("ops-{n}")})).await.status, 200);
    }
    in_time(by_hand).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 40);
    until("all of them", async || metric(&hub, "revocations").await == 40).await;
    hub.shutdown().await;
}

#[tokio::test]
async fn there_are_so_many_entries_and_no_more() {
    let line = |n: usize| format!("{{\"jti\":\"{n}\"}}\n");
    let (_folder, path) = file(&(0..MAX_REVOCATIONS).map(line).collect::<String>());
    let hub = hub_of(&path).await;
    is_refused(&hub, &token(SUB, "99999", 1)).await;
    revoke_at(&hub, &json!({"jti": "x"})).await.refused(409, "more than 100000 entries");
    assert_eq!(revoke_at(&hub, &json!({"jti": "5"})).await.status, 200, "it is there already");
    hub.shutdown().await;
    fs::write(&path, (0..=MAX_REVOCATIONS).map(line).collect::<String>()).unwrap();
    let said = Hub::start(config_of(&path)).await.unwrap_err().to_string();
    assert!(said.contains("more than 100000 entries"), "{said}");
    // Those that have ended are none.
    let old: String = (0..=MAX_REVOCATIONS).map(|n| format!("{{\"jti\":\"{n}\",\"at\":1000}}\n")).collect();
    fs::write(&path, old).unwrap();
    hub_of(&path).await.shutdown().await;
}

/// Any process of the machine may read on loopback. Locking everybody out is more than that.
#[tokio::test]
async fn nobody_is_locked_out_without_an_operators_token() {
    let (_folder, path) = file("");
    let hub = hub_of(&path).await;
    let everybody = json!({"issued_before": now_secs()});
    revoke_as(&hub, &everybody, None).await.refused(401, "ops:admin");
    for scope in ["*:**", "ops:read"] {
        let token = token_with(json!({"scopes": [scope]}));
        revoke_as(&hub, &everybody, Some(&token)).await.refused(403, "needs ops:admin");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
    assert_eq!(http::ops(&hub, "/revocations").await.status, 200, "what is revoked may be read");
    assert_eq!(revoke_at(&hub, &everybody).await.status, 200);
    hub.shutdown().await;
    let own = Config { ops_token: Some("an-operators-token".into()), ..config_of(&path) };
    let hub = Hub::start(own).await.unwrap();
    assert_eq!(revoke_as(&hub, &json!({"sub": SUB}), Some("an-operators-token")).await.status, 200);
    hub.shutdown().await;
}

/// A token of a time when tokens could live longer is good again in its last days.
#[tokio::test]
async fn an_entry_does_not_end_earlier_because_tokens_live_shorter_now() {
    let day = 24 * 3600;
    let lines = format!("{{\"jti\":\"one\",\"at\":{}}}\n", now_secs() - 300 * day);
    let (_folder, path) = file(&lines);
    let prom_hub::Auth::Jwt(jwt) = config().auth else { panic!("JWTs") };
    let jwt = prom_hub::auth::Jwt { max_lifetime: std::time::Duration::from_secs(day), ..jwt };
    let hub = Hub::start(Config { auth: prom_hub::Auth::Jwt(jwt), ..config_of(&path) }).await.unwrap();
    is_refused(&hub, &token(SUB, "one", now_secs() - 399 * day)).await;
    assert_eq!(revoke_at(&hub, &json!({"jti": "two"})).await.json()["entries"], 2);
    assert!(fs::read_to_string(&path).unwrap().starts_with(&lines), "it was dropped");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_wrong_or_foreign_request_revokes_nothing() {
    let (_folder, path) = file("");
    let hub = hub_of(&path).await;
    for (entry, words) in [
        (json!({}), "sub, jti or issued_before"),
        (json!({"sub": SUB, "at": 5}), "at is not yours"),
        (json!({"issued_before": now_secs() + 3600}), "issued_before must not be in the future"),
        (json!({"sub": "x".repeat(513)}), "sub must be 1 to 512 bytes"),
        (json!({"sub": "x".repeat(20_000)}), "at most 16384 bytes"),
    ] {
        revoke_at(&hub, &entry).await.refused(400, words);
    }
    // What a page of another site can have a browser send here.
    let bearer = format!("Bearer {}", operator());
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "text/plain")];
    let text = request("POST", "/revocations", &headers, br#"{"issued_before":1}"#);
    raw(hub.ops_address().unwrap(), &text).await.refused(400, "Content-Type must be application/json");
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
    hub.shutdown().await;
    let hub = Hub::start(Config { ops_port: Some(0), ..config() }).await.unwrap();
    revoke_at(&hub, &json!({"sub": SUB})).await.refused(409, "set REVOCATIONS_FILE");
    http::ops(&hub, "/revocations").await.refused(409, "set REVOCATIONS_FILE");
    hub.shutdown().await;
}
