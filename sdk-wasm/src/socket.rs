//! One WebSocket.
//!
//! gloo-net owns it: it listens, and gives what it hears as a stream. The raw socket is kept beside it for three things the
//! stream has not: frames are sent at once instead of through a sink that waits, the text of an error is heard, and the
//! socket can be closed while the stream is being read. The stream is always read to its end, because a socket that is
//! dropped earlier would still call the listeners that went with it.

use std::{cell::RefCell, pin::Pin, rc::Rc};

use futures_util::{Sink, StreamExt};
use gloo_net::websocket::{Message, State, WebSocketError, futures::WebSocket};
use js_sys::{Array, Reflect};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};

use crate::{
    args::reason_of,
    face,
    shell::{Link, Shell},
};

/// The present socket of a client.
pub(crate) struct Socket {
    raw: web_sys::WebSocket,
    connection: u32,
}

impl Socket {
    /// Opens the next socket of a client. Any earlier one is not heard any more.
    pub(crate) fn open(shell: &Rc<Shell>) {
        let connection = shell.connection();
        shell.forget_outgoing();
        match Reflect::construct(&shell.socket_class, &Array::of1(&JsValue::from_str(&shell.url))) {
            Ok(raw) => {
                let raw: web_sys::WebSocket = raw.unchecked_into();
                shell.link.replace(Some(Box::new(Self { raw: raw.clone(), connection })));
                face::spawn(attend(Rc::clone(shell), raw, connection));
            }
            Err(thrown) => {
                let shell = Rc::clone(shell);
                // Not inside the step that asked for it.
                face::spawn(
                    async move { shell.tell(&mut |session, now| session.lost(now, None, &reason_of(&thrown))) },
                );
            }
        }
    }
}

impl Link for Socket {
    fn connection(&self) -> u32 {
        self.connection
    }

    fn send(&self, message: &str) {
        // One that is closing takes nothing more; its end is heard by the stream, and the session sends again what must be.
        let _ = self.raw.send_with_str(message);
    }

    fn close(&self, code: u16, reason: &str) {
        // It was not open yet, or is closed already.
        let _ = self.raw.close_with_code_and_reason(code, reason);
    }
}

/// Whether the client still listens to the socket of that connection.
fn heard(shell: &Shell, connection: u32) -> bool {
    !shell.failed() && shell.link.borrow().as_ref().is_some_and(|link| link.connection() == connection)
}

async fn attend(shell: Rc<Shell>, raw: web_sys::WebSocket, connection: u32) {
    // Browsers say no more than that there was an error; `ws` says which.
    let problem = Rc::new(RefCell::new(String::new()));
    let listener = {
        let problem = Rc::clone(&problem);
        Closure::<dyn FnMut(JsValue)>::new(move |event: JsValue| {
            if let Some(message) = Reflect::get(&event, &"message".into()).ok().and_then(|text| text.as_string()) {
                problem.replace(message);
            }
        })
    };
    let added = raw.add_event_listener_with_callback("error", listener.as_ref().unchecked_ref());
    let (mut code, mut reason) = (None, String::new());
    match added
        .map_err(|thrown| reason_of(&thrown))
        .and_then(|()| WebSocket::try_from(raw).map_err(|error| error.message))
    {
        Err(message) => reason = message,
        Ok(mut socket) => {
            // Ready to send, or it never will be.
            let opened = futures_util::future::poll_fn(|context| Pin::new(&mut socket).poll_ready(context)).await;
            if opened.is_ok() && matches!(socket.state(), State::Open) && heard(&shell, connection) {
                shell.tell(&mut |session, now| session.opened(now));
            }
            while let Some(message) = socket.next().await {
                match message {
                    Ok(Message::Text(text)) if heard(&shell, connection) => shell.message(&text),
                    // The hub sends no binary messages, and nobody listens to the others.
                    Ok(_) => {}
                    Err(WebSocketError::ConnectionClose(event)) => {
                        code = Some(event.code);
                        reason = event.reason;
                    }
                    // Its end follows.
                    Err(_) => {}
                }
            }
        }
    }
    if heard(&shell, connection) {
        shell.link.take();
        if reason.is_empty() {
            reason = problem.take();
        }
        shell.tell(&mut |session, now| session.lost(now, code, &reason));
    }
}
