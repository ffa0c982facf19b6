//! Reads a topic's past from the hub, and goes on where it was when a connection is lost.

use std::{sync::Arc, time::Duration};

use hyper::http::HeaderValue;
use prom_protocol::{ErrorCode, RawValue, StartFrom, Topic};
use prom_sdk_core::{Backoff, Entropy};
use serde::Deserialize;
use tokio::time::Instant;

use super::lines::Lines;
use crate::{Error, ErrorKind, Event, Gap, command::Inner, http::Line, owner::seed};

/// Events of a page: as many as the hub gives at most.
const PAGE: u64 = 1000;
/// Longest page: the hub ends one after about 4 MiB, with an event of 1 MiB at most.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// How the past is asked for.
pub(super) enum Source {
    /// `/replay`: the rest of a page, and whether another one follows.
    Pages { page: std::vec::IntoIter<Event>, more: bool },
    /// `/export`: one answer, once it has begun.
    Export { lines: Option<Lines>, end: u64, fruitless: bool },
}

/// What is read.
pub(super) enum Item {
    Event(Event),
    Gap(Gap),
}

pub(super) struct Reader {
    inner: Arc<Inner>,
    topic: Topic,
    from: StartFrom,
    /// Seq of the last event or page; none: nothing has come yet.
    after: Option<u64>,
    left: u64,
    source: Source,
    gap: Option<Gap>,
    over: bool,
    line: Option<Line>,
    authorization: Option<HeaderValue>,
    backoff: Backoff,
    entropy: Entropy,
    /// Since when nothing has come of it.
    trouble: Option<Instant>,
}

impl Reader {
    pub(super) fn new(inner: Arc<Inner>, topic: Topic, from: StartFrom, limit: u64, source: Source) -> Self {
        let backoff = inner.http.backoff();
        Self {
            inner,
            topic,
            from,
            after: None,
            left: limit,
            source,
            gap: None,
            over: false,
            line: None,
            authorization: None,
            backoff,
            entropy: Entropy::new(seed()),
            trouble: None,
        }
    }

    /// Makes the first request: what the hub refuses is told here.
    pub(super) async fn open(&mut self) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        tokio::select! {
            biased;
            error = inner.shared.until_ended() => Err(error),
            opened = self.ask() => opened,
        }
    }

    /// The seq that an export ends at.
    pub(super) fn end(&self) -> Option<u64> {
        match self.source {
            Source::Pages { .. } => None,
            Source::Export { end, .. } => Some(end),
        }
    }

    /// The next item; none at the end, and after an error.
    pub(super) async fn next(&mut self) -> Result<Option<Item>, Error> {
        if self.over {
            return Ok(None);
        }
        let inner = Arc::clone(&self.inner);
        let item = tokio::select! {
            biased;
            error = inner.shared.until_ended() => Err(error),
            item = self.persist() => item,
        };
        if !matches!(item, Ok(Some(_))) {
            // The connection is of no use any more.
            (self.over, self.line) = (true, None);
            self.source = Source::Pages { page: Vec::new().into_iter(), more: false };
        }
        item
    }

    /// Reads, and what fails on the way again, for as long as a request may take.
    async fn persist(&mut self) -> Result<Option<Item>, Error> {
        loop {
            let error = match self.read().await {
                Ok(item) => {
                    if self.trouble.take().is_some() {
                        self.backoff.reset();
                    }
                    return Ok(item);
                }
                Err(error) => error,
            };
            let renewed = error.kind() == ErrorKind::Unauthorized && self.inner.http.may_renew();
            if !error.retryable() && !renewed {
                return Err(error);
            }
            (self.line, self.authorization) = (None, None);
            if let Source::Export { lines, .. } = &mut self.source {
                *lines = None;
            }
            let since = *self.trouble.get_or_insert_with(Instant::now);
            let at_least = error.retry_after().unwrap_or_default();
            let wait = self.backoff.next(&mut self.entropy, crate::owner::millis(at_least));
            let wait = Duration::from_millis(wait);
            if since.elapsed().saturating_add(wait) > self.inner.http.request_timeout {
                return Err(error);
            }
            tracing::debug!(topic = %self.topic, after = self.after, %error, "reading the past goes on");
            tokio::time::sleep(wait).await;
        }
    }

    async fn read(&mut self) -> Result<Option<Item>, Error> {
        loop {
            if let Some(gap) = self.gap.take() {
                return Ok(Some(Item::Gap(gap)));
            }
            if self.left == 0 {
                return Ok(None);
            }
            let event = match &mut self.source {
                Source::Pages { page, .. } => page.next(),
                Source::Export { lines: Some(lines), fruitless, .. } => match lines.next().await? {
                    Some(line) => {
                        *fruitless = false;
                        Some(event(line)?)
                    }
                    None => None,
                },
                Source::Export { lines: None, .. } => None,
            };
            if let Some(event) = event {
                if self.end().is_some_and(|end| event.seq > end) {
                    return Ok(None);
                }
                self.left -= 1;
                if self.end().is_some() {
                    self.after = Some(event.seq);
                }
                return Ok(Some(Item::Event(event)));
            }
            match &mut self.source {
                Source::Pages { more: false, .. } => return Ok(None),
                // An end before its end is none, where something between here and the hub has made one of a break.
                Source::Export { lines: lines @ Some(_), end, fruitless } => {
                    if *fruitless || self.after.unwrap_or(0) >= *end {
                        return Ok(None);
                    }
                    *lines = None;
                }
                _ => {}
            }
            self.ask().await?;
        }
    }

    /// Asks for the next page, or for the export or the rest of it.
    async fn ask(&mut self) -> Result<(), Error> {
        let http = &self.inner.http;
        let authorization = match &self.authorization {
            Some(authorization) => authorization,
            None => self.authorization.insert(http.authorization().await?),
        };
        let path = path(&self.source, &self.topic, &self.from, self.after, self.left);
        let mut answer = http.get(&mut self.line, authorization, &path).await?;
        let missing = match &mut self.source {
            Source::Pages { page, more } => {
                let body = answer.whole(PAGE_BYTES).await?;
                let read = Page::read(&body)?;
                if read.next.is_some_and(|next| self.after.is_some_and(|after| next <= after)) {
                    return Err(not_a_hub("its next page is this one"));
                }
                *page = read.events.into_iter();
                *more = read.next.is_some();
                self.after = read.next.or(self.after);
                read.gap
            }
            Source::Export { lines, end, fruitless } => {
                let told = answer.end.ok_or_else(|| not_a_hub("it does not say where the export ends"))?;
                // What was published since is not part of it.
                *end = (*end).min(told);
                *fruitless = true;
                let missing = answer.gap;
                *lines = Some(Lines::new(answer));
                missing
            }
        };
        self.gap = missing.map(|(from, to)| Gap {
            topic: self.topic.to_string(),
            from,
            to,
            reason: "the events are no longer retained".to_owned(),
        });
        Ok(())
    }
}

fn path(source: &Source, topic: &Topic, from: &StartFrom, after: Option<u64>, left: u64) -> String {
    let (route, how, what) = match source {
        Source::Pages { .. } => ("/replay?", "limit", left.clamp(1, PAGE)),
        Source::Export { .. } => ("/export?", "ndjson", 1),
    };
    let position = match (after, from) {
        (Some(seq), _) => Some(("afterSeq", seq.to_string())),
        (None, StartFrom::AfterSeq(seq)) => Some(("afterSeq", seq.to_string())),
        (None, StartFrom::AfterId(id)) => Some(("afterId", id.clone())),
        (None, StartFrom::Ts(ts)) => Some(("ts", ts.to_string())),
        (None, StartFrom::Latest | StartFrom::Earliest | StartFrom::Snapshot) => None,
    };
    let from = match &position {
        Some((name, _)) => name,
        None if *from == StartFrom::Latest => "latest",
        None => "earliest",
    };
    let mut query = form_urlencoded::Serializer::for_suffix(route.to_owned(), route.len());
    query.append_pair("topic", topic.as_str()).append_pair("from", from);
    if let Some((name, value)) = &position {
        query.append_pair(name, value);
    }
    query.append_pair(how, &what.to_string()).finish()
}

/// A page as it is answered.
struct Page {
    events: Vec<Event>,
    next: Option<u64>,
    gap: Option<(u64, u64)>,
}

impl Page {
    fn read(body: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            events: Vec<&'a RawValue>,
            next: Option<u64>,
            gap: Option<Missing>,
        }
        #[derive(Deserialize)]
        struct Missing {
            from: u64,
            to: u64,
        }
        let Answer { events, next, gap } = serde_json::from_slice(body).map_err(|error| not_a_hub(&error))?;
        let events = events.into_iter().map(|json| event(json.get().as_bytes())).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { events, next, gap: gap.map(|gap| (gap.from, gap.to)) })
    }
}

fn event(json: &[u8]) -> Result<Event, Error> {
    let json = std::str::from_utf8(json).map_err(|error| not_a_hub(&error))?;
    Event::parse(json).map_err(|error| not_a_hub(&error))
}

fn not_a_hub(why: &(impl std::fmt::Display + ?Sized)) -> Error {
    Error::of(ErrorCode::BadJson, format!("the answer is not one of a hub: {why}"))
}
