//! JSON text to BSON values.

use std::fmt;

use mongodb::bson::{
    RawArrayBuf, RawDocumentBuf,
    raw::{CString, RawBson},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};

/// The BSON value of a JSON text whose arrays and objects nest at most `levels` deep: as it is, names that are repeated
/// too. An integer beyond 64 bits becomes a double, as it does to most readers of JSON.
///
/// # Errors
/// The text is not JSON, nests deeper, or BSON has no such value: a name that holds a zero character.
pub fn parse(json: &str, levels: usize) -> Result<RawBson, serde_json::Error> {
    let mut text = serde_json::Deserializer::from_str(json);
    let value = Value { levels }.deserialize(&mut text)?;
    text.end()?;
    Ok(value)
}

/// A value that may nest this many levels deep. Small integers become Int32 and larger ones Int64, as the drivers of most languages do.
struct Value {
    levels: usize,
}

impl<'de> DeserializeSeed<'de> for Value {
    type Value = RawBson;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawBson, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Value {
    fn inner<E: serde::de::Error>(&self) -> Result<Self, E> {
        let levels = self.levels.checked_sub(1).ok_or_else(|| E::custom("nested too deep"))?;
        Ok(Self { levels })
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

/// A field's name; BSON ends it with a NUL, so it holds none itself.
struct Name(CString);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        CString::try_from(name).map(Self).map_err(|_| D::Error::custom("a name holds a zero character"))
    }
}
