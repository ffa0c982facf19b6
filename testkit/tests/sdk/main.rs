//! The Rust client on a real hub: what is Rust's own. What every client must do is in `conformance`.
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

mod consume;
mod exactly_once;
mod history;
mod lifecycle;
mod live;
mod publish;
mod within;

use std::time::Duration;

use prom_hub::Hub;
use prom_sdk::{Client, ClientBuilder, Error, State};
use prom_testkit::{DEADLINE, in_time, token, url};

/// A client that reconnects fast and may do everything.
fn builder(url: impl Into<String>) -> ClientBuilder {
    Client::builder(url)
        .token(token(&["*:**"]))
        .reconnect(Duration::from_millis(5), Duration::from_millis(50))
        .request_timeout(DEADLINE)
}

async fn client(hub: &Hub) -> Client {
    in_time(builder(url(hub)).connect()).await.expect("connects")
}

/// Waits until the client is in that state; returns why it is.
async fn reaches(client: &Client, state: State) -> Option<Error> {
    let mut status = client.state();
    let reached = in_time(status.wait_for(|status| status.state == state)).await;
    reached.expect("the client is there").error.clone()
}
