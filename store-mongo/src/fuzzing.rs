//! Documents of the hub's collections, for `fuzz/targets`: what reads them is not public and is called from here. No part of
//! the store uses it, and nobody else should.

use mongodb::bson::raw::RawDocument;
use prom_store::{Cursor, CursorPut, Record, StoreError};

use crate::{
    cursor,
    document::{self, Position},
};

/// The event of a document; none for bytes that are no document at all.
///
/// # Errors
/// It is damaged.
pub fn event(bytes: &[u8]) -> Option<Result<Record, StoreError>> {
    RawDocument::from_bytes(bytes).ok().map(document::decode)
}

/// The document of an event whose body this is.
pub fn document(id: &str, seq: u64, ts: u64, topic: &str, key: Option<&str>, body: &[u8]) -> Option<Vec<u8>> {
    let position = Position { id, seq, ts, max_ts: ts, at: ts };
    document::encode(position, topic, key, body).map(|document| document.as_bytes().to_vec())
}

/// The group and the cursor of a document; none for bytes that are no document at all.
///
/// # Errors
/// It is damaged.
pub fn cursor(bytes: &[u8]) -> Option<Result<(String, Cursor), StoreError>> {
    let found = cursor::decode(RawDocument::from_bytes(bytes).ok()?);
    Some(found.map(|found| (found.group.to_string(), found.cursor)))
}

/// The document of a cursor, as BSON.
pub fn cursor_document(put: &CursorPut) -> Option<Vec<u8>> {
    let (id, mut fields) = cursor::encode(put);
    fields.insert("_id", id);
    fields.to_vec().ok()
}
