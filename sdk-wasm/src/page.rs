//! The page's events, where there is a page.

use std::rc::{Rc, Weak};

use js_sys::Reflect;
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use web_sys::EventTarget;

use crate::{
    clock::{global, hidden},
    shell::Shell,
};

/// The listeners of one client. They end with it.
pub(crate) struct Page(Vec<Listener>);

type Listener = (EventTarget, &'static str, Closure<dyn FnMut()>);

impl Page {
    /// Listens to what there is: Node has none of these events, a worker only `online`.
    pub(crate) fn new(shell: &Rc<Shell>) -> Self {
        let mut page = Self(Vec::new());
        let document = global("document").map(JsCast::unchecked_into);
        let window: EventTarget = js_sys::global().unchecked_into();
        page.listen(document, "visibilitychange", shell, |shell| shell.hide(hidden()));
        // A reconnect that waits for its turn need not wait for a network that has just come, or a page that is back.
        page.listen(Some(window.clone()), "online", shell, Shell::hurry);
        page.listen(Some(window.clone()), "pageshow", shell, Shell::hurry);
        // The last turn of a page: what waits to be sent leaves now or never.
        page.listen(Some(window), "pagehide", shell, Shell::flush_now);
        page
    }

    fn listen(&mut self, target: Option<EventTarget>, name: &'static str, shell: &Rc<Shell>, then: fn(&Rc<Shell>)) {
        let Some(target) = target else { return };
        let has = Reflect::get(&target, &JsValue::from_str("addEventListener"));
        if !has.is_ok_and(|add| add.is_function()) {
            return;
        }
        let shell: Weak<Shell> = Rc::downgrade(shell);
        let listener = Closure::<dyn FnMut()>::new(move || {
            if let Some(shell) = shell.upgrade() {
                then(&shell);
            }
        });
        if target.add_event_listener_with_callback(name, listener.as_ref().unchecked_ref()).is_ok() {
            self.0.push((target, name, listener));
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        for (target, name, listener) in &self.0 {
            // It was added, so it can be removed.
            let _ = target.remove_event_listener_with_callback(name, listener.as_ref().unchecked_ref());
        }
    }
}
