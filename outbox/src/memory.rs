//! Rows in memory.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    ops::{Bound, ControlFlow},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use prom_protocol::{ErrorCode, Refusal};
use tokio::sync::Notify;

use crate::{
    Claim, ClaimRequest, Filter, Mark, NewRow, OutboxStore, Row, Stats, Status, StoreError,
    ledger::{self, Entry, Look, Rows, Visit, millis, now, place},
};

/// An outbox in memory: for tests, and for events that may be lost with the process.
#[derive(Debug, Default)]
pub struct MemoryOutbox {
    state: Mutex<State>,
    added: Notify,
}

#[derive(Debug, Default)]
struct State {
    fence: u64,
    rows: HashMap<String, Row>,
    /// Key by status, place and id.
    order: BTreeMap<(Status, u64, String), Option<String>>,
}

impl MemoryOutbox {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row; answers its id.
    ///
    /// # Errors
    /// What the hub would not take, naming the field; a row of that id is there.
    pub fn add(&self, row: NewRow) -> Result<String, Refusal> {
        let row = row.into_row(now(), || uuid::Uuid::now_v7().to_string())?;
        self.with(|state| {
            if state.rows.contains_key(&row.id) {
                return Err(taken(&row.id));
            }
            state.insert(&row);
            Ok(())
        })?;
        self.added.notify_one();
        Ok(row.id)
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // Whoever panicked has not left a row half written: the contract's steps do not panic between their writes.
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) fn taken(id: &str) -> Refusal {
    Refusal::new(ErrorCode::BadFrame, format!("id: a row `{id}` is in the outbox already"))
}

impl State {
    fn insert(&mut self, row: &Row) {
        self.order.insert((row.status, place(row), row.id.clone()), row.key.clone());
        self.rows.insert(row.id.clone(), row.clone());
    }
}

impl Look for State {
    fn count(&self) -> Result<u64, StoreError> {
        Ok(self.rows.len() as u64)
    }

    fn get(&self, id: &str) -> Result<Option<Row>, StoreError> {
        Ok(self.rows.get(id).cloned())
    }

    fn scan(&self, status: Status, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let from = Bound::Included((status, 0, String::new()));
        for ((_, at, id), key) in
            self.order.range((from, Bound::Unbounded)).take_while(|((found, ..), _)| *found == status)
        {
            if let ControlFlow::Break(()) = visit(Entry { at: *at, id, key: key.as_deref() })? {
                break;
            }
        }
        Ok(())
    }
}

impl Rows for State {
    fn next_fence(&mut self) -> Result<u64, StoreError> {
        self.fence += 1;
        Ok(self.fence)
    }

    fn put(&mut self, old: Option<&Row>, row: &Row) -> Result<(), StoreError> {
        if let Some(old) = old {
            self.order.remove(&(old.status, place(old), old.id.clone()));
        }
        self.insert(row);
        Ok(())
    }

    fn remove(&mut self, row: &Row) -> Result<(), StoreError> {
        self.order.remove(&(row.status, place(row), row.id.clone()));
        self.rows.remove(&row.id);
        Ok(())
    }
}

#[async_trait]
impl OutboxStore for MemoryOutbox {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, StoreError> {
        self.with(|state| ledger::claim(state, now(), request))
    }

    async fn settle(&self, fence: u64, marks: &[Mark]) -> Result<usize, StoreError> {
        self.with(|state| ledger::settle(state, now(), fence, marks))
    }

    async fn remove_sent(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.with(|state| ledger::remove_sent(state, now().saturating_sub(millis(age)), limit))
    }

    async fn stats(&self) -> Result<Stats, StoreError> {
        self.with(|state| ledger::stats(state, now()))
    }

    async fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.with(|state| ledger::list(state, filter, limit))
    }

    async fn retry(&self, filter: &Filter) -> Result<u64, StoreError> {
        let retried = self.with(|state| ledger::retry(state, filter))?;
        self.added.notify_one();
        Ok(retried)
    }

    async fn drop_rows(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.with(|state| ledger::drop_rows(state, filter))
    }

    async fn watch(&self, wake: &Notify) -> Result<Infallible, StoreError> {
        wake.notify_one();
        loop {
            self.added.notified().await;
            wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conformance::Fixture;

    crate::outbox_conformance!(|| async {
        let outbox = Arc::new(MemoryOutbox::new());
        let adding = Arc::clone(&outbox);
        Fixture::new(outbox, move |row| {
            let added = adding.add(row).map_err(|error| error.to_string());
            Box::pin(async { added })
        })
    });
}
