//! Publishes that wait until there is room among the unanswered ones.
//!
//! Each belongs to a future that somebody holds, so the program bounds them by how many futures it keeps: one whose
//! future was dropped is thrown away. They are taken in the order in which they came.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::{Error, command::PublishCommand};

/// Look for dropped ones when there are so many more than after the last look.
const GROWTH: usize = 1024;

#[derive(Default)]
pub(super) struct Backlog {
    entries: VecDeque<PublishCommand>,
    /// None is due before this.
    due: Option<Instant>,
    after_last_look: usize,
}

impl Backlog {
    pub(super) fn extend(&mut self, commands: impl Iterator<Item = PublishCommand>) {
        for command in commands {
            self.due = [self.due, command.deadline].into_iter().flatten().min();
            self.entries.push_back(command);
        }
        if self.entries.len() > 2 * self.after_last_look + GROWTH {
            self.entries.retain(|command| !command.reply.is_closed());
            self.after_last_look = self.entries.len();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// When to call [`Self::expire`].
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The oldest that somebody still waits for.
    pub(super) fn pop(&mut self) -> Option<PublishCommand> {
        while let Some(command) = self.entries.pop_front() {
            if !command.reply.is_closed() {
                return Some(command);
            }
        }
        self.due = None;
        self.after_last_look = 0;
        None
    }

    /// Ends those whose time is up.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        for command in std::mem::take(&mut self.entries) {
            if command.deadline.is_some_and(|deadline| deadline <= now) {
                let _ = command.reply.send(Err(Error::timeout("no room among the unanswered publishes in time")));
            } else {
                self.entries.push_back(command);
            }
        }
        self.due = self.entries.iter().filter_map(|command| command.deadline).min();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;
    use crate::{ErrorKind, Published, command::Outgoing};

    fn command(deadline: Instant) -> (PublishCommand, oneshot::Receiver<Result<Published, Error>>) {
        let (reply, answer) = oneshot::channel();
        let text = Outgoing::new("a1".into(), 1);
        let deadline = Some(deadline);
        (PublishCommand { text, id: None, options: "".into(), deadline, reply }, answer)
    }

    #[test]
    fn the_dropped_are_thrown_away_and_do_not_pile_up() {
        let (mut backlog, later) = (Backlog::default(), Instant::now() + Duration::from_secs(9));
        let (kept, _answer) = command(later);
        backlog.extend([kept].into_iter());
        for _ in 0..100_000 {
            let (dropped, _) = command(later);
            backlog.extend([dropped].into_iter());
            assert!(backlog.entries.len() <= 2 * GROWTH);
        }
        assert!(backlog.pop().is_some());
        assert!(backlog.pop().is_none() && backlog.is_empty());
    }

    #[test]
    fn each_expires_by_its_own_deadline() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        let (late, mut late_answer) = command(now + Duration::from_secs(2));
        let (soon, mut soon_answer) = command(now + Duration::from_secs(1));
        backlog.extend([late, soon].into_iter());
        assert_eq!(backlog.due(), Some(now + Duration::from_secs(1)));
        backlog.expire(now + Duration::from_secs(1));
        assert_eq!(soon_answer.try_recv().unwrap().unwrap_err().kind(), ErrorKind::Timeout);
        assert!(late_answer.try_recv().is_err());
        assert_eq!(backlog.due(), Some(now + Duration::from_secs(2)));
        assert!(backlog.pop().is_some());
    }
}
