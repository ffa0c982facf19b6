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
    bson::{Bson, DateTime, Document, doc},
    error::{Error, ErrorKind, Result, TRANSIENT_TRANSACTION_ERROR},
    options::Hint,
};

use super::{
    MongoOutbox,
    document::Read,
    page::{self, SEARCH},
    stray,
    take::{self, unclaimed},
    text,
    turn::Turn,
};
use crate::{Claim, ClaimRequest, Claimed};

/// How long a claim waits for its turn.
const PATIENCE: Duration = Duration::from_secs(8);
/// Most rows whose lease ran out that one claim makes pending again, and how many at once.
const REQUEUED: usize = 10_000;
const TOGETHER: usize = 1_000;

/// Index of claimed rows, and of sent ones.
pub(super) fn leases() -> Document {
    doc! {"status": 1, "lease_until": 1}
}

/// Index of rows that wait to be tried again.
pub(super) fn waiting() -> Document {
    doc! {"next_try_at": 1}
}

/// Pending rows: a row without a status is one.
pub(super) fn pending() -> Document {
    doc! {"$in": ["pending", Bson::Null]}
}

/// Claimed rows whose lease has run out: one that is no date says nothing.
pub(super) fn ran_out(now: impl Into<Bson>) -> Document {
    let runs = doc! {"$and": [{"$eq": [{"$type": "$lease_until"}, "date"]}, {"$gt": ["$lease_until", now.into()]}]};
    doc! {"status": "claimed", "$expr": {"$not": [runs]}}
}

pub(super) async fn claim(outbox: &MongoOutbox, request: &ClaimRequest) -> Result<Claim> {
    if idle(outbox).await? {
        return Ok(Claim::default());
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let mut turn = Turn::take(outbox, &request.by, until).await?;
        let claim = within(outbox, &mut turn, request).await;
        let ended = turn.end(outbox).await;
        match claim {
            // What a snapshot cannot be read for, such as an index that was just made, passes.
            Err(error) if error.contains_label(TRANSIENT_TRANSACTION_ERROR) || snapshot_unavailable(&error) => {
                if Instant::now() > until {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(fastrand::u64(5..20))).await;
            }
            // A turn that was not ended ends by itself, and the claim stands.
            claim => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a turn to claim could not be ended");
                }
                return claim;
            }
        }
    }
}

fn snapshot_unavailable(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(error) if error.code == 246)
}

/// Whether there is nothing to claim, nor a claim that ran out: a drainer that waits writes nothing. Parks strays.
async fn idle(outbox: &MongoOutbox) -> Result<bool> {
    let any = async |filter: Document, index: Document| {
        outbox.rows.find_one(filter).projection(doc! {"_id": 1}).hint(Hint::Keys(index)).await
    };
    let (waits, ran_out, strays) = futures_util::try_join!(
        any(doc! {"status": pending()}, page::order()),
        any(ran_out("$$NOW"), leases()),
        stray::find(outbox),
    )?;
    stray::park(outbox, strays).await;
    Ok(waits.is_none() && ran_out.is_none())
}

async fn within(outbox: &MongoOutbox, turn: &mut Turn, request: &ClaimRequest) -> Result<Claim> {
    let mut session = snapshot(outbox).await?;
    let mut leased = leased(outbox, &mut session, turn.now).await?;
    let mut requeued = 0;
    if !leased.ran_out.is_empty() {
        requeued = requeue(outbox, turn.now, &leased.ran_out).await?;
        session = snapshot(outbox).await?;
        leased = self::leased(outbox, &mut session, turn.now).await?;
    }
    // What could not be made pending, or is too much for one claim, still holds its keys.
    let mut blocked = leased.keys;
    blocked.extend(leased.ran_out_keys);
    let busy = !blocked.is_empty();
    let next_due = waiting_keys(outbox, &mut session, turn.now, &mut blocked).await?;
    let (rows, more) = page::next(outbox, &mut session, turn.now, &blocked, request).await?;
    let rows = take::take(outbox, turn, request, rows).await?;
    let claimed = |row: Read| Claimed {
        attempts: row.row.attempts,
        fresh: row.row.fence.is_none(),
        event: row.event(),
        id: row.id,
    };
    let rows = rows.into_iter().map(claimed).collect();
    Ok(Claim { fence: turn.fence as u64, rows, more, busy, next_due, requeued })
}

/// All reads of a session see the rows of one moment, with every claim before this one.
async fn snapshot(outbox: &MongoOutbox) -> Result<ClientSession> {
    outbox.rows.client().start_session().snapshot(true).await
}

/// Makes rows pending again whose lease has run out; answers how many.
async fn requeue(outbox: &MongoOutbox, now: DateTime, ids: &[Bson]) -> Result<usize> {
    let mut requeued = 0;
    for ids in ids.chunks(TOGETHER) {
        let mut still = ran_out(now);
        still.insert("_id", doc! {"$in": ids});
        let done = outbox.rows.update_many(still, unclaimed()).hint(Hint::Keys(doc! {"_id": 1})).await?;
        requeued += usize::try_from(done.modified_count).unwrap_or(usize::MAX);
    }
    Ok(requeued)
}

/// Rows that are claimed.
#[derive(Default)]
struct Leased {
    keys: HashSet<String>,
    /// Ids of those whose lease has run out, so many as one claim makes pending again.
    ran_out: Vec<Bson>,
    ran_out_keys: HashSet<String>,
}

async fn leased(outbox: &MongoOutbox, session: &mut ClientSession, now: DateTime) -> Result<Leased> {
    let mut found = outbox
        .rows
        .find(doc! {"status": "claimed"})
        .projection(doc! {"key": 1, "lease_until": 1})
        .hint(Hint::Keys(leases()))
        .batch_size(10_000)
        .max_time(SEARCH)
        .session(&mut *session)
        .await?;
    let mut leased = Leased::default();
    while found.advance(session).await? {
        let row = found.current();
        let key = row.get("key").ok().flatten().and_then(text::of);
        // Without an end: written by somebody else, and nobody's.
        if row.get_datetime("lease_until").is_ok_and(|until| until > now) {
            leased.keys.extend(key);
            continue;
        }
        leased.ran_out_keys.extend(key);
        if leased.ran_out.len() < REQUEUED
            && let Some(Ok(id)) = row.get("_id").ok().flatten().map(Bson::try_from)
        {
            leased.ran_out.push(id);
        }
    }
    Ok(leased)
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
        .max_time(SEARCH)
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
