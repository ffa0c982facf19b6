//! The groups of a hub: which of them run, and the way to each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use prom_protocol::Group;
use tokio::sync::mpsc;

use super::{
    actor::{Actor, QUEUE},
    context::Context,
    message::ToGroup,
};

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
}
