//! Outboxes as Prometheus reads them.

use prom_outbox::{Stats, Tally};

use crate::{
    flow::exposition::{Escaped, head, line},
    members::outbox::Report,
};

/// A metric's name, its help, and its value.
type Series<T> = (&'static str, &'static str, fn(&T) -> u64);

/// How outboxes are doing, and what this hub has drained from them. One that does not answer has no gauges.
pub(super) fn render(out: &mut String, outboxes: &[Report<'_>]) {
    if outboxes.is_empty() {
        return;
    }
    let stats = || outboxes.iter().filter_map(|outbox| Some((Escaped(outbox.name), outbox.stats.as_ref()?)));
    head(out, "outbox_rows", "gauge", "Rows of an outbox, by status; sent ones may be an estimate.");
    for (name, stats) in stats() {
        for (status, rows) in
            [("pending", stats.pending), ("claimed", stats.claimed), ("sent", stats.sent), ("error", stats.error)]
        {
            line(out, format_args!("outbox_rows{{outbox=\"{name}\",status=\"{status}\"}} {rows}"));
        }
    }
    let gauges: [Series<Stats>; 3] = [
        ("outbox_stuck_rows", "Rows that a drainer claimed and whose lease ran out.", |stats| stats.stuck),
        ("outbox_oldest_pending_ms", "Age of the oldest pending row.", |stats| stats.oldest_pending_ms.unwrap_or(0)),
        ("outbox_lag_ms", "Age of the oldest row that is neither published nor parked.", |stats| stats.lag_ms),
    ];
    for (metric, help, value) in gauges {
        head(out, metric, "gauge", help);
        for (name, stats) in stats() {
            line(out, format_args!("{metric}{{outbox=\"{name}\"}} {}", value(stats)));
        }
    }
    let counters: [Series<Tally>; 5] = [
        ("outbox_published_total", "Rows this hub published, duplicates included.", |tally| tally.published),
        ("outbox_duplicates_total", "Of these: those whose event was there.", |tally| tally.duplicates),
        (
            "outbox_unexpected_duplicates_total",
            "Of these: those of rows never claimed before; their ids may be those of other events.",
            |tally| tally.unexpected,
        ),
        ("outbox_retried_total", "Tries that failed and are made again.", |tally| tally.retried),
        ("outbox_parked_total", "Rows this hub parked.", |tally| tally.parked),
    ];
    for (metric, help, value) in counters {
        head(out, metric, "counter", help);
        for outbox in outboxes {
            line(out, format_args!("{metric}{{outbox=\"{}\"}} {}", Escaped(outbox.name), value(&outbox.drainer)));
        }
    }
}
