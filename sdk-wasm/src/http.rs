//! The past of a topic, over HTTP: pages of `/replay`, the stream of `/export`.

use std::{cell::RefCell, rc::Rc};

use gloo_net::http::{RequestBuilder, Response};
use js_sys::{JSON, Promise, Reflect, Uint8Array};
use prom_protocol::{ErrorCode, TopicOrPattern};
use prom_sdk_core::Error;
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, ReadableStreamDefaultReader};

use crate::{args::reason_of, face, shell::Shell};

/// Asks the hub for events of a topic. `query` are the parameters beside the topic.
pub(crate) async fn get(
    shell: &Shell,
    path: &str,
    topic: &str,
    query: Vec<(&'static str, String)>,
    signal: &JsValue,
) -> Result<Response, Error> {
    TopicOrPattern::new(topic)?;
    let token = face::token(&shell.token).await.map_err(|message| Error::of(ErrorCode::NoToken, message))?;
    // `ws://host/path` is `http://host` and `wss:` is `https:`.
    let address = web_sys::Url::new(&shell.url).map(|url| url.host()).map_err(|thrown| lost(&thrown))?;
    let scheme = if shell.url.starts_with("wss:") { "https://" } else { "http://" };
    let query = query.iter().map(|(name, value)| (*name, value.as_str()));
    let request = RequestBuilder::new(&[scheme, &address, path].concat())
        .query([("topic", topic)].into_iter().chain(query))
        .header("Authorization", &["Bearer ", &token].concat())
        .abort_signal(signal.dyn_ref::<AbortSignal>())
        .build()
        .map_err(|error| Error::lost(error.to_string(), false))?;
    let response = request.send().await.map_err(|error| Error::lost(error.to_string(), true))?;
    if response.ok() {
        return Ok(response);
    }
    let body = response.text().await.unwrap_or_default();
    let answer = JSON::parse(&body).unwrap_or(JsValue::NULL);
    let field = |name: &str| {
        let value = answer.is_object().then(|| Reflect::get(&answer, &JsValue::from_str(name)).ok()).flatten();
        value.and_then(|value| value.as_string())
    };
    let code = field("code").and_then(|code| ErrorCode::from_wire(&code)).unwrap_or(ErrorCode::Internal);
    let message = field("msg").unwrap_or_else(|| ["the hub answered ", &response.status().to_string()].concat());
    Err(Error::of(code, message))
}

fn lost(thrown: &JsValue) -> Error {
    Error::lost(reason_of(thrown), true)
}

/// One page of a topic's events: what `/replay` answers.
pub(crate) async fn page(
    shell: &Shell,
    topic: &str,
    query: Vec<(&'static str, String)>,
    signal: &JsValue,
) -> Result<JsValue, Error> {
    let response = get(shell, "/replay", topic, query, signal).await?;
    let body = response.text().await.map_err(|error| Error::lost(error.to_string(), true))?;
    JSON::parse(&body).map_err(|thrown| Error::of(ErrorCode::BadJson, reason_of(&thrown)))
}

/// The events of an export under way.
#[wasm_bindgen]
pub struct PromExport {
    shell: Rc<Shell>,
    reader: ReadableStreamDefaultReader,
    /// Bytes after the last whole line.
    rest: Rc<RefCell<Vec<u8>>>,
}

impl PromExport {
    pub(crate) fn new(shell: &Rc<Shell>, response: &Response) -> Result<Self, Error> {
        let body = response.body().ok_or_else(|| Error::lost("the hub's answer has no body", true))?;
        Ok(Self { shell: Rc::clone(shell), reader: body.get_reader().unchecked_into(), rest: Rc::default() })
    }
}

#[wasm_bindgen]
impl PromExport {
    /// The next events, at least one; `undefined` when the export is complete. Rejects with `connection_lost` when it was cut.
    pub fn next(&self) -> Promise {
        let (shell, reader, rest) = (Rc::clone(&self.shell), self.reader.clone(), Rc::clone(&self.rest));
        face::promise(async move {
            let read = async {
                loop {
                    let read = JsFuture::from(reader.read()).await.map_err(|thrown| lost(&thrown))?;
                    let field = |name: &str| Reflect::get(&read, &JsValue::from_str(name)).map_err(|thrown| lost(&thrown));
                    if field("done")?.is_truthy() {
                        let whole = rest.borrow().is_empty();
                        let cut = || Error::lost("the export was cut; go on with afterSeq of the last event", true);
                        return whole.then_some(JsValue::UNDEFINED).ok_or_else(cut);
                    }
                    let mut bytes = rest.borrow_mut();
                    bytes.extend(field("value")?.unchecked_into::<Uint8Array>().to_vec());
                    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else { continue };
                    let mut lines: Vec<u8> = bytes.drain(..=end).collect();
                    lines[end] = b']';
                    lines.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b',');
                    lines.insert(0, b'[');
                    let events = JSON::parse(&String::from_utf8_lossy(&lines));
                    return events.map_err(|thrown| Error::of(ErrorCode::BadJson, reason_of(&thrown)));
                }
            };
            read.await.map_err(|error: Error| shell.error(&error))
        })
    }

    /// Takes no more.
    pub fn cancel(&self) {
        // Whether the hub hears of it or not, nothing more is read.
        drop(self.reader.cancel());
    }
}

