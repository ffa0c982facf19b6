//! The metrics of identity providers' key sets.

use crate::{
    auth::KeySetFigures,
    flow::exposition::{Escaped, head, line},
};

/// Appends them, if there are key sets.
pub(super) fn render(out: &mut String, key_sets: &[KeySetFigures]) {
    if key_sets.is_empty() {
        return;
    }
    let labelled = || {
        key_sets.iter().map(|own| (format!("set=\"{}\",issuer=\"{}\"", Escaped(&own.set), Escaped(&own.issuer)), own))
    };
    head(out, "key_set_reads_total", "counter", "Reads of identity providers' key sets, by how they went.");
    for (labels, KeySetFigures { read, failed, .. }) in labelled() {
        line(out, format_args!("key_set_reads_total{{{labels},result=\"ok\"}} {read}"));
        line(out, format_args!("key_set_reads_total{{{labels},result=\"failed\"}} {failed}"));
    }
    head(out, "key_set_keys", "gauge", "Keys in use of an identity provider's key set.");
    for (labels, KeySetFigures { keys, .. }) in labelled() {
        line(out, format_args!("key_set_keys{{{labels}}} {keys}"));
    }
    head(out, "key_set_age_seconds", "gauge", "Since the key set in use was read; absent before the first time.");
    for (labels, KeySetFigures { age, .. }) in labelled() {
        if let Some(age) = age {
            line(out, format_args!("key_set_age_seconds{{{labels}}} {age}"));
        }
    }
}
