//! Frames from client to hub: parsing on the hub's side, encoding on the client's.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    ErrorCode, EventOptions, Group, NameError, Refusal, SubscribeOptions, Text, TopicOrPattern,
    fields::{Field, raw_fields},
    limits, topic,
};

/// The name of an operation a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// Authenticate.
    Auth,
    /// Publish an event.
    Publish,
    /// Start receiving.
    Subscribe,
    /// Stop receiving.
    Unsubscribe,
    /// Settle a delivery.
    Ack,
    /// Give a delivery back.
    Nack,
    /// Extend a lease.
    ModAck,
    /// Stop delivery to this member.
    Pause,
    /// Start it again.
    Resume,
    /// Ask for a PONG.
    Ping,
}

impl Op {
    const ALL: &'static [(Op, &'static str)] = &[
        (Op::Auth, "AUTH"),
        (Op::Publish, "PUBLISH"),
        (Op::Subscribe, "SUBSCRIBE"),
        (Op::Unsubscribe, "UNSUBSCRIBE"),
        (Op::Ack, "ACK"),
        (Op::Nack, "NACK"),
        (Op::ModAck, "MODACK"),
        (Op::Pause, "PAUSE"),
        (Op::Resume, "RESUME"),
        (Op::Ping, "PING"),
    ];

    fn from_wire(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, wire)| *wire == name).map(|(op, _)| *op)
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(op, _)| *op == self).map_or("", |(_, wire)| wire)
    }

    /// Whether a connection that has not authenticated may ask for it.
    pub const fn open_to_all(self) -> bool {
        matches!(self, Self::Auth | Self::Ping)
    }
}

/// A PUBLISH.
#[derive(Debug, Clone)]
pub struct Publish<'a> {
    /// A well-formed topic.
    pub topic: Text<'a>,
    /// Any JSON value of the payload profile, not yet checked against it: see [`crate::check_payload`].
    pub payload: &'a RawValue,
    /// What else the event carries.
    pub options: EventOptions<'a>,
}

/// A SUBSCRIBE.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// What to receive.
    pub topic: TopicOrPattern,
    /// The durable group to join; none: an ephemeral subscription.
    pub group: Option<Group>,
    /// How.
    pub options: SubscribeOptions,
}

/// The subscription a frame is about, as the client named it.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// `topic` of the SUBSCRIBE.
    pub topic: Text<'a>,
    /// `group` of the SUBSCRIBE, or the generated one.
    pub group: Text<'a>,
}

/// The delivery a frame is about.
#[derive(Debug, Clone)]
pub struct Settle<'a> {
    /// The subscription.
    pub target: Target<'a>,
    /// The event's id.
    pub id: Text<'a>,
    /// The delivery's lease; none: whatever lease this connection holds on that id.
    pub lease: Option<Text<'a>>,
}

/// A NACK.
#[derive(Debug, Clone)]
pub struct Nack<'a> {
    /// The delivery.
    pub settle: Settle<'a>,
    /// Why; kept with a dead letter, cut at [`limits::REASON_BYTES`].
    pub reason: Option<Text<'a>>,
    /// Wait this long before the next delivery; none: the hub's backoff.
    pub delay_ms: Option<u64>,
    /// No further delivery: straight to the dead letters.
    pub dead: bool,
}

/// What a client asks for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClientFrame<'a> {
    /// `AUTH {token}`; an absent token is an empty one.
    Auth(Text<'a>),
    /// `PUBLISH {topic, payload, opts?}`.
    Publish(Publish<'a>),
    /// `SUBSCRIBE {topic, group?, opts?}`.
    Subscribe(Box<Subscribe>),
    /// `UNSUBSCRIBE {topic, group}`.
    Unsubscribe(Target<'a>),
    /// `ACK {topic, group, id, lease?}`.
    Ack(Settle<'a>),
    /// `NACK {topic, group, id, lease?, reason?, delay_ms?, dead?}`.
    Nack(Nack<'a>),
    /// `MODACK {topic, group, id, lease?, extend_ms}`.
    ModAck {
        /// The delivery.
        settle: Settle<'a>,
        /// The lease's new length in milliseconds, from now.
        extend_ms: u64,
    },
    /// `PAUSE {topic, group}`.
    Pause(Target<'a>),
    /// `RESUME {topic, group}`.
    Resume(Target<'a>),
    /// `PING`.
    Ping,
}

/// A frame with its correlation.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Echoed in the answer; none: none there either.
    pub corr: Option<Text<'a>>,
    /// What is asked.
    pub frame: ClientFrame<'a>,
}

/// A frame that cannot be carried out, with what is needed to answer it.
#[derive(Debug, Clone)]
pub struct BadRequest<'a> {
    /// The frame's `corr`, as far as it could be read.
    pub corr: Option<Text<'a>>,
    /// The frame's `op`, if it is one.
    pub op: Option<Op>,
    /// What is wrong.
    pub error: Refusal,
}

raw_fields! {
    RawFrame {
        op = "op",
        corr = "corr",
        token = "token",
        topic = "topic",
        group = "group",
        payload = "payload",
        opts = "opts",
        id = "id",
        lease = "lease",
        reason = "reason",
        delay_ms = "delay_ms",
        dead = "dead",
        extend_ms = "extend_ms",
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
    let corr = match raw.corr.bounded("corr", limits::CORR_BYTES) {
        Ok(corr) => corr,
        Err(error) => return Err(BadRequest { corr: None, op: None, error }),
    };
    let op = match raw.op.required("op").map(|op| (Op::from_wire(&op), op)) {
        Ok((Some(op), _)) => op,
        Ok((None, name)) => {
            let shown: String = name.chars().take(32).collect();
            return Err(BadRequest { corr, op: None, error: Refusal::bad_frame(format!("op {shown:?} is not known")) });
        }
        Err(error) => return Err(BadRequest { corr, op: None, error }),
    };
    match raw.frame(op) {
        Ok(frame) => Ok(Request { corr, frame }),
        Err(error) => Err(BadRequest { corr, op: Some(op), error }),
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
    BadRequest { corr: None, op: None, error }
}

impl<'a> RawFrame<'a> {
    fn frame(&self, op: Op) -> Result<ClientFrame<'a>, Refusal> {
        Ok(match op {
            Op::Auth => ClientFrame::Auth(self.token.text("token")?.unwrap_or(Text::from(""))),
            Op::Publish => {
                let topic = self.topic.required("topic")?;
                topic::validate(&topic, false)?;
                let payload = self.payload.raw_or_null().ok_or_else(|| Refusal::bad_frame("payload is required"))?;
                ClientFrame::Publish(Publish { topic, payload, options: EventOptions::from_field(self.opts)? })
            }
            Op::Subscribe => ClientFrame::Subscribe(Box::new(Subscribe {
                topic: TopicOrPattern::new(&self.topic.required("topic")?)?,
                group: group(self.group)?,
                options: SubscribeOptions::from_field(self.opts)?,
            })),
            Op::Unsubscribe => ClientFrame::Unsubscribe(self.target()?),
            Op::Pause => ClientFrame::Pause(self.target()?),
            Op::Resume => ClientFrame::Resume(self.target()?),
            Op::Ack => ClientFrame::Ack(self.settle()?),
            Op::Nack => ClientFrame::Nack(Nack {
                settle: self.settle()?,
                reason: self.reason.text("reason")?,
                delay_ms: self.delay_ms.integer("delay_ms", 0..=limits::LEASE_MS_MAX)?,
                dead: self.dead.flag("dead")?,
            }),
            Op::ModAck => ClientFrame::ModAck {
                settle: self.settle()?,
                extend_ms: self
                    .extend_ms
                    .integer("extend_ms", limits::LEASE_MS_MIN..=limits::LEASE_MS_MAX)?
                    .ok_or_else(|| Refusal::bad_frame("extend_ms is required"))?,
            },
            Op::Ping => ClientFrame::Ping,
        })
    }

    fn target(&self) -> Result<Target<'a>, Refusal> {
        Ok(Target { topic: self.topic.required("topic")?, group: self.group.required("group")? })
    }

    fn settle(&self) -> Result<Settle<'a>, Refusal> {
        Ok(Settle { target: self.target()?, id: self.id.required("id")?, lease: self.lease.text("lease")? })
    }
}

fn group(field: Field<'_>) -> Result<Option<Group>, Refusal> {
    let Some(name) = field.text("group")? else { return Ok(None) };
    Ok(Some(Group::new(&name).map_err(|error: NameError| Refusal::from(error))?))
}

/// A frame to send, field by field in the order of the table in `docs/protocol.md`.
#[derive(Default, Serialize)]
struct WireFrame<'a> {
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    corr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dead: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    extend_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opts: Option<WireOpts<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireOpts<'a> {
    Event(&'a EventOptions<'a>),
    Subscribe(&'a SubscribeOptions),
}

impl Request<'_> {
    /// The frame's text.
    pub fn encode(&self) -> String {
        let mut wire = WireFrame { op: self.frame.op().as_str(), corr: self.corr.as_deref(), ..WireFrame::default() };
        match &self.frame {
            ClientFrame::Auth(token) => wire.token = Some(token),
            ClientFrame::Publish(publish) => {
                wire.topic = Some(&publish.topic);
                wire.payload = Some(publish.payload);
                wire.opts = (!publish.options.is_empty()).then_some(WireOpts::Event(&publish.options));
            }
            ClientFrame::Subscribe(subscribe) => {
                wire.topic = Some(subscribe.topic.as_str());
                wire.group = subscribe.group.as_ref().map(Group::as_str);
                wire.opts = (subscribe.options != SubscribeOptions::default())
                    .then_some(WireOpts::Subscribe(&subscribe.options));
            }
            ClientFrame::Unsubscribe(target) | ClientFrame::Pause(target) | ClientFrame::Resume(target) => {
                wire.target(target);
            }
            ClientFrame::Ack(settle) => wire.settle(settle),
            ClientFrame::Nack(nack) => {
                wire.settle(&nack.settle);
                wire.reason = nack.reason.as_deref();
                wire.delay_ms = nack.delay_ms;
                wire.dead = nack.dead;
            }
            ClientFrame::ModAck { settle, extend_ms } => {
                wire.settle(settle);
                wire.extend_ms = Some(*extend_ms);
            }
            ClientFrame::Ping => {}
        }
        serde_json::to_string(&wire).unwrap_or_default()
    }
}

impl<'a> WireFrame<'a> {
    fn target(&mut self, target: &'a Target<'_>) {
        self.topic = Some(&target.topic);
        self.group = Some(&target.group);
    }

    fn settle(&mut self, settle: &'a Settle<'_>) {
        self.target(&settle.target);
        self.id = Some(&settle.id);
        self.lease = settle.lease.as_deref();
    }
}

impl ClientFrame<'_> {
    /// Which operation it is.
    pub fn op(&self) -> Op {
        match self {
            Self::Auth(_) => Op::Auth,
            Self::Publish(_) => Op::Publish,
            Self::Subscribe(_) => Op::Subscribe,
            Self::Unsubscribe(_) => Op::Unsubscribe,
            Self::Ack(_) => Op::Ack,
            Self::Nack(_) => Op::Nack,
            Self::ModAck { .. } => Op::ModAck,
            Self::Pause(_) => Op::Pause,
            Self::Resume(_) => Op::Resume,
            Self::Ping => Op::Ping,
        }
    }
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
        assert_eq!((bad.corr.unwrap().as_str(), bad.op), ("c", None));
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
