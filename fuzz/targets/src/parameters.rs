//! What stands in a request's query and headers.

use prom_hub::fuzzing::{Query, is_local, token_in};
use prom_protocol::{StartFrom, Topic, limits};

const NAMES: [&str; 12] =
    ["topic", "group", "key", "id", "from", "ts", "afterSeq", "afterId", "limit", "fromTs", "toTs", "after"];
/// Parameters behind the sixty-fourth are not looked at.
const MAX: usize = 64;

/// Lines: a query, a header `Authorization`, a header `Host`.
pub fn parameters(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    if let Some(query) = lines.next().and_then(|line| std::str::from_utf8(line).ok())
        && let Some(asked) = Query::new(query)
    {
        // A server cuts off what stands behind a `#`.
        of_query(&asked, query.split('#').next().unwrap_or_default());
    }
    if let Some(value) = lines.next() {
        authorization(value);
    }
    if let Some(host) = lines.next().and_then(|line| std::str::from_utf8(line).ok()) {
        of_host(host);
    }
}

/// The query's text, each escape a byte and each plus a space; none where that is no UTF-8.
fn decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).and_then(|hex| {
            let hex = std::str::from_utf8(hex).ok().filter(|hex| hex.chars().all(|c| c.is_ascii_hexdigit()))?;
            u8::from_str_radix(hex, 16).ok()
        });
        match (bytes[at], escape) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).ok()
}

fn of_query(asked: &Query, query: &str) {
    let pairs: Option<Vec<(String, String)>> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name)?, decoded(value)?))
        })
        .collect();
    let pairs = pairs.map(|mut pairs| {
        pairs.retain(|(_, value)| !value.is_empty());
        pairs.truncate(MAX);
        pairs
    });
    for name in NAMES {
        let values: Option<Vec<&str>> = pairs
            .as_ref()
            .map(|pairs| pairs.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect());
        let found = asked.value(name);
        match values.as_deref() {
            None => assert!(found.as_ref().is_err_and(|said| said.contains("UTF-8")), "{found:?}: {query}"),
            Some([]) => assert_eq!(found, Ok(None), "{name}: {query}"),
            Some([one]) => assert_eq!(found.as_ref().map(|value| value.as_deref()), Ok(Some(*one)), "{query}"),
            Some(_) => assert!(found.as_ref().is_err_and(|said| said.contains("given twice")), "{found:?}: {query}"),
        }
        let text = found.ok().flatten();
        let number = asked.integer(name, 1..=1000);
        match (&text, &number) {
            (Some(text), Ok(Some(number))) => {
                assert!((1..=1000).contains(number), "{query}");
                let digits = text.strip_prefix('+').unwrap_or(text).trim_start_matches('0');
                assert_eq!(digits, number.to_string(), "{query}");
            }
            (Some(_), Ok(None)) | (None, Ok(Some(_))) => panic!("{text:?} and {number:?}: {query}"),
            (Some(_), Err(said)) => assert!(said.contains(name) && said.contains("1000"), "{said}"),
            (None, _) => {}
        }
        if let Ok(flag) = asked.flag(name) {
            assert_eq!(flag, matches!(text.as_deref(), Some("1" | "true")), "{query}");
        }
    }
    let topic = asked.value("topic").ok().flatten();
    match asked.topic() {
        Ok(found) => assert_eq!(Some(found.as_str()), topic.as_deref(), "{query}"),
        Err(said) => assert!(!said.is_empty() && topic.is_none_or(|topic| Topic::new(&topic).is_err()), "{query}"),
    }
    match asked.start() {
        Ok(StartFrom::Ts(number) | StartFrom::AfterSeq(number)) => assert!(number <= limits::TS_MAX, "{query}"),
        Ok(StartFrom::AfterId(id)) => assert!((1..=limits::KEY_BYTES).contains(&id.len()), "{query}"),
        Ok(start) => assert!(matches!(start, StartFrom::Earliest | StartFrom::Latest), "{start:?}: {query}"),
        Err(said) => assert!(!said.is_empty() && said.len() < 200, "{said}"),
    }
}

fn authorization(value: &[u8]) {
    match token_in(value) {
        Some(Ok(token)) => {
            assert!(!token.is_empty() && token == token.trim(), "{token:?}");
            let whole = String::from_utf8_lossy(value);
            let (scheme, rest) = whole.split_once(' ').unwrap_or_default();
            assert!(scheme.eq_ignore_ascii_case("bearer") && rest.trim() == token, "{whole:?}");
        }
        Some(Err(said)) => assert!(!said.is_empty() && said.len() < 200, "{said}"),
        None => {}
    }
}

/// A name of this machine, with or without a port, and nothing else.
fn of_host(host: &str) {
    let (name, port) = if let Some(rest) = host.strip_prefix("[::1]") {
        ("[::1]", rest)
    } else {
        host.split_at(host.find(':').unwrap_or(host.len()))
    };
    let named = name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]";
    let numbered = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    assert_eq!(is_local(host), named && numbered, "{host:?}");
}
