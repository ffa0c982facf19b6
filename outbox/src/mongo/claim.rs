//! One claim: a few round trips to MongoDB, for hundreds of rows.
//!
//! Claims take turns: a document says whose turn it is and until when. The drainer that has the turn reads a snapshot.
//! The snapshot has the marks of every earlier claim, so a row or key that is free in it is free. Then the drainer marks
//! the rows it takes.
//!
//! This is not one transaction that also changes the document of the turn: if a drainer were killed in it, MongoDB would
//! keep all others waiting until it gives the transaction up, a minute later.

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
    shape::{leases, order, pending, ran_out, unclaimed, waiting},
    stray, take, text,
    turn::Turn,
};
use crate::{Claim, ClaimRequest, Claimed};

/// How long a claim waits for its turn before it fails.
const PATIENCE: Duration = Duration::from_secs(8);
/// How many rows whose lease ran out one claim makes pending again at most, and how many of them by one command.
const REQUEUED: usize = 10_000;
const TOGETHER: usize = 1_000;

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
            // A snapshot cannot be read right after an index was made, among other reasons that pass soon.
            Err(error) if error.contains_label(TRANSIENT_TRANSACTION_ERROR) || snapshot_unavailable(&error) => {
                if Instant::now() > until {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(fastrand::u64(5..20))).await;
            }
            // The claim is good even if its turn could not be ended: the turn ends by itself.
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

/// Whether there is nothing to claim and no lease that ran out. Then no turn is taken, so a drainer that waits for rows
/// writes nothing. Rows of unknown status, which no claim would find, are parked here.
async fn idle(outbox: &MongoOutbox) -> Result<bool> {
    let any = async |filter: Document, index: Document| {
        outbox.rows.find_one(filter).projection(doc! {"_id": 1}).hint(Hint::Keys(index)).await
    };
    let (waits, ran_out, strays) = futures_util::try_join!(
        any(doc! {"status": pending()}, order()),
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
    // Rows whose lease ran out but that are still claimed hold their keys: there were too many of them for one claim, or
    // they could not be made pending.
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

/// A session whose reads all see the rows as they are at one moment, with the marks of every earlier claim.
async fn snapshot(outbox: &MongoOutbox) -> Result<ClientSession> {
    outbox.rows.client().start_session().snapshot(true).await
}

/// Makes rows pending again whose lease has run out; returns how many.
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

/// The rows that are claimed at the moment, by any drainer.
#[derive(Default)]
struct Leased {
    /// Keys of the rows whose lease still runs.
    keys: HashSet<String>,
    /// Ids of the rows whose lease has run out, at most [`REQUEUED`].
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
        // A row without a `lease_until` was not claimed by a drainer: it counts as one whose lease has run out.
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

/// Adds the keys of rows that wait to be tried again to `keys`; returns the time until the first of them is due.
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
