//! A real hub on a free port, and clients of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{EncodingKey, Header};
use prom_hub::{Auth, Config, Hub, StartError};
use prom_sdk::{Client, ClientBuilder, Error, State};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Deadline of every wait: far beyond what is waited for, so that only a defect meets it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Runs a test with a deadline, so that a lost wake-up is a failure and not a hang.
pub async fn in_time<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

pub fn config() -> Config {
    let mut config = Config::new(Auth::Hs256 { secret: SECRET.into(), previous: None, audience: None, issuer: None });
    config.port = 0;
    config
}

pub async fn hub() -> Hub {
    Hub::start(config()).await.expect("the hub starts")
}

/// A hub where another one was. Its port may take a moment to be free.
pub async fn hub_at(address: SocketAddr) -> Hub {
    in_time(async {
        loop {
            let mut config = config();
            config.port = address.port();
            match Hub::start(config).await {
                Ok(hub) => return hub,
                Err(StartError::Listen { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

pub fn url(hub: &Hub) -> String {
    format!("ws://{}/ws", hub.address())
}

pub fn token(scopes: &[&str]) -> String {
    token_for(scopes, 600)
}

/// A token that is good for so many seconds.
pub fn token_for(scopes: &[&str], seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "exp": now + seconds, "scopes": scopes });
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// A client that reconnects fast and may do everything.
pub fn builder(url: impl Into<String>) -> ClientBuilder {
    Client::builder(url)
        .token(token(&["*:**"]))
        .reconnect(Duration::from_millis(5), Duration::from_millis(50))
        .request_timeout(DEADLINE)
}

pub async fn client(hub: &Hub) -> Client {
    in_time(builder(url(hub)).connect()).await.expect("connects")
}

/// Waits until the client is in that state; gives back why.
pub async fn reaches(client: &Client, state: State) -> Option<Error> {
    let mut status = client.state();
    let reached = in_time(status.wait_for(|status| status.state == state)).await;
    reached.expect("the client is there").error.clone()
}

/// Passes bytes to a hub and back until it is told to cut the lines.
pub struct Relay {
    address: SocketAddr,
    cut: watch::Sender<u32>,
    opened: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Relay {
    pub async fn start(hub: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            cut: watch::Sender::new(0),
            opened: Arc::default(),
            ended: Arc::default(),
        };
        let (cuts, opened, ended) = (relay.cut.clone(), Arc::clone(&relay.opened), Arc::clone(&relay.ended));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut cut, ended) = (cuts.subscribe(), Arc::clone(&ended));
                opened.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(hub).await.unwrap();
                    {
                        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.split(), far.split());
                        tokio::select! {
                            _ = tokio::io::copy(&mut near_in, &mut far_out) => {}
                            _ = tokio::io::copy(&mut far_in, &mut near_out) => {}
                            _ = cut.changed() => {}
                        }
                    }
                    drop((near, far));
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        relay
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    /// How many lines there have been.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// How many of them have ended.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// Waits for a line, then cuts all there are.
    pub async fn cut(&self) {
        eventually(|| self.opened() > self.ended()).await;
        let opened = self.opened();
        self.cut.send_modify(|cuts| *cuts += 1);
        eventually(|| self.ended() >= opened).await;
    }
}

/// Waits until `condition` holds.
pub async fn eventually(condition: impl Fn() -> bool) {
    in_time(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
