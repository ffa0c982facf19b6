//! Frames from hub to client: encoding on the hub's side, parsing on the client's.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{ErrorCode, Refusal, Text, event::json};

/// What a member is told about one delivery: the `ctx` of an EVENT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryContext<'a> {
    /// How often the event was delivered to the group, from 1.
    pub attempt: u32,
    /// The attempt after which it becomes a dead letter.
    pub max_attempts: u32,
    /// Milliseconds left on the lease when the frame was sent; 0 where there is nothing to acknowledge.
    pub ack_deadline_ms: u64,
    /// Fencing token of this delivery; none where there is nothing to acknowledge.
    #[serde(borrow)]
    pub lease: Option<Text<'a>>,
    /// Whether it was delivered before.
    pub redelivered: bool,
}

/// An OK: what was asked is done. Which fields are set depends on the request.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OkFrame<'a> {
    /// That of the request.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub corr: Option<Text<'a>>,
    /// PUBLISH: the event's id.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Text<'a>>,
    /// PUBLISH: the event's position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// PUBLISH: the event was committed before; nothing new was stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    /// SUBSCRIBE: what was subscribed.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<Text<'a>>,
    /// SUBSCRIBE: the group, generated for an ephemeral subscription.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Text<'a>>,
    /// AUTH: milliseconds until the token expires; absent for a token that does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
}

/// An ERR: what was asked was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrFrame<'a> {
    /// One of [`ErrorCode`]'s names, or one of a later version.
    #[serde(borrow)]
    pub code: Text<'a>,
    /// For people.
    #[serde(borrow)]
    pub msg: Text<'a>,
    /// That of the request.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub corr: Option<Text<'a>>,
    /// When to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// What a hub says to a client.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ServerFrame<'a> {
    /// `OK`.
    Ok(OkFrame<'a>),
    /// `ERR`.
    Err(ErrFrame<'a>),
    /// `EVENT`: one delivery.
    Event {
        /// `topic` of the SUBSCRIBE; the concrete one stands in the event.
        topic: Text<'a>,
        /// `group` of the SUBSCRIBE.
        group: Text<'a>,
        /// The event's JSON: see [`crate::Event::parse`].
        event: &'a RawValue,
        /// About this delivery.
        ctx: DeliveryContext<'a>,
    },
    /// `LIVE`: an ephemeral subscription's snapshot is complete; what follows came after it.
    Live {
        /// `topic` of the SUBSCRIBE.
        topic: Text<'a>,
        /// `group` of the SUBSCRIBE.
        group: Text<'a>,
    },
    /// `GAP`: events were skipped.
    Gap {
        /// The concrete topic.
        topic: Text<'a>,
        /// `group` of the SUBSCRIBE.
        group: Text<'a>,
        /// First seq that was skipped.
        from: u64,
        /// Last seq that was skipped.
        to: u64,
        /// Why, for people.
        reason: Text<'a>,
    },
    /// `REVOKED`: the hub ended a subscription.
    Revoked {
        /// `topic` of the SUBSCRIBE.
        topic: Text<'a>,
        /// `group` of the SUBSCRIBE.
        group: Text<'a>,
        /// Why.
        code: Text<'a>,
        /// For people.
        msg: Text<'a>,
    },
    /// `PONG`.
    Pong {
        /// That of the PING.
        corr: Option<Text<'a>>,
    },
}

#[derive(Serialize)]
struct Tagged<'a, T> {
    op: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Serialize, Deserialize)]
struct GapBody<'a> {
    #[serde(borrow)]
    topic: Text<'a>,
    #[serde(borrow)]
    group: Text<'a>,
    from: u64,
    to: u64,
    #[serde(borrow)]
    reason: Text<'a>,
}

#[derive(Serialize, Deserialize)]
struct RevokedBody<'a> {
    #[serde(borrow)]
    topic: Text<'a>,
    #[serde(borrow)]
    group: Text<'a>,
    #[serde(borrow)]
    code: Text<'a>,
    #[serde(borrow)]
    msg: Text<'a>,
}

#[derive(Serialize, Deserialize)]
struct TargetBody<'a> {
    #[serde(borrow)]
    topic: Text<'a>,
    #[serde(borrow)]
    group: Text<'a>,
}

#[derive(Serialize, Deserialize)]
struct CorrBody<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    corr: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct EventBody<'a> {
    #[serde(borrow)]
    topic: Text<'a>,
    #[serde(borrow)]
    group: Text<'a>,
    #[serde(borrow)]
    event: &'a RawValue,
    #[serde(borrow)]
    ctx: DeliveryContext<'a>,
}

/// Appends the OK of a PUBLISH, the answer a hub gives most often.
pub fn encode_published(out: &mut Vec<u8>, corr: Option<&str>, id: &str, seq: u64, duplicate: bool) {
    out.extend_from_slice(b"{\"op\":\"OK\"");
    if let Some(corr) = corr {
        out.extend_from_slice(b",\"corr\":");
        json(out, corr);
    }
    out.extend_from_slice(b",\"id\":");
    json(out, id);
    out.extend_from_slice(b",\"seq\":");
    json(out, &seq);
    if duplicate {
        out.extend_from_slice(b",\"duplicate\":true");
    }
    out.push(b'}');
}

/// Appends the start of an EVENT, up to where the event's JSON begins. The same for every event of a subscription, so
/// that a hub makes it once.
pub fn encode_event_head(out: &mut Vec<u8>, topic: &str, group: &str) {
    out.extend_from_slice(b"{\"op\":\"EVENT\",\"topic\":");
    json(out, topic);
    out.extend_from_slice(b",\"group\":");
    json(out, group);
    out.extend_from_slice(b",\"event\":");
}

/// Appends the rest of an EVENT, after the event's JSON. `lease` is written as sixteen hexadecimal digits.
pub fn encode_event_context(
    out: &mut Vec<u8>,
    attempt: u32,
    max_attempts: u32,
    ack_deadline_ms: u64,
    lease: Option<u64>,
) {
    out.extend_from_slice(b",\"ctx\":{\"attempt\":");
    json(out, &attempt);
    out.extend_from_slice(b",\"max_attempts\":");
    json(out, &max_attempts);
    out.extend_from_slice(b",\"ack_deadline_ms\":");
    json(out, &ack_deadline_ms);
    out.extend_from_slice(b",\"lease\":");
    match lease {
        Some(lease) => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.push(b'"');
            out.extend((0..16).rev().map(|digit| HEX[(lease >> (4 * digit)) as usize & 15]));
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(if attempt > 1 { b",\"redelivered\":true}}" } else { b",\"redelivered\":false}}" });
}

/// The number behind a lease token, as [`encode_event_context`] wrote it.
pub fn parse_lease(token: &str) -> Option<u64> {
    if token.len() == 16 && token.bytes().all(|b| b.is_ascii_hexdigit()) {
        u64::from_str_radix(token, 16).ok()
    } else {
        None
    }
}

impl<'a> ServerFrame<'a> {
    /// An OK without more than the request's `corr`.
    pub fn ok(corr: Option<Text<'a>>) -> Self {
        Self::Ok(OkFrame { corr, ..OkFrame::default() })
    }

    /// An ERR.
    pub fn error(code: ErrorCode, msg: impl Into<String>, corr: Option<Text<'a>>) -> Self {
        Self::Err(ErrFrame { code: code.as_str().into(), msg: Text::from(msg.into()), corr, retry_after_ms: None })
    }

    /// Appends the frame's text to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ok(body) => json(out, &Tagged { op: "OK", body }),
            Self::Err(body) => json(out, &Tagged { op: "ERR", body }),
            Self::Event { topic, group, event, ctx } => {
                encode_event_head(out, topic, group);
                out.extend_from_slice(event.get().as_bytes());
                out.extend_from_slice(b",\"ctx\":");
                json(out, ctx);
                out.push(b'}');
            }
            Self::Live { topic, group } => {
                json(out, &Tagged { op: "LIVE", body: &TargetBody { topic: topic.clone(), group: group.clone() } });
            }
            Self::Gap { topic, group, from, to, reason } => {
                let body = GapBody {
                    topic: topic.clone(),
                    group: group.clone(),
                    from: *from,
                    to: *to,
                    reason: reason.clone(),
                };
                json(out, &Tagged { op: "GAP", body: &body });
            }
            Self::Revoked { topic, group, code, msg } => {
                let body =
                    RevokedBody { topic: topic.clone(), group: group.clone(), code: code.clone(), msg: msg.clone() };
                json(out, &Tagged { op: "REVOKED", body: &body });
            }
            Self::Pong { corr } => json(out, &Tagged { op: "PONG", body: &CorrBody { corr: corr.clone() } }),
        }
    }
}

/// Parses one text frame of a hub. `None` for an op this version does not know, which a client ignores.
///
/// # Errors
/// `bad_json` or `bad_frame`: the hub does not speak this protocol.
pub fn parse(text: &str) -> Result<Option<ServerFrame<'_>>, Refusal> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        op: Text<'a>,
    }

    fn body<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
        serde_json::from_str(text).map_err(|e| Refusal::bad_frame(format!("from the hub: {e}")))
    }

    let head: Head<'_> = serde_json::from_str(text).map_err(|e| {
        let code = if e.is_data() { ErrorCode::BadFrame } else { ErrorCode::BadJson };
        Refusal::new(code, format!("from the hub: {e}"))
    })?;
    // A derived struct reads an array too.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(Refusal::bad_frame("from the hub: a frame must be a JSON object"));
    }
    Ok(Some(match head.op.as_str() {
        "OK" => ServerFrame::Ok(body(text)?),
        "ERR" => ServerFrame::Err(body(text)?),
        "EVENT" => {
            let EventBody { topic, group, event, ctx } = body(text)?;
            ServerFrame::Event { topic, group, event, ctx }
        }
        "LIVE" => {
            let TargetBody { topic, group } = body(text)?;
            ServerFrame::Live { topic, group }
        }
        "GAP" => {
            let GapBody { topic, group, from, to, reason } = body(text)?;
            ServerFrame::Gap { topic, group, from, to, reason }
        }
        "REVOKED" => {
            let RevokedBody { topic, group, code, msg } = body(text)?;
            ServerFrame::Revoked { topic, group, code, msg }
        }
        "PONG" => ServerFrame::Pong { corr: body::<CorrBody<'_>>(text)?.corr },
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_encoders_agree_with_the_frames() {
        let mut fast = Vec::new();
        encode_published(&mut fast, Some("c\""), "id", 7, true);
        let mut slow = Vec::new();
        let ok = OkFrame {
            corr: Some("c\"".into()),
            id: Some("id".into()),
            seq: Some(7),
            duplicate: true,
            ..OkFrame::default()
        };
        ServerFrame::Ok(ok).encode(&mut slow);
        assert_eq!(fast, slow);

        for (attempt, lease) in [(1, Some(0x1f)), (2, Some(u64::MAX)), (1, None)] {
            let mut fast = Vec::new();
            encode_event_head(&mut fast, "a.*", "g");
            fast.extend_from_slice(b"{}");
            encode_event_context(&mut fast, attempt, 5, 1_000, lease);
            let text = String::from_utf8(fast).unwrap();
            let Some(frame) = parse(&text).unwrap() else { panic!("an EVENT") };
            let mut slow = Vec::new();
            frame.encode(&mut slow);
            assert_eq!(text.as_bytes(), slow);
            let ServerFrame::Event { ctx, .. } = frame else { panic!("an EVENT") };
            assert_eq!(ctx.lease.as_ref().and_then(|token| parse_lease(token)), lease);
        }
    }

    #[test]
    fn unknown_ops_are_ignored_and_garbage_is_not() {
        assert!(parse(r#"{"op":"FUTURE","x":1}"#).unwrap().is_none());
        assert!(parse("{}").is_err());
        assert!(parse("nonsense").is_err());
        assert!(parse(r#"["PONG"]"#).is_err());
        assert!(parse(r#"{"op":"EVENT","topic":"a"}"#).is_err());
    }

    #[test]
    fn leases_are_sixteen_digits() {
        assert_eq!(parse_lease("00000000000000ff"), Some(255));
        for token in ["", "ff", "+0000000000000ff", "00000000000000fg", "000000000000000ff"] {
            assert_eq!(parse_lease(token), None, "{token}");
        }
    }
}
