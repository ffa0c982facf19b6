//! Rules of the protocol that hold in every scenario, checked on all frames that passed.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::tap::{Seen, Side};

#[derive(Default)]
struct Line {
    authenticated: bool,
    batch: bool,
    leases: HashSet<String>,
    last_message: usize,
    /// Names of the requests that are open.
    open: HashSet<String>,
}

/// The rules that these frames break, each once.
pub(crate) fn broken(seen: &[Seen]) -> Vec<String> {
    let mut lines: HashMap<usize, Line> = HashMap::new();
    let mut published: HashMap<(String, String), Value> = HashMap::new();
    let mut broken: Vec<String> = Vec::new();
    let mut say = |rule: &str, frame: &Value| {
        if !broken.iter().any(|said| said.starts_with(rule)) {
            broken.push(format!("{rule}: {frame}"));
        }
    };
    for Seen { line, side, message, frame, .. } in seen {
        let line = lines.entry(*line).or_default();
        let (op, corr) = (frame["op"].as_str().unwrap_or_default(), frame["corr"].as_str());
        if *side == Side::Hub {
            if let Some(lease) = frame["ctx"]["lease"].as_str() {
                line.leases.insert(lease.to_owned());
            }
            if op == "OK" && !line.authenticated {
                line.authenticated = true;
                line.batch = frame["batch"] == true;
            }
            if let Some(corr) = corr {
                line.open.remove(corr);
            }
            continue;
        }
        if frame.is_string() {
            say("a frame is one JSON object", frame);
        }
        if !line.authenticated && op != "AUTH" && op != "PING" {
            say("nothing is sent before the answer to AUTH", frame);
        }
        if *message == line.last_message && !line.batch {
            say("a message holds one frame, unless the hub has agreed to more", frame);
        }
        line.last_message = *message;
        if let Some(corr) = corr
            && !line.open.insert(corr.to_owned())
        {
            say("a corr names one open request", frame);
        }
        if let ("ACK" | "NACK" | "MODACK", Some(lease)) = (op, frame["lease"].as_str())
            && !line.leases.contains(lease)
        {
            say("a lease is given back on the connection by which it came", frame);
        }
        if op == "ACK" && frame.get("lease").is_some_and(Value::is_null) {
            say("what has no lease is not acknowledged", frame);
        }
        if op == "PUBLISH"
            && let (Some(topic), Some(id)) = (frame["topic"].as_str(), frame["opts"]["id"].as_str())
        {
            let what = published.entry((topic.to_owned(), id.to_owned())).or_insert_with(|| frame["payload"].clone());
            if *what != frame["payload"] {
                say("an id is that of one event", frame);
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn seen(frames: &[(usize, Side, usize, Value)]) -> Vec<Seen> {
        let one = |(line, side, message, frame): &(usize, Side, usize, Value)| Seen {
            line: *line,
            side: *side,
            message: *message,
            frame: frame.clone(),
            at: Duration::ZERO,
        };
        frames.iter().map(one).collect()
    }

    fn first_words(frames: &[(usize, Side, usize, Value)]) -> Vec<String> {
        broken(&seen(frames)).iter().map(|said| said.split(':').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_good_conversation_breaks_none() {
        let event = json!({"op": "EVENT", "topic": "a", "group": "g", "event": {"id": "x"}, "ctx": {"lease": "01"}});
        assert_eq!(
            first_words(&[
                (0, Side::Client, 1, json!({"op": "AUTH", "token": "t", "corr": "1"})),
                (0, Side::Hub, 2, json!({"op": "OK", "corr": "1", "batch": true})),
                (
                    0,
                    Side::Client,
                    3,
                    json!({"op": "PUBLISH", "corr": "1", "topic": "a", "payload": 1, "opts": {"id": "x"}})
                ),
                (
                    0,
                    Side::Client,
                    3,
                    json!({"op": "PUBLISH", "corr": "2", "topic": "a", "payload": 2, "opts": {"id": "y"}})
                ),
                (0, Side::Hub, 4, event),
                (0, Side::Client, 5, json!({"op": "ACK", "topic": "a", "group": "g", "id": "x", "lease": "01"})),
                (1, Side::Client, 6, json!({"op": "AUTH", "token": "t", "corr": "1"})),
                (1, Side::Hub, 7, json!({"op": "OK", "corr": "1"})),
                (
                    1,
                    Side::Client,
                    8,
                    json!({"op": "PUBLISH", "corr": "1", "topic": "a", "payload": 1, "opts": {"id": "x"}})
                ),
            ]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn each_rule_is_told_by_its_words() {
        let auth = (0, Side::Client, 1, json!({"op": "AUTH", "token": "t"}));
        let ok = (0, Side::Hub, 2, json!({"op": "OK"}));
        let publish = |message, payload| {
            (0, Side::Client, message, json!({"op": "PUBLISH", "topic": "a", "payload": payload, "opts": {"id": "x"}}))
        };
        assert_eq!(first_words(&[auth.clone(), publish(2, 1)]), ["nothing is sent before the answer to AUTH"]);
        assert_eq!(
            first_words(&[auth.clone(), ok.clone(), publish(3, 1), publish(3, 1)]),
            ["a message holds one frame, unless the hub has agreed to more"]
        );
        assert_eq!(
            first_words(&[auth.clone(), ok.clone(), publish(3, 1), publish(4, 2)]),
            ["an id is that of one event"]
        );
        let ack = |lease: Value| {
            (0, Side::Client, 3, json!({"op": "ACK", "topic": "a", "group": "g", "id": "x", "lease": lease}))
        };
        assert_eq!(
            first_words(&[auth.clone(), ok.clone(), ack(json!("02"))]),
            ["a lease is given back on the connection by which it came"]
        );
        assert_eq!(
            first_words(&[auth.clone(), ok.clone(), ack(json!(null))]),
            ["what has no lease is not acknowledged"]
        );
        let ping = |message| (0, Side::Client, message, json!({"op": "PING", "corr": "7"}));
        assert_eq!(first_words(&[auth.clone(), ok.clone(), ping(3), ping(4)]), ["a corr names one open request"]);
        assert_eq!(first_words(&[auth, ok, (0, Side::Client, 3, json!("nonsense"))]), ["a frame is one JSON object"]);
    }
}
