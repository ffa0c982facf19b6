//! The driver of the Rust SDK for the conformance suite: takes commands on its input, and tells on its output what
//! comes of them. What the lines mean is in the crate's README.

use std::{
    collections::HashMap,
    io::{BufRead, Write},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prom_sdk::{
    BoxError, Client, ClientEvent, Error, Handling, LiveItem, PublishOptions, Received, State, SubscribeOptions, Watch,
};
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, mpsc, watch},
    task::{LocalSet, spawn_local},
};

/// What a command can fail with.
enum Failed {
    Sdk(Error),
    /// A code of the protocol that Rust's types have no call for.
    Code(&'static str),
    /// The suite and this driver do not understand each other.
    Driver(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Sdk(error)
    }
}

impl From<&str> for Failed {
    fn from(words: &str) -> Self {
        Self::Driver(words.to_owned())
    }
}

type Answer = Result<Value, Failed>;
/// A membership of a name; its lock keeps the calls about it in their order, which are whole conversations in Rust.
type Slot = Arc<Mutex<Option<Handling>>>;

struct Driver {
    client: std::cell::RefCell<Option<Client>>,
    slots: std::cell::RefCell<HashMap<(String, String), Slot>>,
    watches: std::cell::RefCell<HashMap<String, Watch<Value>>>,
    /// Handlers that hold wait until it is true.
    released: watch::Sender<bool>,
}

fn main() {
    say(&json!({"hello": {"can": prom_conformance::Can::ALL.map(prom_conformance::Can::name)}}));
    let (lines_in, mut lines) = mpsc::unbounded_channel();
    // Ends with its input, which is also the end of this process.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines_in.send(line).is_err() {
                break;
            }
        }
    });
    // On one thread, so that commands begin in the order in which they came.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let driver = Rc::new(Driver {
        client: Default::default(),
        slots: Default::default(),
        watches: Default::default(),
        released: watch::Sender::new(false),
    });
    LocalSet::new().block_on(&runtime, async move {
        while let Some(line) = lines.recv().await {
            let command: Value = serde_json::from_str(&line).expect("commands are JSON");
            driver.clone().begin(command);
        }
    });
    // What is still open is the suite's to miss.
    runtime.shutdown_background();
}

fn say(line: &Value) {
    // A suite that has gone does not listen any more; the end of the input follows.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn answer(id: &Value, answer: Answer) {
    say(&match answer {
        Ok(ok) => json!({"id": id, "ok": ok}),
        Err(Failed::Sdk(error)) => json!({"id": id, "error": told(&error)}),
        Err(Failed::Code(code)) => json!({"id": id, "error": {"code": code, "message": code, "retryable": false}}),
        Err(Failed::Driver(words)) => json!({"id": id, "error": {"code": "driver", "message": words}}),
    });
}

fn told(error: &Error) -> Value {
    let after = error.retry_after().map(|after| after.as_millis() as u64);
    json!({"code": error.code(), "message": error.message(), "retryable": error.retryable(), "retryAfterMs": after})
}

fn text(value: &Value, name: &str) -> Result<String, Failed> {
    value[name].as_str().map(str::to_owned).ok_or_else(|| Failed::Driver(format!("{name} is not a text")))
}

fn ms(value: &Value) -> Option<Duration> {
    value.as_u64().map(Duration::from_millis)
}

impl Driver {
    fn begin(self: Rc<Self>, command: Value) {
        // A publish takes its place in the order here.
        if command["do"] == "publish" {
            let publishing = self.publish(&command);
            spawn_local(async move {
                let published = match publishing {
                    Ok(publishing) => publishing.await.map_err(Failed::from),
                    Err(failed) => Err(failed),
                };
                let ok = |p: prom_sdk::Published| json!({"id": p.id, "seq": p.seq, "duplicate": p.duplicate});
                answer(&command["id"], published.map(ok));
            });
            return;
        }
        spawn_local(async move {
            let result = self.run(&command).await;
            answer(&command["id"], result);
        });
    }

    async fn run(&self, command: &Value) -> Answer {
        match command["do"].as_str().unwrap_or_default() {
            "connect" => self.connect(command).await,
            "subscribe" => self.subscribe(command).await,
            "unsubscribe" => unsubscribe(self.slot(command)?).await,
            "live" => self.live(command).await,
            "watch" => {
                let topic = text(command, "topic")?;
                let watch = self.client()?.watch(topic.clone()).await?;
                self.watches.borrow_mut().insert(topic, watch);
                Ok(json!({}))
            }
            "view" => {
                let watches = self.watches.borrow();
                let watch = watches.get(&text(command, "topic")?).ok_or("there is no such watch")?;
                let entry = |(key, latest): (Arc<str>, Arc<prom_sdk::Latest<Value>>)| {
                    (key.to_string(), latest.value.as_ref().ok().cloned().unwrap_or_default())
                };
                Ok(Value::Object(watch.iter().map(entry).collect()))
            }
            "release" => {
                self.released.send_replace(true);
                Ok(json!({}))
            }
            "close" => {
                let client = self.client()?;
                match (command["drain"].as_bool(), ms(&command["timeoutMs"])) {
                    (Some(true), timeout) => client.close_drained(timeout.unwrap_or(Duration::from_secs(10))).await?,
                    _ => client.close().await,
                }
                Ok(json!({}))
            }
            other => Err(Failed::Driver(format!("there is no command {other}"))),
        }
    }

    fn client(&self) -> Result<Client, Failed> {
        self.client.borrow().clone().ok_or_else(|| "connect comes first".into())
    }

    async fn connect(&self, command: &Value) -> Answer {
        let options = &command["options"];
        let mut builder = Client::builder(text(command, "url")?);
        if let Some(timeout) = ms(&options["timeoutMs"]) {
            builder = builder.request_timeout(timeout);
        }
        if let (Some(first), Some(longest)) = (ms(&options["reconnectMinMs"]), ms(&options["reconnectMaxMs"])) {
            builder = builder.reconnect(first, longest);
        }
        builder = match command["tokens"].as_array() {
            Some(tokens) => {
                let (tokens, asked) = (tokens.clone(), AtomicUsize::new(0));
                builder.token_provider(move || {
                    let turn = asked.fetch_add(1, Ordering::SeqCst).min(tokens.len() - 1);
                    let token = tokens[turn].as_str().map(str::to_owned);
                    async move { token.ok_or_else(|| BoxError::from("a token is a text")) }
                })
            }
            None => builder.token(text(command, "token")?),
        };
        let client = builder.connect_lazily()?;
        spawn_local(tell_states(client.clone()));
        spawn_local(tell_events(client.clone()));
        *self.client.borrow_mut() = Some(client.clone());
        client.ready().await?;
        Ok(json!({}))
    }

    fn publish(&self, command: &Value) -> Result<prom_sdk::Publishing, Failed> {
        let given = &command["options"];
        let mut options = PublishOptions::new();
        if let Some(id) = given["id"].as_str() {
            options = options.id(id);
        }
        if let Some(key) = given["key"].as_str() {
            options = options.key(key);
        }
        if let Some(sid) = given["sid"].as_str() {
            options = options.sid(sid);
        }
        if let Some(ts) = given["ts"].as_u64() {
            options = options.ts(ts);
        }
        if let Some(timeout) = ms(&given["timeoutMs"]) {
            options = options.timeout(timeout);
        }
        for tag in given["tags"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            options = options.tag(tag);
        }
        for (name, value) in given["headers"].as_object().into_iter().flatten() {
            options = options.header(name, value.as_str().unwrap_or_default());
        }
        Ok(self.client()?.publish_with(&text(command, "topic")?, &command["payload"], options))
    }

    fn slot(&self, command: &Value) -> Result<Slot, Failed> {
        let name = (text(command, "topic")?, text(command, "group")?);
        Ok(Arc::clone(self.slots.borrow_mut().entry(name).or_default()))
    }

    async fn subscribe(&self, command: &Value) -> Answer {
        let slot = self.slot(command)?;
        let (topic, group) = (text(command, "topic")?, text(command, "group")?);
        let handler = Arc::new(Handler {
            wanted: command["handler"].clone(),
            group: group.clone(),
            client: self.client()?,
            released: self.released.subscribe(),
            slot: Arc::clone(&slot),
        });
        let subscribe = self.client()?.subscribe(topic, group).options(options(command)?);
        let mut slot = slot.lock().await;
        let handling = subscribe.handle(move |received| Arc::clone(&handler).handle(received)).await?;
        *slot = Some(handling);
        Ok(json!({}))
    }

    async fn live(&self, command: &Value) -> Answer {
        let options = options(command)?;
        let live = self.client()?.live(text(command, "topic")?).from(options.from).filter(options.filter);
        let mut live = live.await?;
        spawn_local(async move {
            while let Some(item) = live.next().await {
                if let LiveItem::Event(event) = item {
                    say(&json!({"event": event}));
                }
            }
        });
        Ok(json!({}))
    }
}

fn options(command: &Value) -> Result<SubscribeOptions, Failed> {
    let given = if command["options"].is_null() { "{}".to_owned() } else { command["options"].to_string() };
    SubscribeOptions::parse(&given).map_err(|refusal| Failed::Driver(refusal.to_string()))
}

async fn unsubscribe(slot: Slot) -> Answer {
    match slot.lock().await.take() {
        Some(handling) => {
            handling.stop().await;
            Ok(json!({}))
        }
        // In Rust a membership is a value: there is nothing left to leave twice.
        None => Err(Failed::Code("not_subscribed")),
    }
}

async fn tell_states(client: Client) {
    let mut states = client.state();
    drop(client);
    loop {
        let status = states.borrow_and_update().clone();
        let name = match status.state {
            State::Idle => "idle",
            State::Connecting => "connecting",
            State::Ready => "ready",
            State::Reconnecting => "reconnecting",
            State::Closed => "closed",
        };
        say(&json!({"state": name, "error": status.error.as_ref().map(told)}));
        if states.changed().await.is_err() {
            return;
        }
    }
}

async fn tell_events(client: Client) {
    let mut events = client.events();
    drop(client);
    while let Ok(event) = events.recv().await {
        match event {
            ClientEvent::Gap(gap) => say(&json!({"gap": {"topic": gap.topic, "from": gap.from, "to": gap.to}})),
            ClientEvent::Revoked { topic, group, error } => {
                say(&json!({"revoked": {"topic": topic, "group": group, "code": error.code()}}));
            }
            _ => {}
        }
    }
}

/// Does what the suite wants with each event of a group.
struct Handler {
    wanted: Value,
    group: String,
    client: Client,
    released: watch::Receiver<bool>,
    slot: Slot,
}

impl Handler {
    async fn handle(self: Arc<Self>, received: Received<Value>) -> Result<(), BoxError> {
        let Received { payload, event, context, .. } = received;
        say(&json!({"event": event, "group": self.group, "attempt": context.attempt}));
        let hold = &self.wanted["hold"];
        if *hold == true || (!hold.is_null() && *hold == payload) {
            self.released.clone().wait_for(|released| *released).await?;
        }
        if let Some(topic) = self.wanted["publish"].as_str() {
            self.client.publish(topic, &payload).await?;
        }
        if self.wanted["unsubscribe"] == true {
            // It waits for this handler.
            tokio::spawn(unsubscribe(Arc::clone(&self.slot)));
        }
        match self.wanted["fail"].as_str() {
            Some(words) => Err(words.into()),
            None => Ok(()),
        }
    }
}
