//! A delivery: how it came, and what is known of it while somebody works on it.

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
};

use js_sys::{Array, JSON};
use prom_protocol::scan;
use prom_sdk_core::{Delivery, DeliveryRef, SubscriptionId};
use wasm_bindgen::{JsCast, JsValue};
use web_sys::AbortController;

use crate::{args::reason_of, face::Host, sink::Sink};

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
        let lease = self.lease.as_deref();
        host.context(open as f64, self.attempt, self.max_attempts, self.ack_deadline_ms, lease, self.redelivered)
    }

    /// The event; undefined if it is not JSON.
    pub(crate) fn event(&self) -> JsValue {
        self.events.0.get().map_or(JsValue::UNDEFINED, |events| events.get(self.at))
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
    pub(crate) fn parse(&self, texts: &[&str]) -> Vec<String> {
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
        // It is parsed once.
        let _ = self.0.set(events);
        broken
    }
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
            lease: RefCell::new(arrival.lease.clone()),
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
