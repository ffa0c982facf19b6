//! Marks rows as claimed.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use mongodb::{
    bson::{Bson, DateTime, Document, doc},
    error::{Error, Result},
    options::Hint,
};

use super::{
    MongoOutbox,
    document::{self, Read},
    shape::{leases, pending, unclaimed},
    turn::Turn,
};
use crate::{ClaimRequest, RowId};

/// How long the server may take to mark rows, until a majority has acknowledged it. It marks only if so much of the turn
/// is left when it begins.
pub(super) const TAKING: Duration = Duration::from_secs(2);
/// The size in bytes up to which a document has room for the fields that a claim and its end add. MongoDB allows 16 MiB.
const ROOM: usize = 16 * 1024 * 1024 - 16 * 1024;

/// Claims these rows; returns those it got.
///
/// The server marks them before the turn ends or not at all: the filter compares the server's time with the end of the
/// turn, and the command has a time limit. If rows were marked later, the next claim could already have others of the
/// same keys. The marks are acknowledged by a majority, so that they are there under the next primary too.
pub(super) async fn take(
    outbox: &MongoOutbox,
    turn: &mut Turn,
    request: &ClaimRequest,
    rows: Vec<Read>,
) -> Result<Vec<Read>> {
    if rows.is_empty() {
        return Ok(rows);
    }
    let taken = all(outbox, turn, request, &rows).await;
    let refused = match taken {
        Ok(Taken { marked, .. }) if marked == rows.len() => return Ok(rows),
        Ok(Taken { marked: 0, refused }) if refused.is_empty() => {
            return Err(Error::custom("the turn to claim was over before rows were claimed"));
        }
        Ok(Taken { refused, .. }) => refused,
        Err(error) => {
            turn.failed(&error);
            // Some rows may be marked already. They are given back; if that fails too, their lease runs out.
            _ = give_back(outbox, doc! {"status": "claimed", "fence": turn.fence}, leases()).await;
            return Err(error);
        }
    };
    let rows = in_order(outbox, turn, rows).await?;
    park(outbox, refused, rows.is_empty()).await?;
    Ok(rows)
}

struct Taken {
    marked: usize,
    /// Rows that cannot be marked, and why.
    refused: Vec<(RowId, String)>,
}

async fn all(outbox: &MongoOutbox, turn: &Turn, request: &ClaimRequest, rows: &[Read]) -> Result<Taken> {
    let mut refused = Vec::new();
    let mut ids = Vec::with_capacity(rows.len());
    for row in rows {
        if row.size > ROOM {
            refused.push((
                row.id.clone(),
                format!("too_large: the row has {} bytes, at most {ROOM} can be drained", row.size),
            ));
        } else if let Some(id) = document::id(&row.id) {
            ids.push((&row.id, id));
        }
    }
    if ids.is_empty() {
        return Ok(Taken { marked: 0, refused });
    }
    let every: Vec<&Bson> = ids.iter().map(|(_, id)| id).collect();
    let together = vec![statement(turn, request, doc! {"$in": every}.into(), true)];
    let answer = mark(outbox, together).await?;
    if answer.refused.is_empty() {
        return Ok(Taken { marked: answer.met, refused });
    }
    // A statement for many rows stops at the first that cannot be marked. So each row gets a statement of its own.
    let each = ids.iter().map(|(_, id)| statement(turn, request, id.clone(), false)).collect();
    let again = mark(outbox, each).await?;
    for (at, error) in again.refused {
        if let Some((id, _)) = ids.get(at) {
            refused.push(((*id).clone(), format!("internal: MongoDB does not let the row be claimed: {error}")));
        }
    }
    Ok(Taken { marked: answer.met + again.met, refused })
}

fn statement(turn: &Turn, request: &ClaimRequest, id: Bson, multi: bool) -> Document {
    let lease = i64::try_from(request.lease.as_millis()).unwrap_or(i64::MAX);
    let last = DateTime::from_millis(turn.until.timestamp_millis() - TAKING.as_millis() as i64);
    doc! {
        "q": {"_id": id, "status": pending(), "$expr": {"$lt": ["$$NOW", last]}},
        "u": {"$set": {
            "status": "claimed",
            "claimed_by": &request.by,
            "lease_until": turn.now.saturating_add_millis(lease),
            "fence": turn.fence,
        }},
        "multi": multi,
        "hint": {"_id": 1},
    }
}

async fn mark(outbox: &MongoOutbox, updates: Vec<Document>) -> Result<Answer> {
    let command = doc! {
        "update": &outbox.rows.namespace().coll,
        "updates": updates,
        "ordered": false,
        "writeConcern": {"w": "majority"},
        "maxTimeMS": TAKING.as_millis() as i64,
    };
    ask(outbox, command).await
}

/// Leaves out the rows that this claim did not get, and gives back the rows of the same key that come after them. Another
/// claim, whose marks came late, has the former and publishes them; the latter must wait for that.
async fn in_order(outbox: &MongoOutbox, turn: &Turn, rows: Vec<Read>) -> Result<Vec<Read>> {
    let ids: Vec<Bson> = rows.iter().filter_map(|row| document::id(&row.id)).collect();
    let by_id = || Hint::Keys(doc! {"_id": 1});
    let ours = doc! {"_id": {"$in": ids}, "status": "claimed", "fence": turn.fence};
    let mut found = outbox.rows.find(ours).projection(doc! {"_id": 1}).hint(by_id()).await?;
    let mut ours = HashSet::new();
    while found.advance().await? {
        ours.insert(document::read(found.current()).id);
    }
    let mut broken: HashSet<String> = HashSet::new();
    let (mut kept, mut behind) = (Vec::new(), Vec::new());
    for row in rows {
        let key = row.row.key.as_ref();
        if !ours.contains(&row.id) {
            broken.extend(key.cloned());
        } else if key.is_some_and(|key| broken.contains(key)) {
            behind.extend(document::id(&row.id));
        } else {
            kept.push(row);
        }
    }
    if !behind.is_empty() {
        let behind = doc! {"_id": {"$in": behind}, "status": "claimed", "fence": turn.fence};
        give_back(outbox, behind, doc! {"_id": 1}).await?;
    }
    Ok(kept)
}

/// Parks rows that cannot be marked as claimed.
///
/// # Errors
/// A row cannot be parked either, and `alone` says that the claim has no other rows: it would come to nothing for ever.
async fn park(outbox: &MongoOutbox, refused: Vec<(RowId, String)>, alone: bool) -> Result<()> {
    let mut stuck = None;
    for (id, why) in refused {
        let Some(native) = document::id(&id) else { continue };
        let still = doc! {"_id": native, "status": pending()};
        let told = doc! {"$set": {"status": "error", "last_err": crate::store::short(&why)}};
        let parked = match outbox.rows.update_one(still.clone(), told).await {
            Ok(_) => Ok(()),
            // The document may have no room for the message. But `error` is shorter than `pending`, so this one fits.
            Err(_) => outbox.rows.update_one(still, doc! {"$set": {"status": "error"}}).await.map(drop),
        };
        match parked {
            Ok(()) => tracing::warn!(row = %id, error = why, "a row of the outbox is parked"),
            Err(error) => {
                tracing::error!(row = %id, error = why, %error, "a row of the outbox can be neither claimed nor parked");
                stuck.get_or_insert(id);
            }
        }
    }
    match stuck {
        Some(id) if alone => {
            Err(Error::custom(format!("row {id} of the outbox can be neither claimed nor parked: mend or delete it")))
        }
        _ => Ok(()),
    }
}

/// Makes claimed rows pending again.
async fn give_back(outbox: &MongoOutbox, claimed: Document, index: Document) -> Result<()> {
    outbox.rows.update_many(claimed, unclaimed()).hint(Hint::Keys(index)).await.map(drop)
}

/// The server's answer to an `update`.
pub(super) struct Answer {
    /// How many rows matched.
    pub(super) met: usize,
    /// The statements that failed, by their index in the command, with the reason.
    pub(super) refused: HashMap<usize, String>,
}

impl Answer {
    /// How many rows matched.
    ///
    /// # Errors
    /// A statement failed.
    pub(super) fn whole(self) -> Result<usize> {
        match self.refused.into_values().next() {
            None => Ok(self.met),
            Some(error) => Err(Error::custom(error)),
        }
    }
}

/// Runs an `update` command.
pub(super) async fn ask(outbox: &MongoOutbox, command: Document) -> Result<Answer> {
    let answer = outbox.rows.client().database(&outbox.rows.namespace().db).run_command(command).await?;
    // The answer may be `ok` although the write was not acknowledged as asked.
    if let Some(error) = answer.get("writeConcernError") {
        return Err(Error::custom(format!("writeConcernError: {error}")));
    }
    let whole = |document: &Document, name: &str| -> Option<usize> {
        let number = document.get_i32(name).map(i64::from).or_else(|_| document.get_i64(name));
        number.ok().and_then(|number| usize::try_from(number).ok())
    };
    let mut refused = HashMap::new();
    for error in answer.get_array("writeErrors").into_iter().flatten().filter_map(Bson::as_document) {
        let code = whole(error, "code").unwrap_or_default();
        let text = error.get_str("errmsg").unwrap_or_default();
        refused.insert(whole(error, "index").unwrap_or_default(), format!("{text} ({code})"));
    }
    Ok(Answer { met: whole(&answer, "n").unwrap_or_default(), refused })
}
