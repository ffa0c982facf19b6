//! The wire, pinned: every form of every frame as a file in `golden/`, and every example of `docs/protocol.md`.
//!
//! ```text
//!   golden/client/     one frame each, as our clients write it     parse, encode: the same bytes
//!   golden/server/     one frame each, as the hub writes it        parse, encode: the same bytes
//!   golden/tolerated/  {"frame", "means"}: other ways to write a client frame, and what the hub takes it for
//!   golden/invalid/    {"frame", "answer"}: frames the hub refuses, and the ERR it answers
//! ```
//!
//! The files are for clients in other languages too. A released file is never changed, only joined by others.

use std::{collections::BTreeMap, fs, path::Path};

use prom_protocol::{
    AckMode, ClientFrame, DeliveryContext, ErrorCode, Event, EventOptions, Filter, Group, Ordering, Pattern, Policy,
    RawValue, Refusal, Request, ServerFrame, StartFrom, SubscribeOptions, Text, Topic, TopicOrPattern, check_payload,
    client::{self, Nack, Publish, Settle, Subscribe, Target},
    limits,
    server::{self, ErrFrame, OkFrame},
};
use proptest::prelude::*;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

/// The files of `golden/tolerated`.
const TOLERATED: &str = "any-field-order auth-batch-false auth-without-token dead-false defaults-spelled-out empty-options escaped-strings longest-names \
    most-segments null-is-absent publish-by unknown-fields unknown-fields-twice unknown-options unused-start-position \
    white-space";

/// The files of `golden/invalid`.
const INVALID: &str = "ack-lease-number ack-no-group ack-no-id ack-no-topic auth-batch-string auth-token-number corr-control-character corr-empty \
    corr-half-surrogate corr-long corr-long-in-bytes corr-number filter-headers-number filter-keys-number \
    filter-list filter-tags-long filter-tags-many frame-array frame-null frame-string group-empty group-generated \
    group-long group-not-ascii group-number group-quote group-space json-bare-word json-byte-order-mark json-empty \
    json-raw-control-character json-single-quotes json-trailing json-truncated modack-extend-high modack-extend-low \
    modack-extend-missing modack-no-group modack-no-id modack-no-topic nack-dead-string nack-delay-high \
    nack-no-group nack-no-id nack-no-topic nack-reason-object op-long op-lower-case op-missing op-null op-number \
    op-of-the-hub op-twice op-unknown opts-caused-by-number opts-headers-many opts-headers-name-empty \
    opts-headers-number opts-headers-repeated opts-headers-value-long opts-id-control-character opts-id-empty opts-id-of-the-hub \
    opts-id-long opts-key-long opts-list opts-repeated opts-sid-empty opts-tags-empty opts-tags-many \
    opts-tags-string opts-ts-exponent opts-ts-fraction opts-ts-large opts-ts-negative opts-ts-string pause-no-group \
    pause-no-topic payload-deep payload-half-surrogate payload-number-beyond-f64 publish-no-payload publish-no-topic \
    publish-pattern publish-payload-twice publish-topic-number resume-no-group resume-no-topic \
    subscribe-ack-timeout-ms-high subscribe-ack-timeout-ms-low subscribe-ack-unknown subscribe-after-id-empty \
    subscribe-after-seq-negative subscribe-bad-pattern subscribe-batch-size-high subscribe-batch-size-low \
    subscribe-from-after-id-missing subscribe-from-after-seq-missing subscribe-from-ts-missing \
    subscribe-from-unknown subscribe-max-attempts-high subscribe-max-attempts-low subscribe-max-in-flight-high \
    subscribe-max-in-flight-low subscribe-no-topic subscribe-opts-string subscribe-ordered-boolean \
    subscribe-ordered-unknown topic-bad-character topic-bare-dollar topic-empty topic-empty-segment topic-long \
    topic-many-segments topic-misplaced-dollar topic-not-ascii topic-third-dlq-level-long unsubscribe-no-group \
    unsubscribe-no-topic";

// ---- the meaning of each frame, spelled out ----

const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.e30.c2ln";
const LEASE: &str = "00000000000000a1";

fn raw(json: &str) -> &RawValue {
    serde_json::from_str(json).expect("valid JSON")
}

fn auth(token: &str, batch: bool) -> ClientFrame<'_> {
    ClientFrame::Auth { token: token.into(), batch }
}

fn publish<'a>(topic: &'a str, payload: &'a str, options: EventOptions<'a>) -> ClientFrame<'a> {
    ClientFrame::Publish(Publish { topic: topic.into(), payload: raw(payload), options })
}

fn subscribe(topic: &str, group: Option<&str>, options: SubscribeOptions) -> ClientFrame<'static> {
    ClientFrame::Subscribe(Box::new(Subscribe {
        topic: TopicOrPattern::new(topic).expect("a valid name"),
        group: group.map(|name| Group::new(name).expect("a valid group")),
        options,
    }))
}

fn starting(from: StartFrom) -> SubscribeOptions {
    SubscribeOptions { from, ..SubscribeOptions::default() }
}

fn target<'a>(topic: &'a str, group: &'a str) -> Target<'a> {
    Target { topic: topic.into(), group: group.into() }
}

fn settle(lease: Option<&str>) -> Settle<'_> {
    Settle { target: target("orders.*", "billing"), id: "order-7-paid".into(), lease: lease.map(Text::from) }
}

fn client_frames() -> Vec<(&'static str, Option<&'static str>, ClientFrame<'static>)> {
    let none = EventOptions::default;
    let every_event_option = EventOptions {
        id: Some("order-7-paid".into()),
        ts: Some(1_767_225_600_000),
        key: Some("order-7".into()),
        sid: Some("checkout-3".into()),
        headers: [("trace".into(), "4bf92f35".into()), ("empty".into(), "".into())].into_iter().collect(),
        tags: vec!["eu".into(), "card".into()],
        caused_by: vec!["order-7-placed".into(), "card-3-charged".into()],
    };
    let escapes = EventOptions {
        id: Some("quote\" back\\slash".into()),
        key: Some("schlüssel 😀".into()),
        headers: [("h".into(), "line\nbreak\ttab\u{1}".into())].into_iter().collect(),
        ..none()
    };
    let every_option = SubscribeOptions {
        from: StartFrom::Earliest,
        max_in_flight: 10,
        ack_timeout_ms: 60_000,
        max_attempts: 8,
        batch_size: Some(50),
        ordered: Ordering::Key,
        ack: AckMode::None,
        filter: Filter {
            keys: vec!["order-7".into()],
            tags: vec!["eu".into(), "us".into()],
            headers: BTreeMap::from([("tenant".into(), "acme".into()), ("region".into(), "north".into())]),
        },
    };
    let nack = |lease, reason: Option<&'static str>, delay_ms, dead| {
        ClientFrame::Nack(Nack { settle: settle(lease), reason: reason.map(Text::from), delay_ms, dead })
    };
    let billing = || target("orders.*", "billing");
    let plain = SubscribeOptions::default;
    let verbatim = r#"[1.50,-0.0,1E3,18446744073709551615,"\u00fc/\/\ud83d\ude00 ü😀",{"":{}}, true]"#;
    vec![
        ("auth-minimal", None, auth(TOKEN, false)),
        ("auth-full", Some("c-1"), auth(TOKEN, false)),
        ("auth-batch", Some("c-1"), auth(TOKEN, true)),
        ("auth-empty-token", None, auth("", false)),
        ("publish-minimal", None, publish("orders.paid", r#"{"order":7}"#, none())),
        ("publish-full", Some("c-2"), publish("orders.paid", r#"{"order":7,"total":19.5}"#, every_event_option)),
        ("publish-null", None, publish("orders.paid", "null", none())),
        ("publish-verbatim-payload", None, publish("orders.paid", verbatim, none())),
        ("publish-dead-letter", None, publish("dlq.dlq.orders.paid", "0", none())),
        ("publish-escapes", None, publish("a", r#""x""#, escapes)),
        ("subscribe-minimal", None, subscribe("process.state", None, plain())),
        ("subscribe-group", None, subscribe("orders.paid", Some("billing"), plain())),
        ("subscribe-full", Some("c-3"), subscribe("orders.*", Some("billing"), every_option)),
        (
            "subscribe-from-ts",
            None,
            subscribe("orders.**", Some("billing"), starting(StartFrom::Ts(1_767_225_600_000))),
        ),
        (
            "subscribe-from-after-id",
            None,
            subscribe("orders.paid", Some("billing"), starting(StartFrom::AfterId("order-7-paid".into()))),
        ),
        ("subscribe-from-after-seq", None, subscribe("orders.paid", Some("billing"), starting(StartFrom::AfterSeq(0)))),
        ("subscribe-from-snapshot", None, subscribe("process.state", None, starting(StartFrom::Snapshot))),
        ("subscribe-reserved", None, subscribe("$audit.**", None, plain())),
        ("unsubscribe-minimal", None, ClientFrame::Unsubscribe(target("process.state", "$live-1"))),
        ("unsubscribe-full", Some("c-4"), ClientFrame::Unsubscribe(billing())),
        ("ack-minimal", None, ClientFrame::Ack(settle(None))),
        ("ack-full", Some("c-5"), ClientFrame::Ack(settle(Some(LEASE)))),
        ("nack-minimal", None, nack(None, None, None, false)),
        ("nack-full", Some("c-6"), nack(Some(LEASE), Some("no such order"), Some(43_200_000), true)),
        ("nack-now", None, nack(None, None, Some(0), false)),
        ("modack-minimal", None, ClientFrame::ModAck { settle: settle(None), extend_ms: 1_000 }),
        ("modack-full", Some("c-7"), ClientFrame::ModAck { settle: settle(Some(LEASE)), extend_ms: 43_200_000 }),
        ("pause-minimal", None, ClientFrame::Pause(billing())),
        ("pause-full", Some("c-8"), ClientFrame::Pause(billing())),
        ("resume-minimal", None, ClientFrame::Resume(billing())),
        ("resume-full", Some("c-9"), ClientFrame::Resume(billing())),
        ("ping-minimal", None, ClientFrame::Ping),
        ("ping-full", Some("c-10"), ClientFrame::Ping),
    ]
}

const EVENT: &str = r#"{"id":"order-7-paid","seq":42,"ts":1767225600000,"topic":"orders.paid","payload":{"order":7}}"#;
const EVENT_FULL: &str = r#"{"id":"order-7-paid","seq":42,"ts":1767225600000,"topic":"orders.paid","key":"order-7","sid":"checkout-3","headers":{"trace":"4bf92f35"},"tags":["eu","card"],"caused_by":["order-7-placed","card-3-charged"],"payload":{"order":7,"total":19.50}}"#;
const EVENT_BY: &str = r#"{"id":"order-7-paid","seq":42,"ts":1767225600000,"topic":"orders.paid","caused_by":["order-7-placed"],"by":"auth0|checkout","payload":{"order":7}}"#;
const DEAD_LETTER: &str = r#"{"id":"$dead.billing/orders.paid/42","seq":3,"ts":1767225660000,"topic":"dlq.orders.paid","key":"order-7","caused_by":["order-7-paid"],"payload":{"topic":"orders.paid","group":"billing","original":{"id":"order-7-paid","seq":42,"ts":1767225600000,"topic":"orders.paid","payload":{"order":7}},"err":"no such order","ts":1767225660000,"attempts":5}}"#;

fn event(
    (topic, group): (&'static str, &'static str),
    event: &'static str,
    (attempt, max_attempts, ack_deadline_ms): (u32, u32, u64),
    lease: Option<&'static str>,
) -> ServerFrame<'static> {
    ServerFrame::Event {
        topic: topic.into(),
        group: group.into(),
        event: raw(event),
        ctx: DeliveryContext {
            attempt,
            max_attempts,
            ack_deadline_ms,
            lease: lease.map(Text::from),
            redelivered: attempt > 1,
        },
    }
}

fn server_frames() -> Vec<(&'static str, ServerFrame<'static>)> {
    let ok = OkFrame::default;
    let published = || OkFrame { id: Some("order-7-paid".into()), seq: Some(42), ..OkFrame::default() };
    let watched = || ("process.state", "$live-1");
    let member = || ("orders.*", "billing");
    let limited = ErrFrame {
        code: "rate_limited".into(),
        msg: "over 100 events a second".into(),
        corr: Some("c-2".into()),
        retry_after_ms: Some(250),
        expired: false,
    };
    let expired = ErrFrame {
        code: "jwt_invalid".into(),
        msg: "the token has expired: its exp was 60 s ago".into(),
        corr: Some("c-1".into()),
        retry_after_ms: None,
        expired: true,
    };
    let later = ErrFrame {
        code: "a_code_of_a_later_version".into(),
        msg: "new".into(),
        corr: None,
        retry_after_ms: None,
        expired: false,
    };
    let authenticated = OkFrame {
        corr: Some("c-1".into()),
        expires_in_ms: Some(3_600_000),
        batch: true,
        version: Some(prom_protocol::VERSION),
        hub: Some("0.1.0".into()),
        max_frame_bytes: Some(limits::FRAME_BYTES as u64),
        max_publishes: Some(16_384),
        max_subscriptions: Some(128),
        ..ok()
    };
    let every_field = OkFrame {
        corr: Some("c-1".into()),
        seq: Some(limits::TS_MAX),
        duplicate: true,
        topic: Some("orders.*".into()),
        group: Some("billing".into()),
        expires_in_ms: Some(1),
        // Its file is older than the other fields.
        ..published()
    };
    vec![
        ("ok-minimal", ServerFrame::Ok(ok())),
        ("ok-corr", ServerFrame::ok(Some("c-1".into()))),
        (
            "ok-authenticated",
            ServerFrame::Ok(OkFrame { corr: Some("c-1".into()), expires_in_ms: Some(3_600_000), ..ok() }),
        ),
        ("ok-batch", ServerFrame::Ok(OkFrame { corr: Some("c-1".into()), batch: true, ..ok() })),
        (
            "ok-authenticated-batch",
            ServerFrame::Ok(OkFrame { corr: Some("c-1".into()), expires_in_ms: Some(3_600_000), batch: true, ..ok() }),
        ),
        ("ok-authenticated-limits", ServerFrame::Ok(authenticated)),
        ("ok-published", ServerFrame::Ok(published())),
        ("ok-duplicate", ServerFrame::Ok(OkFrame { corr: Some("c-2".into()), duplicate: true, ..published() })),
        (
            "ok-subscribed",
            ServerFrame::Ok(OkFrame {
                corr: Some("c-3".into()),
                topic: Some(watched().0.into()),
                group: Some(watched().1.into()),
                ..ok()
            }),
        ),
        ("ok-full", ServerFrame::Ok(every_field)),
        ("err-minimal", ServerFrame::error(ErrorCode::Unauthorized, "Call AUTH first.", None)),
        ("err-full", ServerFrame::Err(limited)),
        ("err-expired", ServerFrame::Err(expired)),
        ("err-later-version", ServerFrame::Err(later)),
        ("event-minimal", event(member(), EVENT, (1, 5, 30_000), Some(LEASE))),
        ("event-full", event(member(), EVENT_FULL, (2, 5, 29_990), Some("ffffffffffffffff"))),
        ("event-by", event(member(), EVENT_BY, (1, 5, 30_000), Some(LEASE))),
        ("event-unacknowledged", event(("orders.paid", "$live-1"), EVENT, (1, 1, 0), None)),
        ("event-dead-letter", event(("dlq.**", "undertaker"), DEAD_LETTER, (1, 5, 30_000), Some("00000000000000a2"))),
        ("live", ServerFrame::Live { topic: watched().0.into(), group: watched().1.into() }),
        (
            "gap",
            ServerFrame::Gap {
                topic: "orders.paid".into(),
                group: "billing".into(),
                from: 17,
                to: 23,
                reason: "trimmed by retention".into(),
            },
        ),
        (
            "revoked",
            ServerFrame::Revoked {
                topic: "orders.*".into(),
                group: "billing".into(),
                code: ErrorCode::Forbidden.as_str().into(),
                msg: "the new token does not allow it".into(),
            },
        ),
        ("pong-minimal", ServerFrame::Pong { corr: None }),
        ("pong-full", ServerFrame::Pong { corr: Some("c-10".into()) }),
    ]
}

// ---- files ----

/// The files of one folder by name, without extension and final line break.
fn files(folder: &str) -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(&path).expect("a golden folder") {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a file name");
        let stem = name.strip_suffix(".json").unwrap_or_else(|| panic!("{folder}/{name} is no .json file"));
        let text = fs::read_to_string(&path).expect("UTF-8");
        let text = text.strip_suffix('\n').unwrap_or_else(|| panic!("{folder}/{name} does not end with a line break"));
        files.insert(stem.to_owned(), text.to_owned());
    }
    files
}

/// The files of `folder`, which must be exactly those of `expected`.
fn exactly<'a>(folder: &str, expected: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, String> {
    let files = files(folder);
    let mut expected: Vec<_> = expected.into_iter().collect();
    expected.sort_unstable();
    let found: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(found, expected, "the files of golden/{folder} (left) are not those this test knows (right)");
    files
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Tolerated {
    frame: String,
    means: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Invalid {
    frame: String,
    answer: Value,
}

fn encoded(frame: &ServerFrame<'_>) -> String {
    let mut out = Vec::new();
    frame.encode(&mut out);
    String::from_utf8(out).expect("frames are UTF-8")
}

/// The ERR a hub answers to `text`, if it refuses it for what it says alone.
fn refusal(text: &str) -> Option<ServerFrame<'static>> {
    let refuse = |error: &Refusal, corr: Option<Text<'_>>| {
        Some(ServerFrame::error(error.code(), error.message(), corr.map(Text::into_owned)))
    };
    match client::parse(text) {
        Err(bad) => refuse(&bad.error, bad.corr),
        Ok(Request { corr, frame: ClientFrame::Publish(publish) }) => match check_payload(publish.payload.get()) {
            Err(error) => refuse(&error, corr),
            Ok(()) => None,
        },
        Ok(_) => None,
    }
}

#[test]
fn every_client_frame_is_written_and_read_as_its_file() {
    let frames = client_frames();
    let files = exactly("client", frames.iter().map(|(name, ..)| *name));
    for (name, corr, frame) in frames {
        let text = &files[name];
        let op = frame.op();
        let written = Request { corr: corr.map(Text::from), frame }.encode();
        assert_eq!(&written, text, "{name}: written");
        let read = client::parse(text).unwrap_or_else(|bad| panic!("{name}: {}", bad.error));
        assert_eq!((read.corr.as_deref(), read.frame.op()), (corr, op), "{name}");
        assert_eq!(&read.encode(), text, "{name}: read and written again");
        assert!(refusal(text).is_none(), "{name}");
    }
}

#[test]
fn every_server_frame_is_written_and_read_as_its_file() {
    let frames = server_frames();
    let files = exactly("server", frames.iter().map(|(name, _)| *name));
    for (name, frame) in frames {
        let text = &files[name];
        assert_eq!(&encoded(&frame), text, "{name}: written");
        let Some(read) = server::parse(text).unwrap_or_else(|error| panic!("{name}: {error}")) else {
            panic!("{name}: an unknown op");
        };
        assert_eq!(&encoded(&read), text, "{name}: read and written again");
        if let ServerFrame::Event { event, .. } = read {
            let parsed = Event::parse(event.get()).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(serde_json::to_string(&parsed).unwrap(), event.get(), "{name}: the event");
        }
    }
}

#[test]
fn other_ways_to_write_a_frame_mean_the_same() {
    for (name, text) in exactly("tolerated", TOLERATED.split_whitespace()) {
        let Tolerated { frame, means } = serde_json::from_str(&text).unwrap();
        let read = client::parse(&frame).unwrap_or_else(|bad| panic!("{name}: {}", bad.error));
        assert_eq!(read.encode(), means, "{name}");
    }
}

#[test]
fn every_invalid_frame_is_refused_with_its_answer() {
    for (name, text) in exactly("invalid", INVALID.split_whitespace()) {
        let Invalid { frame, answer } = serde_json::from_str(&text).unwrap();
        let refused = refusal(&frame).unwrap_or_else(|| panic!("{name} is accepted"));
        let refused: Value = serde_json::from_str(&encoded(&refused)).unwrap();
        assert_eq!(refused, answer, "{name}");
    }
}

// ---- the document ----

/// The fenced blocks of the document: info string and text.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let mut blocks = Vec::new();
    let mut rest = DOCUMENT;
    while let Some((_, after)) = rest.split_once("\n```") {
        let (info, body) = after.split_once('\n').expect("a line after the fence");
        let (text, after) = body.split_once("\n```\n").expect("a closed fence");
        blocks.push((info, text));
        rest = after;
    }
    blocks
}

/// Checks a frame a client may send: nothing in it is unknown or at its default.
fn check_client_example(text: &str) -> &'static str {
    let request = client::parse(text).unwrap_or_else(|bad| panic!("{}\n{text}", bad.error));
    assert_eq!(json(&request.encode()), json(text), "read and written again, the example differs:\n{text}");
    request.frame.op().as_str()
}

/// Checks a frame a hub may send, and gives its op.
fn check_server_example(text: &str) -> String {
    let frame = server::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let Some(frame) = frame else { panic!("unknown op\n{text}") };
    assert_eq!(json(&encoded(&frame)), json(text), "read and written again, the example differs:\n{text}");
    match &frame {
        ServerFrame::Event { event, ctx, .. } => {
            check_event_example(event.get());
            assert!(
                ctx.lease.as_deref().is_none_or(|token| server::parse_lease(token).is_some()),
                "the lease in\n{text}"
            );
            assert_eq!(
                (ctx.ack_deadline_ms == 0, ctx.redelivered),
                (ctx.lease.is_none(), ctx.attempt > 1),
                "the ctx in\n{text}"
            );
        }
        ServerFrame::Err(ErrFrame { code, .. }) | ServerFrame::Revoked { code, .. } => {
            assert!(ErrorCode::from_wire(code).is_some(), "the code in\n{text}");
        }
        _ => {}
    }
    json(text)["op"].as_str().expect("an op").to_owned()
}

fn check_event_example(text: &str) {
    let event = Event::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(serde_json::to_value(&event).expect("an event"), json(text), "{text}");
    Topic::new(&event.topic).unwrap_or_else(|error| panic!("{error}\n{text}"));
    check_payload(event.payload.get()).unwrap_or_else(|error| panic!("{error}\n{text}"));
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn every_example_in_the_document_is_a_frame() {
    let (mut client_ops, mut server_ops) = (Vec::new(), Vec::new());
    for (info, text) in blocks() {
        match info {
            "json client" => client_ops.push(check_client_example(text)),
            "json hub" => server_ops.push(check_server_example(text)),
            "json event" => check_event_example(text),
            "json policy" => {
                let policy = Policy::from_claim(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
                assert_eq!(serde_json::to_value(&policy).unwrap(), json(text));
            }
            "text transcript" => {
                for line in text.lines() {
                    match line.split_at_checked(3) {
                        Some(("C: ", frame)) => drop(check_client_example(frame)),
                        Some(("H: ", frame)) => drop(check_server_example(frame)),
                        _ => panic!("neither C: nor H: in\n{line}"),
                    }
                }
            }
            "text" => assert!(!text.contains("\"op\""), "an example that is not marked:\n{text}"),
            _ => panic!("a block of unknown kind {info:?}:\n{text}"),
        }
    }
    for (_, _, frame) in client_frames() {
        assert!(client_ops.contains(&frame.op().as_str()), "the document has no example of {}", frame.op().as_str());
    }
    for (_, frame) in server_frames() {
        let op = json(&encoded(&frame))["op"].as_str().expect("an op").to_owned();
        assert!(server_ops.contains(&op), "the document has no example of {op}");
    }
}

/// The rows of the table that has `header`, each as its cells.
fn table(header: &str) -> Vec<Vec<&'static str>> {
    let (_, rest) = DOCUMENT.split_once(header).unwrap_or_else(|| panic!("the document has no table {header}"));
    rest.lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect()
}

/// What stands between back quotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_documents_pattern_table_is_true() {
    let rows = table("| pattern | matches | does not match |");
    assert!(rows.len() >= 4);
    for row in rows {
        let pattern = Pattern::new(quoted(row[0])[0]).unwrap();
        for (cell, expected) in [(row[1], true), (row[2], false)] {
            assert!(!quoted(cell).is_empty());
            for topic in quoted(cell) {
                assert_eq!(pattern.matches(&Topic::new(topic).unwrap()), expected, "{pattern} on {topic}");
            }
        }
    }
}

#[test]
fn the_documents_policy_table_is_true() {
    let claim = blocks().into_iter().find(|(info, _)| *info == "json policy").unwrap().1;
    let policy = Policy::from_claim(claim).unwrap();
    let rows = table("| asked for | answer | because of |");
    assert!(rows.len() >= 7);
    for row in rows {
        let names = quoted(row[0]);
        let allowed = match row[0].split_once(' ').unwrap().0 {
            "PUBLISH" => policy.may_publish(&Topic::new(names[0]).unwrap()),
            "SUBSCRIBE" => policy.may_subscribe(&TopicOrPattern::new(names[0]).unwrap(), names.get(1).copied()),
            other => panic!("{other}"),
        };
        assert_eq!(if allowed { "yes" } else { "no" }, row[1], "{}", row[0]);
    }
}

#[test]
fn the_documents_limits_are_those_of_the_code() {
    let options = SubscribeOptions::default();
    let range = |low: u64, high: u64| format!("{low} to {high}");
    let lease = range(limits::LEASE_MS_MIN, limits::LEASE_MS_MAX);
    let cases = [
        ("| `maxInFlight` | ", format!("| {} | {} |", options.max_in_flight, range(1, limits::MAX_IN_FLIGHT.into()))),
        ("| `ackTimeoutMs` | ", format!("| {} | {lease} (12 h) |", options.ack_timeout_ms)),
        ("| `maxAttempts` | ", format!("| {} | {} |", options.max_attempts, range(1, limits::ATTEMPTS_MAX.into()))),
        ("| `batchSize` | ", format!("| {} |", range(1, limits::MAX_IN_FLIGHT.into()))),
        ("| `extend_ms` | ", format!("| {lease} (12 h) |")),
        ("| `delay_ms` | ", format!("| {} (12 h) |", range(0, limits::LEASE_MS_MAX))),
        ("| `reason` | string", format!("longer than {} bytes is cut", limits::REASON_BYTES)),
        ("| `opts.ts` | ", format!("| {} |", range(0, limits::TS_MAX))),
        ("| `ts` | integer, ms since the epoch | | ", format!("| {} |", range(0, limits::TS_MAX))),
        ("| `afterSeq` | ", format!("| {} |", range(0, limits::TS_MAX))),
        ("| `afterId` | ", format!("| 1 to {} bytes |", limits::KEY_BYTES)),
        ("| `opts.id` | ", format!("| 1 to {} bytes,", limits::ID_BYTES)),
        ("| `opts.sid` | ", format!("| 1 to {} bytes,", limits::ID_BYTES)),
        ("| `opts.caused_by` | ", format!("| {}; each 1 to {} bytes,", limits::CAUSES, limits::KEY_BYTES)),
        ("| `opts.key` | ", format!("| 1 to {} bytes,", limits::KEY_BYTES)),
        ("| `by` | string", format!("at most {} bytes", limits::SUBJECT_BYTES)),
        ("| `sub` | string", format!("1 to {} bytes, no control characters", limits::SUBJECT_BYTES)),
        ("| `opts.tags` | ", format!("| {}; each 1 to {} bytes,", limits::TAGS, limits::TAG_BYTES)),
        ("| `opts.headers` | ", format!("| {}; names 1 to {} bytes,", limits::HEADERS, limits::HEADER_NAME_BYTES)),
        ("| `opts.headers` | ", format!("values 0 to {} bytes", limits::HEADER_VALUE_BYTES)),
        ("| `filter.keys` | ", format!("| {}; each 1 to {} bytes |", limits::FILTER_ENTRIES, limits::KEY_BYTES)),
        ("| `filter.tags` | ", format!("| {}; each 1 to {} bytes |", limits::FILTER_ENTRIES, limits::TAG_BYTES)),
        ("| `filter.headers` | ", format!("| {};", limits::HEADERS)),
        ("| topic | ", format!("1 to {} segments", limits::TOPIC_SEGMENTS)),
        ("| topic | ", format!("at most {} bytes", limits::TOPIC_BYTES)),
        ("| group | 1 to ", format!("1 to {} visible ASCII", limits::GROUP_BYTES)),
        ("| Frame size, client to hub", "1 MiB (1,048,576 bytes)".to_owned()),
        ("| Frame size, client to hub", "16 KiB (16,384 bytes)".to_owned()),
        ("Any client frame may carry `corr`", format!("1 to {} bytes", limits::CORR_BYTES)),
        ("- arrays and objects nest", format!("at most {} deep", limits::PAYLOAD_DEPTH)),
    ];
    for (start, limit) in cases {
        let mut lines = DOCUMENT.lines().filter(|line| line.starts_with(start));
        assert!(lines.any(|line| line.contains(&limit)), "no line {start}… says {limit}");
    }
    assert_eq!((limits::FRAME_BYTES, limits::FRAME_BYTES_BEFORE_AUTH), (1_048_576, 16_384));
}

// ---- anything else ----

/// What must hold for any text at all, from either side.
fn check_any(text: &str) -> Result<(), TestCaseError> {
    let is_json = serde_json::from_str::<&RawValue>(text).is_ok();
    match client::parse(text) {
        Ok(request) => {
            let once = request.encode();
            let again = client::parse(&once).map_err(|bad| TestCaseError::fail(format!("{}: {once}", bad.error)))?;
            prop_assert_eq!(again.encode(), once);
        }
        Err(bad) => {
            let (code, message) = (bad.error.code(), bad.error.message());
            prop_assert_eq!(code == ErrorCode::BadJson, !is_json, "{}", message);
            prop_assert!(matches!(code, ErrorCode::BadJson | ErrorCode::BadFrame | ErrorCode::BadTopic), "{}", code);
            prop_assert!(!message.trim().is_empty());
            // A refusal must not become a way to be sent one's own megabyte back.
            prop_assert!(message.len() <= 1_024, "{} bytes: {}", message.len(), message);
            let answer = encoded(&ServerFrame::error(code, message, bad.corr));
            prop_assert!(matches!(server::parse(&answer), Ok(Some(ServerFrame::Err(_)))), "{}", answer);
        }
    }
    if let Some(refused) = refusal(text) {
        prop_assert!(matches!(refused, ServerFrame::Err(error) if !error.msg.is_empty()));
    }
    match server::parse(text) {
        Ok(Some(frame)) => {
            let once = encoded(&frame);
            let again = server::parse(&once).map_err(|error| TestCaseError::fail(format!("{error}: {once}")))?;
            prop_assert_eq!(again.as_ref().map(encoded), Some(once));
        }
        Ok(None) => prop_assert!(is_json),
        Err(error) => {
            prop_assert!(matches!(error.code(), ErrorCode::BadJson | ErrorCode::BadFrame));
            prop_assert!(!error.message().trim().is_empty());
        }
    }
    Ok(())
}

/// Every frame of the golden files, good and bad, short enough to be worth cutting up.
fn corpus() -> &'static [String] {
    static CORPUS: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| {
        let tolerated = files("tolerated")
            .into_values()
            .map(|text| serde_json::from_str::<Tolerated>(&text).expect("a golden file").frame);
        let invalid = files("invalid")
            .into_values()
            .map(|text| serde_json::from_str::<Invalid>(&text).expect("a golden file").frame);
        let frames = files("client").into_values().chain(files("server").into_values()).chain(tolerated).chain(invalid);
        frames.filter(|frame| frame.len() <= 1_000).collect()
    });
    &CORPUS
}

/// Pieces that JSON and this protocol are made of, and some they choke on.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u",
    "\\ud800",
    "\\u0000",
    "null",
    "true",
    "-",
    "-0",
    "1e999",
    "1.0",
    "99999999999999999999",
    "\"\"",
    "{}",
    "[]",
    "\"op\":",
    "\"corr\":",
    "\"topic\":",
    "\"payload\":",
    "\"opts\":",
    "\"ctx\":",
    "\"event\":",
    "\"op\":\"PING\",",
    "*",
    "**",
    ".",
    "$",
    "dlq.",
    "ü",
    "\u{feff}",
    "\u{0}",
    "\n",
    " ",
];

#[derive(Debug, Clone)]
enum Edit {
    /// Removes characters.
    Cut,
    /// Repeats them.
    Repeat,
    /// Puts a piece in their place.
    Piece(&'static str),
    /// Puts some character in their place.
    Character(char),
    /// Puts the same stretch of another frame in their place.
    Splice(&'static str),
}

fn any_edit() -> impl Strategy<Value = (prop::sample::Index, usize, Edit)> {
    let edit = prop_oneof![
        Just(Edit::Cut),
        Just(Edit::Repeat),
        prop::sample::select(PIECES).prop_map(Edit::Piece),
        any::<char>().prop_map(Edit::Character),
        (0..corpus().len()).prop_map(|at| Edit::Splice(&corpus()[at])),
    ];
    (any::<prop::sample::Index>(), 0..24_usize, edit)
}

fn mutated() -> impl Strategy<Value = String> {
    let edits = prop::collection::vec(any_edit(), 1..=4);
    (prop::sample::select(corpus()), edits).prop_map(|(frame, edits): (String, _)| {
        let mut text: Vec<char> = frame.chars().collect();
        for (at, length, edit) in edits {
            let start = at.index(text.len() + 1);
            let end = (start + length).min(text.len());
            let new: Vec<char> = match edit {
                Edit::Cut => Vec::new(),
                Edit::Repeat => [&text[start..end], &text[start..end]].concat(),
                Edit::Piece(piece) => piece.chars().collect(),
                Edit::Character(character) => vec![character],
                Edit::Splice(other) => other.chars().skip(start).take(length).collect(),
            };
            text.splice(start..end, new);
        }
        text.into_iter().collect()
    })
}

/// A frame that is sure to be JSON: a golden frame with one of its values, at any depth, replaced.
fn reshaped() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::collection::vec(any::<String>(), 0..3).prop_map(Value::from),
        prop::sample::select(PIECES).prop_map(Value::from),
        prop::collection::btree_map(any::<String>(), any::<String>(), 0..3).prop_map(|map| map.into_iter().collect()),
    ];
    (prop::sample::select(corpus()), any::<prop::sample::Index>(), value).prop_filter_map(
        "not JSON",
        |(frame, at, value): (String, _, _)| {
            let mut tree: Value = serde_json::from_str(&frame).ok()?;
            let mut count = 0;
            visit(&mut tree, &mut |_| count += 1);
            let mut left = at.index(count);
            visit(&mut tree, &mut |spot| {
                if left == 0 {
                    *spot = value.clone();
                }
                left = left.wrapping_sub(1);
            });
            Some(tree.to_string())
        },
    )
}

fn visit(value: &mut Value, seen: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| visit(value, seen)),
        Value::Object(map) => map.values_mut().for_each(|value| visit(value, seen)),
        _ => {}
    }
    seen(value);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        check_any(&text)?;
    }

    #[test]
    fn any_pieces_are_read_or_refused(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..24)) {
        check_any(&pieces.concat())?;
    }

    #[test]
    fn a_golden_frame_of_other_values_is_read_or_refused(text in reshaped()) {
        check_any(&text)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_golden_frame_is_read_or_refused(text in mutated()) {
        check_any(&text)?;
    }
}
