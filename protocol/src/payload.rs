//! The payload profile: what JSON a store of any kind can give back equal.

use std::borrow::Cow;

use crate::{ErrorCode, Refusal, limits};

/// Checks a payload that is already known to be one valid JSON value: its numbers, its depth, its surrogates.
///
/// The profile is any JSON value nested at most [`limits::PAYLOAD_DEPTH`] deep whose numbers are exact in `i64` or finite
/// in `f64` and whose strings are Unicode (no `\ud800` without its partner). One pass, no tree.
///
/// # Errors
/// `bad_payload`, saying what is outside the profile.
pub fn check_payload(json: &str) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::new(ErrorCode::BadPayload, message));
    let bytes = json.as_bytes();
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let Some(end) = string_end(bytes, at + 1) else {
                    return refuse("payload holds half a surrogate pair".into());
                };
                at = end;
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > limits::PAYLOAD_DEPTH {
                    return refuse(format!("payload nests deeper than {} levels", limits::PAYLOAD_DEPTH));
                }
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let length = bytes[at..]
                    .iter()
                    .take_while(|b| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'))
                    .count();
                let number = &json[at..at + length];
                // Short plain numbers cannot be infinite.
                let may_overflow = length > 300 || number.bytes().any(|b| matches!(b, b'e' | b'E'));
                if may_overflow && !number.parse::<f64>().is_ok_and(f64::is_finite) {
                    return refuse("payload holds a number beyond the range of f64".into());
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    Ok(())
}

/// The position after the string that starts behind its opening quote, or `None` for a lone surrogate.
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return Some(at + 1),
            b'\\' if bytes.get(at + 1) == Some(&b'u') => match hex4(bytes, at + 2) {
                0xD800..=0xDBFF => {
                    let paired =
                        bytes.get(at + 6..at + 8) == Some(b"\\u") && (0xDC00..=0xDFFF).contains(&hex4(bytes, at + 8));
                    if !paired {
                        return None;
                    }
                    at += 12;
                }
                0xDC00..=0xDFFF => return None,
                _ => at += 6,
            },
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Some(at)
}

fn hex4(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|hex| u32::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()).unwrap_or(0)
}

/// The payload without raw line breaks, so that an event is one line wherever it is written. In valid JSON a raw line
/// break is always insignificant white space.
pub fn single_line(json: &str) -> Cow<'_, str> {
    if memchr::memchr2(b'\n', b'\r', json.as_bytes()).is_some() {
        Cow::Owned(json.replace(['\n', '\r'], " "))
    } else {
        Cow::Borrowed(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> bool {
        serde_json::from_str::<&serde_json::value::RawValue>(json).expect("valid JSON");
        check_payload(json).is_err()
    }

    #[test]
    fn keeps_to_the_profile() {
        for json in [
            "null",
            "0",
            "-0.0",
            "9223372036854775807",
            "1e308",
            "5e-324",
            "{\"a\":[1,{\"\":2}]}",
            r#""\ud83d\ude00 \u0000 \\ud800 \"""#,
            "\"[[[[ 1e999 \"",
            "18446744073709551615",
        ] {
            assert!(!refused(json), "{json}");
        }
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(!refused(&deep(limits::PAYLOAD_DEPTH)));
        assert!(refused(&deep(limits::PAYLOAD_DEPTH + 1)));
        for json in
            ["1e309", "-1e400", "[1,{\"a\":1E999}]", r#""\ud800""#, r#""\udc00""#, r#""\ud800\n""#, r#""\ud800A""#]
        {
            assert!(refused(json), "{json}");
        }
        assert!(refused(&"9".repeat(400)));
        assert!(!refused(&"9".repeat(305)));
    }

    #[test]
    fn a_pretty_payload_becomes_one_line() {
        assert_eq!(single_line("{\n  \"a\": 1\r\n}"), "{   \"a\": 1  }");
        assert!(matches!(single_line("{\"a\":\"\\n\"}"), Cow::Borrowed(_)));
    }
}
