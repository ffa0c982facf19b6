//! Several frames in one message, for those who ask for it in AUTH.

use std::collections::VecDeque;

use prom_hub::Hub;
use prom_testkit::{Client, config, error, hub, token};
use serde_json::{Value, json};

/// A message of the hub is no longer than this, unless one frame is.
const MESSAGE_BYTES: usize = 64 * 1024;

/// A connection that sends and gets messages of several frames.
struct Batching {
    client: Client,
    frames: VecDeque<Value>,
    /// Lengths of the messages that came, and how many frames each had.
    messages: Vec<(usize, usize)>,
}

impl Batching {
    async fn open(hub: &Hub) -> Self {
        let mut client = Client::connect(hub).await;
        let ok = client.ask(json!({"op": "AUTH", "corr": "a", "token": token(&["*:**"]), "batch": true})).await;
        assert_eq!((&ok["op"], &ok["batch"]), (&json!("OK"), &json!(true)));
        Self { client, frames: VecDeque::new(), messages: Vec::new() }
    }

    async fn send(&mut self, frames: &[Value]) {
        let lines: Vec<String> = frames.iter().map(Value::to_string).collect();
        self.client.send_text(&lines.join("\n")).await;
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return frame;
            }
            let message = self.client.next_message().await;
            self.frames
                .extend(message.split('\n').map(|line| serde_json::from_str::<Value>(line).expect("a frame a line")));
            self.messages.push((message.len(), self.frames.len()));
        }
    }
}

fn publish(corr: usize, topic: &str, payload: &Value) -> Value {
    json!({"op": "PUBLISH", "corr": corr.to_string(), "topic": topic, "payload": payload})
}

#[tokio::test]
async fn a_message_of_several_frames_is_as_good_as_several_messages() {
    let hub = hub().await;
    let mut client = Batching::open(&hub).await;
    client
        .send(&[
            publish(1, "a", &json!("one")),
            json!({"op": "SUBSCRIBE", "corr": "2", "topic": "a", "group": "g", "opts": {"from": "earliest"}}),
            publish(3, "a", &json!("two")),
            json!({"op": "PING", "corr": "4"}),
        ])
        .await;
    let (mut answered, mut events) = (Vec::new(), Vec::new());
    while answered.len() < 4 || events.len() < 2 {
        let frame = client.next().await;
        match frame["op"].as_str().unwrap() {
            "EVENT" => events.push(frame),
            _ => answered.push(frame["corr"].as_str().unwrap().to_owned()),
        }
    }
    answered.sort();
    assert_eq!(answered, ["1", "2", "3", "4"]);
    let acks = events.iter().enumerate().map(|(n, event)| {
        json!({"op": "ACK", "corr": format!("ack-{n}"), "topic": "a", "group": "g", "id": event["event"]["id"], "lease": event["ctx"]["lease"]})
    });
    client.send(&acks.collect::<Vec<_>>()).await;
    for _ in 0..2 {
        assert_eq!(client.next().await["op"], "OK");
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn each_line_has_its_own_answer_and_empty_ones_have_none() {
    let hub = hub().await;
    let mut client = Batching::open(&hub).await;
    let good = |n| publish(n, "a", &json!(n)).to_string();
    let message = ["", &good(1), "{nonsense", "", &good(2), "[]", "\r", &good(3), ""].join("\n");
    client.client.send_text(&message).await;
    let mut answers = Vec::new();
    while answers.len() < 5 {
        answers.push(client.next().await);
    }
    assert_eq!(answers.iter().filter(|answer| answer["op"] == "OK").count(), 3);
    assert!(answers.contains(&error("bad_json", "Invalid JSON", None)), "{answers:?}");
    assert!(answers.iter().any(|answer| answer["code"] == "bad_frame"), "{answers:?}");
    client.client.send_text("\n\n").await;
    client.client.send_text("").await;
    client.send(&[json!({"op": "PING", "corr": "p"})]).await;
    assert_eq!(client.next().await, json!({"op": "PONG", "corr": "p"}), "nothing came of the empty ones");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_message_of_very_many_frames_is_handled_to_its_end_and_holds_up_nobody() {
    const COUNT: usize = 16_000;
    let hub = hub().await;
    let mut client = Batching::open(&hub).await;
    let lines: Vec<String> =
        (0..COUNT).map(|n| format!(r#"{{"op":"PUBLISH","corr":"{n}","topic":"a","payload":0}}"#)).collect();
    let message = lines.join("\n");
    assert!(message.len() > 700_000 && message.len() <= 1024 * 1024, "{}", message.len());
    client.client.send_text(&message).await;
    let mut other = Client::open(&hub).await;
    other.publish("b", json!("not held up")).await;
    for n in 0..COUNT {
        let answer = client.next().await;
        assert_eq!((&answer["corr"], &answer["seq"]), (&json!(n.to_string()), &json!(n + 1)), "in their order");
    }
    assert!(client.messages.len() < COUNT / 4, "answers come together: {} messages", client.messages.len());
    assert!(client.messages.iter().all(|(bytes, _)| *bytes <= MESSAGE_BYTES));
    hub.shutdown().await;
}

#[tokio::test]
async fn the_limit_of_a_message_stays() {
    let hub = hub().await;
    let mut client = Batching::open(&hub).await;
    let line = publish(1, "a", &json!("x".repeat(600_000)));
    client.send(&[line.clone(), line]).await;
    assert_eq!(client.client.closed().await, 1009);
    hub.shutdown().await;
}

#[tokio::test]
async fn events_come_together_up_to_a_limit_and_a_large_one_alone() {
    let hub = hub().await;
    let mut publisher = Client::open(&hub).await;
    for n in 0..300 {
        let bytes = if n == 150 { 200_000 } else { 1_000 };
        publisher.publish("a", json!({"n": n, "text": "x".repeat(bytes)})).await;
    }
    let mut client = Batching::open(&hub).await;
    client.send(&[json!({"op": "SUBSCRIBE", "corr": "s", "topic": "a", "opts": {"from": "earliest"}})]).await;
    assert_eq!(client.next().await["op"], "OK");
    for n in 0..300 {
        assert_eq!(client.next().await["event"]["payload"]["n"], json!(n));
    }
    assert!(client.messages.iter().any(|(_, frames)| *frames > 10), "{:?}", client.messages);
    for (bytes, frames) in &client.messages {
        assert!(*bytes <= MESSAGE_BYTES || *frames == 1, "{bytes} bytes in {frames} frames");
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn without_it_a_message_is_one_frame() {
    let hub = hub().await;
    for asked in [None, Some(false)] {
        let mut client = Client::connect(&hub).await;
        let mut auth = json!({"op": "AUTH", "token": token(&["*:**"])});
        if let Some(batch) = asked {
            auth["batch"] = json!(batch);
        }
        let ok = client.ask(auth).await;
        assert!(ok["op"] == "OK" && ok.get("batch").is_none(), "{ok}");
        client.send_text("{\"op\":\"PING\"}\n{\"op\":\"PING\"}").await;
        assert_eq!(client.next().await, error("bad_json", "Invalid JSON", None));
        client.send_all((0..100).map(|n| publish(n, "a", &json!(n)))).await;
        for _ in 0..100 {
            assert!(!client.next_message().await.contains('\n'));
        }
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn it_begins_with_the_answer_of_auth_and_not_before() {
    let hub = hub().await;
    let mut client = Client::connect(&hub).await;
    let auth = json!({"op": "AUTH", "token": token(&["*:**"]), "batch": true});
    client.send_text(&format!("{auth}\n{auth}")).await;
    assert_eq!(client.next().await, error("bad_json", "Invalid JSON", None));
    let wrong = client.ask(json!({"op": "AUTH", "token": "t", "batch": "yes"})).await;
    assert_eq!(wrong["code"], "bad_frame");
    assert!(wrong["msg"].as_str().unwrap().contains("batch"), "{wrong}");
    client.send(auth).await;
    let answer = client.next_message().await;
    assert!(!answer.contains('\n') && answer.contains("\"batch\":true"), "{answer}");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_token_that_is_renewed_may_say_otherwise() {
    let hub = Hub::start(config()).await.unwrap();
    let mut client = Batching::open(&hub).await;
    client.send(&[json!({"op": "AUTH", "corr": "b", "token": token(&["*:**"])})]).await;
    let ok = client.next().await;
    assert!(ok["corr"] == "b" && ok.get("batch").is_none(), "{ok}");
    client.client.send_text("{\"op\":\"PING\"}\n{\"op\":\"PING\"}").await;
    assert_eq!(client.next().await, error("bad_json", "Invalid JSON", None));
    hub.shutdown().await;
}
