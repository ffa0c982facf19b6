//! The SDKs' reader of a hub's frames: small, and one pass without a copy.

use super::{DeliveryContext, Op};
use crate::{
    Text,
    names::field,
    scan::{self, fields, number},
};

/// Declares the struct and how it is filled, so that each field stands once.
macro_rules! scanned {
    ($($field:ident = $name:path,)+) => {
        /// A frame of the hub: the raw values of the fields this version knows, whatever its op.
        ///
        /// Absent fields and fields of the wrong type are none, empty or false: which fields an op must have is for the
        /// caller to ask. Of a field that is given twice the last counts.
        #[derive(Debug, Default)]
        pub struct Scanned<'a> { $($field: &'a str,)+ }

        /// Reads one text frame. `None` for what is no JSON object; what stands inside its values is not judged.
        ///
        /// ```
        /// use prom_protocol::server::{Op, scan};
        /// let frame = scan(r#"{"op":"OK","corr":"7","id":"e-1","seq":42}"#).unwrap();
        /// assert_eq!((frame.op(), frame.corr_number(), frame.seq()), (Some(Op::Ok), Some(7), Some(42)));
        /// assert!(scan("nonsense").is_none());
        /// ```
        pub fn scan(text: &str) -> Option<Scanned<'_>> {
            let mut frame = Scanned::default();
            let whole = fields(text, |name, value| match name {
                $($name => frame.$field = value,)+
                _ => {}
            });
            whole.then_some(frame)
        }
    };
}

scanned! {
    op = field::OP,
    corr = field::CORR,
    topic = field::TOPIC,
    group = field::GROUP,
    seq = field::SEQ,
    duplicate = field::DUPLICATE,
    expires_in_ms = field::EXPIRES_IN_MS,
    batch = field::BATCH,
    code = field::CODE,
    msg = field::MSG,
    retry_after_ms = field::RETRY_AFTER_MS,
    expired = field::EXPIRED,
    event = field::EVENT,
    ctx = field::CTX,
    from = field::FROM,
    to = field::TO,
    reason = field::REASON,
}

impl<'a> Scanned<'a> {
    /// What the frame is; none for an op this version does not know, which a client ignores.
    pub fn op(&self) -> Option<Op> {
        // No op needs escaping.
        Op::from_wire(scan::between_quotes(self.op)?)
    }

    /// `corr` as a number, for a client that numbers its requests.
    pub fn corr_number(&self) -> Option<u64> {
        number(scan::between_quotes(self.corr)?)
    }

    /// Whether there is a `corr`, number or not.
    pub fn has_corr(&self) -> bool {
        !self.corr.is_empty() && self.corr != "null"
    }

    /// `topic` of the SUBSCRIBE; of a GAP: the concrete topic.
    pub fn topic(&self) -> Text<'a> {
        text(self.topic)
    }

    /// `group` of the SUBSCRIBE, or the generated one.
    pub fn group(&self) -> Text<'a> {
        text(self.group)
    }

    /// OK of a PUBLISH: the event's position in its topic, from 1.
    pub fn seq(&self) -> Option<u64> {
        number(self.seq)
    }

    /// OK of a PUBLISH: the event was committed before.
    pub fn duplicate(&self) -> bool {
        self.duplicate == "true"
    }

    /// OK of an AUTH: milliseconds until the token expires.
    pub fn expires_in_ms(&self) -> Option<u64> {
        number(self.expires_in_ms)
    }

    /// OK of an AUTH: a message of either side may hold several frames.
    pub fn batch(&self) -> bool {
        self.batch == "true"
    }

    /// ERR and REVOKED: one of [`crate::ErrorCode`]'s names, or one of a later version.
    pub fn code(&self) -> Text<'a> {
        text(self.code)
    }

    /// ERR and REVOKED: the reason, for people.
    pub fn msg(&self) -> Text<'a> {
        text(self.msg)
    }

    /// ERR: milliseconds to wait before the next try.
    pub fn retry_after_ms(&self) -> Option<u64> {
        number(self.retry_after_ms)
    }

    /// ERR of an AUTH: the token's time is over, a fresh one helps.
    pub fn expired(&self) -> bool {
        self.expired == "true"
    }

    /// GAP: the reason, for people.
    pub fn reason(&self) -> Text<'a> {
        text(self.reason)
    }

    /// GAP: the first and the last seq that were skipped.
    pub fn range(&self) -> Option<(u64, u64)> {
        Some((number(self.from)?, number(self.to)?))
    }

    /// EVENT: the event's JSON, an object.
    pub fn event(&self) -> Option<&'a str> {
        self.event.starts_with('{').then_some(self.event)
    }

    /// EVENT: its `ctx`; none unless it is complete.
    pub fn context(&self) -> Option<DeliveryContext<'a>> {
        let mut numbers = [None; 3];
        let mut lease = "";
        let mut redelivered = "";
        let whole = fields(self.ctx, |name, value| match name {
            field::ATTEMPT => numbers[0] = number(value),
            field::MAX_ATTEMPTS => numbers[1] = number(value),
            field::ACK_DEADLINE_MS => numbers[2] = number(value),
            field::LEASE => lease = value,
            field::REDELIVERED => redelivered = value,
            _ => {}
        });
        let [attempt, max_attempts, ack_deadline_ms] = numbers;
        whole.then_some(DeliveryContext {
            attempt: u32::try_from(attempt?).ok()?,
            max_attempts: u32::try_from(max_attempts?).ok()?,
            ack_deadline_ms: ack_deadline_ms?,
            lease: scan::string(lease).map(Text),
            redelivered: redelivered == "true",
        })
    }
}

fn text(raw: &str) -> Text<'_> {
    Text(scan::string(raw).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{self, ServerFrame};

    /// The golden files, as the strict reader reads them.
    #[test]
    fn reads_what_the_strict_reader_reads() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/server");
        let mut read = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let Ok(Some(expected)) = server::parse(&text) else { continue };
            compare(&scan(&text).expect(&text), &expected);
            read += 1;
        }
        assert!(read > 10, "only {read} golden files");
    }

    fn compare(frame: &Scanned<'_>, expected: &ServerFrame<'_>) {
        match expected {
            ServerFrame::Ok(ok) => {
                assert_eq!((frame.op(), frame.seq(), frame.duplicate()), (Some(Op::Ok), ok.seq, ok.duplicate));
                assert_eq!((frame.expires_in_ms(), frame.batch()), (ok.expires_in_ms, ok.batch));
                assert_eq!(frame.has_corr(), ok.corr.is_some());
                assert_eq!(frame.corr_number(), ok.corr.as_ref().and_then(|corr| corr.parse().ok()));
                assert_eq!(frame.topic(), ok.topic.clone().unwrap_or("".into()));
                assert_eq!(frame.group(), ok.group.clone().unwrap_or("".into()));
            }
            ServerFrame::Err(err) => {
                assert_eq!((frame.op(), frame.code(), frame.msg()), (Some(Op::Err), err.code.clone(), err.msg.clone()));
                assert_eq!((frame.has_corr(), frame.retry_after_ms()), (err.corr.is_some(), err.retry_after_ms));
                assert_eq!(frame.expired(), err.expired);
            }
            ServerFrame::Event { topic, group, event, ctx } => {
                assert_eq!((frame.op(), frame.topic(), frame.group()), (Some(Op::Event), topic.clone(), group.clone()));
                assert_eq!((frame.event(), frame.context()), (Some(event.get()), Some(ctx.clone())));
            }
            ServerFrame::Live { topic, group } => {
                assert_eq!((frame.op(), frame.topic(), frame.group()), (Some(Op::Live), topic.clone(), group.clone()));
            }
            ServerFrame::Gap { topic, group, from, to, reason } => {
                assert_eq!((frame.op(), frame.topic(), frame.group()), (Some(Op::Gap), topic.clone(), group.clone()));
                assert_eq!((frame.range(), frame.reason()), (Some((*from, *to)), reason.clone()));
            }
            ServerFrame::Revoked { topic, group, code, msg } => {
                assert_eq!(
                    (frame.op(), frame.topic(), frame.group()),
                    (Some(Op::Revoked), topic.clone(), group.clone())
                );
                assert_eq!((frame.code(), frame.msg()), (code.clone(), msg.clone()));
            }
            ServerFrame::Pong { corr } => {
                assert_eq!((frame.op(), frame.has_corr()), (Some(Op::Pong), corr.is_some()));
            }
        }
    }
}
