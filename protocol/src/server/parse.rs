//! The strict reader of a hub's frames.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{DeliveryContext, Op, ServerFrame};
use crate::{ErrorCode, Refusal, Text};

#[derive(Deserialize)]
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

#[derive(Deserialize)]
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

#[derive(Deserialize)]
struct TargetBody<'a> {
    #[serde(borrow)]
    topic: Text<'a>,
    #[serde(borrow)]
    group: Text<'a>,
}

#[derive(Deserialize)]
struct CorrBody<'a> {
    #[serde(borrow, default)]
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
    let Some(op) = Op::from_wire(&head.op) else { return Ok(None) };
    Ok(Some(match op {
        Op::Ok => ServerFrame::Ok(body(text)?),
        Op::Err => ServerFrame::Err(body(text)?),
        Op::Event => {
            let EventBody { topic, group, event, ctx } = body(text)?;
            ServerFrame::Event { topic, group, event, ctx }
        }
        Op::Live => {
            let TargetBody { topic, group } = body(text)?;
            ServerFrame::Live { topic, group }
        }
        Op::Gap => {
            let GapBody { topic, group, from, to, reason } = body(text)?;
            ServerFrame::Gap { topic, group, from, to, reason }
        }
        Op::Revoked => {
            let RevokedBody { topic, group, code, msg } = body(text)?;
            ServerFrame::Revoked { topic, group, code, msg }
        }
        Op::Pong => ServerFrame::Pong { corr: body::<CorrBody<'_>>(text)?.corr },
    }))
}

/// The number behind a lease token, as [`encode_event_context`](super::encode_event_context) wrote it.
pub fn parse_lease(token: &str) -> Option<u64> {
    if token.len() == 16 && token.bytes().all(|b| b.is_ascii_hexdigit()) {
        u64::from_str_radix(token, 16).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
