//! The groups of a hub: which of them run, and the way to each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prom_protocol::{Group, Topic};
use prom_store::StoreError;
use tokio::sync::{mpsc, oneshot};

use super::{
    actor::{Actor, QUEUE},
    context::Context,
    message::{Remove, ToGroup},
};

/// How long a group may take to answer. Less than a request on the ops port may.
const ANSWER: Duration = Duration::from_secs(8);

/// The groups of a hub that have members.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    context: Context,
    running: Arc<Mutex<HashMap<Group, mpsc::Sender<ToGroup>>>>,
}

impl Groups {
    /// None yet.
    pub(crate) fn new(context: Context) -> Self {
        Self { context, running: Arc::default() }
    }

    /// The way to a group, which is started if it does not run. The group may end right after; then a message to it
    /// is lost with its channel, and the caller opens it again.
    pub(crate) fn open(&self, group: &Group) -> mpsc::Sender<ToGroup> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = running.get(group)
            && !sender.is_closed()
        {
            return sender.clone();
        }
        let (sender, messages) = mpsc::channel(QUEUE);
        running.insert(group.clone(), sender.clone());
        let actor = Actor::new(group.clone(), self.context.clone());
        let running = Arc::clone(&self.running);
        let group = group.clone();
        self.context.tasks.spawn(async move {
            actor.run(messages).await;
            // Another actor of the same group may have been started since this one closed its queue.
            let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
            if running.get(&group).is_some_and(mpsc::Sender::is_closed) {
                running.remove(&group);
            }
        });
        sender
    }

    /// How many members a group has on this hub, or has there on a topic. A group that does not answer in time has at least
    /// one, for all that is known.
    pub(crate) async fn members(&self, group: &Group, topic: Option<&Topic>) -> usize {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(group).cloned();
        let Some(sender) = running else { return 0 };
        let (reply, count) = oneshot::channel();
        let asked = async {
            sender.send(ToGroup::Members(topic.cloned(), reply)).await.ok()?;
            count.await.ok()
        };
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(count) => count.unwrap_or(0),
            Err(_) => 1,
        }
    }

    /// Removes a group's positions in `topics`, or, with `only`, in that one. Its members there are revoked.
    ///
    /// # Errors
    /// The store's error, or `Unavailable` if the group does not answer in time.
    pub(crate) async fn remove(
        &self,
        group: &Group,
        only: Option<Topic>,
        topics: Vec<Topic>,
    ) -> Result<(), StoreError> {
        self.ask_to_remove(group, |reply| Remove { only, topics, idle: false, reply }).await.map(drop)
    }

    /// Removes a group's positions in `topics` if it has no members; whether it has.
    ///
    /// # Errors
    /// As [`Groups::remove`].
    pub(crate) async fn remove_idle(&self, group: &Group, topics: Vec<Topic>) -> Result<bool, StoreError> {
        self.ask_to_remove(group, |reply| Remove { only: None, topics, idle: true, reply }).await
    }

    async fn ask_to_remove(
        &self,
        group: &Group,
        remove: impl FnOnce(oneshot::Sender<Result<bool, StoreError>>) -> Remove,
    ) -> Result<bool, StoreError> {
        let busy = || StoreError::Unavailable("the group does not answer".into());
        let (reply, removed) = oneshot::channel();
        // By the group itself, so that nothing it is about to store comes behind.
        let asked = async {
            self.open(group).send(ToGroup::Remove(Box::new(remove(reply)))).await.map_err(|_| busy())?;
            removed.await.unwrap_or_else(|_| Err(busy()))
        };
        tokio::time::timeout(ANSWER, asked).await.unwrap_or_else(|_| Err(busy()))
    }
}
