//! The session core for JavaScript. The TypeScript face in `face/` is the only user of these bindings.
//!
//! ```text
//!   face/client.ts ──► PromSession::frame(now, text) ──► prom_sdk_core::Session
//!        ▲                                                        │
//!        └──── [deadline, request, subscription, tag, …, tag, …] ◄┘
//! ```
//!
//! Crossing between JavaScript and wasm is what costs, so every call answers with one flat array: when to call `tick`
//! (`Infinity`: never), the numbers of the request and the subscription that were made (0: none), then the session's
//! outputs, each a tag and its fields as listed at [`Tag`]. An event's text crosses once, inwards; the face parses it
//! with the engine's own parser.

mod options;
mod tag;

use js_sys::Array;
use prom_protocol::{SubscribeOptions, server::OkFrame};
use prom_sdk_core::{
    Answer, Config, DeliveryRef, Error, Output, Publish, RequestId, Session, Settle, State, StateChange, SubscriptionId,
};
use wasm_bindgen::prelude::*;

use options::event_options;
use tag::Tag;

/// A session and the array its next answer is made of.
#[wasm_bindgen]
pub struct PromSession(Session);
