use mongodb::{
    Client, Collection,
    bson::{DateTime, Document, doc},
};
use prom_outbox::*;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
struct H(Mutex<HashMap<String, Instant>>, Duration);
#[async_trait::async_trait]
impl Publish for H {
    async fn publish(&self, events: &[OutboxEvent], _w: Duration) -> Vec<Outcome> {
        tokio::time::sleep(self.1).await;
        let mut m = self.0.lock().unwrap();
        events
            .iter()
            .map(|e| {
                m.insert(e.id().to_owned(), Instant::now());
                Outcome::Published(Published { seq: 1, duplicate: false })
            })
            .collect()
    }
}
#[tokio::main(worker_threads = 2)]
async fn main() {
    let url = std::env::var("URL").unwrap();
    let n: usize = std::env::var("N").unwrap().parse().unwrap();
    let hot = std::env::var("HOT").is_ok();
    let drainers: usize = std::env::var("D").map_or(1, |d| d.parse().unwrap());
    let client = Client::with_uri_str(&url).await.unwrap();
    let rows: Collection<Document> = client.database("speed").collection("outbox");
    rows.drop().await.unwrap();
    let outbox = Arc::new(MongoOutbox::new(rows.clone()));
    outbox.ensure_indexes().await.unwrap();
    for part in 0..n / 1000 {
        rows.insert_many((0..1000).map(|i| { let i = part * 1000 + i; doc!{"topic":"t","payload":{"i":i as i64,"s":"x".repeat(200)},"status":"pending","ts":DateTime::from_millis(i as i64),"key": if hot {"hot".to_owned()} else {format!("k{}", i % 5000)}, "attempts":0} })).await.unwrap();
    }
    let hub = Arc::new(H(Mutex::default(), Duration::from_millis(3)));
    let t = Instant::now();
    let ds: Vec<_> = (0..drainers)
        .map(|_| {
            Arc::new(Drainer::new(Arc::new(MongoOutbox::new(rows.clone())), Arc::clone(&hub) as _, Options::default()))
        })
        .collect();
    let tasks: Vec<_> = ds
        .iter()
        .map(|d| {
            let d = Arc::clone(d);
            tokio::spawn(async move { d.run(std::future::pending()).await })
        })
        .collect();
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let k = hub.0.lock().unwrap().len();
        if k >= n {
            break;
        }
        if t.elapsed().as_secs() > 60 {
            println!("60 s: {k}");
            break;
        }
        if k / 20000 != last {
            last = k / 20000;
            println!("{k} after {:?}", t.elapsed());
        }
    }
    println!(
        "drain: {} rows/s; {:?}",
        n as f64 / t.elapsed().as_secs_f64(),
        ds.iter().map(|d| d.tally()).collect::<Vec<_>>()
    );
    if hot {
        return;
    }
    let mut at = HashMap::new();
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let mut session = client.start_session().await.unwrap();
    for i in 0..1000 {
        tick.tick().await;
        session.start_transaction().await.unwrap();
        let id = outbox.add(&mut session, NewRow::new("t", &i).unwrap().key(format!("k{}", i % 100))).await.unwrap();
        let before = Instant::now();
        session.commit_transaction().await.unwrap();
        at.insert(id, before);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let m = hub.0.lock().unwrap();
    let mut l: Vec<_> = at.iter().map(|(id, s)| m[id].duration_since(*s)).collect();
    l.sort();
    println!(
        "latency p50 {:?} p90 {:?} p99 {:?} max {:?} of {}",
        l[l.len() / 2],
        l[l.len() * 9 / 10],
        l[l.len() * 99 / 100],
        l[l.len() - 1],
        l.len()
    );
    println!("{:?}", ds.iter().map(|d| d.tally()).collect::<Vec<_>>());
    let t = Instant::now();
    println!("{:?} in {:?}", outbox.stats().await.unwrap(), t.elapsed());
    tasks.iter().for_each(|t| t.abort());
}
