//! Whose turn it is to claim.

use std::time::{Duration, Instant};

use mongodb::{
    bson::{DateTime, Document, doc},
    error::{Error, ErrorKind, Result},
    options::{Acknowledgment, ReturnDocument, WriteConcern},
};

use super::MongoOutbox;

/// Id of the document that counts claims.
pub(super) const COUNTER: &str = "claims";
/// How long a turn lasts at most: that long others wait for a drainer that was killed in it.
pub(super) const TURN: Duration = Duration::from_secs(5);
const EPOCH: DateTime = DateTime::from_millis(0);

/// The right to claim, alone, for a while.
pub(super) struct Turn {
    pub(super) fence: i64,
    /// The server's time when it began.
    pub(super) now: DateTime,
    pub(super) until: DateTime,
    /// A write of this turn may still be under way.
    unsure: bool,
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
                return Self::read(&turn);
            }
            if began > patience {
                // It may be gone.
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

    /// The write that `error` came of: when nobody knows whether it has ended, the turn lasts as long as it may.
    pub(super) fn failed(&mut self, error: &Error) {
        self.unsure |= !matches!(&*error.kind, ErrorKind::Command(_) | ErrorKind::Custom(_));
    }

    /// Lets the next one in, unless a write of this turn may come after that.
    ///
    /// What was claimed is known to a majority already; if this is lost, the turn just takes its time.
    pub(super) async fn end(self, outbox: &MongoOutbox) -> Result<()> {
        if self.unsure {
            return Ok(());
        }
        let free = doc! {"$set": {"until": EPOCH}};
        let one = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
        outbox.claims.update_one(doc! {"_id": COUNTER, "fence": self.fence}, free).write_concern(one).await.map(drop)
    }
}
