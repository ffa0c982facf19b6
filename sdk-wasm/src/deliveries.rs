//! Deliveries on their way: to the sink of their subscription, into somebody's hands, and back to the hub as settled.

use std::rc::Rc;

use prom_protocol::ErrorCode;
use prom_sdk_core::{Error, Settle, SubscriptionId};
use wasm_bindgen::JsValue;

use crate::{
    arrival::Arrival,
    clock::now,
    open::{Keep, Open},
    shell::{Shell, Waiter},
    sink::Sink,
};

impl Shell {
    /// Who is told of what comes. Nobody once the client was closed, be it in the middle of a message.
    pub(crate) fn sink(&self, id: SubscriptionId) -> Option<Rc<Sink>> {
        if self.is_over() {
            return None;
        }
        self.sinks.borrow().iter().find(|sink| sink.id.get() == id).cloned()
    }

    pub(crate) fn remove_sink(&self, id: SubscriptionId) -> Option<Rc<Sink>> {
        let mut sinks = self.sinks.borrow_mut();
        let at = sinks.iter().position(|sink| sink.id.get() == id)?;
        Some(sinks.remove(at))
    }

    /// There will be no more for this sink. Its open deliveries are void.
    pub(crate) fn end_sink(&self, sink: &Rc<Sink>, error: Option<&JsValue>) {
        let mut ended = Vec::new();
        self.open.borrow_mut().retain(|open| {
            let own = Rc::ptr_eq(&open.sink, sink) && open.leased();
            if own {
                ended.push(Rc::clone(open));
            }
            !own
        });
        ended.iter().for_each(|open| open.void());
        self.host.ended(sink.id.get().0.into());
        sink.target.ended(error);
        self.tell_idle();
    }

    pub(crate) fn event(self: &Rc<Self>, arrival: Arrival) {
        let event = arrival.event();
        if event.is_undefined() {
            return;
        }
        let Some(sink) = self.sink(arrival.subscription) else { return };
        let target = Rc::clone(&sink.target);
        target.event(&sink, arrival, event);
    }

    /// Keeps a delivery as open, under a number of its own.
    pub(crate) fn open(&self, sink: &Rc<Sink>, arrival: &Arrival, keep: Option<Keep>) -> Rc<Open> {
        let number = self.last_open.get() + 1;
        self.last_open.set(number);
        let open = Rc::new(Open::new(number, Rc::clone(sink), arrival, keep));
        self.open.borrow_mut().push(number, Rc::clone(&open));
        open
    }

    pub(crate) fn find_open(&self, number: f64) -> Option<Rc<Open>> {
        self.open.borrow().get(number as u64).cloned()
    }

    /// A delivery is settled, or void.
    pub(crate) fn close_open(&self, number: u64) {
        let open = self.open.borrow_mut().take(number);
        if let Some(open) = open {
            open.sink.running.set(open.sink.running.get().saturating_sub(1));
            self.tell_idle();
        }
    }

    /// Settles a delivery without an answer. What the hub refuses comes as an error.
    pub(crate) fn settle_quietly(self: &Rc<Self>, open: &Open, settle: Settle<'_>) {
        let lease = open.lease.borrow();
        let Some(text) = lease.as_deref() else { return };
        let delivery = open.reference(text);
        self.ask(&mut |session, now| {
            session.settle_quietly(now, delivery, settle);
        });
        drop(lease);
        self.run();
    }

    /// Settles an open delivery; the call ends when the hub has stored it. `ends` says whether it is open no more.
    pub(crate) fn settle(self: &Rc<Self>, call: f64, open: f64, ends: bool, settle: Settle<'_>) {
        let Some(open) = self.find_open(open) else {
            let message = "the delivery is settled already, or its connection or subscription has ended";
            return self.settle_call(call, Err(Error::of(ErrorCode::StaleLease, message)));
        };
        let lease = open.lease.borrow().clone();
        let Some(lease) = lease else {
            if ends {
                self.close_open(open.number);
            }
            return self.settle_call(call, Ok(JsValue::UNDEFINED));
        };
        if let (Settle::Extend(ms), None) = (settle, open.keep) {
            open.over_at.set(now() + ms as f64);
        }
        let delivery = open.reference(&lease);
        let waiter = Waiter::Call { call, open: ends.then_some(open.number) };
        self.request(waiter, &mut |session, now| session.settle(now, delivery, settle));
    }
}
