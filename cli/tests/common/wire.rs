//! A client of the wire that says exactly what was answered before the hub was gone.

use std::collections::VecDeque;

use futures_util::{FutureExt, SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

use super::hub::Address;

/// One publish, and what was answered.
#[derive(Debug, Clone)]
pub struct Publish {
    pub topic: String,
    /// Chosen by the publisher; without one the hub makes it.
    pub id: Option<String>,
    pub key: Option<String>,
    /// The payload is `{"n": n, …}`; no two publishes have the same.
    pub n: u64,
    pub answer: Option<Answered>,
}

/// An answer to a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub id: String,
    pub seq: u64,
    pub duplicate: bool,
}

/// A connection that is logged in.
pub struct Connection(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Connection {
    pub async fn open(address: &Address) -> Self {
        let url = format!("ws://127.0.0.1:{}/ws", address.port);
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let mut connection = Self(socket);
        assert!(connection.send(&json!({ "op": "AUTH", "token": address.token })).await);
        assert_eq!(connection.next().await.unwrap()["op"], "OK");
        connection
    }

    /// Sends a frame; false when the hub is gone.
    pub async fn send(&mut self, frame: &Value) -> bool {
        self.0.send(Message::text(frame.to_string())).await.is_ok()
    }

    /// Puts a frame among those that are sent next.
    pub async fn feed(&mut self, frame: &Value) -> bool {
        self.0.feed(Message::text(frame.to_string())).await.is_ok()
    }

    pub async fn flush(&mut self) -> bool {
        self.0.flush().await.is_ok()
    }

    /// The next frame; none when the hub is gone.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            match self.0.next().await?.ok()? {
                Message::Text(text) => return Some(serde_json::from_str(&text).unwrap()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// A frame that has come already.
    pub fn ready(&mut self) -> Option<Value> {
        match self.0.next().now_or_never()?? {
            Ok(Message::Text(text)) => Some(serde_json::from_str(&text).unwrap()),
            _ => None,
        }
    }

    /// Publishes what `next` gives, with at most `window` unanswered, until it gives no more or the hub is gone. Answers
    /// all that was sent. `answered` is told of each OK.
    pub async fn publish(
        &mut self,
        window: usize,
        mut next: impl FnMut() -> Option<Publish>,
        mut answered: impl FnMut(),
    ) -> Vec<Publish> {
        let mut sent: Vec<Publish> = Vec::new();
        let mut open = VecDeque::new();
        let mut more = true;
        loop {
            while more && open.len() < window {
                let Some(publish) = next() else {
                    more = false;
                    break;
                };
                let mut frame = json!({
                    "op": "PUBLISH", "corr": sent.len().to_string(), "topic": publish.topic, "opts": {},
                    "payload": { "n": publish.n, "text": "what an event of some size has to say, more or less" },
                });
                for (name, value) in [("id", &publish.id), ("key", &publish.key)] {
                    if let Some(value) = value {
                        frame["opts"][name] = json!(value);
                    }
                }
                open.push_back(sent.len());
                sent.push(publish);
                if !self.feed(&frame).await {
                    return sent;
                }
            }
            if open.is_empty() || !self.flush().await {
                return sent;
            }
            let Some(first) = self.next().await else { return sent };
            let mut frame = Some(first);
            while let Some(answer) = frame {
                // In the order of the requests.
                let index: usize = open.pop_front().unwrap();
                assert_eq!(answer["corr"], index.to_string(), "{answer}");
                if answer["op"] == "OK" {
                    sent[index].answer = Some(Answered {
                        id: answer["id"].as_str().unwrap().to_owned(),
                        seq: answer["seq"].as_u64().unwrap(),
                        duplicate: answer["duplicate"] == true,
                    });
                    answered();
                } else {
                    let code = answer["code"].as_str().unwrap();
                    assert!(["shutting_down", "store_unavailable"].contains(&code), "{answer}");
                }
                frame = if open.is_empty() { None } else { self.ready() };
            }
        }
    }
}
