//! JSON text to BSON values and back: BSON is what other tools query, the text is what subscribers get.

use std::fmt;

use mongodb::bson::{
    RawArrayBuf, RawDocumentBuf,
    raw::{CString, RawBson, RawBsonRef, RawDocument},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};

/// MongoDB takes documents nested 100 deep; the event and a dead letter around it take some of that.
const MAX_DEPTH: usize = 90;

/// The BSON value of a JSON text; an error if BSON has none, such as for a name with a NUL in it.
pub(super) fn to_bson(json: &str) -> Result<RawBson, serde_json::Error> {
    let mut text = serde_json::Deserializer::from_str(json);
    let value = Value { depth: 0 }.deserialize(&mut text)?;
    text.end()?;
    Ok(value)
}

/// A value at this depth. Small integers become Int32 and larger ones Int64, as the drivers of most languages do.
struct Value {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Value {
    type Value = RawBson;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawBson, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Value {
    fn inner<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH { Err(E::custom("nested too deep")) } else { Ok(Self { depth: self.depth + 1 }) }
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = RawBson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<RawBson, E> {
        Ok(RawBson::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawBson, E> {
        Ok(RawBson::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<RawBson, E> {
        Ok(integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<RawBson, E> {
        // Beyond i64 a JSON number is a double to everybody else too.
        #[allow(clippy::cast_precision_loss)]
        Ok(i64::try_from(value).map_or(RawBson::Double(value as f64), integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<RawBson, E> {
        Ok(RawBson::Double(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<RawBson, E> {
        Ok(RawBson::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<RawBson, E> {
        Ok(RawBson::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<RawBson, A::Error> {
        let mut array = RawArrayBuf::new();
        while let Some(item) = items.next_element_seed(self.inner()?)? {
            array.push(item);
        }
        Ok(RawBson::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<RawBson, A::Error> {
        let mut document = RawDocumentBuf::new();
        while let Some(name) = fields.next_key::<Name>()? {
            document.append(name.0, fields.next_value_seed(self.inner()?)?);
        }
        Ok(RawBson::Document(document))
    }
}

fn integer(value: i64) -> RawBson {
    i32::try_from(value).map_or(RawBson::Int64(value), RawBson::Int32)
}

/// A field's name; BSON ends it with a NUL, so it can hold none.
struct Name(CString);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        CString::try_from(name).map(Self).map_err(|_| D::Error::custom("a NUL in a name"))
    }
}

/// Why a BSON value has no JSON.
pub(super) type Unreadable = String;

/// Appends the JSON of a value. What no event is made of is an error.
pub(super) fn write(out: &mut Vec<u8>, value: RawBsonRef<'_>) -> Result<(), Unreadable> {
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
pub(super) fn scalar(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) -> Result<(), Unreadable> {
    serde_json::to_writer(out, value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(json: &str) -> String {
        let value = to_bson(json).unwrap();
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
        assert!(to_bson(r#"{"a\u0000b":1}"#).is_err());
        assert!(to_bson(&format!("{}1{}", "[".repeat(96), "]".repeat(96))).is_err());
        assert!(to_bson(&format!("{}1{}", "[".repeat(90), "]".repeat(90))).is_ok());
        assert!(write(&mut Vec::new(), RawBsonRef::Double(f64::NAN)).is_err());
        assert!(write(&mut Vec::new(), RawBsonRef::MaxKey).is_err());
    }
}
