//! Where a scenario plays: a hub, the faults on the way to it, and the clients under test.

use std::{
    ffi::OsString,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prom_hub::{Config, Hub, StoreConfig};
use prom_testkit::{Client, Relay, config, http, token};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    check::{Failure, Outcome, check, until_polled},
    driver::Driver,
    tap::{Rule, Tap},
};

/// The hub of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// In memory.
    Memory,
    /// In as little memory as there can be, a megabyte: older events are gone.
    Small,
    /// On disk, so that it can be killed and come back.
    Disk,
}

/// What all scenarios of a run have in common.
pub(crate) struct Setting {
    /// Starts a driver.
    pub(crate) command: Vec<OsString>,
    /// Deadline of every wait.
    pub(crate) patience: Duration,
    /// Of everything that is random.
    pub(crate) seed: u64,
    /// Makes what changes the client's frames before anything sees them.
    pub(crate) meddler: Option<fn() -> Rule>,
}

/// See the module. [`Self::end`] ends what it has started.
pub(crate) struct Stage {
    pub(crate) relay: Relay,
    pub(crate) tap: Tap,
    setting: Arc<Setting>,
    config: Config,
    /// None while it is down.
    hub: tokio::sync::Mutex<Option<Hub>>,
    drivers: Mutex<Vec<Arc<Driver>>>,
    _folder: Option<TempDir>,
}

impl Stage {
    pub(crate) async fn set(setting: &Arc<Setting>, store: Store) -> Result<Self, Failure> {
        let mut config = config();
        config.ops_port = Some(0);
        let mut folder = None;
        match store {
            Store::Memory => {}
            Store::Small => config.store = StoreConfig::Memory(0),
            Store::Disk => {
                let made = tempfile::tempdir().map_err(|error| Failure::new(format!("no folder: {error}")))?;
                config.store = StoreConfig::Embedded(made.path().to_owned(), prom_hub::embedded::Options::default());
                folder = Some(made);
            }
        }
        let hub = start(&config).await?;
        let tap = Tap::start(hub.address(), setting.patience, setting.meddler.map(|make| make())).await?;
        Ok(Self {
            relay: Relay::start(tap.address).await,
            tap,
            setting: Arc::clone(setting),
            config,
            hub: tokio::sync::Mutex::new(Some(hub)),
            drivers: Mutex::default(),
            _folder: folder,
        })
    }

    /// Ends everything, in order.
    pub(crate) async fn end(self) {
        let drivers = std::mem::take(&mut *self.drivers());
        for driver in drivers.into_iter().filter_map(Arc::into_inner) {
            driver.end().await;
        }
        drop((self.relay, self.tap));
        if let Some(hub) = self.hub.into_inner() {
            hub.shutdown().await;
        }
    }

    fn drivers(&self) -> MutexGuard<'_, Vec<Arc<Driver>>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deadline of every wait.
    pub(crate) fn patience(&self) -> Duration {
        self.setting.patience
    }

    /// Chance, the same for the same seed.
    pub(crate) fn dice(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.setting.seed)
    }

    /// A driver whose client is not connected.
    pub(crate) async fn driver(&self) -> Result<Arc<Driver>, Failure> {
        let driver = Arc::new(Driver::start(&self.setting.command, self.patience()).await?);
        self.drivers().push(Arc::clone(&driver));
        Ok(driver)
    }

    /// What `connect` says: by way of the relay, with a token that may do everything, and fast reconnects. `more` is
    /// added to it, its `options` to the options.
    pub(crate) fn connect(&self, mut more: Value) -> Value {
        let mut fields = json!({
            "url": self.relay.url(),
            "options": {"timeoutMs": self.long_ms(), "reconnectMinMs": 5, "reconnectMaxMs": 50},
        });
        if more.get("token").is_none() && more.get("tokens").is_none() {
            fields["token"] = json!(token(&["*:**"]));
        }
        if let Some(options) = more.as_object_mut().and_then(|more| more.remove("options")) {
            merge(&mut fields["options"], options);
        }
        merge(&mut fields, more);
        fields
    }

    /// A time limit, in ms, that is not what a scenario is about.
    pub(crate) fn long_ms(&self) -> u64 {
        let long = self.patience() * 4;
        long.as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// A driver whose client is connected by way of the relay.
    pub(crate) async fn client(&self) -> Result<Arc<Driver>, Failure> {
        let driver = self.driver().await?;
        driver.ask("connect", self.connect(json!({}))).await?;
        Ok(driver)
    }

    /// Ends the hub, as seen from the client by `kill -9`, and starts another of the same configuration behind the same
    /// door: on the same disk, or in memory and without its past.
    pub(crate) async fn kill_hub(&self) -> Outcome {
        // Nobody hears how it ends.
        self.relay.away(true);
        self.relay.hang_up().await;
        self.restart_hub().await?;
        self.relay.away(false);
        Ok(())
    }

    /// The same, with a hub that is shut down as an operator does: it says goodbye.
    pub(crate) async fn restart_hub(&self) -> Outcome {
        let mut hub = self.hub.lock().await;
        if let Some(old) = hub.take() {
            old.shutdown().await;
        }
        let new = start(&self.config).await?;
        self.tap.lead_to(new.address());
        *hub = Some(new);
        Ok(())
    }

    /// Publishes beside the client under test, in this order, each with its `opts`.
    pub(crate) async fn publish(&self, topic: &str, events: impl IntoIterator<Item = (Value, Value)>) -> Outcome {
        /// Publishes under way at once.
        const WINDOW: usize = 500;
        let hub = self.hub.lock().await;
        let mut client = Client::open(hub.as_ref().ok_or_else(no_hub)?).await;
        let frames: Vec<Value> = events
            .into_iter()
            .map(|(payload, opts)| json!({"op": "PUBLISH", "topic": topic, "payload": payload, "opts": opts}))
            .collect();
        for window in frames.chunks(WINDOW) {
            client.send_all(window.iter().cloned()).await;
            for _ in window {
                let answer = client.next().await;
                check!(answer["op"] == "OK", "a publish beside the client was answered {answer}");
            }
        }
        client.close().await;
        Ok(())
    }

    /// All events of a topic, as the hub has them.
    pub(crate) async fn stored(&self, topic: &str) -> Result<Vec<Value>, Failure> {
        let hub = self.hub.lock().await;
        let hub = hub.as_ref().ok_or_else(no_hub)?;
        let mut events = Vec::new();
        let mut after = Some(0);
        while let Some(seq) = after {
            let path = format!("/replay?topic={topic}&from=afterSeq&afterSeq={seq}&limit=1000");
            let page = http::get(hub, &path, &token(&["*:**"])).await.json();
            events.extend(page["events"].as_array().cloned().unwrap_or_default());
            after = page["next"].as_u64();
        }
        Ok(events)
    }

    /// Waits until the hub has everything of the topic settled for the group.
    pub(crate) async fn until_settled(&self, topic: &str, group: &str) -> Outcome {
        self.until_lag(topic, group, 0).await
    }

    /// Waits until so many events of the topic are unsettled in the group.
    pub(crate) async fn until_lag(&self, topic: &str, group: &str, wanted: u64) -> Outcome {
        let what = format!("{wanted} events of {topic} to be unsettled in {group}, as the hub has it");
        until_polled(self.patience(), &what, async || {
            let hub = self.hub.lock().await;
            let path = format!("/lag?topic={topic}&group={group}");
            let answer = http::ops(hub.as_ref().ok_or_else(no_hub)?, &path).await.json();
            let lag = answer["lagEvents"].as_u64();
            Ok(if lag == Some(wanted) { Ok(()) } else { Err(lag) })
        })
        .await
    }

    /// What a report says of where it stood: the last frames, and the drivers' last lines.
    pub(crate) fn report(&self) -> Vec<String> {
        const FRAMES: usize = 40;
        let seen = self.tap.seen();
        let mut lines = vec![format!("the last of {} frames, each with its connection and ms:", seen.len())];
        for seen in &seen[seen.len().saturating_sub(FRAMES)..] {
            let (who, ms) = (if seen.side == crate::tap::Side::Client { "C" } else { "H" }, seen.at.as_millis());
            lines.push(format!("  {} {ms:>6} {who}: {}", seen.line, short(&seen.frame.to_string())));
        }
        for (number, driver) in self.drivers().iter().enumerate() {
            lines.push(format!("the last lines of driver {number}:"));
            lines.extend(driver.last_lines().iter().map(|line| format!("  {}", short(line))));
        }
        lines
    }
}

fn no_hub() -> Failure {
    Failure::new("the hub of this scenario is down")
}

async fn start(config: &Config) -> Result<Hub, Failure> {
    Hub::start(config.clone()).await.map_err(|error| Failure::new(format!("the hub did not start: {error}")))
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

fn short(text: &str) -> String {
    const LONGEST: usize = 240;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}
