//! Metrics of what is revoked.

use crate::{
    auth::Told,
    flow::exposition::{head, line, single},
};

/// Appends the metrics, if tokens can be revoked.
pub(super) fn render(out: &mut String, told: Option<Told>) {
    let Some(Told { entries, loaded, failed, broken, ended }) = told else { return };
    single(out, "revocations", "gauge", "Entries that tokens are held against.", entries as u64);
    head(out, "revocations_reloads_total", "counter", "Changes of REVOCATIONS_FILE, by how they went.");
    line(out, format_args!("revocations_reloads_total{{result=\"ok\"}} {loaded}"));
    line(out, format_args!("revocations_reloads_total{{result=\"failed\"}} {failed}"));
    let help = "1: REVOCATIONS_FILE cannot be used, and what it said before counts.";
    single(out, "revocations_file_broken", "gauge", help, broken.into());
    let help = "Connections and streams that were ended because their token was revoked.";
    single(out, "revoked_ended_total", "counter", help, ended);
}
