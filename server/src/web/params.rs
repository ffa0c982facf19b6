//! The parameters of a request's query.

use std::{borrow::Cow, ops::RangeInclusive};

use axum::http::Uri;
use prom_protocol::Topic;

use super::failure::Failure;

/// Most parameters that are looked at.
const MAX: usize = 64;

/// The parameters of a query. Unknown ones are ignored; one that is empty counts as absent.
#[derive(Debug)]
pub(crate) struct Params<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>, bool);

impl<'a> Params<'a> {
    pub(crate) fn of(uri: &'a Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        let pairs = form_urlencoded::parse(query.as_bytes()).filter(|(_, value)| !value.is_empty()).take(MAX).collect();
        Self(pairs, is_text(query))
    }

    /// The value of `name`. Given twice it is refused: which of the two counts would be a guess.
    pub(crate) fn value(&self, name: &str) -> Result<Option<&str>, Failure> {
        // Parsed anyway, what is no text becomes replacement characters, and different ids the same one.
        if !self.1 {
            return Err(Failure::bad("the query is not UTF-8"));
        }
        let mut values = self.0.iter().filter(|(own, _)| own == name).map(|(_, value)| &**value);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(Failure::bad(format!("{name} is given twice"))),
        }
    }

    pub(crate) fn required(&self, name: &str) -> Result<&str, Failure> {
        self.value(name)?.ok_or_else(|| Failure::bad(format!("{name} required")))
    }

    /// Two that a request makes no sense without.
    pub(crate) fn both(&self, one: &str, other: &str) -> Result<(&str, &str), Failure> {
        let missing = || Failure::bad(format!("{one} and {other} required"));
        Ok((self.value(one)?.ok_or_else(missing)?, self.value(other)?.ok_or_else(missing)?))
    }

    pub(crate) fn topic(&self) -> Result<Topic, Failure> {
        Ok(Topic::new(self.required("topic")?)?)
    }

    pub(crate) fn integer(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Failure> {
        let Some(value) = self.value(name)? else { return Ok(None) };
        match value.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(Failure::bad(format!("{name} must be an integer from {} to {}", range.start(), range.end()))),
        }
    }

    /// `1` or `true`, `0` or `false`; absent is `false`.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.value(name)? {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(_) => Err(Failure::bad(format!("{name} must be 0 or 1"))),
        }
    }
}

/// Whether a query is UTF-8 once its escapes are decoded.
fn is_text(query: &str) -> bool {
    let (mut bytes, mut rest) = (Vec::with_capacity(query.len()), query.as_bytes());
    while let [first, after @ ..] = rest {
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    std::str::from_utf8(&bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_is_no_text_is_refused() {
        // Two ids that were no text became one, and the second event was taken for a duplicate of the first.
        for query in ["id=%FE", "id=%ff&key=a", "%C3=1", "id=%E2%82"] {
            let uri: Uri = format!("/publish/t?{query}").parse().unwrap();
            assert!(Params::of(&uri).value("id").is_err(), "{query}");
        }
        for (query, id) in
            [("id=%C3%BC", "ü"), ("id=a%20b+c", "a b c"), ("id=100%", "100%"), ("id=%zz", "%zz"), ("id=ab", "ab")]
        {
            let uri: Uri = format!("/publish/t?{query}").parse().unwrap();
            assert_eq!(Params::of(&uri).value("id").ok().flatten(), Some(id), "{query}");
        }
    }
}
