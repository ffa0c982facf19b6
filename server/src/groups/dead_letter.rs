//! What becomes of an event that a group has given up.

use prom_delivery::Dead;
use prom_protocol::{Event, EventOptions, Group, Text, Topic, limits};
use prom_store::{Append, wall_clock};

/// The event on `dlq.<topic>` for an event that used up its attempts.
pub(super) fn dead_letter(topic: &Topic, group: &Group, dead: &Dead) -> Option<Append> {
    let text = |value: &str| serde_json::to_string(value).unwrap_or_default();
    let payload = format!(
        "{{\"topic\":{},\"group\":{},\"original\":{},\"err\":{},\"ts\":{},\"attempts\":{}}}",
        text(topic.as_str()),
        text(group.as_str()),
        dead.event.text(),
        text(&dead.error[..dead.error.floor_char_boundary(limits::REASON_BYTES)]),
        wall_clock(),
        dead.attempts,
    );
    // The same id on every try, so that a commit whose outcome was lost does not bury the event twice; and another for
    // every other event and group, also for one that is published under the same id once this one is trimmed. Neither
    // topics nor numbers have a slash. No client can have taken it: ids of clients do not start with `$`.
    let id = format!("$dead.{group}/{topic}/{}", dead.event.seq);
    let options = EventOptions {
        id: Some(Text::from(&*id)),
        key: dead.event.key.as_deref().map(Text::from),
        caused_by: vec![Text::from(&*dead.event.id)],
        ..EventOptions::default()
    };
    // Who published it, not who gave it up: that is whom a reader of the dead letters asks.
    let by = Event::parse(dead.event.text()).ok().and_then(|event| event.by);
    Some(Append::published_by(topic.dead_letter()?, &options, by.as_deref(), &payload))
}
