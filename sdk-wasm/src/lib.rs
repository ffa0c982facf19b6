//! The session core for JavaScript. The TypeScript face in `face/` is the only user of these bindings.
//!
//! ```text
//!   face/client.ts ──► PromSession.frame(now, text) ──► prom_sdk_core::Session
//!        ▲                                                       │
//!        └──── [deadline, request, subscription, tag, …, tag, …] ┘
//! ```
//!
//! Crossing between JavaScript and wasm is what costs, so every call returns one flat array: when to call `tick`
//! (`Infinity`: never), the numbers of the request and the subscription that were made (0: none), then the session's
//! outputs, each a tag and its fields, as `answer.rs` lists them. An event's text crosses once, inwards; the face
//! parses it with the engine's own parser.

mod answer;

use js_sys::Array;
use prom_sdk_core::{Config, DeliveryRef, Publish, RequestId, Session, Settle, SubscriptionId};
use wasm_bindgen::prelude::wasm_bindgen;

use answer::Answers;

/// A session. Times are milliseconds.
#[wasm_bindgen]
pub struct PromSession(Session);

#[wasm_bindgen]
#[expect(clippy::needless_pass_by_value, reason = "the bindings have no `Option<&str>`")]
impl PromSession {
    /// `seed`: four random numbers. Without `token` the session outputs `NeedToken`; absent settings have their defaults.
    #[wasm_bindgen(constructor)]
    pub fn new(
        seed: &[u32],
        token: Option<String>,
        timeout_ms: Option<f64>,
        reconnect_min_ms: Option<f64>,
        reconnect_max_ms: Option<f64>,
        max_queued: Option<f64>,
        max_queued_bytes: Option<f64>,
    ) -> Self {
        let default = Config::default();
        let word = |at: usize| u64::from(seed.get(at).copied().unwrap_or_default());
        let config = Config {
            token,
            request_timeout_ms: timeout_ms.map_or(default.request_timeout_ms, ms),
            reconnect_min_ms: reconnect_min_ms.map_or(default.reconnect_min_ms, ms),
            reconnect_max_ms: reconnect_max_ms.map_or(default.reconnect_max_ms, ms),
            max_queued: max_queued.map_or(default.max_queued, |n| n as usize),
            max_queued_bytes: max_queued_bytes.map_or(default.max_queued_bytes, |n| n as usize),
            ..default
        };
        Self(Session::new(config, [word(0) << 32 | word(1), word(2) << 32 | word(3)]))
    }

    /// Number of the present connection; an event of an older one cannot be settled any more.
    pub fn connection(&self) -> u32 {
        self.0.connection()
    }

    /// See [`Session::tick`].
    pub fn tick(&mut self, now: f64) -> Array {
        self.0.tick(ms(now));
        self.answers(0, 0)
    }

    /// See [`Session::opened`].
    pub fn opened(&mut self, now: f64) -> Array {
        self.0.opened(ms(now));
        self.answers(0, 0)
    }

    /// See [`Session::lost`].
    pub fn lost(&mut self, now: f64, code: Option<u16>, reason: &str) -> Array {
        self.0.lost(ms(now), code, reason);
        self.answers(0, 0)
    }

    /// A token, or why there is none.
    pub fn token(&mut self, now: f64, asked: u32, token: Option<String>, problem: &str) -> Array {
        self.0.token(ms(now), asked, token.ok_or_else(|| problem.to_owned()));
        self.answers(0, 0)
    }

    /// Takes a text frame. When it is an event for one of the subscriptions, the array holds an `Event`.
    pub fn frame(&mut self, now: f64, text: &str) -> Array {
        let subscription = self.0.frame(ms(now), text).map(|delivery| delivery.subscription);
        let answers = Answers::new(0, 0);
        if let Some(subscription) = subscription {
            answers.event(subscription, self.0.connection());
        }
        answers.take(&mut self.0)
    }

    /// See [`Session::connect`].
    pub fn connect(&mut self, now: f64) -> Array {
        let request = self.0.connect(ms(now));
        self.answers(request.0, 0)
    }

    /// `payload` is JSON; `options` too, without the id, or empty.
    #[expect(clippy::too_many_arguments, reason = "one crossing; an object would be several")]
    pub fn publish(
        &mut self,
        now: f64,
        unix_ms: f64,
        topic: &str,
        payload: &str,
        id: Option<String>,
        options: &str,
        timeout_ms: Option<f64>,
    ) -> Array {
        let publish = Publish { topic, payload, id: id.as_deref(), options, timeout_ms: timeout_ms.map(ms) };
        let request = self.0.publish(ms(now), ms(unix_ms), publish);
        self.answers(request.0, 0)
    }

    /// Without `group`: ephemeral. `options` is JSON, or empty.
    pub fn subscribe(&mut self, now: f64, topic: &str, group: Option<String>, options: &str) -> Array {
        let (subscription, request) = self.0.subscribe(ms(now), topic, group.as_deref(), options, None);
        self.answers(request.0, subscription.0)
    }

    /// See [`Session::unsubscribe`].
    pub fn unsubscribe(&mut self, now: f64, subscription: u32) -> Array {
        let request = self.0.unsubscribe(ms(now), SubscriptionId(subscription));
        self.answers(request.0, 0)
    }

    /// See [`Session::pause`].
    pub fn pause(&mut self, now: f64, subscription: u32, paused: bool) -> Array {
        let request = self.0.pause(ms(now), SubscriptionId(subscription), paused);
        self.answers(request.0, 0)
    }

    /// ACK. Quietly: without a request.
    pub fn ack(&mut self, now: f64, subscription: u32, connection: u32, id: &str, lease: &str, quietly: bool) -> Array {
        self.settle(now, subscription, connection, id, lease, Settle::Ack, quietly)
    }

    /// NACK. Quietly: without a request.
    #[expect(clippy::too_many_arguments, reason = "one crossing; an object would be several")]
    pub fn nack(
        &mut self,
        now: f64,
        subscription: u32,
        connection: u32,
        id: &str,
        lease: &str,
        quietly: bool,
        reason: Option<String>,
        delay_ms: Option<f64>,
        dead: bool,
    ) -> Array {
        let settle = Settle::Nack { reason: reason.as_deref(), delay_ms: delay_ms.map(ms), dead };
        self.settle(now, subscription, connection, id, lease, settle, quietly)
    }

    /// MODACK. Quietly: without a request.
    #[expect(clippy::too_many_arguments, reason = "one crossing; an object would be several")]
    pub fn extend(
        &mut self,
        now: f64,
        subscription: u32,
        connection: u32,
        id: &str,
        lease: &str,
        quietly: bool,
        extend_ms: f64,
    ) -> Array {
        self.settle(now, subscription, connection, id, lease, Settle::Extend(ms(extend_ms)), quietly)
    }

    /// See [`Session::drain`].
    pub fn drain(&mut self) -> Array {
        self.0.drain();
        self.answers(0, 0)
    }

    /// See [`Session::close_when_settled`].
    pub fn close_when_settled(&mut self) -> Array {
        self.0.close_when_settled();
        self.answers(0, 0)
    }

    /// See [`Session::close`].
    pub fn close(&mut self) -> Array {
        self.0.close();
        self.answers(0, 0)
    }
}

impl PromSession {
    #[expect(clippy::too_many_arguments, reason = "one crossing; an object would be several")]
    fn settle(
        &mut self,
        now: f64,
        subscription: u32,
        connection: u32,
        id: &str,
        lease: &str,
        settle: Settle<'_>,
        quietly: bool,
    ) -> Array {
        let delivery = DeliveryRef { subscription: SubscriptionId(subscription), connection, id, lease: Some(lease) };
        let request = if quietly {
            self.0.settle_quietly(ms(now), delivery, settle);
            RequestId(0)
        } else {
            self.0.settle(ms(now), delivery, settle)
        };
        self.answers(request.0, 0)
    }

    fn answers(&mut self, request: u64, subscription: u32) -> Array {
        Answers::new(request, subscription).take(&mut self.0)
    }
}

/// JavaScript's milliseconds; `as` clamps what is negative, too large or not a number.
fn ms(value: f64) -> u64 {
    value as u64
}
