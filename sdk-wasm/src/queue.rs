//! A subscription as an iterator of deliveries that are settled by hand, or of events where nothing is settled.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::{Rc, Weak},
};

use prom_sdk_core::{DeliveryRef, Settle};
use wasm_bindgen::JsValue;

use crate::{
    args::whole,
    arrival::Arrival,
    clock::now,
    handler::keep_of,
    open::Keep,
    shell::Shell,
    sink::{Sink, Target},
};

/// Where nothing is acknowledged the hub does not wait for us: over so many it is asked to.
const HIGH_WATER: usize = 1000;
const LOW_WATER: usize = 250;

/// A delivery that waits to be taken.
struct Waiting {
    arrival: Arrival,
    /// When its lease is to be extended, on the clock of `now`; infinite: it is not.
    extend_at: f64,
    /// When it ends; infinite: there is none.
    ends_at: f64,
}

/// What arrived and was not taken yet, and who waits for more.
pub(crate) struct Queue {
    waiting: RefCell<VecDeque<Waiting>>,
    /// Calls of the face.
    takers: RefCell<VecDeque<f64>>,
    paused: Cell<bool>,
    ended: Cell<bool>,
    /// Why it ended: thrown once, after the last delivery.
    error: RefCell<Option<JsValue>>,
    /// Gives events instead of deliveries.
    plain: bool,
    /// How the leases of what waits are kept: whoever takes it has at least half of one.
    keep: Keep,
    shell: Weak<Shell>,
}

impl Queue {
    /// Of deliveries; `plain`: of events. With options that were checked.
    pub(crate) fn new(shell: &Rc<Shell>, plain: bool, options: &JsValue) -> Self {
        Self {
            waiting: RefCell::default(),
            takers: RefCell::default(),
            paused: Cell::new(false),
            ended: Cell::new(false),
            error: RefCell::default(),
            plain,
            keep: keep_of(options),
            shell: Rc::downgrade(shell),
        }
    }

    fn take(&self, shell: &Rc<Shell>, sink: &Rc<Sink>, arrival: Arrival) {
        if self.ended.get() {
            return;
        }
        let leased = arrival.lease.is_some();
        let subscription = arrival.subscription;
        let keeps = leased && self.keep.extends;
        let left = arrival.ack_deadline_ms;
        // Timers of a hidden page come late.
        let wait = if shell.hidden.get() { 0.0 } else { left / 2.0 };
        let present = if leased { now() } else { f64::INFINITY };
        let extend_at = if keeps { present + wait } else { f64::INFINITY };
        self.waiting.borrow_mut().push_back(Waiting { arrival, extend_at, ends_at: present + left });
        self.serve(shell, sink);
        if keeps && !self.waiting.borrow().is_empty() {
            shell.look_at_leases(if wait > 0.0 { extend_at } else { self.leases_due(now()) });
        }
        if !leased && self.waiting.borrow().len() >= HIGH_WATER && !self.paused.replace(true) {
            Self::pause(shell, subscription, true);
        }
    }

    fn pause(shell: &Rc<Shell>, subscription: prom_sdk_core::SubscriptionId, paused: bool) {
        // The session keeps it over reconnects; nobody waits for the answer.
        drop(shell.wait(&mut |session, now| session.pause(now, subscription, paused)));
    }

    /// Settles a call with the next one; with `undefined` at the end.
    pub(crate) fn next(&self, call: f64, shell: &Rc<Shell>, sink: &Rc<Sink>) {
        self.takers.borrow_mut().push_back(call);
        self.serve(shell, sink);
    }

    /// Gives what is there to those who wait.
    fn serve(&self, shell: &Rc<Shell>, sink: &Rc<Sink>) {
        loop {
            if self.takers.borrow().is_empty() {
                return;
            }
            let Some(Waiting { arrival, ends_at, .. }) = self.waiting.borrow_mut().pop_front() else { break };
            // After a standstill: the hub has given it to somebody else.
            if ends_at.is_finite() && ends_at <= now() {
                continue;
            }
            let Some(call) = self.takers.borrow_mut().pop_front() else { return };
            if self.waiting.borrow().len() <= LOW_WATER && self.paused.replace(false) {
                Self::pause(shell, arrival.subscription, false);
            }
            let value = if self.plain { arrival.event() } else { Self::delivery(shell, sink, &arrival, ends_at) };
            shell.host.settle(call, true, &value);
        }
        if self.ended.get() {
            self.finish(shell);
        }
    }

    fn delivery(shell: &Rc<Shell>, sink: &Rc<Sink>, arrival: &Arrival, ends_at: f64) -> JsValue {
        let open = shell.open(sink, arrival, None);
        open.over_at.set(ends_at);
        shell.look_at_leases(ends_at);
        sink.running.set(sink.running.get() + u32::from(open.leased()));
        let number = open.number as f64;
        let ctx = arrival.context(&shell.host, open.number);
        shell.host.delivery(number, &arrival.event(), &ctx)
    }

    /// An error is thrown once; after it the iteration is at its end.
    fn finish(&self, shell: &Shell) {
        loop {
            let Some(call) = self.takers.borrow_mut().pop_front() else { return };
            match self.error.take() {
                Some(error) => shell.host.settle(call, false, &error),
                None => shell.host.settle(call, true, &JsValue::UNDEFINED),
            }
        }
    }

    /// What was leased comes again on the next connection.
    fn forget_leased(&self) {
        self.waiting.borrow_mut().retain(|waiting| waiting.arrival.lease.is_none());
    }

    /// There will be no more; `void` says whether what is leased is void as well.
    fn end(&self, error: Option<&JsValue>, void: bool) {
        if void {
            self.forget_leased();
        } else {
            self.waiting.borrow_mut().clear();
        }
        if !self.ended.replace(true) {
            self.error.replace(error.cloned());
        }
        if self.waiting.borrow().is_empty()
            && let Some(shell) = self.shell.upgrade()
        {
            self.finish(&shell);
        }
    }
}

impl Target for Queue {
    fn event(&self, sink: &Rc<Sink>, arrival: Arrival, _: JsValue) {
        if let Some(shell) = self.shell.upgrade() {
            self.take(&shell, sink, arrival);
        }
    }

    fn lost(&self) {
        self.forget_leased();
    }

    fn leases_due(&self, due: f64) -> f64 {
        let Some(shell) = self.shell.upgrade() else { return f64::INFINITY };
        let ms = shell.extension_ms(self.keep);
        let mut next = f64::INFINITY;
        let present = now();
        self.waiting.borrow_mut().retain(|waiting| waiting.ends_at > present);
        for Waiting { arrival, extend_at, ends_at } in self.waiting.borrow_mut().iter_mut() {
            if extend_at.is_finite() && *extend_at <= due {
                let delivery = DeliveryRef {
                    subscription: arrival.subscription,
                    connection: arrival.connection,
                    id: &arrival.id,
                    lease: arrival.lease.as_deref(),
                };
                shell.ask(&mut |session, now| {
                    session.settle_quietly(now, delivery, Settle::Extend(whole(ms)));
                });
                *extend_at = present + ms / 2.0;
                *ends_at = present + ms;
            }
            next = next.min(*extend_at);
        }
        shell.run();
        next
    }

    fn drain(&self) {
        self.end(None, false);
    }

    fn ended(&self, error: Option<&JsValue>) {
        self.end(error, true);
    }
}
