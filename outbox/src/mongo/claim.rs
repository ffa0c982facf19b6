//! One claim: a transaction of five round trips, for hundreds of rows.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use mongodb::{
    ClientSession,
    bson::{Bson, DateTime, Document, RawDocument, doc},
    error::{Error, Result, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
    options::{Hint, ReadConcern, ReturnDocument},
};

use super::{
    MongoOutbox,
    document::{self, Read},
    majority, text,
};
use crate::{Claim, ClaimRequest, Claimed, RowId};

/// Id of the document that counts claims.
pub(super) const COUNTER: &str = "claims";
/// How long a claim tries again while others are turned to.
const PATIENCE: Duration = Duration::from_secs(5);

/// Index of claimed rows, and of sent ones.
pub(super) fn leases() -> Document {
    doc! {"status": 1, "lease_until": 1}
}

/// Index of the order. With the key, so that rows of busy keys are passed over without reading them.
pub(super) fn order() -> Document {
    doc! {"status": 1, "ts": 1, "_id": 1, "key": 1}
}

/// Index of rows that wait to be tried again.
pub(super) fn waiting() -> Document {
    doc! {"next_try_at": 1}
}

/// Pending rows: a row without a status is one.
pub(super) fn pending() -> Document {
    doc! {"$in": ["pending", Bson::Null]}
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

pub(super) async fn claim(outbox: &MongoOutbox, request: &ClaimRequest) -> Result<Claim> {
    let mut session = outbox.rows.client().start_session().await?;
    let until = Instant::now() + PATIENCE;
    loop {
        session.start_transaction().read_concern(ReadConcern::snapshot()).write_concern(majority()).await?;
        let error = match within(outbox, &mut session, request).await {
            Ok(claim) if claim.rows.is_empty() && claim.requeued == 0 => {
                session.abort_transaction().await?;
                return Ok(claim);
            }
            Ok(claim) => match commit(&mut session).await {
                Ok(()) => return Ok(claim),
                Err(error) => error,
            },
            Err(error) => {
                // An abort that fails leaves the transaction to the server's time limit.
                _ = session.abort_transaction().await;
                error
            }
        };
        if !error.contains_label(TRANSIENT_TRANSACTION_ERROR) || Instant::now() > until {
            return Err(error);
        }
        // Another claim is under way; it takes some ten milliseconds.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(2..10))).await;
    }
}

async fn commit(session: &mut ClientSession) -> Result<()> {
    for _ in 0..3 {
        match session.commit_transaction().await {
            Err(error) if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => {}
            known => return known,
        }
    }
    session.commit_transaction().await
}

async fn within(outbox: &MongoOutbox, session: &mut ClientSession, request: &ClaimRequest) -> Result<Claim> {
    // The time is the server's: drainers whose clocks differ agree on when a lease ends.
    let count = vec![doc! {"$set": {
        "fence": {"$add": [{"$ifNull": ["$fence", 0_i64]}, 1_i64]},
        "now": "$$NOW",
    }}];
    let counter = outbox
        .claims
        .find_one_and_update(doc! {"_id": COUNTER}, count)
        .upsert(true)
        .return_document(ReturnDocument::After)
        .session(&mut *session)
        .await?;
    let counter = counter.ok_or_else(|| Error::custom("the counter of claims was not answered"))?;
    let (fence, now) = match (counter.get_i64("fence"), counter.get_datetime("now")) {
        (Ok(fence), Ok(now)) => (fence, *now),
        _ => return Err(Error::custom(format!("the counter of claims is not one: {counter}"))),
    };

    let (mut blocked, expired) = leased(outbox, session, now).await?;
    let busy = !blocked.is_empty();
    if !expired.is_empty() {
        let free = doc! {"$set": {"status": "pending"}, "$unset": {"claimed_by": "", "lease_until": "", "fence": ""}};
        outbox.rows.update_many(doc! {"_id": {"$in": &expired}}, free).session(&mut *session).await?;
    }
    let next_due = waiting_keys(outbox, session, now, &mut blocked).await?;
    // Two types may have one text, and so be one key.
    let blocked: Vec<Bson> = blocked.iter().flat_map(|key| text::values(key)).collect();

    let (rows, more) = next(outbox, session, claimable(now, &blocked), request).await?;
    let claim = Claim {
        fence: fence as u64,
        rows: rows
            .iter()
            .map(|row| Claimed { id: row.id.clone(), attempts: row.row.attempts, event: row.event() })
            .collect(),
        more,
        busy,
        next_due,
        requeued: expired.len(),
    };
    if rows.is_empty() {
        return Ok(claim);
    }
    let ids: Vec<Bson> = rows.iter().filter_map(|row| document::id(&row.id)).collect();
    let lease = i64::try_from(request.lease.as_millis()).unwrap_or(i64::MAX);
    let take = doc! {"$set": {
        "status": "claimed",
        "claimed_by": &request.by,
        "lease_until": now.saturating_add_millis(lease),
        "fence": fence,
    }};
    let taken = outbox.rows.update_many(doc! {"_id": {"$in": ids}}, take).session(&mut *session).await?;
    if taken.matched_count != rows.len() as u64 {
        return Err(Error::custom(format!("{} rows were found and {} taken", rows.len(), taken.matched_count)));
    }
    Ok(claim)
}

/// Keys of rows that are claimed, and the ids of those whose lease has run out.
async fn leased(
    outbox: &MongoOutbox,
    session: &mut ClientSession,
    now: DateTime,
) -> Result<(HashSet<String>, Vec<Bson>)> {
    let mut found = outbox
        .rows
        .find(doc! {"status": "claimed"})
        .projection(doc! {"key": 1, "lease_until": 1})
        .hint(Hint::Keys(leases()))
        .batch_size(10_000)
        .session(&mut *session)
        .await?;
    let (mut keys, mut expired) = (HashSet::new(), Vec::new());
    while found.advance(session).await? {
        let row = found.current();
        // Without an end: written by somebody else, and nobody's.
        if row.get_datetime("lease_until").is_ok_and(|until| until > now) {
            keys.extend(row.get("key").ok().flatten().and_then(text::of));
        } else if let Some(Ok(id)) = row.get("_id").ok().flatten().map(Bson::try_from) {
            expired.push(id);
        }
    }
    Ok((keys, expired))
}

/// Adds the keys of rows that wait to be tried again; answers when the first of them is due.
async fn waiting_keys(
    outbox: &MongoOutbox,
    session: &mut ClientSession,
    now: DateTime,
    keys: &mut HashSet<String>,
) -> Result<Option<Duration>> {
    let mut found = outbox
        .rows
        .find(doc! {"next_try_at": {"$gt": now}, "status": pending()})
        .projection(doc! {"key": 1, "next_try_at": 1})
        .hint(Hint::Keys(waiting()))
        .batch_size(10_000)
        .session(&mut *session)
        .await?;
    let mut first: Option<i64> = None;
    while found.advance(session).await? {
        let row = found.current();
        keys.extend(row.get("key").ok().flatten().and_then(text::of));
        if let Ok(due) = row.get_datetime("next_try_at") {
            let after = due.timestamp_millis() - now.timestamp_millis();
            first = Some(first.map_or(after, |first| first.min(after)));
        }
    }
    Ok(first.map(|after| Duration::from_millis(after.max(1) as u64)))
}

/// The first rows in order, and whether a limit cut them off.
///
/// MongoDB sorts by type before it sorts by value: rows without `ts`, then those with a number, then those with a date.
/// So when the first page does not show the end, the heads of the other types are read too.
async fn next(
    outbox: &MongoOutbox,
    session: &mut ClientSession,
    filter: Document,
    request: &ClaimRequest,
) -> Result<(Vec<Read>, bool)> {
    let first = page(outbox, session, filter.clone(), request).await?;
    let cut = first.cut;
    let mixed = cut && first.types != Types::Dates;
    let mut rows = first.rows;
    if mixed {
        // Behind the last row of a page that is cut there may be one that comes before those of other types.
        let end = |page: &[Read], cut: bool| page.last().filter(|_| cut).map_or(u64::MAX, |row| row.at);
        let mut until = end(&rows, cut);
        for kind in ["number", "date"] {
            let mut one_type = filter.clone();
            one_type.insert("ts", doc! {"$type": kind});
            let other = page(outbox, session, one_type, request).await?;
            until = until.min(end(&other.rows, other.cut));
            let known: HashSet<RowId> = rows.iter().map(|row| row.id.clone()).collect();
            rows.extend(other.rows.into_iter().filter(|row| !known.contains(&row.id)));
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
    request: &ClaimRequest,
) -> Result<Page> {
    let limit = request.limit.max(1);
    let mut found = outbox
        .rows
        .find(filter)
        .sort(doc! {"ts": 1, "_id": 1})
        .hint(Hint::Keys(order()))
        .limit(i64::try_from(limit).unwrap_or(i64::MAX))
        .batch_size(u32::try_from(limit).unwrap_or(u32::MAX))
        .session(&mut *session)
        .await?;
    let mut page = Page { rows: Vec::new(), cut: false, types: Types::Dates };
    let mut bytes = 0;
    while found.advance(session).await? {
        let raw: &RawDocument = found.current();
        if raw.get_datetime("ts").is_err() {
            page.types = Types::Others;
        }
        let row = document::read(raw);
        bytes += row.row.bytes();
        if !page.rows.is_empty() && bytes > request.max_bytes {
            page.cut = true;
            return Ok(page);
        }
        page.rows.push(row);
    }
    page.cut = page.rows.len() >= limit;
    Ok(page)
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
