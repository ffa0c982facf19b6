//! The frames, written and read. Their tables are in `docs/protocol.md`; `prom_protocol` has the hub's side of them, and
//! the tests hold both to the same text.

use std::sync::Arc;

use prom_protocol::{DeliveryContext, Text};

use crate::json;

/// A frame for the hub under construction. Fields are added in the order of the protocol's golden files.
pub(crate) struct Frame(String);

impl Frame {
    pub(crate) fn new(op: &str, corr: Option<u64>) -> Self {
        Self::sized(op, corr, 0)
    }

    /// With room for so many bytes beside names.
    pub(crate) fn sized(op: &str, corr: Option<u64>, bytes: usize) -> Self {
        let mut text = String::with_capacity(64 + bytes);
        text.push_str("{\"op\":\"");
        text.push_str(op);
        text.push('"');
        let frame = Self(text);
        match corr {
            Some(corr) => frame.text("corr", &corr.to_string()),
            None => frame,
        }
    }

    pub(crate) fn text(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        json::quote(&mut self.0, value);
        self
    }

    /// `value` is JSON.
    pub(crate) fn raw(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        self.0.push_str(value);
        self
    }

    pub(crate) fn number(self, name: &str, value: u64) -> Self {
        self.raw(name, &value.to_string())
    }

    /// An event's options: its id, and before their closing brace what `others`, a JSON object, holds.
    pub(crate) fn options(mut self, id: &str, others: &str) -> Self {
        self.0.push_str(",\"opts\":{\"id\":");
        json::quote(&mut self.0, id);
        if let Some(others) = others.strip_prefix('{').filter(|others| *others != "}") {
            self.0.push(',');
            self.0.push_str(others);
        } else {
            self.0.push('}');
        }
        self
    }

    pub(crate) fn end(mut self) -> Arc<str> {
        self.0.push('}');
        self.0.into()
    }

    fn name(&mut self, name: &str) {
        self.0.push_str(",\"");
        self.0.push_str(name);
        self.0.push_str("\":");
    }
}

/// A frame of the hub: the raw values of the fields this version knows, whatever the op.
#[derive(Debug, Default)]
pub(crate) struct Incoming<'a> {
    op: &'a str,
    corr: &'a str,
    topic: &'a str,
    group: &'a str,
    seq: &'a str,
    duplicate: &'a str,
    expires_in_ms: &'a str,
    code: &'a str,
    msg: &'a str,
    retry_after_ms: &'a str,
    event: &'a str,
    ctx: &'a str,
    from: &'a str,
    to: &'a str,
    reason: &'a str,
}

impl<'a> Incoming<'a> {
    /// None for what is no JSON object.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut frame = Self::default();
        let whole = json::fields(text, |name, value| match name {
            "op" => frame.op = value,
            "corr" => frame.corr = value,
            "topic" => frame.topic = value,
            "group" => frame.group = value,
            "seq" => frame.seq = value,
            "duplicate" => frame.duplicate = value,
            "expires_in_ms" => frame.expires_in_ms = value,
            "code" => frame.code = value,
            "msg" => frame.msg = value,
            "retry_after_ms" => frame.retry_after_ms = value,
            "event" => frame.event = value,
            "ctx" => frame.ctx = value,
            "from" => frame.from = value,
            "to" => frame.to = value,
            "reason" => frame.reason = value,
            _ => {}
        });
        whole.then_some(frame)
    }

    /// The op, unless it needs unescaping, which none of this version does.
    pub(crate) fn op(&self) -> &'a str {
        self.op.trim_matches('"')
    }

    /// The number our requests are correlated by.
    pub(crate) fn corr(&self) -> Option<u64> {
        number(self.corr.strip_prefix('"')?.strip_suffix('"')?)
    }

    pub(crate) fn has_corr(&self) -> bool {
        !self.corr.is_empty() && self.corr != "null"
    }

    pub(crate) fn topic(&self) -> Text<'a> {
        text(self.topic)
    }

    pub(crate) fn group(&self) -> Text<'a> {
        text(self.group)
    }

    pub(crate) fn seq(&self) -> Option<u64> {
        number(self.seq)
    }

    pub(crate) fn duplicate(&self) -> bool {
        self.duplicate == "true"
    }

    pub(crate) fn expires_in_ms(&self) -> Option<u64> {
        number(self.expires_in_ms)
    }

    pub(crate) fn code(&self) -> Text<'a> {
        text(self.code)
    }

    pub(crate) fn msg(&self) -> Text<'a> {
        text(self.msg)
    }

    pub(crate) fn retry_after_ms(&self) -> Option<u64> {
        number(self.retry_after_ms)
    }

    pub(crate) fn reason(&self) -> Text<'a> {
        text(self.reason)
    }

    /// First and last seq of a GAP.
    pub(crate) fn range(&self) -> Option<(u64, u64)> {
        Some((number(self.from)?, number(self.to)?))
    }

    /// The event's JSON.
    pub(crate) fn event(&self) -> Option<&'a str> {
        self.event.starts_with('{').then_some(self.event)
    }

    /// What an EVENT says about the delivery.
    pub(crate) fn context(&self) -> Option<DeliveryContext<'a>> {
        let mut numbers = [None; 3];
        let mut lease = "";
        let mut redelivered = "";
        let whole = json::fields(self.ctx, |name, value| match name {
            "attempt" => numbers[0] = number(value),
            "max_attempts" => numbers[1] = number(value),
            "ack_deadline_ms" => numbers[2] = number(value),
            "lease" => lease = value,
            "redelivered" => redelivered = value,
            _ => {}
        });
        let [attempt, max_attempts, ack_deadline_ms] = numbers;
        whole.then_some(DeliveryContext {
            attempt: u32::try_from(attempt?).ok()?,
            max_attempts: u32::try_from(max_attempts?).ok()?,
            ack_deadline_ms: ack_deadline_ms?,
            lease: json::string(lease).map(Text),
            redelivered: redelivered == "true",
        })
    }
}

fn text(raw: &str) -> Text<'_> {
    Text(json::string(raw).unwrap_or_default())
}

fn number(raw: &str) -> Option<u64> {
    // `parse` takes a leading plus, JSON does not.
    if raw.starts_with('+') { None } else { raw.parse().ok() }
}

#[cfg(test)]
mod tests {
    use prom_protocol::{ServerFrame, client, server};

    use super::*;

    /// Every frame of a client, as the hub's own crate would write it.
    #[test]
    fn frames_are_those_of_the_protocol() {
        let frames = [
            Frame::new("PING", None).end(),
            Frame::new("AUTH", Some(1)).text("token", "a.\"b\"").end(),
            Frame::sized("PUBLISH", Some(2), 10)
                .text("topic", "a.b")
                .raw("payload", r#"{"x":1}"#)
                .options("i\"ü", "")
                .end(),
            Frame::new("PUBLISH", Some(2)).text("topic", "a.b").raw("payload", "1").options("i", "{}").end(),
            Frame::new("PUBLISH", Some(3))
                .text("topic", "a.b")
                .raw("payload", "null")
                .options("i", r#"{"ts":5,"key":"k","headers":{"a":"b"},"tags":["t"]}"#)
                .end(),
            Frame::new("SUBSCRIBE", Some(4)).text("topic", "a.*").end(),
            Frame::new("SUBSCRIBE", Some(4))
                .text("topic", "a.*")
                .text("group", "g")
                .raw("opts", r#"{"from":"earliest"}"#)
                .end(),
            Frame::new("NACK", None)
                .text("topic", "a")
                .text("group", "g")
                .text("id", "i")
                .text("lease", "00000000000000a1")
                .text("reason", "ü\u{1}")
                .number("delay_ms", 5)
                .raw("dead", "true")
                .end(),
            Frame::new("MODACK", Some(u64::MAX))
                .text("topic", "a")
                .text("group", "g")
                .text("id", "i")
                .number("extend_ms", 1000)
                .end(),
        ];
        for frame in frames {
            let request = client::parse(&frame).unwrap_or_else(|bad| panic!("{frame}: {}", bad.error));
            assert_eq!(request.encode(), &*frame);
        }
    }

    /// The protocol's golden files, read here as the hub's own crate reads them.
    #[test]
    fn reads_what_the_protocol_writes() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/tests/golden/server");
        let mut read = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let Ok(Some(expected)) = server::parse(&text) else { continue };
            compare(&Incoming::parse(&text).expect(&text), &expected);
            read += 1;
        }
        assert!(read > 10, "only {read} golden files");
    }

    fn compare(frame: &Incoming<'_>, expected: &ServerFrame<'_>) {
        match expected {
            ServerFrame::Ok(ok) => {
                assert_eq!((frame.op(), frame.seq(), frame.duplicate()), ("OK", ok.seq, ok.duplicate));
                assert_eq!(frame.expires_in_ms(), ok.expires_in_ms);
                assert_eq!(frame.has_corr(), ok.corr.is_some());
                assert_eq!(frame.corr(), ok.corr.as_ref().and_then(|corr| corr.parse().ok()));
                assert_eq!(frame.topic(), ok.topic.clone().unwrap_or("".into()));
                assert_eq!(frame.group(), ok.group.clone().unwrap_or("".into()));
            }
            ServerFrame::Err(err) => {
                assert_eq!((frame.op(), frame.code(), frame.msg()), ("ERR", err.code.clone(), err.msg.clone()));
                assert_eq!((frame.has_corr(), frame.retry_after_ms()), (err.corr.is_some(), err.retry_after_ms));
            }
            ServerFrame::Event { topic, group, event, ctx } => {
                assert_eq!((frame.op(), frame.topic(), frame.group()), ("EVENT", topic.clone(), group.clone()));
                assert_eq!((frame.event(), frame.context()), (Some(event.get()), Some(ctx.clone())));
            }
            ServerFrame::Live { topic, group } => {
                assert_eq!((frame.op(), frame.topic(), frame.group()), ("LIVE", topic.clone(), group.clone()));
            }
            ServerFrame::Gap { topic, group, from, to, reason } => {
                assert_eq!((frame.op(), frame.topic(), frame.group()), ("GAP", topic.clone(), group.clone()));
                assert_eq!((frame.range(), frame.reason()), (Some((*from, *to)), reason.clone()));
            }
            ServerFrame::Revoked { topic, group, code, msg } => {
                assert_eq!((frame.op(), frame.topic(), frame.group()), ("REVOKED", topic.clone(), group.clone()));
                assert_eq!((frame.code(), frame.msg()), (code.clone(), msg.clone()));
            }
            ServerFrame::Pong { corr } => {
                assert_eq!((frame.op(), frame.has_corr()), ("PONG", corr.is_some()));
            }
            other => panic!("{other:?}"),
        }
    }
}
