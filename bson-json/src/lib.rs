//! JSON text as BSON values, and back. BSON is what other tools query; the text is what subscribers get.
//!
//! ```text
//!   parse.rs       JSON ──► BSON     one reading: names as they are, integers as integers
//!   write.rs       BSON ──► JSON     strict: what an event is made of, and nothing else. For the log
//!   stringify.rs   BSON ──► JSON     as JSON.stringify: any value that a service may have written. For outbox rows
//! ```
//!
//! `bson`'s own serde gives names like `$oid` the meaning of extended JSON; a payload may hold such names, so it is not
//! used here.

mod parse;
mod stringify;
mod write;

pub use parse::parse;
pub use stringify::{number, stringify, uuid};
pub use write::{Unreadable, scalar, write};
