//! One claim: some round trips, for hundreds of rows.
//!
//! Claims take turns: a document says whose turn it is and until when. Its holder reads a snapshot, which holds every
//! earlier claim, so what it finds free is free; then it marks what it takes. It is no transaction with that document in
//! it: the transaction of a drainer that was killed would keep all others out until the server gives it up, a minute later.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use mongodb::{
    ClientSession,
    bson::{Bson, DateTime, Document, RawDocument, doc},
    error::{Error, ErrorKind, Result, TRANSIENT_TRANSACTION_ERROR},
    options::{Hint, ReturnDocument},
};

use super::{
    MongoOutbox,
    document::{self, Read},
    text,
};
use crate::{Claim, ClaimRequest, Claimed, RowId};

/// Id of the document that counts claims.
pub(super) const COUNTER: &str = "claims";
/// How long a turn lasts at most: that long others wait for a drainer that was killed in it.
pub(super) const TURN: Duration = Duration::from_secs(5);
/// How long a claim waits for its turn.
const PATIENCE: Duration = Duration::from_secs(8);
const EPOCH: DateTime = DateTime::from_millis(0);

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
    if idle(outbox).await? {
        return Ok(Claim::default());
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let turn = Turn::take(outbox, &request.by, until).await?;
        let claim = within(outbox, &turn, request).await;
        let ended = turn.end(outbox).await;
        match claim {
            // What a snapshot cannot be read for, such as an index that was just made, passes.
            Err(error) if error.contains_label(TRANSIENT_TRANSACTION_ERROR) || snapshot_unavailable(&error) => {
                if Instant::now() > until {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(fastrand::u64(5..20))).await;
            }
            claim => return claim.and_then(|claim| ended.map(|()| claim)),
        }
    }
}

fn snapshot_unavailable(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(error) if error.code == 246)
}

/// Whether there is nothing to claim, nor a claim that ran out: a drainer that waits writes nothing.
async fn idle(outbox: &MongoOutbox) -> Result<bool> {
    let any = async |filter: Document, index: Document| {
        outbox.rows.find_one(filter).projection(doc! {"_id": 1}).hint(Hint::Keys(index)).await
    };
    let now = DateTime::now();
    let (waits, ran_out) = futures_util::try_join!(
        any(doc! {"status": pending()}, order()),
        any(doc! {"status": "claimed", "lease_until": {"$not": {"$gt": now}}}, leases()),
    )?;
    Ok(waits.is_none() && ran_out.is_none())
}

/// The right to claim, alone, for a while.
pub(super) struct Turn {
    pub(super) fence: i64,
    /// The server's time when it began.
    pub(super) now: DateTime,
    pub(super) until: DateTime,
    began: Instant,
}

impl Turn {
    /// Waits for its turn.
    pub(super) async fn take(outbox: &MongoOutbox, by: &str, patience: Instant) -> Result<Self> {
        let free = doc! {"_id": COUNTER, "$expr": {"$lte": [{"$ifNull": ["$until", EPOCH]}, "$$NOW"]}};
        // The time is the server's: drainers whose clocks differ agree on when a turn or a lease ends.
        let take = vec![doc! {"$set": {
            "fence": {"$add": [{"$ifNull": ["$fence", 0_i64]}, 1_i64]},
            "by": {"$literal": by},
            "now": "$$NOW",
            "until": {"$add": ["$$NOW", TURN.as_millis() as i64]},
        }}];
        loop {
            let began = Instant::now();
            let taken = outbox
                .claims
                .find_one_and_update(free.clone(), take.clone())
                .return_document(ReturnDocument::After)
                .await?;
            if let Some(turn) = taken {
                return match (turn.get_i64("fence"), turn.get_datetime("now"), turn.get_datetime("until")) {
                    (Ok(fence), Ok(now), Ok(until)) => Ok(Self { fence, now: *now, until: *until, began }),
                    _ => Err(Error::custom(format!("the counter of claims is not one: {turn}"))),
                };
            }
            if began > patience {
                // It may be gone.
                outbox.ensure_counter().await?;
                return Err(Error::custom("others have been claiming all the time"));
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(2..10))).await;
        }
    }

    /// Lets the next one in. When a majority knows of this, it knows of the claim before it.
    pub(super) async fn end(self, outbox: &MongoOutbox) -> Result<()> {
        let free = doc! {"$set": {"until": EPOCH}};
        outbox.claims.update_one(doc! {"_id": COUNTER, "fence": self.fence}, free).await.map(drop)
    }
}

async fn within(outbox: &MongoOutbox, turn: &Turn, request: &ClaimRequest) -> Result<Claim> {
    let mut requeued = 0;
    loop {
        // All reads see the rows of one moment, with every claim before this one.
        let mut session = outbox.rows.client().start_session().snapshot(true).await?;
        let (mut blocked, expired) = leased(outbox, &mut session, turn.now).await?;
        if !expired.is_empty() {
            requeued += requeue(outbox, turn.now, &expired).await?;
            continue;
        }
        let busy = !blocked.is_empty();
        let next_due = waiting_keys(outbox, &mut session, turn.now, &mut blocked).await?;
        // Two types may have one text, and so be one key.
        let blocked: Vec<Bson> = blocked.iter().flat_map(|key| text::values(key)).collect();
        let (rows, more) = next(outbox, &mut session, claimable(turn.now, &blocked), request).await?;
        let rows = take(outbox, turn, request, rows).await?;
        let claimed = |row: Read| Claimed { attempts: row.row.attempts, event: row.event(), id: row.id };
        let rows = rows.into_iter().map(claimed).collect();
        return Ok(Claim { fence: turn.fence as u64, rows, more, busy, next_due, requeued });
    }
}

/// Makes the rows of a claim that failed pending again.
async fn give_back(outbox: &MongoOutbox, fence: i64) -> Result<()> {
    let free = doc! {"$set": {"status": "pending"}, "$unset": {"claimed_by": "", "lease_until": "", "fence": ""}};
    let mine = doc! {"status": "claimed", "fence": fence};
    outbox.rows.update_many(mine, free).hint(Hint::Keys(leases())).await.map(drop)
}

/// Makes rows pending again whose lease has run out; answers how many.
async fn requeue(outbox: &MongoOutbox, now: DateTime, expired: &[Bson]) -> Result<usize> {
    let still = doc! {"_id": {"$in": expired}, "status": "claimed", "lease_until": {"$not": {"$gt": now}}};
    let free = doc! {"$set": {"status": "pending"}, "$unset": {"claimed_by": "", "lease_until": "", "fence": ""}};
    let done = outbox.rows.update_many(still, free).hint(Hint::Keys(doc! {"_id": 1})).await?;
    Ok(usize::try_from(done.modified_count).unwrap_or(usize::MAX))
}

/// Claims these rows; answers those it got.
///
/// The server does so before the turn ends or not at all: it compares its time as it begins, and stops in time. Were it
/// later, the next claim could have rows of the same keys.
pub(super) async fn take(
    outbox: &MongoOutbox,
    turn: &Turn,
    request: &ClaimRequest,
    mut rows: Vec<Read>,
) -> Result<Vec<Read>> {
    if rows.is_empty() {
        return Ok(rows);
    }
    let ids: Vec<Bson> = rows.iter().filter_map(|row| document::id(&row.id)).collect();
    let lease = i64::try_from(request.lease.as_millis()).unwrap_or(i64::MAX);
    let left = TURN.saturating_sub(turn.began.elapsed()).as_millis().max(1) as i64;
    let namespace = outbox.rows.namespace();
    let command = doc! {
        "update": &namespace.coll,
        "updates": [{
            "q": {"_id": {"$in": &ids}, "status": pending(), "$expr": {"$lt": ["$$NOW", turn.until]}},
            "u": {"$set": {
                "status": "claimed",
                "claimed_by": &request.by,
                "lease_until": turn.now.saturating_add_millis(lease),
                "fence": turn.fence,
            }},
            "multi": true,
            "hint": {"_id": 1},
        }],
        // The end of the turn waits for the majority.
        "writeConcern": {"w": 1},
        "maxTimeMS": left,
    };
    let taken = match run(outbox, command).await {
        Ok(0) => return Err(Error::custom("the turn to claim was over before rows were claimed")),
        Ok(taken) => taken,
        Err(error) => {
            // Some may be ours already; if they cannot be given back, their lease runs out.
            _ = give_back(outbox, turn.fence).await;
            return Err(error);
        }
    };
    if taken != rows.len() {
        let mine = doc! {"_id": {"$in": ids}, "status": "claimed", "fence": turn.fence};
        let mut found = outbox.rows.find(mine).projection(doc! {"_id": 1}).hint(Hint::Keys(doc! {"_id": 1})).await?;
        let mut mine = HashSet::new();
        while found.advance().await? {
            mine.insert(document::read(found.current()).id);
        }
        rows.retain(|row| mine.contains(&row.id));
    }
    Ok(rows)
}

/// Runs an `update`; answers how many rows it met.
pub(super) async fn run(outbox: &MongoOutbox, command: Document) -> Result<usize> {
    let answer = outbox.rows.client().database(&outbox.rows.namespace().db).run_command(command).await?;
    // A command that ran may still say that some of it failed.
    for failed in ["writeErrors", "writeConcernError"] {
        if let Some(error) = answer.get(failed) {
            return Err(Error::custom(format!("{failed}: {error}")));
        }
    }
    let met = answer.get_i32("n").map(i64::from).or_else(|_| answer.get_i64("n"));
    Ok(met.ok().and_then(|met| usize::try_from(met).ok()).unwrap_or(0))
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
