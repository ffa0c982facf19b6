//! `publish`: how many publishes a second are acknowledged.

use std::time::Instant;

use crate::{
    Error, Findings, Pids, PublishOptions, Target,
    check::Seqs,
    connection::{Connection, refused},
    drive::{Drive, Scenario},
    publisher::{Budget, Publisher, Topics},
    report::{Meter, Row},
    scan::{self, Answer},
};

/// Publishes over some connections, with checks over all of them.
#[derive(Debug)]
struct Publishing {
    publishers: Vec<Publisher>,
    budget: Budget,
    topics: usize,
    /// The seqs that were given, of each topic.
    seqs: Vec<Seqs>,
    /// The last seq that each connection was given in each topic.
    last: Vec<u64>,
    asked: u64,
    answered: u64,
    findings: Findings,
}

impl Publishing {
    fn new(topics: &Topics, connections: usize, window: usize, budget: Budget) -> Self {
        Self {
            publishers: (0..connections).map(|first| Publisher::new(topics.clone(), window, first)).collect(),
            budget,
            topics: topics.len(),
            seqs: (0..topics.len()).map(|_| Seqs::default()).collect(),
            last: vec![0; connections * topics.len()],
            asked: 0,
            answered: 0,
            findings: Findings::default(),
        }
    }

    fn finish(mut self) -> Findings {
        for publisher in &self.publishers {
            publisher.order.finish(&mut self.findings);
        }
        for seqs in &self.seqs {
            seqs.finish(&mut self.findings);
        }
        self.findings
    }
}

impl Scenario for Publishing {
    fn produce(&mut self, link: usize, out: &mut Vec<u8>) -> bool {
        let publisher = &mut self.publishers[link];
        let before = publisher.order.asked;
        let more = publisher.produce(&mut self.budget, out);
        self.asked += publisher.order.asked - before;
        more
    }

    fn answer(&mut self, link: usize, answer: &Answer<'_>, _: &mut Vec<u8>) -> Result<(), Error> {
        let publisher = &mut self.publishers[link];
        if answer.op != b"OK" {
            return Err(refused("a publish", answer));
        }
        let Some(number) = answer.corr.and_then(scan::digits) else {
            self.findings.wrong(|| "an OK without the corr of a publish".into());
            return Ok(());
        };
        if !publisher.order.answered(number, &mut self.findings) {
            return Ok(());
        }
        self.answered += 1;
        let topic = publisher.topic_of(number);
        if answer.duplicate {
            self.findings.doubled(|| format!("publish {number} was taken for one before it"));
            return Ok(());
        }
        self.seqs[topic].add(answer.seq, self.asked, &mut self.findings);
        let last = &mut self.last[link * self.topics + topic];
        if answer.seq < *last {
            self.findings.out_of_order(|| format!("publish {number} got seq {}, after {last}", answer.seq));
        }
        *last = answer.seq;
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.budget.left == 0 && self.publishers.iter().all(|publisher| publisher.order.in_flight() == 0)
    }

    fn state(&self) -> String {
        format!("{} of {} publishes were answered", self.answered, self.asked)
    }
}

/// Runs the measurement.
pub(crate) fn run(target: &Target, options: &PublishOptions, pids: Pids) -> Result<Row, Error> {
    let topics = Topics::new(options.topics, options.payload, options.ids);
    let target = &target.batching(options.batch);
    let connections = Connection::open_many(target, options.connections)?;
    let mut drive = Drive::new(connections, target)?;
    let meter = Meter::start(pids);
    let budget = match options.count {
        Some(count) => Budget::count(count),
        None => Budget { left: u64::MAX, until: Some(Instant::now() + options.duration) },
    };
    let mut publishing = Publishing::new(&topics, options.connections, options.window, budget);
    drive.run(&mut publishing)?;
    let mut row = meter.stop(publishing.answered);
    drive.drain(&mut publishing)?;
    row.findings = publishing.finish();
    Ok(row)
}
