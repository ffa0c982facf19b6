//! Whether a log that was opened has everything it must have, and what a repair adds where it has not.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
};

use prom_protocol::Group;
use prom_store::Cursor;

use crate::{
    append::segment_name, disk::Disk, format::Position, index::Index, record::TopicRecord, state::State,
    topic_log::TopicLog,
};

/// Name of the index that a repair makes, until it takes the place of the old one.
pub(crate) const NEW_INDEX: &str = "index.redb.tmp";

/// Topic records by number, with their positions.
pub(crate) type Topics = BTreeMap<u32, (TopicRecord<'static>, Position)>;

/// What other files say of a log of which a part is gone.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Topics; the log itself may have later records of them.
    pub(crate) topics: Topics,
    /// Topic number, group, cursor, and where its record stands.
    pub(crate) cursors: Vec<(u32, Group, Arc<Cursor>, Position)>,
    /// By topic number: the highest seq that was given.
    pub(crate) tails: HashMap<u32, u64>,
}

impl Known {
    /// Adds to the state what the log does not say.
    pub(crate) fn complete(self, state: &mut State) {
        for (topic, group, cursor, at) in self.cursors {
            let log = state.topics.get(topic as usize);
            let own = log.and_then(|log| log.cursors.get(&group).map(|own| own.at).max(log.gone.get(&group).copied()));
            if own.is_none_or(|own| own < at) {
                state.apply_cursor(topic, group, cursor, at);
            }
        }
        for log in state.topics.iter_mut().filter(|log| !log.is_removed()) {
            let by_cursors = log.cursors.values().map(|own| own.cursor.floor.max(own.cursor.delivered)).max();
            let by_files = self.tails.get(&log.number).copied();
            log.tail = log.tail.max(by_cursors.unwrap_or_default()).max(by_files.unwrap_or_default());
        }
    }
}

/// Every retained event, and every topic's and cursor's last record, must stand in a segment that is there.
///
/// # Errors
/// What is missing.
pub(crate) fn complete(state: &State) -> Result<(), String> {
    for log in state.topics.iter().filter(|log| !log.is_removed()) {
        if let Some((first, last)) = log.missing().iter().find(|gap| !log.holes.contains(gap)) {
            return Err(format!("events {first} to {last} of {} are missing", log.topic));
        }
        let cursors = log.cursors.values().map(|own| own.at);
        // The record of a topic that was removed, and of such a cursor, may be gone with all before it.
        if let Some(at) = cursors.chain([log.record_at]).find(|at| !state.segments.contains_key(&at.segment())) {
            return Err(format!("{} is missing", segment_name(at.segment())));
        }
    }
    Ok(())
}

/// The newest event of each key must stand in a segment that is there too. `kept_from`: the lowest seq in a topic that may
/// be one.
///
/// # Errors
/// What is missing.
pub(crate) fn newest(state: &State, index: &Index, kept_from: impl Fn(&TopicLog) -> u64) -> Result<(), String> {
    let gone = |segment: &u32| !state.segments.contains_key(segment);
    if !index.pointed_segments().map_err(|error| error.to_string())?.iter().any(gone) {
        return Ok(());
    }
    // An entry that is not wanted any more may point to a segment that was dropped.
    for (topic, latest) in index.all_latest().map_err(|error| error.to_string())? {
        let wanted =
            state.topics.get(topic as usize).is_some_and(|log| !log.is_removed() && latest.seq >= kept_from(log));
        if wanted && gone(&latest.at.segment()) {
            return Err(format!("{} is missing", segment_name(latest.at.segment())));
        }
    }
    Ok(())
}

/// Removes files that were being made when the process ended, and index files whose segment is gone.
pub(crate) fn tidy(disk: &dyn Disk, state: &State) -> io::Result<()> {
    for name in disk.list()? {
        let number = name.strip_suffix(".idx").and_then(|number| number.parse::<u32>().ok());
        let left_over = number.is_some_and(|number| !state.segments.contains_key(&number));
        if left_over || (name.ends_with(".tmp") && name != NEW_INDEX) {
            disk.remove(&name)?;
        }
    }
    Ok(())
}
