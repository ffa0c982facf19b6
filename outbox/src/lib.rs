//! Transactional outbox for Prom Hub: rows written with the business change, drained and published once.
//!
//! ```text
//!   service ──one transaction──► business change + row     MongoOutbox, EmbeddedOutbox, MemoryOutbox
//!                                                 │
//!                               OutboxStore::claim, in order, no key twice
//!                                                 ▼
//!   hub ◄──the row's id is the event's id── Drainer ──settle: sent, again later, parked──► OutboxStore
//! ```
//!
//! A service that changes its database and then publishes loses the event when it dies in between; one that publishes
//! first announces what may not happen. With an outbox it writes the event as a row, in the transaction of the change; a
//! [`Drainer`], in the same process, beside it or in the hub, publishes the row. If it dies between the publish and the
//! mark, the row is published again with the same id, which the hub answers with `duplicate` and stores nothing.
//!
//! # What order means
//!
//! Rows are published in the order of `ts`, then `_id`, **among the rows that are committed when they are claimed**. Rows
//! of one key never overtake each other: none is claimed while another of its key is claimed, by whichever drainer, or
//! waits to be tried again. A key is the same key on every topic.
//!
//! Two services that commit rows of one key at the same time have no order but the one they make themselves. If their
//! transactions also change the same document (the usual case: the key names it), MongoDB lets only one of them pass; the
//! other starts again, writes its row anew and so has the later `ts`, as far as their clocks agree. If they do not, the row
//! that becomes visible later may carry the earlier `ts`: it is published after what was already claimed, and before what
//! was not. Whoever needs more takes `ts` from one clock, or writes a version into the payload.
//!
//! # Rows of services in other languages
//!
//! A row is a plain document, `{_id, topic, payload}` at least; see [`Row`] for all fields. What a JavaScript service
//! writes is drained as it is:
//!
//! | field | may be | becomes |
//! |---|---|---|
//! | `_id` | ObjectId, string, UUID, number | the event's id: 24 hex digits, the text, the UUID with hyphens, the number's text; unique within its topic, where `7` and `"7"` are one |
//! | `status` | `pending`, missing or `null` | `pending` |
//! | `ts` | Date, number of milliseconds; missing | the event's `ts`; missing: the time in an ObjectId `_id`, else the row comes first and the hub's clock counts |
//! | `attempts` | missing, `null` | 0 |
//! | `key`, `sid` | string, ObjectId, UUID, number | their text |
//! | `caused_by` | one of these, or a list of them | a list of their texts |
//! | `headers` | an object of strings, numbers, booleans | strings |
//! | `payload` | any value `JSON.stringify` has a text for | that text; Decimal128 as a string, Int64 as a number, other binary as base64 |
//!
//! A row that cannot become an event (NaN, a regular expression, a topic or a status that is none) is *poison*: it is parked
//! at once with an error that names the field, and holds nothing up. So is a document with no room for the marks of a
//! claim, within 16 KiB of MongoDB's 16 MiB. Only a document with lists in two of `status`, `ts` and `key` is in the way: no
//! index can hold it, so a drainer that finds it when it starts names it and waits.
//!
//! # The other end
//!
//! A consumer gets an event again when its acknowledgement was lost. `MongoDedupe` remembers what was handled, if need be
//! in the transaction of the effect, so that the effect is there once.
//!
//! # Example
//!
//! ```no_run
//! # #[cfg(all(feature = "mongodb", feature = "sdk"))]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use prom_outbox::{Drainer, MongoOutbox, NewRow, Options};
//! use mongodb::bson::doc;
//!
//! let mongo = mongodb::Client::with_uri_str("mongodb://127.0.0.1:27017/?replicaSet=rs0").await?;
//! let shop = mongo.database("shop");
//! let outbox = MongoOutbox::new(shop.collection("outbox"));
//! outbox.ensure_indexes().await?;
//!
//! // The service: its change and the event, both or neither.
//! let mut session = mongo.start_session().await?;
//! session.start_transaction().await?;
//! let orders = shop.collection::<mongodb::bson::Document>("orders");
//! orders.update_one(doc! {"_id": 7}, doc! {"$set": {"paid": true}}).session(&mut session).await?;
//! let row = NewRow::new("orders.paid", &serde_json::json!({"order": 7}))?.key("order-7");
//! outbox.add(&mut session, row).await?;
//! session.commit_transaction().await?;
//!
//! // The drainer, here or in another process.
//! let hub = prom_sdk::Client::builder("ws://127.0.0.1:8090/ws").token("a.b.c").connect().await?;
//! let drainer = Drainer::new(Arc::new(outbox), Arc::new(hub), Options::default());
//! drainer.run(async { _ = tokio::signal::ctrl_c().await }).await;
//! # Ok(())
//! # }
//! ```

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(feature = "mongodb")]
mod dedupe;
mod drainer;
#[cfg(feature = "embedded")]
mod embedded;
mod event;
mod ledger;
mod memory;
#[cfg(feature = "mongodb")]
mod mongo;
mod publish;
mod row;
#[cfg(feature = "sdk")]
mod sdk;
mod store;

#[cfg(feature = "mongodb")]
pub use dedupe::{Effect, MongoDedupe, Once, OnceError};
pub use drainer::{Drainer, Options, Tally};
#[cfg(feature = "embedded")]
pub use embedded::{EmbeddedAddError, EmbeddedOutbox};
pub use event::OutboxEvent;
pub use memory::MemoryOutbox;
#[cfg(feature = "mongodb")]
pub use mongo::{AddError, MongoOutbox};
pub use publish::{Outcome, Publish, PublishError, Published, in_key_order};
pub use row::{NewRow, Row, RowId, Status};
pub use store::{Claim, ClaimRequest, Claimed, Filter, Mark, OutboxStore, Settle, Stats, StoreError};
