//! Ids and keys as text, and back.

use mongodb::bson::{Binary, Bson, RawBsonRef, Uuid, UuidRepresentation, oid::ObjectId, spec::BinarySubtype};
use prom_bson::{number, uuid};

/// The text of an id or key; `None` for a type that cannot be one.
pub(super) fn of(value: RawBsonRef<'_>) -> Option<String> {
    match value {
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => Some(text.to_owned()),
        RawBsonRef::ObjectId(id) => Some(id.to_hex()),
        RawBsonRef::Int32(number) => Some(number.to_string()),
        RawBsonRef::Int64(number) => Some(number.to_string()),
        RawBsonRef::Double(value) => number(value),
        RawBsonRef::Binary(binary) => uuid(binary.subtype, binary.bytes),
        _ => None,
    }
}

/// Every value for which [`of`] returns this text. MongoDB compares numbers across types, so one integer is enough.
pub(super) fn values(text: &str) -> Vec<Bson> {
    let mut values = vec![Bson::String(text.to_owned())];
    if let Ok(id) = ObjectId::parse_str(text)
        && id.to_hex() == text
    {
        values.push(id.into());
    }
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(integer), _) if integer.to_string() == text => values.push(integer.into()),
        (_, Ok(value)) if number(value).as_deref() == Some(text) => values.push(value.into()),
        _ => {}
    }
    if let Ok(id) = Uuid::parse_str(text)
        && id.to_string() == text
    {
        values.push(id.into());
        let old = Binary { subtype: BinarySubtype::UuidOld, bytes: id.bytes().to_vec() };
        debug_assert_eq!(old.bytes, Binary::from_uuid_with_representation(id, UuidRepresentation::PythonLegacy).bytes);
        values.push(old.into());
    }
    values
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{RawDocumentBuf, doc, rawdoc};

    use super::*;

    #[test]
    fn every_id_is_found_by_its_text() {
        let id = ObjectId::new();
        let uuid = Uuid::new();
        let old = Binary { subtype: BinarySubtype::UuidOld, bytes: uuid.bytes().to_vec() };
        for (value, text) in [
            (Bson::from(id), id.to_hex()),
            ("order-7".into(), "order-7".into()),
            (7.into(), "7".into()),
            ((-7_i64).into(), "-7".into()),
            (7.0.into(), "7".into()),
            (7.5.into(), "7.5".into()),
            (uuid.into(), uuid.to_string()),
            (old.into(), uuid.to_string()),
        ] {
            let raw = RawDocumentBuf::try_from(&doc! {"_id": value.clone()}).unwrap();
            assert_eq!(of(raw.get("_id").unwrap().unwrap()), Some(text.clone()));
            let same = |other: &Bson| {
                let number =
                    |bson: &Bson| bson.as_i64().map(|n| n as f64).or(bson.as_f64()).or(bson.as_i32().map(f64::from));
                *other == value || number(other).is_some_and(|other| Some(other) == number(&value))
            };
            assert!(values(&text).iter().any(same), "{value}");
        }
    }

    #[test]
    fn what_is_no_id_has_no_text() {
        let raw = rawdoc! {"a": f64::NAN, "b": true, "c": {"x": 1}, "d": null};
        for field in ["a", "b", "c", "d"] {
            assert_eq!(of(raw.get(field).unwrap().unwrap()), None, "{field}");
        }
    }
}
