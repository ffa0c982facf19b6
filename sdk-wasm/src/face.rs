//! What the module asks of its TypeScript face, and the small things of JavaScript.

use std::pin::Pin;

use js_sys::{Array, Function, Promise, Reflect};
use serde::Serialize;
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::{JsFuture, spawn_local};

use crate::args::reason_of;

#[wasm_bindgen]
extern "C" {
    /// What the face does for one client. Its functions throw nothing.
    #[derive(Clone)]
    pub type Host;

    /// Makes a `HubError`.
    #[wasm_bindgen(method)]
    pub(crate) fn error(
        this: &Host,
        code: &str,
        message: &str,
        retryable: bool,
        retry_after_ms: Option<f64>,
        cause: &JsValue,
    ) -> JsValue;

    /// Ends call number `call`: with its result, or what is wrong, which is a string where an argument is.
    #[wasm_bindgen(method)]
    pub(crate) fn settle(this: &Host, call: f64, ok: bool, value: &JsValue);

    /// Ends a publish.
    #[wasm_bindgen(method)]
    pub(crate) fn published(this: &Host, call: f64, id: &str, seq: f64, duplicate: bool);

    /// A subscription has ended.
    #[wasm_bindgen(method)]
    pub(crate) fn ended(this: &Host, subscription: f64);

    /// Gives the events of a list the names that they have in JavaScript.
    #[wasm_bindgen(method)]
    pub(crate) fn named(this: &Host, events: &Array);

    /// Tells the listeners of `name`.
    #[wasm_bindgen(method)]
    pub(crate) fn emit(this: &Host, name: &str, event: &JsValue);

    /// Makes the context of delivery `open`.
    #[wasm_bindgen(method)]
    pub(crate) fn context(
        this: &Host,
        open: f64,
        attempt: u32,
        max_attempts: u32,
        ack_deadline_ms: f64,
        lease: &JsValue,
        redelivered: bool,
    ) -> JsValue;

    /// Calls a handler with the event and its context. All at once: this is done for every event. False: it has not come to
    /// its end, and [`crate::PromShell::handled`] will be told of it.
    #[wasm_bindgen(method)]
    pub(crate) fn deliver(
        this: &Host,
        handler: &Function,
        event: &JsValue,
        open: f64,
        attempt: u32,
        max_attempts: u32,
        ack_deadline_ms: f64,
        lease: &JsValue,
        redelivered: bool,
    ) -> bool;

    /// Makes the delivery that an iterator gives.
    #[wasm_bindgen(method)]
    pub(crate) fn delivery(this: &Host, open: f64, event: &JsValue, ctx: &JsValue) -> JsValue;

    /// The module has ended, because of its own fault.
    #[wasm_bindgen(method)]
    pub(crate) fn broken(this: &Host, message: &str);

    /// The face of a watch. Its functions throw nothing.
    #[derive(Clone)]
    pub type ViewFace;

    /// What the options of the watch say, `undefined` or a function.
    #[wasm_bindgen(method, setter = onChange)]
    pub(crate) fn set_on_change(this: &ViewFace, on_change: &JsValue);

    /// The newest event of a key.
    #[wasm_bindgen(method)]
    pub(crate) fn event(this: &ViewFace, event: &JsValue);

    /// The snapshot is complete.
    #[wasm_bindgen(method)]
    pub(crate) fn live(this: &ViewFace);

    /// The connection is gone; a new snapshot follows.
    #[wasm_bindgen(method)]
    pub(crate) fn lost(this: &ViewFace);
}

/// A value as JavaScript has it. The types here hold nothing that it cannot take.
pub(crate) fn value(of: &impl Serialize) -> JsValue {
    serde_wasm_bindgen::to_value(of).unwrap_or(JsValue::UNDEFINED)
}

/// Sets a field of an object that was made here.
pub(crate) fn set(object: &JsValue, name: &str, value: &JsValue) {
    // Such an object is neither frozen nor a proxy.
    let _ = Reflect::set(object, &JsValue::from_str(name), value);
}

/// What `value` settles as, if it is a promise or anything else with a `then`. Whatever it is, this throws nothing.
pub(crate) async fn settled(value: &JsValue) -> Result<JsValue, JsValue> {
    // Also where the `then` of the value throws: the promise is rejected.
    let promise = Promise::new(&mut |resolve, _| drop(resolve.call1(&JsValue::UNDEFINED, value)));
    JsFuture::from(promise).await
}

/// The token, or why there is none.
pub(crate) async fn token(source: &JsValue) -> Result<String, String> {
    let answer = match source.dyn_ref::<Function>() {
        Some(provider) => match provider.call0(&JsValue::UNDEFINED) {
            Ok(answer) => settled(&answer).await,
            thrown => thrown,
        },
        None => Ok(source.clone()),
    };
    match answer {
        Ok(token) => token.as_string().ok_or_else(|| "the token provider gave no string".to_owned()),
        Err(thrown) => Err(["the token provider failed: ", &reason_of(&thrown)].concat()),
    }
}

/// Runs a task. Boxed: what runs it would be compiled again for each.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    let task: Pin<Box<dyn Future<Output = ()>>> = Box::pin(task);
    spawn_local(task);
}
