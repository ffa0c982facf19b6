//! `deliver`: how many events a second a durable group receives and acknowledges.
//!
//! Its first connection publishes, each other one is a member. The ACKs have no `corr`, but the last: before it the other
//! members leave, so that when its OK comes, all are settled. Whether they are is then tried: a new member of the group
//! must be given nothing but what is published after that.

use crate::{
    DeliverOptions, Error, Findings, Pids, Target,
    check::Ledger,
    connection::{Connection, refused},
    drive::{Drive, Scenario},
    frame,
    publisher::{Budget, Publisher, Topics},
    report::{Meter, Row},
    scan::{self, Answer, Event},
};

/// Number of the connection that publishes.
const PUBLISHER: usize = 0;
const GROUP: &str = "bench";
/// The `corr` of the last ACK, and that of a member's UNSUBSCRIBE.
const LAST: &[u8] = b"last";
const LEAVE: &[u8] = b"leave";

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// The events are being published; no member has subscribed yet.
    Publishing,
    Receiving,
    /// All events have come. Every member but the one that holds the last event has sent UNSUBSCRIBE.
    Leaving,
    /// They have left; the last event is acknowledged, or about to be.
    Confirming,
    Settled,
}

struct Delivering<'a> {
    topics: &'a Topics,
    publisher: Publisher,
    budget: Budget,
    /// How many events are to be received.
    count: u64,
    phase: Phase,
    /// The text of an ACK up to the start of its id.
    ack: String,
    leave: String,
    ledgers: Vec<Ledger>,
    members: usize,
    /// The last seq of each topic that each member received.
    last: Vec<u64>,
    received: u64,
    redelivered: u64,
    /// Everything is settled: no event may be delivered again.
    all_settled: bool,
    /// The connection that holds the last event, and the ACK it has not sent yet.
    held: Option<(usize, Vec<u8>)>,
    asked_to_leave: Vec<bool>,
    left: usize,
    findings: Findings,
}

impl<'a> Delivering<'a> {
    fn new(topics: &'a Topics, options: &DeliverOptions) -> Self {
        let target = format!(r#""topic":"{}","group":"{GROUP}""#, topics.pattern());
        Self {
            topics,
            publisher: Publisher::new(topics.clone(), options.window, 0),
            budget: Budget::count(options.count),
            count: options.count,
            phase: Phase::Publishing,
            ack: format!(r#"{{"op":"ACK",{target},"id":""#),
            leave: format!(r#"{{"op":"UNSUBSCRIBE",{target},"corr":""#),
            ledgers: (0..topics.len()).map(|_| Ledger::default()).collect(),
            members: 0,
            last: Vec::new(),
            received: 0,
            redelivered: 0,
            all_settled: false,
            held: None,
            asked_to_leave: Vec::new(),
            left: 0,
            findings: Findings::default(),
        }
    }

    /// Starts the phase in which this many members receive.
    fn receive(&mut self, members: usize) {
        self.members = members;
        self.last = vec![0; members * self.topics.len()];
        self.asked_to_leave = vec![false; members];
        self.left = 0;
        self.phase = Phase::Receiving;
    }

    fn published(&mut self, answer: &Answer<'_>) -> Result<(), Error> {
        if answer.op != b"OK" {
            return Err(refused("a publish", answer));
        }
        let Some(number) = answer.corr.and_then(scan::digits) else {
            self.findings.wrong(|| "an OK without the corr of a publish".into());
            return Ok(());
        };
        if self.publisher.order.answered(number, &mut self.findings) {
            let topic = self.publisher.topic_of(number);
            self.ledgers[topic].acked(answer.seq, number, self.count, &mut self.findings);
        }
        Ok(())
    }

    fn event(&mut self, link: usize, answer: &Answer<'_>, event: &Event<'_>, out: &mut Vec<u8>) {
        let (Some(topic), Some(number)) = (self.topics.number(event.topic), event.number) else {
            let topic = String::from_utf8_lossy(event.topic);
            self.findings.wrong(|| format!("event {} of {topic}, which is not of this run", event.seq));
            return;
        };
        let Event { seq, .. } = *event;
        let mut counts = false;
        if self.ledgers[topic].has(seq) && answer.attempt > 1 {
            if self.all_settled {
                self.findings.doubled(|| format!("event {seq} was delivered again after the OK to the last ACK"));
            }
            self.redelivered += 1;
        } else {
            if answer.attempt != 1 {
                self.findings.wrong(|| format!("event {seq} came first as attempt {}", answer.attempt));
            }
            let last = &mut self.last[(link - 1) * self.topics.len() + topic];
            if seq < *last {
                self.findings.out_of_order(|| format!("event {seq} was delivered after {last}"));
            }
            *last = seq.max(*last);
            counts = self.ledgers[topic].delivered(seq, number, self.count, &mut self.findings);
        }
        self.received += u64::from(counts);
        if counts && self.received == self.count {
            self.phase = Phase::Leaving;
            let mut ack = Vec::new();
            let corr = [b"\",\"corr\":\"", LAST, b"\"}"].concat();
            frame::text(&mut ack, &[self.ack.as_bytes(), event.id, b"\",\"lease\":\"", answer.lease, &corr]);
            self.held = Some((link, ack));
        } else {
            frame::text(out, &[self.ack.as_bytes(), event.id, b"\",\"lease\":\"", answer.lease, b"\"}"]);
        }
    }

    fn finish(mut self) -> (Findings, u64) {
        self.publisher.order.finish(&mut self.findings);
        for (number, ledger) in self.ledgers.iter().enumerate() {
            ledger.finish(self.topics.name(number), &mut self.findings);
        }
        (self.findings, self.redelivered)
    }
}

impl Scenario for Delivering<'_> {
    fn produce(&mut self, link: usize, out: &mut Vec<u8>) -> bool {
        if link == PUBLISHER {
            return self.publisher.produce(&mut self.budget, out);
        }
        let Some((holder, ack)) = &self.held else { return false };
        if link != *holder {
            if !std::mem::replace(&mut self.asked_to_leave[link - 1], true) {
                frame::text(out, &[self.leave.as_bytes(), LEAVE, b"\"}"]);
            }
        } else if self.phase == Phase::Leaving && self.left + 1 == self.members {
            out.extend_from_slice(ack);
            self.phase = Phase::Confirming;
        }
        false
    }

    fn answer(&mut self, link: usize, answer: &Answer<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        if link == PUBLISHER {
            return self.published(answer);
        }
        match (answer.op, answer.corr, &answer.event) {
            (b"EVENT", _, Some(event)) => self.event(link, answer, event, out),
            (b"OK", Some(LEAVE), _) => self.left += 1,
            (b"OK", Some(LAST), _) => self.phase = Phase::Settled,
            (b"GAP", ..) => self.findings.wrong(|| "the hub dropped events the group had not settled".into()),
            _ => return Err(refused("an ACK", answer)),
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let published = self.budget.left == 0 && self.publisher.order.in_flight() == 0;
        published && matches!(self.phase, Phase::Publishing | Phase::Settled)
    }

    fn state(&self) -> String {
        let (asked, received, count) = (self.publisher.order.asked, self.received, self.count);
        let answered = asked - self.publisher.order.in_flight();
        match self.phase {
            Phase::Publishing => format!("{answered} of {asked} publishes were answered"),
            Phase::Receiving => {
                format!("{received} of {count} events were delivered, {answered} of {asked} publishes answered")
            }
            Phase::Leaving => "all was delivered, and members were asked to leave".into(),
            Phase::Confirming => "all was delivered, and the last ACK asks for its OK".into(),
            Phase::Settled => "all was settled".into(),
        }
    }
}

/// Runs the measurement.
pub(crate) fn run(target: &Target, options: &DeliverOptions, pids: Pids) -> Result<Row, Error> {
    let topics = Topics::new(options.topics, options.payload, false);
    let subscribe = format!(
        r#""op":"SUBSCRIBE","topic":"{}","group":"{GROUP}","opts":{{"from":"earliest","maxInFlight":{}}}"#,
        topics.pattern(),
        options.in_flight
    );
    let mut delivering = Delivering::new(&topics, options);
    let target = &target.batching(options.batch);
    let mut connections = Connection::open_many(target, 1)?;
    if !options.live {
        let mut drive = Drive::new(connections, target)?;
        drive.run(&mut delivering)?;
        connections = drive.into_connections()?;
    }
    connections.extend(Connection::open_many(target, options.members)?);

    let meter = Meter::start(pids);
    delivering.receive(options.members);
    for member in &mut connections[1..] {
        member.ask("SUBSCRIBE", &subscribe, target.stall)?;
    }
    let mut drive = Drive::new(connections, target)?;
    let ran = drive.run(&mut delivering);
    let mut row = meter.stop(delivering.received);
    match ran {
        Ok(()) => {}
        // The checks report which events did not come.
        Err(Error::Stalled { .. }) if delivering.phase == Phase::Receiving && delivering.is_published() => {
            (row.findings, row.redelivered) = delivering.finish();
            return Ok(row);
        }
        Err(error) => return Err(error),
    }
    drive.drain(&mut delivering)?;

    let mut connections = drive.into_connections()?;
    if let Some((holder, _)) = &delivering.held {
        // Else what is published now could still be given to it, and would come to the new member as a second attempt.
        let unsubscribe = format!(r#""op":"UNSUBSCRIBE","topic":"{}","group":"{GROUP}""#, topics.pattern());
        connections[*holder].ask("UNSUBSCRIBE", &unsubscribe, target.stall)?;
    }
    connections.truncate(1);
    connections.extend(Connection::open_many(target, 1)?);
    delivering.try_settled(1);
    connections[1].ask("SUBSCRIBE", &subscribe, target.stall)?;
    let mut drive = Drive::new(connections, target)?;
    drive.run(&mut delivering)?;
    drive.drain(&mut delivering)?;
    (row.findings, row.redelivered) = delivering.finish();
    Ok(row)
}

impl Delivering<'_> {
    fn is_published(&self) -> bool {
        self.budget.left == 0 && self.publisher.order.in_flight() == 0
    }

    /// From here on the hub may deliver nothing but one new event of each topic.
    fn try_settled(&mut self, members: usize) {
        let more = self.topics.len() as u64;
        self.count += more;
        self.budget.left += more;
        self.all_settled = true;
        self.held = None;
        self.receive(members);
    }
}
