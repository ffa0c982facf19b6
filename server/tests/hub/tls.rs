//! TLS of both ports: what is spoken, who is cut, and what becomes of files that change.

use std::{path::Path, time::Duration};

use prom_hub::{Config, Hub, StartError};
use prom_testkit::{
    Client, config,
    http::{self, ops, request},
    in_time,
    tls::{Authority, Issued, connect, raw, shown},
    token, until,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SOON: Duration = Duration::from_millis(400);

/// A folder with an authority, and a certificate of it for the hub.
struct Trust {
    folder: TempDir,
    authority: Authority,
    own: Issued,
}

impl Trust {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "authority");
        let own = authority.issue("hub");
        Self { folder, authority, own }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn config(&self) -> Config {
        Config { tls: Some(self.own.tls()), ops_port: Some(0), ..config() }
    }

    async fn hub(&self) -> Hub {
        Hub::start(self.config()).await.unwrap()
    }

    /// Who trusts the hub and has nothing to show.
    fn client(&self) -> rustls::ClientConfig {
        self.authority.client(None)
    }
}

/// A metric of a hub whose ops port is in the clear.
async fn metric(hub: &Hub, name: &str) -> Option<u64> {
    let text = ops(hub, "/metrics").await;
    text.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

async fn counted(hub: &Hub, reason: &str, count: u64) {
    let name = format!("sockets_cut_total{{port=\"public\",reason=\"{reason}\"}}");
    until(&name, async || metric(hub, &name).await == Some(count)).await;
}

#[tokio::test]
async fn everything_that_a_port_speaks_it_speaks_under_tls() {
    let trust = Trust::new();
    let hub = trust.hub().await;
    let mut client = Client::open_tls(&hub, trust.client()).await;
    client.subscribe("orders", "workers", json!({"from": "earliest"})).await;
    client.publish("orders", json!("x".repeat(300_000))).await;
    let event = client.events(1).await.remove(0);
    assert_eq!(event["event"]["payload"].as_str().unwrap().len(), 300_000);
    client.close().await;
    assert!(client.closed_cleanly().await);

    let bearer = format!("Bearer {}", token(&["*:**"]));
    let asked = |method: &str, path: &str, body: &[u8]| request(method, path, &[("Authorization", &bearer)], body);
    let published = raw(hub.address(), trust.client(), &asked("POST", "/publish/orders", b"{\"n\":2}")).await.unwrap();
    assert_eq!(published.status, 200, "{published:?}");
    let replay = asked("GET", "/replay?topic=orders&from=earliest", b"");
    let old = trust.authority.client_of(None, &[&rustls::version::TLS12]);
    for tls in [trust.client(), old] {
        let page = raw(hub.address(), tls, &replay).await.unwrap();
        assert_eq!(page.json()["count"], 2);
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn a_page_of_the_hub_under_tls_has_nothing_to_do_with_the_clear() {
    fn page(_: &str) -> Option<std::borrow::Cow<'static, [u8]>> {
        Some(std::borrow::Cow::Borrowed(b"<p>"))
    }
    let trust = Trust::new();
    let mut config = trust.config();
    config.page = Some(page);
    config.origins = Some(vec!["https://app.example.com".into()]);
    let hub = Hub::start(config).await.unwrap();
    let page = raw(hub.address(), trust.client(), &request("GET", "/", &[], b"")).await.unwrap();
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("connect-src 'self' wss://localhost;"), "{policy}");
    let bearer = format!("Bearer {}", token(&["*:**"]));
    for (origin, own) in [("https://localhost", true), ("http://localhost", false)] {
        let asked = request("GET", "/replay?topic=a", &[("Origin", origin), ("Authorization", &bearer)], b"");
        let answer = raw(hub.address(), trust.client(), &asked).await.unwrap();
        assert_eq!(answer.header("access-control-allow-origin"), own.then_some(origin));
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn who_speaks_no_tls_or_another_one_is_told_and_cut_at_once() {
    let trust = Trust::new();
    // Patience would fail this test.
    let hub = trust.hub().await;
    let answer = http::raw(hub.address(), &request("GET", "/replay?topic=a", &[], b"")).await;
    answer.refused(400, "this port speaks TLS: use https:// or wss://");
    counted(&hub, "handshake", 1).await;
    let mut other = TcpStream::connect(hub.address()).await.unwrap();
    other.write_all(b"\x00\x01 hello, is this a database?").await.unwrap();
    let mut told = Vec::new();
    // An alert, or a reset.
    let _ = in_time(other.read_to_end(&mut told)).await;
    counted(&hub, "handshake", 2).await;
    let mut h2 = trust.client();
    h2.alpn_protocols = vec![b"h2".to_vec()];
    connect(hub.address(), h2).await.expect_err("HTTP/2 is not spoken here");
    counted(&hub, "handshake", 3).await;
    let mut both = trust.client();
    both.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = connect(hub.address(), both).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    // Who looks whether the port is there, and leaves, is no failure.
    drop(TcpStream::connect(hub.address()).await.unwrap());
    drop(stream);
    until("all have left", async || metric(&hub, "sockets_open{port=\"public\"}").await == Some(0)).await;
    counted(&hub, "handshake", 3).await;
    hub.shutdown().await;
}

#[tokio::test]
async fn who_is_silent_before_or_after_the_handshake_is_cut_when_a_head_would_be() {
    let trust = Trust::new();
    let mut config = trust.config();
    config.limits.head_timeout = SOON;
    let hub = Hub::start(config).await.unwrap();
    let mut silent = TcpStream::connect(hub.address()).await.unwrap();
    let mut half = TcpStream::connect(hub.address()).await.unwrap();
    // The head of a record that says 512 bytes follow, and none of them.
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).await.unwrap();
    for stream in [&mut silent, &mut half] {
        assert_eq!(in_time(stream.read(&mut [0])).await.unwrap_or(0), 0);
    }
    counted(&hub, "head", 2).await;
    let mut shaken = connect(hub.address(), trust.client()).await.unwrap();
    assert_eq!(in_time(shaken.read(&mut [0])).await.unwrap(), 0, "an end with a word");
    counted(&hub, "head", 3).await;
    hub.shutdown().await;
}

#[tokio::test]
async fn a_websocket_that_the_hub_ends_ends_with_the_word_that_tls_has_for_it() {
    // Without it a client cannot tell an end from a line that somebody cut.
    let trust = Trust::new();
    let mut config = trust.config();
    config.limits.auth_timeout = SOON;
    let hub = Hub::start(config).await.unwrap();
    let mut stream = connect(hub.address(), trust.client()).await.unwrap();
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ];
    let head: String = upgrade.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let asked = format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{head}\r\n");
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    in_time(stream.read_to_end(&mut bytes)).await.expect("not cut");
    // The close frame: 4408.
    assert!(bytes.windows(2).any(|two| two == 4408_u16.to_be_bytes()), "{}", String::from_utf8_lossy(&bytes));
    hub.shutdown().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_makes_room() {
    let trust = Trust::new();
    let mut config = trust.config();
    config.limits.sockets = 1;
    let hub = Hub::start(config).await.unwrap();
    let mut silent = TcpStream::connect(hub.address()).await.unwrap();
    until("it has its seat", async || metric(&hub, "sockets_open{port=\"public\"}").await == Some(1)).await;
    let answer = raw(hub.address(), trust.client(), &request("GET", "/nothing", &[], b"")).await.unwrap();
    assert_eq!(answer.status, 404);
    assert_eq!(in_time(silent.read(&mut [0])).await.unwrap_or(0), 0);
    counted(&hub, "evicted", 1).await;
    hub.shutdown().await;
}

#[tokio::test]
async fn who_takes_nothing_under_tls_is_cut_as_in_the_clear() {
    let trust = Trust::new();
    let mut config = trust.config();
    config.limits.write_timeout = SOON;
    let hub = Hub::start(config).await.unwrap();
    let mut client = Client::open_tls(&hub, trust.client()).await;
    for _ in 0..8 {
        client.publish("large", json!("x".repeat(1_000_000))).await;
    }
    let bearer = format!("Bearer {}", token(&["*:**"]));
    let mut stuck = connect(hub.address(), trust.client()).await.unwrap();
    let export = request("GET", "/export?topic=large&ndjson=1", &[("Authorization", &bearer)], b"");
    stuck.write_all(&export).await.unwrap();
    counted(&hub, "stalled", 1).await;
    hub.shutdown().await;
}

#[tokio::test]
async fn new_files_are_for_new_connections_and_the_old_ones_go_on() {
    let trust = Trust::new();
    let hub = trust.hub().await;
    let expires = "tls_certificate_expires_seconds{port=\"public\"}";
    let before = metric(&hub, expires).await.unwrap();
    let days = (before - prom_testkit::now_secs()) as f64 / 86_400.0;
    assert!((1.9..2.1).contains(&days), "{days}");
    let mut old = Client::open_tls(&hub, trust.client()).await;
    old.publish("orders", json!(1)).await;
    assert_eq!(shown(hub.address(), trust.client()).await, trust.own.der());

    let next = trust.authority.issue_for("next", 9);
    next.replaces(&trust.own);
    until("the new certificate", async || shown(hub.address(), trust.client()).await == next.der()).await;
    old.publish("orders", json!(2)).await;
    let mut new = Client::open_tls(&hub, trust.client()).await;
    new.publish("orders", json!(3)).await;
    let days = (metric(&hub, expires).await.unwrap() - before) as f64 / 86_400.0;
    assert!((6.9..7.1).contains(&days), "{days}");
    assert_eq!(metric(&hub, "tls_reloads_total{port=\"public\",result=\"ok\"}").await, Some(1));
    assert_eq!(metric(&hub, "tls_files_broken{port=\"public\"}").await, Some(0));
    hub.shutdown().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_change_nothing_until_they_can() {
    let trust = Trust::new();
    let hub = trust.hub().await;
    let (own, broken) = (trust.own.der(), "tls_files_broken{port=\"public\"}");
    let next = trust.authority.issue("next");
    // Half of a renewal: the key of another certificate.
    std::fs::copy(&next.key, &trust.own.key).unwrap();
    until("it is seen", async || metric(&hub, broken).await == Some(1)).await;
    assert_eq!(shown(hub.address(), trust.client()).await, own);
    // It stays so, and is counted once.
    std::fs::remove_file(&trust.own.cert).unwrap();
    let failed = "tls_reloads_total{port=\"public\",result=\"failed\"}";
    until("another fault", async || metric(&hub, failed).await == Some(2)).await;
    assert_eq!(shown(hub.address(), trust.client()).await, own);
    next.replaces(&trust.own);
    until("the new certificate", async || shown(hub.address(), trust.client()).await == next.der()).await;
    assert_eq!((metric(&hub, broken).await, metric(&hub, failed).await), (Some(0), Some(2)));
    hub.shutdown().await;
}

#[tokio::test]
async fn the_ops_port_with_an_authority_takes_only_whom_it_vouches_for() {
    let trust = Trust::new();
    let strangers = Authority::new(trust.path(), "strangers");
    let operators = Authority::new(trust.path(), "operators");
    let (stranger, operator) = (strangers.issue("stranger"), operators.issue("operator"));
    let expired = operators.issue_expired("expired");
    let config = Config {
        tls: None,
        ops_tls: Some(trust.own.tls()),
        ops_client_ca: Some(operators.cert.clone()),
        ops_token: Some("an-operators-token".into()),
        ..trust.config()
    };
    let hub = Hub::start(config).await.unwrap();
    let address = hub.ops_address().unwrap();
    let health = request("GET", "/healthz", &[], b"");
    let groups = request("GET", "/groups", &[("Authorization", "Bearer an-operators-token")], b"");
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        for identity in [None, Some(&stranger), Some(&expired)] {
            let client = trust.authority.client_of(identity, versions);
            raw(address, client, &health).await.expect_err("only operators");
        }
        let client = || trust.authority.client_of(Some(&operator), versions);
        assert_eq!(raw(address, client(), &health).await.unwrap().status, 200);
        // The certificate opens the port; the token is asked for all the same.
        assert_eq!(raw(address, client(), &request("GET", "/groups", &[], b"")).await.unwrap().status, 401);
        assert_eq!(raw(address, client(), &groups).await.unwrap().status, 200);
    }
    let client = || trust.authority.client(Some(&operator));
    let asked = request("GET", "/metrics", &[("Authorization", "Bearer an-operators-token")], b"");
    let metrics = raw(address, client(), &asked).await.unwrap();
    let line = "sockets_cut_total{port=\"ops\",reason=\"handshake\"} 6";
    assert!(metrics.text().contains(line), "{}", metrics.text());

    // Other operators, from now on.
    std::fs::copy(&strangers.cert, &operators.cert).unwrap();
    let new = || trust.authority.client(Some(&stranger));
    until("others are trusted", async || raw(address, new(), &health).await.is_ok_and(|answer| answer.status == 200))
        .await;
    raw(address, client(), &health).await.expect_err("no longer an operator");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_session_of_an_operator_does_not_outlive_the_certificate() {
    let trust = Trust::new();
    let operators = Authority::new(trust.path(), "operators");
    let operator = operators.issue("operator");
    let config =
        Config { ops_tls: Some(trust.own.tls()), ops_client_ca: Some(operators.cert.clone()), ..trust.config() };
    let hub = Hub::start(config).await.unwrap();
    let health = request("GET", "/healthz", &[], b"");
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        // One that remembers sessions.
        let client = trust.authority.client_of(Some(&operator), versions);
        for _ in 0..3 {
            let mut stream = connect(hub.ops_address().unwrap(), client.clone()).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
            stream.write_all(&health).await.unwrap();
            in_time(stream.read_to_end(&mut Vec::new())).await.unwrap();
        }
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn a_start_with_files_that_cannot_be_used_is_refused_by_their_names() {
    let trust = Trust::new();
    let other = trust.authority.issue("other");
    let write = |name: &str, text: &str| {
        let path = trust.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let locked = trust.path().join("locked.key");
    let [key, out] = [&trust.own.key, &locked].map(|path| path.to_str().unwrap().to_owned());
    let made = std::process::Command::new("openssl")
        .args(["pkcs8", "-topk8", "-in", &key, "-out", &out, "-passout", "pass:secret"])
        .status();
    assert!(made.unwrap().success());
    let with = |cert: &Path, key: &Path| prom_hub::Tls { cert: cert.to_owned(), key: key.to_owned() };
    let (cert, key) = (trust.own.cert.as_path(), trust.own.key.as_path());
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let missing = trust.path().join("missing.pem");
    for (tls, words) in [
        (with(cert, &other.key), &["TLS_KEY_FILE", "other.key", "is not the key of the certificate in", "hub.pem"][..]),
        (with(&missing, key), &["TLS_CERT_FILE", "missing.pem", "cannot be read"]),
        (with(cert, &missing), &["TLS_KEY_FILE", "missing.pem", "cannot be read"]),
        (with(trust.path(), key), &["TLS_CERT_FILE", "cannot be read"]),
        (with(cert, &locked), &["TLS_KEY_FILE", "locked.key", "is encrypted"]),
        (with(cert, &write("legacy.key", legacy)), &["TLS_KEY_FILE", "legacy.key", "is encrypted"]),
        (with(key, key), &["TLS_CERT_FILE", "hub.key", "holds no certificate"]),
        (with(cert, cert), &["TLS_KEY_FILE", "hub.pem", "holds no private key"]),
        (with(&write("empty.pem", ""), key), &["TLS_CERT_FILE", "holds no certificate"]),
        (with(&write("nonsense.pem", nonsense), key), &["TLS_CERT_FILE", "holds a certificate that cannot be used"]),
        (with(cert, &write("half.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n")), &["TLS_KEY_FILE", "is no PEM"]),
        (with(&write("large.pem", &"x".repeat(1_048_577)), key), &["TLS_CERT_FILE", "is larger than 1048576 bytes"]),
    ] {
        let config = Config { tls: Some(tls), ..config() };
        let error = Hub::start(config).await.expect_err("it cannot speak TLS");
        assert!(matches!(error, StartError::Tls(_)), "{error}");
        let said = error.to_string();
        for word in words {
            assert!(said.contains(word), "{said:?} does not say {word:?}");
        }
    }
    let config = Config { ops_client_ca: Some(key.to_owned()), ops_tls: Some(trust.own.tls()), ..trust.config() };
    let said = Hub::start(config).await.unwrap_err().to_string();
    assert!(said.contains("OPS_TLS_CLIENT_CA_FILE") && said.contains("holds no certificate"), "{said}");
    // One that has expired is for the operator to see, and serves: clients that do not mind are none of the hub's matter.
    let expired = trust.authority.issue_expired("expired");
    let hub = Hub::start(Config { tls: Some(expired.tls()), ..trust.config() }).await.unwrap();
    let expires = metric(&hub, "tls_certificate_expires_seconds{port=\"public\"}").await.unwrap();
    assert_eq!(expires, 1_609_459_200, "the first second of 2021");
    connect(hub.address(), trust.client()).await.expect_err("this client minds");
    hub.shutdown().await;
}
