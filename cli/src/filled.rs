//! Settings that are set must say something.
//!
//! A variable that came out empty is a mistake of a deployment, such as a secret that is missing there. Taken for one that is
//! not set, it leaves open what somebody believes is closed.

use std::{ffi::OsStr, path::PathBuf};

use anyhow::bail;
use clap::builder::{OsStringValueParser, TypedValueParser};

/// Refuses `value`, which the variable `name` or its flag gives, if it says nothing.
///
/// # Errors
/// It is empty, or nothing but space.
pub(crate) fn filled<V: AsRef<OsStr> + ?Sized>(name: &str, value: &V) -> anyhow::Result<()> {
    if value.as_ref().to_string_lossy().trim().is_empty() {
        bail!("{name} is set but empty; unset it or give it a value");
    }
    Ok(())
}

/// The same for one that may be unset.
///
/// # Errors
/// As [`filled`].
pub(crate) fn filled_if_set<V: AsRef<OsStr>>(name: &str, value: Option<V>) -> anyhow::Result<Option<V>> {
    if let Some(value) = &value {
        filled(name, value)?;
    }
    Ok(value)
}

/// The entries of a list, each without the space around it.
///
/// # Errors
/// One of them says nothing.
pub(crate) fn entries(name: &str, list: Option<Vec<String>>) -> anyhow::Result<Vec<String>> {
    let list: Vec<String> = list.unwrap_or_default().iter().map(|entry| entry.trim().to_owned()).collect();
    list.iter().try_for_each(|entry| filled(name, entry))?;
    Ok(list)
}

/// The authorities that a client trusts instead of the system's.
///
/// # Errors
/// As [`filled`].
pub(crate) fn ca_file(given: Option<&PathBuf>) -> anyhow::Result<Option<&PathBuf>> {
    filled_if_set("PROM_CA_FILE", given)
}

/// Reads the name of a file, also an empty one: clap by itself refuses that in words that do not name the variable.
pub(crate) fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Reads a switch: set, unless it says `n`, `no`, `f`, `false`, `off` or `0`.
///
/// # Errors
/// It is empty.
pub(crate) fn switch(name: &'static str) -> impl Fn(&str) -> Result<bool, String> + Clone + Send + Sync + 'static {
    move |text| {
        filled(name, text).map_err(|error| error.to_string())?;
        Ok(!["n", "no", "f", "false", "off", "0"].contains(&text.to_ascii_lowercase().as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_on_off_or_refused() {
        let switch = switch("PROM_OPS_AUTH");
        for (text, on) in [("1", true), ("true", true), ("yes", true), ("0", false), ("No", false), ("off", false)] {
            assert_eq!(switch(text), Ok(on), "{text}");
        }
        for text in ["", " "] {
            assert!(switch(text).unwrap_err().starts_with("PROM_OPS_AUTH is set but empty"));
        }
    }
}
