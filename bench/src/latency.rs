//! `latency`: how long a publish takes to its OK and to its delivery, at a fixed rate.
//!
//! Publishes are due at fixed times whatever became of those before them, and time counts from when one was due: a hub
//! that pauses is charged for all that should have been sent meanwhile. Each direction has a thread that waits for nothing
//! else, so that an answer is read when it arrives.

use std::{
    io::Write,
    net::Shutdown,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    Error, Findings, LatencyOptions, Pids, Target,
    check::{Ledger, Order},
    connection::{Connection, refused},
    frame,
    publisher::{Publisher, Topics},
    reader::Reader,
    report::{Latency, Meter, Percentiles, Row},
    scan,
    schedule::{Schedule, histogram},
};

const GROUP: &str = "bench";
/// The `corr` of the last ACK.
const LAST: &[u8] = b"last";
/// Reads the OKs of the publishes and records how long each took.
fn answers(
    connection: &Connection,
    count: u64,
    schedule: Schedule,
    stall: Duration,
) -> Result<(Histogram<u64>, Vec<u64>, Findings), Error> {
    let mut histogram = histogram()?;
    let mut findings = Findings::default();
    let mut order = Order::of(count);
    let mut seqs = vec![0; usize::try_from(count).unwrap_or(0)];
    let mut reader = Reader::new(connection, stall);
    let mut answered = 0;
    while order.in_flight() > 0 {
        let state = || format!("{answered} of {count} publishes were answered");
        let mut more = 0;
        reader.read(state, |answer, now| {
            if answer.op != b"OK" {
                return Err(refused("a publish", answer));
            }
            let Some(number) = answer.corr.and_then(scan::digits) else {
                findings.wrong(|| "an OK without the corr of a publish".into());
                return Ok(());
            };
            if order.answered(number, &mut findings) {
                schedule.record(&mut histogram, number, now);
                seqs[number as usize] = answer.seq;
                more += 1;
            }
            Ok(())
        })?;
        answered += more;
    }
    order.finish(&mut findings);
    Ok((histogram, seqs, findings))
}

/// Receives the events and acknowledges them.
fn deliveries(
    connection: &Connection,
    topic: &str,
    count: u64,
    schedule: Schedule,
    stall: Duration,
) -> Result<(Histogram<u64>, Ledger, u64, Findings), Error> {
    let mut histogram = histogram()?;
    let mut findings = Findings::default();
    let mut ledger = Ledger::default();
    let (mut received, mut redelivered, mut last, mut settled) = (0, 0, 0, false);
    let ack = format!(r#"{{"op":"ACK","topic":"{topic}","group":"{GROUP}","id":""#);
    let mut out = Vec::new();
    let mut reader = Reader::new(connection, stall);
    while !settled {
        let before = received;
        let state = || format!("{before} of {count} events were delivered");
        reader.read(state, |answer, now| {
            let event = match (answer.op, answer.corr, &answer.event) {
                (b"EVENT", _, Some(event)) => event,
                (b"OK", Some(LAST), _) => {
                    settled = true;
                    return Ok(());
                }
                _ => return Err(refused("an ACK", answer)),
            };
            if ledger.has(event.seq) && answer.attempt > 1 {
                redelivered += 1;
            } else if let Some(number) =
                event.number.filter(|number| *number < count && event.topic == topic.as_bytes())
            {
                if event.seq < last {
                    findings.out_of_order(|| format!("event {} was delivered after {last}", event.seq));
                }
                last = last.max(event.seq);
                if ledger.delivered(event.seq, number, count, &mut findings) {
                    schedule.record(&mut histogram, number, now);
                    received += 1;
                }
            } else {
                findings.wrong(|| format!("event {}, which is not of this run", event.seq));
            }
            let parts = [ack.as_bytes(), event.id, b"\",\"lease\":\"", answer.lease];
            let corr: &[u8] = if received == count { b"\",\"corr\":\"last\"}" } else { b"\"}" };
            frame::text(&mut out, &[parts[0], parts[1], parts[2], parts[3], corr]);
            Ok(())
        })?;
        (&connection.stream).write_all(&out).map_err(Error::Broken)?;
        out.clear();
    }
    Ok((histogram, ledger, redelivered, findings))
}

/// Publishes when it is due; what became due while a write waited leaves together.
fn publish(connection: &Connection, publisher: &mut Publisher, count: u64, schedule: Schedule) -> Result<(), Error> {
    wake_on_time();
    let mut stream = &connection.stream;
    let mut out = Vec::new();
    while publisher.order.asked < count {
        let now = Instant::now();
        while publisher.order.asked < count && schedule.due(publisher.order.asked) <= now {
            publisher.one(&mut out);
        }
        stream.write_all(&out).map_err(Error::Broken)?;
        out.clear();
        thread::sleep(schedule.due(publisher.order.asked).saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Linux lets a thread sleep up to 50 µs longer than it asked for, which would be counted as time of the hub.
#[cfg(target_os = "linux")]
fn wake_on_time() {
    // Where the system refuses, the figures come out slightly too high.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

#[cfg(not(target_os = "linux"))]
fn wake_on_time() {}

/// Runs the measurement.
pub(crate) fn run(target: &Target, options: &LatencyOptions, pids: Pids) -> Result<Row, Error> {
    let topics = Topics::new(1, options.payload, false);
    let (topic, count) = (topics.name(0), options.count());
    let publishing = Connection::open(target)?;
    let mut receiving = Connection::open(target)?;
    let opts = r#"{"from":"earliest","maxInFlight":10000}"#;
    let subscribe = format!(r#""op":"SUBSCRIBE","topic":"{topic}","group":"{GROUP}","opts":{opts}"#);
    receiving.ask("SUBSCRIBE", &subscribe, target.stall)?;

    let mut publisher = Publisher::new(topics.clone(), usize::MAX, 0);
    let failure = Mutex::new(None);
    // The first thread that fails keeps its error and ends the others by closing their sockets.
    let fail = |error: Error| {
        if let Ok(mut failure) = failure.lock() {
            failure.get_or_insert(error);
        }
        for connection in [&publishing, &receiving] {
            // It may be closed already.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    };
    let meter = Meter::start(pids);
    let schedule = Schedule::of(options.rate);
    let stall = target.stall;
    let (answered, delivered) = thread::scope(|scope| {
        let answered = scope.spawn(|| answers(&publishing, count, schedule, stall).map_err(&fail).ok());
        let delivered = scope.spawn(|| deliveries(&receiving, topic, count, schedule, stall).map_err(&fail).ok());
        if let Err(error) = publish(&publishing, &mut publisher, count, schedule) {
            fail(error);
        }
        (answered.join().ok().flatten(), delivered.join().ok().flatten())
    });
    let mut row = meter.stop(count);
    let (Some((published, seqs, findings)), Some((arrived, mut ledger, redelivered, more))) = (answered, delivered)
    else {
        let failure = failure.into_inner().ok().flatten();
        return Err(failure.unwrap_or_else(|| Error::Nonsense("what made the bench fail".into())));
    };
    row.findings = findings;
    row.findings.merge(more);
    for (number, seq) in seqs.iter().enumerate().filter(|(_, seq)| **seq != 0) {
        ledger.acked(*seq, number as u64, count, &mut row.findings);
    }
    ledger.finish(topic, &mut row.findings);
    row.redelivered = redelivered;
    row.latency = Some(Latency { published: Percentiles::of(&published), delivered: Percentiles::of(&arrived) });
    Ok(row)
}
