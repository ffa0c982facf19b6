//! A fault of the module itself: every promise is settled all the same.
//!
//! A panic ends the call that it is in, wherever that came from, and no `catch` of a promise sees one in a timer or a
//! listener. So before it does, every client is ended: what it left behind does nothing any more, and its face, which has
//! the open promises, rejects them. The module is not started anew, because listeners of the old instance would throw from
//! then on; the next client works on the same one.

use std::{
    cell::RefCell,
    panic,
    rc::{Rc, Weak},
    sync::Once,
};

use crate::shell::Shell;

thread_local! {
    static CLIENTS: RefCell<Vec<Weak<Shell>>> = const { RefCell::new(Vec::new()) };
}

static HOOK: Once = Once::new();

/// Ends `shell` should there be a panic.
pub(crate) fn watch(shell: &Rc<Shell>) {
    HOOK.call_once(|| {
        panic::set_hook(Box::new(|info| {
            let said = info.payload_as_str().unwrap_or_default();
            let place = info.location().map_or("", |location| location.file());
            let message = [said, " in ", place].concat();
            for client in CLIENTS.take() {
                if let Some(shell) = client.upgrade() {
                    shell.end_by_fault(&message);
                }
            }
        }));
    });
    CLIENTS.with_borrow_mut(|clients| {
        clients.retain(|client| client.strong_count() > 0);
        clients.push(Rc::downgrade(shell));
    });
}
