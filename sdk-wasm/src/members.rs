//! Subscribing and unsubscribing.

use std::rc::Rc;

use futures_channel::oneshot;
use prom_protocol::ErrorCode;
use prom_sdk_core::{Error, State};
use wasm_bindgen::JsValue;

use crate::{
    face,
    shell::{Shell, Waiter},
    sink::Sink,
};

impl Shell {
    /// Sends the SUBSCRIBE of a sink, at once; the receiver is told what became of it.
    pub(crate) fn join(self: &Rc<Self>, sink: &Rc<Sink>, options: &str) -> oneshot::Receiver<Result<(), Error>> {
        let topic = sink.topic.as_str();
        let group = sink.group.as_deref();
        self.wait(&mut |session, now| {
            let (id, request) = session.subscribe(now, topic, group, options, None);
            sink.id.set(id);
            self.sinks.borrow_mut().push(Rc::clone(sink));
            request
        })
    }

    /// Subscribes, at once; what is awaited is the number of the subscription.
    pub(crate) fn subscribe(
        self: &Rc<Self>,
        sink: Rc<Sink>,
        options: String,
    ) -> impl Future<Output = Result<JsValue, Error>> + 'static {
        let joined = self.leaving(&sink).is_none().then(|| self.join(&sink, &options));
        let shell = Rc::clone(self);
        async move {
            let joined = match joined {
                Some(joined) => joined,
                None => {
                    // Its group is left as soon as the handlers that still run have acknowledged.
                    while let Some(leaving) = shell.leaving(&sink) {
                        shell.until_left(&leaving).await;
                    }
                    shell.join(&sink, &options)
                }
            };
            match joined.await.unwrap_or_else(|_| Err(Error::closed())) {
                Ok(()) => Ok(JsValue::from_f64(sink.id.get().0.into())),
                Err(error) => {
                    if shell.remove_sink(sink.id.get()).is_some() {
                        shell.end_sink(&sink, Some(&shell.error(&error)));
                    }
                    Err(error)
                }
            }
        }
    }

    fn leaving(&self, sink: &Sink) -> Option<Rc<Sink>> {
        let sinks = self.sinks.borrow();
        let same = |other: &&Rc<Sink>| other.leaving.get() && other.topic == sink.topic && other.group == sink.group;
        sinks.iter().find(same).filter(|_| sink.group.is_some()).cloned()
    }

    /// Waits until a sink that leaves has left.
    async fn until_left(self: &Rc<Self>, sink: &Rc<Sink>) {
        while self.sinks.borrow().iter().any(|other| Rc::ptr_eq(other, sink)) {
            self.until_told().await;
        }
    }

    /// The subscription of that number.
    pub(crate) fn sink_of(&self, id: f64) -> Option<Rc<Sink>> {
        self.sinks.borrow().iter().find(|sink| f64::from(sink.id.get().0) == id).cloned()
    }

    /// The member of a group.
    pub(crate) fn member(&self, topic: &str, group: &str) -> Option<Rc<Sink>> {
        let sinks = self.sinks.borrow();
        let found =
            |sink: &&Rc<Sink>| !sink.leaving.get() && sink.topic == topic && sink.group.as_deref() == Some(group);
        sinks.iter().find(found).cloned()
    }

    /// Ends a subscription by its number. One that has ended already is fine.
    pub(crate) fn end(self: &Rc<Self>, call: f64, id: f64) {
        match self.sink_of(id) {
            Some(sink) => self.unsubscribe(call, Some(sink)),
            None => self.settle_call(call, Ok(JsValue::UNDEFINED)),
        }
    }

    /// Ends a subscription. Handlers that run may finish and acknowledge first: then the call ends when no new event will
    /// come, and the group is left after the last of them.
    pub(crate) fn unsubscribe(self: &Rc<Self>, call: f64, sink: Option<Rc<Sink>>) {
        let Some(sink) = sink.filter(|sink| !sink.leaving.get()) else {
            let error = Error::of(ErrorCode::NotSubscribed, "this client has no such subscription");
            return self.settle_call(call, Err(error));
        };
        let id = sink.id.get();
        if sink.running.get() == 0 || !sink.target.handles() {
            return self.leave(Waiter::Call { call, open: None }, &sink);
        }
        sink.leaving.set(true);
        sink.target.drain();
        let shell = Rc::clone(self);
        face::spawn(async move {
            while sink.running.get() > 0 && shell.state() == State::Ready {
                shell.until_told().await;
            }
            // It may have ended otherwise meanwhile.
            if shell.sink_of(id.0.into()).is_none() {
                return;
            }
            let (sender, left) = oneshot::channel();
            shell.leave(Waiter::Here(sender), &sink);
            if let Ok(Err(error)) = left.await {
                shell.report(&error);
            }
        });
        self.answer(call, &mut |session, now| session.pause(now, id, true));
    }

    fn leave(self: &Rc<Self>, waiter: Waiter, sink: &Rc<Sink>) {
        let id = sink.id.get();
        self.remove_sink(id);
        self.request(waiter, &mut |session, now| session.unsubscribe(now, id));
        self.end_sink(sink, None);
    }
}
