//! A fault of the module itself: every promise is settled all the same.
//!
//! A panic ends the module's instance, and no `catch` of a promise sees one in a timer or a listener. So before it ends,
//! each client's face is told, which has all open promises; and the next client starts on a fresh instance.

use std::{cell::RefCell, panic, sync::Once};

use wasm_bindgen::handler::schedule_reinit;

use crate::face::Host;

thread_local! {
    /// The faces of all clients of this instance. A face that is closed is told for nothing.
    static FACES: RefCell<Vec<Host>> = const { RefCell::new(Vec::new()) };
}

static HOOK: Once = Once::new();

/// Tells `host` of a panic, should there be one.
pub(crate) fn watch(host: &Host) {
    HOOK.call_once(|| {
        panic::set_hook(Box::new(|info| {
            let message = info.to_string();
            schedule_reinit();
            let faces = FACES.try_with(|faces| faces.try_borrow_mut().map(|mut faces| std::mem::take(&mut *faces)));
            for face in faces.ok().and_then(Result::ok).into_iter().flatten() {
                face.broken(&message);
            }
        }));
    });
    FACES.with(|faces| faces.borrow_mut().push(host.clone()));
}

/// The client of `host` is closed.
pub(crate) fn forget(host: &Host) {
    FACES.with(|faces| faces.borrow_mut().retain(|face| face != host));
}
