//! What a group has done since it last added it to the hub's metrics.

use std::sync::Arc;

use prom_protocol::{Group, Topic};

use crate::flow::metrics::{GroupSeries, Metrics};

/// Counts without atomics; [`Tally::flush`] adds the sums, once a series, to what the hub counts.
#[derive(Debug)]
pub(super) struct Tally {
    metrics: Arc<Metrics>,
    /// By track.
    tracks: Vec<Counts>,
    /// Tracks that have something to flush.
    touched: Vec<usize>,
    redelivered: u64,
    in_flight: usize,
}

#[derive(Debug)]
struct Counts {
    series: GroupSeries,
    delivered: u64,
    acked: u64,
    nacked: u64,
}

impl Tally {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, tracks: Vec::new(), touched: Vec::new(), redelivered: 0, in_flight: 0 }
    }

    /// Takes on the topic whose track has the next index.
    pub(super) fn add_topic(&mut self, topic: &Topic, group: &Group) {
        let series = self.metrics.group(topic, group);
        self.tracks.push(Counts { series, delivered: 0, acked: 0, nacked: 0 });
    }

    fn touch(&mut self, track: usize) -> Option<&mut Counts> {
        let counts = self.tracks.get_mut(track)?;
        if (counts.delivered, counts.acked, counts.nacked) == (0, 0, 0) {
            self.touched.push(track);
        }
        Some(counts)
    }

    pub(super) fn delivered(&mut self, track: usize, attempt: u32) {
        self.redelivered += u64::from(attempt > 1);
        if let Some(counts) = self.touch(track) {
            counts.delivered += 1;
        }
    }

    pub(super) fn acked(&mut self, track: usize) {
        if let Some(counts) = self.touch(track) {
            counts.acked += 1;
        }
    }

    pub(super) fn nacked(&mut self, track: usize) {
        if let Some(counts) = self.touch(track) {
            counts.nacked += 1;
        }
    }

    /// Adds the sums to the metrics. `leases`: events the group has in flight now.
    pub(super) fn flush(&mut self, leases: usize) {
        for track in self.touched.drain(..) {
            let counts = &mut self.tracks[track];
            counts.series.delivered.add(std::mem::take(&mut counts.delivered));
            counts.series.acked.add(std::mem::take(&mut counts.acked));
            counts.series.nacked.add(std::mem::take(&mut counts.nacked));
        }
        self.metrics.redelivered.add(std::mem::take(&mut self.redelivered));
        self.metrics.in_flight(self.in_flight, leases);
        self.in_flight = leases;
    }
}
