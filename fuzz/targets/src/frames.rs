//! Frames of both sides: read, written, and read again.

use prom_protocol::{
    ClientFrame, ErrorCode, Event, RawValue, Refusal, ServerFrame, check_payload, client,
    server::{self, Op, scan},
};

/// Longest message of a refusal that a reader may make, in bytes: whatever a stranger sends comes back to them no longer.
const MESSAGE_BYTES: usize = 1024;

/// A message of either side: its frames are read as the hub reads a client's, and as clients read the hub's.
pub fn frames(data: &[u8]) {
    let Ok(message) = std::str::from_utf8(data) else { return };
    let lines: Vec<&str> = prom_protocol::frames(message).collect();
    let expected: Vec<&str> = message.split('\n').filter(|line| !matches!(*line, "" | "\r")).collect();
    assert_eq!(lines, expected, "the frames of a message are its lines");
    for text in lines.into_iter().take(8) {
        of_client(text);
        of_hub(text);
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

fn check_refusal(refusal: &Refusal, text: &str) {
    assert!(!refusal.message().is_empty(), "a refusal says why: {text}");
    let length = refusal.message().len();
    assert!(length <= MESSAGE_BYTES, "a refusal of {length} bytes: {text}");
}

fn of_client(text: &str) {
    let request = match client::parse(text) {
        Ok(request) => request,
        Err(bad) => {
            check_refusal(&bad.error, text);
            let code = bad.error.code();
            assert!(matches!(code, ErrorCode::BadJson | ErrorCode::BadFrame | ErrorCode::BadTopic), "{code}: {text}");
            assert_eq!(
                code == ErrorCode::BadJson,
                !is_json(text),
                "what is not JSON is bad_json, and nothing else: {text}"
            );
            assert!(!bad.unknown_op || bad.op.is_none());
            return;
        }
    };
    assert!(is_json(text), "{text}");
    let written = request.encode();
    let again = client::parse(&written).unwrap_or_else(|bad| panic!("{}: {written}", bad.error));
    assert_eq!(format!("{again:?}"), format!("{request:?}"), "{written}");
    assert_eq!(again.encode(), written);
    if let ClientFrame::Publish(publish) = &request.frame {
        assert!(publish.options.check().is_ok(), "what was read keeps the limits: {text}");
        if let Err(refusal) = check_payload(publish.payload.get()) {
            check_refusal(&refusal, text);
        }
        of_event(&publish.topic, &publish.options, publish.payload);
    }
}

/// What is published comes back out of the event that is made of it.
fn of_event(topic: &str, options: &prom_protocol::EventOptions<'_>, payload: &RawValue) {
    // The hub says who published, as their token does; for the test it is what is the event's key.
    for by in [None, options.key.as_deref()] {
        let mut out = Vec::new();
        prom_protocol::encode_event_position(&mut out, "i\"d", 7, 9);
        prom_protocol::encode_event_body_by(&mut out, topic, options, by, payload.get());
        let text = String::from_utf8(out).expect("an event is UTF-8");
        assert!(!text.contains('\n'), "an event is one line: {text}");
        let event = Event::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!((&*event.id, event.seq, event.ts, &*event.topic), ("i\"d", 7, 9, topic));
        assert_eq!((&event.key, &event.sid, &event.headers), (&options.key, &options.sid, &options.headers));
        assert_eq!((&event.tags, &event.caused_by), (&options.tags, &options.caused_by));
        assert_eq!(event.by.as_deref(), by, "who published is what the hub says, whatever was published: {text}");
        assert_eq!(event.payload.get(), prom_protocol::single_line(payload.get()));
    }
}

fn of_hub(text: &str) {
    let scanned = scan(text);
    let frame = match server::parse(text) {
        Ok(Some(frame)) => frame,
        Ok(None) => return,
        Err(refusal) => {
            assert!(!refusal.message().is_empty());
            if let Some(frame) = scanned {
                read_all(&frame);
            }
            return;
        }
    };
    let mut written = Vec::new();
    frame.encode(&mut written);
    let written = String::from_utf8(written).expect("frames are UTF-8");
    let again = server::parse(&written).unwrap_or_else(|error| panic!("{error}: {written}"));
    let Some(again) = again else { panic!("an unknown op: {written}") };
    // That an event is delivered again is told by its attempt, and a hub writes both.
    assert_eq!(format!("{again:?}"), format!("{frame:?}"), "{written}");
    let mut twice = Vec::new();
    again.encode(&mut twice);
    assert_eq!(written.as_bytes(), twice);
    // The small reader says of what a hub writes what the strict one says.
    let small = scan(&written).unwrap_or_else(|| panic!("not an object: {written}"));
    agree(&small, &frame, &written);
    if let ServerFrame::Event { event, .. } = frame
        && let Ok(parsed) = Event::parse(event.get())
    {
        let json = serde_json::to_string(&parsed).expect("plain values");
        let again = Event::parse(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        assert_eq!(format!("{again:?}"), format!("{parsed:?}"), "{json}");
    }
}

/// Asks a frame for everything: none of it may panic.
fn read_all(frame: &server::Scanned<'_>) {
    let _ = (frame.op(), frame.corr_number(), frame.has_corr(), frame.topic(), frame.group(), frame.seq());
    let _ = (frame.duplicate(), frame.expires_in_ms(), frame.batch(), frame.code(), frame.msg());
    let _ = (frame.retry_after_ms(), frame.expired(), frame.reason(), frame.range(), frame.event(), frame.context());
}

fn agree(small: &server::Scanned<'_>, frame: &ServerFrame<'_>, text: &str) {
    match frame {
        ServerFrame::Ok(ok) => {
            assert_eq!(small.op(), Some(Op::Ok), "{text}");
            assert_eq!((small.seq(), small.duplicate(), small.batch()), (ok.seq, ok.duplicate, ok.batch), "{text}");
            assert_eq!((small.has_corr(), small.expires_in_ms()), (ok.corr.is_some(), ok.expires_in_ms), "{text}");
            let named = |text: &Option<prom_protocol::Text<'_>>| text.as_deref().unwrap_or_default().to_owned();
            assert_eq!((&*small.topic(), &*small.group()), (&*named(&ok.topic), &*named(&ok.group)), "{text}");
        }
        ServerFrame::Err(err) => {
            assert_eq!(small.op(), Some(Op::Err), "{text}");
            assert_eq!((small.code(), small.msg(), small.expired()), (err.code.clone(), err.msg.clone(), err.expired));
            assert_eq!((small.has_corr(), small.retry_after_ms()), (err.corr.is_some(), err.retry_after_ms), "{text}");
        }
        ServerFrame::Event { topic, group, event, ctx } => {
            assert_eq!(small.op(), Some(Op::Event), "{text}");
            assert_eq!((&small.topic(), &small.group()), (topic, group), "{text}");
            assert_eq!(small.context().as_ref(), Some(ctx), "{text}");
            assert_eq!(small.event(), Some(event.get()).filter(|event| event.starts_with('{')), "{text}");
        }
        ServerFrame::Live { topic, group } => {
            assert_eq!((small.op(), &small.topic(), &small.group()), (Some(Op::Live), topic, group), "{text}");
        }
        ServerFrame::Gap { topic, group, from, to, reason } => {
            assert_eq!((small.op(), &small.topic(), &small.group()), (Some(Op::Gap), topic, group), "{text}");
            assert_eq!((small.range(), &small.reason()), (Some((*from, *to)), reason), "{text}");
        }
        ServerFrame::Revoked { topic, group, code, msg } => {
            assert_eq!((small.op(), &small.topic(), &small.group()), (Some(Op::Revoked), topic, group), "{text}");
            assert_eq!((&small.code(), &small.msg()), (code, msg), "{text}");
        }
        ServerFrame::Pong { corr } => {
            assert_eq!((small.op(), small.has_corr()), (Some(Op::Pong), corr.is_some()), "{text}");
        }
        other => panic!("a frame that nobody compares: {other:?}"),
    }
}
