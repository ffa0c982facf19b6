//! `kill -9` of real hubs under load: what was acknowledged is there, once, and groups go on where they were.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::common::{
    Folder,
    hub::Hub,
    ledger::{self, Ledger},
    wire::{Connection, Publish},
};

/// A load that does not end by itself, and is killed once `after` publishes were answered, at no moment in particular.
struct Load {
    connections: usize,
    window: usize,
    members: usize,
    after: usize,
}

impl Load {
    /// Answers all that was sent, and what the hub had to say.
    async fn until_killed(&self, hub: Hub, ledger: &mut Arc<Ledger>, numbers: &Arc<AtomicU64>) -> Vec<Publish> {
        let address = hub.address.clone();
        let answered = Arc::new(AtomicUsize::new(0));
        // Who comes to a hub that was killed already is no part of this.
        let connected = Arc::new(AtomicUsize::new(0));
        let joined = ledger.joined.load(Ordering::Relaxed);
        let members: Vec<_> = (0..self.members)
            .map(|_| {
                let (address, ledger) = (address.clone(), Arc::clone(ledger));
                tokio::spawn(async move { ledger.consume(&address).await })
            })
            .collect();
        let window = self.window;
        let publishers: Vec<_> = (0..self.connections)
            .map(|_| {
                let (address, numbers, answered) = (address.clone(), Arc::clone(numbers), Arc::clone(&answered));
                let connected = Arc::clone(&connected);
                tokio::spawn(async move {
                    let mut connection = Connection::open(&address).await;
                    connected.fetch_add(1, Ordering::Relaxed);
                    let next = || Some(ledger::event(numbers.fetch_add(1, Ordering::Relaxed)));
                    let count = || {
                        answered.fetch_add(1, Ordering::Relaxed);
                    };
                    connection.publish(window, next, count).await
                })
            })
            .collect();
        let enough = async {
            while answered.load(Ordering::Relaxed) < self.after
                || connected.load(Ordering::Relaxed) < self.connections
                || ledger.joined.load(Ordering::Relaxed) < joined + self.members
            {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(600), enough).await.expect("publishes are answered");
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..5000))).await;
        hub.kill();
        let mut sent = Vec::new();
        for publisher in publishers {
            sent.extend(publisher.await.unwrap());
        }
        for member in members {
            member.await.unwrap();
        }
        sent
    }
}

/// Kills a hub so many times on one folder, and checks after each that nothing is missing.
async fn rounds(name: &str, rounds: usize, environment: &[(&str, &str)], load: impl Fn() -> Load) {
    let folder = Folder::new(name);
    let data = folder.0.join("data");
    let mut ledger = Arc::new(Ledger::default());
    let numbers = Arc::new(AtomicU64::new(0));
    let mut ready = Vec::new();
    let mut hub = Hub::start(&data, environment);
    let mut open: Vec<Publish> = Vec::new();
    for _ in 0..rounds {
        let mut sent = load().until_killed(hub, &mut ledger, &numbers).await;
        sent.append(&mut open);
        hub = Hub::start(&data, environment);
        ready.push(hub.ready_after);
        let books = Arc::get_mut(&mut ledger).expect("all members have ended");
        books.check(&hub, &sent);
        books.check_group();
        books.check_some_newest(&hub);
        open = books.repeat(&hub, &sent).await;
    }
    let books = Arc::get_mut(&mut ledger).expect("all members have ended");
    books.check(&hub, &open);
    books.drain(&hub).await;
    books.check_group_is_through();
    books.check_all(&hub);
    crate::common::say(&books.summary(name, "ready after kill", ready));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_lose_and_double_nothing() {
    let load = || Load { connections: 4, window: 128, members: 2, after: fastrand::usize(100..1500) };
    rounds("kill-commit", 50, &[], load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_nothing_at_weaker_durability() {
    let load = || Load { connections: 4, window: 128, members: 2, after: fastrand::usize(100..1500) };
    rounds("kill-interval", 4, &[("PROM_DURABILITY", "interval:50")], load).await;
    rounds("kill-os", 4, &[("PROM_DURABILITY", "os")], load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_among_a_hundred_thousand_publishes_loses_nothing() {
    let load = || Load { connections: 8, window: 512, members: 1, after: fastrand::usize(60_000..95_000) };
    rounds("kill-large", 1, &[], load).await;
}
