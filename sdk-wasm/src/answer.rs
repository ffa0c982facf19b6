//! The array that every call returns.

use js_sys::Array;
use prom_sdk_core::{Answer, Error, Output, Session, SubscriptionId};
use wasm_bindgen::JsValue;

/// What follows in the array. The numbers are those of `Tag` in `face/tag.ts`.
#[derive(Clone, Copy)]
pub(crate) enum Tag {
    /// Open a socket.
    Open = 1,
    /// `text`
    Send = 2,
    /// `code, reason`
    Shut = 3,
    /// `asked`
    NeedToken = 4,
    /// `state, retry_in_ms | undefined`, then an error: its four fields, or `undefined`.
    State = 5,
    /// `request`
    Done = 6,
    /// `request, id, seq, duplicate`
    Published = 7,
    /// `request`, then an error: `code, message, retryable, retry_after_ms | undefined`
    Failed = 8,
    /// `subscription, connection`; the event is in the frame that was given.
    Event = 9,
    /// `subscription`
    Live = 10,
    /// `subscription, topic, from, to, reason`
    Gap = 11,
    /// `subscription`, then an error
    Revoked = 12,
    /// an error
    Error = 13,
}

/// The array under construction.
pub(crate) struct Answers(Array);

impl Answers {
    /// Its head. The deadline is filled in at the end.
    pub(crate) fn new(request: u64, subscription: u32) -> Self {
        let answers = Self(Array::new());
        answers.number(f64::INFINITY);
        answers.number(request as f64);
        answers.number(subscription.into());
        answers
    }

    pub(crate) fn event(&self, subscription: SubscriptionId, connection: u32) {
        self.tag(Tag::Event);
        self.number(subscription.0.into());
        self.number(connection.into());
    }

    /// Adds what the session puts out, and the deadline.
    pub(crate) fn take(self, session: &mut Session) -> Array {
        while let Some(output) = session.poll() {
            self.output(output);
        }
        if let Some(deadline) = session.deadline() {
            self.0.set(0, JsValue::from_f64(deadline as f64));
        }
        self.0
    }

    fn output(&self, output: Output) {
        match output {
            Output::Open => self.tag(Tag::Open),
            Output::Send(frame) => {
                self.tag(Tag::Send);
                self.text(&frame);
            }
            Output::Shut { code, reason } => {
                self.tag(Tag::Shut);
                self.number(code.into());
                self.text(reason);
            }
            Output::NeedToken(asked) => {
                self.tag(Tag::NeedToken);
                self.number(asked.into());
            }
            Output::State(change) => {
                self.tag(Tag::State);
                self.text(change.state.as_str());
                self.optional(change.retry_in_ms);
                match change.error {
                    Some(error) => self.error(&error),
                    None => self.push(&JsValue::UNDEFINED),
                }
            }
            Output::Done { request, result: Ok(Answer::Done) } => {
                self.tag(Tag::Done);
                self.number(request.0 as f64);
            }
            Output::Done { request, result: Ok(Answer::Published { id, seq, duplicate }) } => {
                self.tag(Tag::Published);
                self.number(request.0 as f64);
                self.text(&id);
                self.number(seq as f64);
                self.push(&JsValue::from_bool(duplicate));
            }
            Output::Done { request, result: Err(error) } => {
                self.tag(Tag::Failed);
                self.number(request.0 as f64);
                self.error(&error);
            }
            Output::Live { subscription } => {
                self.tag(Tag::Live);
                self.number(subscription.0.into());
            }
            Output::Gap { subscription, topic, from, to, reason } => {
                self.tag(Tag::Gap);
                self.number(subscription.0.into());
                self.text(&topic);
                self.number(from as f64);
                self.number(to as f64);
                self.text(&reason);
            }
            Output::Revoked { subscription, error } => {
                self.tag(Tag::Revoked);
                self.number(subscription.0.into());
                self.error(&error);
            }
            Output::Error(error) => {
                self.tag(Tag::Error);
                self.error(&error);
            }
        }
    }

    fn error(&self, error: &Error) {
        self.text(error.code());
        self.text(error.message());
        self.push(&JsValue::from_bool(error.retryable()));
        self.optional(error.retry_after_ms());
    }

    fn tag(&self, tag: Tag) {
        self.number(tag as u8 as f64);
    }

    fn optional(&self, number: Option<u64>) {
        match number {
            Some(number) => self.number(number as f64),
            None => self.push(&JsValue::UNDEFINED),
        }
    }

    fn number(&self, number: f64) {
        self.push(&JsValue::from_f64(number));
    }

    fn text(&self, text: &str) {
        self.push(&JsValue::from_str(text));
    }

    fn push(&self, value: &JsValue) {
        self.0.push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::Tag;

    #[test]
    fn the_face_has_the_same_tags() {
        let face = include_str!("../face/tag.ts");
        let tags = [
            ("Open", Tag::Open),
            ("Send", Tag::Send),
            ("Shut", Tag::Shut),
            ("NeedToken", Tag::NeedToken),
            ("State", Tag::State),
            ("Done", Tag::Done),
            ("Published", Tag::Published),
            ("Failed", Tag::Failed),
            ("Event", Tag::Event),
            ("Live", Tag::Live),
            ("Gap", Tag::Gap),
            ("Revoked", Tag::Revoked),
            ("Error", Tag::Error),
        ];
        for (name, tag) in tags {
            assert!(face.contains(&format!("  {name}: {},", tag as u8)), "{name}");
        }
    }
}
