//! How a hub that runs checks tokens: by every variable and flag there is for it.

use prom_testkit::{
    SECRET,
    identity::{Provider, SigningKey, Told},
    now_secs, token, token_with, until,
};
use serde_json::{Value, json};

use crate::common::{
    Folder,
    hub::{Hub, request},
    prom,
};

/// The status of a read with that token, and the answer.
fn read(hub: &Hub, token: &str) -> (u16, Value) {
    let answer = request(hub.address.port, "/replay?topic=a", Some(token)).unwrap();
    (answer.status, answer.parsed())
}

fn accepts(hub: &Hub, token: &str) {
    assert_eq!(read(hub, token).0, 200, "{:?}\n{}", read(hub, token), hub.log());
}

fn refuses(hub: &Hub, token: &str, words: &str) {
    let (status, answer) = read(hub, token);
    assert_eq!(status, 401, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains(words), "{answer} does not say {words:?}");
}

fn start(folder: &Folder, environment: &[(&str, &str)]) -> Hub {
    Hub::start(&folder.0.join("data"), environment)
}

#[test]
fn secrets_come_from_files_too() {
    let folder = Folder::new("token-files");
    let file = |name: &str, text: String| {
        let path = folder.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let other = "another-secret-of-thirty-two-bytes!!";
    let (now, before) = (file("now", format!("{other}\n")), file("before", format!("{SECRET}\r\n")));
    let hub = start(&folder, &[("JWT_SECRET_FILE", &now), ("JWT_SECRET_PREVIOUS_FILE", &before)]);
    accepts(&hub, &token(&["*:**"]));
    accepts(&hub, &prom_hub::auth::sign(&json!({"exp": now_secs() + 60, "scopes": ["*:**"]}), other).unwrap());
    assert!(!hub.log().contains("readable by every user"), "{}", hub.log());
    hub.terminate();
    let hub = start(&folder, &[("WS_TOKEN_FILE", &file("static", "try-me\n".into()))]);
    accepts(&hub, "try-me");
    refuses(&hub, "try-me-not", "WS_TOKEN");
    hub.terminate();
}

#[test]
fn the_operators_token_comes_from_a_file_too() {
    let folder = Folder::new("ops-token-file");
    let path = folder.0.join("token");
    std::fs::write(&path, "an-operators-token\n").unwrap();
    let hub = start(&folder, &[("OPS_TOKEN_FILE", path.to_str().unwrap())]);
    let ask = |token| request(hub.ops_port(), "/topics", token).unwrap().status;
    assert_eq!(ask(Some("an-operators-token")), 200);
    assert_eq!((ask(None), ask(Some("an-operators-toke")), ask(Some("another"))), (401, 401, 401));
    assert!(!hub.log().contains("readable by every user"), "{}", hub.log());
    // And so it comes to the commands that ask this port.
    let ops = format!("http://127.0.0.1:{}", hub.ops_port());
    let delete = |environment: (&str, &str)| {
        let output = prom(&["topic", "delete", "a.b"], &[("PROM_OPS_URL", &ops), environment], &folder.0);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let answered = delete(("OPS_TOKEN", "an-operators-token"));
    assert_eq!(delete(("OPS_TOKEN_FILE", path.to_str().unwrap())), answered);
    assert_ne!(delete(("OPS_TOKEN", "another-token-of-none")), answered);
    hub.terminate();
}

#[test]
fn audience_issuer_and_lifetime_are_checked() {
    let folder = Folder::new("token-claims");
    let hub =
        start(&folder, &[("JWT_SECRET", SECRET), ("JWT_AUD", "hub"), ("JWT_ISS", "us"), ("JWT_MAX_LIFETIME", "1h")]);
    let with = |claims: Value| {
        let mut all = json!({"aud": "hub", "iss": "us", "scopes": "*:**"});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        token_with(all)
    };
    accepts(&hub, &with(json!({})));
    accepts(&hub, &with(json!({"aud": ["x", "hub"]})));
    refuses(&hub, &with(json!({"aud": "x"})), "aud is not this hub's");
    refuses(&hub, &with(json!({"iss": "them"})), "iss is not accepted");
    refuses(&hub, &with(json!({"exp": now_secs() + 7200})), "exp may be at most");
    refuses(&hub, &with(json!({"exp": "soon"})), "exp must be a number");
    hub.terminate();
}

/// A token's own text reached the log raw, and refused tokens did not reach it at all.
#[test]
fn refused_tokens_are_in_the_log_escaped_and_few() {
    let folder = Folder::new("token-log");
    // Not kept back, so that there are many in a short time.
    let file = folder.0.join("prom.toml");
    std::fs::write(&file, "[limits]\nauth_failures_per_minute = 1000\n").unwrap();
    let hub = start(&folder, &[("PROM_CONFIG", file.to_str().unwrap())]);
    let policy =
        json!({"rules": [{"effect": "allow", "action": "publish\u{1b}[2J\nINFO all is well", "topics": ["a"]}]});
    let bad = token_with(json!({"policy": policy}));
    for _ in 0..200 {
        refuses(&hub, &bad, "policy");
    }
    let metrics = hub.ask("/metrics").body;
    assert!(metrics.contains("auth_refused_total{code=\"jwt_invalid\"} 200\n"), "{metrics}");
    let log = hub.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("a token was refused")).collect();
    assert!((1..50).contains(&lines.len()), "{} lines for 200 refusals", lines.len());
    assert!(
        lines[0].contains("WARN") && lines[0].contains("left_out=0") && lines[0].contains("code=jwt_invalid"),
        "{log}"
    );
    assert!(!log.contains('\u{1b}') && !log.lines().any(|line| line.starts_with("INFO all is well")), "{log:?}");
    hub.terminate();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_providers_tokens_are_checked_by_its_key_set_over_tls() {
    let folder = Folder::new("token-key-set");
    let trusted = folder.0.join("trusted.pem");
    let keys = [SigningKey::rs256("one"), SigningKey::es256("two")];
    let set: Vec<Value> = keys.iter().map(SigningKey::jwk).collect();
    let provider = Provider::start_tls(Told::keys(&set), &trusted).await;
    let url = provider.url();
    let environment = [
        ("JWT_JWKS_URL", url.as_str()),
        ("JWT_ISS", "https://login.example.com/"),
        ("JWT_AUD", "hub"),
        ("SSL_CERT_FILE", trusted.to_str().unwrap()),
    ];
    let claims = json!({"iss": "https://login.example.com/", "aud": "hub", "sub": "ann"});
    let hub = tokio::task::block_in_place(|| start(&folder, &environment));
    tokio::task::block_in_place(|| {
        for key in &keys {
            accepts(&hub, &key.token(&claims));
        }
        refuses(&hub, &keys[0].token(&json!({"iss": "https://login.example.com/"})), "aud");
        refuses(&hub, &token_with(claims.clone()), "must be signed with RS256");
        refuses(&hub, &SigningKey::es256("three").token(&claims), "no key of the token's kid");
        let metrics = hub.ask("/metrics").body;
        assert!(metrics.contains("result=\"ok\"} 2\n") && !metrics.contains("tenant"), "{metrics}");
        hub.terminate();
    });

    // Whose certificate nobody vouches for is not believed, and the hub runs all the same.
    let untrusted = folder.0.join("other.pem");
    let other = Provider::start_tls(Told::keys(&set), &untrusted).await;
    let url = other.url();
    let environment =
        [("JWT_SECRET", SECRET), ("JWT_JWKS_URL", url.as_str()), ("SSL_CERT_FILE", trusted.to_str().unwrap())];
    let launching = tokio::task::spawn_blocking({
        let (data, from) = (folder.0.join("data"), folder.0.clone());
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        move || {
            let environment: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            Hub::alive(&from, &data, &environment)
        }
    });
    let hub = launching.await.unwrap();
    until("the hub to say what is wrong", async || hub.log().contains("the key set cannot be read")).await;
    tokio::task::block_in_place(|| {
        let reason = hub.ask("/readyz").parsed()["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("certificate"), "{reason}");
        let (status, answer) = read(&hub, &keys[0].token(&claims));
        assert_eq!((status, &answer["code"]), (503, &json!("overloaded")), "{answer}");
        accepts(&hub, &token(&["*:**"]));
        assert!(hub.log().contains("without JWT_ISS or JWT_AUD"), "{}", hub.log());
        hub.terminate();
    });
    assert_eq!(other.asked(), 0);
}
