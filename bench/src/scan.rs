//! The fields that a bench reads of the hub's frames, found in one pass, without a tree and without a copy.
//!
//! The fields may stand in any order and unknown ones are passed over. Strings are taken as they are written: those that
//! are compared here, ids, topics and numbers, are written without escapes.
//!
//! `prom_protocol::server::scan` reads the same frames, but is made to be small in a web page's module: it takes text that
//! is known to be UTF-8, hands an event on as one slice, and looks at one byte at a time. Here bytes are read where they
//! arrived, into the event and its payload, and strings are skipped by `memchr`, because every nanosecond is taken from the
//! hub on the same machine. Both readers are held to the golden files of the protocol.

/// One frame of the hub.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    /// What it is: `OK`, `ERR`, `EVENT`, …
    pub(crate) op: &'a [u8],
    /// `corr` of the request; none: the frame has none.
    pub(crate) corr: Option<&'a [u8]>,
    /// OK: the event's position; 0 when there is none.
    pub(crate) seq: u64,
    /// OK: the event was committed before.
    pub(crate) duplicate: bool,
    /// OK: several frames may go in one message from here on.
    pub(crate) batch: bool,
    /// ERR: the error's code.
    pub(crate) code: &'a [u8],
    /// ERR: the reason, for people.
    pub(crate) msg: &'a [u8],
    /// EVENT: the event.
    pub(crate) event: Option<Event<'a>>,
    /// EVENT: how often it was delivered to the group, from 1.
    pub(crate) attempt: u64,
    /// EVENT: the token of its lease; empty when there is nothing to acknowledge.
    pub(crate) lease: &'a [u8],
}

/// An event, as far as a bench looks at it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    pub(crate) id: &'a [u8],
    pub(crate) seq: u64,
    pub(crate) topic: &'a [u8],
    /// The number its publisher gave it, in the payload.
    pub(crate) number: Option<u64>,
}

/// A frame that is not the JSON of a hub.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

type Scanned<T> = Result<T, Malformed>;

/// The frames of a message: a line each, where there are several.
pub(crate) fn lines(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(message);
    std::iter::from_fn(move || {
        let message = rest.take()?;
        match memchr::memchr(b'\n', message) {
            Some(end) => {
                rest = Some(&message[end + 1..]);
                Some(&message[..end])
            }
            None => Some(message),
        }
    })
}

/// Reads one text frame.
pub(crate) fn answer(text: &[u8]) -> Scanned<Answer<'_>> {
    let mut scan = Scanner { bytes: text, at: 0 };
    let mut answer = Answer::default();
    while let Some(key) = scan.key()? {
        match key {
            b"op" => answer.op = scan.string()?,
            b"corr" => answer.corr = Some(scan.string()?),
            b"seq" => answer.seq = scan.number()?,
            b"duplicate" => answer.duplicate = scan.skip()? == b"true",
            b"batch" => answer.batch = scan.skip()? == b"true",
            b"code" => answer.code = scan.string()?,
            b"msg" => answer.msg = scan.string()?,
            b"event" => answer.event = Some(event(&mut scan)?),
            b"ctx" => {
                while let Some(key) = scan.key()? {
                    match key {
                        b"attempt" => answer.attempt = scan.number()?,
                        b"lease" if scan.peek() == Some(b'"') => answer.lease = scan.string()?,
                        _ => drop(scan.skip()?),
                    }
                }
            }
            _ => drop(scan.skip()?),
        }
    }
    Ok(answer)
}

fn event<'a>(scan: &mut Scanner<'a>) -> Scanned<Event<'a>> {
    let mut event = Event::default();
    while let Some(key) = scan.key()? {
        match key {
            b"id" => event.id = scan.string()?,
            b"seq" => event.seq = scan.number()?,
            b"topic" => event.topic = scan.string()?,
            b"payload" if scan.peek() == Some(b'{') => {
                while let Some(key) = scan.key()? {
                    match key {
                        b"n" if scan.peek() == Some(b'"') => event.number = digits(scan.string()?),
                        _ => drop(scan.skip()?),
                    }
                }
            }
            _ => drop(scan.skip()?),
        }
    }
    Ok(event)
}

/// The number these digits are.
pub(crate) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| match byte {
        b'0'..=b'9' => Some(number * 10 + u64::from(byte - b'0')),
        _ => None,
    })
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// The byte the next value starts with.
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn next(&mut self) -> Scanned<u8> {
        self.spaces();
        let byte = self.peek().ok_or(Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    /// The next key of the object that starts or goes on here; `None` at its end. The value stands behind it.
    fn key(&mut self) -> Scanned<Option<&'a [u8]>> {
        match self.next()? {
            b'}' => return Ok(None),
            b'{' => {
                self.spaces();
                if self.peek() == Some(b'}') {
                    self.at += 1;
                    return Ok(None);
                }
            }
            b',' => self.spaces(),
            _ => return Err(Malformed),
        }
        let key = self.string()?;
        if self.next()? != b':' {
            return Err(Malformed);
        }
        self.spaces();
        Ok(Some(key))
    }

    /// A string, as it is written between its quotes.
    fn string(&mut self) -> Scanned<&'a [u8]> {
        if self.peek() != Some(b'"') {
            return Err(Malformed);
        }
        let start = self.at + 1;
        let mut at = start;
        loop {
            let rest = self.bytes.get(at..).ok_or(Malformed)?;
            let found = memchr::memchr2(b'"', b'\\', rest).ok_or(Malformed)?;
            if rest[found] == b'"' {
                self.at = at + found + 1;
                return Ok(&self.bytes[start..at + found]);
            }
            at += found + 2;
        }
    }

    fn number(&mut self) -> Scanned<u64> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        digits(&self.bytes[start..self.at]).ok_or(Malformed)
    }

    /// Passes over any value and gives its text.
    fn skip(&mut self) -> Scanned<&'a [u8]> {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match self.peek().ok_or(Malformed)? {
                b'"' => drop(self.string()?),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                _ => {
                    let scalar = self.at;
                    while !matches!(
                        self.peek(),
                        None | Some(b',' | b'}' | b']' | b':' | b'"' | b' ' | b'\t' | b'\r' | b'\n')
                    ) {
                        self.at += 1;
                    }
                    if self.at == scalar {
                        return Err(Malformed);
                    }
                }
            }
            if depth == 0 {
                return Ok(&self.bytes[start..self.at]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prom_protocol::{
        ErrorCode, EventOptions, ServerFrame, Text, encode_event,
        server::{self, encode_event_context, encode_event_head, encode_published},
    };

    use super::*;

    #[test]
    fn reads_what_the_hubs_encoder_writes() {
        let mut text = Vec::new();
        encode_published(&mut text, Some("0000000017"), "0190-id", 42, true);
        let expected = Answer { op: b"OK", corr: Some(b"0000000017"), seq: 42, duplicate: true, ..Answer::default() };
        assert_eq!(answer(&text), Ok(expected));

        let mut text = Vec::new();
        ServerFrame::error(ErrorCode::Overloaded, "say \"when\"", Some("3".into())).encode(&mut text);
        let expected =
            Answer { op: b"ERR", corr: Some(b"3"), code: b"overloaded", msg: br#"say \"when\""#, ..Answer::default() };
        assert_eq!(answer(&text), Ok(expected));
    }

    /// The protocol's golden files, as its strict reader reads them.
    #[test]
    fn reads_every_golden_file() {
        let raw = |text: &Text<'_>| serde_json::to_string(text).unwrap().trim_matches('"').to_owned();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/tests/golden/server");
        let mut read = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let got = answer(text.as_bytes()).unwrap_or_else(|_| panic!("{text}"));
            let expected = server::parse(&text).unwrap().unwrap();
            let mut again = Vec::new();
            expected.encode(&mut again);
            assert!(
                again.starts_with(format!("{{\"op\":\"{}\"", str::from_utf8(got.op).unwrap()).as_bytes()),
                "{text}"
            );
            match expected {
                ServerFrame::Ok(ok) => {
                    assert_eq!(got.corr, ok.corr.as_ref().map(raw).as_deref().map(str::as_bytes), "{text}");
                    assert_eq!((got.seq, got.duplicate), (ok.seq.unwrap_or(0), ok.duplicate), "{text}");
                }
                ServerFrame::Err(err) => {
                    assert_eq!(got.corr, err.corr.as_ref().map(raw).as_deref().map(str::as_bytes), "{text}");
                    assert_eq!((got.code, got.msg), (raw(&err.code).as_bytes(), raw(&err.msg).as_bytes()), "{text}");
                }
                ServerFrame::Event { event, ctx, .. } => {
                    let event = prom_protocol::Event::parse(event.get()).unwrap();
                    let number = None;
                    let (id, topic) = (raw(&event.id), raw(&event.topic));
                    let event = Event { id: id.as_bytes(), seq: event.seq, topic: topic.as_bytes(), number };
                    assert_eq!(got.event, Some(event), "{text}");
                    let lease = ctx.lease.as_ref().map(raw).unwrap_or_default();
                    assert_eq!((got.attempt, got.lease), (u64::from(ctx.attempt), lease.as_bytes()), "{text}");
                }
                _ => assert_eq!(got.event, None, "{text}"),
            }
            read += 1;
        }
        assert!(read > 10, "only {read} golden files");
    }

    #[test]
    fn reads_events_whatever_else_they_carry() {
        let options = EventOptions {
            key: Some("}\"\\".into()),
            headers: [("a".into(), "{\"seq\":9".into())].into_iter().collect(),
            tags: vec!["]".into()],
            ..EventOptions::default()
        };
        let payload = r#"{"deep":[{"n":"1"},[],{},-1.5e3,null],"n":"0000000007","pad":"\\\"}"}"#;
        let mut text = Vec::new();
        encode_event_head(&mut text, "bench.*", "g");
        encode_event(&mut text, "id-1", 5, 1, "bench.x", &options, payload);
        encode_event_context(&mut text, 2, 5, 30_000, Some(255));
        let got = answer(&text).unwrap();
        assert_eq!((got.op, got.attempt, got.lease), (&b"EVENT"[..], 2, &b"00000000000000ff"[..]));
        let expected = Event { id: b"id-1", seq: 5, topic: b"bench.x", number: Some(7) };
        assert_eq!(got.event, Some(expected));

        let mut text = Vec::new();
        encode_event_head(&mut text, "a", "g");
        encode_event(&mut text, "id", 1, 1, "a", &EventOptions::default(), "17");
        encode_event_context(&mut text, 1, 1, 0, None);
        let got = answer(&text).unwrap();
        assert_eq!((got.lease, got.event.unwrap().number), (&b""[..], None));
    }

    #[test]
    fn order_and_spaces_do_not_matter() {
        let got = answer(b" { \"seq\" : 3 , \"new\" : [ { } , 1 ] , \"corr\" : \"c\" , \"op\" : \"OK\" } ").unwrap();
        assert_eq!((got.op, got.corr, got.seq, got.duplicate), (&b"OK"[..], Some(&b"c"[..]), 3, false));
        assert_eq!(answer(b"{}"), Ok(Answer::default()));
    }

    #[test]
    fn what_is_cut_off_anywhere_is_malformed_and_never_a_panic() {
        let whole =
            br#"{"op":"EVENT","a":{"b":[1,"\""]},"event":{"id":"i","seq":1,"payload":{"n":"1"}},"ctx":{"attempt":1}}"#;
        assert!(answer(whole).is_ok());
        for end in 0..whole.len() {
            assert_eq!(answer(&whole[..end]), Err(Malformed), "{end}");
        }
        for text in [&b"nonsense"[..], b"[]", b"{\"a\"}", b"{\"seq\":x}", b"{\"op\":1}", b"{\"a\":}", b"{,}"] {
            assert_eq!(answer(text), Err(Malformed), "{text:?}");
        }
    }

    #[test]
    fn digits_are_digits() {
        assert_eq!(
            (digits(b"0000000012"), digits(b""), digits(b"1x"), digits(&[b'9'; 20])),
            (Some(12), None, None, None)
        );
    }
}
