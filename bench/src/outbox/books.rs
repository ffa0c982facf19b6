//! What was delivered of the rows: each once, those of a key in their order.

use std::time::Instant;

use hdrhistogram::Histogram;

use crate::{
    Error, Findings,
    report::Row,
    scan::Event,
    schedule::{Schedule, histogram},
};

/// The rows of a run, numbered from 0, and the one written after all others.
#[derive(Debug)]
pub(super) struct Books {
    topic: String,
    count: u64,
    keys: u64,
    schedule: Option<Schedule>,
    /// Times from when a row was due to the delivery of its event.
    delivered: Histogram<u64>,
    /// The seq of each row's event; 0: it has not come.
    seqs: Vec<u64>,
    /// Of each key: the highest number that came, plus one.
    last_of_key: Vec<u64>,
    last_seq: u64,
    received: u64,
    redelivered: u64,
    /// When the first and the last row came, not counting the one after all others.
    times: Option<(Instant, Instant)>,
    findings: Findings,
}

impl Books {
    pub(super) fn new(topic: &str, count: u64, keys: u64, schedule: Option<Schedule>) -> Result<Self, Error> {
        let size = |len: u64| usize::try_from(len).unwrap_or(0);
        Ok(Self {
            topic: topic.to_owned(),
            count,
            keys,
            schedule,
            delivered: histogram()?,
            seqs: vec![0; size(count) + 1],
            last_of_key: vec![0; size(keys)],
            last_seq: 0,
            received: 0,
            redelivered: 0,
            times: None,
            findings: Findings::default(),
        })
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Whether all rows have come, not counting the one after all others.
    pub(super) fn has_all(&self) -> bool {
        self.received >= self.count
    }

    /// Whether the row after all others has come.
    pub(super) fn is_over(&self) -> bool {
        self.seqs.last().is_some_and(|seq| *seq != 0)
    }

    pub(super) fn state(&self) -> String {
        let Self { received, count, .. } = self;
        format!("events of {received} of {count} rows were delivered")
    }

    /// Checks and counts one delivery.
    pub(super) fn event(&mut self, attempt: u64, event: &Event<'_>, now: Instant) {
        let Event { seq, .. } = *event;
        let number = event.number.filter(|number| *number <= self.count && event.topic == self.topic.as_bytes());
        let Some(number) = number else {
            self.findings.wrong(|| format!("event {seq}, which is of no row of this run"));
            return;
        };
        let before = std::mem::replace(&mut self.seqs[number as usize], seq);
        if before == seq && attempt > 1 {
            self.redelivered += 1;
            return;
        }
        if before != 0 {
            self.findings.doubled(|| format!("row {number} came as event {before} and as event {seq}"));
            return;
        }
        if attempt != 1 {
            self.findings.wrong(|| format!("event {seq} came first as attempt {attempt}"));
        }
        if seq < self.last_seq {
            let last = self.last_seq;
            self.findings.out_of_order(|| format!("event {seq} was delivered after {last}"));
        }
        self.last_seq = seq.max(self.last_seq);
        if number == self.count {
            return;
        }
        let key = number % self.keys;
        let last = &mut self.last_of_key[key as usize];
        if number < *last {
            let last = *last - 1;
            self.findings.out_of_order(|| format!("row {number} came after row {last}, of the same key {key}"));
        }
        *last = (number + 1).max(*last);
        self.received += 1;
        self.times = Some((self.times.map_or(now, |(first, _)| first), now));
        if let Some(schedule) = self.schedule {
            schedule.record(&mut self.delivered, number, now);
        }
    }

    /// Puts the findings into the row. Without a schedule the rate is that between the first delivery and the last.
    pub(super) fn finish(mut self, mut row: Row) -> (Row, Option<Histogram<u64>>) {
        let missing = |seq: &u64| *seq == 0;
        // The row after all others is written only when all of them have come.
        let due = if self.has_all() { &self.seqs[..] } else { &self.seqs[..self.seqs.len() - 1] };
        let lost = due.iter().filter(|seq| missing(seq)).count() as u64;
        let first = due.iter().position(missing).unwrap_or(0);
        self.findings.lost(lost, || format!("{lost} rows were committed and not delivered, row {first} first"));
        row.events = self.received;
        row.redelivered = self.redelivered;
        row.findings = self.findings;
        if self.schedule.is_some() {
            return (row, Some(self.delivered));
        }
        let took = self.times.map_or(0.0, |(first, last)| last.duration_since(first).as_secs_f64());
        row.seconds = took;
        // The clock starts at the first delivery, so that one does not count.
        row.rate = (took > 0.0).then(|| self.received.saturating_sub(1) as f64 / took);
        (row, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pids, report::Meter};

    /// Delivers rows as (number, seq, attempt): 6 of 2 keys and the one behind them.
    fn found(deliveries: &[(u64, u64, u64)]) -> (u64, u64, u64, u64, u64) {
        let mut books = Books::new("bench.x.0", 6, 2, None).unwrap();
        for (number, seq, attempt) in deliveries {
            let event = Event { id: b"i", seq: *seq, topic: b"bench.x.0", number: Some(*number) };
            books.event(*attempt, &event, Instant::now());
        }
        let row = books.finish(Meter::start(Pids::default()).stop(6)).0;
        let Findings { lost, doubled, out_of_order, wrong, .. } = row.findings;
        (lost, doubled, out_of_order, wrong, row.redelivered)
    }

    fn all_with(more: &[(u64, u64, u64)]) -> Vec<(u64, u64, u64)> {
        let mut all: Vec<_> = (0..7).map(|number| (number, number + 1, 1)).collect();
        all.extend(more);
        all
    }

    #[test]
    fn each_row_comes_once() {
        assert_eq!(found(&all_with(&[])), (0, 0, 0, 0, 0));
        assert_eq!(found(&all_with(&[])[..6]), (1, 0, 0, 0, 0), "the one behind them is missed too");
        assert_eq!(found(&all_with(&[])[1..5]), (2, 0, 0, 0, 0));
        assert_eq!(found(&all_with(&[(3, 8, 1)])), (0, 1, 0, 0, 0), "published twice");
        assert_eq!(found(&all_with(&[(3, 8, 2)])), (0, 1, 0, 0, 0), "published twice, and redelivered");
        assert_eq!(found(&all_with(&[(3, 4, 1)])), (0, 1, 0, 0, 0), "delivered twice");
        assert_eq!(found(&all_with(&[(3, 4, 2)])), (0, 0, 0, 0, 1));
        assert_eq!(found(&all_with(&[(7, 8, 1)])), (0, 0, 0, 1, 0));
    }

    #[test]
    fn rows_of_a_key_come_in_order_and_others_need_not() {
        let mut keys_apart = all_with(&[]);
        (keys_apart[0].0, keys_apart[1].0) = (1, 0);
        assert_eq!(found(&keys_apart), (0, 0, 0, 0, 0));
        let mut one_key = all_with(&[]);
        (one_key[0].0, one_key[2].0) = (2, 0);
        assert_eq!(found(&one_key), (0, 0, 1, 0, 0));
        let mut seqs = all_with(&[]);
        seqs.swap(0, 1);
        assert_eq!(found(&seqs), (0, 0, 1, 0, 0));
    }

    #[test]
    fn the_rate_counts_from_the_first_delivery_to_the_last() {
        let mut books = Books::new("t", 3, 1, None).unwrap();
        let start = Instant::now();
        for number in 0..3 {
            let event = Event { id: b"i", seq: number + 1, topic: b"t", number: Some(number) };
            books.event(1, &event, start + std::time::Duration::from_secs(number + 5));
        }
        let row = books.finish(Meter::start(Pids::default()).stop(3)).0;
        assert_eq!((row.seconds, row.rate, row.events), (2.0, Some(1.0), 3));
    }
}
