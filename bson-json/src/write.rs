//! BSON values to JSON text, strictly: what events are made of.

use mongodb::bson::raw::{RawBsonRef, RawDocument};

/// Why a BSON value has no JSON.
pub type Unreadable = String;

/// Appends the JSON of a value.
///
/// # Errors
/// The value is none that an event is made of, or the document is damaged.
pub fn write(out: &mut Vec<u8>, value: RawBsonRef<'_>) -> Result<(), Unreadable> {
    match value {
        RawBsonRef::Null => out.extend_from_slice(b"null"),
        RawBsonRef::Boolean(true) => out.extend_from_slice(b"true"),
        RawBsonRef::Boolean(false) => out.extend_from_slice(b"false"),
        RawBsonRef::Int32(number) => scalar(out, &number)?,
        RawBsonRef::Int64(number) => scalar(out, &number)?,
        RawBsonRef::Double(number) if number.is_finite() => scalar(out, &number)?,
        RawBsonRef::String(text) => scalar(out, text)?,
        RawBsonRef::Array(array) => {
            out.push(b'[');
            for (i, item) in array.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(out, item.map_err(|error| error.to_string())?)?;
            }
            out.push(b']');
        }
        RawBsonRef::Document(document) => {
            out.push(b'{');
            write_fields(out, document)?;
            out.push(b'}');
        }
        other => return Err(format!("a BSON {:?} is no JSON", other.element_type())),
    }
    Ok(())
}

fn write_fields(out: &mut Vec<u8>, document: &RawDocument) -> Result<(), Unreadable> {
    for (i, field) in document.iter().enumerate() {
        let (name, value) = field.map_err(|error| error.to_string())?;
        if i > 0 {
            out.push(b',');
        }
        scalar(out, name.as_str())?;
        out.push(b':');
        write(out, value)?;
    }
    Ok(())
}

/// Appends the JSON of a text or a number.
///
/// # Errors
/// It is a number that JSON does not have.
pub fn scalar(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) -> Result<(), Unreadable> {
    serde_json::to_writer(out, value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    /// As deep as the log stores.
    const LEVELS: usize = 90;

    fn back(json: &str) -> String {
        let value = parse(json, LEVELS).unwrap();
        let mut out = Vec::new();
        write(&mut out, value.as_raw_bson_ref()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_json_stringify_writes_comes_back() {
        for json in [
            "null",
            "true",
            "0",
            "-1",
            "2147483648",
            "9223372036854775807",
            "-9223372036854775808",
            "0.1",
            "-0.0",
            "\"\"",
            r#""ü \" \\ / \n \u0000 😀""#,
            "[]",
            "{}",
            r#"{"":{"":[[],[[]]]},"a.b":1,"$c":{"$d":"$e"}}"#,
            r#"{"z":1,"a":[1,2.5,"x",null,false]}"#,
        ] {
            assert_eq!(back(json), json);
        }
    }

    #[test]
    fn other_spellings_keep_their_meaning() {
        for (json, expected) in [("[ 1 ]", "[1]"), ("0.10", "0.1"), ("1e2", "100.0"), (r#""\u0061""#, r#""a""#)] {
            assert_eq!(back(json), expected);
        }
        assert_eq!(back("18446744073709551615"), "1.8446744073709552e+19");
    }

    #[test]
    fn what_bson_cannot_hold_is_said() {
        assert!(parse(r#"{"a\u0000b":1}"#, LEVELS).is_err());
        assert!(parse(&format!("{}1{}", "[".repeat(96), "]".repeat(96)), LEVELS).is_err());
        assert!(parse(&format!("{}1{}", "[".repeat(90), "]".repeat(90)), LEVELS).is_ok());
        assert!(write(&mut Vec::new(), RawBsonRef::Double(f64::NAN)).is_err());
        assert!(write(&mut Vec::new(), RawBsonRef::MaxKey).is_err());
    }
}
