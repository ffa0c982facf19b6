//! A delivery that is in somebody's hands.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use prom_sdk_core::DeliveryRef;
use wasm_bindgen::JsValue;
use web_sys::AbortController;

use crate::{arrival::Arrival, sink::Sink};

/// What a handler was given for each event: times in milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Keep {
    pub(crate) lease_ms: f64,
    /// Whether the lease is extended while the handler runs.
    pub(crate) extends: bool,
    /// Infinite: it has all the time.
    pub(crate) timeout_ms: f64,
}

/// A delivery that somebody works on.
pub(crate) struct Open {
    pub(crate) number: u64,
    pub(crate) sink: Rc<Sink>,
    pub(crate) id: String,
    /// Its topic, where a subscription has several: events of two topics may have the same id.
    pub(crate) topic: Option<String>,
    pub(crate) connection: Cell<u32>,
    /// None: there is nothing to settle, or not any more.
    pub(crate) lease: RefCell<Option<String>>,
    /// When the lease is to be extended, on the clock of `now`; infinite: it is not.
    pub(crate) extend_at: Cell<f64>,
    /// When its handler has had its time, or, where it is settled by hand, its lease ends; infinite: never.
    pub(crate) over_at: Cell<f64>,
    /// How its lease is kept while its handler runs; none: it is settled by hand.
    pub(crate) keep: Option<Keep>,
    /// The handler has come to its end, or its time is over.
    pub(crate) ended: Cell<bool>,
    abort: RefCell<Option<AbortController>>,
    aborted: Cell<bool>,
}

impl Open {
    pub(crate) fn new(number: u64, sink: Rc<Sink>, arrival: &Arrival, keep: Option<Keep>) -> Self {
        Self {
            number,
            id: arrival.id.clone(),
            topic: keep.and_then(|_| arrival.topic_of(&sink.topic)),
            sink,
            connection: Cell::new(arrival.connection),
            lease: RefCell::new(arrival.lease.clone()),
            extend_at: Cell::new(f64::INFINITY),
            over_at: Cell::new(f64::INFINITY),
            keep,
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
