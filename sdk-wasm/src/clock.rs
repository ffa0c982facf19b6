//! What surrounds the client: the clock, randomness, and whether anybody looks at the page.

use js_sys::Reflect;
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};
use web_sys::{Crypto, Performance};

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

/// A global object, where the engine has it.
pub(crate) fn global(name: &str) -> Option<JsValue> {
    Reflect::get(&js_sys::global(), &JsValue::from_str(name)).ok().filter(JsValue::is_object)
}

/// Whether there is a page, and nobody sees it: its timers may fire once a minute.
pub(crate) fn hidden() -> bool {
    let hidden = global("document").and_then(|page| Reflect::get(&page, &JsValue::from_str("hidden")).ok());
    hidden.is_some_and(|hidden| hidden.is_truthy())
}
