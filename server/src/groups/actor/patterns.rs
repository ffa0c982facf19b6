//! A group's patterns: which topics come to be among them later, and whose share the positions in those are of.

use std::{sync::Arc, time::Duration};

use prom_protocol::{ErrorCode, StartFrom, TopicOrPattern};
use tokio::time::Instant;

use super::{Actor, Pattern, RETRY, stored_or_new_cursor};
use crate::{
    flow::topics::{Signal, TopicState},
    quota::Positions,
};

/// Patterns a group may follow before it looks which of them are still wanted.
const PATTERNS: usize = 64;
/// How long it waits to take on what there was no share of positions for.
const CATCH_UP: Duration = Duration::from_secs(5);

impl Actor {
    /// Forgets patterns that members had who left long ago. Until then new topics are taken on for them too, so that
    /// a member that comes back has missed none.
    pub(super) fn follow(&mut self, target: &TopicOrPattern, payer: Option<&Positions>) {
        let known = self.patterns.iter().any(|own| own.target == *target);
        if matches!(target, TopicOrPattern::Topic(_)) || known {
            return;
        }
        if self.patterns.len() >= PATTERNS {
            let (topics, signals, engine) = (&self.context.topics, &self.signals, &self.engine);
            self.patterns.retain(|own| {
                let wanted = engine.has_member_of(&own.target);
                if !wanted {
                    topics.unfollow(&own.target, signals);
                }
                wanted
            });
        }
        self.patterns.push(Pattern { target: target.clone(), payer: payer.cloned() });
    }

    /// A member has subscribed to `target`, which may be a pattern.
    pub(super) fn pays(&mut self, target: &TopicOrPattern, payer: Option<Positions>) {
        if let Some(own) = self.patterns.iter_mut().find(|own| own.target == *target) {
            own.payer = payer;
        }
    }

    /// A topic has come.
    pub(super) async fn appeared(&mut self, state: Arc<TopicState>) {
        // It may be an old signal: of a pattern that is not the group's any more.
        let pattern = self.patterns.iter().find(|own| own.target.matches(&state.topic));
        let Some(Pattern { payer, .. }) = pattern.filter(|_| self.engine.track_of(&state.topic).is_none()) else {
            return;
        };
        let payer = payer.clone();
        // A topic that comes while a pattern is subscribed is received from its start.
        let removals = state.removals();
        let store = Arc::clone(&self.context.store);
        let adopted = match stored_or_new_cursor(&*store, &self.group, &state.topic, &StartFrom::Earliest).await {
            Ok(cursor) => self.adopt(vec![(Arc::clone(&state), removals, cursor)], payer.as_ref()).await,
            Err(refused) => Err(refused),
        };
        let Err(refused) = adopted else { return };
        if refused.code() == ErrorCode::RateLimited {
            // All of them together: there may be very many.
            self.behind.get_or_insert_with(|| Instant::now() + CATCH_UP);
            return;
        }
        tracing::warn!(topic = %state.topic, group = %self.group, error = refused.message(), "cannot take on a new topic yet");
        let signals = self.signals.clone();
        self.context.tasks.spawn(async move {
            tokio::time::sleep(RETRY).await;
            let _ = signals.send(Signal::New(state));
        });
    }

    /// Has the topics signalled again that there was no share of positions for, if there is one now.
    pub(super) async fn catch_up(&mut self) {
        self.behind = None;
        for pattern in &self.patterns {
            if let Some(payer) = &pattern.payer
                && !payer.has_room(&*self.context.store).await
            {
                self.behind = Some(Instant::now() + CATCH_UP);
                continue;
            }
            let topics = self.context.topics.follow(&pattern.target, &self.signals);
            for state in topics.into_iter().filter(|state| self.engine.track_of(&state.topic).is_none()) {
                let _ = self.signals.send(Signal::New(state));
            }
        }
    }
}
