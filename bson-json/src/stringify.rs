//! BSON values to the JSON that `JSON.stringify` would make of them.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use mongodb::bson::{RawArray, RawBsonRef, RawDocument, Uuid, spec::BinarySubtype};
use prom_protocol::{ErrorCode, RawValue, Refusal, limits};

/// The JSON of `value`, which stands in the field `field`. As `JSON.stringify` of the value as the JavaScript driver reads
/// it, but: Int64 is a number, Decimal128 a string that keeps every digit, and minus zero keeps its sign.
///
/// # Errors
/// `bad_payload`, naming the field that has no JSON.
pub fn stringify(field: &str, value: RawBsonRef<'_>) -> Result<Box<RawValue>, Refusal> {
    let mut writer = Writer { out: Vec::new(), path: field.to_owned(), depth: 0 };
    writer.value(value)?;
    String::from_utf8(writer.out)
        .ok()
        .and_then(|json| RawValue::from_string(json).ok())
        .ok_or_else(|| bad(format!("{field} does not become JSON")))
}

fn bad(message: String) -> Refusal {
    Refusal::new(ErrorCode::BadPayload, message)
}

struct Writer {
    out: Vec<u8>,
    /// Where we are: `payload.lines.2`.
    path: String,
    depth: usize,
}

impl Writer {
    fn refuse(&self, what: impl fmt::Display) -> Refusal {
        bad(format!("{} {what}", self.path))
    }

    fn text(&mut self, text: &str) -> Result<(), Refusal> {
        serde_json::to_writer(&mut self.out, text).map_err(|error| self.refuse(error))
    }

    fn value(&mut self, value: RawBsonRef<'_>) -> Result<(), Refusal> {
        match value {
            RawBsonRef::Null => self.out.extend_from_slice(b"null"),
            RawBsonRef::Boolean(value) => self.out.extend_from_slice(if value { b"true" } else { b"false" }),
            RawBsonRef::Int32(number) => self.out.extend_from_slice(number.to_string().as_bytes()),
            RawBsonRef::Int64(number) => self.out.extend_from_slice(number.to_string().as_bytes()),
            RawBsonRef::Double(value) if value == 0.0 && value.is_sign_negative() => {
                self.out.extend_from_slice(b"-0.0");
            }
            RawBsonRef::Double(value) => match number(value) {
                Some(number) => self.out.extend_from_slice(number.as_bytes()),
                None => return Err(self.refuse(format_args!("is {value}, which JSON does not have"))),
            },
            RawBsonRef::Decimal128(value) => {
                let digits = value.to_string();
                if digits.contains(['N', 'I']) {
                    return Err(self.refuse(format_args!("is {digits}, which JSON does not have")));
                }
                self.text(&digits)?;
            }
            RawBsonRef::String(text) | RawBsonRef::Symbol(text) => self.text(text)?,
            RawBsonRef::ObjectId(id) => self.text(&id.to_hex())?,
            RawBsonRef::DateTime(at) => match date(at.timestamp_millis()) {
                Some(iso) => self.text(&iso)?,
                None => return Err(self.refuse("is a date beyond those of JavaScript")),
            },
            RawBsonRef::Binary(binary) => {
                let text = uuid(binary.subtype, binary.bytes);
                self.text(&text.unwrap_or_else(|| STANDARD.encode(binary.bytes)))?;
            }
            RawBsonRef::Document(document) => self.nested(|writer| writer.document(document))?,
            RawBsonRef::Array(array) => self.nested(|writer| writer.array(array))?,
            other => {
                return Err(self
                    .refuse(format_args!("is of the BSON type {:?}, which JSON does not have", other.element_type())));
            }
        }
        Ok(())
    }

    fn nested(&mut self, inner: impl FnOnce(&mut Self) -> Result<(), Refusal>) -> Result<(), Refusal> {
        self.depth += 1;
        if self.depth > limits::PAYLOAD_DEPTH {
            return Err(self.refuse(format_args!("nests deeper than {} levels", limits::PAYLOAD_DEPTH)));
        }
        inner(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn document(&mut self, document: &RawDocument) -> Result<(), Refusal> {
        let outer = self.path.len();
        self.out.push(b'{');
        let mut first = true;
        for element in document {
            let (name, value) = element.map_err(|error| self.refuse(format_args!("is damaged: {error}")))?;
            if matches!(value, RawBsonRef::Undefined) {
                continue;
            }
            if !first {
                self.out.push(b',');
            }
            first = false;
            self.path.push('.');
            self.path.push_str(name.as_str());
            self.text(name.as_str())?;
            self.out.push(b':');
            self.value(value)?;
            self.path.truncate(outer);
        }
        self.out.push(b'}');
        Ok(())
    }

    fn array(&mut self, array: &RawArray) -> Result<(), Refusal> {
        let outer = self.path.len();
        self.out.push(b'[');
        for (index, element) in array.into_iter().enumerate() {
            let value = element.map_err(|error| self.refuse(format_args!("is damaged: {error}")))?;
            if index > 0 {
                self.out.push(b',');
            }
            self.path.push_str(&format!(".{index}"));
            self.value(if matches!(value, RawBsonRef::Undefined) { RawBsonRef::Null } else { value })?;
            self.path.truncate(outer);
        }
        self.out.push(b']');
        Ok(())
    }
}

/// `Date.prototype.toISOString`; none beyond what a `Date` can be.
fn date(ms: i64) -> Option<String> {
    const DAY: i64 = 86_400_000;
    if ms.unsigned_abs() > 8_640_000_000_000_000 {
        return None;
    }
    let (days, in_day) = (ms.div_euclid(DAY), ms.rem_euclid(DAY));
    // Days to a civil date, in eras of 400 years that begin in March: howardhinnant.github.io/date_algorithms.html.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let year = if (0..=9999).contains(&year) { format!("{year:04}") } else { format!("{year:+07}") };
    let (seconds, ms) = (in_day / 1000, in_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    Some(format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"))
}

/// Largest integer that a double holds exactly, and its neighbours: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A number as JavaScript writes it, as far as JSON can read it; none for NaN and infinity.
pub fn number(value: f64) -> Option<String> {
    if !value.is_finite() {
        return None;
    }
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return Some((value as i64).to_string());
    }
    serde_json::to_string(&value).ok()
}

/// A UUID with hyphens, of either subtype; the old one's bytes as they stand.
pub fn uuid(subtype: BinarySubtype, bytes: &[u8]) -> Option<String> {
    let known = matches!(subtype, BinarySubtype::Uuid | BinarySubtype::UuidOld);
    let bytes = <[u8; 16]>::try_from(bytes).ok().filter(|_| known)?;
    Some(Uuid::from_bytes(bytes).to_string())
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Binary, Bson, DateTime, Decimal128, RawDocumentBuf, Regex, Timestamp, doc, oid::ObjectId};

    use super::*;
    use crate::parse;

    fn json(value: impl Into<Bson>) -> Result<String, String> {
        let raw = RawDocumentBuf::try_from(&doc! {"payload": value.into()}).unwrap();
        let json = stringify("payload", raw.get("payload").unwrap().unwrap());
        json.map(|json| json.get().to_owned()).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn payloads_become_what_json_stringify_makes_of_them() {
        let id = ObjectId::new();
        let uuid = Uuid::new();
        let decimal: Decimal128 = "19.90".parse().unwrap();
        for (value, expected) in [
            (Bson::Null, "null".to_owned()),
            (true.into(), "true".into()),
            (1.into(), "1".into()),
            (9_007_199_254_740_993_i64.into(), "9007199254740993".into()),
            (1.0.into(), "1".into()),
            ((-0.0).into(), "-0.0".into()),
            (0.1.into(), "0.1".into()),
            (1e21.into(), "1e+21".into()),
            ("ü\"\n".into(), r#""ü\"\n""#.into()),
            (id.into(), format!("\"{id}\"")),
            (DateTime::from_millis(0).into(), "\"1970-01-01T00:00:00.000Z\"".into()),
            (decimal.into(), "\"19.90\"".into()),
            (uuid.into(), format!("\"{uuid}\"")),
            (Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 3] }.into(), "\"AQID\"".into()),
            (Bson::Symbol("s".into()), "\"s\"".into()),
            (
                doc! {"z": 1, "a": [Bson::Undefined, 2, {}], "u": Bson::Undefined, "$oid": []}.into(),
                r#"{"z":1,"a":[null,2,{}],"$oid":[]}"#.into(),
            ),
        ] {
            assert_eq!(json(value.clone()), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_json_does_not_have_is_refused_by_its_name() {
        let nan = "payload.lines.1.price is NaN, which JSON does not have";
        assert_eq!(json(doc! {"lines": [{}, {"price": f64::NAN}]}), Err(nan.into()));
        assert!(json(f64::INFINITY).unwrap_err().contains("payload is inf"));
        let regex = Regex { pattern: "a".try_into().unwrap(), options: "".try_into().unwrap() };
        assert!(json(doc! {"r": regex}).unwrap_err().starts_with("payload.r is of the BSON type"));
        assert!(json(Timestamp { time: 1, increment: 1 }).is_err());
        assert!(json(Bson::MaxKey).is_err());
        assert!(json("NaN".parse::<Decimal128>().unwrap()).is_err());
        assert!(json(DateTime::from_millis(i64::MAX)).is_err());
        let deep = (0..97).fold(Bson::Null, |inner, _| Bson::Array(vec![inner]));
        assert!(json(deep).unwrap_err().ends_with("nests deeper than 96 levels"));
    }

    #[test]
    fn dates_are_written_as_javascript_writes_them() {
        for (ms, expected) in [
            (1_709_210_096_789, "2024-02-29T12:34:56.789Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_800_000, "+010000-01-01T00:00:00.000Z"),
            (-62_198_755_200_000, "-000001-01-01T00:00:00.000Z"),
            (-8_640_000_000_000_000, "-271821-04-20T00:00:00.000Z"),
            (8_640_000_000_000_000, "+275760-09-13T00:00:00.000Z"),
        ] {
            assert_eq!(date(ms).as_deref(), Some(expected));
        }
        assert_eq!(date(8_640_000_000_000_001), None);
    }

    #[test]
    fn json_comes_back_from_bson_as_it_was() {
        for text in [
            r#"{"z":1,"a":{"$oid":"507f1f77bcf86cd799439011"},"$date":0,"big":-9223372036854775808,"f":0.30000000000000004}"#,
            r#"[null,true,"ü",[],{},-0.0]"#,
            r#"{"a":1,"a":{"b":1,"b":2}}"#,
            "1.7976931348623157e+308",
        ] {
            let bson = parse(text, limits::PAYLOAD_DEPTH).unwrap();
            let back = stringify("payload", bson.as_raw_bson_ref()).unwrap();
            assert_eq!(back.get(), text);
        }
    }
}
