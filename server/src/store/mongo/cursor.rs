//! A cursor as a document: `{_id: "<topic>::<group>", topic, group, epoch, lastId, lastTs, lastSeq, delivered, settled, attempts}`.
//!
//! `settled` holds first and last seq of each range one after the other, `attempts` seq and count.

use mongodb::bson::{Bson, Document, doc, raw::RawDocument};
use prom_protocol::{Group, Topic};

use super::document::long;
use crate::store::{Cursor, CursorPut, StoreError};

/// Between topic and group; no topic has a colon in it.
pub(super) const BETWEEN: &str = "::";
/// Behind every cursor of a topic: the character after a colon.
const BEHIND: &str = ":;";

/// The document's id, and the other fields.
pub(super) fn encode(put: &CursorPut) -> (String, Document) {
    let cursor = &put.cursor;
    let settled = cursor.settled.iter().flat_map(|(first, last)| [long(*first), long(*last)]).map(Bson::Int64);
    let attempts = cursor.attempts.iter().flat_map(|(seq, count)| [long(*seq), i64::from(*count)]).map(Bson::Int64);
    let fields = doc! {
        "topic": put.topic.as_str(),
        "group": put.group.as_str(),
        "epoch": long(cursor.epoch),
        "lastId": cursor.last_id.as_deref(),
        "lastTs": long(cursor.last_ts),
        "lastSeq": long(cursor.floor),
        "delivered": long(cursor.delivered),
        "settled": settled.collect::<Vec<_>>(),
        "attempts": attempts.collect::<Vec<_>>(),
    };
    (id(&put.topic, &put.group), fields)
}

pub(super) fn id(topic: &Topic, group: &Group) -> String {
    format!("{topic}{BETWEEN}{group}")
}

/// Which documents are a topic's cursors: a range of the index of ids.
pub(super) fn of_topic(topic: &Topic) -> Document {
    doc! { "_id": { "$gt": format!("{topic}{BETWEEN}"), "$lt": format!("{topic}{BEHIND}") } }
}

/// The group and the cursor of a document.
pub(super) fn decode(document: &RawDocument) -> Result<(Group, Cursor), StoreError> {
    read(document).map_err(|error| {
        let id = document.get("_id").ok().flatten();
        StoreError::Damaged(format!("the cursor {id:?} in MongoDB is not what was written: {error}"))
    })
}

fn read(document: &RawDocument) -> Result<(Group, Cursor), String> {
    let number = |name: &str| {
        let number = document.get_i64(name).map_err(|error| error.to_string())?;
        u64::try_from(number).map_err(|_| format!("{name} is negative"))
    };
    let pairs = |name: &str| -> Result<Vec<(u64, u64)>, String> {
        let mut numbers = Vec::new();
        for number in document.get_array(name).map_err(|error| error.to_string())? {
            let number = number.map_err(|error| error.to_string())?.as_i64();
            numbers.push(number.and_then(|n| u64::try_from(n).ok()).ok_or_else(|| format!("{name} holds no numbers"))?);
        }
        match numbers.as_chunks::<2>() {
            (pairs, []) => Ok(pairs.iter().map(|[first, second]| (*first, *second)).collect()),
            _ => Err(format!("{name} is not in pairs")),
        }
    };
    let group = document.get_str("group").map_err(|error| error.to_string())?;
    let attempts = pairs("attempts")?;
    let attempts = attempts.into_iter().map(|(seq, count)| (seq, u32::try_from(count).unwrap_or(u32::MAX)));
    let cursor = Cursor {
        epoch: number("epoch")?,
        floor: number("lastSeq")?,
        last_id: document.get_str("lastId").ok().map(Into::into),
        last_ts: number("lastTs")?,
        delivered: number("delivered")?,
        settled: pairs("settled")?,
        attempts: attempts.collect(),
    };
    Ok((Group::new(group).map_err(|error| error.to_string())?, cursor))
}
