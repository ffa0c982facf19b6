//! The shell around one session: what it puts out is done here, one step after the other.
//!
//! ```text
//!   calls of the face ─┐                        ┌─► the socket: what one turn of the engine sends leaves together
//!   frames, timers ────┼─► Session ─► steps ────┼─► promises that are settled
//!   the page's events ─┘       (in their order) └─► sinks: handlers, iterators, views
//! ```
//!
//! A step may call functions of the application, and they may call the client: what that puts out goes to the end of the
//! steps. No cell is borrowed while a function of the application runs.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use futures_channel::oneshot;
use gloo_timers::callback::Timeout;
use js_sys::Function;
use prom_protocol::ErrorCode;
use prom_sdk_core::{Answer, Config, Error, Output, RequestId, Session, State};
use serde::Serialize;
use wasm_bindgen::JsValue;

use crate::{
    args::{reason_of, timer_ms, whole},
    arrival::{Arrival, Events},
    clock::{self, now},
    face::{self, Host},
    numbered::Numbered,
    open::Open,
    sink::Sink,
};

/// A message of several frames is no longer than this; one longer frame goes alone.
const MESSAGE_BYTES: usize = 64 * 1024;

/// Who waits for the end of a request.
pub(crate) enum Waiter {
    /// A call of the face, by its number; its success takes a delivery out of the open ones, if one is named.
    Call { call: f64, open: Option<u64> },
    /// Something here.
    Here(oneshot::Sender<Result<(), Error>>),
}

/// A request to the session, and what it is told.
pub(crate) type Ask<'a> = &'a mut dyn FnMut(&mut Session, u64) -> RequestId;
pub(crate) type Tell<'a> = &'a mut dyn FnMut(&mut Session, u64);

/// Something to do, in its order.
pub(crate) enum Step {
    Output(Output),
    Event(Arrival),
}

/// The present socket.
pub(crate) trait Link {
    /// Number of the connection that it is for.
    fn connection(&self) -> u32;
    fn send(&self, message: &str);
    fn close(&self, code: u16, reason: &str);
}

/// One client.
pub(crate) struct Shell {
    pub(crate) host: Host,
    pub(crate) url: String,
    pub(crate) socket_class: Function,
    /// A string, or the function that gives one.
    pub(crate) token: JsValue,
    log: Option<Function>,
    session: RefCell<Session>,
    steps: RefCell<VecDeque<Step>>,
    stepping: Cell<bool>,
    waiters: RefCell<Numbered<Waiter>>,
    pub(crate) sinks: RefCell<Vec<Rc<Sink>>>,
    /// Deliveries that are with a handler, or with whoever took them from an iterator.
    pub(crate) open: RefCell<Numbered<Rc<Open>>>,
    pub(crate) last_open: Cell<u64>,
    state: Cell<State>,
    pub(crate) link: RefCell<Option<Box<dyn Link>>>,
    /// Opens the next socket, and makes it the link.
    connect: fn(&Rc<Shell>),
    /// Frames of this turn, one a line, and whether a task is there to send them.
    outgoing: RefCell<String>,
    flushing: Cell<bool>,
    timer: RefCell<Option<Timeout>>,
    timer_at: Cell<f64>,
    pub(crate) lease_timer: RefCell<Option<Timeout>>,
    pub(crate) lease_timer_at: Cell<f64>,
    pub(crate) hidden: Cell<bool>,
    /// Listeners of the page; they end with it.
    pub(crate) page: RefCell<Option<Box<dyn Any>>>,
    /// They are told when work has come to its end.
    idle: RefCell<Vec<oneshot::Sender<()>>>,
    /// They are told when the client is closed.
    closed: RefCell<Vec<oneshot::Sender<()>>>,
    /// The module has failed: nothing is done any more, because what it left half done may be anywhere.
    failed: Cell<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StateEvent {
    state: &'static str,
    previous: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_in_ms: Option<f64>,
}

#[derive(Serialize)]
struct GapEvent<'a> {
    topic: &'a str,
    group: &'a str,
    from: f64,
    to: f64,
    reason: &'a str,
}

#[derive(Serialize)]
struct RevokedEvent<'a> {
    subscription: u32,
    topic: &'a str,
    group: &'a str,
    #[serde(with = "serde_wasm_bindgen::preserve")]
    error: JsValue,
}

impl Shell {
    pub(crate) fn new(
        host: Host,
        url: String,
        token: JsValue,
        socket_class: Function,
        log: Option<Function>,
        config: Config,
        connect: fn(&Rc<Self>),
    ) -> Rc<Self> {
        Rc::new(Self {
            host,
            url,
            socket_class,
            token,
            log,
            session: RefCell::new(Session::new(config, clock::seed())),
            steps: RefCell::default(),
            stepping: Cell::new(false),
            waiters: RefCell::new(Numbered::new()),
            sinks: RefCell::default(),
            open: RefCell::new(Numbered::new()),
            last_open: Cell::new(0),
            state: Cell::new(State::Idle),
            link: RefCell::default(),
            connect,
            outgoing: RefCell::default(),
            flushing: Cell::new(false),
            timer: RefCell::default(),
            timer_at: Cell::new(f64::INFINITY),
            lease_timer: RefCell::default(),
            lease_timer_at: Cell::new(f64::INFINITY),
            hidden: Cell::new(clock::hidden()),
            page: RefCell::default(),
            idle: RefCell::default(),
            closed: RefCell::default(),
            failed: Cell::new(false),
        })
    }

    /// Whether the module has failed under this client.
    pub(crate) fn failed(&self) -> bool {
        self.failed.get()
    }

    /// The module has failed. Takes nothing for granted: whatever is in use at this moment stays as it is.
    pub(crate) fn end_by_fault(&self, message: &str) {
        self.failed.set(true);
        for timer in [&self.timer, &self.lease_timer] {
            drop(timer.try_borrow_mut().ok().and_then(|mut timer| timer.take()));
        }
        drop(self.page.try_borrow_mut().ok().and_then(|mut page| page.take()));
        if let Some(socket) = self.link.try_borrow_mut().ok().and_then(|mut link| link.take()) {
            socket.close(1000, "the client failed");
        }
        self.host.broken(message);
    }

    pub(crate) fn state(&self) -> State {
        self.state.get()
    }

    /// Whether it was closed, although its end may still have to be told.
    pub(crate) fn is_over(&self) -> bool {
        self.session.borrow().state() == State::Closed
    }

    /// Number of the present connection: leases of older ones are void.
    pub(crate) fn connection(&self) -> u32 {
        self.session.borrow().connection()
    }

    /// Tells the session something and does what follows from it.
    pub(crate) fn tell(self: &Rc<Self>, tell: Tell<'_>) {
        if self.failed.get() {
            return;
        }
        self.ask(tell);
        self.run();
    }

    /// Calls the session; what follows is done by the next [`Self::run`].
    pub(crate) fn ask(&self, ask: Tell<'_>) {
        let mut session = self.session.borrow_mut();
        ask(&mut session, whole(now()));
        self.collect(&mut session);
    }

    fn collect(&self, session: &mut Session) {
        let mut steps = self.steps.borrow_mut();
        while let Some(output) = session.poll() {
            steps.push_back(Step::Output(output));
        }
    }

    /// Makes a request; `waiter` is told its end.
    pub(crate) fn request(self: &Rc<Self>, waiter: Waiter, ask: Ask<'_>) {
        let mut request = RequestId(0);
        self.ask(&mut |session, now| request = ask(session, now));
        self.waiters.borrow_mut().push(request.0, waiter);
        self.run();
    }

    /// Makes a request whose end is waited for here.
    pub(crate) fn wait(self: &Rc<Self>, ask: Ask<'_>) -> oneshot::Receiver<Result<(), Error>> {
        let (sender, receiver) = oneshot::channel();
        self.request(Waiter::Here(sender), ask);
        receiver
    }

    /// Makes a request that ends a call of the face.
    pub(crate) fn answer(self: &Rc<Self>, call: f64, ask: Ask<'_>) {
        self.request(Waiter::Call { call, open: None }, ask);
    }

    /// Ends a call of the face.
    pub(crate) fn settle_call(&self, call: f64, result: Result<JsValue, Error>) {
        match result {
            Ok(value) => self.host.settle(call, true, &value),
            Err(error) => self.host.settle(call, false, &self.error(&error)),
        }
    }

    /// What JavaScript is told of an error.
    pub(crate) fn error(&self, error: &Error) -> JsValue {
        let retry_after_ms = error.retry_after_ms().map(|ms| ms as f64);
        self.host.error(error.code(), error.message(), error.retryable(), retry_after_ms, &JsValue::UNDEFINED)
    }

    /// An error that belongs to no call.
    pub(crate) fn report(&self, error: &Error) {
        self.host.emit("error", &self.error(error));
    }

    /// What a function of the application threw where nobody waits for it.
    pub(crate) fn report_thrown(&self, thrown: &JsValue) {
        self.report_failed("listener_failed", &["a listener failed: ", &reason_of(thrown)].concat(), thrown);
    }

    /// A function of the application failed; `cause` is what it threw, if it threw.
    pub(crate) fn report_failed(&self, code: &str, message: &str, cause: &JsValue) {
        self.host.emit("error", &self.host.error(code, message, false, None, cause));
    }

    /// Takes a message of the hub: one frame, or several, one a line.
    pub(crate) fn message(self: &Rc<Self>, message: &str) {
        // An empty message is a frame that is wrong; an empty line in one is none.
        let frames = || message.split('\n').filter(|frame| !frame.is_empty() || message.is_empty());
        if self.log.is_some() {
            // Before anything is borrowed: it may call the client.
            frames().for_each(|frame| self.log("<", frame));
        }
        let events = Rc::new(Events::default());
        let mut texts: Vec<&str> = Vec::new();
        {
            let mut session = self.session.borrow_mut();
            let now = whole(now());
            for frame in frames() {
                let delivery = session.frame(now, frame);
                let arrival = delivery.map(|delivery| {
                    texts.push(delivery.event);
                    Arrival::new(&delivery, &events, texts.len() - 1)
                });
                self.collect(&mut session);
                self.steps.borrow_mut().extend(arrival.map(Step::Event));
            }
        }
        for reason in events.parse(&self.host, &texts) {
            self.report(&Error::of(ErrorCode::BadJson, ["an event of the hub: ", &reason].concat()));
        }
        self.run();
    }

    /// Does every step. Inside a step: they are done when it is over.
    pub(crate) fn run(self: &Rc<Self>) {
        if self.stepping.replace(true) {
            return;
        }
        loop {
            let step = self.steps.borrow_mut().pop_front();
            match step {
                Some(Step::Output(output)) => self.output(output),
                Some(Step::Event(arrival)) => self.event(arrival),
                None => break,
            }
        }
        self.stepping.set(false);
        self.arm();
    }

    fn output(self: &Rc<Self>, output: Output) {
        use Output::{Error, Gap, Live, NeedToken, Revoked};
        if self.is_over() && matches!(output, NeedToken(_) | Live { .. } | Gap { .. } | Revoked { .. } | Error(_)) {
            return;
        }
        match output {
            Output::Open => (self.connect)(self),
            Output::Send(frame) => self.send(&frame),
            Output::Shut { code, reason } => {
                self.flush_now();
                let socket = self.link.borrow_mut().take();
                if let Some(socket) = socket {
                    socket.close(code, reason);
                }
            }
            Output::NeedToken(asked) => {
                let shell = Rc::clone(self);
                face::spawn(async move {
                    let token = face::token(&shell.token).await;
                    let mut token = Some(token);
                    shell.tell(&mut |session, now| {
                        if let Some(token) = token.take() {
                            session.token(now, asked, token);
                        }
                    });
                });
            }
            Output::State(change) => {
                let error = change.error.map(|error| self.error(&error));
                self.enter(change.state, error, change.retry_in_ms);
            }
            Output::Done { request, result } => self.done(request, result),
            Output::Live { subscription } => {
                if let Some(sink) = self.sink(subscription) {
                    sink.target.live(subscription);
                }
            }
            Output::Gap { subscription, topic, from, to, reason } => {
                let sink = self.sink(subscription);
                let group = sink.as_ref().and_then(|sink| sink.group.as_deref()).unwrap_or_default();
                let (topic, reason) = (topic.as_str(), reason.as_str());
                let gap = GapEvent { topic, group, from: from as f64, to: to as f64, reason };
                self.host.emit("gap", &face::value(&gap));
            }
            Output::Revoked { subscription, error } => {
                let Some(sink) = self.remove_sink(subscription) else { return };
                let error = self.error(&error);
                self.end_sink(&sink, Some(&error));
                let (topic, group) = (sink.topic.as_str(), sink.group.as_deref().unwrap_or_default());
                let revoked = RevokedEvent { subscription: sink.id.get().0, topic, group, error };
                self.host.emit("revoked", &face::value(&revoked));
            }
            Output::Error(error) => self.report(&error),
        }
    }

    fn done(&self, request: RequestId, result: Result<Answer, Error>) {
        let Some(waiter) = self.waiters.borrow_mut().take(request.0) else { return };
        match waiter {
            Waiter::Here(sender) => {
                // Who does not wait any more need not be told.
                let _ = sender.send(result.map(|_| ()));
            }
            Waiter::Call { call, open } => {
                if let Some(open) = open.filter(|_| result.is_ok()) {
                    self.close_open(open);
                }
                match result {
                    Ok(Answer::Published { id, seq, duplicate }) => {
                        self.host.published(call, &id, seq as f64, duplicate);
                    }
                    result => self.settle_call(call, result.map(|_| JsValue::UNDEFINED)),
                }
            }
        }
    }

    fn enter(self: &Rc<Self>, state: State, error: Option<JsValue>, retry_in_ms: Option<u64>) {
        let previous = self.state.replace(state);
        self.log("--", state.as_str());
        let sinks = self.sinks.borrow().clone();
        if previous == State::Ready {
            self.leases_lost();
            sinks.iter().for_each(|sink| sink.target.lost());
            self.tell_idle();
        }
        if state == State::Closed {
            self.timer.take();
            self.lease_timer.take();
            self.page.take();
            self.sinks.borrow_mut().clear();
            for sink in sinks {
                self.end_sink(&sink, error.as_ref());
            }
            for waiting in self.closed.take() {
                let _ = waiting.send(());
            }
        }
        let event = StateEvent {
            state: state.as_str(),
            previous: previous.as_str(),
            retry_in_ms: retry_in_ms.map(|ms| ms as f64),
        };
        let event = face::value(&event);
        if let Some(error) = error {
            face::set(&event, "error", &error);
        }
        self.host.emit("state", &event);
    }

    // What is sent.

    fn send(self: &Rc<Self>, frame: &str) {
        self.log(">", frame);
        let mut outgoing = self.outgoing.borrow_mut();
        if !outgoing.is_empty() && outgoing.len() + 1 + frame.len() > MESSAGE_BYTES {
            self.transmit(&outgoing);
            outgoing.clear();
        }
        if !outgoing.is_empty() {
            outgoing.push('\n');
        }
        outgoing.push_str(frame);
        if !self.session.borrow().batching() {
            self.transmit(&outgoing);
            outgoing.clear();
        } else if !self.flushing.replace(true) {
            // What else this turn of the engine sends goes along.
            let shell = Rc::clone(self);
            face::spawn(async move { shell.flush_now() });
        }
    }

    /// Sends what waits for the end of the turn.
    pub(crate) fn flush_now(self: &Rc<Self>) {
        self.flushing.set(false);
        let mut outgoing = self.outgoing.borrow_mut();
        if !outgoing.is_empty() {
            self.transmit(&outgoing);
            outgoing.clear();
        }
    }

    fn transmit(&self, message: &str) {
        if let Some(socket) = &*self.link.borrow() {
            socket.send(message);
        }
    }

    /// Frames of a connection that is gone are not sent on the next one: the session repeats what must be.
    pub(crate) fn forget_outgoing(&self) {
        self.outgoing.borrow_mut().clear();
    }

    // Time.

    /// Sets the timer of the session. One that fires too early does no harm, one that is set for every frame would.
    fn arm(self: &Rc<Self>) {
        let Some(deadline) = self.session.borrow().deadline().map(|deadline| deadline as f64) else { return };
        if deadline >= self.timer_at.get() {
            return;
        }
        self.timer_at.set(deadline);
        let shell = Rc::downgrade(self);
        let timer = Timeout::new(timer_ms(deadline - now()), move || {
            if let Some(shell) = shell.upgrade() {
                shell.timer_at.set(f64::INFINITY);
                shell.tell(&mut Session::tick);
            }
        });
        self.timer.replace(Some(timer));
    }

    /// Connects again now instead of after the wait that was drawn.
    pub(crate) fn hurry(self: &Rc<Self>) {
        self.tell(&mut Session::hurry);
    }

    // Who waits for an end.

    /// Waits until no handler runs and no delivery is open that a drain waits for.
    pub(crate) async fn until_idle(self: &Rc<Self>) {
        while self.sinks.borrow().iter().any(|sink| sink.running.get() > 0) {
            self.until_told().await;
        }
    }

    /// Waits until a handler or delivery has come to its end, or a subscription, or the connection.
    pub(crate) async fn until_told(&self) {
        let (sender, receiver) = oneshot::channel();
        self.idle.borrow_mut().push(sender);
        // Told or forgotten: the caller looks again.
        let _ = receiver.await;
    }

    pub(crate) fn tell_idle(&self) {
        for waiting in self.idle.take() {
            let _ = waiting.send(());
        }
    }

    /// Waits until the client is closed.
    pub(crate) async fn until_closed(&self) {
        if self.state.get() != State::Closed {
            let (sender, receiver) = oneshot::channel();
            self.closed.borrow_mut().push(sender);
            let _ = receiver.await;
        }
    }

    /// One line of the debug log. Tokens are not for it.
    fn log(&self, what: &str, frame: &str) {
        let Some(log) = &self.log else { return };
        let shown = if frame.starts_with("{\"op\":\"AUTH\"") { "{\"op\":\"AUTH\", …}" } else { frame };
        let shown = shown.get(..shown.floor_char_boundary(500)).unwrap_or_default();
        // It is for people; one that throws is not worth more.
        let _ = log.call1(&JsValue::UNDEFINED, &JsValue::from_str(&[what, " ", shown].concat()));
    }
}
