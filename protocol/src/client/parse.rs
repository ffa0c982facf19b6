//! The hub's reader of a client's frames.

use super::{BadRequest, ClientFrame, Nack, Op, Publish, Request, Settle, Subscribe, Target};
use crate::{
    ErrorCode, EventOptions, Group, NameError, Refusal, SubscribeOptions, Text, TopicOrPattern,
    fields::{Field, raw_fields},
    limits,
    names::field,
    topic,
};

raw_fields! {
    RawFrame {
        op = field::OP,
        corr = field::CORR,
        token = field::TOKEN,
        batch = field::BATCH,
        topic = field::TOPIC,
        group = field::GROUP,
        payload = field::PAYLOAD,
        opts = field::OPTS,
        id = field::ID,
        lease = field::LEASE,
        reason = field::REASON,
        delay_ms = field::DELAY_MS,
        dead = field::DEAD,
        extend_ms = field::EXTEND_MS,
    }
}

/// Parses one text frame. Nothing is copied but escaped strings and a SUBSCRIBE's names and options.
///
/// # Errors
/// `bad_json` for a frame that is not JSON; else `bad_frame` or `bad_topic`, with the field and the limit in its message.
///
/// ```
/// use prom_protocol::{ClientFrame, client};
/// let request = client::parse(r#"{"op":"PUBLISH","corr":"1","topic":"a.b","payload":{"x":1}}"#).unwrap();
/// assert_eq!(request.corr.unwrap().as_str(), "1");
/// assert!(matches!(request.frame, ClientFrame::Publish(p) if p.payload.get() == r#"{"x":1}"#));
/// ```
pub fn parse(text: &str) -> Result<Request<'_>, BadRequest<'_>> {
    let raw: RawFrame<'_> = match serde_json::from_str(text) {
        Ok(raw) => raw,
        Err(error) => return Err(unreadable(text, &error)),
    };
    let corr = match raw.corr.bounded(field::CORR, limits::CORR_BYTES) {
        Ok(corr) => corr,
        Err(error) => return Err(BadRequest { corr: None, op: None, unknown_op: false, error }),
    };
    let op = match raw.op.required(field::OP).map(|op| (Op::from_wire(&op), op)) {
        Ok((Some(op), _)) => op,
        Ok((None, name)) => {
            let shown: String = name.chars().take(32).collect();
            let error = Refusal::bad_frame(format!("op {shown:?} is not known"));
            return Err(BadRequest { corr, op: None, unknown_op: true, error });
        }
        Err(error) => return Err(BadRequest { corr, op: None, unknown_op: false, error }),
    };
    match raw.frame(op) {
        Ok(frame) => Ok(Request { corr, frame }),
        Err(error) => Err(BadRequest { corr, op: Some(op), unknown_op: false, error }),
    }
}

/// Tells what is not JSON from what is JSON of the wrong shape. Off the hot path, so it may read the text again.
fn unreadable<'a>(text: &str, error: &serde_json::Error) -> BadRequest<'a> {
    let error = if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        Refusal::new(ErrorCode::BadJson, "Invalid JSON")
    } else if error.is_data() && !text.trim_start().starts_with('{') {
        Refusal::bad_frame("a frame must be a JSON object")
    } else {
        // serde_json appends " at line 1 column 9", which helps nobody who sent one line.
        let message = error.to_string();
        let end = message.rfind(" at line ").unwrap_or(message.len());
        Refusal::bad_frame(&message[..end])
    };
    BadRequest { corr: None, op: None, unknown_op: false, error }
}

impl<'a> RawFrame<'a> {
    fn frame(&self, op: Op) -> Result<ClientFrame<'a>, Refusal> {
        Ok(match op {
            Op::Auth => ClientFrame::Auth {
                token: self.token.text(field::TOKEN)?.unwrap_or(Text::from("")),
                batch: self.batch.flag(field::BATCH)?,
            },
            Op::Publish => {
                let topic = self.topic.required(field::TOPIC)?;
                topic::validate(&topic, false)?;
                let payload = self.payload.raw_or_null().ok_or_else(|| Refusal::bad_frame("payload is required"))?;
                ClientFrame::Publish(Publish { topic, payload, options: EventOptions::from_field(self.opts)? })
            }
            Op::Subscribe => ClientFrame::Subscribe(Box::new(Subscribe {
                topic: TopicOrPattern::new(&self.topic.required(field::TOPIC)?)?,
                group: group(self.group)?,
                options: SubscribeOptions::from_field(self.opts)?,
            })),
            Op::Unsubscribe => ClientFrame::Unsubscribe(self.target()?),
            Op::Pause => ClientFrame::Pause(self.target()?),
            Op::Resume => ClientFrame::Resume(self.target()?),
            Op::Ack => ClientFrame::Ack(self.settle()?),
            Op::Nack => ClientFrame::Nack(Nack {
                settle: self.settle()?,
                reason: self.reason.text(field::REASON)?,
                delay_ms: self.delay_ms.integer(field::DELAY_MS, 0..=limits::LEASE_MS_MAX)?,
                dead: self.dead.flag(field::DEAD)?,
            }),
            Op::ModAck => ClientFrame::ModAck {
                settle: self.settle()?,
                extend_ms: self
                    .extend_ms
                    .integer(field::EXTEND_MS, limits::LEASE_MS_MIN..=limits::LEASE_MS_MAX)?
                    .ok_or_else(|| Refusal::bad_frame("extend_ms is required"))?,
            },
            Op::Ping => ClientFrame::Ping,
        })
    }

    fn target(&self) -> Result<Target<'a>, Refusal> {
        Ok(Target { topic: self.topic.required(field::TOPIC)?, group: self.group.required(field::GROUP)? })
    }

    fn settle(&self) -> Result<Settle<'a>, Refusal> {
        Ok(Settle { target: self.target()?, id: self.id.required(field::ID)?, lease: self.lease.text(field::LEASE)? })
    }
}

fn group(field: Field<'_>) -> Result<Option<Group>, Refusal> {
    let Some(name) = field.text(field::GROUP)? else { return Ok(None) };
    Ok(Some(Group::new(&name).map_err(|error: NameError| Refusal::from(error))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (ErrorCode, String) {
        let bad = parse(text).expect_err(text);
        (bad.error.code(), bad.error.message().to_owned())
    }

    #[test]
    fn refuses_naming_the_field() {
        use ErrorCode::{BadFrame, BadJson, BadTopic};
        let cases = [
            ("", BadJson, "Invalid JSON"),
            ("{", BadJson, "Invalid JSON"),
            ("{\"op\":\"PING\"} x", BadJson, "Invalid JSON"),
            ("[1]", BadFrame, "a frame must be a JSON object"),
            ("\"x\"", BadFrame, "a frame must be a JSON object"),
            ("{}", BadFrame, "op is required"),
            (r#"{"op":5}"#, BadFrame, "op must be a string"),
            (r#"{"op":"NOPE"}"#, BadFrame, "op \"NOPE\" is not known"),
            (r#"{"op":"PING","op":"PING"}"#, BadFrame, "op is given twice"),
            (r#"{"op":"PING","corr":7}"#, BadFrame, "corr must be a string"),
            (r#"{"op":"PUBLISH","payload":1}"#, BadFrame, "topic is required"),
            (r#"{"op":"PUBLISH","topic":"a"}"#, BadFrame, "payload is required"),
            (r#"{"op":"PUBLISH","topic":"a..b","payload":1}"#, BadTopic, "topic has an empty segment"),
            (
                r#"{"op":"PUBLISH","topic":"a","payload":1,"opts":3}"#,
                BadFrame,
                "opts must be an object without repeated fields",
            ),
            (
                r#"{"op":"PUBLISH","topic":"a","payload":1,"opts":{"ts":-1}}"#,
                BadFrame,
                "opts.ts must be an integer from 0 to 9007199254740991",
            ),
            (
                r#"{"op":"PUBLISH","topic":"a","payload":1,"opts":{"key":""}}"#,
                BadFrame,
                "opts.key must be 1 to 512 bytes",
            ),
            (
                r#"{"op":"PUBLISH","topic":"a","payload":1,"opts":{"headers":{"a":1}}}"#,
                BadFrame,
                "opts.headers must be an object of strings, each name once",
            ),
            (r#"{"op":"ACK","topic":"a","group":"g"}"#, BadFrame, "id is required"),
            (r#"{"op":"MODACK","topic":"a","group":"g","id":"1"}"#, BadFrame, "extend_ms is required"),
            (
                r#"{"op":"MODACK","topic":"a","group":"g","id":"1","extend_ms":10}"#,
                BadFrame,
                "extend_ms must be an integer from 1000 to 43200000",
            ),
            (r#"{"op":"NACK","topic":"a","group":"g","id":"1","dead":"yes"}"#, BadFrame, "dead must be true or false"),
            (r#"{"op":"AUTH","token":"t","batch":1}"#, BadFrame, "batch must be true or false"),
        ];
        for (text, code, message) in cases {
            assert_eq!(error(text), (code, message.to_owned()), "{text}");
        }
        assert_eq!(error(r#"{"op":"SUBSCRIBE","topic":"a","group":""}"#).0, BadTopic);
    }

    #[test]
    fn a_refusal_keeps_the_corr_and_the_op() {
        let bad = parse(r#"{"op":"ACK","corr":"c"}"#).unwrap_err();
        assert_eq!((bad.corr.unwrap().as_str(), bad.op), ("c", Some(Op::Ack)));
        let bad = parse(r#"{"op":"WHAT","corr":"c"}"#).unwrap_err();
        assert_eq!((bad.corr.unwrap().as_str(), bad.op, bad.unknown_op), ("c", None, true));
        assert!(!parse(r#"{"corr":"c"}"#).unwrap_err().unknown_op);
    }

    #[test]
    fn ignores_what_it_does_not_know_and_null() {
        let text = r#"{"op":"PING","future":{"a":[1]},"topic":5,"corr":null}"#;
        assert!(matches!(parse(text).unwrap(), Request { corr: None, frame: ClientFrame::Ping }));
        let text = r#"{"op":"SUBSCRIBE","topic":"a","group":null,"opts":null}"#;
        assert!(matches!(parse(text).unwrap().frame, ClientFrame::Subscribe(s) if s.group.is_none()));
        let text = r#"{"op":"PUBLISH","topic":"a","payload":null}"#;
        assert!(matches!(parse(text).unwrap().frame, ClientFrame::Publish(p) if p.payload.get() == "null"));
    }
}
