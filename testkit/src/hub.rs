//! Hubs on free ports, in this process.

use std::{net::SocketAddr, time::Duration};

use prom_hub::{Auth, Config, Hub, StartError};

use crate::{
    SECRET,
    wait::{DEADLINE, in_time},
};

/// A hub in memory, on a free port, that accepts tokens signed with [`SECRET`].
pub fn config() -> Config {
    let mut config = Config::new(Auth::hs256(SECRET));
    config.port = 0;
    // The hub's patience with a client is not what most tests are about, and a busy machine makes any client slow.
    config.limits.auth_timeout = DEADLINE;
    config.limits.ping_every = DEADLINE;
    config.limits.write_timeout = DEADLINE;
    config
}

/// A hub in memory, or with `PROM_TEST_STORE=mongodb` on a database of its own in a real replica set.
pub async fn hub() -> Hub {
    Hub::start(configured().await).await.expect("the hub starts")
}

#[cfg(unix)]
async fn configured() -> Config {
    let mut config = config();
    if std::env::var("PROM_TEST_STORE").is_ok_and(|store| store == "mongodb") {
        config.store = prom_hub::StoreConfig::mongo(mongo().await);
    }
    config
}

#[cfg(not(unix))]
async fn configured() -> Config {
    config()
}

/// A fresh database on the replica set that the tests of this binary share.
#[cfg(unix)]
pub async fn mongo() -> prom_hub::mongo::Options {
    let set = prom_mongod::shared().await.unwrap();
    let (hosts, options) = set.split_once("/?").unwrap();
    prom_hub::mongo::Options::new(format!("{hosts}/{}?{options}", prom_mongod::fresh_database("hub")))
}

/// A hub in memory where another one was. Its port may take a moment to be free.
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

/// The URL of a hub's WebSocket.
pub fn url(hub: &Hub) -> String {
    format!("ws://{}/ws", hub.address())
}
