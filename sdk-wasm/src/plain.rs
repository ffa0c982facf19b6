//! Subscriptions without a group: a function that is told, and a live map.

use std::rc::{Rc, Weak};

use js_sys::Function;
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
pub(crate) struct View(pub(crate) ViewFace);

impl Target for View {
    fn event(&self, _: &Rc<Sink>, _: Arrival, event: JsValue) {
        self.0.event(&event);
    }

    fn live(&self) {
        self.0.live();
    }

    fn lost(&self) {
        self.0.lost();
    }

    fn ended(&self, error: Option<&JsValue>) {
        self.0.ended(error.unwrap_or(&JsValue::UNDEFINED));
    }
}
