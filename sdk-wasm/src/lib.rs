//! The client for JavaScript: all of it but what only JavaScript can have, which is in `face/`.
//!
//! ```text
//!   face/client.ts ──► PromShell ──► prom_sdk_core::Session      decides
//!        ▲                 │
//!        │                 ├─► socket (gloo-net, web-sys), timers (gloo-timers)
//!        └── events ◄──────┴─► handlers, iterators, views, promises
//! ```
//!
//! Arguments come as they are, whatever they are: each is checked and refused by its name, so that one bad call is one bad
//! call. What the application's functions throw never reaches the module's own steps.

mod args;
mod arrival;
mod clock;
mod deliveries;
mod face;
mod guard;
mod handler;
mod http;
mod members;
mod numbered;
mod once;
mod open;
mod page;
mod plain;
mod queue;
mod shell;
mod sink;
mod socket;

use std::rc::Rc;

use futures_util::future::select;
use gloo_timers::future::TimeoutFuture;
use js_sys::Function;
use prom_sdk_core::{Config, Publish, Session, Settle};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};

use args::{function, text, timer_ms, whole};
use face::{Host, ViewFace};
use handler::Handler;
use http::PromPast;
use once::Once;
use page::Page;
use plain::{Live, View};
use queue::Queue;
use shell::Shell;
use sink::{Sink, Target};
use socket::Socket;

/// What the face is told of a call: nothing, because it is under way and will be settled under its number, or what is wrong
/// with its arguments.
fn accepted(result: Result<(), JsValue>) -> JsValue {
    result.err().unwrap_or(JsValue::UNDEFINED)
}

/// One client. Times are milliseconds. `call` numbers a call of the face: it is settled once, by that number.
#[wasm_bindgen]
pub struct PromShell(Rc<Shell>);

#[wasm_bindgen]
impl PromShell {
    /// `token` is a string or a function that gives one. The face has checked everything.
    #[wasm_bindgen(constructor)]
    pub fn new(host: Host, url: String, token: JsValue, socket_class: Function, options: &JsValue) -> Self {
        let log = args::get(options, "log").ok().and_then(|log| log.dyn_into().ok());
        let config = config(options, &token);
        let shell = Shell::new(host, url, token, socket_class, log, config, Socket::open);
        *shell.page.borrow_mut() = Some(Box::new(Page::new(&shell)));
        guard::watch(&shell);
        Self(shell)
    }

    /// Connects; settled when the connection is ready, or with a `timeout`.
    pub fn connect(&self, call: f64) {
        self.0.answer(call, &mut Session::connect);
    }

    /// Connects; settled when the connection is ready, however long it takes.
    pub fn ready(&self, call: f64) {
        self.0.answer(call, &mut Session::ready);
    }

    /// Publishes a payload, which is JSON.
    pub fn publish(&self, call: f64, topic: &JsValue, payload: &str, options: &JsValue) -> JsValue {
        accepted(self.try_publish(call, topic, payload, options))
    }

    fn try_publish(&self, call: f64, topic: &JsValue, payload: &str, options: &JsValue) -> Result<(), JsValue> {
        let topic = text(topic, "topic")?;
        let json = args::options(options, args::PUBLISH)?;
        let id = args::string(options, "id");
        let timeout_ms = args::number(options, "timeoutMs").map(whole);
        let publish = Publish { topic: &topic, payload, id: id.as_deref(), options: &json, timeout_ms };
        let unix_ms = whole(js_sys::Date::now());
        self.0.answer(call, &mut |session, now| session.publish(now, unix_ms, publish));
        Ok(())
    }

    /// Subscribes with a handler; with a `store` exactly once. Settled with the subscription's number.
    pub fn subscribe(
        &self,
        call: f64,
        topic: &JsValue,
        group: &JsValue,
        handler: &JsValue,
        options: &JsValue,
        store: &JsValue,
    ) -> JsValue {
        accepted(self.try_subscribe(call, topic, group, handler, options, store))
    }

    fn try_subscribe(
        &self,
        call: f64,
        topic: &JsValue,
        group: &JsValue,
        handler: &JsValue,
        options: &JsValue,
        store: &JsValue,
    ) -> Result<(), JsValue> {
        let group = text(group, "group")?;
        let handler = function(handler, "handler")?;
        let json = args::options(options, args::MEMBER)?;
        let once = if store.is_undefined() {
            None
        } else if args::string(options, "ack").as_deref() == Some("none") {
            // What is settled before it is handled can promise nothing.
            return Err(args::refused(&["exactly once needs acknowledgements: options.ack must be explicit"]));
        } else {
            Some(Once::new(store)?)
        };
        let target = Rc::new(Handler::new(&self.0, handler, once, options));
        self.join(Some(call), topic, Some(group), target, json).map(drop)
    }

    /// Subscribes without a group. Settled with the subscription's number.
    pub fn live(&self, call: f64, topic: &JsValue, handler: &JsValue, options: &JsValue) -> JsValue {
        let joined = args::options(options, args::LIVE).and_then(|json| {
            let target = Live { function: function(handler, "handler")?, shell: Rc::downgrade(&self.0) };
            self.join(Some(call), topic, None, Rc::new(target), json).map(drop)
        });
        accepted(joined)
    }

    /// Subscribes a live map. Settled with the subscription's number when the first snapshot is complete.
    pub fn watch(&self, call: f64, topic: &JsValue, view: &ViewFace, options: &JsValue) -> JsValue {
        let joined = args::options(options, args::WATCH).and_then(|more| {
            let json = match more.strip_prefix('{') {
                Some(more) => ["{\"from\":\"snapshot\",", more].concat(),
                None => "{\"from\":\"snapshot\"}".to_owned(),
            };
            view.set_on_change(&args::get(options, "onChange").unwrap_or_default());
            let target = View::new(view, &self.0, call);
            self.join(None, topic, None, Rc::new(target), json).map(drop)
        });
        accepted(joined)
    }

    /// Subscribes an iterator: with a group of deliveries, without (`undefined`) of events. Settled with a `PromQueue`, at
    /// once: what goes wrong is the iterator's to tell.
    pub fn queue(&self, call: f64, topic: &JsValue, group: &JsValue, options: &JsValue) -> JsValue {
        accepted(self.try_queue(call, topic, group, options))
    }

    fn try_queue(&self, call: f64, topic: &JsValue, group: &JsValue, options: &JsValue) -> Result<(), JsValue> {
        let plain = group.is_undefined();
        let (fields, group) = if plain { (args::LIVE, None) } else { (args::MEMBER, Some(text(group, "group")?)) };
        let json = args::options(options, fields)?;
        let queue = Rc::new(Queue::new(&self.0, plain, options));
        let target: Rc<dyn Target> = Rc::<Queue>::clone(&queue);
        let sink = self.join(None, topic, group, target, json)?;
        self.0.settle_call(call, Ok(PromQueue { shell: Rc::clone(&self.0), sink, queue }.into()));
        Ok(())
    }

    /// Leaves a group.
    pub fn unsubscribe(&self, call: f64, topic: &JsValue, group: &JsValue) -> JsValue {
        let names = text(topic, "topic").and_then(|topic| Ok((topic, text(group, "group")?)));
        accepted(names.map(|(topic, group)| self.0.unsubscribe(call, self.0.member(&topic, &group))))
    }

    /// Ends a subscription by its number. One that has ended already is fine.
    pub fn end(&self, call: f64, subscription: f64) {
        self.0.end(call, subscription);
    }

    /// Acknowledges an open delivery.
    pub fn ack(&self, call: f64, open: f64) {
        self.0.settle(call, open, true, Settle::Ack);
    }

    /// Gives an open delivery back.
    pub fn nack(&self, call: f64, open: f64, options: &JsValue) -> JsValue {
        accepted(args::options(options, args::NACK).map(|_| {
            let reason = args::string(options, "reason");
            let delay_ms = args::number(options, "delayMs").map(whole);
            let dead = args::get(options, "dead").is_ok_and(|dead| dead.is_truthy());
            self.0.settle(call, open, true, Settle::Nack { reason: reason.as_deref(), delay_ms, dead });
        }))
    }

    /// Extends the lease of an open delivery to `ms` from now.
    pub fn extend(&self, call: f64, open: f64, ms: &JsValue) -> JsValue {
        let ms = ms.as_f64().filter(|ms| !ms.is_nan()).ok_or_else(|| args::refused(&["ms must be a number"]));
        accepted(ms.map(|ms| self.0.settle(call, open, false, Settle::Extend(whole(ms)))))
    }

    /// What a handler answered has settled.
    pub fn handled(&self, open: f64, failed: bool, thrown: &JsValue) {
        self.0.handled(open, failed.then_some(thrown));
    }

    /// The `AbortSignal` of an open delivery; `undefined` if it is not open any more.
    pub fn signal(&self, open: f64) -> JsValue {
        self.0.find_open(open).map_or(JsValue::UNDEFINED, |open| open.signal())
    }

    /// What a function of the application threw where nobody waits for it: the listeners of errors are told.
    pub fn thrown(&self, thrown: &JsValue) {
        self.0.report_thrown(thrown);
    }

    /// Settled when every publish and settle that was called before has its answer.
    pub fn flush(&self, call: f64, options: &JsValue) -> JsValue {
        accepted(args::options(options, args::FLUSH).map(|_| {
            let timeout_ms = args::number(options, "timeoutMs").map(whole);
            self.0.answer(call, &mut |session, now| session.flush(now, timeout_ms));
        }))
    }

    /// The past of a topic: by pages, or as one `stream`. Settled with a `PromPast`, at once.
    pub fn past(&self, call: f64, stream: bool, topic: &JsValue, options: &JsValue) -> JsValue {
        accepted(text(topic, "topic").and_then(|topic| {
            args::options(options, args::HISTORY)?;
            let past = PromPast::new(&self.0, stream, topic, options);
            self.0.settle_call(call, Ok(past.into()));
            Ok(())
        }))
    }

    /// Closes; with `drain` what runs and what was called comes to its end first, for at most `timeout_ms`.
    pub fn close(&self, call: f64, drain: bool, timeout_ms: f64) {
        let shell = Rc::clone(&self.0);
        if !drain {
            shell.tell(&mut |session, _| session.close());
            return shell.settle_call(call, Ok(JsValue::UNDEFINED));
        }
        shell.tell(&mut |session, _| session.drain());
        let sinks = shell.sinks.borrow().clone();
        sinks.iter().for_each(|sink| sink.target.drain());
        face::spawn(async move {
            let drained = async {
                shell.until_idle().await;
                shell.tell(&mut |session, _| session.close_when_settled());
                shell.until_closed().await;
            };
            select(Box::pin(drained), TimeoutFuture::new(timer_ms(timeout_ms))).await;
            shell.tell(&mut |session, _| session.close());
            shell.settle_call(call, Ok(JsValue::UNDEFINED));
        });
    }

    /// Subscribes a target; `call` is settled with the number of the subscription.
    fn join(
        &self,
        call: Option<f64>,
        topic: &JsValue,
        group: Option<String>,
        target: Rc<dyn Target>,
        json: String,
    ) -> Result<Rc<Sink>, JsValue> {
        let sink = Sink::new(text(topic, "topic")?, group, target);
        let joined = self.0.subscribe(Rc::clone(&sink), json);
        let shell = Rc::clone(&self.0);
        face::spawn(async move {
            let joined = joined.await;
            if let Some(call) = call {
                shell.settle_call(call, joined);
            }
        });
        Ok(sink)
    }
}

/// An iterator.
#[wasm_bindgen]
pub struct PromQueue {
    shell: Rc<Shell>,
    sink: Rc<Sink>,
    queue: Rc<Queue>,
}

#[wasm_bindgen]
impl PromQueue {
    /// Settled with the next event or delivery; with `undefined` at the end.
    pub fn next(&self, call: f64) {
        self.queue.next(call, &self.shell, &self.sink);
    }

    /// Takes no more, and ends the subscription.
    pub fn end(&self, call: f64) {
        self.sink.target.drain();
        self.shell.end(call, self.sink.id.get().0.into());
    }
}

/// The face has checked the options.
fn config(options: &JsValue, token: &JsValue) -> Config {
    let default = Config::default();
    let ms = |name: &str, default: u64| args::number(options, name).map_or(default, whole);
    let longest = ms("reconnectMaxMs", default.reconnect_max_ms);
    Config {
        token: token.as_string(),
        request_timeout_ms: ms("timeoutMs", default.request_timeout_ms),
        reconnect_min_ms: ms("reconnectMinMs", default.reconnect_min_ms.min(longest)),
        reconnect_max_ms: longest,
        max_queued: ms("maxQueued", default.max_queued as u64) as usize,
        max_queued_bytes: ms("maxQueuedBytes", default.max_queued_bytes as u64) as usize,
        batch: args::get(options, "batch").is_ok_and(|batch| batch.is_undefined() || batch.is_truthy()),
        ..default
    }
}
