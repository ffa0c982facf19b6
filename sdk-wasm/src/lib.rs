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
use js_sys::{Function, Promise};
use prom_sdk_core::{Config, Publish, Session, Settle};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};

use args::{function, text, timer_ms, whole};
use face::{Host, ViewFace};
use handler::Handler;
use http::PromExport;
use once::Once;
use page::Page;
use plain::{Live, View};
use queue::Queue;
use shell::Shell;
use sink::{Sink, Target};
use socket::Socket;

/// Does what a call asks for, or refuses it.
fn call(ask: &mut dyn FnMut() -> Result<Promise, JsValue>) -> Promise {
    ask().unwrap_or_else(|refused| Promise::reject(&refused))
}

/// One client. Times are milliseconds; every promise rejects with a `HubError`.
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

    /// Connects; resolves when the connection is ready.
    pub fn connect(&self) -> Promise {
        self.0.promise(&mut Session::connect)
    }

    /// Publishes a payload, which is JSON. Resolves with `{id, seq, duplicate}`.
    pub fn publish(&self, topic: &JsValue, payload: &str, options: &JsValue) -> Promise {
        call(&mut || {
            let topic = text(topic, "topic")?;
            let json = args::options(options, args::PUBLISH)?;
            let id = args::string(options, "id");
            let timeout_ms = args::number(options, "timeoutMs").map(whole);
            let publish = Publish { topic: &topic, payload, id: id.as_deref(), options: &json, timeout_ms };
            let unix_ms = whole(js_sys::Date::now());
            Ok(self.0.promise(&mut |session, now| session.publish(now, unix_ms, publish)))
        })
    }

    /// Subscribes with a handler; with a `store` exactly once. Resolves with the subscription's number.
    pub fn subscribe(
        &self,
        topic: &JsValue,
        group: &JsValue,
        handler: &JsValue,
        options: &JsValue,
        store: &JsValue,
    ) -> Promise {
        call(&mut || {
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
            self.subscribe_as(topic, Some(group), Rc::new(Handler::new(&self.0, handler, once, options)), json)
        })
    }

    /// Subscribes without a group. Resolves with the subscription's number.
    pub fn live(&self, topic: &JsValue, handler: &JsValue, options: &JsValue) -> Promise {
        call(&mut || {
            let handler = function(handler, "handler")?;
            self.subscribe_as(
                topic,
                None,
                Rc::new(Live { function: handler, shell: Rc::downgrade(&self.0) }),
                args::options(options, args::LIVE)?,
            )
        })
    }

    /// Subscribes a live map. Resolves with the subscription's number.
    pub fn watch(&self, topic: &JsValue, view: &ViewFace, options: &JsValue) -> Promise {
        call(&mut || {
            let mut json = args::options(options, args::WATCH)?;
            json.replace_range(
                ..json.len().min(1),
                if json.is_empty() { "{\"from\":\"snapshot\"}" } else { "{\"from\":\"snapshot\"," },
            );
            self.subscribe_as(topic, None, Rc::new(View(view.clone())), json)
        })
    }

    /// Subscribes an iterator: with a group of deliveries, without (`undefined`) of events.
    pub fn queue(&self, topic: &JsValue, group: &JsValue, options: &JsValue) -> Result<PromQueue, JsValue> {
        let plain = group.is_undefined();
        let (fields, group) = if plain { (args::LIVE, None) } else { (args::MEMBER, Some(text(group, "group")?)) };
        let json = args::options(options, fields)?;
        let queue = Rc::new(Queue::new(&self.0, plain));
        let target: Rc<dyn Target> = Rc::<Queue>::clone(&queue);
        let sink = Sink::new(text(topic, "topic")?, group, target);
        let joined = self.0.subscribe(Rc::clone(&sink), json);
        // What goes wrong is the iterator's to tell.
        face::spawn(async move { drop(joined.await) });
        Ok(PromQueue { shell: Rc::clone(&self.0), sink, queue })
    }

    /// Leaves a group.
    pub fn unsubscribe(&self, topic: &JsValue, group: &JsValue) -> Promise {
        call(&mut || Ok(self.0.unsubscribe(self.0.member(&text(topic, "topic")?, &text(group, "group")?))))
    }

    /// Ends a subscription by its number. One that has ended already is fine.
    pub fn end(&self, subscription: f64) -> Promise {
        self.0.end(subscription)
    }

    /// Acknowledges an open delivery.
    pub fn ack(&self, open: f64) -> Promise {
        self.0.settle(open, true, Settle::Ack)
    }

    /// Gives an open delivery back.
    pub fn nack(&self, open: f64, options: &JsValue) -> Promise {
        call(&mut || {
            args::options(options, args::NACK)?;
            let reason = args::string(options, "reason");
            let delay_ms = args::number(options, "delayMs").map(whole);
            let dead = args::get(options, "dead")?.is_truthy();
            Ok(self.0.settle(open, true, Settle::Nack { reason: reason.as_deref(), delay_ms, dead }))
        })
    }

    /// Extends the lease of an open delivery to `ms` from now.
    pub fn extend(&self, open: f64, ms: &JsValue) -> Promise {
        match ms.as_f64().filter(|ms| !ms.is_nan()) {
            Some(ms) => self.0.settle(open, false, Settle::Extend(whole(ms))),
            None => Promise::reject(&args::refused(&["ms must be a number"])),
        }
    }

    /// What a handler answered has settled.
    pub fn handled(&self, open: f64, failed: bool, thrown: &JsValue) {
        self.0.handled(open, failed.then_some(thrown));
    }

    /// The `AbortSignal` of an open delivery; `undefined` if it is not open any more.
    pub fn signal(&self, open: f64) -> JsValue {
        self.0.find_open(open).map_or(JsValue::UNDEFINED, |open| open.signal())
    }

    /// Resolves when every publish and settle that was called before has its answer.
    pub fn flush(&self, options: &JsValue) -> Promise {
        call(&mut || {
            args::options(options, args::FLUSH)?;
            let timeout_ms = args::number(options, "timeoutMs").map(whole);
            Ok(self.0.promise(&mut |session, now| session.flush(now, timeout_ms)))
        })
    }

    /// One page of the past: `{events, next}`. `given` events were given already, up to the seq `after`, if it is not the first.
    pub fn history(
        &self,
        topic: &JsValue,
        options: &JsValue,
        given: f64,
        after: Option<f64>,
        signal: &JsValue,
    ) -> Promise {
        call(&mut || {
            let topic = text(topic, "topic")?;
            args::options(options, args::HISTORY)?;
            let limit = args::number(options, "limit").unwrap_or(HISTORY_PAGE) - given;
            let limit = ["&limit=", &args::decimal(limit.clamp(1.0, HISTORY_PAGE))].concat();
            let query = http::query(&topic, options, after, &limit);
            let (shell, signal) = (Rc::clone(&self.0), signal.clone());
            Ok(face::promise(async move {
                let page = async { http::body(&http::ask(&shell, &topic, "/replay", &query, &signal).await?).await };
                page.await.map_err(|error| shell.error(&error))
            }))
        })
    }

    /// Starts an export. Resolves with a `PromExport`.
    pub fn export(&self, topic: &JsValue, options: &JsValue, signal: &JsValue) -> Promise {
        call(&mut || {
            let topic = text(topic, "topic")?;
            args::options(options, args::HISTORY)?;
            let query = http::query(&topic, options, None, "&ndjson=1");
            let (shell, signal) = (Rc::clone(&self.0), signal.clone());
            Ok(face::promise(async move {
                let response = http::ask(&shell, &topic, "/export", &query, &signal).await;
                let export = response.and_then(|response| PromExport::new(&shell, &response));
                export.map(JsValue::from).map_err(|error| shell.error(&error))
            }))
        })
    }

    /// Closes; with `drain` what runs and what was called comes to its end first, for at most `timeout_ms`.
    pub fn close(&self, drain: bool, timeout_ms: f64) -> Promise {
        let shell = Rc::clone(&self.0);
        if !drain {
            shell.tell(&mut |session, _| session.close());
            return Promise::resolve(&JsValue::UNDEFINED);
        }
        shell.tell(&mut |session, _| session.drain());
        let sinks = shell.sinks.borrow().clone();
        sinks.iter().for_each(|sink| sink.target.drain());
        face::promise(async move {
            let drained = async {
                shell.until_idle().await;
                shell.tell(&mut |session, _| session.close_when_settled());
                shell.until_closed().await;
            };
            select(Box::pin(drained), TimeoutFuture::new(timer_ms(timeout_ms))).await;
            shell.tell(&mut |session, _| session.close());
            Ok(JsValue::UNDEFINED)
        })
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
    /// The next: `{value, done}`.
    pub fn next(&self) -> Promise {
        self.queue.next(&self.shell, &self.sink)
    }

    /// Takes no more, and ends the subscription.
    pub fn end(&self) -> Promise {
        self.sink.target.drain();
        self.shell.end(self.sink.id.get().0.into())
    }
}

impl PromShell {
    fn subscribe_as(
        &self,
        topic: &JsValue,
        group: Option<String>,
        target: Rc<dyn Target>,
        json: String,
    ) -> Result<Promise, JsValue> {
        let sink = Sink::new(text(topic, "topic")?, group, target);
        Ok(face::promise(self.0.subscribe(sink, json)))
    }
}

/// Events of one page of the past, as many as the hub gives.
const HISTORY_PAGE: f64 = 1000.0;

/// The face has checked the options.
fn config(options: &JsValue, token: &JsValue) -> Config {
    let default = Config::default();
    let ms = |name: &str, default: u64| args::number(options, name).map_or(default, whole);
    Config {
        token: token.as_string(),
        request_timeout_ms: ms("timeoutMs", default.request_timeout_ms),
        reconnect_min_ms: ms("reconnectMinMs", default.reconnect_min_ms),
        reconnect_max_ms: ms("reconnectMaxMs", default.reconnect_max_ms),
        max_queued: ms("maxQueued", default.max_queued as u64) as usize,
        max_queued_bytes: ms("maxQueuedBytes", default.max_queued_bytes as u64) as usize,
        batch: args::get(options, "batch").is_ok_and(|batch| batch.is_undefined() || batch.is_truthy()),
        ..default
    }
}
