//! A delivery: how it came, and what is known of it while somebody works on it.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
};

use js_sys::{Array, JSON};
use prom_protocol::scan;
use prom_sdk_core::{Delivery, DeliveryRef, SubscriptionId};
use serde::Serialize;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::AbortController;

use crate::{args::reason_of, sink::Sink};

/// A delivery as it came.
pub(crate) struct Arrival {
    pub(crate) subscription: SubscriptionId,
    pub(crate) connection: u32,
    pub(crate) id: String,
    pub(crate) context: Context,
    /// Where its event stands in the message.
    text: Range<usize>,
    /// The event as the engine's own parser reads it; undefined if it is not JSON.
    pub(crate) event: JsValue,
}

/// What JavaScript is told of a delivery. Times are milliseconds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Context {
    pub(crate) attempt: u32,
    max_attempts: u32,
    pub(crate) ack_deadline_ms: f64,
    pub(crate) lease: Option<String>,
    redelivered: bool,
}

impl Arrival {
    /// `message` is what the delivery's frame stands in.
    pub(crate) fn new(delivery: &Delivery<'_>, message: &str) -> Self {
        let context = &delivery.context;
        let at = delivery.event.as_ptr() as usize - message.as_ptr() as usize;
        Self {
            subscription: delivery.subscription,
            connection: delivery.connection,
            id: id_of(delivery.event),
            context: Context {
                attempt: context.attempt,
                max_attempts: context.max_attempts,
                ack_deadline_ms: context.ack_deadline_ms as f64,
                lease: context.lease.as_ref().map(|lease| lease.to_string()),
                redelivered: context.redelivered,
            },
            text: at..at + delivery.event.len(),
            event: JsValue::UNDEFINED,
        }
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

/// Reads the events of a message, all at once: crossing to JavaScript is what costs. Gives the reasons of those that are
/// not JSON.
pub(crate) fn parse<'a>(message: &str, arrivals: impl Iterator<Item = &'a mut Arrival>) -> Vec<String> {
    let mut arrivals: Vec<&mut Arrival> = arrivals.collect();
    if arrivals.len() > 1 {
        let mut all = String::with_capacity(message.len() + 2);
        for arrival in &arrivals {
            all.push(if all.is_empty() { '[' } else { ',' });
            all.push_str(&message[arrival.text.clone()]);
        }
        all.push(']');
        if let Ok(events) = JSON::parse(&all) {
            let events: Array = events.unchecked_into();
            for (at, arrival) in arrivals.iter_mut().enumerate() {
                arrival.event = events.get(at as u32);
            }
            return Vec::new();
        }
    }
    let mut broken = Vec::new();
    for arrival in arrivals {
        match JSON::parse(&message[arrival.text.clone()]) {
            Ok(event) => arrival.event = event,
            Err(thrown) => broken.push(reason_of(&thrown)),
        }
    }
    broken
}

/// A delivery that somebody works on.
pub(crate) struct Open {
    pub(crate) number: u64,
    pub(crate) sink: Rc<Sink>,
    pub(crate) id: String,
    pub(crate) connection: Cell<u32>,
    /// None: there is nothing to settle, or not any more.
    pub(crate) lease: RefCell<Option<String>>,
    /// When the lease is to be extended, on the clock of `now`; infinite: it is not.
    pub(crate) extend_at: Cell<f64>,
    /// When its handler has had its time; infinite: never.
    pub(crate) over_at: Cell<f64>,
    /// The handler has come to its end, or its time is over.
    pub(crate) ended: Cell<bool>,
    abort: RefCell<Option<AbortController>>,
    aborted: Cell<bool>,
}

impl Open {
    pub(crate) fn new(number: u64, sink: Rc<Sink>, arrival: &Arrival) -> Self {
        Self {
            number,
            sink,
            id: arrival.id.clone(),
            connection: Cell::new(arrival.connection),
            lease: RefCell::new(arrival.context.lease.clone()),
            extend_at: Cell::new(f64::INFINITY),
            over_at: Cell::new(f64::INFINITY),
            ended: Cell::new(false),
            abort: RefCell::default(),
            aborted: Cell::new(false),
        }
    }

    pub(crate) fn leased(&self) -> bool {
        self.lease.borrow().is_some()
    }

    pub(crate) fn reference<'a>(&'a self, lease: &'a str) -> DeliveryRef<'a> {
        DeliveryRef {
            subscription: self.sink.id.get(),
            connection: self.connection.get(),
            id: &self.id,
            lease: Some(lease),
        }
    }

    /// Its lease is void: whoever works on it is told.
    pub(crate) fn void(&self) {
        self.lease.replace(None);
        self.extend_at.set(f64::INFINITY);
        self.tell_abort();
    }

    pub(crate) fn tell_abort(&self) {
        self.aborted.set(true);
        let abort = self.abort.borrow().clone();
        if let Some(abort) = abort {
            abort.abort();
        }
    }

    /// Made when it is asked for: most handlers do not look at it.
    pub(crate) fn signal(&self) -> JsValue {
        let mut abort = self.abort.borrow_mut();
        if abort.is_none() {
            *abort = AbortController::new().ok();
            if self.aborted.get()
                && let Some(abort) = &*abort
            {
                abort.abort();
            }
        }
        abort.as_ref().map_or(JsValue::UNDEFINED, |abort| abort.signal().into())
    }
}
