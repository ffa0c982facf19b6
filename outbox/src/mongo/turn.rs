//! The right to claim, which one drainer has at a time.

use std::time::{Duration, Instant};

use mongodb::{
    bson::{DateTime, Document, doc},
    error::{Error, ErrorKind, Result},
    options::{Acknowledgment, ReturnDocument, WriteConcern},
};

use super::MongoOutbox;

/// The id of the document that says whose turn it is and counts the claims.
pub(super) const COUNTER: &str = "claims";
/// How long a turn lasts at most. If a drainer is killed in its turn, the others wait so long.
pub(super) const TURN: Duration = Duration::from_secs(5);
const EPOCH: DateTime = DateTime::from_millis(0);

/// The right to claim, alone, for a while.
pub(super) struct Turn {
    pub(super) fence: i64,
    /// The server's time when the turn began.
    pub(super) now: DateTime,
    pub(super) until: DateTime,
    /// A write of this turn failed in such a way that the server may still carry it out.
    unsure: bool,
}

impl Turn {
    /// Waits until it is this drainer's turn, until `patience` at most.
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
                return Self::read(&turn);
            }
            if began > patience {
                // The document may have been deleted: then nobody could ever claim again.
                outbox.ensure_counter().await?;
                return Err(Error::custom("others have been claiming all the time"));
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(2..10))).await;
        }
    }

    fn read(turn: &Document) -> Result<Self> {
        match (turn.get_i64("fence"), turn.get_datetime("now"), turn.get_datetime("until")) {
            (Ok(fence), Ok(now), Ok(until)) => Ok(Self { fence, now: *now, until: *until, unsure: false }),
            _ => Err(Error::custom(format!("the counter of claims is not one: {turn}"))),
        }
    }

    /// To be called when a write of this turn failed. Unless the server refused it, it may still be carried out, and
    /// [`Turn::end`] does not end the turn early.
    pub(super) fn failed(&mut self, error: &Error) {
        self.unsure |= !matches!(&*error.kind, ErrorKind::Command(_) | ErrorKind::Custom(_));
    }

    /// Ends the turn early, unless a write of it may still be carried out.
    ///
    /// This is acknowledged by the primary only: if it is lost in an election, the turn just ends when its time is over.
    pub(super) async fn end(self, outbox: &MongoOutbox) -> Result<()> {
        if self.unsure {
            return Ok(());
        }
        let free = doc! {"$set": {"until": EPOCH}};
        let one = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
        outbox.claims.update_one(doc! {"_id": COUNTER, "fence": self.fence}, free).write_concern(one).await.map(drop)
    }
}
