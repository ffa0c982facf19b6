//! The newest event of each key, kept up to date.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use futures_util::Stream;
use prom_protocol::StartFrom;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use crate::{Error, Event, Live, LiveBuilder, LiveItem, command::Inner};

/// The newest event of a key.
#[derive(Debug)]
#[non_exhaustive]
pub struct Latest<T> {
    /// The event.
    pub event: Event,
    /// Its payload, or why it is no `T`.
    pub value: Result<T, Error>,
}

/// A key has a newer event, or none any more.
#[derive(Debug)]
#[non_exhaustive]
pub struct Change<T> {
    /// The key.
    pub key: Arc<str>,
    /// What it has now; none: it is gone.
    pub latest: Option<Arc<Latest<T>>>,
}

impl<T> Change<T> {
    /// The newest event; none: the key is gone.
    pub fn event(&self) -> Option<&Event> {
        self.latest.as_ref().map(|latest| &latest.event)
    }

    /// The newest value; none: the key is gone, or its payload is no `T`.
    pub fn value(&self) -> Option<&T> {
        self.latest.as_ref()?.value.as_ref().ok()
    }
}

/// The newest event of each key of a topic, or, for a pattern, of each `<topic>::<key>`; made by [`crate::Client::watch`].
///
/// It is kept up to date whether or not somebody looks, also over reconnects. As a stream it yields which keys have changed
/// since the watch was made; changes of one key that were not taken yet become one, so a slow reader is behind by at most
/// one change per key, and the memory it takes is bounded by the keys.
///
/// ```no_run
/// # async fn example(client: prom_sdk::Client) -> Result<(), prom_sdk::Error> {
/// use prom_sdk::ProcessState;
/// let mut processes = client.watch::<ProcessState>("process.state").await?;
/// println!("{} processes", processes.len());
/// while let Some(change) = processes.next().await {
///     match change.value() {
///         Some(process) => println!("{} {:?}", change.key, process.status),
///         None => println!("{} is gone", change.key),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Watch<T> {
    view: Arc<Mutex<View<T>>>,
    task: JoinHandle<()>,
}

struct View<T> {
    entries: HashMap<Arc<str>, Entry<T>>,
    /// Keys of different topics are kept apart.
    pattern: bool,
    /// Keys that changed since the stream last yielded them, in order, each once.
    changed: VecDeque<Arc<str>>,
    is_changed: HashSet<Arc<str>>,
    reader: Option<Waker>,
    ended: bool,
    error: Option<Error>,
}

struct Entry<T> {
    latest: Arc<Latest<T>>,
    /// By which it was confirmed last: what an older one brought and a new snapshot does not is gone.
    connection: u32,
}

impl<T> std::fmt::Debug for View<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("keys", &self.entries.len()).field("changed", &self.changed.len()).finish()
    }
}

fn lock<T>(view: &Mutex<View<T>>) -> MutexGuard<'_, View<T>> {
    // Nothing is left half done when a reader panics.
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: DeserializeOwned + Send + Sync + 'static> Watch<T> {
    pub(crate) async fn start(inner: &Arc<Inner>, topic: String) -> Result<Self, Error> {
        let pattern = topic.contains('*');
        let mut live = LiveBuilder::new(inner, topic).from(StartFrom::Snapshot).await?;
        let mut view = View {
            entries: HashMap::new(),
            pattern,
            changed: VecDeque::new(),
            is_changed: HashSet::new(),
            reader: None,
            ended: false,
            error: None,
        };
        loop {
            match live.next().await {
                Some(LiveItem::SnapshotComplete) => break,
                Some(item) => view.take(live.connection(), item),
                None => return Err(live.error().unwrap_or_else(Error::closed)),
            }
        }
        view.complete(live.connection());
        // All of that is the beginning, not a change.
        view.changed.clear();
        view.is_changed.clear();
        let view = Arc::new(Mutex::new(view));
        let task = tokio::spawn(Follower { live, view: Arc::clone(&view) }.run());
        Ok(Self { view, task })
    }
}

/// Keeps the view up to date. However it ends, also by a panic of a payload's `Deserialize`, the reader is woken and sees the end.
struct Follower<T> {
    live: Live,
    view: Arc<Mutex<View<T>>>,
}

impl<T: DeserializeOwned> Follower<T> {
    async fn run(mut self) {
        while let Some(item) = self.live.next().await {
            let connection = self.live.connection();
            let reader = {
                let mut view = lock(&self.view);
                match item {
                    LiveItem::SnapshotComplete => view.complete(connection),
                    item => view.take(connection, item),
                }
                view.waker()
            };
            reader.into_iter().for_each(Waker::wake);
        }
    }
}

impl<T> Drop for Follower<T> {
    fn drop(&mut self) {
        let reader = {
            let mut view = lock(&self.view);
            view.ended = true;
            view.error = self.live.error();
            view.reader.take()
        };
        reader.into_iter().for_each(Waker::wake);
    }
}

impl<T> View<T> {
    /// The task that waits for a change.
    fn waker(&mut self) -> Option<Waker> {
        if self.changed.is_empty() { None } else { self.reader.take() }
    }

    fn change(&mut self, key: Arc<str>) {
        if self.is_changed.insert(Arc::clone(&key)) {
            self.changed.push_back(key);
        }
    }

    /// The snapshot of this connection is complete: what it did not have is gone.
    fn complete(&mut self, connection: u32) {
        let gone: Vec<_> =
            self.entries.iter().filter(|(_, e)| e.connection != connection).map(|(k, _)| Arc::clone(k)).collect();
        for key in gone {
            self.entries.remove(&key);
            self.change(key);
        }
    }

    fn next_change(&mut self) -> Option<Change<T>> {
        let key = self.changed.pop_front()?;
        self.is_changed.remove(&key);
        let latest = self.entries.get(&key).map(|entry| Arc::clone(&entry.latest));
        Some(Change { key, latest })
    }
}

impl<T: DeserializeOwned> View<T> {
    fn take(&mut self, connection: u32, item: LiveItem) {
        let LiveItem::Event(event) = item else { return };
        let Some(key) = event.key.as_deref() else { return };
        let of_topic = self.pattern.then(|| [event.topic.as_ref(), "::", key].concat());
        let key = of_topic.as_deref().unwrap_or(key);
        if let Some(entry) = self.entries.get_mut(key)
            && entry.latest.event.id == event.id
        {
            entry.connection = connection;
            return;
        }
        let key: Arc<str> = self.entries.get_key_value(key).map_or_else(|| key.into(), |(key, _)| Arc::clone(key));
        let value = event.payload();
        self.entries.insert(Arc::clone(&key), Entry { latest: Arc::new(Latest { event, value }), connection });
        self.change(key);
    }
}

impl<T> Watch<T> {
    /// The newest event of `key`.
    pub fn get(&self, key: &str) -> Option<Arc<Latest<T>>> {
        lock(&self.view).entries.get(key).map(|entry| Arc::clone(&entry.latest))
    }

    /// All keys and their newest events as of now, in no order.
    pub fn snapshot(&self) -> Vec<(Arc<str>, Arc<Latest<T>>)> {
        lock(&self.view).entries.iter().map(|(key, entry)| (Arc::clone(key), Arc::clone(&entry.latest))).collect()
    }

    /// The same as an iterator.
    pub fn iter(&self) -> std::vec::IntoIter<(Arc<str>, Arc<Latest<T>>)> {
        self.snapshot().into_iter()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        lock(&self.view).entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next change; none when the subscription has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Change<T>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Why it is not kept up to date any more.
    pub fn error(&self) -> Option<Error> {
        lock(&self.view).error.clone()
    }
}

impl<T> Stream for Watch<T> {
    type Item = Change<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Change<T>>> {
        let mut view = lock(&self.view);
        match view.next_change() {
            Some(change) => Poll::Ready(Some(change)),
            None if view.ended => Poll::Ready(None),
            None => {
                view.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> IntoIterator for &Watch<T> {
    type Item = (Arc<str>, Arc<Latest<T>>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
