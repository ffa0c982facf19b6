//! The steps of the README, with the real binary, a real MongoDB, a real `kill -9` and a real hub.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use mongodb::bson::{Document, doc};
use prom_hub::{Auth, Config, Hub, StoreConfig, store::mongo};
use prom_outbox::mongod::{Options, ReplicaSet};
use prom_sdk::{Client, StartFrom, Subscription};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
};

/// Far beyond what anything here takes, so that only a defect meets it.
const PATIENCE: Duration = Duration::from_secs(120);
/// Only a kill ends it.
const PAUSE: &str = "--pause-between-writes=1h";
const TOKEN: &str = "a-token";

async fn in_time<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// MongoDB, a hub, and somebody who wants to hear of orders.
struct World {
    set: ReplicaSet,
    mongo: mongodb::Client,
    hub: Hub,
    placed: Subscription,
}

impl World {
    /// With a hub that drains the service's outbox by itself.
    async fn new() -> Self {
        Self::with(|url| {
            let outboxes = vec![mongo::Place::new("shop.outbox").unwrap()];
            StoreConfig::Mongo(mongo::Options { outboxes, ..mongo::Options::new(url) })
        })
        .await
    }

    /// With a hub that keeps its events elsewhere, and knows nothing of MongoDB.
    async fn of_a_hub_without_mongodb() -> Self {
        Self::with(|_| StoreConfig::Memory(16 * 1024 * 1024)).await
    }

    async fn with(store: impl FnOnce(&str) -> StoreConfig) -> Self {
        let set = ReplicaSet::start(Options::default()).await.unwrap();
        let mongo = set.client().await.unwrap();
        let mut config = Config::new(Auth::Static(TOKEN.into()));
        config.port = 0;
        config.store = store(set.url());
        let hub = Hub::start(config).await.unwrap();
        let client = in_time(Client::builder(hub_url(&hub)).token(TOKEN).connect()).await.unwrap();
        let placed = in_time(client.subscribe("orders.placed", "test").from(StartFrom::Earliest).into_future());
        Self { placed: placed.await.unwrap(), set, mongo, hub }
    }

    async fn count(&self, collection: &str) -> u64 {
        self.mongo.database("shop").collection::<Document>(collection).count_documents(doc! {}).await.unwrap()
    }

    /// Transactions that are open and wait for their next statement.
    async fn transactions_at_rest(&self) -> i64 {
        let status = self.mongo.database("admin").run_command(doc! {"serverStatus": 1}).await.unwrap();
        let number = status.get_document("transactions").unwrap().get("currentInactive").unwrap();
        number.as_i64().or(number.as_i32().map(i64::from)).unwrap()
    }

    /// The payload of the next event; it is acknowledged.
    async fn event(&mut self) -> Value {
        let delivery = in_time(self.placed.next()).await.unwrap();
        let payload = delivery.payload().unwrap();
        in_time(delivery.ack()).await.unwrap();
        payload
    }

    async fn end(self) {
        self.hub.shutdown().await;
        self.set.shutdown().await.unwrap();
    }
}

fn hub_url(hub: &Hub) -> String {
    format!("ws://{}/ws", hub.address())
}

/// The service as its users start it. Dropping it is a `kill -9`.
struct Service {
    process: Child,
    address: SocketAddr,
    log: mpsc::UnboundedReceiver<String>,
}

impl Service {
    async fn start(world: &World, args: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_order-service"))
            .args(["--mongo-url", world.set.url(), "--listen", "127.0.0.1:0"])
            .args(args)
            // What this shell may have set is not meant for the test.
            .env_remove("HUB_URL")
            .env_remove("HUB_TOKEN_FILE")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = in_time(lines.next_line()).await.unwrap().expect("it says where it listens");
        let address = line.rsplit_once("http://").unwrap().1.parse().unwrap();
        let (tell, log) = mpsc::unbounded_channel();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("{line}");
                let _ = tell.send(line);
            }
        });
        Self { process, address, log }
    }

    /// One that publishes what is in the outbox.
    async fn start_draining(world: &World, token: &Path) -> Self {
        Self::start(world, &["--hub-url", &hub_url(&world.hub), "--hub-token-file", token.to_str().unwrap()]).await
    }

    async fn says(&mut self, words: &str) {
        while !in_time(self.log.recv()).await.expect("it runs").contains(words) {}
    }

    async fn kill_9(mut self) {
        self.process.start_kill().unwrap();
        let status = in_time(self.process.wait()).await.unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }

    async fn post(&self, order: &Value) -> (u16, Value) {
        request(self.address, "POST", "/orders", &order.to_string()).await
    }

    /// An order of which no answer is expected.
    fn post_in_vain(&self) -> JoinHandle<()> {
        let address = self.address;
        tokio::spawn(async move {
            let body = tea().to_string();
            let answer = exchange(address, "POST", "/orders", &body).await.unwrap_or_default();
            assert_eq!(answer, "", "killed before it could answer");
        })
    }

    /// All of them, newest first.
    async fn orders(&self) -> Value {
        let (status, answer) = request(self.address, "GET", "/orders", "").await;
        assert_eq!(status, 200, "{answer}");
        answer["orders"].clone()
    }

    async fn get(&self, id: &str) -> (u16, Value) {
        request(self.address, "GET", &format!("/orders/{id}"), "").await
    }
}

fn tea() -> Value {
    json!({"customer": "Ada", "item": "tea", "quantity": 3, "unit_price_cents": 450})
}

async fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, Value) {
    let answer = in_time(exchange(address, method, path, body)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

/// One request on a connection of its own.
async fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writes_lose_the_event_of_an_order_that_is_there() {
    let mut world = World::new().await;
    let service = Service::start(&world, &["--unsafe-two-writes", PAUSE]).await;
    let customer = service.post_in_vain();
    until("the first of the two writes", async || world.count("orders").await == 1).await;
    service.kill_9().await;
    in_time(customer).await.unwrap();

    let service = Service::start(&world, &[]).await;
    let lost = world.mongo.database("shop").collection::<Document>("orders").find_one(doc! {}).await.unwrap().unwrap();
    let lost = lost.get_str("_id").unwrap();
    assert_eq!(service.get(lost).await.0, 200, "the order is there");
    assert_eq!(service.orders().await[0]["order"], lost);
    assert_eq!(world.count("outbox").await, 0, "and nothing of its event");
    // The next one's event is the first that the hub ever hears of.
    let (status, order) = service.post(&tea()).await;
    assert_eq!(status, 201, "{order}");
    assert_ne!(order["order"], lost);
    assert_eq!(world.event().await["order"], order["order"]);
    service.kill_9().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_transaction_has_both_or_neither_wherever_it_is_killed() {
    let mut world = World::new().await;

    // Killed between the two writes: neither.
    let service = Service::start(&world, &[PAUSE]).await;
    let customer = service.post_in_vain();
    until("a transaction between its two writes", async || world.transactions_at_rest().await == 1).await;
    service.kill_9().await;
    in_time(customer).await.unwrap();
    assert_eq!((world.count("orders").await, world.count("outbox").await), (0, 0));

    // Killed after the commit: both, and the hub publishes without it.
    let service = Service::start(&world, &[]).await;
    let (status, order) = service.post(&tea()).await;
    assert_eq!(status, 201, "{order}");
    service.kill_9().await;
    assert_eq!((world.count("orders").await, world.count("outbox").await), (1, 1));
    assert_eq!(world.event().await, order);

    let service = Service::start(&world, &[]).await;
    assert_eq!(service.orders().await, json!([order]));
    service.kill_9().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_drains_for_a_hub_without_mongodb_also_what_its_predecessor_left() {
    let mut world = World::of_a_hub_without_mongodb().await;
    let service = Service::start(&world, &[]).await;
    let (status, order) = service.post(&tea()).await;
    assert_eq!(status, 201, "{order}");
    service.kill_9().await;
    assert_eq!((world.count("orders").await, world.count("outbox").await), (1, 1));

    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), format!("{TOKEN}\n")).unwrap();
    let service = Service::start_draining(&world, token.path()).await;
    assert_eq!(world.event().await, order);
    assert_eq!(service.get(order["order"].as_str().unwrap()).await, (200, order));
    service.kill_9().await;
    world.end().await;
}

/// The drainer stopped for good when its token ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_renewed_late_delays_events_and_loses_none() {
    let mut world = World::of_a_hub_without_mongodb().await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "one that has ended").unwrap();
    let mut service = Service::start_draining(&world, token.path()).await;
    let (status, order) = service.post(&tea()).await;
    assert_eq!(status, 201, "{order}");
    service.says("the hub refuses the token").await;
    std::fs::write(token.path(), TOKEN).unwrap();
    assert_eq!(world.event().await, order);
    service.kill_9().await;
    world.end().await;
}

/// The driver quoted what it took for a port, and panicked at the sign.
#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_cannot_be_read_shows_nothing_of_its_password() {
    for (password, words) in [("s3cr?et", "? is %3F"), ("s3cr%a€et", "% is written %25"), ("s3cr%", "% is written %25")]
    {
        let url = format!("mongodb://shop:{password}@db/");
        let run =
            Command::new(env!("CARGO_BIN_EXE_order-service")).args(["--mongo-url", &url]).kill_on_drop(true).output();
        let ended = in_time(run).await.unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains(words) && !said.contains("s3cr"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_order_is_refused_with_the_reason() {
    let world = World::new().await;
    let service = Service::start(&world, &[]).await;
    let with = |field: &str, value: Value| {
        let mut order = tea();
        order[field] = value;
        order
    };
    let refused = [
        (with("quantity", json!(0)), 422, "quantity must be 1 to 1000, not 0"),
        (with("quantity", json!("three")), 422, "quantity: invalid type"),
        (with("discount", json!(1)), 422, "unknown field `discount`"),
        (json!({"customer": "Ada"}), 422, "missing field `item`"),
    ];
    for (order, expected, words) in refused {
        let (status, answer) = service.post(&order).await;
        assert!(status == expected && answer["error"].as_str().unwrap().contains(words), "{status} {answer}");
    }
    assert_eq!(service.post(&with("quantity", json!(0))).await.1["field"], "quantity");
    let (status, answer) = request(service.address, "POST", "/orders", "{").await;
    assert!(status == 400 && answer["error"].is_string(), "{status} {answer}");
    let (status, _) = service.post(&with("item", json!("x".repeat(20_000)))).await;
    assert_eq!(status, 413);
    assert_eq!(service.get("unknown").await.0, 404);
    assert_eq!((world.count("orders").await, world.count("outbox").await), (0, 0));
    service.kill_9().await;
    world.end().await;
}
