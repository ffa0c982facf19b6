//! The files of `vectors/`: rules as data, for clients in every language. See `golden/README.md`.

use std::{collections::BTreeSet, fs, path::Path};

use prom_protocol::{
    Action, ClientFrame, ErrorCode, Pattern, Policy, Refusal, Topic, TopicOrPattern, check_payload, client,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn vectors<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    serde_json::from_str(&fs::read_to_string(path).expect("a file")).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Why the hub refuses `frame`; none: it takes it.
fn refusal(frame: &str) -> Option<Refusal> {
    match client::parse(frame) {
        Err(bad) => Some(bad.error),
        Ok(request) => match request.frame {
            ClientFrame::Publish(publish) => check_payload(publish.payload.get()).err(),
            _ => None,
        },
    }
}

#[track_caller]
fn assert_refused(frame: &str, code: &str, msg: &str) {
    let refused = refusal(frame).unwrap_or_else(|| panic!("accepted: {frame}"));
    assert_eq!((refused.code().as_str(), refused.message()), (code, msg), "{frame}");
}

fn schema() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(include_str!("../schema/client.json")).expect("JSON");
    jsonschema::validator_for(&schema).expect("a schema")
}

// ---- patterns ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patterns {
    #[serde(rename = "about")]
    _about: String,
    matches: Vec<Matches>,
    relations: Vec<Relation>,
    valid: Vec<String>,
    invalid: Vec<BadPattern>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Matches {
    pattern: String,
    topic: String,
    matches: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Relation {
    a: String,
    b: String,
    covers: bool,
    intersects: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BadPattern {
    pattern: String,
    msg: String,
}

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn patterns_match_cover_and_intersect() {
    let Patterns { matches, relations, .. } = vectors("patterns.json");
    for case in matches {
        assert_eq!(
            pattern(&case.pattern).matches(&topic(&case.topic)),
            case.matches,
            "{} on {}",
            case.pattern,
            case.topic
        );
    }
    for Relation { a, b, covers, intersects } in relations {
        assert_eq!(pattern(&a).covers(&pattern(&b)), covers, "{a} covers {b}");
        assert_eq!(pattern(&a).intersects(&pattern(&b)), intersects, "{a} meets {b}");
        assert_eq!(pattern(&b).intersects(&pattern(&a)), intersects, "{b} meets {a}");
    }
}

#[test]
fn patterns_are_valid_or_refused_with_the_reason() {
    let schema = schema();
    let Patterns { valid, invalid, .. } = vectors("patterns.json");
    let frame = |pattern: &str| json!({"op": "SUBSCRIBE", "topic": pattern});
    for name in valid {
        let frame = frame(&name);
        assert!(Pattern::is_valid(&name), "{name}");
        assert_eq!(refusal(&frame.to_string()), None, "{name}");
        assert!(schema.is_valid(&frame), "{name}: the schema");
    }
    for BadPattern { pattern, msg } in invalid {
        let frame = frame(&pattern);
        assert!(!Pattern::is_valid(&pattern), "{pattern}");
        assert_refused(&frame.to_string(), "bad_topic", &msg);
        assert!(!schema.is_valid(&frame), "{pattern}: the schema");
    }
}

// ---- names ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    #[serde(rename = "about")]
    _about: String,
    fields: Vec<Field>,
    not_strings: Vec<BadFrame>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    field: String,
    max_bytes: usize,
    frame: String,
    valid: Vec<String>,
    invalid: Vec<BadValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BadValue {
    value: String,
    code: String,
    msg: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BadFrame {
    frame: String,
    code: String,
    msg: String,
}

#[test]
fn names_are_taken_up_to_their_limit_and_refused_beyond() {
    let schema = schema();
    let Names { fields, not_strings, .. } = vectors("names.json");
    for Field { field, max_bytes, frame, valid, invalid } in fields {
        let with = |value: &str| frame.replace("VALUE", &json!(value).to_string());
        assert!(valid.iter().any(|value| value.len() == max_bytes), "{field}: nothing of the longest length");
        for value in &valid {
            let frame = with(value);
            assert_eq!(refusal(&frame), None, "{field}: {frame}");
            assert!(schema.is_valid(&serde_json::from_str(&frame).expect("JSON")), "the schema refuses {frame}");
        }
        for BadValue { value, code, msg } in invalid {
            let frame = with(&value);
            assert_refused(&frame, &code, &msg);
            // A schema counts characters: what is too long in bytes alone is beyond it.
            let long_in_bytes_alone = value.len() > max_bytes && value.chars().count() <= max_bytes;
            let accepted = schema.is_valid(&serde_json::from_str(&frame).expect("JSON"));
            assert!(!accepted || long_in_bytes_alone, "the schema takes {frame}");
        }
    }
    assert!(!not_strings.is_empty());
    for BadFrame { frame, code, msg } in not_strings {
        assert_refused(&frame, &code, &msg);
    }
}

// ---- policies ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policies {
    #[serde(rename = "about")]
    _about: String,
    cases: Vec<Case>,
    invalid: Vec<BadClaims>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    claims: Value,
    rules: Option<Value>,
    asks: Vec<Ask>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    action: Action,
    topic: Option<String>,
    group: Option<String>,
    allowed: bool,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BadClaims {
    claims: Value,
    why: String,
    /// How the hub's message begins; none: it is not said.
    says: Option<String>,
    error: String,
}

/// The policy of a token; the hub's own choice among the claims has its test in `server/src/auth.rs`, by these files.
fn policy(claims: &Value) -> Result<Policy, String> {
    if let Some(policy) = claims.get("policy") {
        return Policy::from_claim(&policy.to_string()).map_err(|error| error.to_string());
    }
    Ok(match (claims["scopes"].as_array(), claims["scope"].as_str()) {
        (Some(scopes), _) => Policy::from_scopes(scopes.iter().filter_map(Value::as_str)),
        (None, Some(scope)) => Policy::from_scope_claim(scope.split_ascii_whitespace()),
        (None, None) => Policy::default(),
    })
}

fn allowed(policy: &Policy, ask: &Ask) -> bool {
    let group = ask.group.as_deref();
    match (ask.action, ask.topic.as_deref()) {
        (Action::Publish, Some(name)) => policy.may_publish(&topic(name)),
        (Action::Read | Action::Subscribe, Some(name)) => {
            assert!(group.is_none() || ask.action == Action::Subscribe, "a read has no group");
            policy.may_subscribe(&TopicOrPattern::new(name).expect("a topic or a pattern"), group)
        }
        (Action::OpsRead | Action::OpsAdmin, None) => policy.may_operate(ask.action),
        (action, topic) => panic!("nothing asks for {action:?} on {topic:?}"),
    }
}

#[test]
fn policies_decide() {
    let Policies { cases, .. } = vectors("policies.json");
    let mut wrong = Vec::new();
    for Case { name, claims, rules, asks } in cases {
        let policy = policy(&claims).unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Some(rules) = rules {
            let own = json!(policy.rules);
            if own != rules {
                wrong.push(format!("{name}: the rules are {own}"));
            }
        }
        for ask in asks {
            let what = format!("{name}: {:?} {:?} as {:?}", ask.action, ask.topic, ask.group);
            if allowed(&policy, &ask) != ask.allowed {
                wrong.push(format!("{what}: not {}", ask.allowed));
            }
            let error = (!ask.allowed).then_some(ErrorCode::Forbidden.as_str());
            assert_eq!(ask.error.as_deref(), error, "{what}");
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn claims_of_another_shape_are_refused() {
    let Policies { invalid, .. } = vectors("policies.json");
    let mut reasons = BTreeSet::new();
    for BadClaims { claims, why, says, error } in invalid {
        let said = policy(&claims).map(|policy| panic!("{why}: {claims} is {policy:?}")).unwrap_err();
        assert!(said.starts_with(says.as_deref().unwrap_or("policy")), "{why}: {said}");
        assert_eq!(error, ErrorCode::JwtInvalid.as_str());
        assert!(reasons.insert(why.clone()), "{why} twice");
    }
}
