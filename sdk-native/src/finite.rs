//! Whether all numbers of a value are finite: JSON has no others, and serde_json writes a null instead.

use std::fmt::{self, Display};

use serde::{Serialize, ser};

use crate::Error;

/// Refuses a value with a number that is not finite, by the path to it.
pub(crate) fn check<T: Serialize + ?Sized>(payload: &T) -> Result<(), Error> {
    let mut path = String::from("payload");
    payload.serialize(Walk(&mut path)).map_err(|Found(message)| {
        let error = prom_sdk_core::Error::of(prom_protocol::ErrorCode::BadPayload, message);
        Error::from(error)
    })
}

/// Goes through a value; the path is that of the value being looked at.
struct Walk<'a>(&'a mut String);

/// What was found, in words.
#[derive(Debug)]
struct Found(String);

impl Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Found {}

impl ser::Error for Found {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl Walk<'_> {
    fn number(self, number: f64) -> Result<(), Found> {
        if number.is_finite() { Ok(()) } else { Err(Found(format!("{} is {number}, which JSON cannot hold", self.0))) }
    }

    /// Looks at a part, whose path ends with `step`.
    fn step<T: Serialize + ?Sized>(&mut self, step: &str, part: &T) -> Result<(), Found> {
        let length = self.0.len();
        self.0.push_str(step);
        part.serialize(Walk(self.0))?;
        self.0.truncate(length);
        Ok(())
    }
}

/// Parts under way: entries of a list, or fields.
struct Parts<'a> {
    walk: Walk<'a>,
    next: usize,
    key: String,
}

impl Parts<'_> {
    fn entry<T: Serialize + ?Sized>(&mut self, entry: &T) -> Result<(), Found> {
        let step = format!("[{}]", self.next);
        self.next += 1;
        self.walk.step(&step, entry)
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, field: &T) -> Result<(), Found> {
        self.walk.step(&[".", name].concat(), field)
    }
}

macro_rules! fine {
    ($($name:ident($type:ty)),+) => {
        $(fn $name(self, _: $type) -> Result<(), Found> {
            Ok(())
        })+
    };
}

impl<'a> ser::Serializer for Walk<'a> {
    type Ok = ();
    type Error = Found;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeMap = Parts<'a>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    fine!(
        serialize_bool(bool),
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_i128(i128),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_u64(u64),
        serialize_u128(u128),
        serialize_char(char),
        serialize_str(&str),
        serialize_bytes(&[u8]),
        serialize_unit_struct(&'static str)
    );

    fn serialize_f32(self, number: f32) -> Result<(), Found> {
        self.number(number.into())
    }

    fn serialize_f64(self, number: f64) -> Result<(), Found> {
        self.number(number)
    }

    fn serialize_none(self) -> Result<(), Found> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Found> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Found> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Found> {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Found> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Found> {
        self.step(&[".", variant].concat(), value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'a>, Found> {
        Ok(Parts { walk: self, next: 0, key: String::new() })
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<'a>, Found> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, Found> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Parts<'a>, Found> {
        self.serialize_seq(None)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts<'a>, Found> {
        self.serialize_seq(None)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, Found> {
        self.serialize_seq(None)
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Parts<'a>, Found> {
        self.serialize_seq(None)
    }
}

macro_rules! entries {
    ($($trait:ident::$name:ident),+) => {
        $(impl ser::$trait for Parts<'_> {
            type Ok = ();
            type Error = Found;

            fn $name<T: Serialize + ?Sized>(&mut self, entry: &T) -> Result<(), Found> {
                self.entry(entry)
            }

            fn end(self) -> Result<(), Found> {
                Ok(())
            }
        })+
    };
}

entries!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

macro_rules! named {
    ($($trait:ident),+) => {
        $(impl ser::$trait for Parts<'_> {
            type Ok = ();
            type Error = Found;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, field: &T) -> Result<(), Found> {
                self.field(name, field)
            }

            fn end(self) -> Result<(), Found> {
                Ok(())
            }
        })+
    };
}

named!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Parts<'_> {
    type Ok = ();
    type Error = Found;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Found> {
        // Only for the path; what cannot be a key has been refused before.
        self.key = serde_json::to_string(key).unwrap_or_default().trim_matches('"').to_owned();
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Found> {
        let key = std::mem::take(&mut self.key);
        self.field(&key, value)
    }

    fn end(self) -> Result<(), Found> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Serialize)]
    enum Kind {
        One(f64),
        Both(f64, f32),
        Named { value: f64 },
        None,
    }

    #[derive(Serialize)]
    struct Reading {
        list: Vec<Option<f64>>,
        map: BTreeMap<String, (u8, f32)>,
        kind: Kind,
    }

    fn reading() -> Reading {
        Reading { list: vec![Some(1.0), None], map: BTreeMap::from([("a".to_owned(), (1, 2.0))]), kind: Kind::None }
    }

    fn message(payload: &impl Serialize) -> String {
        check(payload).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_finite_number_is_found_wherever_it_is() {
        assert!(check(&reading()).is_ok() && check(&None::<f64>).is_ok());
        assert!(message(&f64::NAN).starts_with("payload is NaN, which JSON cannot hold"));
        assert!(message(&f32::INFINITY).starts_with("payload is inf"));
        let mut wrong = reading();
        wrong.list.push(Some(f64::NEG_INFINITY));
        assert!(message(&wrong).starts_with("payload.list[2] is -inf"), "{}", message(&wrong));
        let mut wrong = reading();
        wrong.map.insert("b".to_owned(), (1, f32::NAN));
        assert!(message(&wrong).starts_with("payload.map.b[1] is NaN"), "{}", message(&wrong));
        for kind in [Kind::One(f64::NAN), Kind::Both(1.0, f32::NAN), Kind::Named { value: f64::NAN }] {
            let wrong = Reading { kind, ..reading() };
            assert!(message(&wrong).starts_with("payload.kind"), "{}", message(&wrong));
        }
    }
}
