//! The readers of what strangers send, for `fuzz/targets`: those that are not public are called from here. No part of the
//! hub uses it, and nobody else should.

use std::ops::RangeInclusive;

use axum::http::{HeaderMap, HeaderValue, Uri, header};
use prom_protocol::{StartFrom, Topic};

pub use crate::auth::fuzzing::{Accepted, Tokens, key_set, signed};
use crate::{
    http::position,
    ops::is_local_name,
    web::{Params, bearer},
};

/// The parameters of a request, read as the routes read them.
#[derive(Debug)]
pub struct Query(Uri);

impl Query {
    /// Of what stands behind the `?`; none: no server reads that as part of a URI.
    pub fn new(query: &str) -> Option<Self> {
        format!("/replay?{query}").parse().ok().map(Self)
    }

    /// One parameter as text.
    ///
    /// # Errors
    /// The message for people.
    pub fn value(&self, name: &str) -> Result<Option<String>, String> {
        let value = Params::of(&self.0).value(name).map(|value| value.map(str::to_owned));
        value.map_err(|failure| failure.message().to_owned())
    }

    /// One parameter as a number.
    ///
    /// # Errors
    /// The message for people.
    pub fn integer(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, String> {
        Params::of(&self.0).integer(name, range).map_err(|failure| failure.message().to_owned())
    }

    /// One parameter as yes or no.
    ///
    /// # Errors
    /// The message for people.
    pub fn flag(&self, name: &str) -> Result<bool, String> {
        Params::of(&self.0).flag(name).map_err(|failure| failure.message().to_owned())
    }

    /// The parameter `topic`, which must be there.
    ///
    /// # Errors
    /// The message for people.
    pub fn topic(&self) -> Result<Topic, String> {
        Params::of(&self.0).topic().map_err(|failure| failure.message().to_owned())
    }

    /// Where a reader wants to start.
    ///
    /// # Errors
    /// The message for people.
    pub fn start(&self) -> Result<StartFrom, String> {
        position::from(&Params::of(&self.0)).map_err(|failure| failure.message().to_owned())
    }
}

/// The token in a header `Authorization`; none: no server reads that as a header's value.
///
/// # Errors
/// The message for people.
pub fn token_in(value: &[u8]) -> Option<Result<String, String>> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_bytes(value).ok()?);
    Some(bearer(&headers, "").map(str::to_owned).map_err(|refused| refused.message().to_owned()))
}

/// Whether a header `Host` names this machine.
pub fn is_local(host: &str) -> bool {
    is_local_name(host)
}
