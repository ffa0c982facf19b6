//! A client that speaks plain frames.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use prom_hub::Hub;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async, connect_async_tls_with_config,
    tungstenite::{self, Message, client::IntoClientRequest},
};

use crate::{hub::url, token::token, wait::DEADLINE};

/// A WebSocket to a hub. Frames are JSON values; what does not come within [`DEADLINE`] fails the test.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// EVENTs that came while the answer to a PUBLISH was awaited: subscribers are woken before publishers are answered.
    held: VecDeque<Value>,
}

impl Client {
    /// A connection that has not authenticated.
    pub async fn connect(hub: &Hub) -> Self {
        let (socket, _) = connect_async(url(hub)).await.expect("connects");
        Self { socket, held: VecDeque::new() }
    }

    /// A connection from a page of this origin.
    pub async fn connect_from(hub: &Hub, origin: &str) -> Self {
        let mut request = url(hub).into_client_request().expect("a request");
        request.headers_mut().insert("origin", origin.parse().expect("a header"));
        let (socket, _) = connect_async(request).await.expect("connects");
        Self { socket, held: VecDeque::new() }
    }

    /// A connection under TLS, by the name `localhost`.
    pub async fn connect_tls(hub: &Hub, tls: rustls::ClientConfig) -> Self {
        let url = format!("wss://localhost:{}/ws", hub.address().port());
        let connector = Some(Connector::Rustls(Arc::new(tls)));
        let (socket, _) = connect_async_tls_with_config(url, None, true, connector).await.expect("connects");
        Self { socket, held: VecDeque::new() }
    }

    /// The same, that may publish and subscribe everywhere.
    pub async fn open_tls(hub: &Hub, tls: rustls::ClientConfig) -> Self {
        Self::connect_tls(hub, tls).await.with_every_right().await
    }

    /// A connection that may publish and subscribe everywhere.
    pub async fn open(hub: &Hub) -> Self {
        Self::connect(hub).await.with_every_right().await
    }

    /// A connection with this token, which the hub must take.
    pub async fn open_as(hub: &Hub, token: &str) -> Self {
        Self::connect(hub).await.with(token).await
    }

    async fn with_every_right(self) -> Self {
        self.with(&token(&["*:**"])).await
    }

    async fn with(mut self, token: &str) -> Self {
        let ok = self.ask(json!({"op": "AUTH", "token": token})).await;
        assert_eq!(ok["op"], "OK", "{ok}");
        self
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: Value) {
        self.send_text(&frame.to_string()).await;
    }

    /// Sends a text frame as it is, JSON or not.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("sends");
    }

    /// Sends a binary frame.
    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).await.expect("sends");
    }

    /// Many frames in one write.
    pub async fn send_all(&mut self, frames: impl IntoIterator<Item = Value>) {
        for frame in frames {
            self.socket.feed(Message::text(frame.to_string())).await.expect("sends");
        }
        self.socket.flush().await.expect("sends");
    }

    /// The next frame.
    pub async fn next(&mut self) -> Value {
        match self.held.pop_front() {
            Some(event) => event,
            None => self.receive().await,
        }
    }

    /// The next frame that is no EVENT; those before it come later.
    async fn answer(&mut self) -> Value {
        loop {
            let frame = self.receive().await;
            if frame["op"] != "EVENT" {
                return frame;
            }
            self.held.push_back(frame);
        }
    }

    async fn receive(&mut self) -> Value {
        serde_json::from_str(&self.next_message().await).expect("JSON")
    }

    /// The next message as it comes, one frame or several.
    pub async fn next_message(&mut self) -> String {
        loop {
            match tokio::time::timeout(DEADLINE, self.socket.next()).await.expect("a frame in time") {
                Some(Ok(Message::Text(text))) => return text.as_str().to_owned(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a text frame expected, got {other:?}"),
            }
        }
    }

    /// Many frames in one write, unless the hub has hung up.
    pub async fn try_send_all<'a>(
        &mut self,
        frames: impl IntoIterator<Item = &'a Value>,
    ) -> Result<(), tungstenite::Error> {
        for frame in frames {
            self.socket.feed(Message::text(frame.to_string())).await?;
        }
        self.socket.flush().await
    }

    /// The next frame, if one comes this soon.
    pub async fn next_within(&mut self, wait: Duration) -> Option<Value> {
        if let Some(event) = self.held.pop_front() {
            return Some(event);
        }
        match tokio::time::timeout(wait, self.socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => Some(serde_json::from_str(&text).expect("JSON")),
            _ => None,
        }
    }

    /// Whether the hub answers this client's close frame before it hangs up.
    pub async fn closed_cleanly(&mut self) -> bool {
        loop {
            match tokio::time::timeout(DEADLINE, self.socket.next()).await.expect("an end in time") {
                Some(Ok(Message::Close(_))) => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
    }

    /// Says goodbye, as a client that ends does.
    pub async fn close(&mut self) {
        self.socket.send(Message::Close(None)).await.expect("sends");
    }

    /// The code of the close frame that ends this connection; frames before it are passed over.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match tokio::time::timeout(DEADLINE, self.socket.next()).await.expect("a close in time") {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(Message::Close(None)) | Err(_)) | None => return 1006,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Sends a frame and returns the next one that comes.
    pub async fn ask(&mut self, frame: Value) -> Value {
        self.send(frame).await;
        self.next().await
    }

    /// The next `n` frames, all of them EVENTs.
    pub async fn events(&mut self, n: usize) -> Vec<Value> {
        let mut events = Vec::with_capacity(n);
        while events.len() < n {
            let frame = self.next().await;
            assert_eq!(frame["op"], "EVENT", "{frame}");
            events.push(frame);
        }
        events
    }

    /// Checks that nothing is under way to this client: a PING is answered by the next frame. Says nothing of what
    /// may come later, so use it after an answer that is ordered behind what must not come.
    pub async fn quiet(&mut self) {
        let pong = self.ask(json!({"op": "PING", "corr": "quiet"})).await;
        assert_eq!(pong, json!({"op": "PONG", "corr": "quiet"}));
    }

    /// Publishes one event and returns the OK; EVENTs that come before it are kept for `next`.
    pub async fn publish(&mut self, topic: &str, payload: Value) -> Value {
        self.send(json!({"op": "PUBLISH", "topic": topic, "payload": payload})).await;
        let ok = self.answer().await;
        assert_eq!(ok["op"], "OK", "{ok}");
        ok
    }

    /// Publishes payloads 0, 1, 2… and waits for the answers.
    pub async fn publish_many(&mut self, topic: &str, n: usize) {
        self.send_all((0..n).map(|i| json!({"op": "PUBLISH", "topic": topic, "payload": i}))).await;
        for _ in 0..n {
            let ok = self.answer().await;
            assert_eq!(ok["op"], "OK", "{ok}");
        }
    }

    /// Subscribes and returns the OK.
    pub async fn subscribe(&mut self, topic: &str, group: &str, opts: Value) -> Value {
        let ok = self.ask(json!({"op": "SUBSCRIBE", "topic": topic, "group": group, "opts": opts})).await;
        assert_eq!(ok["op"], "OK", "{ok}");
        ok
    }

    /// Acknowledges an EVENT frame, without asking for an answer.
    pub async fn ack(&mut self, event: &Value) {
        self.send(json!({"op": "ACK", "topic": event["topic"], "group": event["group"], "id": event["event"]["id"]}))
            .await;
    }
}

/// An ERR frame as the hub sends it.
pub fn error(code: &str, msg: &str, corr: Option<&str>) -> Value {
    let mut error = json!({"op": "ERR", "code": code, "msg": msg});
    if let Some(corr) = corr {
        error["corr"] = json!(corr);
    }
    error
}

/// The payloads of EVENT frames, which are numbers.
pub fn payloads(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["event"]["payload"].as_u64().expect("a number")).collect()
}
