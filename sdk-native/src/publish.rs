//! Publishing: options, the answer, and the future in between.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use prom_protocol::{EventOptions, Text};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Error,
    command::{Inner, Outgoing, PublishCommand},
};

/// A committed event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Published {
    /// Its id, the caller's or made by this client.
    pub id: String,
    /// Its position in its topic, from 1.
    pub seq: u64,
    /// It was committed before, by an earlier publish with this id; nothing new was stored.
    pub duplicate: bool,
}

/// What an event carries besides its payload. All optional.
///
/// ```
/// use prom_sdk::PublishOptions;
/// let options = PublishOptions::new().key("order-7").header("trace", "4bf92f35").tag("eu");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishOptions {
    pub(crate) event: EventOptions<'static>,
    pub(crate) timeout: Option<Duration>,
}

impl PublishOptions {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The event's id, 1 to 128 bytes. Publishing it again is answered with the first commit. Default: a new UUID.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.event.id = Some(Text::from(id.into()));
        self
    }

    /// Milliseconds since the Unix epoch. Default: the hub's clock.
    #[must_use]
    pub fn ts(mut self, ts: u64) -> Self {
        self.event.ts = Some(ts);
        self
    }

    /// What the event is about, 1 to 512 bytes.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.event.key = Some(Text::from(key.into()));
        self
    }

    /// The publisher's session or stream, 1 to 128 bytes.
    #[must_use]
    pub fn sid(mut self, sid: impl Into<String>) -> Self {
        self.event.sid = Some(Text::from(sid.into()));
        self
    }

    /// Adds a header; at most 32, each name once.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.event.headers.extend([(Text::from(name.into()), Text::from(value.into()))]);
        self
    }

    /// Adds a tag, 1 to 64 bytes; at most 32.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.event.tags.push(Text::from(tag.into()));
        self
    }

    /// Adds the id of an event that led to this one; at most 32.
    #[must_use]
    pub fn caused_by(mut self, id: impl Into<String>) -> Self {
        self.event.caused_by.push(Text::from(id.into()));
        self
    }

    /// How long the publish may take, reconnects and waiting for room included. Default: the client's request timeout.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The id, and the others as they stand on the wire; empty: none.
    fn split(self) -> Result<(Option<Box<str>>, Box<str>), Error> {
        let mut event = self.event;
        event.check().map_err(|refusal| Error::of(refusal.code(), refusal.message_without_opts()))?;
        let id = event.id.take().map(|id| id.0.into_owned().into());
        if event.is_empty() {
            return Ok((id, Box::default()));
        }
        let json = serde_json::to_string(&event);
        Ok((id, json.map_err(|error| Error::payload("the options do not become JSON", error))?.into()))
    }
}

/// A publish under way: resolves when the hub has committed the event.
///
/// It takes its place in the order when it is made, not when it is awaited, so many can be under way at once, for instance
/// with `futures_util::future::join_all`; what is waiting goes out in one write. It borrows nothing and may be spawned.
/// Dropping it takes back what was not sent yet; what was sent may still be committed.
#[must_use = "dropping it takes back what was not sent yet"]
#[derive(Debug)]
pub struct Publishing(State);

enum State {
    Refused(Option<Error>),
    Waiting(oneshot::Receiver<Answer>, Arc<Inner>),
}

type Answer = Result<Published, Error>;

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Refused(_) => "Refused",
            Self::Waiting(..) => "Waiting",
        })
    }
}

impl Publishing {
    pub(crate) fn new(inner: &Arc<Inner>, text: Result<Outgoing, Error>, options: Option<PublishOptions>) -> Self {
        Self(match send(inner, text, options) {
            Ok(answer) => State::Waiting(answer, Arc::clone(inner)),
            Err(error) => State::Refused(Some(error)),
        })
    }
}

impl Future for Publishing {
    type Output = Result<Published, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Refused(error) => Poll::Ready(Err(error.take().unwrap_or_else(Error::closed))),
            State::Waiting(answer, inner) => {
                let answer = std::task::ready!(Pin::new(answer).poll(cx));
                Poll::Ready(answer.unwrap_or_else(|_| Err(inner.ended())))
            }
        }
    }
}

/// Hands the publish to the owner. The channel is not bounded: each belongs to a future that somebody holds.
fn send(
    inner: &Inner,
    text: Result<Outgoing, Error>,
    options: Option<PublishOptions>,
) -> Result<oneshot::Receiver<Answer>, Error> {
    let timeout = options.as_ref().and_then(|options| options.timeout).unwrap_or(inner.request_timeout);
    let (id, options) = options.map_or_else(|| Ok((None, Box::default())), PublishOptions::split)?;
    let text = text?;
    // Time that no clock can tell is no limit.
    let deadline = Instant::now().checked_add(timeout);
    let (reply, answer) = oneshot::channel();
    inner.publishes.send(PublishCommand { text, id, options, deadline, reply }).map_err(|_| inner.ended())?;
    Ok(answer)
}
