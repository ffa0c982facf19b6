//! What the hub counts.
//!
//! Who counts holds the handle of its series and adds once per batch, with a relaxed atomic add: no lock and no lookup
//! per event. A family keeps its first [`SERIES`] series by name; all later ones are counted together as `_other`, so
//! that names chosen by clients can fill neither the hub's memory nor Prometheus'.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prom_protocol::{CloseCode, ErrorCode, Group, Topic};

use super::{
    bounds::Bounds,
    exposition::{Escaped, head, line, single},
};

/// Most series of a family that go by their own name.
pub(crate) const SERIES: usize = 1000;

/// A number that only grows. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Counts `n` more.
    pub(crate) fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Relaxed);
        }
    }

    /// How many there were.
    pub(crate) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counters of a group in a topic.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupSeries {
    /// Events given to members.
    pub delivered: Counter,
    /// Settled by an ACK.
    pub acked: Counter,
    /// Given back by a NACK.
    pub nacked: Counter,
}

/// Series by their labels, up to [`SERIES`] of them.
#[derive(Debug)]
struct Family<K, V> {
    series: Mutex<BTreeMap<K, V>>,
    other: V,
}

impl<K, V: Default> Default for Family<K, V> {
    fn default() -> Self {
        Self { series: Mutex::default(), other: V::default() }
    }
}

impl<K: Ord, V: Clone + Default> Family<K, V> {
    fn series(&self, key: K) -> V {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if series.len() >= SERIES && !series.contains_key(&key) {
            return self.other.clone();
        }
        series.entry(key).or_default().clone()
    }

    /// Calls `each` with every series that has a name, then with the rest.
    fn each(&self, mut each: impl FnMut(Option<&K>, &V)) {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in series.iter() {
            each(Some(key), value);
        }
        if series.len() >= SERIES {
            each(None, &self.other);
        }
    }
}

/// Most bounds of a histogram.
const BOUNDS: usize = 16;

/// How values are spread over fixed bounds. Values are whole numbers of a small unit.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [u64],
    /// Units of a recorded value in one unit of the exported one: 1e6 where microseconds are exported as seconds.
    per: f64,
    buckets: [AtomicU64; BOUNDS + 1],
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [u64], per: f64) -> Self {
        assert!(bounds.len() <= BOUNDS, "{} bounds are more than {BOUNDS}", bounds.len());
        Self { bounds, per, buckets: Default::default(), sum: AtomicU64::new(0) }
    }

    /// Counts values: one atomic add for each bucket that any of them falls into, and one for all.
    pub(crate) fn record(&self, values: impl IntoIterator<Item = u64>) {
        let mut counts = [0_u64; BOUNDS + 1];
        let (mut sum, mut any) = (0_u64, false);
        for value in values {
            counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
            sum = sum.saturating_add(value);
            any = true;
        }
        if any {
            self.sum.fetch_add(sum, Relaxed);
            for (bucket, count) in self.buckets.iter().zip(counts).filter(|(_, count)| *count > 0) {
                bucket.fetch_add(count, Relaxed);
            }
        }
    }

    fn render(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, "histogram", help);
        let mut count = 0;
        for (bound, bucket) in self.bounds.iter().zip(&self.buckets) {
            count += bucket.load(Relaxed);
            line(out, format_args!("{name}_bucket{{le=\"{}\"}} {count}", *bound as f64 / self.per));
        }
        count += self.buckets[self.bounds.len()].load(Relaxed);
        line(out, format_args!("{name}_bucket{{le=\"+Inf\"}} {count}"));
        line(out, format_args!("{name}_sum {}", self.sum.load(Relaxed) as f64 / self.per));
        line(out, format_args!("{name}_count {count}"));
    }
}

/// Everything a hub counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    published: Family<Topic, Counter>,
    groups: Family<(Topic, Group), GroupSeries>,
    /// Deliveries that were not an event's first to its group.
    pub redelivered: Counter,
    /// Events leased to members now: a wrapping sum of differences, so it may be below 0 for a moment.
    in_flight: AtomicU64,
    /// From an event's `ts` to its first delivery to a group being written, in milliseconds.
    pub latency: Histogram,
    /// How long commits took, in microseconds.
    commit_time: Histogram,
    /// Events of a commit.
    commit_events: Histogram,
    /// Events passed over by readers without a group because they cannot be read, each time.
    pub damaged: Counter,
    /// By index in [`ErrorCode::ALL`].
    refused: Box<[Counter]>,
    /// Tokens, likewise.
    auth_refused: Box<[Counter]>,
    /// By index in [`CloseCode::ALL`].
    closed: Box<[Counter]>,
    /// Limits that were reached; shown with what subjects and addresses wanted beyond their share.
    pub bounds: Bounds,
}

impl Default for Metrics {
    fn default() -> Self {
        const MS: &[u64] = &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 600_000];
        const US: &[u64] = &[
            50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 102_400, 409_600, 1_638_400, 6_553_600,
        ];
        const EVENTS: &[u64] = &[0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];
        Self {
            published: Family::default(),
            groups: Family::default(),
            redelivered: Counter::default(),
            in_flight: AtomicU64::new(0),
            latency: Histogram::new(MS, 1.0),
            commit_time: Histogram::new(US, 1e6),
            commit_events: Histogram::new(EVENTS, 1.0),
            damaged: Counter::default(),
            refused: ErrorCode::ALL.iter().map(|_| Counter::default()).collect(),
            auth_refused: ErrorCode::ALL.iter().map(|_| Counter::default()).collect(),
            closed: CloseCode::ALL.iter().map(|_| Counter::default()).collect(),
            bounds: Bounds::default(),
        }
    }
}

/// What [`Metrics::render`] shows beside what was counted.
#[derive(Debug)]
pub(crate) struct Now<'a> {
    /// The sockets of each port.
    pub sockets: &'a [OfPort<'a>],
    /// WebSocket connections.
    pub connections: usize,
    /// The store's name.
    pub store: &'a str,
    /// The store's durability.
    pub durability: &'a str,
    /// The store refuses events for want of room.
    pub full: bool,
}

/// The sockets of a port.
#[derive(Debug)]
pub(crate) struct OfPort<'a> {
    /// Its name.
    pub port: &'a str,
    /// How many there are.
    pub open: usize,
    /// How many the hub refused or closed, by its reason.
    pub cut: &'a [(&'a str, u64)],
}

impl Metrics {
    /// Counts the events published to a topic.
    pub(crate) fn published(&self, topic: &Topic) -> Counter {
        self.published.series(topic.clone())
    }

    /// Counts what a group does in a topic.
    pub(crate) fn group(&self, topic: &Topic, group: &Group) -> GroupSeries {
        self.groups.series((topic.clone(), group.clone()))
    }

    /// Counts a commit.
    pub(crate) fn committed(&self, events: usize, took: Duration) {
        self.commit_time.record([u64::try_from(took.as_micros()).unwrap_or(u64::MAX)]);
        self.commit_events.record([events as u64]);
    }

    /// Counts a publish that was refused.
    pub(crate) fn refused(&self, code: ErrorCode) {
        count(&self.refused, ErrorCode::ALL, code);
    }

    /// Counts a token that was refused.
    pub(crate) fn auth_refused(&self, code: ErrorCode) {
        count(&self.auth_refused, ErrorCode::ALL, code);
    }

    /// Counts a WebSocket that the hub closed.
    pub(crate) fn closed(&self, code: CloseCode) {
        count(&self.closed, CloseCode::ALL, code);
    }

    /// A group that had `before` events in flight has `now`.
    pub(crate) fn in_flight(&self, before: usize, now: usize) {
        if before != now {
            self.in_flight.fetch_add((now as u64).wrapping_sub(before as u64), Relaxed);
        }
    }

    /// All of it in Prometheus' text format, version 0.0.4.
    pub(crate) fn render(&self, now: &Now<'_>) -> String {
        let mut out = String::with_capacity(16 * 1024);
        let o = &mut out;
        head(o, "prom_build_info", "gauge", "The hub's version, its store and what committed means there.");
        let version = env!("CARGO_PKG_VERSION");
        let (store, durability) = (Escaped(now.store), Escaped(now.durability));
        line(
            o,
            format_args!("prom_build_info{{version=\"{version}\",store=\"{store}\",durability=\"{durability}\"}} 1"),
        );
        single(o, "store_full", "gauge", "1 while the store refuses events for want of room.", u64::from(now.full));
        head(o, "events_published_total", "counter", "Events committed, duplicates not counted.");
        self.published.each(|topic, counter| {
            let topic = topic.map_or("_other", Topic::as_str);
            line(o, format_args!("events_published_total{{topic=\"{topic}\"}} {}", counter.value()));
        });
        self.render_groups(o, "events_delivered_total", "Events given to members of groups, each time.", |own| {
            &own.delivered
        });
        self.render_groups(o, "events_acked_total", "Events settled by an ACK.", |own| &own.acked);
        self.render_groups(o, "events_nacked_total", "Events given back by a NACK.", |own| &own.nacked);
        single(o, "events_redelivered_total", "counter", "Deliveries after the first.", self.redelivered.value());
        single(o, "ws_connections", "gauge", "WebSocket connections.", now.connections as u64);
        head(o, "ws_closed_total", "counter", "WebSockets that the hub closed, by the code of the close frame.");
        for (code, counter) in CloseCode::ALL.iter().zip(&self.closed).filter(|(_, counter)| counter.value() > 0) {
            line(o, format_args!("ws_closed_total{{code=\"{}\"}} {}", code.code(), counter.value()));
        }
        head(o, "sockets_open", "gauge", "Sockets, whatever they speak.");
        for OfPort { port, open, .. } in now.sockets {
            line(o, format_args!("sockets_open{{port=\"{port}\"}} {open}"));
        }
        head(o, "sockets_cut_total", "counter", "Sockets that were refused, or closed although nobody asked for it.");
        for OfPort { port, cut, .. } in now.sockets {
            for (reason, count) in cut.iter().filter(|(_, count)| *count > 0) {
                line(o, format_args!("sockets_cut_total{{port=\"{port}\",reason=\"{reason}\"}} {count}"));
            }
        }
        let in_flight = self.in_flight.load(Relaxed).cast_signed().max(0).cast_unsigned();
        single(o, "ws_inflight", "gauge", "Events leased to members and not settled.", in_flight);
        self.latency.render(
            o,
            "delivery_latency_ms",
            "From an event's ts to its first delivery to a group being written, in milliseconds.",
        );
        self.commit_time.render(o, "commit_seconds", "How long the store took for a commit.");
        self.commit_events.render(o, "commit_events", "Events of a commit.");
        let help = "Damaged events that live subscriptions and watches passed over, each time.";
        single(o, "events_damaged_total", "counter", help, self.damaged.value());
        for (name, help, counters) in [
            ("publish_refused_total", "Publishes that were refused, by the code of the answer.", &self.refused),
            ("auth_refused_total", "Tokens that were refused, by the code of the answer.", &self.auth_refused),
        ] {
            head(o, name, "counter", help);
            for (code, counter) in ErrorCode::ALL.iter().zip(counters).filter(|(_, counter)| counter.value() > 0) {
                line(o, format_args!("{name}{{code=\"{code}\"}} {}", counter.value()));
            }
        }
        out
    }

    fn render_groups(&self, out: &mut String, name: &str, help: &str, counter: impl Fn(&GroupSeries) -> &Counter) {
        head(out, name, "counter", help);
        self.groups.each(|key, series| {
            let (topic, group) = key.map_or(("_other", "_other"), |(topic, group)| (topic.as_str(), group.as_str()));
            line(out, format_args!("{name}{{topic=\"{topic}\",group=\"{group}\"}} {}", counter(series).value()));
        });
    }
}

/// One more at the index of `code` in `all`.
fn count<C: PartialEq + Copy>(counters: &[Counter], all: &[C], code: C) {
    if let Some(index) = all.iter().position(|own| *own == code) {
        counters[index].add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now<'_> = Now { sockets: &[], connections: 3, store: "memory", durability: "say \"none\"", full: false };

    #[test]
    fn names_beyond_the_cap_are_counted_together() {
        let metrics = Metrics::default();
        for i in 0..SERIES + 50 {
            metrics.published(&Topic::new(&format!("t{i}")).unwrap()).add(2);
        }
        metrics.published(&Topic::new("t3").unwrap()).add(1);
        let text = metrics.render(&NOW);
        assert!(text.contains("events_published_total{topic=\"t3\"} 3\n"));
        assert!(text.contains("events_published_total{topic=\"_other\"} 100\n"));
        assert_eq!(text.lines().filter(|line| line.starts_with("events_published_total{")).count(), SERIES + 1);
    }

    #[test]
    fn a_histogram_counts_each_value_at_its_bound_and_above() {
        let metrics = Metrics::default();
        metrics.latency.record([0, 1, 2, 3, 1_000_000]);
        metrics.committed(7, Duration::from_micros(150));
        let text = metrics.render(&NOW);
        for expected in [
            "delivery_latency_ms_bucket{le=\"1\"} 2\n",
            "delivery_latency_ms_bucket{le=\"2\"} 3\n",
            "delivery_latency_ms_bucket{le=\"5\"} 4\n",
            "delivery_latency_ms_bucket{le=\"600000\"} 4\n",
            "delivery_latency_ms_bucket{le=\"+Inf\"} 5\n",
            "delivery_latency_ms_sum 1000006\n",
            "delivery_latency_ms_count 5\n",
            "commit_seconds_bucket{le=\"0.0002\"} 1\n",
            "commit_events_bucket{le=\"4\"} 0\n",
            "commit_events_bucket{le=\"8\"} 1\n",
            "durability=\"say \\\"none\\\"\"} 1\n",
            "ws_connections 3\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_in_flight_goes_up_and_down() {
        let metrics = Metrics::default();
        metrics.in_flight(0, 5);
        metrics.in_flight(5, 2);
        assert!(metrics.render(&NOW).contains("ws_inflight 2\n"));
        metrics.in_flight(2, 0);
        assert!(metrics.render(&NOW).contains("ws_inflight 0\n"));
    }
}
