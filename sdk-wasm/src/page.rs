//! What surrounds the client: the clock, randomness, and the page's events, where there is a page.

use js_sys::Reflect;
use wasm_bindgen::closure::Closure;
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use web_sys::{Crypto, EventTarget, Performance};

use std::rc::{Rc, Weak};

use crate::shell::Shell;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(thread_local_v2, js_name = performance)]
    static PERFORMANCE: Performance;
    #[wasm_bindgen(thread_local_v2, js_name = crypto)]
    static CRYPTO: Option<Crypto>;
}

/// Milliseconds on a clock that does not go backwards.
pub(crate) fn now() -> f64 {
    PERFORMANCE.with(Performance::now)
}

/// Random numbers. An engine without good ones gives what it has: nothing secret is made of them.
pub(crate) fn seed() -> [u64; 2] {
    let mut bytes = [0; 16];
    let filled = CRYPTO.with(|crypto| crypto.as_ref()?.get_random_values_with_u8_array(&mut bytes).ok());
    if filled.is_none() {
        bytes.fill_with(|| (js_sys::Math::random() * 256.0) as u8);
    }
    let word = |half: &[u8]| half.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    [word(&bytes[..8]), word(&bytes[8..])]
}

fn global(name: &str) -> Option<JsValue> {
    Reflect::get(&js_sys::global(), &JsValue::from_str(name)).ok().filter(JsValue::is_object)
}

/// Whether there is a page, and nobody sees it: its timers may fire once a minute.
pub(crate) fn hidden() -> bool {
    let hidden = global("document").and_then(|page| Reflect::get(&page, &JsValue::from_str("hidden")).ok());
    hidden.is_some_and(|hidden| hidden.is_truthy())
}

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
