//! `schema/client.json` and `schema/server.json` say what the parsers and the golden files say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use jsonschema::Validator;
use prom_protocol::{AckMode, CloseCode, ErrorCode, Ordering, SubscribeOptions, client, limits, server};
use serde_json::{Value, json};

/// Files of `golden/tolerated` that the schema refuses: the hub takes them, and a client should not send them.
const NOT_TO_SEND: [(&str, &str); 2] = [
    ("auth-without-token", "AUTH without a token is understood, and answered `no_token`"),
    ("null-is-absent", "an absent field is left out, which every client can do"),
];

/// Files of `golden/invalid` that no schema can refuse, because it sees values, not text.
const BEYOND_A_SCHEMA: [(&str, &str); 12] = [
    ("corr-half-surrogate", "not a string to most parsers, so that there is no value to judge"),
    ("corr-long-in-bytes", "maxLength counts characters, the limit is in bytes"),
    ("op-twice", "a parser keeps one of two fields of a name"),
    ("opts-headers-repeated", "a parser keeps one of two fields of a name"),
    ("opts-repeated", "a parser keeps one of two fields of a name"),
    ("opts-ts-exponent", "1e3 is an integer to JSON Schema"),
    ("opts-ts-fraction", "1.0 is an integer to JSON Schema"),
    ("payload-deep", "there is no keyword for depth"),
    ("payload-half-surrogate", "not a string to most parsers, so that there is no value to judge"),
    ("payload-number-beyond-f64", "not a number to most parsers, so that there is no value to judge"),
    ("publish-payload-twice", "a parser keeps one of two fields of a name"),
    ("json-*", "all files of that name: not JSON, so that there is no value to judge"),
];

fn schema(side: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema").join(format!("{side}.json"));
    serde_json::from_str(&fs::read_to_string(path).expect("a schema")).expect("JSON")
}

fn validator(side: &str) -> Validator {
    let schema = schema(side);
    assert!(jsonschema::meta::is_valid(&schema), "{side}.json is not a schema of its draft");
    jsonschema::validator_for(&schema).unwrap_or_else(|error| panic!("{side}.json: {error}"))
}

/// The files of one golden folder, by name without extension.
fn golden(folder: &str) -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let files = fs::read_dir(path).expect("a golden folder").map(|entry| entry.expect("a readable folder").path());
    let named = files.map(|path| {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a file name").to_owned();
        (name, fs::read_to_string(path).expect("UTF-8"))
    });
    named.collect()
}

/// A field of a golden file that holds a frame as text.
fn text(file: &str, field: &str) -> String {
    let file: Value = serde_json::from_str(file).expect("a golden file");
    file[field].as_str().expect("a frame").to_owned()
}

fn check(validator: &Validator, name: &str, frame: &str) {
    let frame = serde_json::from_str(frame).unwrap_or_else(|error| panic!("{name}: {error}"));
    let errors: Vec<String> = validator.iter_errors(&frame).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{name}: {errors:?}");
}

#[test]
fn every_golden_frame_is_valid() {
    for side in ["client", "server"] {
        let validator = validator(side);
        let files = golden(side);
        assert!(!files.is_empty());
        for (name, frame) in files {
            check(&validator, &name, &frame);
        }
    }
}

#[test]
fn what_the_hub_tolerates_is_valid_but_for_what_a_client_should_not_send() {
    let validator = validator("client");
    let files = golden("tolerated");
    for (name, file) in &files {
        check(&validator, name, &text(file, "means"));
        let frame = serde_json::from_str(&text(file, "frame")).expect("JSON");
        let refused = NOT_TO_SEND.iter().any(|(other, _)| other == name);
        assert_eq!(validator.is_valid(&frame), !refused, "{name}");
    }
    assert!(NOT_TO_SEND.iter().all(|(name, _)| files.contains_key(*name)));
}

#[test]
fn what_the_hub_refuses_is_refused_but_for_what_no_schema_sees() {
    let validator = validator("client");
    let accepted_or_unreadable: BTreeSet<String> = golden("invalid")
        .iter()
        .filter(|(_, file)| serde_json::from_str(&text(file, "frame")).map_or(true, |frame| validator.is_valid(&frame)))
        .map(|(name, _)| if name.starts_with("json-") { "json-*".to_owned() } else { name.clone() })
        .collect();
    let expected: BTreeSet<String> = BEYOND_A_SCHEMA.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(accepted_or_unreadable, expected, "the files the schema lets pass (left) are not those listed (right)");
}

#[test]
fn the_answers_to_invalid_frames_are_valid() {
    let validator = validator("server");
    for (name, file) in golden("invalid") {
        let file: Value = serde_json::from_str(&file).expect("a golden file");
        assert!(validator.is_valid(&file["answer"]), "{name}");
    }
}

/// Every limit of a schema: the path of its keyword, without the parts that every path has, and its number.
fn limits_of(value: &Value, path: &str, found: &mut BTreeMap<String, u64>) {
    const KEYWORDS: [&str; 7] =
        ["maxLength", "maximum", "minimum", "maxItems", "maxProperties", "x-max-bytes", "minLength"];
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let path = match name.as_str() {
                    "$defs" | "properties" => path.to_owned(),
                    _ => format!("{path}/{name}"),
                };
                match value.as_u64() {
                    Some(limit) if KEYWORDS.contains(&name.as_str()) => drop(found.insert(path, limit)),
                    _ => limits_of(value, &path, found),
                }
            }
        }
        Value::Array(list) => {
            for (at, value) in list.iter().enumerate() {
                limits_of(value, &format!("{path}/{at}"), found);
            }
        }
        _ => {}
    }
}

/// The most an event id may have, the hub's own included.
const EVENT_ID_BYTES: u64 = limits::KEY_BYTES as u64;

/// The limits of a text: 1 to `bytes` bytes.
fn of_text(path: &str, bytes: u64, into: &mut BTreeMap<String, u64>) {
    for (keyword, limit) in [("minLength", 1), ("maxLength", bytes), ("x-max-bytes", bytes)] {
        into.insert(format!("{path}/{keyword}"), limit);
    }
}

fn of_integer(path: &str, low: u64, high: Option<u64>, into: &mut BTreeMap<String, u64>) {
    into.insert(format!("{path}/minimum"), low);
    if let Some(high) = high {
        into.insert(format!("{path}/maximum"), high);
    }
}

fn of_list(path: &str, entries: usize, bytes: usize, into: &mut BTreeMap<String, u64>) {
    into.insert(format!("{path}/maxItems"), entries as u64);
    of_text(&format!("{path}/items"), bytes as u64, into);
}

/// One id, or a list of them.
fn of_causes(path: &str, into: &mut BTreeMap<String, u64>) {
    of_text(&format!("{path}/anyOf/0"), limits::KEY_BYTES as u64, into);
    of_list(&format!("{path}/anyOf/1"), limits::CAUSES, limits::KEY_BYTES, into);
}

/// The limits that both schemas have.
fn of_both() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    of_text("/corr", limits::CORR_BYTES as u64, &mut all);
    of_text("/eventId", EVENT_ID_BYTES, &mut all);
    of_text("/headers/propertyNames", limits::HEADER_NAME_BYTES as u64, &mut all);
    for keyword in ["maxLength", "x-max-bytes"] {
        all.insert(format!("/headers/additionalProperties/{keyword}"), limits::HEADER_VALUE_BYTES as u64);
    }
    all.insert("/headers/maxProperties".into(), limits::HEADERS as u64);
    for name in ["topic", "pattern"] {
        all.insert(format!("/{name}/minLength"), 1);
        for dlq in 0..=limits::DLQ_LEVELS {
            let bytes = limits::TOPIC_BYTES + "dlq.".len() * dlq;
            all.insert(format!("/{name}/anyOf/{dlq}/maxLength"), bytes as u64);
        }
    }
    all.insert("/subscriptionGroup/minLength".into(), 1);
    all.insert("/subscriptionGroup/maxLength".into(), limits::GROUP_BYTES as u64);
    all
}

#[test]
fn the_limits_are_those_of_the_code() {
    let mut expected = of_both();
    let all = &mut expected;
    all.insert("/group/minLength".into(), 1);
    all.insert("/group/maxLength".into(), limits::GROUP_BYTES as u64);
    let opts = "/eventOptions";
    of_text(&format!("{opts}/id"), limits::ID_BYTES as u64, all);
    of_text(&format!("{opts}/sid"), limits::ID_BYTES as u64, all);
    of_text(&format!("{opts}/key"), limits::KEY_BYTES as u64, all);
    of_causes(&format!("{opts}/caused_by"), all);
    of_integer(&format!("{opts}/ts"), 0, Some(limits::TS_MAX), all);
    of_list(&format!("{opts}/tags"), limits::TAGS, limits::TAG_BYTES, all);
    let opts = "/subscribeOptions";
    of_integer(&format!("{opts}/ts"), 0, Some(limits::TS_MAX), all);
    of_integer(&format!("{opts}/afterSeq"), 0, Some(limits::TS_MAX), all);
    of_text(&format!("{opts}/afterId"), limits::KEY_BYTES as u64, all);
    of_integer(&format!("{opts}/maxInFlight"), 1, Some(limits::MAX_IN_FLIGHT.into()), all);
    of_integer(&format!("{opts}/batchSize"), 1, Some(limits::MAX_IN_FLIGHT.into()), all);
    of_integer(&format!("{opts}/ackTimeoutMs"), limits::LEASE_MS_MIN, Some(limits::LEASE_MS_MAX), all);
    of_integer(&format!("{opts}/maxAttempts"), 1, Some(limits::ATTEMPTS_MAX.into()), all);
    of_list(&format!("{opts}/filter/keys"), limits::FILTER_ENTRIES, limits::KEY_BYTES, all);
    of_list(&format!("{opts}/filter/tags"), limits::FILTER_ENTRIES, limits::TAG_BYTES, all);
    of_integer("/nack/delay_ms", 0, Some(limits::LEASE_MS_MAX), all);
    of_integer("/modack/extend_ms", limits::LEASE_MS_MIN, Some(limits::LEASE_MS_MAX), all);
    let mut found = BTreeMap::new();
    limits_of(&schema("client"), "", &mut found);
    assert_eq!(found, expected, "the limits of client.json (left) are not those of the code (right)");

    let mut expected = of_both();
    let all = &mut expected;
    of_integer("/seq", 1, None, all);
    of_integer("/ok/expires_in_ms", 0, None, all);
    for field in ["version", "max_frame_bytes", "max_publishes", "max_subscriptions"] {
        of_integer(&format!("/ok/{field}"), 1, None, all);
    }
    of_integer("/err/retry_after_ms", 0, None, all);
    of_integer("/context/attempt", 1, None, all);
    of_integer("/context/max_attempts", 1, Some(limits::ATTEMPTS_MAX.into()), all);
    of_integer("/context/ack_deadline_ms", 0, Some(limits::LEASE_MS_MAX), all);
    all.insert("/errorCode/minLength".into(), 1);
    of_integer("/eventRecord/ts", 0, Some(limits::TS_MAX), all);
    of_text("/eventRecord/key", limits::KEY_BYTES as u64, all);
    of_text("/eventRecord/sid", limits::ID_BYTES as u64, all);
    of_causes("/eventRecord/caused_by", all);
    of_text("/eventRecord/by", limits::SUBJECT_BYTES as u64, all);
    of_list("/eventRecord/tags", limits::TAGS, limits::TAG_BYTES, all);
    let mut found = BTreeMap::new();
    limits_of(&schema("server"), "", &mut found);
    assert_eq!(found, expected, "the limits of server.json (left) are not those of the code (right)");
}

#[test]
fn the_defaults_are_those_of_the_code() {
    let SubscribeOptions { max_in_flight, ack_timeout_ms, max_attempts, ordered, ack, .. } =
        SubscribeOptions::default();
    assert_eq!((ordered, ack), (Ordering::None, AckMode::Explicit));
    let options = &schema("client")["$defs"]["subscribeOptions"]["properties"];
    for (name, default) in [
        ("from", json!("latest")),
        ("maxInFlight", json!(max_in_flight)),
        ("ackTimeoutMs", json!(ack_timeout_ms)),
        ("maxAttempts", json!(max_attempts)),
        ("ordered", json!("none")),
        ("ack", json!("explicit")),
    ] {
        assert_eq!(options[name]["default"], default, "{name}");
    }
}

#[test]
fn the_codes_are_those_of_the_code() {
    let definitions = &schema("server")["$defs"];
    let codes = ErrorCode::ALL.iter().map(
        |code| json!({"const": code.as_str(), "description": code.description(), "x-temporary": code.temporary()}),
    );
    assert_eq!(definitions["knownErrorCode"]["oneOf"], codes.collect::<Value>());
    let codes = CloseCode::ALL
        .iter()
        .map(|code| json!({"const": code.code(), "description": code.reason(), "x-connect-again": code.retryable()}));
    assert_eq!(definitions["closeCode"]["oneOf"], codes.collect::<Value>());
}

/// The cells of the document's table that has `header`.
fn table(header: &str) -> Vec<Vec<&'static str>> {
    let (_, rest) = include_str!("../../docs/protocol.md").split_once(header).expect("the table");
    let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn the_document_says_of_each_close_code_whether_to_connect_again() {
    let (codes, states) =
        (table("| code | reason | connect again |"), table("| what ends a connection | next state |"));
    for code in CloseCode::ALL {
        let number = code.code().to_string();
        let again: Vec<_> = codes.iter().filter(|row| row[0] == number).map(|row| !row[2].starts_with("no")).collect();
        assert_eq!(again, [code.retryable()], "{number} in the table of codes");
        let named = |row: &&Vec<&str>| row[0].split(", ").any(|cause| cause == number);
        let again: Vec<_> = states.iter().filter(named).map(|row| row[1].starts_with("reconnecting")).collect();
        assert_eq!(again, [code.retryable()], "{number} in the table of states");
    }
}

/// The ops of a schema: those that its `oneOf` points to.
fn ops(side: &str) -> BTreeSet<String> {
    let schema = schema(side);
    let frames = schema["oneOf"].as_array().expect("a list of frames");
    let op_of = |frame: &Value| {
        let name = frame["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")).expect("a definition");
        schema["$defs"][name]["properties"]["op"]["const"].as_str().expect("an op").to_owned()
    };
    frames.iter().map(op_of).collect()
}

#[test]
fn every_op_is_there() {
    assert_eq!(ops("client"), client::Op::ALL.iter().map(|op| op.as_str().to_owned()).collect());
    assert_eq!(ops("server"), server::Op::ALL.iter().map(|op| op.as_str().to_owned()).collect());
}

/// Every property says what it is.
fn described(value: &Value, path: &str, definitions: &Value) {
    if let Some(properties) = value["properties"].as_object().filter(|_| value["type"] == "object") {
        for (name, property) in properties {
            let path = format!("{path}.{name}");
            let target = property["$ref"].as_str().and_then(|target| target.strip_prefix("#/$defs/"));
            let own = property["description"].is_string();
            assert!(own || target.is_some_and(|name| definitions[name]["description"].is_string()), "{path}");
            described(property, &path, definitions);
        }
    }
}

#[test]
fn every_field_is_described() {
    for side in ["client", "server"] {
        let schema = schema(side);
        for (name, definition) in schema["$defs"].as_object().expect("definitions") {
            assert!(definition["description"].is_string(), "{side}: {name}");
            described(definition, name, &schema["$defs"]);
        }
    }
}
