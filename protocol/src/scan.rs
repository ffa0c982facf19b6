//! As much JSON as a client needs: raw slices out of an object, and strings into one.
//!
//! A client never looks into what applications send, so a full parser would be dead weight in a module every page
//! downloads, and a second pass over every event. What stands between the brackets of a value is not checked here: read
//! only what a hub wrote, and leave the values to whoever parses them.
//!
//! ```
//! use prom_protocol::scan;
//! let mut found = Vec::new();
//! assert!(scan::fields(r#"{"a": [1, 2], "b": "x\n"}"#, |name, value| found.push((name, value))));
//! assert_eq!(found, [("a", "[1, 2]"), ("b", r#""x\n""#)]);
//! assert_eq!(scan::string(found[1].1).unwrap(), "x\n");
//! ```

use std::borrow::Cow;

/// Calls `each` with the name, as it stands between its quotes, and the raw value of every field of the object `text`, in
/// their order. Returns whether `text` is one object and nothing else; where it is not, `each` may have been called for
/// the fields before the fault.
pub fn fields<'a>(text: &'a str, mut each: impl FnMut(&'a str, &'a str)) -> bool {
    walk(text, &mut each).is_some()
}

fn walk<'a>(text: &'a str, each: &mut dyn FnMut(&'a str, &'a str)) -> Option<()> {
    let bytes = text.as_bytes();
    let mut at = expect(bytes, 0, b'{')?;
    let mut more = *bytes.get(at)? != b'}';
    while more {
        let name_end = string_end(bytes, expect(bytes, at, b'"')?)?;
        let name = text.get(at + 1..name_end - 1)?;
        let start = expect(bytes, space(bytes, name_end), b':')?;
        let end = value_end(bytes, start)?;
        each(name, text.get(start..end)?);
        at = space(bytes, end);
        more = *bytes.get(at)? == b',';
        if more {
            at = space(bytes, at + 1);
        }
    }
    let end = expect(bytes, at, b'}')?;
    (end == bytes.len()).then_some(())
}

/// Where the next token begins.
fn space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The token after `byte`. A name's text must stay where it is, so that a quote is not followed by a skip.
fn expect(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    let at = space(bytes, at);
    let found = *bytes.get(at)? == byte;
    found.then(|| if byte == b'"' { at + 1 } else { space(bytes, at + 1) })
}

/// The position after the string whose text starts at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

/// The position after the value at `at`.
fn value_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut next = at;
    loop {
        match bytes.get(next)? {
            b'"' => next = string_end(bytes, next + 1)?,
            b'{' | b'[' => {
                depth += 1;
                next += 1;
                continue;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                next += 1;
            }
            // The end of a scalar: what follows belongs to the object around it.
            b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return (next > at).then_some(next),
            _ => {
                next += 1;
                continue;
            }
        }
        if depth == 0 {
            return Some(next);
        }
    }
}

/// The string that the raw value `raw` is; none for any other value and for a wrong escape. Borrows unless it has escapes.
pub fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = between_quotes(raw)?;
    if inner.as_bytes().contains(&b'\\') { unescape(inner).map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// What stands between the quotes of the raw value `raw`, escapes as they are written; none for what is no string.
pub fn between_quotes(raw: &str) -> Option<&str> {
    // By bytes: the standard library's search for a character is several times larger in the module.
    match raw.as_bytes() {
        [b'"', .., b'"'] => raw.get(1..raw.len() - 1),
        _ => None,
    }
}

/// The integer that the raw value `raw` is; none for any other value and for one that is negative or beyond 64 bits.
pub fn number(raw: &str) -> Option<u64> {
    let mut number = None;
    for byte in raw.bytes() {
        let digit = u64::from(byte.wrapping_sub(b'0'));
        let before = number.unwrap_or(0);
        if digit > 9 || before > (u64::MAX - digit) / 10 {
            return None;
        }
        number = Some(before * 10 + digit);
    }
    number
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| byte == b'\\') {
        out.push_str(rest.get(..at)?);
        let escape = *rest.as_bytes().get(at + 1)?;
        rest = rest.get(at + 2..)?;
        out.push(match escape {
            b'"' | b'\\' | b'/' => char::from(escape),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = hex(&mut rest)?;
                if (0xD800..0xDC00).contains(&high) {
                    rest = rest.strip_prefix("\\u")?;
                    let low = hex(&mut rest)?.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
                    char::from_u32(0x10000 + ((high - 0xD800) << 10) + low)?
                } else {
                    char::from_u32(high)?
                }
            }
            _ => return None,
        });
    }
    out.push_str(rest);
    Some(out)
}

fn hex(rest: &mut &str) -> Option<u32> {
    let digits = rest.get(..4)?;
    *rest = rest.get(4..)?;
    digits.bytes().try_fold(0, |number, digit| Some(number * 16 + char::from(digit).to_digit(16)?))
}

/// Appends `text` as a JSON string, quotes included, byte for byte as serde_json writes it.
pub fn quote(out: &mut String, text: &str) {
    out.push('"');
    let mut plain = 0;
    let rest = if is_plain(text) { "" } else { text };
    for (at, byte) in rest.bytes().enumerate() {
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            0..0x20 => b'u',
            _ => continue,
        };
        // All of these bytes are characters. An index would bring the message of its panic, which prints text: 4 kB of wasm.
        out.push_str(text.get(plain..at).unwrap_or_default());
        out.push('\\');
        out.push(char::from(short));
        if short == b'u' {
            out.push_str(if byte < 0x10 { "000" } else { "001" });
            out.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
        }
        plain = at + 1;
    }
    out.push_str(text.get(plain..).unwrap_or_default());
    out.push('"');
}

/// Whether nothing of it needs an escape. Without an early end, which compilers turn into a few wide instructions.
fn is_plain(text: &str) -> bool {
    !text.bytes().fold(false, |found, byte| found | matches!(byte, b'"' | b'\\' | 0..0x20))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(text: &str) -> Option<Vec<(&str, &str)>> {
        let mut found = Vec::new();
        fields(text, |name, value| found.push((name, value))).then_some(found)
    }

    #[test]
    fn a_string_ends_where_it_ends_however_long_it_is() {
        for length in 0..70 {
            for escape in ["", "\\\"", "\\\\", "\\u0041"] {
                for at in 0..=length {
                    let value = format!("\"{}{escape}{}\"", "x".repeat(at), "y".repeat(length - at));
                    let text = format!("{{{value}:{value},\"z\":[{value}]}}");
                    let name = &value[1..value.len() - 1];
                    assert_eq!(split(&text), Some(vec![(name, &*value), ("z", &*format!("[{value}]"))]), "{text}");
                    assert_eq!(split(&text[..text.len() - 3]), None);
                }
            }
        }
    }

    #[test]
    fn splits_an_object() {
        let text = r#" { "a" : [1,{"x":"]}\""}] ,"b":-1.5e3, "c":"\\","d":{} ,"":null} "#;
        let found = split(text).unwrap();
        let expected = [("a", r#"[1,{"x":"]}\""}]"#), ("b", "-1.5e3"), ("c", r#""\\""#), ("d", "{}"), ("", "null")];
        assert_eq!(found, expected);
        assert_eq!(split("{}"), Some(vec![]));
        assert_eq!(split(" { } "), Some(vec![]));
        for text in [
            "",
            "{",
            "[]",
            "1",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1",
            "{\"a\":1,}",
            "{\"a\":1}x",
            "{\"a\":\"}",
            "{\"a\":[}",
            "{,}",
        ] {
            assert_eq!(split(text), None, "{text}");
        }
    }

    #[test]
    fn strings_with_escapes() {
        assert_eq!(string(r#""a\"\\\/\b\f\n\r\t\u0041\ud83d\ude00""#).unwrap(), "a\"\\/\u{8}\u{c}\n\r\tA😀");
        for raw in
            ["", "\"", "1", r#""\x""#, r#""\u12""#, r#""\ud83d""#, r#""\ud83d\u0041""#, r#""\udc00""#, "\"\\u12ü\""]
        {
            assert_eq!(string(raw), None, "{raw}");
        }
    }

    #[test]
    fn numbers_are_whole_and_of_64_bits() {
        assert_eq!((number("0"), number("17"), number("18446744073709551615")), (Some(0), Some(17), Some(u64::MAX)));
        for raw in ["", "-1", "+1", "1.0", "1e3", "\"1\"", "null", "18446744073709551616", "99999999999999999999"] {
            assert_eq!(number(raw), None, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_real_parser(name in ".*", value in ".*", number in any::<i64>()) {
            let mut text = String::from("{");
            quote(&mut text, &name);
            text.push(':');
            quote(&mut text, &value);
            text.push_str(&format!(",\"n\":{number}}}"));
            let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(parsed.get(&name).and_then(|v| v.as_str()).or(Some("")), Some(if name == "n" { "" } else { value.as_str() }));
            let mut quoted = String::new();
            quote(&mut quoted, &value);
            prop_assert_eq!(&quoted, &serde_json::to_string(&value).unwrap());
            prop_assert_eq!(string(&quoted).unwrap(), value.as_str());
            let found = split(&text).unwrap();
            prop_assert_eq!(found[0].1, quoted.as_str());
            let number = number.to_string();
            prop_assert_eq!(found[1], ("n", number.as_str()));
            prop_assert_eq!(super::number(&number), number.parse().ok());
        }

        #[test]
        fn never_panics(text in ".*", more in "[{}\\[\\]\",:\\\\u0-9a ]{0,40}") {
            split(&text);
            split(&more);
            string(&more);
            number(&more);
            fields(&more, |name, value| { string(name); string(value); });
        }
    }
}
