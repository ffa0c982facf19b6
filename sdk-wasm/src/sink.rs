//! Where the deliveries of a subscription go.

use std::{cell::Cell, rc::Rc};

use prom_sdk_core::SubscriptionId;
use wasm_bindgen::JsValue;

use crate::arrival::Arrival;

/// One subscription of the application.
pub(crate) struct Sink {
    pub(crate) id: Cell<SubscriptionId>,
    pub(crate) topic: String,
    pub(crate) group: Option<String>,
    pub(crate) target: Rc<dyn Target>,
    /// Handlers at work and deliveries that are taken but not settled: what a drain waits for.
    pub(crate) running: Cell<u32>,
    /// It was unsubscribed and waits for its handlers to finish.
    pub(crate) leaving: Cell<bool>,
}

/// What becomes of the deliveries: a handler, an iterator, a live map, a function that is told.
pub(crate) trait Target {
    /// One has come; `event` is what JavaScript has of it.
    fn event(&self, sink: &Rc<Sink>, arrival: Arrival, event: JsValue);

    /// The snapshot is complete.
    fn live(&self, id: SubscriptionId) {
        let _ = id;
    }

    /// The connection is gone, and with it all leases.
    fn lost(&self) {}

    /// Extends the leases of what waits here, as far as they are due `now`; says when the next one is.
    fn leases_due(&self, now: f64) -> f64 {
        let _ = now;
        f64::INFINITY
    }

    /// The client drains: take no more work.
    fn drain(&self) {}

    /// There will be no more, because of the error, if there is one.
    fn ended(&self, error: Option<&JsValue>) {
        let _ = error;
        self.drain();
    }

    /// Whether it runs handlers that finish before a group is left.
    fn handles(&self) -> bool {
        false
    }
}

impl Sink {
    pub(crate) fn new(topic: String, group: Option<String>, target: Rc<dyn Target>) -> Rc<Self> {
        Rc::new(Self {
            id: Cell::new(SubscriptionId(0)),
            topic,
            group,
            target,
            running: Cell::new(0),
            leaving: Cell::new(false),
        })
    }
}
