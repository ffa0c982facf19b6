//! A cursor as a document: `{_id: "<topic>::<group>", topic, group, epoch, lastId, lastTs, lastSeq, delivered, settled, attempts}`.
//!
//! `settled` holds first and last seq of each range one after the other, `attempts` seq and count.

use mongodb::bson::{
    Bson, Document, doc,
    raw::{RawBsonRef, RawDocument},
};
use prom_protocol::{Group, Topic};
use prom_store::{Cursor, CursorPut, StoreError};

use crate::document::{long, whole};

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

/// What the epoch is of a position in the log of that epoch, or of a group that has begun without a log.
pub(super) fn of_log(epoch: u64) -> Document {
    doc! { "$in": [long(epoch), 0_i64, Bson::Null] }
}

/// A group's position as it is stored.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) group: Group,
    pub(super) cursor: Cursor,
    /// It says the id and time of the last settled event, but not its seq: the shape of the original, which counted none.
    pub(super) without_seq: bool,
}

/// The group and the cursor of a document.
pub(super) fn decode(document: &RawDocument) -> Result<Found, StoreError> {
    read(document).map_err(|error| {
        let id = document.get("_id").ok().flatten();
        StoreError::Damaged(format!("the cursor {id:?} in MongoDB is not what was written: {error}"))
    })
}

/// The group that a cursor's document names.
pub(super) fn group(document: &RawDocument) -> Option<&str> {
    document.get_str("_id").ok()?.split_once(BETWEEN).map(|(_, group)| group)
}

fn read(document: &RawDocument) -> Result<Found, String> {
    let number = |name: &str| match document.get(name).map_err(|error| error.to_string())? {
        None | Some(RawBsonRef::Null) => Ok(None),
        Some(_) => whole(document, name).map(Some).ok_or_else(|| format!("{name} is no number")),
    };
    let pairs = |name: &str| -> Result<Vec<(u64, u64)>, String> {
        let mut numbers = Vec::new();
        let array = match document.get(name).map_err(|error| error.to_string())? {
            None => return Ok(Vec::new()),
            Some(array) => array.as_array().ok_or_else(|| format!("{name} is no array"))?,
        };
        for number in array {
            let number = number.map_err(|error| error.to_string())?;
            let number = number.as_i64().or(number.as_i32().map(i64::from));
            numbers.push(number.and_then(|n| u64::try_from(n).ok()).ok_or_else(|| format!("{name} holds no numbers"))?);
        }
        match numbers.as_chunks::<2>() {
            (pairs, []) => Ok(pairs.iter().map(|[first, second]| (*first, *second)).collect()),
            _ => Err(format!("{name} is not in pairs")),
        }
    };
    let name = group(document).ok_or("its _id is not topic::group")?;
    let attempts = pairs("attempts")?;
    let attempts = attempts.into_iter().map(|(seq, count)| (seq, u32::try_from(count).unwrap_or(u32::MAX)));
    let floor = number("lastSeq")?;
    let cursor = Cursor {
        epoch: number("epoch")?.unwrap_or(0),
        floor: floor.unwrap_or(0),
        last_id: document.get_str("lastId").ok().map(Into::into),
        last_ts: number("lastTs")?.unwrap_or(0),
        delivered: number("delivered")?.or(floor).unwrap_or(0),
        settled: pairs("settled")?,
        attempts: attempts.collect(),
    };
    let group = Group::stored(name).map_err(|error| error.to_string())?;
    Ok(Found { group, cursor, without_seq: floor.is_none() })
}
