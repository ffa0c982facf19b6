//! `idle`: the memory a hub takes for an idle connection.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    Error, IdleOptions, Pids, Target,
    connection::Connection,
    process,
    report::{Idle, Meter, Row},
};

/// Connections opened before the first look at the memory, so that what a hub allocates once, for the first of them, is
/// not counted.
const WARM: usize = 16;
/// Time between two looks at the hub's memory; it has settled when two in a row show the same.
const LOOK: Duration = Duration::from_millis(100);
/// How long to wait for the memory to settle.
const SETTLE: Duration = Duration::from_secs(3);

/// Runs the measurement.
pub(crate) fn run(target: &Target, options: &IdleOptions, pids: Pids) -> Result<Row, Error> {
    let _warm = Connection::open_many(target, WARM)?;
    let before = settled(pids.hub);
    let meter = Meter::start(pids);
    let open = Connection::open_many(target, options.connections)?;
    let after = settled(pids.hub);
    let mut row = meter.stop(options.connections as u64);
    row.rate = None;
    let growth = before.zip(after).map(|(before, after)| after as f64 - before as f64);
    row.idle = Some(Idle { kb_per_connection: growth.map(|kb| kb / open.len() as f64) });
    Ok(row)
}

/// The hub's memory once it is the same for a while, in kB.
fn settled(pid: Option<u32>) -> Option<u64> {
    let until = Instant::now() + SETTLE;
    let mut before = process::memory(pid?)?.0;
    loop {
        thread::sleep(LOOK);
        let now = process::memory(pid?)?.0;
        if now == before || Instant::now() >= until {
            return Some(now);
        }
        before = now;
    }
}
