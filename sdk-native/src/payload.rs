//! Payloads on their way out: any value as JSON on one line, behind the topic it is for.

use std::{borrow::Cow, cell::Cell};

use prom_protocol::{RawValue, single_line};
use serde::Serialize;

use crate::{Error, command::Outgoing};

/// A thread keeps no more memory than this between two payloads.
const KEPT_BYTES: usize = 64 * 1024;

thread_local! {
    /// Where payloads are written: how long one is shows when it is there.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Writes `payload`.
///
/// # Errors
/// [`crate::ErrorKind::Payload`]: it does not become JSON; [`crate::ErrorKind::Invalid`]: it holds a number that is not finite.
pub(crate) fn write<T: Serialize + ?Sized>(topic: &str, payload: &T) -> Result<Outgoing, Error> {
    let mut text = SCRATCH.take();
    text.clear();
    text.extend_from_slice(topic.as_bytes());
    let written = serde_json::to_writer(&mut text, payload)
        .map_err(|error| Error::payload("the payload does not become JSON", error))
        .and_then(|()| finish(topic, &text, payload));
    if text.capacity() <= KEPT_BYTES {
        SCRATCH.set(text);
    }
    written
}

fn finish<T: Serialize + ?Sized>(topic: &str, text: &[u8], payload: &T) -> Result<Outgoing, Error> {
    let json = std::str::from_utf8(&text[topic.len()..])
        .map_err(|error| Error::payload("the payload does not become JSON", serde::ser::Error::custom(error)))?;
    // What is no finite number became a null.
    if json.contains("null") {
        crate::finite::check(payload)?;
    }
    Ok(one_line(topic, json))
}

/// Takes a payload that is JSON already.
pub(crate) fn copy(topic: &str, json: &RawValue) -> Outgoing {
    one_line(topic, json.get())
}

/// A frame is one line.
fn one_line(topic: &str, json: &str) -> Outgoing {
    let json: Cow<'_, str> = single_line(json);
    let mut text = String::with_capacity(topic.len() + json.len());
    text.push_str(topic);
    text.push_str(&json);
    Outgoing::new(text.into(), topic.len())
}
