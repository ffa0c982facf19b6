//! The past of a topic, over HTTP: pages of `/replay`, the stream of `/export`.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use gloo_net::http::{RequestBuilder, Response};
use js_sys::{Array, JSON, Uint8Array, encode_uri_component};
use prom_protocol::{ErrorCode, TopicOrPattern};
use prom_sdk_core::Error;
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, ReadableStreamDefaultReader};

use crate::{
    args::{self, decimal, get, reason_of},
    face,
    shell::Shell,
};

/// Events of one page, as many as the hub gives.
const PAGE: f64 = 1000.0;

/// The past of a topic, under way.
#[wasm_bindgen]
pub struct PromPast(Rc<Past>);

struct Past {
    shell: Rc<Shell>,
    topic: String,
    /// Where to start, as parameters of the query.
    start: RefCell<String>,
    signal: JsValue,
    /// Events that may still be given.
    left: Cell<f64>,
    /// One stream instead of pages; there is a reader once it has begun.
    stream: bool,
    reader: RefCell<Option<ReadableStreamDefaultReader>>,
    /// Bytes of the stream after its last whole line.
    rest: RefCell<Vec<u8>>,
    /// There is nothing after what was given.
    complete: Cell<bool>,
}

impl PromPast {
    /// With options that were checked.
    pub(crate) fn new(shell: &Rc<Shell>, stream: bool, topic: String, options: &JsValue) -> Self {
        Self(Rc::new(Past {
            shell: Rc::clone(shell),
            topic,
            start: RefCell::new(start(options)),
            signal: get(options, "signal").unwrap_or_default(),
            left: Cell::new(args::number(options, "limit").unwrap_or(f64::INFINITY)),
            stream,
            reader: RefCell::default(),
            rest: RefCell::default(),
            complete: Cell::new(false),
        }))
    }
}

#[wasm_bindgen]
impl PromPast {
    /// Settled with the next events, at least one; with `undefined` when there are no more. A stream that was cut:
    /// `connection_lost`.
    pub fn next(&self, call: f64) {
        let past = Rc::clone(&self.0);
        face::spawn(async move {
            let events = past.next().await;
            past.shell.settle_call(call, events.map(|events| events.map_or(JsValue::UNDEFINED, JsValue::from)));
        });
    }

    /// Takes no more.
    pub fn cancel(&self) {
        if let Some(reader) = self.0.reader.take() {
            // Whether the hub hears of it or not, nothing more is read.
            let cancelled = reader.cancel();
            face::spawn(async move {
                // Of a stream that failed it is refused: nobody else would hear of that.
                let _ = JsFuture::from(cancelled).await;
            });
        }
    }
}

impl Past {
    async fn next(&self) -> Result<Option<Array>, Error> {
        while self.left.get() > 0.0 && !self.complete.get() {
            if self.shell.is_over() {
                return Err(Error::closed());
            }
            let events = if self.stream { self.chunk().await? } else { self.page().await? };
            if events.length() > 0 {
                let left = self.left.get();
                self.left.set(left - f64::from(events.length()));
                let whole = f64::from(events.length()) <= left;
                return Ok(Some(if whole { events } else { events.slice(0, left as u32) }));
            }
        }
        Ok(None)
    }

    async fn page(&self) -> Result<Array, Error> {
        let limit = ["&limit=", &decimal(self.left.get().min(PAGE))].concat();
        let query = [self.start.borrow().as_str(), &limit].concat();
        let page = body(&self.ask("/replay", &query).await?).await?;
        match args::number(&page, "next") {
            Some(next) => drop(self.start.replace(["&from=afterSeq&afterSeq=", &decimal(next)].concat())),
            None => self.complete.set(true),
        }
        Ok(get(&page, "events").unwrap_or_default().dyn_into().unwrap_or_default())
    }

    async fn chunk(&self) -> Result<Array, Error> {
        let begun = self.reader.borrow().clone();
        let reader = match begun {
            Some(reader) => reader,
            None => {
                let query = [self.start.borrow().as_str(), "&ndjson=1"].concat();
                let body = self.ask("/export", &query).await?.body();
                let body = body.ok_or_else(|| Error::lost("the hub's answer has no body", true))?;
                let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
                self.reader.replace(Some(reader.clone()));
                reader
            }
        };
        let read = JsFuture::from(reader.read()).await.map_err(|thrown| lost(&thrown))?;
        let done = get(&read, "done").is_ok_and(|done| done.is_truthy());
        if done && !self.rest.borrow().is_empty() {
            return Err(Error::lost("the export was cut; go on with afterSeq of the last event", true));
        }
        self.complete.set(done);
        if !done {
            let bytes: Uint8Array = get(&read, "value").unwrap_or_default().unchecked_into();
            self.rest.borrow_mut().extend(bytes.to_vec());
        }
        match lines(&mut self.rest.borrow_mut()) {
            Some(list) => Ok(parsed(&list)?.dyn_into().unwrap_or_default()),
            None => Ok(Array::new()),
        }
    }

    /// Asks the hub. What it refuses, or what fails on the way, is the error.
    async fn ask(&self, path: &str, query: &str) -> Result<Response, Error> {
        TopicOrPattern::new(self.topic.as_str())?;
        let shell = &self.shell;
        let token = face::token(&shell.token).await.map_err(|message| Error::of(ErrorCode::NoToken, message))?;
        if shell.is_over() {
            return Err(Error::closed());
        }
        // `ws://host/path` is `http://host` and `wss:` is `https:`.
        let host = web_sys::Url::new(&shell.url).map(|url| url.host()).map_err(|thrown| lost(&thrown))?;
        let scheme = if shell.url.starts_with("wss:") { "https://" } else { "http://" };
        let topic = String::from(encode_uri_component(&self.topic));
        let request = RequestBuilder::new(&[scheme, &host, path, "?topic=", &topic, query].concat())
            .header("Authorization", &["Bearer ", &token].concat())
            .abort_signal(self.signal.dyn_ref::<AbortSignal>());
        let response = async { request.build()?.send().await }.await.map_err(failed)?;
        if response.ok() {
            return Ok(response);
        }
        let body = body(&response).await.unwrap_or(JsValue::NULL);
        let code = if get(&body, "expired").is_ok_and(|expired| expired.is_truthy()) {
            ErrorCode::TokenExpired
        } else {
            args::string(&body, "code").and_then(|code| ErrorCode::from_wire(&code)).unwrap_or(ErrorCode::Internal)
        };
        let status = || ["the hub answered with the HTTP status ", &decimal(response.status().into())].concat();
        Err(Error::of(code, args::string(&body, "error").unwrap_or_else(status)))
    }
}

/// Where to start, as parameters of a query.
fn start(options: &JsValue) -> String {
    let mut query = String::new();
    for name in ["from", "ts", "afterId", "afterSeq"] {
        let value = args::string(options, name).or_else(|| args::number(options, name).map(decimal));
        if let Some(value) = value {
            query.extend(["&", name, "="]);
            query.push_str(&String::from(encode_uri_component(&value)));
        }
    }
    query
}

/// The body of an answer, which is JSON.
async fn body(response: &Response) -> Result<JsValue, Error> {
    parsed(&response.text().await.map_err(failed)?)
}

fn parsed(text: &str) -> Result<JsValue, Error> {
    JSON::parse(text).map_err(|thrown| Error::of(ErrorCode::BadJson, reason_of(&thrown)))
}

fn failed(error: gloo_net::Error) -> Error {
    match error {
        gloo_net::Error::JsError(error) => Error::lost(error.message, true),
        _ => Error::lost("the hub's answer could not be read", true),
    }
}

fn lost(thrown: &JsValue) -> Error {
    Error::lost(reason_of(thrown), true)
}

/// Takes the whole lines out of `bytes`, as a JSON list.
fn lines(bytes: &mut Vec<u8>) -> Option<String> {
    let end = bytes.iter().rposition(|byte| *byte == b'\n')?;
    let mut list = vec![b'['];
    list.extend(bytes.drain(..=end).map(|byte| if byte == b'\n' { b',' } else { byte }));
    let last = list.len() - 1;
    list[last] = b']';
    // The hub writes JSON, which is UTF-8; what is none is refused by its parser.
    Some(String::from_utf8(list).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn whole_lines_are_taken_and_the_rest_waits() {
        let mut bytes = b"1\n{\"a\":2}\n{\"b".to_vec();
        assert_eq!(lines(&mut bytes).as_deref(), Some("[1,{\"a\":2}]"));
        assert_eq!((lines(&mut bytes), bytes), (None, b"{\"b".to_vec()));
    }
}
