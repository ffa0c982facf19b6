//! The Rust client of the hub as a publisher.

use std::time::Duration;

use async_trait::async_trait;
use prom_sdk::{Client, PublishOptions};

use crate::{OutboxEvent, Outcome, Publish, PublishError, Published, in_key_order};

/// One event per key is under way at a time, all keys at once, over the client's one connection.
#[async_trait]
impl Publish for Client {
    async fn publish(&self, events: &[OutboxEvent], within: Duration) -> Vec<Outcome> {
        in_key_order(events, within, |event, left| async move {
            match self.publish_raw(event.topic().as_str(), event.payload(), options(event, left)).await {
                Ok(published) => Ok(Published { seq: published.seq, duplicate: published.duplicate }),
                Err(error) => Err(PublishError {
                    code: error.code().to_owned().into(),
                    message: error.message().to_owned(),
                    temporary: error.retryable(),
                    retry_after: error.retry_after(),
                }),
            }
        })
        .await
    }
}

fn options(event: &OutboxEvent, within: Duration) -> PublishOptions {
    let from = event.options();
    let mut options = PublishOptions::new().id(event.id()).timeout(within);
    if let Some(ts) = from.ts {
        options = options.ts(ts);
    }
    if let Some(key) = &from.key {
        options = options.key(key.as_str());
    }
    if let Some(sid) = &from.sid {
        options = options.sid(sid.as_str());
    }
    for (name, value) in from.headers.iter() {
        options = options.header(name, value);
    }
    let options = from.caused_by.iter().fold(options, |options, cause| options.caused_by(cause.as_str()));
    from.tags.iter().fold(options, |options, tag| options.tag(tag.as_str()))
}
