//! A client's writer: one function a frame, its fields in the order of the table in `docs/protocol.md`.
//!
//! Optional fields are left out when they are none, empty or false. Nothing is checked here: if a parameter that must be
//! JSON is not, the hub refuses the frame.

use serde::Serialize;

use super::{ClientFrame, Op, Request, Settle, Target};
use crate::{
    EventOptions, Group, SubscribeOptions,
    names::{first, key},
    scan,
};

/// What the hub is to repeat in its answer, so that the client knows which request it answers.
#[derive(Debug, Clone, Copy)]
pub enum Corr<'a> {
    /// No `corr`: an answer, where the hub sends one, has none either.
    None,
    /// A number, written as a string of digits.
    Number(u64),
    /// Any text of 1 to 128 bytes.
    Text(&'a str),
}

impl From<Option<u64>> for Corr<'_> {
    fn from(number: Option<u64>) -> Self {
        number.map_or(Self::None, Self::Number)
    }
}

impl<'a> From<Option<&'a str>> for Corr<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Self::None, Self::Text)
    }
}

/// The delivery that an ACK, NACK or MODACK is about.
#[derive(Debug, Clone, Copy)]
pub struct Delivered<'a> {
    /// `topic` of the SUBSCRIBE.
    pub topic: &'a str,
    /// `group` of the SUBSCRIBE, or the generated one.
    pub group: &'a str,
    /// The event's id.
    pub id: &'a str,
    /// The delivery's lease, as the EVENT gave it; none: whatever lease the connection holds on that id.
    pub lease: Option<&'a str>,
}

/// AUTH, with the token as the client got it. `batch` asks that both sides may put several frames into one message: see
/// [`frames`](crate::frames).
pub fn auth(corr: Corr<'_>, token: &str, batch: bool) -> String {
    Frame::new(Op::Auth, corr).text(key::TOKEN, token).flag(key::BATCH, batch).end()
}

/// PUBLISH. `payload` is one JSON value. `options` is a JSON object, or empty for none; with an `id` of its own the caller must not
/// have another in `options`.
pub fn publish(corr: Corr<'_>, topic: &str, payload: &str, id: Option<&str>, options: &str) -> String {
    let mut frame = String::new();
    publish_into(&mut frame, corr, topic, payload, id, options);
    frame
}

/// As [`publish`], in place of what `frame` holds.
pub fn publish_into(frame: &mut String, corr: Corr<'_>, topic: &str, payload: &str, id: Option<&str>, options: &str) {
    let bytes = topic.len() + payload.len() + id.map_or(0, str::len) + options.len();
    let start = Frame::onto(std::mem::take(frame), Op::Publish, corr, 64 + bytes);
    let body = start.text(key::TOPIC, topic).json(key::PAYLOAD, payload);
    let whole = match id {
        Some(id) => body.options(id, options),
        None => body.object(key::OPTS, options),
    };
    *frame = whole.end();
}

/// SUBSCRIBE. `options` is a JSON object, or empty for none.
pub fn subscribe(corr: Corr<'_>, topic: &str, group: Option<&str>, options: &str) -> String {
    Frame::new(Op::Subscribe, corr).text(key::TOPIC, topic).optional(key::GROUP, group).object(key::OPTS, options).end()
}

/// A frame that names a subscription and nothing else: UNSUBSCRIBE, PAUSE or RESUME, as `op` says.
pub fn about(op: Op, corr: Corr<'_>, topic: &str, group: &str) -> String {
    Frame::about(String::new(), op, corr, topic, group).end()
}

/// ACK: the event is done with.
pub fn ack(corr: Corr<'_>, delivered: Delivered<'_>) -> String {
    let mut frame = String::new();
    ack_into(&mut frame, corr, delivered);
    frame
}

/// As [`ack`], in place of what `frame` holds.
pub fn ack_into(frame: &mut String, corr: Corr<'_>, delivered: Delivered<'_>) {
    *frame = Frame::settling(std::mem::take(frame), Op::Ack, corr, delivered).end();
}

/// NACK: the event goes back, with a reason, after so many milliseconds, or, if `dead`, to the dead letters.
pub fn nack(
    corr: Corr<'_>,
    delivered: Delivered<'_>,
    reason: Option<&str>,
    delay_ms: Option<u64>,
    dead: bool,
) -> String {
    let mut frame = Frame::settling(String::new(), Op::Nack, corr, delivered).optional(key::REASON, reason);
    if let Some(delay_ms) = delay_ms {
        frame = frame.number(key::DELAY_MS, delay_ms);
    }
    frame.flag(key::DEAD, dead).end()
}

/// MODACK: the lease is to end `extend_ms` milliseconds from now.
pub fn modack(corr: Corr<'_>, delivered: Delivered<'_>, extend_ms: u64) -> String {
    Frame::settling(String::new(), Op::ModAck, corr, delivered).number(key::EXTEND_MS, extend_ms).end()
}

/// PING, which the hub answers with a PONG.
pub fn ping(corr: Corr<'_>) -> String {
    Frame::new(Op::Ping, corr).end()
}

/// A frame under construction. Names are those of [`key`].
struct Frame(String);

impl Frame {
    fn new(op: Op, corr: Corr<'_>) -> Self {
        Self::onto(String::new(), op, corr, 0)
    }

    /// In place of what `text` holds, with room for so many bytes more than a small frame needs.
    fn onto(mut text: String, op: Op, corr: Corr<'_>, bytes: usize) -> Self {
        text.clear();
        text.reserve(64 + bytes);
        text.push('{');
        text.push_str(const { first(key::OP) });
        text.push('"');
        text.push_str(op.as_str());
        text.push('"');
        match corr {
            Corr::None => Self(text),
            Corr::Number(number) => {
                text.push_str(key::CORR);
                text.push('"');
                push_number(&mut text, number);
                text.push('"');
                Self(text)
            }
            Corr::Text(corr) => Self(text).text(key::CORR, corr),
        }
    }

    /// One that names a subscription.
    fn about(text: String, op: Op, corr: Corr<'_>, topic: &str, group: &str) -> Self {
        Self::onto(text, op, corr, 0).text(key::TOPIC, topic).text(key::GROUP, group)
    }

    /// One that names a delivery.
    fn settling(text: String, op: Op, corr: Corr<'_>, delivered: Delivered<'_>) -> Self {
        let Delivered { topic, group, id, lease } = delivered;
        Self::about(text, op, corr, topic, group).text(key::ID, id).optional(key::LEASE, lease)
    }

    fn text(mut self, key: &str, value: &str) -> Self {
        self.0.push_str(key);
        scan::quote(&mut self.0, value);
        self
    }

    fn optional(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    fn json(mut self, key: &str, value: &str) -> Self {
        self.0.push_str(key);
        self.0.push_str(value);
        self
    }

    /// `value` is a JSON object, or nothing; what is empty is left out.
    fn object(self, key: &str, value: &str) -> Self {
        if matches!(value, "" | "{}") { self } else { self.json(key, value) }
    }

    /// What is false is left out.
    fn flag(self, key: &str, value: bool) -> Self {
        if value { self.json(key, "true") } else { self }
    }

    fn number(mut self, key: &str, value: u64) -> Self {
        self.0.push_str(key);
        push_number(&mut self.0, value);
        self
    }

    /// An event's options: its id, and before their closing brace what `others`, a JSON object or nothing, holds.
    fn options(mut self, id: &str, others: &str) -> Self {
        self.0.push_str(key::OPTS);
        self.0.push('{');
        self.0.push_str(const { first(key::ID) });
        scan::quote(&mut self.0, id);
        if let Some(others) = others.strip_prefix('{').filter(|others| *others != "}") {
            self.0.push(',');
            self.0.push_str(others);
        } else {
            self.0.push('}');
        }
        self
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// Appends the digits of `number`, without a string of their own and without the standard library's formatting.
fn push_number(text: &mut String, mut number: u64) {
    let mut digits = [0; 20];
    let mut unused = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        unused -= 1;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend(digits.iter().skip(unused).map(|digit| char::from(*digit)));
}

impl Request<'_> {
    /// The frame's text.
    pub fn encode(&self) -> String {
        let corr = Corr::from(self.corr.as_deref());
        let op = self.frame.op();
        match &self.frame {
            ClientFrame::Auth { token, batch } => auth(corr, token, *batch),
            ClientFrame::Publish(event) => {
                let options = unless(&event.options, EventOptions::is_empty);
                publish(corr, &event.topic, event.payload.get(), None, &options)
            }
            ClientFrame::Subscribe(wanted) => {
                let options = unless(&wanted.options, |options| *options == SubscribeOptions::default());
                subscribe(corr, wanted.topic.as_str(), wanted.group.as_ref().map(Group::as_str), &options)
            }
            ClientFrame::Unsubscribe(target) | ClientFrame::Pause(target) | ClientFrame::Resume(target) => {
                about(op, corr, &target.topic, &target.group)
            }
            ClientFrame::Ack(settle) => ack(corr, settle.delivered()),
            ClientFrame::Nack(n) => nack(corr, n.settle.delivered(), n.reason.as_deref(), n.delay_ms, n.dead),
            ClientFrame::ModAck { settle, extend_ms } => modack(corr, settle.delivered(), *extend_ms),
            ClientFrame::Ping => ping(corr),
        }
    }
}

impl Settle<'_> {
    fn delivered(&self) -> Delivered<'_> {
        let Settle { target: Target { topic, group }, id, lease } = self;
        Delivered { topic, group, id, lease: lease.as_deref() }
    }
}

/// `options` as JSON; nothing where they are at their defaults.
fn unless<T: Serialize>(options: &T, default: impl FnOnce(&T) -> bool) -> String {
    if default(options) { String::new() } else { serde_json::to_string(options).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client;

    /// What the hub reads of each frame is, written again, the same text.
    #[test]
    fn the_hub_reads_what_is_written() {
        let delivered = Delivered { topic: "a", group: "g", id: "i", lease: Some("00000000000000a1") };
        let frames = [
            ping(Corr::None),
            auth(Corr::Number(1), "a.\"b\"", false),
            auth(Corr::None, "t", true),
            publish(Corr::Number(2), "a.b", r#"{"x":1}"#, Some("i\"ü"), ""),
            publish(Corr::Number(2), "a.b", "1", Some("i"), "{}"),
            publish(
                Corr::Number(3),
                "a.b",
                "null",
                Some("i"),
                r#"{"ts":5,"key":"k","headers":{"a":"b"},"tags":["t"]}"#,
            ),
            subscribe(Corr::Number(4), "a.*", None, ""),
            subscribe(Corr::Number(4), "a.*", Some("g"), r#"{"from":"earliest"}"#),
            nack(Corr::None, delivered, Some("ü\u{1}"), Some(5), true),
            modack(Corr::Number(u64::MAX), Delivered { lease: None, ..delivered }, 1000),
        ];
        for frame in frames {
            let request = client::parse(&frame).unwrap_or_else(|bad| panic!("{frame}: {}", bad.error));
            assert_eq!(request.encode(), frame);
        }
    }
}
