//! Leases between two hubs.

use super::*;

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn one_hub_has_a_lease_until_it_gives_it_back() {
    let options = fresh().await;
    let (here, there) = (open(&options).await, open(&options).await);
    assert_eq!(here.lease("work", LONG).await, Ok(true));
    assert_eq!(there.lease("work", LONG).await, Ok(false));
    assert_eq!(there.lease("other", LONG).await, Ok(true), "each name has its own");
    assert_eq!(here.lease("work", LONG).await, Ok(true), "renewed");
    there.release("work").await;
    assert_eq!(there.lease("work", LONG).await, Ok(false), "nobody gives back what another has");
    here.release("work").await;
    assert_eq!(there.lease("work", LONG).await, Ok(true));
    assert_eq!(here.lease("work", LONG).await, Ok(false));
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_ends_and_no_earlier() {
    let options = fresh().await;
    let (here, there) = (open(&options).await, open(&options).await);
    assert_eq!(here.lease("work", LONG).await, Ok(true));
    let asked = Instant::now();
    assert_eq!(here.lease("work", SHORT).await, Ok(true), "from now on, not longer than that");
    until("it ends", async || there.lease("work", LONG).await.unwrap().then_some(())).await;
    assert!(asked.elapsed() >= SHORT, "{:?}", asked.elapsed());
    assert_eq!(here.lease("work", LONG).await, Ok(false), "it is the other's now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_hubs_that_ask_together_one_has_it() {
    let options = fresh().await;
    let hubs = [open(&options).await, open(&options).await, open(&options).await];
    for round in 0..20 {
        let name = format!("work-{round}");
        let asked = futures_util::future::join_all(hubs.iter().map(|hub| hub.lease(&name, LONG))).await;
        assert_eq!(asked.iter().filter(|had| **had == Ok(true)).count(), 1, "{asked:?}");
    }
}
