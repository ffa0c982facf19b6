//! What becomes of an event that a group has given up.

use prom_protocol::{EventOptions, Group, Text, Topic, encode_event_body, limits};

use super::log::Dead;
use crate::store::Append;

/// The event on `dlq.<topic>` for an event that used up its attempts.
pub(super) fn dead_letter(topic: &Topic, group: &Group, dead: &Dead) -> Option<Append> {
    let text = |value: &str| serde_json::to_string(value).unwrap_or_default();
    let payload = format!(
        "{{\"topic\":{},\"group\":{},\"original\":{},\"err\":{},\"ts\":{},\"attempts\":{}}}",
        text(topic.as_str()),
        text(group.as_str()),
        dead.event.text(),
        text(&dead.error[..dead.error.floor_char_boundary(limits::REASON_BYTES)]),
        crate::writer::wall_clock(),
        dead.attempts,
    );
    let options = EventOptions {
        key: dead.event.key.as_deref().map(Text::from),
        caused_by: Some(Text::from(&*dead.event.id)),
        ..EventOptions::default()
    };
    let (source, topic) = (topic, topic.dead_letter()?);
    let mut body = Vec::with_capacity(payload.len() + 128);
    encode_event_body(&mut body, topic.as_str(), &options, &payload);
    // The same id on every try, so that a commit whose outcome was lost does not bury the event twice; and another for
    // every other event and group, also for one that is published under the same id once this one is trimmed. Neither
    // topics nor numbers have a slash. No client can have taken it: ids of clients do not start with `$`.
    let id = format!("$dead.{group}/{source}/{}", dead.event.seq);
    Some(Append { topic, id: Some(id.into()), ts: None, key: dead.event.key.clone(), body })
}
