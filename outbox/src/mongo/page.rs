//! Finds the rows that are next: the first in order that may be claimed.

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
    document::{self, Read},
    shape::{claimable, order},
    text,
};
use crate::{ClaimRequest, RowId};

/// How long a claim searches for rows whose keys are free.
pub(super) const SEARCH: Duration = Duration::from_millis(2_500);
/// How many busy keys a query names at most, because the size of a query is limited. Rows of other busy keys are read
/// and passed over.
const NAMED: usize = 4_000;

/// The first rows in order, and whether there may be more that a limit cut off.
///
/// MongoDB sorts by type before it sorts by value: rows without `ts`, then those with a number, then those with a date.
/// The order of rows is by time, whatever the type. So when the first page has other types than dates and is cut off, the
/// first rows of each type are read too, and merged.
pub(super) async fn next(
    outbox: &MongoOutbox,
    session: &mut ClientSession,
    now: DateTime,
    blocked: &HashSet<String>,
    request: &ClaimRequest,
) -> Result<(Vec<Read>, bool)> {
    // A key may stand in rows as several types, such as the number 7 and the text "7": the query names them all.
    let named: Vec<Bson> = blocked.iter().take(NAMED).flat_map(|key| text::values(key)).collect();
    let filter = claimable(now, &named);
    let first = page(outbox, session, filter.clone(), blocked, request).await?;
    let cut = first.cut;
    let mut rows = first.rows;
    if first.types != Types::Dates {
        let mut until = u64::MAX;
        if cut {
            // A page that is cut off says nothing about rows behind its last one, so rows are taken only up to there.
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
        // The sort is stable: rows of one type and time keep MongoDB's order, which is by `_id`.
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
    // If the query does not name all busy keys, some of what it finds is passed over, so it can have no limit.
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

/// The command that finds rows, for a test that looks at how MongoDB runs it.
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
