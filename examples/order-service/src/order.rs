//! Orders: what a customer sends, what is stored, and what is told about it.

use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest `customer` and `item`, in characters.
const TEXT: usize = 100;
/// Largest `quantity`.
const QUANTITY: i64 = 1_000;
/// Highest `unit_price_cents`.
const PRICE: i64 = 100_000_000;

/// What a customer sends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewOrder {
    customer: String,
    item: String,
    quantity: i64,
    unit_price_cents: i64,
}

/// A field that is not as it must be.
#[derive(Debug, thiserror::Error)]
#[error("{field} must be {rule}")]
pub(crate) struct Invalid {
    pub(crate) field: &'static str,
    rule: String,
}

/// What is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    #[serde(rename = "_id")]
    id: String,
    customer: String,
    item: String,
    quantity: i64,
    total_cents: i64,
    placed_at: DateTime,
}

/// What is told, to the customer and in the event `orders.placed`. Consumers depend on it: it is not just what is stored.
#[derive(Debug, Serialize)]
pub(crate) struct Placed<'a> {
    order: &'a str,
    customer: &'a str,
    item: &'a str,
    quantity: i64,
    total_cents: i64,
    placed_at_ms: i64,
}

impl NewOrder {
    /// Checks everything and gives the order its id.
    pub(crate) fn place(self) -> Result<Order, Invalid> {
        text("customer", &self.customer)?;
        text("item", &self.item)?;
        number("quantity", self.quantity, 1, QUANTITY)?;
        number("unit_price_cents", self.unit_price_cents, 0, PRICE)?;
        Ok(Order {
            id: Uuid::now_v7().to_string(),
            customer: self.customer,
            item: self.item,
            quantity: self.quantity,
            // At most 10^11, by the limits above.
            total_cents: self.quantity * self.unit_price_cents,
            placed_at: DateTime::now(),
        })
    }
}

impl Order {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn placed(&self) -> Placed<'_> {
        Placed {
            order: &self.id,
            customer: &self.customer,
            item: &self.item,
            quantity: self.quantity,
            total_cents: self.total_cents,
            placed_at_ms: self.placed_at.timestamp_millis(),
        }
    }
}

fn text(field: &'static str, value: &str) -> Result<(), Invalid> {
    let characters = value.chars().count();
    if value.trim().is_empty() || characters > TEXT {
        return Err(Invalid { field, rule: format!("1 to {TEXT} characters, not only spaces; it has {characters}") });
    }
    Ok(())
}

fn number(field: &'static str, value: i64, least: i64, most: i64) -> Result<(), Invalid> {
    if !(least..=most).contains(&value) {
        return Err(Invalid { field, rule: format!("{least} to {most}, not {value}") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> NewOrder {
        NewOrder { customer: "Ada".into(), item: "tea".into(), quantity: 3, unit_price_cents: 450 }
    }

    #[test]
    fn a_good_order_is_placed_with_its_total() {
        let order = order().place().unwrap();
        assert_eq!((order.quantity, order.total_cents), (3, 1350));
    }

    #[test]
    fn a_bad_field_is_named_with_its_limits() {
        for (bad, words) in [
            (NewOrder { customer: " ".into(), ..order() }, "customer must be 1 to 100 characters"),
            (NewOrder { item: "x".repeat(101), ..order() }, "it has 101"),
            (NewOrder { quantity: 0, ..order() }, "quantity must be 1 to 1000, not 0"),
            (NewOrder { quantity: 1001, ..order() }, "not 1001"),
            (NewOrder { unit_price_cents: -1, ..order() }, "unit_price_cents must be 0 to"),
        ] {
            let error = bad.place().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
