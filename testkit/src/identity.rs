//! An identity provider on this machine: keys that sign tokens, and a server that publishes a set of them.
//!
//! It answers whatever a test tells it to, down to nothing at all, and counts how often it was asked.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    rsa,
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
        RsaKeyPair,
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use crate::now_secs;

/// A key of an identity provider, made anew, that signs tokens.
pub struct SigningKey {
    /// Its name in the set.
    pub kid: String,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>, &'static dyn signature::RsaEncoding, &'static str),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// What openssl writes to its output.
pub(crate) fn openssl(args: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(args).stderr(Stdio::null()).output().expect("openssl runs");
    assert!(output.status.success(), "openssl {args:?}");
    output.stdout
}

impl SigningKey {
    /// An RSA key of 2048 bits, made by openssl, that signs RS256.
    pub fn rs256(kid: &str) -> Self {
        Self::rsa(kid, &RSA_PKCS1_SHA256, "RS256")
    }

    /// The same, that signs PS256.
    pub fn ps256(kid: &str) -> Self {
        Self::rsa(kid, &RSA_PSS_SHA256, "PS256")
    }

    fn rsa(kid: &str, encoding: &'static dyn signature::RsaEncoding, algorithm: &'static str) -> Self {
        let der = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-outform", "DER"]);
        // PKCS #8 or PKCS #1, as the version of openssl likes.
        let pair = RsaKeyPair::from_pkcs8(&der).or_else(|_| RsaKeyPair::from_der(&der)).expect("an RSA key");
        Self { kid: kid.into(), pair: Pair::Rsa(Box::new(pair), encoding, algorithm) }
    }

    /// A key on P-256 that signs ES256.
    pub fn es256(kid: &str) -> Self {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref(), &random).unwrap();
        Self { kid: kid.into(), pair: Pair::Ec(pair) }
    }

    /// A key on Ed25519 that signs EdDSA.
    pub fn eddsa(kid: &str) -> Self {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { kid: kid.into(), pair: Pair::Ed(Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap()) }
    }

    /// The algorithm it signs with.
    pub fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Rsa(_, _, algorithm) => algorithm,
            Pair::Ec(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
        }
    }

    /// Its public half as a key set has it, with no more than it must have.
    pub fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.pair {
            Pair::Rsa(pair, ..) => {
                let public = rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "kid": self.kid, "n": text(&public.n), "e": text(&public.e)})
            }
            Pair::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "x": text(x), "y": text(y)})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": text(pair.public_key().as_ref())})
            }
        }
    }

    /// The same with these members too.
    pub fn jwk_with(&self, more: &Value) -> Value {
        let mut jwk = self.jwk();
        for (name, value) in more.as_object().expect("an object") {
            jwk[name] = value.clone();
        }
        jwk
    }

    /// A token with these claims, good for ten minutes where they have no `exp`, that may do everything where they do not
    /// say what.
    pub fn token(&self, claims: &Value) -> String {
        self.token_under(&json!({"alg": self.algorithm(), "typ": "JWT", "kid": self.kid}), claims)
    }

    /// The same under a header of the test's own.
    pub fn token_under(&self, header: &Value, claims: &Value) -> String {
        let mut claims = claims.clone();
        for (name, value) in [("exp", json!(now_secs() + 600)), ("scopes", json!(["*:**"]))] {
            if claims.get(name).is_none() {
                claims[name] = value;
            }
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(&claims));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes())))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair, encoding, _) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

/// What a provider answers.
#[derive(Debug, Clone)]
pub enum Told {
    /// Status 200 with this body.
    Json(Value),
    /// These bytes, headers and all.
    Bytes(Vec<u8>),
    /// Nothing, and the connection stays open.
    Nothing,
    /// The connection is closed.
    Gone,
}

impl Told {
    /// A set of these keys.
    pub fn keys(keys: &[Value]) -> Self {
        Self::Json(json!({ "keys": keys }))
    }

    /// An answer with this status line, these headers and this body.
    pub fn answer(status: &str, headers: &str, body: &str) -> Self {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        Self::Bytes([head.as_bytes(), body.as_bytes()].concat())
    }
}

#[derive(Debug)]
struct Shared {
    told: Mutex<Told>,
    asked: AtomicUsize,
}

/// A server that publishes a key set. It ends when it is dropped.
#[derive(Debug)]
pub struct Provider {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Provider {
    /// One over plain HTTP.
    pub async fn start(told: Told) -> Self {
        Self::serve(told, None).await
    }

    /// One over TLS, with a certificate for 127.0.0.1 that only those trust who are given it: it is written to `trusted`,
    /// for `SSL_CERT_FILE`.
    pub async fn start_tls(told: Told, trusted: &std::path::Path) -> Self {
        let key = trusted.with_extension("key");
        let (key, certificate) = (key.to_str().unwrap(), trusted.to_str().unwrap());
        let names = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
        let make =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        openssl(&[&make[..], &["-subj", "/CN=provider", "-keyout", key, "-out", certificate], &names].concat());
        let key = openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", key, "-outform", "DER"]);
        let certificate = openssl(&["x509", "-in", certificate, "-outform", "DER"]);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.into()], rustls::pki_types::PrivatePkcs8KeyDer::from(key).into())
            .unwrap();
        Self::serve(told, Some(Arc::new(config).into())).await
    }

    async fn serve(told: Told, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { told: Mutex::new(told), asked: AtomicUsize::new(0) });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let own = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, tls) = (Arc::clone(&own), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => answer(&shared, stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(&shared, stream).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, scheme, shared, task }
    }

    /// Where its key set is.
    pub fn url(&self) -> String {
        format!("{}://{}/keys?tenant=1", self.scheme, self.address)
    }

    /// From now on it answers this.
    pub fn tell(&self, told: Told) {
        *self.shared.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }
}

async fn answer(shared: &Shared, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1) => request.push(byte[0]),
            _ => return,
        }
    }
    assert!(request.starts_with(b"GET /keys?tenant=1 HTTP/1.1\r\n"), "{:?}", String::from_utf8_lossy(&request));
    shared.asked.fetch_add(1, Ordering::SeqCst);
    let told = shared.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let bytes = match told {
        Told::Json(value) => match Told::answer("200 OK", "Content-Type: application/json\r\n", &value.to_string()) {
            Told::Bytes(bytes) => bytes,
            other => unreachable!("{other:?}"),
        },
        Told::Bytes(bytes) => bytes,
        Told::Gone => return,
        Told::Nothing => return tokio::time::sleep(Duration::MAX).await,
    };
    // The hub may have seen enough.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}
