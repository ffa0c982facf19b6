//! Outboxes in MongoDB: their names, and opening them.

use std::{collections::HashSet, fmt, sync::Arc};

use mongodb::{Collection, Database, bson::Document};
use prom_outbox::MongoOutbox;
use prom_store_mongo::{COLLECTIONS, OpenError, SYSTEM_DATABASES};

use super::outbox::Drained;
use crate::flow::writer::Writer;

/// A collection of rows: `outbox` in the store's database, or `shop.outbox` in another one of the same deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxName {
    database: Option<String>,
    collection: String,
}

impl OutboxName {
    /// Reads `collection` or `database.collection`.
    ///
    /// # Errors
    /// What is wrong with the name, for people.
    pub fn new(name: &str) -> Result<Self, String> {
        let own = match name.split_once('.') {
            Some((database, collection)) => {
                Self { database: Some(database.to_owned()), collection: collection.to_owned() }
            }
            None => Self { database: None, collection: name.to_owned() },
        };
        let bad = |c: char| c.is_whitespace() || c.is_control() || "/\\\"$*<>:|?".contains(c);
        let empty = own.collection.is_empty() || own.database.as_ref().is_some_and(String::is_empty);
        if empty || name.len() > 120 || name.contains(bad) {
            return Err(format!(
                "`{name}` is no collection: it is like outbox, or shop.outbox for one of another database"
            ));
        }
        // In whichever database: it may be this hub's, or another's.
        let reserved = COLLECTIONS.contains(&&*own.collection) || own.collection.ends_with("_claims");
        let system = own.database.as_deref().is_some_and(|name| SYSTEM_DATABASES.contains(&name));
        if reserved || system || own.collection.starts_with("system.") {
            return Err(format!("`{name}` is a collection of the hub's or of MongoDB's own, not an outbox"));
        }
        Ok(own)
    }

    /// The collection itself; `own` is the database where the name gives none.
    fn collection(&self, own: &Database) -> Collection<Document> {
        let database = self.database.as_ref().map_or_else(|| own.clone(), |name| own.client().database(name));
        database.collection(&self.collection)
    }
}

impl fmt::Display for OutboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.database {
            Some(database) => write!(f, "{database}.{}", self.collection),
            None => f.write_str(&self.collection),
        }
    }
}

/// The outboxes of these names, each once; `own` is the hub's database.
pub(crate) fn drained(names: &[OutboxName], own: &Database, writer: &Writer) -> Vec<Drained> {
    let mut seen = HashSet::new();
    let new = names.iter().filter(|name| seen.insert(name.collection(own).namespace().to_string()));
    new.map(|name| Drained::new(name.to_string(), Arc::new(MongoOutbox::new(name.collection(own))), writer.clone()))
        .collect()
}

/// The outbox `name`, for an operator: whether or not a hub drains it. Makes nothing and changes nothing.
///
/// # Errors
/// It cannot be reached, or there is no such collection.
pub async fn open_outbox(url: &str, name: &OutboxName) -> Result<MongoOutbox, OpenError> {
    let rows = prom_store_mongo::existing(url, |own| name.collection(own)).await?;
    Ok(MongoOutbox::new(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_a_collection_here_or_in_another_database() {
        for name in ["outbox", "shop.outbox", "shop.outbox.eu"] {
            assert_eq!(OutboxName::new(name).unwrap().to_string(), name);
        }
        for name in [
            "",
            ".",
            "shop.",
            ".outbox",
            "a b",
            "a$b",
            "a/b.c",
            "events",
            "prom.events",
            "shop.outbox_claims",
            "admin.x",
            "shop.system.x",
        ] {
            assert!(OutboxName::new(name).is_err(), "{name}");
        }
    }
}
