//! Subscriptions without a group: a function that is told, and a live map.

use std::{
    cell::Cell,
    rc::{Rc, Weak},
};

use js_sys::Function;
use prom_sdk_core::{Error, SubscriptionId};
use wasm_bindgen::JsValue;

use crate::{
    arrival::Arrival,
    face::{self, ViewFace},
    shell::Shell,
    sink::{Sink, Target},
};

/// A function that is called for each event, in order. It is not waited for.
pub(crate) struct Live {
    pub(crate) function: Function,
    pub(crate) shell: Weak<Shell>,
}

impl Target for Live {
    fn event(&self, _: &Rc<Sink>, _: Arrival, event: JsValue) {
        let Some(shell) = self.shell.upgrade() else { return };
        match self.function.call1(&JsValue::UNDEFINED, &event) {
            Err(thrown) => shell.report_thrown(&thrown),
            Ok(answer) if answer.is_object() => face::spawn(async move {
                if let Err(thrown) = face::settled(&answer).await {
                    shell.report_thrown(&thrown);
                }
            }),
            Ok(_) => {}
        }
    }
}

/// A live map.
pub(crate) struct View {
    face: ViewFace,
    shell: Weak<Shell>,
    /// The call that opened it, until its first snapshot is complete or there will be none.
    call: Cell<Option<f64>>,
}

impl View {
    pub(crate) fn new(face: &ViewFace, shell: &Rc<Shell>, call: f64) -> Self {
        Self { face: face.clone(), shell: Rc::downgrade(shell), call: Cell::new(Some(call)) }
    }

    fn settle(&self, ok: bool, value: &JsValue) {
        if let Some(call) = self.call.take()
            && let Some(shell) = self.shell.upgrade()
        {
            shell.host.settle(call, ok, value);
        }
    }
}

impl Target for View {
    fn event(&self, _: &Rc<Sink>, _: Arrival, event: JsValue) {
        self.face.event(&event);
    }

    fn live(&self, id: SubscriptionId) {
        self.face.live();
        self.settle(true, &id.0.into());
    }

    fn lost(&self) {
        self.face.lost();
    }

    fn ended(&self, error: Option<&JsValue>) {
        if let Some(shell) = self.shell.upgrade() {
            let closed = || shell.error(&Error::closed());
            self.settle(false, &error.cloned().unwrap_or_else(closed));
        }
    }
}
