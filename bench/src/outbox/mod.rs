//! `outbox`: the way of a row, from a service's transaction through the hub's drainer to a subscriber.
//!
//! ```text
//!   write.rs    the service: rows in transactions ──► MongoDB ──► the hub's drainer
//!   books.rs    the subscriber: each row once, those of a key in order  ◄── EVENT ──┘
//! ```
//!
//! At a rate, rows are due at fixed times, and time counts from when one was due. To see how fast a hub drains, rows are
//! committed by one transaction, so that all of them are there at one moment and no drainer can begin before; the time
//! counts from the first delivery to the last.

mod books;
mod write;

use std::{
    io::Write,
    net::Shutdown,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::{runtime, sync::oneshot};

use self::{books::Books, write::Service};
use crate::{
    Error, OutboxOptions, Pids, Target,
    connection::{Connection, refused},
    frame,
    publisher::Topics,
    reader::Reader,
    report::{Meter, Outbox, Percentiles, Row},
    schedule::{Schedule, histogram},
};

const GROUP: &str = "bench";
/// The `corr` of the last ACK.
const LAST: &[u8] = b"last";

/// Runs the measurement.
pub(crate) fn run(target: &Target, options: &OutboxOptions, pids: Pids) -> Result<Row, Error> {
    let url = target.mongo_url.as_deref().ok_or(Error::NoMongo)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Error::System("cannot start a runtime", error))?;
    let topics = Topics::new(1, options.payload, false);
    let service = runtime.block_on(Service::connect(url, options, topics.name(0), target.stall))?;
    let row = measure(target, options, pids, &runtime, &service);
    let cleaned = runtime.block_on(service.clean());
    let row = row?;
    cleaned?;
    Ok(row)
}

fn measure(
    target: &Target,
    options: &OutboxOptions,
    pids: Pids,
    runtime: &runtime::Runtime,
    service: &Service,
) -> Result<Row, Error> {
    let count = options.count();
    // The rows are written now and committed later, so that writing them is not part of what is measured.
    let written = match options.drain {
        Some(_) => Some(runtime.block_on(service.write_at_once(count))?),
        None => None,
    };
    let mut connection = Connection::open(target)?;
    let opts = r#"{"from":"earliest","maxInFlight":10000}"#;
    let subscribe = format!(r#""op":"SUBSCRIBE","topic":"{}","group":"{GROUP}","opts":{opts}"#, service.topic());
    connection.ask("SUBSCRIBE", &subscribe, target.stall)?;

    let meter = Meter::start(pids);
    let schedule = options.drain.is_none().then(|| Schedule::of(options.rate));
    let books = Books::new(service.topic(), count, options.keys, schedule)?;
    let committed = AtomicBool::new(false);
    let (all, received) = oneshot::channel();
    let (done, books) = thread::scope(|scope| {
        let subscriber = scope.spawn(|| receive(&connection, books, all, &committed, target.stall));
        let writing = async {
            let transactions = match (schedule, written) {
                (Some(schedule), _) => service.write(schedule, count).await?,
                (None, Some(written)) => written.commit().await.and_then(|()| histogram())?,
                (None, None) => histogram()?,
            };
            committed.store(true, Ordering::Release);
            Ok(transactions)
        };
        let done = runtime.block_on(finish(service, count, writing, received, meter));
        if done.is_err() {
            // It may be closed already. The subscriber ends by it.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        (done, subscriber.join())
    });
    let failed = || Error::Nonsense("what made the bench fail".into());
    let (transactions, mut row) = match (done, books) {
        (Ok(done), Ok(Ok(books))) => {
            let (transactions, row) = done.ok_or_else(failed)?;
            (transactions, books.finish(row))
        }
        // The writer's error comes first: it made the subscriber stop, whose own error says only that.
        (Err(error), _) | (Ok(_), Ok(Err(error))) => return Err(error),
        (Ok(_), Err(_)) => return Err(failed()),
    };
    if let (Some(delivered), None) = (row.1.take(), options.drain) {
        row.0.outbox =
            Some(Outbox { transaction: Percentiles::of(&transactions), delivered: Percentiles::of(&delivered) });
    }
    Ok(row.0)
}

/// Writes the rows, waits until all are delivered, and writes one more after them. `None` when the subscriber has failed:
/// its result has the error.
async fn finish(
    service: &Service,
    count: u64,
    writing: impl Future<Output = Result<Histogram<u64>, Error>>,
    received: oneshot::Receiver<()>,
    meter: Meter,
) -> Result<Option<(Histogram<u64>, Row)>, Error> {
    let (mut writing, mut received) = (pin!(writing), received);
    let (transactions, all) = tokio::select! {
        transactions = &mut writing => (transactions?, received.await),
        // The last event may be here before the answer to the commit of its row.
        all = &mut received => match all {
            Ok(()) => (writing.await?, all),
            Err(_) => return Ok(None),
        },
    };
    let row = meter.stop(count);
    if all.is_ok() {
        service.write_one(count).await?;
    }
    Ok(Some((transactions, row)))
}

/// Receives the events and acknowledges them, up to the one that was written after all others.
fn receive(
    connection: &Connection,
    mut books: Books,
    all: oneshot::Sender<()>,
    committed: &AtomicBool,
    stall: Duration,
) -> Result<Books, Error> {
    let mut all = Some(all);
    let mut settled = false;
    let mut out = Vec::new();
    let mut reader = Reader::new(connection, stall);
    let ack = format!(r#"{{"op":"ACK","topic":"{}","group":"{GROUP}","id":""#, books.topic());
    while !settled {
        let state = books.state();
        let read = reader.read(
            || state.clone(),
            |answer, now| {
                let event = match (answer.op, answer.corr, &answer.event) {
                    (b"EVENT", _, Some(event)) => event,
                    (b"OK", Some(LAST), _) => {
                        settled = true;
                        return Ok(());
                    }
                    _ => return Err(refused("an ACK", answer)),
                };
                books.event(answer.attempt, event, now);
                let corr: &[u8] = if books.is_over() { b"\",\"corr\":\"last\"}" } else { b"\"}" };
                frame::text(&mut out, &[ack.as_bytes(), event.id, b"\",\"lease\":\"", answer.lease, corr]);
                Ok(())
            },
        );
        match read {
            Ok(()) => {}
            // The checks report which rows did not come.
            Err(Error::Stalled { .. }) if committed.load(Ordering::Acquire) && !books.is_over() => return Ok(books),
            Err(error) => return Err(error),
        }
        (&connection.stream).write_all(&out).map_err(Error::Broken)?;
        out.clear();
        if books.has_all()
            && let Some(all) = all.take()
        {
            // The writer may have failed meanwhile.
            let _ = all.send(());
        }
    }
    Ok(books)
}
