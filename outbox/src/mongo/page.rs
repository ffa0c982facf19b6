//! What is next: the first rows in order that may be claimed.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use mongodb::{
    ClientSession,
    bson::{Bson, DateTime, Document, RawDocument, doc},
    error::{Error, ErrorKind, Result},
    options::Hint,
};

use super::{
    MongoOutbox,
    claim::pending,
    document::{self, Read},
    text,
};
use crate::{ClaimRequest, RowId};

/// How long a claim searches for rows of free keys.
pub(super) const SEARCH: Duration = Duration::from_millis(2_500);
/// So many keys that are not free are named in a query, whose size is limited; rows of others are read and left.
const NAMED: usize = 4_000;

/// Index of the order. With the key, so that rows of busy keys are passed over without reading them.
pub(super) fn order() -> Document {
    doc! {"status": 1, "ts": 1, "_id": 1, "key": 1}
}

/// Rows that may be claimed now, but those of `blocked` keys.
pub(super) fn claimable(now: DateTime, blocked: &[Bson]) -> Document {
    // Not `$lte`: a `next_try_at` that is no date must not hide its row for ever.
    let mut filter = doc! {"status": pending(), "next_try_at": {"$not": {"$gt": now}}};
    if !blocked.is_empty() {
        filter.insert("key", doc! {"$nin": blocked});
    }
    filter
}

/// The first rows in order, and whether a limit cut them off.
///
/// MongoDB sorts by type before it sorts by value: rows without `ts`, then those with a number, then those with a date.
/// So when the first page does not show the end, the heads of the other types are read too.
pub(super) async fn next(
    outbox: &MongoOutbox,
    session: &mut ClientSession,
    now: DateTime,
    blocked: &HashSet<String>,
    request: &ClaimRequest,
) -> Result<(Vec<Read>, bool)> {
    // Two types may have one text, and so be one key.
    let named: Vec<Bson> = blocked.iter().take(NAMED).flat_map(|key| text::values(key)).collect();
    let filter = claimable(now, &named);
    let first = page(outbox, session, filter.clone(), blocked, request).await?;
    let cut = first.cut;
    let mut rows = first.rows;
    if first.types != Types::Dates {
        let mut until = u64::MAX;
        if cut {
            // Behind the last row of a page that is cut there may be one that comes before those of other types.
            let end = |page: &[Read], cut: bool| page.last().filter(|_| cut).map_or(u64::MAX, |row| row.at);
            until = end(&rows, cut);
            for kind in ["number", "date"] {
                let mut one_type = filter.clone();
                one_type.insert("ts", doc! {"$type": kind});
                let other = page(outbox, session, one_type, blocked, request).await?;
                until = until.min(end(&other.rows, other.cut));
                let known: HashSet<RowId> = rows.iter().map(|row| row.id.clone()).collect();
                rows.extend(other.rows.into_iter().filter(|row| !known.contains(&row.id)));
            }
        }
        // Stable: equal times keep MongoDB's order of `_id` within their type.
        rows.sort_by_key(|row| row.at);
        rows.retain(|row| row.at <= until);
    }
    let mut bytes = 0;
    let mut fits = 0;
    for row in &rows {
        bytes += row.row.bytes();
        if fits >= request.limit || (fits > 0 && bytes > request.max_bytes) {
            break;
        }
        fits += 1;
    }
    let more = cut || fits < rows.len();
    rows.truncate(fits);
    Ok((rows, more))
}

#[derive(PartialEq)]
enum Types {
    Dates,
    Others,
}

struct Page {
    rows: Vec<Read>,
    cut: bool,
    types: Types,
}

async fn page(
    outbox: &MongoOutbox,
    session: &mut ClientSession,
    filter: Document,
    blocked: &HashSet<String>,
    request: &ClaimRequest,
) -> Result<Page> {
    let until = Instant::now() + SEARCH;
    let limit = request.limit.max(1);
    // When the query cannot name all keys that are not free, it cannot count rows either.
    let all_named = blocked.len() <= NAMED;
    let mut found = outbox
        .rows
        .find(filter)
        .sort(doc! {"ts": 1, "_id": 1})
        .hint(Hint::Keys(order()))
        .limit(if all_named { i64::try_from(limit).unwrap_or(i64::MAX) } else { 0 })
        .batch_size(u32::try_from(limit).unwrap_or(u32::MAX))
        .max_time(SEARCH)
        .session(&mut *session)
        .await
        .map_err(|error| too_long(error, blocked))?;
    let mut page = Page { rows: Vec::new(), cut: false, types: Types::Dates };
    let mut bytes = 0;
    while page.rows.len() < limit && found.advance(session).await.map_err(|error| too_long(error, blocked))? {
        let raw: &RawDocument = found.current();
        let row = document::read(raw);
        if !all_named && row.row.key.as_ref().is_some_and(|key| blocked.contains(key)) {
            if Instant::now() < until {
                continue;
            }
            if page.rows.is_empty() {
                return Err(searched(blocked));
            }
            page.cut = true;
            return Ok(page);
        }
        bytes += row.row.bytes();
        if !page.rows.is_empty() && bytes > request.max_bytes {
            page.cut = true;
            return Ok(page);
        }
        if raw.get_datetime("ts").is_err() {
            page.types = Types::Others;
        }
        page.rows.push(row);
    }
    page.cut = page.rows.len() >= limit;
    Ok(page)
}

fn too_long(error: Error, blocked: &HashSet<String>) -> Error {
    const MAX_TIME_EXPIRED: i32 = 50;
    match &*error.kind {
        ErrorKind::Command(command) if command.code == MAX_TIME_EXPIRED => searched(blocked),
        _ => error,
    }
}

fn searched(blocked: &HashSet<String>) -> Error {
    let keys = blocked.len();
    Error::custom(format!(
        "no row of a free key was found in {SEARCH:?}, behind the rows of {keys} keys that are claimed or wait to be tried again"
    ))
}

/// What MongoDB does for a claim, for the tests.
#[cfg(test)]
pub(super) fn find_command(collection: &str, now: DateTime, blocked: &[Bson]) -> Document {
    doc! {
        "find": collection,
        "filter": claimable(now, blocked),
        "sort": {"ts": 1, "_id": 1},
        "hint": order(),
        "limit": 500,
    }
}
