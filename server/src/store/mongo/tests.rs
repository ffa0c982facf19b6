//! The store contract on a real replica set, and what is this backend's own.

use super::*;

async fn open(options: impl FnOnce(&mut Options)) -> MongoStore {
    let name = format!("test-{:x}", fastrand::u64(..));
    let mut given = Options::new(format!("mongodb://127.0.0.1:28017/{name}?replicaSet=rs0"));
    options(&mut given);
    MongoStore::open(given).await.unwrap()
}

mod with_the_cache {
    use super::*;

    crate::store_conformance!(|max_bytes| async move {
        Arc::new(open(|options| options.max_bytes = Some(max_bytes as u64)).await) as Arc<dyn Store>
    });
}

/// Every read comes from the database.
mod without_the_cache {
    use super::*;

    crate::store_conformance!(|max_bytes| async move {
        let small = |options: &mut Options| {
            options.max_bytes = Some(max_bytes as u64);
            options.cache_bytes = 0;
        };
        Arc::new(open(small).await) as Arc<dyn Store>
    });
}
