//! A handler that is called only for events its consumer has not marked.

use std::{
    cell::{Cell, RefCell},
    task::{Poll, Waker},
};

use futures_util::future::{Either, poll_fn, select};
use gloo_timers::future::TimeoutFuture;
use js_sys::Function;
use wasm_bindgen::{JsCast, JsValue};

use crate::{
    args::{decimal, get, refused},
    face,
};

/// Waits between two tries while the store fails: the first, doubling up to the longest.
const RETRY_MS: u32 = 100;
const LONGEST_RETRY_MS: u32 = 5_000;
/// A store that takes longer for an answer is asked again.
const STORE_TIMEOUT_MS: u32 = 10_000;
/// How long the store may still take for an answer after the handling was stopped.
const GRACE_MS: u32 = 1_000;

/// The marks of one subscription.
pub(crate) struct Once {
    store: JsValue,
    stopped: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Once {
    /// Refused unless the store has its two functions.
    pub(crate) fn new(store: &JsValue) -> Result<Self, JsValue> {
        for name in ["seen", "mark"] {
            if method(store, name).is_none() {
                return Err(refused(&["store must be an object with the functions seen and mark"]));
            }
        }
        Ok(Self { store: store.clone(), stopped: Cell::new(false), waiting: RefCell::default() })
    }

    /// What waits for the store gives its event back, soon: an answer that is on its way may still arrive.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    async fn until_stopped(&self) {
        poll_fn(|context| {
            if self.stopped.get() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Handles the event unless it is marked, and marks it.
    pub(crate) async fn run(
        &self,
        id: &str,
        handler: &Function,
        event: &JsValue,
        ctx: &JsValue,
    ) -> Result<(), JsValue> {
        if self.insist("seen", id).await?.is_truthy() {
            return Ok(());
        }
        let answer = handler.call2(&JsValue::UNDEFINED, event, ctx)?;
        face::settled(&answer).await?;
        self.insist("mark", id).await.map(|_| ())
    }

    /// Calls the store until it answers; after a stop, no more than once.
    async fn insist(&self, name: &str, id: &str) -> Result<JsValue, JsValue> {
        let mut wait = RETRY_MS;
        loop {
            let answer = self.in_time(name, id).await;
            if answer.is_ok() || self.stopped.get() {
                return answer;
            }
            select(TimeoutFuture::new(wait), Box::pin(self.until_stopped())).await;
            wait = (2 * wait).min(LONGEST_RETRY_MS);
        }
    }

    /// The store's answer. One that hangs must keep neither the event nor a client that drains.
    async fn in_time(&self, name: &str, id: &str) -> Result<JsValue, JsValue> {
        let Some(function) = method(&self.store, name) else { return Err("the store has lost its functions".into()) };
        let call = async {
            let answer = function.call1(&self.store, &JsValue::from_str(id))?;
            face::settled(&answer).await
        };
        let over = async {
            if !self.stopped.get() {
                let waited = select(TimeoutFuture::new(STORE_TIMEOUT_MS), Box::pin(self.until_stopped())).await;
                if matches!(waited, Either::Left(_)) {
                    return STORE_TIMEOUT_MS;
                }
            }
            TimeoutFuture::new(GRACE_MS).await;
            GRACE_MS
        };
        match select(Box::pin(call), Box::pin(over)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((ms, _)) => {
                Err(["no answer of the dedupe store within ", &decimal(ms.into()), " ms"].concat().into())
            }
        }
    }
}

fn method(object: &JsValue, name: &str) -> Option<Function> {
    get(object, name).ok()?.dyn_into().ok()
}
