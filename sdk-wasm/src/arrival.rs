//! A delivery as it came.

use std::{cell::OnceCell, rc::Rc};

use js_sys::{Array, Function, JSON};
use prom_protocol::scan;
use prom_sdk_core::{Delivery, SubscriptionId};
use wasm_bindgen::{JsCast, JsValue};

use crate::{
    args::{get, reason_of},
    face::Host,
};

/// A delivery as it came.
pub(crate) struct Arrival {
    pub(crate) subscription: SubscriptionId,
    pub(crate) connection: u32,
    pub(crate) id: String,
    pub(crate) attempt: u32,
    max_attempts: u32,
    pub(crate) ack_deadline_ms: f64,
    pub(crate) lease: Option<String>,
    redelivered: bool,
    events: Rc<Events>,
    /// Which of `events` is its own.
    at: u32,
}

/// The events of one message, as the engine's own parser reads them.
#[derive(Default)]
pub(crate) struct Events(OnceCell<Array>);

impl Arrival {
    /// Its event will be number `at` of `events`.
    pub(crate) fn new(delivery: &Delivery<'_>, events: &Rc<Events>, at: usize) -> Self {
        let context = &delivery.context;
        Self {
            subscription: delivery.subscription,
            connection: delivery.connection,
            id: id_of(delivery.event),
            attempt: context.attempt,
            max_attempts: context.max_attempts,
            ack_deadline_ms: context.ack_deadline_ms as f64,
            lease: context.lease.as_ref().map(|lease| lease.as_str().to_owned()),
            redelivered: context.redelivered,
            events: Rc::clone(events),
            at: at as u32,
        }
    }

    /// What JavaScript is told of it, as delivery `open`.
    pub(crate) fn context(&self, host: &Host, open: u64) -> JsValue {
        let lease = &self.lease.as_deref().map_or(JsValue::NULL, JsValue::from_str);
        host.context(open as f64, self.attempt, self.max_attempts, self.ack_deadline_ms, lease, self.redelivered)
    }

    /// Calls a handler with it, as delivery `open`; false: the handler has not come to its end.
    pub(crate) fn deliver(&self, host: &Host, handler: &Function, event: &JsValue, open: u64) -> bool {
        let lease = &self.lease.as_deref().map_or(JsValue::NULL, JsValue::from_str);
        let (attempt, most, left) = (self.attempt, self.max_attempts, self.ack_deadline_ms);
        host.deliver(handler, event, open as f64, attempt, most, left, lease, self.redelivered)
    }

    /// The event; undefined if it is not JSON.
    pub(crate) fn event(&self) -> JsValue {
        self.events.0.get().map_or(JsValue::UNDEFINED, |events| events.get(self.at))
    }
}

impl Arrival {
    /// Its topic, where `target` may have several.
    pub(crate) fn topic_of(&self, target: &str) -> Option<String> {
        if !target.contains('*') {
            return None;
        }
        get(&self.event(), "topic").ok()?.as_string()
    }
}

/// The id of an event. The hub writes it first.
fn id_of(event: &str) -> String {
    let mut id = "";
    if let Some(rest) = event.strip_prefix("{\"id\":\"")
        && let Some((first, _)) = rest.split_once('"')
        && !first.contains('\\')
    {
        return first.to_owned();
    }
    scan::fields(event, |name, value| {
        if name == "id" {
            id = value;
        }
    });
    scan::string(id).unwrap_or_default().into_owned()
}

impl Events {
    /// Reads all of them at once: crossing to JavaScript is what costs. Gives the reasons of those that are not JSON.
    pub(crate) fn parse(&self, host: &Host, texts: &[&str]) -> Vec<String> {
        if texts.is_empty() {
            return Vec::new();
        }
        let mut all = String::with_capacity(texts.iter().map(|text| text.len() + 1).sum::<usize>() + 1);
        for text in texts {
            all.push(if all.is_empty() { '[' } else { ',' });
            all.push_str(text);
        }
        all.push(']');
        let mut broken = Vec::new();
        let whole = JSON::parse(&all).ok().and_then(|events| events.dyn_into::<Array>().ok());
        let events = whole.filter(|events| events.length() as usize == texts.len()).unwrap_or_else(|| {
            // One of them is not JSON; the others are not to suffer for it.
            let one = |text: &&str| JSON::parse(text).map_err(|thrown| broken.push(reason_of(&thrown)));
            texts.iter().map(one).map(Result::unwrap_or_default).collect()
        });
        host.named(&events);
        // It is parsed once.
        let _ = self.0.set(events);
        broken
    }
}
