//! The metrics of identity providers' key sets.

use crate::{
    auth::Figures,
    flow::exposition::{Escaped, head, line},
};

/// Appends them, if there are key sets.
pub(super) fn render(out: &mut String, key_sets: &[Figures]) {
    if key_sets.is_empty() {
        return;
    }
    head(out, "key_set_reads_total", "counter", "Reads of identity providers' key sets, by how they went.");
    for Figures { set, read, failed, .. } in key_sets {
        for (result, reads) in [("ok", read), ("failed", failed)] {
            let set = Escaped(set);
            line(out, format_args!("key_set_reads_total{{set=\"{set}\",result=\"{result}\"}} {reads}"));
        }
    }
    head(out, "key_set_keys", "gauge", "Keys in use of an identity provider's key set.");
    for Figures { set, keys, .. } in key_sets {
        line(out, format_args!("key_set_keys{{set=\"{}\"}} {keys}", Escaped(set)));
    }
    head(out, "key_set_age_seconds", "gauge", "Since the key set in use was read; absent before the first time.");
    for Figures { set, age, .. } in key_sets {
        if let Some(age) = age {
            line(out, format_args!("key_set_age_seconds{{set=\"{}\"}} {age}", Escaped(set)));
        }
    }
}
