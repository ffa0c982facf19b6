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
mod face;
mod guard;
mod handler;
mod http;
mod numbered;
mod once;
mod page;
mod queue;
mod shell;
mod sink;
mod socket;

use std::rc::Rc;

use futures_util::future::select;
use gloo_timers::future::TimeoutFuture;
use js_sys::{Function, Promise};
use prom_protocol::ErrorCode;
use prom_sdk_core::{Config, Error, Publish, Session, Settle};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};

use args::{HistoryOptions, NackOptions, Options, PublishOptions, SubscribeOptions, function, text, timer_ms, whole};
use arrival::Open;
use face::{Host, ViewFace};
use handler::Handler;
use http::PromExport;
use once::Once;
use queue::Queue;
use shell::Shell;
use sink::{Kind, Sink};

/// Unwraps what was read, or refuses the call.
macro_rules! read {
    ($shell:expr, $read:expr) => {
        match $read {
            Ok(read) => read,
            Err(error) => return $shell.refuse(&error),
        }
    };
}

/// One client. Times are milliseconds; every promise rejects with a `HubError`.
#[wasm_bindgen]
pub struct PromShell(Rc<Shell>);

#[wasm_bindgen]
impl PromShell {
    /// `token` is a string or a function that gives one. The face has checked `options`.
    #[wasm_bindgen(constructor)]
    pub fn new(host: Host, url: String, token: JsValue, socket_class: Function, options: &JsValue) -> Result<Self, JsValue> {
        let config = config(options, &token);
        let log = Options::new(options, "options", CLIENT_OPTIONS).and_then(|options| options.raw("log"));
        let log = log.ok().flatten().and_then(|log| log.dyn_into().ok());
        match config {
            Ok(config) => {
                guard::watch(&host);
                Ok(Self(Shell::new(host, url, token, socket_class, log, config)))
            }
            Err(error) => Err(host.error(error.code(), error.message(), false, None)),
        }
    }

    /// Connects; resolves when the connection is ready.
    pub fn connect(&self) -> Promise {
        self.0.promise(&mut Session::connect)
    }

    /// Publishes a payload, which is JSON. Resolves with `{id, seq, duplicate}`.
    pub fn publish(&self, topic: &JsValue, payload: &str, options: &JsValue) -> Promise {
        let topic = read!(self.0, text(topic, "topic"));
        let PublishOptions { id, json, timeout_ms } = read!(self.0, PublishOptions::read(options));
        let unix_ms = whole(js_sys::Date::now());
        self.0.promise(&mut |session, now| {
            let publish = Publish { topic: &topic, payload, id: id.as_deref(), options: &json, timeout_ms };
            session.publish(now, unix_ms, publish)
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
        let topic = read!(self.0, text(topic, "topic"));
        let group = read!(self.0, args::group(group));
        let handler = read!(self.0, function(handler, "handler"));
        let options = read!(self.0, SubscribeOptions::durable(options));
        let once = if store.is_undefined() { None } else { Some(read!(self.0, Once::new(store))) };
        let handler = Handler::new(handler, once, &options);
        face::promise(self.0.subscribe(Sink::new(topic, group, Kind::Handler(handler)), options.json))
    }

    /// Subscribes without a group. Resolves with the subscription's number.
    pub fn live(&self, topic: &JsValue, handler: &JsValue, options: &JsValue) -> Promise {
        let topic = read!(self.0, text(topic, "topic"));
        let handler = read!(self.0, function(handler, "handler"));
        let options = read!(self.0, SubscribeOptions::live(options));
        face::promise(self.0.subscribe(Sink::new(topic, String::new(), Kind::Live(handler)), options))
    }

    /// Subscribes an iterator: with a group of deliveries, without (`undefined`) of events.
    pub fn queue(&self, topic: &JsValue, group: &JsValue, options: &JsValue) -> PromQueue {
        let plain = group.is_undefined();
        let read = || {
            let group = if plain { String::new() } else { args::group(group)? };
            let options = if plain { SubscribeOptions::live(options)? } else { SubscribeOptions::durable(options)?.json };
            Ok((text(topic, "topic")?, group, options))
        };
        let (names, options) = match read() {
            Ok((topic, group, options)) => ((topic, group), Ok(options)),
            Err(error) => (Default::default(), Err(error)),
        };
        let sink = Sink::new(names.0, names.1, Kind::Queue(Queue::new(plain)));
        match options {
            Ok(options) => {
                let joined = self.0.subscribe(Rc::clone(&sink), options);
                // What goes wrong is the iterator's to tell.
                face::spawn(async move { drop(joined.await) });
            }
            Err(error) => sink.ended(Some(&self.0.error(&error))),
        }
        PromQueue { shell: Rc::clone(&self.0), sink }
    }

    /// Subscribes a live map. Resolves with the subscription's number.
    pub fn watch(&self, topic: &JsValue, view: ViewFace, options: &JsValue) -> Promise {
        let topic = read!(self.0, text(topic, "topic"));
        let options = read!(self.0, SubscribeOptions::watch(options));
        face::promise(self.0.subscribe(Sink::new(topic, String::new(), Kind::View(view)), options))
    }

    /// Leaves a group.
    pub fn unsubscribe(&self, topic: &JsValue, group: &JsValue) -> Promise {
        let topic = read!(self.0, text(topic, "topic"));
        let group = read!(self.0, args::group(group));
        self.0.unsubscribe(self.0.member(&topic, &group))
    }

    /// Ends a subscription by its number. One that has ended already is fine.
    pub fn end(&self, subscription: f64) -> Promise {
        match self.0.sink_of(subscription) {
            Some(sink) => self.0.unsubscribe(Some(sink)),
            None => Promise::resolve(&JsValue::UNDEFINED),
        }
    }

    /// Acknowledges an open delivery.
    pub fn ack(&self, open: f64) -> Promise {
        self.with_open(open, |open| self.0.settle(open, true, Settle::Ack))
    }

    /// Gives an open delivery back.
    pub fn nack(&self, open: f64, options: &JsValue) -> Promise {
        let NackOptions { reason, delay_ms, dead } = read!(self.0, NackOptions::read(options));
        self.with_open(open, |open| self.0.settle(open, true, Settle::Nack { reason: reason.as_deref(), delay_ms, dead }))
    }

    /// Extends the lease of an open delivery to `ms` from now.
    pub fn extend(&self, open: f64, ms: &JsValue) -> Promise {
        match ms.as_f64() {
            Some(ms) if !ms.is_nan() => {
                self.with_open(open, |open| self.0.settle(open, false, Settle::Extend(whole(ms))))
            }
            _ => self.0.refuse(&args::refused("ms must be a number")),
        }
    }

    /// The `AbortSignal` of an open delivery; `undefined` if it is not open any more.
    pub fn signal(&self, open: f64) -> JsValue {
        self.0.find_open(open).map_or(JsValue::UNDEFINED, |open| open.signal())
    }

    /// Resolves when every publish and settle that was called before has its answer.
    pub fn flush(&self) -> Promise {
        self.0.promise(&mut Session::flush)
    }

    /// One page of the past: `{events, next}`. `given` events were given already, up to the seq `after`, if it is not the first.
    pub fn history(&self, topic: &JsValue, options: &JsValue, given: f64, after: Option<f64>, signal: JsValue) -> Promise {
        let topic = read!(self.0, text(topic, "topic"));
        let HistoryOptions { mut query, limit } = read!(self.0, HistoryOptions::read(options));
        if let Some(after) = after {
            query = vec![("from", "afterSeq".to_owned()), ("afterSeq", whole(after).to_string())];
        }
        query.push(("limit", whole((limit - given).min(HISTORY_PAGE).max(1.0)).to_string()));
        let shell = Rc::clone(&self.0);
        face::promise(async move {
            http::page(&shell, &topic, query, &signal).await.map_err(|error| shell.error(&error))
        })
    }

    /// Starts an export. Resolves with a [`PromExport`].
    pub fn export(&self, topic: &JsValue, options: &JsValue, signal: JsValue) -> Promise {
        let topic = read!(self.0, text(topic, "topic"));
        let mut query = read!(self.0, HistoryOptions::read(options)).query;
        query.push(("ndjson", "1".to_owned()));
        let shell = Rc::clone(&self.0);
        face::promise(async move {
            let response = http::get(&shell, "/export", &topic, query, &signal).await;
            let export = response.and_then(|response| PromExport::new(&shell, &response));
            export.map(JsValue::from).map_err(|error| shell.error(&error))
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
        sinks.iter().for_each(|sink| sink.drain());
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
}

#[wasm_bindgen]
impl PromQueue {
    /// The next: `{value, done}`.
    pub fn next(&self) -> Promise {
        match &self.sink.kind {
            Kind::Queue(queue) => queue.next(&self.shell, &self.sink),
            _ => Promise::resolve(&JsValue::UNDEFINED),
        }
    }

    /// Takes no more, and ends the subscription.
    pub fn end(&self) -> Promise {
        self.sink.drain();
        match self.shell.sink_of(self.sink.id.get().0.into()) {
            Some(sink) => self.shell.unsubscribe(Some(sink)),
            None => Promise::resolve(&JsValue::UNDEFINED),
        }
    }
}

impl PromShell {
    fn with_open(&self, open: f64, settle: impl FnOnce(&Open) -> Promise) -> Promise {
        match self.0.find_open(open) {
            Some(open) => settle(&open),
            None => {
                let message = "the delivery is settled already, or its connection or subscription has ended";
                self.0.refuse(&Error::of(ErrorCode::StaleLease, message))
            }
        }
    }
}

/// Events of one page of the past, as many as the hub gives.
const HISTORY_PAGE: f64 = 1000.0;

/// What the constructor takes. The face refuses everything else before the module is there.
const CLIENT_OPTIONS: &[&str] = &[
    "timeoutMs",
    "reconnectMinMs",
    "reconnectMaxMs",
    "maxQueued",
    "maxQueuedBytes",
    "WebSocket",
    "batch",
    "log",
];

fn config(options: &JsValue, token: &JsValue) -> Result<Config, Error> {
    let options = Options::new(options, "options", CLIENT_OPTIONS)?;
    let default = Config::default();
    let ms = |name: &str, default: u64| options.number(name).map(|ms| ms.map_or(default, whole));
    Ok(Config {
        token: token.as_string(),
        request_timeout_ms: ms("timeoutMs", default.request_timeout_ms)?,
        reconnect_min_ms: ms("reconnectMinMs", default.reconnect_min_ms)?,
        reconnect_max_ms: ms("reconnectMaxMs", default.reconnect_max_ms)?,
        max_queued: ms("maxQueued", default.max_queued as u64)? as usize,
        max_queued_bytes: ms("maxQueuedBytes", default.max_queued_bytes as u64)? as usize,
        batch: options.flag("batch")?.unwrap_or(true),
        ..default
    })
}
