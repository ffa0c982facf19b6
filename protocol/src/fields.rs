//! One JSON object of a frame, its fields kept as raw slices until somebody asks for them by name and type.
//!
//! A field nobody asks for is never looked into, so unknown fields are ignored whatever they hold; a field of the wrong
//! type is an error that names it. `null` counts as absent, as JavaScript callers expect.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

use crate::{Refusal, Text};

/// A struct of the fields that are listed, each with its name on the wire and a raw slice of the frame.
macro_rules! raw_fields {
    ($(#[$meta:meta])* $name:ident { $($field:ident = $wire:expr,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Default, Clone, Copy)]
        pub(crate) struct $name<'a> { $(pub(crate) $field: $crate::fields::Field<'a>,)+ }

        impl<'de: 'a, 'a> serde::Deserialize<'de> for $name<'a> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = $name<'de>;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        let mut fields = $name::default();
                        while let Some(name) = map.next_key::<$crate::Text<'de>>()? {
                            match name.as_str() {
                                $(wire if wire == $wire => fields.$field.fill($wire, map.next_value()?).map_err(serde::de::Error::custom)?,)+
                                _ => { map.next_value::<serde::de::IgnoredAny>()?; }
                            }
                        }
                        Ok(fields)
                    }
                }

                deserializer.deserialize_map(Visitor)
            }
        }
    };
}
pub(crate) use raw_fields;

/// One field: its raw JSON, if the object has it and it is not `null`.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Field<'a> {
    raw: Option<&'a RawValue>,
    seen: bool,
}

impl<'a> Field<'a> {
    /// Takes the field's value. Two fields of one name are refused: which of them counts differs between readers.
    pub(crate) fn fill(&mut self, name: &str, raw: &'a RawValue) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.seen, true) {
            return Err(Refusal::bad_frame(format!("{name} is given twice")));
        }
        self.raw = (raw.get() != "null").then_some(raw);
        Ok(())
    }

    /// The raw value; `null` counts as absent.
    pub(crate) fn raw(self) -> Option<&'a RawValue> {
        self.raw
    }

    /// The raw value, `null` too.
    pub(crate) fn raw_or_null(self) -> Option<&'a RawValue> {
        self.raw.or(self.seen.then_some(RawValue::NULL))
    }

    /// The value as a `T`; `expected` completes "`name` must be …".
    pub(crate) fn parse<T: Deserialize<'a>>(
        self,
        name: &str,
        expected: impl fmt::Display,
    ) -> Result<Option<T>, Refusal> {
        let Some(raw) = self.raw else { return Ok(None) };
        match T::deserialize(&mut serde_json::Deserializer::from_str(raw.get())) {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Refusal::bad_frame(format!("{name} must be {expected}"))),
        }
    }

    /// A string.
    pub(crate) fn text(self, name: &str) -> Result<Option<Text<'a>>, Refusal> {
        // Most strings hold no escape: what stands between the quotes is the string.
        if let Some(inner) = self.raw.and_then(|raw| raw.get().strip_prefix('"')?.strip_suffix('"'))
            && !inner.contains('\\')
        {
            return Ok(Some(Text::from(inner)));
        }
        self.parse(name, "a string")
    }

    /// A string that must be there.
    pub(crate) fn required(self, name: &str) -> Result<Text<'a>, Refusal> {
        self.text(name)?.ok_or_else(|| Refusal::bad_frame(format!("{name} is required")))
    }

    /// A string of 1 to `max` bytes without control characters.
    pub(crate) fn bounded(self, name: &str, max: usize) -> Result<Option<Text<'a>>, Refusal> {
        let text = self.text(name)?;
        if let Some(text) = &text {
            check_text(name, text, max)?;
        }
        Ok(text)
    }

    /// An integer within `range`.
    pub(crate) fn integer(self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, Refusal> {
        let value = self.parse::<u64>(name, format_args!("an integer from {} to {}", range.start(), range.end()))?;
        if let Some(value) = value {
            check_integer(name, value, range)?;
        }
        Ok(value)
    }

    /// `true` or `false`; absent is `false`.
    pub(crate) fn flag(self, name: &str) -> Result<bool, Refusal> {
        Ok(self.parse(name, "true or false")?.unwrap_or(false))
    }

    /// The same as [`Self::list`]; one string is a list of one.
    pub(crate) fn one_or_list(self, name: &str, entries: usize, bytes: usize) -> Result<Vec<Text<'a>>, Refusal> {
        let one = self.raw.is_some_and(|raw| raw.get().starts_with('"'));
        if one {
            return Ok(self.bounded(name, bytes)?.into_iter().collect());
        }
        let list: Vec<Text<'a>> = self.parse(name, "a string or a list of strings")?.unwrap_or_default();
        check_list(name, &list, entries, bytes)?;
        Ok(list)
    }

    /// A list of at most `entries` strings of 1 to `bytes` bytes each.
    pub(crate) fn list(self, name: &str, entries: usize, bytes: usize) -> Result<Vec<Text<'a>>, Refusal> {
        let list: Vec<Text<'a>> = self.parse(name, "a list of strings")?.unwrap_or_default();
        check_list(name, &list, entries, bytes)?;
        Ok(list)
    }
}

/// Refuses an integer outside of `range`.
pub(crate) fn check_integer(name: &str, value: u64, range: std::ops::RangeInclusive<u64>) -> Result<(), Refusal> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Refusal::bad_frame(format!("{name} must be an integer from {} to {}", range.start(), range.end())))
}

/// Refuses more than so many entries, and an entry that [`check_text`] refuses.
pub(crate) fn check_list(name: &str, list: &[Text<'_>], entries: usize, bytes: usize) -> Result<(), Refusal> {
    if list.len() > entries {
        return Err(Refusal::bad_frame(format!("{name} may hold at most {entries} strings")));
    }
    for text in list {
        // The words are put together only where they are needed: this is done for every event.
        check_text(name, text, bytes).or_else(|_| check_text(&format!("an entry of {name}"), text, bytes))?;
    }
    Ok(())
}

/// Refuses an empty string, one over `max` bytes, and control characters, which no store and no log line wants.
pub(crate) fn check_text(name: &str, text: &str, max: usize) -> Result<(), Refusal> {
    if text.is_empty() || text.len() > max {
        return Err(Refusal::bad_frame(format!("{name} must be 1 to {max} bytes")));
    }
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err(Refusal::bad_frame(format!("{name} must not hold control characters")));
    }
    Ok(())
}

/// An object whose values are strings, in the order it was written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct TextMap<'a>(pub(crate) Vec<(Text<'a>, Text<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for TextMap<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = TextMap<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries: Vec<(Text<'de>, Text<'de>)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<Text<'de>, Text<'de>>()? {
                    // Bounded here, before the check for repeats makes a long list expensive.
                    if entries.len() > crate::limits::FILTER_ENTRIES || entries.iter().any(|(n, _)| *n == name) {
                        return Err(de::Error::custom("too many or repeated names"));
                    }
                    entries.push((name, value));
                }
                Ok(TextMap(entries))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}
