//! What a row becomes.

use prom_protocol::{ErrorCode, EventOptions, RawValue, Refusal, Text, Topic, check_payload, limits};

/// An event as it is published: checked, so that a hub refuses it only for reasons of its own.
#[derive(Debug, Clone)]
pub struct OutboxEvent {
    topic: Topic,
    id: Text<'static>,
    options: EventOptions<'static>,
    payload: Box<RawValue>,
}

impl OutboxEvent {
    /// Checks what the hub would check.
    ///
    /// # Errors
    /// `bad_topic`, `bad_payload`, `too_large` or `bad_frame`, naming the field and the limit.
    pub fn new(
        topic: &str,
        id: String,
        mut options: EventOptions<'static>,
        payload: Box<RawValue>,
    ) -> Result<Self, Refusal> {
        let topic = Topic::new(topic).map_err(|error| Refusal::new(ErrorCode::BadTopic, format!("topic: {error}")))?;
        if topic.is_reserved() {
            return Err(Refusal::new(ErrorCode::BadTopic, "topic: one that starts with `$` is the hub's own"));
        }
        if topic.is_dead_letters() {
            return Err(Refusal::new(ErrorCode::BadTopic, "topic: only the hub publishes dead letters"));
        }
        let id = Text::from(id);
        options.id = Some(id.clone());
        options.check().map_err(|error| Refusal::new(error.code(), error.message_without_opts()))?;
        check_payload(payload.get())?;
        // What no client could have published, no client is ready to receive.
        if payload.get().len() > limits::FRAME_BYTES {
            let message = format!(
                "payload is {} bytes of JSON; an event may be at most {}",
                payload.get().len(),
                limits::FRAME_BYTES
            );
            return Err(Refusal::new(ErrorCode::TooLarge, message));
        }
        Ok(Self { topic, id, options, payload })
    }

    /// Where it is published.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The row's id as text: the event's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key: events of one key are published in order.
    pub fn key(&self) -> Option<&str> {
        self.options.key.as_deref()
    }

    /// Everything else it carries, `id` and `ts` among them.
    pub fn options(&self) -> &EventOptions<'static> {
        &self.options
    }

    /// The payload's JSON.
    pub fn payload(&self) -> &RawValue {
        &self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_no_hub_would_take_names_its_field() {
        let event = |topic: &str, id: &str, options, payload: &str| {
            let payload = RawValue::from_string(payload.to_owned()).unwrap();
            OutboxEvent::new(topic, id.to_owned(), options, payload)
        };
        let plain = EventOptions::default;
        assert!(event("a.b", "1", plain(), "{}").is_ok());
        for (refused, code, start) in [
            (event("a..b", "1", plain(), "{}"), ErrorCode::BadTopic, "topic: "),
            (event("$audit", "1", plain(), "{}"), ErrorCode::BadTopic, "topic: "),
            (event("dlq.a", "1", plain(), "{}"), ErrorCode::BadTopic, "topic: only the hub publishes dead letters"),
            (event("a", "", plain(), "{}"), ErrorCode::BadFrame, "id must be 1 to 128 bytes"),
            (event("a", "$1", plain(), "{}"), ErrorCode::BadFrame, "id must not start with"),
            (
                event("a", "1", EventOptions { key: Some("".into()), ..plain() }, "{}"),
                ErrorCode::BadFrame,
                "key must be 1 to 512 bytes",
            ),
            (event("a", "1", plain(), "1e999"), ErrorCode::BadPayload, "payload holds a number"),
            (
                event("a", "1", plain(), &format!("\"{}\"", "x".repeat(limits::FRAME_BYTES))),
                ErrorCode::TooLarge,
                "payload is 1048578 bytes of JSON",
            ),
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), code);
            assert!(refused.message().starts_with(start), "{refused}");
        }
    }
}
