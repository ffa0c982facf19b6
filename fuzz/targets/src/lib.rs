//! What is fuzzed: one function for each reader of what strangers send or disks give back.
//!
//! ```text
//!   fuzz/fuzz_targets/NAME.rs ──► NAME(data)      libFuzzer, on nightly: `npm run fuzz`
//!   tests/replay.rs           ──► NAME(data)      fuzz/corpus/NAME, fuzz/regressions/NAME and what is made of them
//!
//!   frames      text of both sides' frames              tokens      header and claims, signed
//!   session     a client's session with any hub         key_sets    an identity provider's answer
//!   patterns    matching, covering, intersecting        parameters  queries, Authorization, Host
//!   policies    claims, scopes, decisions               records     one record of the log
//!   payloads    JSON without a parser, the profile      recovery    a log that is damaged, or lies
//!                                                       documents   BSON to events and cursors
//! ```
//!
//! Each takes any bytes. A panic is a finding: either the code panicked, or what it said is not what a second, slower way
//! to find it says.

#![allow(clippy::missing_panics_doc, reason = "a panic is how a target reports what it finds")]

mod documents;
mod frames;
mod key_sets;
mod parameters;
mod patterns;
mod payloads;
mod policies;
mod records;
mod recovery;
mod session;
mod tokens;

pub use self::{
    documents::documents, frames::frames, key_sets::key_sets, parameters::parameters, patterns::patterns,
    payloads::payloads, policies::policies, records::records, recovery::recovery, session::session, tokens::tokens,
};

/// A target's name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 11] = [
    ("documents", documents),
    ("frames", frames),
    ("key_sets", key_sets),
    ("parameters", parameters),
    ("patterns", patterns),
    ("payloads", payloads),
    ("policies", policies),
    ("records", records),
    ("recovery", recovery),
    ("session", session),
    ("tokens", tokens),
];
