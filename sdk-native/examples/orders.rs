//! A group that works on orders, and orders for it. `cargo run -p prom-sdk --example orders` beside `prom dev`.

use std::time::Duration;

use prom_sdk::{BoxError, Client, PublishOptions, Received, StartFrom};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    order: u32,
    total: f64,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let url = std::env::var("PROM_URL").unwrap_or_else(|_| "ws://127.0.0.1:8090/".to_owned());
    let token = std::env::var("TOKEN").unwrap_or_default();
    let client = Client::builder(url).token(token).connect().await?;

    // Each event goes to one member of the group. `Ok` acknowledges it, `Err` gives it back.
    let receipts = client.clone();
    let handling = client
        .subscribe("orders.paid", "billing")
        .from(StartFrom::Earliest)
        .max_in_flight(8)
        .handler_timeout(Duration::from_secs(30))
        .handle(move |received: Received<Order>| {
            let receipts = receipts.clone();
            async move {
                println!("{:?}, attempt {}", received.payload, received.context.attempt);
                receipts.publish("orders.billed", &received.payload.order).await?;
                Ok::<_, BoxError>(())
            }
        })
        .await?;

    for order in 1..=10 {
        let paid = Order { order, total: 9.5 * f64::from(order) };
        let options = PublishOptions::new().key(format!("order-{order}"));
        let published = client.publish_with("orders.paid", &paid, options).await?;
        println!("committed as {} at {}", published.id, published.seq);
    }

    // Handlers that run finish and publish, what was published is answered.
    client.close_drained(Duration::from_secs(10)).await?;
    handling.finished().await;
    Ok(())
}
