//! Reads and writes rows as documents.

use mongodb::bson::{
    Bson, DateTime, RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf,
    oid::ObjectId,
    raw::{CString, cstr},
};
use prom_protocol::{ErrorCode, RawValue, Refusal, limits};

use super::text;
use crate::{NewRow, OutboxEvent, Row, RowId, Status};

/// A row, as far as a document can be read as one.
pub(super) struct Read {
    pub(super) id: RowId,
    pub(super) row: Row,
    /// Its time in the order, in milliseconds since 1970; 0 if it has none.
    pub(super) at: u64,
    /// The size of the document in bytes.
    pub(super) size: usize,
    /// What is wrong with the first field that has a wrong type or value.
    problem: Option<Refusal>,
}

impl Read {
    pub(super) fn event(&self) -> Result<OutboxEvent, Refusal> {
        self.problem.clone().map_or_else(|| self.row.event(), Err)
    }
}

/// Reads a document; what is wrong with it is in [`Read::event`].
pub(super) fn read(document: &RawDocument) -> Read {
    let mut reader = Reader { document, problem: None };
    let (id, time) = reader.id();
    let ts = reader.ts(time);
    let at = ts.unwrap_or(0);
    let row = Row {
        id: id.as_str().to_owned(),
        topic: reader.topic(),
        payload: reader.payload(),
        headers: reader.headers(),
        key: reader.text("key"),
        sid: reader.text("sid"),
        tags: reader.tags(),
        caused_by: reader.causes(),
        status: reader.status(),
        claimed_by: reader.text_or_none("claimed_by"),
        lease_until: reader.field("lease_until").and_then(millis),
        fence: reader.field("fence").and_then(millis),
        last_err: reader.text_or_none("last_err"),
        ts,
        attempts: reader.field("attempts").and_then(millis).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        next_try_at: reader.field("next_try_at").and_then(millis),
    };
    Read { id, row, at, size: document.as_bytes().len(), problem: reader.problem }
}

struct Reader<'a> {
    document: &'a RawDocument,
    problem: Option<Refusal>,
}

impl<'a> Reader<'a> {
    fn problem(&mut self, code: ErrorCode, message: impl Into<String>) {
        if self.problem.is_none() {
            self.problem = Some(Refusal::new(code, message));
        }
    }

    /// The field, if it is there and not `null`.
    fn field(&self, name: &str) -> Option<RawBsonRef<'a>> {
        let value = self.document.get(name).ok().flatten();
        value.filter(|value| !matches!(value, RawBsonRef::Null | RawBsonRef::Undefined))
    }

    /// The id, and the time in it if it is an ObjectId, in milliseconds since 1970.
    fn id(&mut self) -> (RowId, Option<u64>) {
        let Some(value) = self.document.get("_id").ok().flatten() else {
            self.problem(ErrorCode::BadFrame, "_id cannot be read");
            return (RowId::plain(""), None);
        };
        let mut native = RawDocumentBuf::new();
        native.append(cstr!("_id"), value);
        let time = match value {
            RawBsonRef::ObjectId(id) => u64::try_from(id.timestamp().timestamp_millis()).ok(),
            _ => None,
        };
        let text = text::of(value).unwrap_or_else(|| {
            self.problem(ErrorCode::BadFrame, "_id must be an ObjectId, a string, a UUID or a number");
            Bson::try_from(value).map_or_else(|_| String::new(), |bson| bson.to_string())
        });
        (RowId::native(&text, native.as_bytes()), time)
    }

    fn ts(&mut self, of_id: Option<u64>) -> Option<u64> {
        let Some(value) = self.field("ts") else { return of_id };
        let ts = millis(value).filter(|ts| *ts <= limits::TS_MAX);
        if ts.is_none() {
            self.problem(ErrorCode::BadFrame, format!("ts must be a date or a number, 0 to {}", limits::TS_MAX));
        }
        ts
    }

    fn topic(&mut self) -> String {
        match self.field("topic") {
            Some(RawBsonRef::String(topic)) => topic.to_owned(),
            _ => {
                self.problem(ErrorCode::BadTopic, "topic must be a string");
                String::new()
            }
        }
    }

    fn payload(&mut self) -> Option<Box<prom_protocol::RawValue>> {
        let value = match self.document.get("payload") {
            Ok(Some(value)) => value,
            Ok(None) => {
                self.problem(ErrorCode::BadPayload, "payload is missing");
                return None;
            }
            Err(error) => {
                self.problem(ErrorCode::BadPayload, format!("payload is damaged: {error}"));
                return None;
            }
        };
        match prom_bson::stringify("payload", value) {
            Ok(payload) => Some(payload),
            Err(error) => {
                self.problem(error.code(), error.message());
                None
            }
        }
    }

    fn headers(&mut self) -> Vec<(String, String)> {
        let document = match self.field("headers") {
            None => return Vec::new(),
            Some(RawBsonRef::Document(document)) => document,
            Some(_) => {
                self.problem(ErrorCode::BadFrame, "headers must be an object");
                return Vec::new();
            }
        };
        let mut headers = Vec::new();
        for (name, value) in document.iter().flatten() {
            let value = match value {
                RawBsonRef::Null | RawBsonRef::Undefined => continue,
                RawBsonRef::Boolean(value) => Some(value.to_string()),
                value => text::of(value),
            };
            match value {
                Some(value) => headers.push((name.as_str().to_owned(), value)),
                None => self.problem(ErrorCode::BadFrame, format!("headers.{} must be a string", name.as_str())),
            }
        }
        headers
    }

    fn tags(&mut self) -> Vec<String> {
        let array = match self.field("tags") {
            None => return Vec::new(),
            Some(RawBsonRef::Array(array)) => array,
            Some(_) => {
                self.problem(ErrorCode::BadFrame, "tags must be a list of strings");
                return Vec::new();
            }
        };
        let tags: Option<Vec<_>> = array.into_iter().map(|tag| text::of(tag.ok()?)).collect();
        tags.unwrap_or_else(|| {
            self.problem(ErrorCode::BadFrame, "tags must be a list of strings");
            Vec::new()
        })
    }

    /// A list, or one that is a list of one.
    fn causes(&mut self) -> Vec<String> {
        let Some(RawBsonRef::Array(array)) = self.field("caused_by") else {
            return self.text("caused_by").into_iter().collect();
        };
        let causes: Option<Vec<_>> = array.into_iter().map(|cause| text::of(cause.ok()?)).collect();
        causes.unwrap_or_else(|| {
            self.problem(
                ErrorCode::BadFrame,
                "an entry of caused_by must be a string, an ObjectId, a UUID or a number",
            );
            Vec::new()
        })
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let value = self.field(name)?;
        let text = text::of(value);
        if text.is_none() {
            self.problem(ErrorCode::BadFrame, format!("{name} must be a string, an ObjectId, a UUID or a number"));
        }
        text
    }

    fn text_or_none(&self, name: &str) -> Option<String> {
        self.field(name).and_then(text::of)
    }

    fn status(&mut self) -> Status {
        let Some(value) = self.field("status") else { return Status::Pending };
        let status = text::of(value).and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| {
            self.problem(ErrorCode::BadFrame, no_status(Some(value)));
            Status::Error
        })
    }
}

/// Says what is wrong with an unknown status.
pub(super) fn no_status(value: Option<RawBsonRef<'_>>) -> String {
    let wrong = match value.and_then(text::of) {
        // A text that is a status can only come from another type here, such as a list with one status in it.
        Some(text) => text.parse::<Status>().err(),
        None => None,
    };
    wrong.unwrap_or_else(|| "status must be pending, claimed, sent or error, as a string".into())
}

/// A time in milliseconds or a count, if it is whole and not negative.
fn millis(value: RawBsonRef<'_>) -> Option<u64> {
    match value {
        RawBsonRef::DateTime(at) => u64::try_from(at.timestamp_millis()).ok(),
        RawBsonRef::Int32(number) => u64::try_from(number).ok(),
        RawBsonRef::Int64(number) => u64::try_from(number).ok(),
        RawBsonRef::Double(number) if number >= 0.0 && number < u64::MAX as f64 => Some(number as u64),
        _ => None,
    }
}

/// The BSON of a payload, as deep as serde_json reads, which is 128 levels: how deep an event may nest is looked at when it
/// is published.
fn payload(json: &RawValue) -> Result<RawBson, Refusal> {
    prom_bson::parse(json.get(), usize::MAX)
        .map_err(|error| Refusal::new(ErrorCode::BadPayload, format!("payload cannot be stored in MongoDB: {error}")))
}

/// The document of a new row, and its id as text.
pub(super) fn write(new: NewRow, now: u64) -> Result<(RawDocumentBuf, String), Refusal> {
    let made = ObjectId::new();
    let id = new.id.clone().map_or(RawBson::ObjectId(made), RawBson::String);
    let row = new.into_row(now, || made.to_hex())?;
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_id"), id);
    document.append(cstr!("topic"), row.topic);
    document.append(cstr!("payload"), row.payload.as_deref().map(payload).transpose()?.unwrap_or(RawBson::Null));
    if !row.headers.is_empty() {
        let mut headers = RawDocumentBuf::new();
        for (name, value) in row.headers {
            let zero = |_| Refusal::new(ErrorCode::BadFrame, "headers: a name holds a zero character");
            headers.append(CString::try_from(name).map_err(zero)?, value);
        }
        document.append(cstr!("headers"), headers);
    }
    for (name, value) in [(cstr!("key"), row.key), (cstr!("sid"), row.sid)] {
        if let Some(value) = value {
            document.append(name, value);
        }
    }
    for (name, list) in [(cstr!("tags"), row.tags), (cstr!("caused_by"), row.caused_by)] {
        if !list.is_empty() {
            document.append(name, list.into_iter().collect::<RawArrayBuf>());
        }
    }
    document.append(cstr!("status"), Status::Pending.as_str());
    document.append(cstr!("ts"), date(row.ts.unwrap_or(now)));
    document.append(cstr!("attempts"), 0);
    Ok((document, row.id))
}

pub(super) fn date(ms: u64) -> DateTime {
    DateTime::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// The `_id` as it stands in the document.
pub(super) fn id(id: &RowId) -> Option<Bson> {
    let native = RawDocument::from_bytes(id.as_native()?).ok()?;
    Bson::try_from(native.get("_id").ok()??).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_bson_cannot_hold_is_refused() {
        let json = RawValue::from_string(r#"{"a\u0000":1}"#.to_owned()).unwrap();
        let refused = payload(&json).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::BadPayload);
        assert!(refused.message().starts_with("payload cannot be stored in MongoDB: a name holds"), "{refused}");
    }
}
