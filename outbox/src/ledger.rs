//! The contract of an outbox, kept over rows that one transaction at a time may touch: what [`crate::MemoryOutbox`] and
//! the embedded outbox share.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{Claim, ClaimRequest, Claimed, Filter, Mark, Row, RowId, Settle, Stats, Status, StoreError};

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A row's entry in the order of its status.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    /// Its place in that order, as [`place`] computes it.
    pub(crate) at: u64,
    pub(crate) id: &'a str,
    pub(crate) key: Option<&'a str>,
}

/// Where a row stands among those of its status: a claimed row by the end of its lease, a sent one by when it was sent.
pub(crate) fn place(row: &Row) -> u64 {
    let at = match row.status {
        Status::Pending | Status::Error => row.ts,
        Status::Claimed | Status::Sent => row.lease_until,
    };
    at.unwrap_or(0)
}

/// Rows of one moment.
pub(crate) trait Look {
    fn count(&self) -> Result<u64, StoreError>;
    fn get(&self, id: &str) -> Result<Option<Row>, StoreError>;
    /// Shows the entries of a status in order of place and id.
    fn scan(&self, status: Status, visit: &mut Visit<'_>) -> Result<(), StoreError>;
}

/// Rows within one transaction.
pub(crate) trait Rows: Look {
    fn next_fence(&mut self) -> Result<u64, StoreError>;
    /// Writes a row; `old` is what stands there.
    fn put(&mut self, old: Option<&Row>, row: &Row) -> Result<(), StoreError>;
    fn remove(&mut self, row: &Row) -> Result<(), StoreError>;
}

pub(crate) type Visit<'a> = dyn FnMut(Entry<'_>) -> Result<ControlFlow<()>, StoreError> + 'a;

const GO_ON: Result<ControlFlow<()>, StoreError> = Ok(ControlFlow::Continue(()));
const STOP: Result<ControlFlow<()>, StoreError> = Ok(ControlFlow::Break(()));

fn must(row: Option<Row>, id: &str) -> Result<Row, StoreError> {
    row.ok_or_else(|| StoreError::Damaged(format!("row {id} is in the order of rows and is not there")))
}

pub(crate) fn claim(rows: &mut impl Rows, now: u64, request: &ClaimRequest) -> Result<Claim, StoreError> {
    let mut blocked: HashSet<String> = HashSet::new();
    let mut expired = Vec::new();
    rows.scan(Status::Claimed, &mut |entry| {
        if entry.at <= now {
            expired.push(entry.id.to_owned());
        } else if let Some(key) = entry.key {
            blocked.insert(key.to_owned());
        }
        GO_ON
    })?;
    for id in &expired {
        let old = must(rows.get(id)?, id)?;
        rows.put(Some(&old), &unclaimed(old.clone()))?;
    }
    let mut claim = Claim { busy: !blocked.is_empty(), requeued: expired.len(), ..Claim::default() };
    let mut taken = Vec::new();
    let mut bytes = 0;
    rows.scan(Status::Pending, &mut |entry| {
        if entry.key.is_some_and(|key| blocked.contains(key)) {
            return GO_ON;
        }
        if taken.len() >= request.limit {
            claim.more = true;
            return STOP;
        }
        let row = must(rows.get(entry.id)?, entry.id)?;
        if let Some(due) = row.next_try_at.filter(|due| *due > now) {
            let after = Duration::from_millis(due - now);
            claim.next_due = Some(claim.next_due.map_or(after, |first| first.min(after)));
            blocked.extend(entry.key.map(str::to_owned));
            return GO_ON;
        }
        if !taken.is_empty() && bytes + row.bytes() > request.max_bytes {
            claim.more = true;
            return STOP;
        }
        bytes += row.bytes();
        taken.push(row);
        GO_ON
    })?;
    if taken.is_empty() {
        return Ok(claim);
    }
    claim.fence = rows.next_fence()?;
    for old in taken {
        let row = Row {
            status: Status::Claimed,
            claimed_by: Some(request.by.clone()),
            lease_until: Some(now.saturating_add(millis(request.lease))),
            fence: Some(claim.fence),
            ..old.clone()
        };
        rows.put(Some(&old), &row)?;
        claim.rows.push(Claimed {
            id: RowId::plain(&row.id),
            attempts: row.attempts,
            fresh: old.fence.is_none(),
            event: row.event(),
        });
    }
    Ok(claim)
}

/// The row as if it had not been claimed; `fence` stays, which says that it was.
fn unclaimed(row: Row) -> Row {
    Row { status: Status::Pending, claimed_by: None, lease_until: None, ..row }
}

pub(crate) fn settle(rows: &mut impl Rows, now: u64, fence: u64, marks: &[Mark]) -> Result<usize, StoreError> {
    let mut made = 0;
    for mark in marks {
        let Some(old) = rows.get(mark.id.as_str())? else { continue };
        if old.status != Status::Claimed || old.fence != Some(fence) {
            continue;
        }
        let row = old.clone();
        let row = match &mark.settle {
            Settle::Sent => {
                Row { status: Status::Sent, lease_until: Some(now), last_err: None, next_try_at: None, ..row }
            }
            Settle::Released => unclaimed(row),
            Settle::Retry { error, attempts, after } => Row {
                last_err: Some(error.clone()),
                attempts: *attempts,
                next_try_at: Some(now.saturating_add(millis(*after))),
                ..unclaimed(row)
            },
            Settle::Parked { error, attempts } => Row {
                status: Status::Error,
                last_err: Some(error.clone()),
                attempts: *attempts,
                next_try_at: None,
                ..unclaimed(row)
            },
        };
        rows.put(Some(&old), &row)?;
        made += 1;
    }
    Ok(made)
}

pub(crate) fn remove_sent(rows: &mut impl Rows, before: u64, limit: usize) -> Result<usize, StoreError> {
    let mut gone = Vec::new();
    rows.scan(Status::Sent, &mut |entry| {
        if entry.at > before || gone.len() >= limit {
            return STOP;
        }
        gone.push(entry.id.to_owned());
        GO_ON
    })?;
    for id in &gone {
        let row = must(rows.get(id)?, id)?;
        rows.remove(&row)?;
    }
    Ok(gone.len())
}

pub(crate) fn stats(rows: &impl Look, now: u64) -> Result<Stats, StoreError> {
    let mut stats = Stats::default();
    let mut oldest = None;
    rows.scan(Status::Pending, &mut |entry| {
        stats.pending += 1;
        oldest = oldest.or(Some(entry.at));
        // Rows that wait have failed: few are read.
        if must(rows.get(entry.id)?, entry.id)?.next_try_at.is_some_and(|due| due > now) {
            stats.waiting += 1;
        }
        GO_ON
    })?;
    let mut unsent = oldest;
    rows.scan(Status::Claimed, &mut |entry| {
        stats.claimed += 1;
        stats.stuck += u64::from(entry.at <= now);
        let ts = must(rows.get(entry.id)?, entry.id)?.ts;
        unsent = [unsent, ts].into_iter().flatten().min();
        GO_ON
    })?;
    rows.scan(Status::Error, &mut |_| {
        stats.error += 1;
        GO_ON
    })?;
    stats.sent = rows.count()?.saturating_sub(stats.pending + stats.claimed + stats.error);
    stats.oldest_pending_ms = oldest.map(|ts| now.saturating_sub(ts));
    stats.lag_ms = unsent.map_or(0, |ts| now.saturating_sub(ts));
    Ok(stats)
}

pub(crate) fn list(rows: &impl Look, filter: &Filter, limit: usize) -> Result<Vec<Row>, StoreError> {
    let mut found = Vec::new();
    if let Some(ids) = &filter.ids {
        for id in ids {
            found.extend(rows.get(id)?.filter(|row| filter.matches(row)));
        }
    } else {
        for status in Status::ALL.into_iter().filter(|status| filter.status.is_none_or(|only| only == *status)) {
            let until = found.len().saturating_add(limit);
            rows.scan(status, &mut |entry| {
                if found.len() >= until {
                    return STOP;
                }
                found.extend(rows.get(entry.id)?.filter(|row| filter.matches(row)));
                GO_ON
            })?;
        }
    }
    found.sort_by(|a, b| (a.ts, &a.id).cmp(&(b.ts, &b.id)));
    found.truncate(limit);
    Ok(found)
}

pub(crate) fn retry(rows: &mut impl Rows, filter: &Filter) -> Result<u64, StoreError> {
    let only = Filter { status: Some(Status::Error), ..filter.clone() };
    let parked = if filter.status.is_none_or(|status| status == Status::Error) {
        list(rows, &only, usize::MAX)?
    } else {
        Vec::new()
    };
    for old in &parked {
        let row = Row { status: Status::Pending, attempts: 0, next_try_at: None, ..old.clone() };
        rows.put(Some(old), &row)?;
    }
    Ok(parked.len() as u64)
}

pub(crate) fn drop_rows(rows: &mut impl Rows, filter: &Filter) -> Result<u64, StoreError> {
    let mut gone = list(rows, filter, usize::MAX)?;
    gone.retain(|row| row.status != Status::Claimed);
    for row in &gone {
        rows.remove(row)?;
    }
    Ok(gone.len() as u64)
}
