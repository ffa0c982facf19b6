//! The hub's writer: frames appended to the bytes that leave with the next write.

use serde::Serialize;

use super::{DeliveryContext, ErrFrame, OkFrame, Op, ServerFrame};
use crate::{
    event::json,
    names::{first, joined, key},
};

/// The text of a frame from its brace to the value of its op.
macro_rules! opening {
    ($op:expr) => {
        joined!("{", first(key::OP), "\"", $op.as_str(), "\"")
    };
}

/// Appends the OK of a PUBLISH, the answer a hub gives most often.
pub fn encode_published(out: &mut Vec<u8>, corr: Option<&str>, id: &str, seq: u64, duplicate: bool) {
    Frame::begin(out, opening!(Op::Ok))
        .optional(key::CORR, corr)
        .field(key::ID, id)
        .field(key::SEQ, &seq)
        .flag(key::DUPLICATE, duplicate)
        .end();
}

/// Appends the start of an EVENT, up to where the event's JSON begins. The same for every event of a subscription, so
/// that a hub makes it once.
pub fn encode_event_head(out: &mut Vec<u8>, topic: &str, group: &str) {
    let frame = Frame::begin(out, opening!(Op::Event)).field(key::TOPIC, topic).field(key::GROUP, group);
    frame.0.extend_from_slice(key::EVENT.as_bytes());
}

/// Appends the rest of an EVENT, after the event's JSON. `lease` is written as sixteen hexadecimal digits.
pub fn encode_event_context(
    out: &mut Vec<u8>,
    attempt: u32,
    max_attempts: u32,
    ack_deadline_ms: u64,
    lease: Option<u64>,
) {
    context(out, attempt, max_attempts, ack_deadline_ms);
    match lease {
        Some(lease) => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.push(b'"');
            out.extend((0..16).rev().map(|digit| HEX[(lease >> (4 * digit)) as usize & 15]));
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
    redelivered(out, attempt > 1);
}

/// Appends the `ctx` of an EVENT, up to where its lease belongs.
#[inline]
fn context(out: &mut Vec<u8>, attempt: u32, max_attempts: u32, ack_deadline_ms: u64) {
    out.extend_from_slice(joined!(key::CTX, "{", first(key::ATTEMPT)));
    json(out, &attempt);
    let ctx = Frame(out).field(key::MAX_ATTEMPTS, &max_attempts).field(key::ACK_DEADLINE_MS, &ack_deadline_ms);
    ctx.0.extend_from_slice(key::LEASE.as_bytes());
}

/// Appends the rest of the `ctx`, after its lease, and of the EVENT.
#[inline]
fn redelivered(out: &mut Vec<u8>, redelivered: bool) {
    let (yes, no) = (joined!(key::REDELIVERED, "true}}"), joined!(key::REDELIVERED, "false}}"));
    out.extend_from_slice(if redelivered { yes } else { no });
}

impl ServerFrame<'_> {
    /// Appends the frame's text to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ok(OkFrame {
                corr,
                id,
                seq,
                duplicate,
                topic,
                group,
                expires_in_ms,
                batch,
                version,
                hub,
                max_frame_bytes,
                max_publishes,
                max_subscriptions,
            }) => {
                Frame::begin(out, opening!(Op::Ok))
                    .optional(key::CORR, corr.as_deref())
                    .optional(key::ID, id.as_deref())
                    .optional(key::SEQ, seq.as_ref())
                    .flag(key::DUPLICATE, *duplicate)
                    .optional(key::TOPIC, topic.as_deref())
                    .optional(key::GROUP, group.as_deref())
                    .optional(key::EXPIRES_IN_MS, expires_in_ms.as_ref())
                    .flag(key::BATCH, *batch)
                    .optional(key::VERSION, version.as_ref())
                    .optional(key::HUB, hub.as_deref())
                    .optional(key::MAX_FRAME_BYTES, max_frame_bytes.as_ref())
                    .optional(key::MAX_PUBLISHES, max_publishes.as_ref())
                    .optional(key::MAX_SUBSCRIPTIONS, max_subscriptions.as_ref())
                    .end();
            }
            Self::Err(ErrFrame { code, msg, corr, retry_after_ms, expired }) => {
                Frame::begin(out, opening!(Op::Err))
                    .field(key::CODE, code)
                    .field(key::MSG, msg)
                    .optional(key::CORR, corr.as_deref())
                    .optional(key::RETRY_AFTER_MS, retry_after_ms.as_ref())
                    .flag(key::EXPIRED, *expired)
                    .end();
            }
            Self::Event { topic, group, event, ctx } => {
                let DeliveryContext { attempt, max_attempts, ack_deadline_ms, lease, redelivered: again } = ctx;
                encode_event_head(out, topic, group);
                out.extend_from_slice(event.get().as_bytes());
                context(out, *attempt, *max_attempts, *ack_deadline_ms);
                json(out, lease);
                redelivered(out, *again);
            }
            Self::Live { topic, group } => {
                Frame::begin(out, opening!(Op::Live)).field(key::TOPIC, topic).field(key::GROUP, group).end();
            }
            Self::Gap { topic, group, from, to, reason } => {
                Frame::begin(out, opening!(Op::Gap))
                    .field(key::TOPIC, topic)
                    .field(key::GROUP, group)
                    .field(key::FROM, from)
                    .field(key::TO, to)
                    .field(key::REASON, reason)
                    .end();
            }
            Self::Revoked { topic, group, code, msg } => {
                Frame::begin(out, opening!(Op::Revoked))
                    .field(key::TOPIC, topic)
                    .field(key::GROUP, group)
                    .field(key::CODE, code)
                    .field(key::MSG, msg)
                    .end();
            }
            Self::Pong { corr } => {
                Frame::begin(out, opening!(Op::Pong)).optional(key::CORR, corr.as_deref()).end();
            }
        }
    }
}

/// A frame under construction, at the end of these bytes. Names are those of [`key`].
struct Frame<'a>(&'a mut Vec<u8>);

impl<'a> Frame<'a> {
    /// `opening` is made by the macro of that name.
    #[inline]
    fn begin(out: &'a mut Vec<u8>, opening: &[u8]) -> Self {
        out.extend_from_slice(opening);
        Self(out)
    }

    #[inline]
    fn field<T: Serialize + ?Sized>(self, key: &str, value: &T) -> Self {
        self.0.extend_from_slice(key.as_bytes());
        json(self.0, value);
        self
    }

    #[inline]
    fn optional<T: Serialize + ?Sized>(self, key: &str, value: Option<&T>) -> Self {
        match value {
            Some(value) => self.field(key, value),
            None => self,
        }
    }

    /// What is false is left out.
    #[inline]
    fn flag(self, key: &str, value: bool) -> Self {
        if value { self.field(key, &true) } else { self }
    }

    fn end(self) {
        self.0.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{parse, parse_lease};

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
}
