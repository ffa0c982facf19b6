//! What a client must do right. Each file has a table of its scenarios, then one function for each.

mod connection;
mod delivery;
mod group;
mod live;
mod lost;
mod message;
mod publish;

use serde_json::{Value, json};

use crate::scenario::Scenario;

pub(crate) fn all() -> Vec<Scenario> {
    [
        connection::scenarios(),
        publish::scenarios(),
        message::scenarios(),
        delivery::scenarios(),
        group::scenarios(),
        live::scenarios(),
        lost::scenarios(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What `subscribe` says to make a client a member of `g` on `a`.
fn join(handler: Value, options: Value) -> Value {
    let mut fields = json!({"topic": "a", "group": "g"});
    fields["handler"] = handler;
    fields["options"] = options;
    fields
}

/// Events with these payloads and nothing more.
fn numbers(numbers: impl IntoIterator<Item = u64>) -> impl Iterator<Item = (Value, Value)> {
    numbers.into_iter().map(|n| (json!(n), json!({})))
}
