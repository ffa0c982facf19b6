//! The past of a topic, over HTTP: pages of `/replay`, the stream of `/export`.

use std::{cell::RefCell, rc::Rc};

use gloo_net::http::{RequestBuilder, Response};
use js_sys::{JSON, Promise, Uint8Array, encode_uri_component};
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

/// What a request asks for beside its path: the topic, where to start, and `more`, which is a parameter as well.
pub(crate) fn query(topic: &str, options: &JsValue, after: Option<f64>, more: &str) -> String {
    let mut query = String::from("?topic=");
    let mut put = |name: &str, value: &str| {
        query.push_str(name);
        query.push_str(&String::from(encode_uri_component(value)));
    };
    put("", topic);
    match after {
        Some(after) => put("&from=afterSeq&afterSeq=", &decimal(after)),
        None => {
            for (name, parameter) in [("from", "&from="), ("afterId", "&afterId=")] {
                if let Some(value) = args::string(options, name) {
                    put(parameter, &value);
                }
            }
            for (name, parameter) in [("ts", "&ts="), ("afterSeq", "&afterSeq=")] {
                if let Some(value) = args::number(options, name) {
                    put(parameter, &decimal(value));
                }
            }
        }
    }
    query.push_str(more);
    query
}

/// Asks the hub. What it refuses, or what fails on the way, is the error.
pub(crate) async fn ask(
    shell: &Shell,
    topic: &str,
    path: &str,
    query: &str,
    signal: &JsValue,
) -> Result<Response, Error> {
    TopicOrPattern::new(topic)?;
    let token = face::token(&shell.token).await.map_err(|message| Error::of(ErrorCode::NoToken, message))?;
    // `ws://host/path` is `http://host` and `wss:` is `https:`.
    let host = web_sys::Url::new(&shell.url).map(|url| url.host()).map_err(|thrown| lost(&thrown))?;
    let scheme = if shell.url.starts_with("wss:") { "https://" } else { "http://" };
    let request = RequestBuilder::new(&[scheme, &host, path, query].concat())
        .header("Authorization", &["Bearer ", &token].concat())
        .abort_signal(signal.dyn_ref::<AbortSignal>());
    let response = async { request.build()?.send().await }.await.map_err(failed)?;
    if response.ok() {
        return Ok(response);
    }
    let body = body(&response).await.unwrap_or(JsValue::NULL);
    let code = args::string(&body, "code").and_then(|code| ErrorCode::from_wire(&code)).unwrap_or(ErrorCode::Internal);
    let status = || ["the hub answered with the HTTP status ", &decimal(response.status().into())].concat();
    Err(Error::of(code, args::string(&body, "msg").unwrap_or_else(status)))
}

/// The body of an answer, which is JSON.
pub(crate) async fn body(response: &Response) -> Result<JsValue, Error> {
    let body = response.text().await.map_err(failed)?;
    JSON::parse(&body).map_err(|thrown| Error::of(ErrorCode::BadJson, reason_of(&thrown)))
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
            loop {
                let read = JsFuture::from(reader.read()).await.map_err(|thrown| shell.error(&lost(&thrown)))?;
                if get(&read, "done")?.is_truthy() {
                    let whole = rest.borrow().is_empty();
                    let cut = Error::lost("the export was cut; go on with afterSeq of the last event", true);
                    return if whole { Ok(JsValue::UNDEFINED) } else { Err(shell.error(&cut)) };
                }
                rest.borrow_mut().extend(get(&read, "value")?.unchecked_into::<Uint8Array>().to_vec());
                if let Some(list) = lines(&mut rest.borrow_mut()) {
                    return JSON::parse(&list);
                }
            }
        })
    }

    /// Takes no more.
    pub fn cancel(&self) {
        // Whether the hub hears of it or not, nothing more is read.
        drop(self.reader.cancel());
    }
}

/// Takes the whole lines out of `bytes`, as a JSON list.
fn lines(bytes: &mut Vec<u8>) -> Option<String> {
    let end = bytes.iter().rposition(|byte| *byte == b'\n')?;
    let mut list = vec![b'['];
    list.extend(bytes.drain(..=end).map(|byte| if byte == b'\n' { b',' } else { byte }));
    let last = list.len() - 1;
    list[last] = b']';
    Some(String::from_utf8_lossy(&list).into_owned())
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
