//! A subscription with a handler: resolves, acknowledged; throws, given back. Its leases are kept while it runs.

use std::rc::{Rc, Weak};

use gloo_timers::callback::Timeout;
use js_sys::Function;
use prom_sdk_core::Settle;
use wasm_bindgen::JsValue;

use crate::{
    args::{self, reason_of, timer_ms, whole},
    arrival::Arrival,
    clock::now,
    face,
    once::Once,
    open::{Keep, Open},
    shell::Shell,
    sink::{Sink, Target},
};

/// The hub's lease, unless the options say another.
const LEASE_MS: f64 = 30_000.0;

/// Timers of hidden pages may fire once a minute: leases there are long enough not to need them sooner.
const HIDDEN_LEASE_MS: f64 = 300_000.0;

/// How leases are kept, by options that were checked.
pub(crate) fn keep_of(options: &JsValue) -> Keep {
    Keep {
        lease_ms: args::number(options, "ackTimeoutMs").unwrap_or(LEASE_MS),
        extends: args::get(options, "autoExtend").is_ok_and(|extends| extends.is_undefined() || extends.is_truthy()),
        timeout_ms: args::number(options, "handlerTimeoutMs").unwrap_or(f64::INFINITY),
    }
}

/// A handler of the application.
pub(crate) struct Handler {
    function: Function,
    /// Exactly once: its marks.
    once: Option<Rc<Once>>,
    keep: Keep,
    shell: Weak<Shell>,
}

impl Handler {
    /// With options that were checked.
    pub(crate) fn new(shell: &Rc<Shell>, function: Function, once: Option<Once>, options: &JsValue) -> Self {
        Self { function, once: once.map(Rc::new), keep: keep_of(options), shell: Rc::downgrade(shell) }
    }

    fn handle(&self, shell: &Rc<Shell>, sink: &Rc<Sink>, arrival: Arrival, event: JsValue) {
        if arrival.lease.is_some() && arrival.attempt > 1 && shell.adopt(sink, &arrival) {
            return;
        }
        let open = shell.open(sink, &arrival, Some(self.keep));
        sink.running.set(sink.running.get() + 1);
        if sink.leaving.get() {
            return finish(shell, &open, Err("the subscription is ending"));
        }
        shell.keep_lease(&open, arrival.ack_deadline_ms);
        if self.keep.timeout_ms.is_finite() {
            open.over_at.set(now() + self.keep.timeout_ms);
            shell.look_at_leases(open.over_at.get());
        }
        if let Some(once) = &self.once {
            let ctx = arrival.context(&shell.host, open.number);
            let (once, function, shell) = (Rc::clone(once), self.function.clone(), Rc::clone(shell));
            face::spawn(async move {
                let own = open.topic.as_ref().map(|topic| [topic, "::", &arrival.id].concat());
                let id = own.as_deref().unwrap_or(&arrival.id);
                let result = once.run(id, &function, &event, &ctx).await;
                settled(&shell, &open, result.err().as_ref());
            });
            return;
        }
        if arrival.deliver(&shell.host, &self.function, &event, open.number) {
            finish(shell, &open, Ok(()));
        }
    }
}

impl Target for Handler {
    fn event(&self, sink: &Rc<Sink>, arrival: Arrival, event: JsValue) {
        if let Some(shell) = self.shell.upgrade() {
            self.handle(&shell, sink, arrival, event);
        }
    }

    /// What waits for a store of marks fails soon.
    fn drain(&self) {
        if let Some(once) = &self.once {
            once.stop();
        }
    }

    fn handles(&self) -> bool {
        true
    }
}

/// What a handler answered has settled; with what it threw.
fn settled(shell: &Rc<Shell>, open: &Rc<Open>, thrown: Option<&JsValue>) {
    match thrown {
        Some(thrown) => failed(shell, open, &reason_of(thrown), thrown),
        None => finish(shell, open, Ok(())),
    }
}

/// A handler has failed: its event goes back. Nobody else may hear of that, so the listeners of errors do.
fn failed(shell: &Rc<Shell>, open: &Rc<Open>, reason: &str, thrown: &JsValue) {
    if open.ended.get() || shell.is_over() {
        return;
    }
    {
        finish(shell, open, Err(reason));
        let message =
            ["the handler of ", &open.sink.topic, " failed, event ", &open.id, " goes back: ", reason].concat();
        shell.report_failed("handler_failed", &message, thrown);
    }
}

/// A handler has come to its end, or its time is over.
fn finish(shell: &Rc<Shell>, open: &Rc<Open>, result: Result<(), &str>) {
    if open.ended.replace(true) {
        return;
    }
    match result {
        Ok(()) => shell.settle_quietly(open, Settle::Ack),
        Err(reason) => {
            shell.settle_quietly(open, Settle::Nack { reason: Some(reason), delay_ms: None, dead: false });
        }
    }
    shell.close_open(open.number);
}

impl Shell {
    /// The hub has given an event again whose handler still runs here, after a lost connection or a lease that ran out
    /// while this process stood still. It is not handled beside itself: what becomes of the first settles the second.
    fn adopt(self: &Rc<Self>, sink: &Rc<Sink>, arrival: &Arrival) -> bool {
        let same = |open: &&Rc<Open>| {
            Rc::ptr_eq(&open.sink, sink)
                && open.id == arrival.id
                && !open.ended.get()
                && open.topic == arrival.topic_of(&sink.topic)
        };
        let Some(open) = self.open.borrow().iter().find(same).cloned() else { return false };
        open.connection.set(arrival.connection);
        open.lease.replace(arrival.lease.clone());
        self.keep_lease(&open, arrival.ack_deadline_ms);
        true
    }

    /// Extends the lease of a delivery when half of it has passed, for as long as its handler runs.
    fn keep_lease(self: &Rc<Self>, open: &Rc<Open>, left_ms: f64) {
        let Some(keep) = open.keep.filter(|keep| keep.extends && open.leased()) else { return };
        if self.hidden.get() && left_ms < HIDDEN_LEASE_MS {
            self.extend_lease(open, keep);
        } else {
            open.extend_at.set(now() + left_ms / 2.0);
            self.look_at_leases(open.extend_at.get());
        }
    }

    /// For how long a lease is extended.
    pub(crate) fn extension_ms(&self, keep: Keep) -> f64 {
        if self.hidden.get() { keep.lease_ms.max(HIDDEN_LEASE_MS) } else { keep.lease_ms }
    }

    fn extend_lease(self: &Rc<Self>, open: &Rc<Open>, keep: Keep) {
        let ms = self.extension_ms(keep);
        self.settle_quietly(open, Settle::Extend(whole(ms)));
        open.extend_at.set(now() + ms / 2.0);
        self.look_at_leases(open.extend_at.get());
    }

    /// What a handler answered has settled, as an error if `thrown` is given.
    pub(crate) fn handled(self: &Rc<Self>, open: f64, thrown: Option<&JsValue>) {
        if let Some(open) = self.find_open(open) {
            settled(self, &open, thrown);
        }
    }

    /// Looks at the leases no later than `at`. One timer for all: most handlers are done long before.
    pub(crate) fn look_at_leases(self: &Rc<Self>, at: f64) {
        if at >= self.lease_timer_at.get() {
            return;
        }
        self.lease_timer_at.set(at);
        let shell = Rc::downgrade(self);
        let timer = Timeout::new(timer_ms(at - now()), move || {
            if let Some(shell) = shell.upgrade() {
                shell.lease_timer_at.set(f64::INFINITY);
                shell.leases_due(now());
            }
        });
        self.lease_timer.replace(Some(timer));
    }

    /// Extends what is due, and ends what has had its time.
    fn leases_due(self: &Rc<Self>, now: f64) {
        let mut next = f64::INFINITY;
        for open in self.all_open() {
            let over = open.over_at.get() <= now;
            match open.keep {
                Some(keep) if over => {
                    let ms = args::decimal(keep.timeout_ms);
                    failed(self, &open, &["the handler took longer than ", &ms, " ms"].concat(), &JsValue::UNDEFINED);
                    open.tell_abort();
                }
                Some(keep) if open.extend_at.get() <= now => self.extend_lease(&open, keep),
                None if over => {
                    // Somebody else has it now; to settle it can still be tried.
                    open.over_at.set(f64::INFINITY);
                    open.tell_abort();
                }
                _ => {}
            }
            if !open.ended.get() {
                next = next.min(open.over_at.get()).min(open.extend_at.get());
            }
        }
        self.look_at_leases(next.min(self.waiting_leases_due(now)));
    }

    /// The same for what waits to be taken.
    fn waiting_leases_due(self: &Rc<Self>, now: f64) -> f64 {
        let targets: Vec<_> = self.sinks.borrow().iter().map(|sink| Rc::clone(&sink.target)).collect();
        targets.iter().fold(f64::INFINITY, |next, target| next.min(target.leases_due(now)))
    }

    /// As they are now: what is done with one may open and settle others.
    fn all_open(&self) -> Vec<Rc<Open>> {
        self.open.borrow().iter().cloned().collect()
    }

    /// The page is hidden, or is seen again.
    pub(crate) fn hide(self: &Rc<Self>, hidden: bool) {
        self.hidden.set(hidden);
        if hidden {
            for open in self.all_open() {
                if let Some(keep) = open.keep.filter(|_| open.extend_at.get().is_finite()) {
                    self.extend_lease(&open, keep);
                }
            }
            // Before timers get rare.
            self.waiting_leases_due(f64::INFINITY);
        }
    }

    /// The connection is gone: no lease holds any more. Handlers go on, and adopt what the hub gives again.
    pub(crate) fn leases_lost(&self) {
        let mut void = Vec::new();
        self.open.borrow_mut().retain(|open| {
            let handled = open.keep.is_some();
            if open.leased() {
                void.push(Rc::clone(open));
            }
            handled || !open.leased()
        });
        for open in void {
            if open.keep.is_none() {
                open.sink.running.set(open.sink.running.get().saturating_sub(1));
            }
            open.void();
        }
    }
}
