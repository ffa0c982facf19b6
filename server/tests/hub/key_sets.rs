//! Tokens of identity providers: key sets over HTTP, and everything that can be wrong with them.

use prom_hub::{Auth, Config, Hub, Jwt};
use prom_testkit::{
    Client, SECRET, config, http,
    identity::{Provider, SigningKey, Told},
    in_time, token, until,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A configuration that takes tokens of these providers, each with its issuer if it has one.
fn jwt(providers: &[&Provider], issuers: &[&str]) -> Jwt {
    Jwt {
        key_sets: providers.iter().map(|provider| provider.url()).collect(),
        issuers: issuers.iter().map(|issuer| (*issuer).to_owned()).collect(),
        ..Jwt::default()
    }
}

fn configured(jwt: Jwt) -> Config {
    Config { auth: Auth::Jwt(jwt), ops_port: Some(0), ..config() }
}

async fn hub_of(providers: &[&Provider]) -> Hub {
    Hub::start(configured(jwt(providers, &[]))).await.unwrap()
}

/// The answer to an AUTH on a connection of its own.
async fn auth(hub: &Hub, token: &str) -> Value {
    let mut client = Client::connect(hub).await;
    in_time(client.ask(json!({"op": "AUTH", "token": token}))).await
}

async fn accepts(hub: &Hub, token: &str) {
    let answer = auth(hub, token).await;
    assert_eq!(answer["op"], "OK", "{answer}");
}

async fn refuses(hub: &Hub, token: &str, words: &str) {
    let answer = auth(hub, token).await;
    assert_eq!(answer["code"], "jwt_invalid", "{answer}");
    assert!(answer["msg"].as_str().unwrap().contains(words), "{answer} does not say {words:?}");
}

/// The reason that `/readyz` gives; none: the hub is ready.
async fn not_ready(hub: &Hub) -> Option<String> {
    let answer = http::ops(hub, "/readyz").await;
    (answer.status != 200).then(|| answer.json()["reason"].as_str().unwrap().to_owned())
}

const CERTIFICATE: &str = "MIICmzCCAYMCBgGJd0lXHTANBgkqhkiG9w0BAQsFADARMQ8wDQYDVQQDDAZtYXN0ZXI";

#[tokio::test]
async fn tokens_of_providers_as_they_publish_their_keys() {
    let [rsa, second, pss, ec, ed] = [
        SigningKey::rs256("QV8Xl2Yf0hNuWqZ"),
        SigningKey::rs256("9b0c285c31bf7eb4"),
        SigningKey::ps256("pss"),
        SigningKey::es256("ec/1"),
        SigningKey::eddsa("ed"),
    ];
    let sig = json!({"use": "sig", "alg": "RS256"});
    // Keycloak: a key to encrypt with beside the one that signs, and certificates.
    let keycloak = [
        second.jwk_with(&json!({"use": "enc", "alg": "RSA-OAEP", "x5c": [CERTIFICATE], "x5t": "a", "x5t#S256": "b"})),
        rsa.jwk_with(&json!({"use": "sig", "alg": "RS256", "x5c": [CERTIFICATE], "x5t": "a", "x5t#S256": "b"})),
    ];
    // Auth0: the present key and the next one.
    let auth0 =
        [rsa.jwk_with(&json!({"use": "sig", "alg": "RS256", "x5t": "a", "x5c": [CERTIFICATE]})), second.jwk_with(&sig)];
    // Cognito: two keys, no certificates.
    let cognito = [second.jwk_with(&sig), rsa.jwk_with(&sig)];
    // Firebase: no more than it needs. Others leave `alg` and `use` out.
    let firebase = [second.jwk_with(&sig), rsa.jwk()];
    let curves = [
        ec.jwk_with(&json!({"use": "sig", "key_ops": ["verify"]})),
        ed.jwk_with(&json!({"alg": "EdDSA"})),
        pss.jwk_with(&json!({"alg": "PS256"})),
        rsa.jwk(),
    ];
    for (name, set) in [
        ("Keycloak", &keycloak[..]),
        ("Auth0", &auth0),
        ("Cognito", &cognito),
        ("Firebase", &firebase),
        ("curves", &curves),
    ] {
        let provider = Provider::start(Told::keys(set)).await;
        let hub = hub_of(&[&provider]).await;
        accepts(&hub, &rsa.token(&json!({"sub": name, "aud": ["account", "hub"]}))).await;
        match name {
            "curves" => {
                for key in [&ec, &ed, &pss] {
                    accepts(&hub, &key.token(&json!({}))).await;
                }
                // Pinned by the set: the same key for another algorithm is none.
                let other = json!({"alg": "RS256", "kid": "pss"});
                refuses(&hub, &pss.token_under(&other, &json!({})), "is not for its algorithm").await;
            }
            "Keycloak" => refuses(&hub, &second.token(&json!({})), "no key of the token's kid").await,
            _ => accepts(&hub, &second.token(&json!({}))).await,
        }
        let http = http::get(&hub, "/replay?topic=a", &rsa.token(&json!({}))).await;
        assert_eq!(http.status, 200, "{http:?}");
        assert!(not_ready(&hub).await.is_none());
        hub.shutdown().await;
    }
}

#[tokio::test]
async fn a_new_key_is_read_when_a_token_names_it() {
    let (old, new) = (SigningKey::es256("old"), SigningKey::es256("new"));
    let provider = Provider::start(Told::keys(&[old.jwk()])).await;
    let hub = hub_of(&[&provider]).await;
    accepts(&hub, &old.token(&json!({}))).await;
    provider.tell(Told::keys(&[old.jwk(), new.jwk()]));
    accepts(&hub, &new.token(&json!({}))).await;
    accepts(&hub, &old.token(&json!({}))).await;
    assert_eq!(provider.asked(), 2);
    // What the provider no longer has does not count: here the next unknown key is too soon to ask for.
    refuses(&hub, &SigningKey::es256("third").token(&json!({})), "no key of the token's kid").await;
    assert_eq!(provider.asked(), 2);
    hub.shutdown().await;
}

#[tokio::test]
async fn a_new_key_is_read_when_a_token_without_a_name_fits_none() {
    // Such tokens were refused until the set got old, up to an hour after the key had been changed.
    let unnamed = json!({"alg": "ES256"});
    let [old, new, third] = ["old", "new", "third"].map(SigningKey::es256);
    for (before, after) in [
        // The one key gave way to the other.
        (vec![old.jwk()], vec![new.jwk()]),
        // There was none for the algorithm.
        (vec![SigningKey::eddsa("ed").jwk()], vec![new.jwk()]),
        // There were two, and nobody could say which was meant.
        (vec![old.jwk(), third.jwk()], vec![new.jwk()]),
    ] {
        let provider = Provider::start(Told::keys(&before)).await;
        let hub = hub_of(&[&provider]).await;
        until("the set to be read", async || not_ready(&hub).await.is_none()).await;
        provider.tell(Told::keys(&after));
        accepts(&hub, &new.token_under(&unnamed, &json!({}))).await;
        accepts(&hub, &new.token_under(&unnamed, &json!({}))).await;
        assert_eq!(provider.asked(), 2);
        // The next that fits none is too soon to ask for.
        refuses(&hub, &third.token_under(&unnamed, &json!({})), "signature does not match").await;
        assert_eq!(provider.asked(), 2);
        hub.shutdown().await;
    }
}

#[tokio::test]
async fn a_hub_starts_without_its_provider_and_takes_tokens_when_that_comes() {
    let key = SigningKey::eddsa("k");
    let provider = Provider::start(Told::Gone).await;
    let hub = hub_of(&[&provider]).await;
    let answer = auth(&hub, &key.token(&json!({}))).await;
    assert_eq!(answer["code"], "overloaded", "{answer}");
    assert!(answer["retry_after_ms"].as_u64().is_some_and(|wait| wait >= 1000), "{answer}");
    let http = http::get(&hub, "/replay?topic=a", &key.token(&json!({}))).await;
    assert_eq!((http.status, http.header("retry-after")), (503, Some("1")));
    let reason = not_ready(&hub).await.unwrap();
    assert!(reason.contains("has not been read") && !reason.contains("tenant"), "{reason}");
    let metrics = http::ops(&hub, "/metrics").await;
    assert!(metrics.text().contains("auth_refused_total{code=\"overloaded\"} "), "{}", metrics.text());
    assert!(metrics.text().contains("result=\"ok\"} 0\n"), "{}", metrics.text());
    // What is wrong with a token whatever the set says is said at once, and counts.
    refuses(&hub, "a.b.c", "not a JWT").await;
    provider.tell(Told::keys(&[key.jwk()]));
    until("the set to be read", async || not_ready(&hub).await.is_none()).await;
    accepts(&hub, &key.token(&json!({}))).await;
    let metrics = http::ops(&hub, "/metrics").await;
    let set = provider.url().replace("?tenant=1", "");
    assert!(metrics.text().contains(&format!("key_set_keys{{set=\"{set}\",issuer=\"\"}} 1\n")), "{}", metrics.text());
    hub.shutdown().await;
}

#[tokio::test]
async fn the_last_good_set_stays_when_the_provider_goes() {
    let (key, new) = (SigningKey::es256("k"), SigningKey::es256("new"));
    let provider = Provider::start(Told::keys(&[key.jwk()])).await;
    let hub = hub_of(&[&provider]).await;
    accepts(&hub, &key.token(&json!({}))).await;
    provider.tell(Told::answer("503 Service Unavailable", "", "down"));
    // Whether there is such a key cannot be said now: that is no refusal, and three of them close nothing.
    let mut client = Client::connect(&hub).await;
    for _ in 0..4 {
        let answer = in_time(client.ask(json!({"op": "AUTH", "token": new.token(&json!({}))}))).await;
        assert_eq!(answer["code"], "overloaded", "{answer}");
    }
    assert_eq!(client.ask(json!({"op": "AUTH", "token": key.token(&json!({}))})).await["op"], "OK");
    assert!(not_ready(&hub).await.is_none(), "tokens can be checked");
    hub.shutdown().await;
}

#[tokio::test]
async fn an_answer_that_is_no_key_set_is_not_taken_for_one() {
    let key = SigningKey::es256("k");
    let elsewhere = Provider::start(Told::keys(&[key.jwk()])).await;
    let set = json!({"keys": [key.jwk()]}).to_string();
    let location = format!("Location: {}\r\n", elsewhere.url());
    let padded = json!({"keys": [key.jwk()], "pad": "x".repeat(256 * 1024)}).to_string();
    for (told, words) in [
        (Told::answer("302 Found", &location, ""), "redirect (302 Found)"),
        (Told::answer("308 Permanent Redirect", &location, &set), "redirect"),
        (Told::answer("404 Not Found", "", &set), "the status 404"),
        (Told::answer("200 OK", "", &padded), "larger than 262144 bytes"),
        (Told::answer("200 OK", "Content-Type: text/html\r\n", "<html>Sign in</html>"), "is not a key set"),
        (Told::answer("200 OK", "Content-Encoding: gzip\r\n", &set), "compressed"),
        (Told::answer("200 OK", &format!("X: {}\r\n", "x".repeat(64 * 1024)), &set), "exchange failed"),
        (Told::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{".to_vec()), "exchange failed"),
        (Told::Bytes(b"\x15\x03\x01\x00\x02\x02\x16".to_vec()), "exchange failed"),
        (Told::keys(&[json!({"kty": "oct", "kid": "k", "k": "AAAA"})]), "no key for RS256"),
        (Told::Gone, "exchange failed"),
    ] {
        let provider = Provider::start(told.clone()).await;
        let hub = hub_of(&[&provider]).await;
        assert_eq!(auth(&hub, &key.token(&json!({}))).await["code"], "overloaded", "{told:?}");
        let reason = not_ready(&hub).await.unwrap();
        assert!(reason.contains(words), "{reason} does not say {words:?}");
        hub.shutdown().await;
    }
    assert_eq!(elsewhere.asked(), 0, "a redirect was followed");
}

/// A provider that accepts and says nothing holds up who waits for it, and nobody else.
#[tokio::test]
async fn a_slow_provider_holds_up_nobody_else() {
    let key = SigningKey::es256("k");
    let provider = Provider::start(Told::Nothing).await;
    let both = Jwt { secret: Some(SECRET.into()), ..jwt(&[&provider], &[]) };
    let hub = Hub::start(configured(both)).await.unwrap();
    let mut other = Client::connect(&hub).await;
    assert_eq!(other.ask(json!({"op": "AUTH", "token": token(&["*:**"])})).await["op"], "OK");
    let mut client = Client::open(&hub).await;
    client.subscribe("a", "g", json!({})).await;
    client.send(json!({"op": "AUTH", "corr": "late", "token": key.token(&json!({}))})).await;
    client.send(json!({"op": "PING", "corr": "behind"})).await;
    other.publish("a", json!(1)).await;
    // Events go on while the token is being checked; what was sent behind it keeps its turn.
    assert_eq!(client.next().await["op"], "EVENT");
    let refused = in_time(client.next()).await;
    assert_eq!((&refused["code"], &refused["corr"]), (&json!("overloaded"), &json!("late")), "{refused}");
    assert_eq!(client.next().await, json!({"op": "PONG", "corr": "behind"}));
    assert!(not_ready(&hub).await.unwrap().contains("no answer within 5 s"));
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tokens_with_unknown_keys_make_one_read() {
    let key = SigningKey::es256("k");
    let provider = Provider::start(Told::keys(&[key.jwk()])).await;
    let mut config = configured(jwt(&[&provider], &[]));
    // All at once: none is kept back.
    config.limits.shares.auth_failures = 1_000_000;
    let hub = Hub::start(config).await.unwrap();
    accepts(&hub, &key.token(&json!({}))).await;
    assert_eq!(provider.asked(), 1);
    let (connections, each) = (20, 500);
    let floods = (0..connections).map(|connection| {
        let (address, key) = (hub.address(), SigningKey::es256("x"));
        async move {
            let requests: String = (0..each)
                .map(|n| {
                    let token =
                        key.token_under(&json!({"alg": "ES256", "kid": format!("{connection}-{n}")}), &json!({}));
                    format!("GET /replay?topic=a HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\n\r\n")
                })
                .collect();
            let stream = TcpStream::connect(address).await.unwrap();
            let (mut read, mut write) = stream.into_split();
            let writing = async { write.write_all(requests.as_bytes()).await.unwrap() };
            let reading = async {
                let (mut seen, mut bytes) = (0, Vec::new());
                while seen < each {
                    assert!(in_time(read.read_buf(&mut bytes)).await.unwrap() > 0);
                    seen = String::from_utf8_lossy(&bytes).matches("HTTP/1.1 401").count();
                }
            };
            tokio::join!(writing, reading);
        }
    });
    futures_util::future::join_all(floods).await;
    // At most every 30 s, and the flood may have taken longer than that.
    assert!((2..=3).contains(&provider.asked()), "{} reads", provider.asked());
    accepts(&hub, &key.token(&json!({}))).await;
    let metrics = http::ops(&hub, "/metrics").await;
    assert!(metrics.text().contains("auth_refused_total{code=\"jwt_invalid\"} 10000\n"), "{}", metrics.text());
    hub.shutdown().await;
}

fn hs256(header: &Value, secret: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let claims = json!({"exp": prom_testkit::now_secs() + 600, "scopes": ["*:**"]});
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(&claims));
    let signature = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn no_key_counts_for_what_it_is_not_for() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let (rsa, ec, evil) = (SigningKey::rs256("rsa"), SigningKey::es256("ec"), SigningKey::rs256("evil"));
    let secret = URL_SAFE_NO_PAD.encode([7; 32]);
    let oct = json!({"kty": "oct", "kid": "oct", "alg": "HS256", "k": secret});
    let truncated = json!({"kty": "EC", "crv": "P-256", "kid": "cut", "x": "AAAA", "y": "AAAA"});
    // On no curve: the length alone is right.
    let off = json!({"kty": "EC", "crv": "P-256", "kid": "off", "x": secret, "y": secret});
    let provider = Provider::start(Told::keys(&[rsa.jwk(), ec.jwk(), oct, truncated, off])).await;
    let elsewhere = Provider::start(Told::keys(&[evil.jwk()])).await;
    for secret in [None, Some(SECRET.to_owned())] {
        let with_secret = secret.is_some();
        let hub = Hub::start(configured(Jwt { secret, ..jwt(&[&provider], &[]) })).await.unwrap();
        accepts(&hub, &rsa.token(&json!({}))).await;
        // A public key is no secret, in none of the forms in which it is public.
        let jwk = rsa.jwk();
        let n = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
        for bytes in [n.clone(), jwk["n"].as_str().unwrap().into(), jwk.to_string().into_bytes(), [7; 32].to_vec()] {
            for kid in ["rsa", "ec", "oct", "off"] {
                let forged = hs256(&json!({"alg": "HS256", "kid": kid}), &bytes);
                let words = if with_secret { "signature does not match" } else { "must be signed with RS256" };
                refuses(&hub, &forged, words).await;
            }
        }
        for (header, words) in [
            (json!({"alg": "none", "kid": "rsa"}), "must be signed with"),
            (json!({"alg": "RS512", "kid": "rsa"}), "must be signed with"),
            (json!({"alg": "rs256", "kid": "rsa"}), "must be signed with"),
            (json!({"alg": "ES256", "kid": "rsa"}), "is not for its algorithm"),
            (json!({"alg": "RS256", "kid": "ec"}), "is not for its algorithm"),
            (json!({"alg": "RS256", "kid": "rsa"}), "signature does not match"),
            (json!({"alg": "ES256", "kid": "off"}), "signature does not match"),
            (json!({"alg": "ES256", "kid": "cut"}), "no key of the token's kid"),
            (json!({"alg": "RS256", "kid": "rsa", "jku": elsewhere.url(), "x5u": elsewhere.url()}), "does not match"),
            (
                json!({"alg": "RS256", "kid": "evil", "jku": elsewhere.url(), "jwk": evil.jwk()}),
                "no key of the token's kid",
            ),
            (json!({"alg": "RS256", "kid": "rsa", "crit": ["exp"]}), "crit"),
        ] {
            refuses(&hub, &evil.token_under(&header, &json!({})), words).await;
        }
        // Without a name a token is for the one key that fits.
        accepts(&hub, &rsa.token_under(&json!({"alg": "RS256"}), &json!({}))).await;
        refuses(&hub, &ec.token_under(&json!({"alg": "ES256"}), &json!({})), "not exactly one").await;
        hub.shutdown().await;
    }
    assert_eq!(elsewhere.asked(), 0, "a URL in a token was followed");
}

/// A key set that is kept by `kid` alone lets one issuer sign for another.
#[tokio::test]
async fn an_issuers_key_counts_for_that_issuer_alone() {
    let (ours, theirs) = (SigningKey::es256("1"), SigningKey::es256("1"));
    let (own, other) =
        (Provider::start(Told::keys(&[ours.jwk()])).await, Provider::start(Told::keys(&[theirs.jwk()])).await);
    let both = Jwt { audience: Some("hub".into()), ..jwt(&[&own, &other], &["https://ours", "https://theirs"]) };
    let hub = Hub::start(configured(both)).await.unwrap();
    let claims = |iss: &str| json!({"iss": iss, "aud": "hub"});
    accepts(&hub, &ours.token(&claims("https://ours"))).await;
    accepts(&hub, &theirs.token(&claims("https://theirs"))).await;
    refuses(&hub, &ours.token(&claims("https://theirs")), "signature does not match").await;
    refuses(&hub, &theirs.token(&claims("https://ours")), "signature does not match").await;
    let asked = (own.asked(), other.asked());
    refuses(&hub, &SigningKey::es256("2").token(&claims("https://else")), "iss is not accepted").await;
    refuses(&hub, &ours.token(&json!({"aud": "hub"})), "lacks the claim iss").await;
    refuses(&hub, &ours.token(&json!({"iss": ["https://ours"], "aud": "hub"})), "iss must be a string").await;
    refuses(&hub, &ours.token(&json!({"iss": "https://ours"})), "lacks the claim aud").await;
    assert_eq!((own.asked(), other.asked()), asked, "a stranger's token had a set read");
    hub.shutdown().await;
}
