//! What is done with a data folder while no hub uses it: check it, look into it, make it smaller, repair it.
//!
//! ```text
//!   verify ── survey.rs   reads every byte of the log
//!      └─────────┐
//!                ▼
//!   compact ── repair.rs  gives up what is damaged, keeps the rest       stats, dump
//!                                                                            │
//!              overlay.rs  a disk that is never changed       ◄─ verify ─────┘
//! ```

mod overlay;
mod repair;
mod survey;

use std::{collections::HashMap, path::Path, sync::Arc};

use prom_protocol::TopicOrPattern;
use prom_store::{StoreError, Stored};
use serde::Serialize;

pub use self::repair::Lost;
use self::{overlay::Overlay, survey::survey};
use crate::{
    append::segment_name,
    disk::{Disk, Folder, TakeError},
    format::VERSION,
    index::NAME,
    keeper::Keeper,
    log::Log,
    open,
    opening::OpenError,
    options::Options,
    shared::{Shared, index_failed},
    state::SegmentIndex,
};

/// Why something could not be done with a folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// There is no such folder.
    #[error("there is no data folder at {0}; choose one with PROM_DATA or --data")]
    Absent(String),
    /// The log in it could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log in it could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Name of the file.
    pub file: String,
    /// First byte of it, if it is a part of the file.
    pub at: Option<u64>,
    /// How many bytes, if that is known.
    pub bytes: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// The file is made again from the log at the next start.
    pub derived: bool,
}

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of the format that the log has.
    pub version: u32,
    /// How many segments there are.
    pub segments: usize,
    /// Bytes of all files of the log.
    pub bytes: u64,
    /// Records that are whole.
    pub records: u64,
    /// Events among them.
    pub events: u64,
    /// What is damaged.
    pub problems: Vec<Problem>,
    /// A last commit that was never finished: it was never acknowledged as durable, and the next start cuts it off.
    pub torn: Option<Problem>,
    /// What is lost for good, by topic.
    pub lost: Vec<Lost>,
    /// Why a hub would not start, if it would not.
    pub refused: Option<String>,
}

impl Report {
    /// Whether the log is as it was written; what is derived from it may not be.
    pub fn is_whole(&self) -> bool {
        self.refused.is_none() && self.lost.is_empty() && self.problems.iter().all(|problem| problem.derived)
    }
}

/// A segment in [`Stats`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SegmentStats {
    /// Name of its file.
    pub file: String,
    /// Bytes written to it.
    pub bytes: u64,
    /// The part of them that is not retained, as far as is known without reading them: 0 to 1.
    pub dead: f64,
}

/// A topic in [`Stats`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicStats {
    /// The topic's name.
    pub topic: String,
    /// How many events are retained.
    pub events: u64,
    /// First seq that is retained.
    pub first: u64,
    /// Last seq that was given.
    pub last: u64,
    /// Bytes of the retained events' records.
    pub bytes: u64,
    /// Keys with a newest event.
    pub keys: u64,
    /// Groups that have a cursor in it.
    pub groups: Vec<GroupStats>,
}

/// A group in [`Stats`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupStats {
    /// The group's name.
    pub group: String,
    /// Every event at or below is settled.
    pub floor: u64,
    /// How many events it has not settled.
    pub lag: u64,
}

/// What [`stats`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// Bytes of all files of the log.
    pub bytes: u64,
    /// In the order of the log.
    pub segments: Vec<SegmentStats>,
    /// Sorted by name.
    pub topics: Vec<TopicStats>,
}

/// What [`compact`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compacted {
    /// Bytes of the log before.
    pub before: u64,
    /// Bytes of the log after.
    pub after: u64,
    /// What was given up, by topic.
    pub lost: Vec<Lost>,
    /// Names of the damaged originals, which are kept in the folder.
    pub kept: Vec<String>,
}

/// Locks a folder that is there.
fn take(path: &Path) -> Result<Arc<dyn Disk>, ToolError> {
    let folder = path.display().to_string();
    if !path.is_dir() {
        return Err(ToolError::Absent(folder));
    }
    match Folder::take(path) {
        Ok(disk) => Ok(Arc::new(disk)),
        Err(TakeError::Taken) => Err(OpenError::Taken(folder).into()),
        Err(TakeError::Io(source)) => Err(OpenError::Io { folder, source }.into()),
    }
}

/// Opens a folder without changing anything in it.
fn look(path: &Path) -> Result<Arc<Log>, ToolError> {
    let disk: Arc<dyn Disk> = Arc::new(Overlay::new(take(path)?));
    Ok(open::open(&disk, Options::default())?)
}

/// Reads all of a data folder and says what of it is not as it was written. Blocks.
///
/// # Errors
/// The folder is in use or cannot be read.
pub fn verify(path: &Path) -> Result<Report, ToolError> {
    Ok(verify_on(take(path)?)?)
}

pub(super) fn verify_on(disk: Arc<dyn Disk>) -> Result<Report, OpenError> {
    let found = survey(&disk)?;
    let mut report = Report {
        version: VERSION,
        segments: found.segments.len(),
        bytes: found.segments.iter().map(|segment| u64::from(segment.length)).sum(),
        records: found.records,
        events: found.events,
        problems: Vec::new(),
        torn: None,
        lost: Vec::new(),
        refused: None,
    };
    for segment in &found.segments {
        let file = segment_name(segment.number);
        let mut problem = |at: Option<u32>, bytes: Option<u32>, what: String| {
            let (at, bytes, file) = (at.map(u64::from), bytes.map(u64::from), file.clone());
            report.problems.push(Problem { file, at, bytes, what, derived: false });
        };
        if let Some(what) = &segment.broken_header {
            problem(Some(0), None, what.clone());
        }
        if segment.cut_off {
            problem(Some(segment.length), None, "it is cut off here".into());
        }
        for (from, to) in &segment.damaged {
            problem(Some(*from), Some(to - from), "what was written here is damaged".into());
        }
        for (from, to) in &segment.unsound {
            let what = "an event in the commit here is none: what its record says of it is not what its text says";
            problem(Some(*from), Some(to - from), what.into());
        }
        if segment.torn > 0 {
            let what = "a commit that was never finished; it was never acknowledged as durable".to_owned();
            let (at, bytes) = (Some(u64::from(segment.end)), Some(u64::from(segment.torn)));
            report.torn = Some(Problem { file, at, bytes, what, derived: true });
        }
    }
    if let Some(number) = found.next_missing {
        let (file, what) = (segment_name(number), "it is missing".to_owned());
        report.problems.push(Problem { file, at: None, bytes: None, what, derived: false });
    }
    for file in &found.broken_sidecars {
        let what = "it is damaged".to_owned();
        report.problems.push(Problem { file: file.clone(), at: None, bytes: None, what, derived: true });
    }
    if let Some(what) = &found.broken_index {
        report.problems.push(Problem { file: NAME.into(), at: None, bytes: None, what: what.clone(), derived: true });
    }
    if found.misplaced > 0 {
        let what = format!("the newest events of {} keys do not stand where it says", found.misplaced);
        report.problems.push(Problem { file: NAME.into(), at: None, bytes: None, what, derived: false });
    }
    // What a start would say, and what would be lost: both tried out on copies.
    let copy: Arc<dyn Disk> = Arc::new(Overlay::new(Arc::clone(&disk)));
    match open::open(&copy, Options::default()) {
        Ok(_) => {}
        Err(OpenError::Damaged { what, .. }) => report.refused = Some(what),
        Err(error) => return Err(error),
    }
    if report.refused.is_some() || !found.is_whole() {
        let copy: Arc<dyn Disk> = Arc::new(Overlay::new(disk));
        report.lost = repair::repair(&copy, &found, Options::default(), false)?.1;
    }
    Ok(report)
}

/// What is in a data folder. Blocks.
///
/// # Errors
/// The folder is in use, damaged, or cannot be read.
pub fn stats(path: &Path) -> Result<Stats, ToolError> {
    stats_of(&look(path)?.shared)
}

fn stats_of(shared: &Shared) -> Result<Stats, ToolError> {
    let failed = |error| ToolError::Store(index_failed(&error));
    let state = shared.read();
    let mut live = HashMap::<u32, u64>::new();
    for run in state.topics.iter().flat_map(|log| log.runs.values()) {
        *live.entry(run.segment).or_default() += run.bytes;
    }
    let mut keys = HashMap::<u32, u64>::new();
    for (topic, latest) in shared.index.all_latest().map_err(failed)? {
        if state.topics.get(topic as usize).is_some_and(|log| !log.is_removed() && latest.seq >= shared.kept_from(log))
        {
            *keys.entry(topic).or_default() += 1;
        }
    }
    let mut segments = Vec::new();
    for segment in state.segments.values() {
        let end = match &segment.index {
            SegmentIndex::Active => state.end.offset(),
            SegmentIndex::Sealed(end, _) | SegmentIndex::File(end, _) => *end,
        };
        let live = live.get(&segment.number).copied().unwrap_or_default();
        let dead = 1.0 - (live as f64 / f64::from(end)).min(1.0);
        segments.push(SegmentStats { file: segment_name(segment.number), bytes: end.into(), dead });
    }
    let mut topics = Vec::new();
    for log in state.topics.iter().filter(|log| !log.is_removed()) {
        let groups = log.cursors.iter().map(|(group, own)| {
            let floor = own.cursor.floor.max(log.first - 1);
            let settled = own.cursor.settled.iter().map(|(first, last)| {
                let first = *first.max(&(floor + 1));
                (last + 1).saturating_sub(first)
            });
            let lag = log.tail.saturating_sub(floor).saturating_sub(settled.sum());
            GroupStats { group: group.to_string(), floor: own.cursor.floor, lag }
        });
        topics.push(TopicStats {
            topic: log.topic.to_string(),
            events: log.runs.values().map(|run| run.last - run.first + 1).sum(),
            first: log.first,
            last: log.tail,
            bytes: log.bytes,
            keys: keys.get(&log.number).copied().unwrap_or_default(),
            groups: groups.collect(),
        });
    }
    topics.sort_by(|a, b| a.topic.cmp(&b.topic));
    Ok(Stats { bytes: bytes_of(&*shared.disk), segments, topics })
}

/// Gives every retained event of the topics that match, and that stands after `after`, to `each`: topic by topic, each in
/// the order of its log. Ends when `each` says so by an error of its own. Blocks.
///
/// # Errors
/// The folder is in use, damaged, or cannot be read.
pub fn dump<E>(
    path: &Path,
    topics: &TopicOrPattern,
    after: u64,
    mut each: impl FnMut(&Stored) -> Result<(), E>,
) -> Result<Result<(), E>, ToolError> {
    let log = look(path)?;
    let shared = &log.shared;
    let mut names: Vec<_> = shared.read().by_name.keys().cloned().collect();
    names.sort_unstable();
    for topic in names.iter().filter(|topic| topics.matches(topic)) {
        let mut after = after;
        loop {
            let page = shared.read_page(topic, after, 1024, 1024 * 1024)?;
            for event in &page.events {
                if let Err(error) = each(event) {
                    return Ok(Err(error));
                }
            }
            if page.read_to <= after {
                break;
            }
            after = page.read_to;
        }
    }
    Ok(Ok(()))
}

/// Gives back the space of what is not retained; with `drop_damaged`, gives up what is damaged first. Blocks.
///
/// # Errors
/// The folder is in use, damaged, or cannot be read or written.
pub fn compact(path: &Path, options: Options, drop_damaged: bool) -> Result<Compacted, ToolError> {
    compact_on(&take(path)?, options, drop_damaged)
}

pub(super) fn compact_on(disk: &Arc<dyn Disk>, options: Options, drop_damaged: bool) -> Result<Compacted, ToolError> {
    let before = bytes_of(&**disk);
    let kept = |disk: &dyn Disk| -> Vec<String> {
        let names = disk.list().unwrap_or_default();
        names.into_iter().filter(|name| name.ends_with(".damaged")).collect()
    };
    let kept_before = kept(&**disk);
    let mut lost = Vec::new();
    let opened = if drop_damaged {
        let found = survey(disk)?;
        let whole = found.is_whole();
        match open_whole(disk, whole, &options)? {
            Some(log) => log,
            None => {
                let (log, given_up) = repair::repair(disk, &found, options, true)?;
                lost = given_up;
                log
            }
        }
    } else {
        open::open(disk, options)?
    };
    Keeper::new(&opened).compact()?;
    let mut kept = kept(&**disk);
    kept.retain(|name| !kept_before.contains(name));
    Ok(Compacted { before, after: bytes_of(&**disk), lost, kept })
}

/// Opens the store if there is nothing to be given up.
fn open_whole(disk: &Arc<dyn Disk>, whole: bool, options: &Options) -> Result<Option<Arc<Log>>, OpenError> {
    if !whole {
        return Ok(None);
    }
    // On a copy first: an attempt must not change what a repair needs.
    let copy: Arc<dyn Disk> = Arc::new(Overlay::new(Arc::clone(disk)));
    match open::open(&copy, options.clone()) {
        Ok(_) => open::open(disk, options.clone()).map(Some),
        Err(OpenError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes of the files of the log and what is derived from them.
fn bytes_of(disk: &dyn Disk) -> u64 {
    let names = disk.list().unwrap_or_default();
    let own = names.iter().filter(|name| name.ends_with(".log") || name.ends_with(".idx") || *name == NAME);
    own.filter_map(|name| disk.open(name).ok()?.len().ok()).sum()
}
