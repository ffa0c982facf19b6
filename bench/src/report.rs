//! What was measured: a table for people, JSON for machines.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::Value;

use crate::{Findings, HubInfo, Pids, Scenario, process};

/// Times at some percentiles, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of them were at most this long.
    pub p50: f64,
    /// Nine in ten were at most this long.
    pub p90: f64,
    /// 99 in a hundred were at most this long.
    pub p99: f64,
    /// 999 in a thousand were at most this long.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl Percentiles {
    /// The percentiles of a histogram of nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let ms = |nanos: u64| nanos as f64 / 1e6;
        let at = |quantile| ms(histogram.value_at_quantile(quantile));
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: ms(histogram.max()) }
    }
}

/// Result of `latency`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    /// From when the publish was due to its OK.
    pub published: Percentiles,
    /// From when the publish was due to the delivery of its event.
    pub delivered: Percentiles,
}

/// Result of `idle`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Idle {
    /// Growth of the hub's memory for each, in kB; none when its process is not known.
    pub kb_per_connection: Option<f64>,
}

/// Result of `outbox` with rows written at a rate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outbox {
    /// Time of the transaction that wrote a row: from its begin to the answer to its commit.
    pub transaction: Percentiles,
    /// From when a row was due to be written to the delivery of its event.
    pub delivered: Percentiles,
}

/// One measurement, or the median one of several.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Name of the scenario, as on the command line.
    pub scenario: &'static str,
    /// Options of the scenario, for people.
    pub title: String,
    /// Options of the scenario, for machines.
    pub parameters: Value,
    /// How many publishes, deliveries or connections were measured.
    pub events: u64,
    /// Time the measurement took, in seconds.
    pub seconds: f64,
    /// Events a second; none for idle connections.
    pub rate: Option<f64>,
    /// The hub's processor seconds per million events; none when its process is not known.
    pub hub_cpu_seconds_per_million: Option<f64>,
    /// Processor seconds of the hub's MongoDB server per million events; none when its process is not known.
    pub mongod_cpu_seconds_per_million: Option<f64>,
    /// The bench's own, in the same unit.
    pub generator_cpu_seconds_per_million: Option<f64>,
    /// The hub's memory at the end, in kB.
    pub hub_rss_kb: Option<u64>,
    /// The hub's highest memory since it started, in kB.
    pub hub_peak_rss_kb: Option<u64>,
    /// Events delivered again, because a lease ended before its ACK came.
    pub redelivered: u64,
    /// Only of `latency`.
    pub latency: Option<Latency>,
    /// Only of `idle`.
    pub idle: Option<Idle>,
    /// Only of `outbox` at a rate.
    pub outbox: Option<Outbox>,
    /// What the hub did wrong, in all runs.
    pub findings: Findings,
    /// The figure of every run: the rate, the p99 of deliveries in ms, or kB a connection.
    pub runs: Vec<f64>,
    /// Why there is no figure.
    pub error: Option<String>,
}

impl Row {
    /// A row without a figure.
    pub fn failed(scenario: &Scenario, error: String) -> Self {
        let row = Self {
            scenario: "",
            title: String::new(),
            parameters: Value::Null,
            events: 0,
            seconds: 0.0,
            rate: None,
            hub_cpu_seconds_per_million: None,
            mongod_cpu_seconds_per_million: None,
            generator_cpu_seconds_per_million: None,
            hub_rss_kb: None,
            hub_peak_rss_kb: None,
            redelivered: 0,
            latency: None,
            idle: None,
            outbox: None,
            findings: Findings::default(),
            runs: Vec::new(),
            error: Some(error),
        };
        row.named(scenario)
    }

    pub(crate) fn named(mut self, scenario: &Scenario) -> Self {
        self.scenario = scenario.name();
        self.title = scenario.title();
        self.parameters = scenario.parameters();
        self.runs.extend(self.figure());
        self
    }

    fn figure(&self) -> Option<f64> {
        match (&self.latency, &self.outbox, &self.idle) {
            (Some(Latency { delivered, .. }), ..) | (_, Some(Outbox { delivered, .. }), _) => Some(delivered.p99),
            (.., Some(idle)) => idle.kb_per_connection,
            _ => self.rate,
        }
    }

    /// The median of several runs of one scenario, with what was found in any of them. `None` of none.
    pub fn median(mut rows: Vec<Self>) -> Option<Self> {
        let runs = rows.iter().flat_map(|row| row.runs.iter().copied()).collect();
        rows.sort_by(|a, b| a.figure().unwrap_or(0.0).total_cmp(&b.figure().unwrap_or(0.0)));
        if rows.is_empty() {
            return None;
        }
        let mut median = rows.remove((rows.len() - 1) / 2);
        median.runs = runs;
        for row in rows {
            median.findings.merge(row.findings);
        }
        Some(median)
    }

    /// Whether there is a figure and nothing was found wrong.
    pub fn is_good(&self) -> bool {
        self.error.is_none() && self.findings.is_clean()
    }

    fn cells(&self) -> [String; 8] {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let mb = |kb: Option<u64>| or_dash(kb.map(|kb| format!("{:.0}", kb as f64 / 1024.0)));
        let cpu = |seconds: Option<f64>| or_dash(seconds.filter(|_| self.rate.is_some()).map(|s| format!("{s:.2}")));
        [
            self.scenario.into(),
            self.title.clone(),
            or_dash(self.rate.map(|rate| thousands(rate as u64))),
            cpu(self.hub_cpu_seconds_per_million),
            cpu(self.generator_cpu_seconds_per_million),
            mb(self.hub_rss_kb),
            mb(self.hub_peak_rss_kb),
            self.notes(),
        ]
    }

    fn notes(&self) -> String {
        let mut notes = Vec::new();
        let latency = self.latency.as_ref().map(|latency| [("OK", latency.published), ("delivery", latency.delivered)]);
        let outbox = self.outbox.as_ref();
        let outbox = outbox.map(|outbox| [("transaction", outbox.transaction), ("delivery", outbox.delivered)]);
        for (what, Percentiles { p50, p90, p99, p999, max }) in latency.into_iter().chain(outbox).flatten() {
            notes.push(format!("{what} p50 {p50:.2} p90 {p90:.2} p99 {p99:.2} p99.9 {p999:.2} max {max:.2} ms"));
        }
        if let Some(Idle { kb_per_connection }) = &self.idle {
            notes.push(match kb_per_connection {
                Some(kb) => format!("{kb:.1} kB a connection"),
                None => "the hub's process is not known".into(),
            });
        }
        if let Some(seconds) = self.mongod_cpu_seconds_per_million.filter(|_| self.rate.is_some()) {
            notes.push(format!("mongod CPU {seconds:.2} s/M"));
        }
        if self.redelivered > 0 {
            notes.push(format!("{} redelivered", self.redelivered));
        }
        if self.runs.len() > 1 {
            notes.push(format!("median of {}", self.runs.len()));
        }
        let Findings { lost, doubled, out_of_order, wrong, .. } = &self.findings;
        for (count, what) in [(lost, "LOST"), (doubled, "DOUBLED"), (out_of_order, "OUT OF ORDER"), (wrong, "WRONG")] {
            if *count > 0 {
                notes.push(format!("{what} {count}"));
            }
        }
        if self.error.is_some() {
            notes.push("FAILED".into());
        }
        notes.join("; ")
    }
}

/// The machine that hub and generator share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Cores this process may use.
    pub cores: usize,
    /// Operating system, as Rust names it: `linux`.
    pub os: &'static str,
    /// Processor architecture, as Rust names it: `x86_64`.
    pub arch: &'static str,
}

impl Machine {
    /// The machine this process runs on.
    pub fn this() -> Self {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        Self { cores, os: std::env::consts::OS, arch: std::env::consts::ARCH }
    }
}

/// All that was measured of one hub.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The hub that was measured.
    pub hub: HubInfo,
    /// The machine that hub and generator ran on.
    pub machine: Machine,
    /// One row for each scenario, in the order they ran.
    pub rows: Vec<Row>,
}

impl Report {
    /// Whether every row is good.
    pub fn is_good(&self) -> bool {
        self.rows.iter().all(Row::is_good)
    }

    /// The table for people, ending in a newline.
    pub fn table(&self) -> String {
        const HEAD: [&str; 8] =
            ["scenario", "options", "per second", "hub CPU s/M", "bench CPU s/M", "RSS MB", "peak MB", ""];
        let HubInfo { version, store, durability, .. } = &self.hub;
        let Machine { cores, os, arch } = &self.machine;
        let mut out = format!("hub {version}, store {store}, durability {durability}; {cores} cores, {os} {arch}\n\n");
        let mut lines = vec![HEAD.map(String::from)];
        lines.extend(self.rows.iter().map(Row::cells));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        for line in &lines {
            let mut text = String::new();
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                // Words to the left, numbers to the right.
                text += &match column {
                    0 | 1 | 7 => format!("{cell:<width$}  "),
                    _ => format!("{cell:>width$}  "),
                };
            }
            out += text.trim_end();
            out.push('\n');
        }
        for row in &self.rows {
            for detail in row.error.iter().chain(&row.findings.details) {
                out += &format!("\n{} {}: {detail}", row.scenario, row.title);
            }
        }
        if !self.is_good() {
            out.push('\n');
        }
        out
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Measures time and processor time from its start to its stop.
pub(crate) struct Meter {
    pids: Pids,
    hub: Option<Duration>,
    mongod: Option<Duration>,
    own: Option<Duration>,
    start: Instant,
}

impl Meter {
    pub(crate) fn start(pids: Pids) -> Self {
        let (hub, mongod) = (pids.hub.and_then(process::cpu), pids.mongod.and_then(process::cpu));
        Self { pids, hub, mongod, own: process::cpu(std::process::id()), start: Instant::now() }
    }

    /// A row about this many events; its scenario is told later.
    pub(crate) fn stop(self, events: u64) -> Row {
        let seconds = self.start.elapsed().as_secs_f64();
        let per_million = |before: Option<Duration>, now: Option<Duration>| {
            let spent = now?.saturating_sub(before?).as_secs_f64();
            (events > 0).then(|| spent * 1e6 / events as f64)
        };
        let memory = self.pids.hub.and_then(process::memory);
        Row {
            scenario: "",
            title: String::new(),
            parameters: Value::Null,
            events,
            seconds,
            rate: Some(events as f64 / seconds),
            hub_cpu_seconds_per_million: per_million(self.hub, self.pids.hub.and_then(process::cpu)),
            mongod_cpu_seconds_per_million: per_million(self.mongod, self.pids.mongod.and_then(process::cpu)),
            generator_cpu_seconds_per_million: per_million(self.own, process::cpu(std::process::id())),
            hub_rss_kb: memory.map(|(now, _)| now),
            hub_peak_rss_kb: memory.map(|(_, peak)| peak),
            redelivered: 0,
            latency: None,
            idle: None,
            outbox: None,
            findings: Findings::default(),
            runs: Vec::new(),
            error: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PublishOptions;

    fn row(rate: f64) -> Row {
        let scenario = Scenario::Publish(PublishOptions::default());
        let mut row = Meter::start(Pids::default()).stop(10);
        row.rate = Some(rate);
        row.named(&scenario)
    }

    #[test]
    fn the_median_keeps_what_any_run_found() {
        let mut bad = row(9.0);
        bad.findings.lost(2, || "two".into());
        let median = Row::median(vec![bad, row(1.0), row(5.0)]).unwrap();
        assert_eq!((median.rate, median.runs.len(), median.findings.lost), (Some(5.0), 3, 2));
        assert!(!median.is_good());
        assert_eq!(Row::median(vec![row(4.0), row(2.0)]).unwrap().rate, Some(2.0));
        assert!(Row::median(Vec::new()).is_none());
    }

    #[test]
    fn a_report_names_the_hub_and_what_was_wrong() {
        let mut bad = row(1_234_567.0);
        bad.findings.doubled(|| "publish 3 was answered twice".into());
        let failed = Row::failed(&Scenario::Idle(crate::IdleOptions::default()), "no hub".into());
        let report = Report { hub: HubInfo::unknown(None), machine: Machine::this(), rows: vec![bad, failed] };
        let table = report.table();
        for part in ["durability unknown", "1 234 567", "DOUBLED 1", "publish 3 was answered twice", "FAILED", "no hub"]
        {
            assert!(table.contains(part), "{part} is not in\n{table}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][0]["findings"]["doubled"], 1);
        assert_eq!(json["rows"][0]["parameters"]["durationMs"], 5000);
        assert_eq!((&json["hub"]["durability"], &json["rows"][1]["error"]), (&"unknown".into(), &"no hub".into()));
    }

    #[test]
    fn percentiles_are_in_milliseconds() {
        let mut histogram = Histogram::new(3).unwrap();
        (1..=1000_u64).for_each(|ms| histogram.record(ms * 1_000_000).unwrap());
        let Percentiles { p50, p90, p99, p999, max } = Percentiles::of(&histogram);
        for (got, expected) in [(p50, 500.0), (p90, 900.0), (p99, 990.0), (p999, 999.0), (max, 1000.0)] {
            assert!((got - expected).abs() / expected < 0.002, "{got} is not {expected}");
        }
    }
}
