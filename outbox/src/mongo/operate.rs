//! Counts, lists and changes rows for operators and metrics.

use futures_util::TryStreamExt;
use mongodb::{
    bson::{Bson, Document, RawDocumentBuf, doc},
    error::{Error, ErrorKind, Result},
    options::Hint,
};

use super::{
    MongoOutbox, document,
    shape::{leases, order, pending, ran_out, unknown_status, waiting},
    text,
};
use crate::{Filter, Row, Stats, Status};

pub(super) async fn stats(outbox: &MongoOutbox) -> Result<Stats> {
    let date = outbox.now().await?;
    let now = u64::try_from(date.timestamp_millis()).unwrap_or(0);
    let rows = &outbox.rows;
    let count =
        |filter: Document, index: Document| async move { rows.count_documents(filter).hint(Hint::Keys(index)).await };
    let (pending, bare, waiting, claimed, stuck, parked, strays, all) = futures_util::try_join!(
        count(doc! {"status": "pending"}, order()),
        count(doc! {"status": Bson::Null}, order()),
        count(doc! {"next_try_at": {"$gt": date}, "status": pending()}, waiting()),
        count(doc! {"status": "claimed"}, leases()),
        count(ran_out(date), leases()),
        count(doc! {"status": "error"}, order()),
        count(unknown_status(), order()),
        async { rows.estimated_document_count().await },
    )?;
    let (oldest, in_hand) = futures_util::try_join!(oldest_pending(outbox), oldest_claimed(outbox))?;
    let pending = pending + bare;
    // Rows of unknown status count as parked: the next claim parks them.
    let error = parked + strays;
    let age = |ts: u64| now.saturating_sub(ts);
    Ok(Stats {
        pending,
        waiting,
        claimed,
        stuck,
        error,
        sent: all.saturating_sub(pending + claimed + error),
        oldest_pending_ms: oldest.map(age),
        lag_ms: [oldest, in_hand].into_iter().flatten().min().map_or(0, age),
    })
}

/// Whether a query failed because the index that it names is missing. MongoDB has no error code for just that.
pub(super) fn misses_index(error: &Error) -> bool {
    const BAD_VALUE: i32 = 2;
    matches!(&*error.kind, ErrorKind::Command(error) if error.code == BAD_VALUE && error.message.contains("hint provided"))
}

/// The `ts` of the oldest pending row. MongoDB sorts by type first, so the first row of each type is read.
async fn oldest_pending(outbox: &MongoOutbox) -> Result<Option<u64>> {
    let mut oldest: Option<u64> = None;
    for ts in [Bson::Null, doc! {"$type": "number"}.into(), doc! {"$type": "date"}.into()] {
        let first = outbox
            .rows
            .find_one(doc! {"status": pending(), "ts": ts})
            .sort(doc! {"ts": 1, "_id": 1})
            .hint(Hint::Keys(order()))
            .await?;
        let ts = first.and_then(|row| document::read(&row).row.ts);
        oldest = [oldest, ts].into_iter().flatten().min();
    }
    Ok(oldest)
}

async fn oldest_claimed(outbox: &MongoOutbox) -> Result<Option<u64>> {
    let mut rows =
        outbox.rows.find(doc! {"status": "claimed"}).projection(doc! {"ts": 1}).hint(Hint::Keys(leases())).await?;
    let mut oldest = None;
    while let Some(row) = rows.try_next().await? {
        oldest = [oldest, document::read(&row).row.ts].into_iter().flatten().min();
    }
    Ok(oldest)
}

pub(super) async fn list(outbox: &MongoOutbox, filter: &Filter, limit: usize) -> Result<Vec<Row>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let find = outbox
        .rows
        .find(matching(filter, &Status::ALL))
        .sort(doc! {"ts": 1, "_id": 1})
        .limit(i64::try_from(limit).unwrap_or(i64::MAX));
    let mut found: Vec<Row> = Vec::new();
    let mut rows = find.await?;
    while let Some(row) = rows.try_next().await? {
        let row: RawDocumentBuf = row;
        let read = document::read(&row);
        let problem = read.event().err();
        found.push(Row { last_err: read.row.last_err.or(problem.map(|problem| problem.to_string())), ..read.row });
    }
    Ok(found)
}

pub(super) async fn count(outbox: &MongoOutbox, filter: &Filter) -> Result<u64> {
    outbox.rows.count_documents(matching(filter, &Status::ALL)).await
}

pub(super) async fn retry(outbox: &MongoOutbox, filter: &Filter) -> Result<u64> {
    let again = doc! {"$set": {"status": "pending", "attempts": 0}, "$unset": {"next_try_at": ""}};
    let done = outbox.rows.update_many(matching(filter, &[Status::Error]), again).await?;
    Ok(done.matched_count)
}

pub(super) async fn drop_rows(outbox: &MongoOutbox, filter: &Filter) -> Result<u64> {
    let free = [Status::Pending, Status::Sent, Status::Error];
    Ok(outbox.rows.delete_many(matching(filter, &free)).await?.deleted_count)
}

/// The query for the rows that match the filter and have one of these statuses.
fn matching(filter: &Filter, statuses: &[Status]) -> Document {
    let mut values = Vec::new();
    for status in statuses.iter().filter(|status| filter.status.is_none_or(|only| only == **status)) {
        values.push(Bson::from(status.as_str()));
        if *status == Status::Pending {
            values.push(Bson::Null);
        }
    }
    // For all statuses the query leaves the status out, so that rows of unknown status are shown too.
    let any = filter.status.is_none() && statuses.len() == Status::ALL.len();
    let mut document = if any {
        Document::new()
    } else {
        doc! {"status": {"$in": values}}
    };
    if let Some(ids) = &filter.ids {
        document.insert("_id", doc! {"$in": ids.iter().flat_map(|id| text::values(id)).collect::<Vec<_>>()});
    }
    if let Some(topic) = &filter.topic {
        document.insert("topic", topic);
    }
    if let Some(key) = &filter.key {
        document.insert("key", doc! {"$in": text::values(key)});
    }
    document
}
