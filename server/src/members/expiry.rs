//! What nobody uses any more goes by itself, where the configuration says after how long: topics that have neither events nor
//! groups, groups that have no members.
//!
//! How long that has been so is counted from when this hub first saw it, and again when it has restarted. A topic goes only if
//! nobody has published and no group has begun in between, which the store makes sure of.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use prom_protocol::{Group, Topic};
use prom_store::{Retention, Store, StoreError, Tail};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{flow::writer::Writer, groups::Groups};

/// It is looked at so many times within the shortest time.
const LOOKS: u32 = 4;
/// But not more often than this, and not less often than that.
const LEAST: Duration = Duration::from_millis(250);
const MOST: Duration = Duration::from_secs(60);

/// Removes what nobody uses any more.
#[derive(Debug)]
pub(crate) struct Expiry {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) writer: Writer,
    pub(crate) groups: Groups,
    pub(crate) retention: Retention,
    /// After how long without members a group goes.
    pub(crate) expire_groups: Option<Duration>,
}

/// Since when something has been as it is.
#[derive(Debug)]
struct Since<K, V>(HashMap<K, (V, Instant)>);

impl<K: Hash + Eq + Clone, V: PartialEq> Since<K, V> {
    /// Takes note of how things are now; those that have been so for as long as `after` says. Of what is not among them
    /// nothing is remembered.
    fn look(&mut self, now: impl IntoIterator<Item = (K, V)>, after: impl Fn(&K) -> Option<Duration>) -> Vec<K> {
        let mut before = std::mem::take(&mut self.0);
        let mut due = Vec::new();
        for (key, value) in now {
            let since = match before.remove(&key) {
                Some((own, since)) if own == value => since,
                _ => Instant::now(),
            };
            if after(&key).is_some_and(|after| since.elapsed() >= after) {
                due.push(key.clone());
            }
            self.0.insert(key, (value, since));
        }
        due
    }
}

impl Expiry {
    /// Looks again and again until the hub ends; ends at once where nothing is to expire.
    pub(crate) async fn run(self, ending: CancellationToken) {
        let Some(shortest) = self.retention.shortest_expiry().into_iter().chain(self.expire_groups).min() else {
            return;
        };
        let pause = (shortest / LOOKS).clamp(LEAST, MOST);
        let (mut empty, mut idle) = (Since(HashMap::new()), Since(HashMap::new()));
        loop {
            tokio::select! {
                () = ending.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let looked = async {
                self.groups(&mut idle).await?;
                self.topics(&mut empty).await
            };
            tokio::select! {
                () = ending.cancelled() => return,
                looked = looked => {
                    if let Err(error) = looked {
                        tracing::warn!(%error, "what nobody uses any more stays for now");
                    }
                }
            }
        }
    }

    async fn topics(&self, empty: &mut Since<Topic, Tail>) -> Result<(), StoreError> {
        let expiry = |topic: &Topic| self.retention.rule(topic).and_then(|rule| rule.expire_empty);
        if self.retention.shortest_expiry().is_none() {
            return Ok(());
        }
        let mut now = Vec::new();
        for (topic, tail) in self.store.topics().await? {
            if tail.first > tail.seq
                && expiry(&topic).is_some()
                && !topic.is_reserved()
                && self.is_unused(&topic).await?
            {
                now.push((topic, tail));
            }
        }
        let tails: HashMap<Topic, Tail> = now.iter().cloned().collect();
        for topic in empty.look(now, expiry) {
            let only = tails.get(&topic).copied();
            if self.writer.remove_topic(topic.clone(), only).await? {
                tracing::info!(%topic, "an empty topic has expired");
            }
        }
        Ok(())
    }

    /// Whether no group has a position in it, and no newest event of a key is kept.
    async fn is_unused(&self, topic: &Topic) -> Result<bool, StoreError> {
        Ok(self.store.cursors(topic).await?.is_empty()
            && self.store.latest_page(topic, None, u64::MAX, 1, 1).await?.events.is_empty())
    }

    async fn groups(&self, idle: &mut Since<Group, ()>) -> Result<(), StoreError> {
        let Some(after) = self.expire_groups else { return Ok(()) };
        let mut now: BTreeMap<Group, ()> = BTreeMap::new();
        for (topic, _) in self.store.all_topics().await? {
            now.extend(self.store.cursors(&topic).await?.into_iter().map(|(group, _)| (group, ())));
            tokio::task::yield_now().await;
        }
        now.retain(|group, ()| !group.is_reserved());
        let mut without = Vec::with_capacity(now.len());
        for (group, ()) in now {
            if self.groups.members(&group, None).await == 0 {
                without.push((group, ()));
            }
        }
        for group in idle.look(without, |_| Some(after)) {
            let topics = self.store.topics_of(&group).await?;
            let positions = topics.len();
            if self.groups.remove_idle(&group, topics).await? {
                tracing::info!(%group, positions, "a group without members has expired");
            }
        }
        Ok(())
    }
}
