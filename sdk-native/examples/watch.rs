//! A live map: the newest event of each key. `cargo run -p prom-sdk --example watch` beside `prom dev`.

use prom_sdk::{Client, Error, ProcessState};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("PROM_URL").unwrap_or_else(|_| "ws://127.0.0.1:8090/".to_owned());
    let token = std::env::var("TOKEN").unwrap_or_default();
    let client = Client::builder(url).token(token).connect().await?;
    let mut processes = client.watch::<ProcessState>("process.state").await?;
    for (key, latest) in &processes {
        println!("{key}: {:?}", latest.value.as_ref().map(|process| process.status));
    }
    while let Some(change) = processes.next().await {
        match change.value() {
            Some(process) => println!("{}: {:?}, {} % CPU", change.key, process.status, process.cpu_pct),
            None => println!("{} is gone", change.key),
        }
    }
    processes.error().map_or(Ok(()), Err)
}
