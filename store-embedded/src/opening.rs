//! What an open begins with: the files of the folder, and the errors that name it.

use std::{collections::BTreeMap, sync::Arc};

use prom_store::wall_clock;

use crate::{
    append::{create_segment, segment_name},
    disk::{Disk, DiskFile},
    format::{Position, SEGMENT_HEADER, SegmentHeader},
    index::{Index, Loaded, NAME},
    options::Options,
};

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the folder.
    #[error(
        "the data folder {0} is in use by another hub; stop that one, or choose another folder with PROM_DATA or --data"
    )]
    Taken(String),
    /// The folder cannot be read or written.
    #[error("the data folder {folder} cannot be used: {source}; choose another with PROM_DATA or --data")]
    Io {
        /// Its path.
        folder: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The log is not what was written. Nothing was changed.
    #[error(
        "the log in {folder} is damaged: {what}. Nothing was changed. `prom store verify --data {folder}` lists what is lost, \
             and `prom store compact --drop-damaged --data {folder}` goes on without it"
    )]
    Damaged {
        /// Its path.
        folder: String,
        /// Which part is damaged, or missing.
        what: String,
    },
}

/// A segment's file, and what is known of it before it is read.
pub(crate) struct Found {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) header: SegmentHeader,
    /// Bytes of the file.
    pub(crate) length: u32,
    /// When the next one was made: all commits of this one are older. None if there is no next one.
    pub(crate) next_made_at: Option<u64>,
    /// Where the segment ends as the header of the next one says; none if there is no next one.
    pub(crate) end_by_next: Option<u32>,
}

/// A folder that is being opened.
#[derive(Clone, Copy)]
pub(crate) struct Opening<'a> {
    pub(crate) disk: &'a dyn Disk,
}

impl Opening<'_> {
    pub(crate) fn io(&self, source: std::io::Error) -> OpenError {
        OpenError::Io { folder: self.disk.path().display().to_string(), source }
    }

    pub(crate) fn damaged(&self, what: impl Into<String>) -> OpenError {
        OpenError::Damaged { folder: self.disk.path().display().to_string(), what: what.into() }
    }

    /// The segments by number.
    pub(crate) fn segments(&self) -> Result<Vec<Found>, OpenError> {
        let mut by_number = BTreeMap::new();
        for name in self.disk.list().map_err(|error| self.io(error))? {
            let Some(number) = name.strip_suffix(".log").and_then(|number| number.parse::<u32>().ok()) else {
                continue;
            };
            let file = self.disk.open(&name).map_err(|error| self.io(error))?;
            let mut bytes = [0; SEGMENT_HEADER as usize];
            let read = file.read(&mut bytes, 0).map_err(|error| self.io(error))?;
            let header =
                SegmentHeader::decode(&bytes[..read]).map_err(|error| self.damaged(format!("{name}: {error}")))?;
            if header.number != number {
                return Err(self.damaged(format!("{name} is segment {} by its header", header.number)));
            }
            by_number.insert(number, self.found(file, header)?);
        }
        let mut found: Vec<Found> = by_number.into_values().collect();
        if let Some(other) = found.iter().find(|other| other.header.store != found[0].header.store) {
            return Err(self.damaged(format!("{} belongs to another store", segment_name(other.header.number))));
        }
        for next in 1..found.len() {
            let SegmentHeader { previous_end, made_at, .. } = found[next].header;
            let own = &mut found[next - 1];
            own.next_made_at = Some(made_at);
            own.end_by_next = (previous_end.segment() == own.header.number).then_some(previous_end.offset());
        }
        Ok(found)
    }

    /// A segment's file with its length.
    fn found(&self, file: Arc<dyn DiskFile>, header: SegmentHeader) -> Result<Found, OpenError> {
        let length = u32::try_from(file.len().map_err(|error| self.io(error))?).unwrap_or(u32::MAX);
        Ok(Found { file, header, length, next_made_at: None, end_by_next: None })
    }

    /// The first segment of a new store.
    pub(crate) fn make_first(&self, options: &Options) -> Result<Found, OpenError> {
        let store = fastrand::u64(1..);
        let (previous_end, made_at, size) = (Position::default(), wall_clock(), options.segment_bytes);
        let header = SegmentHeader { store, number: 1, previous_end, made_at, size };
        let file = create_segment(self.disk, &header).map_err(|error| self.io(error))?;
        self.found(file, header)
    }

    /// The index and what it says, or a new one if it cannot be used. `fresh`: the store is new and can have none.
    pub(crate) fn index(&self, store: u64, fresh: bool) -> Result<(Index, Option<Loaded>), OpenError> {
        match Index::open(self.disk, Some(store)) {
            // One that was never brought forward says nothing, not even that there are no topics.
            Ok((index, loaded)) => Ok((index, Some(loaded).filter(|loaded| loaded.position > Position::default()))),
            Err(error) => {
                if !fresh {
                    tracing::warn!(%error, "the index is made again from the log");
                }
                Ok((self.new_index(NAME, store)?, None))
            }
        }
    }

    pub(crate) fn new_index(&self, name: &str, store: u64) -> Result<Index, OpenError> {
        Index::make(self.disk, name, store).map_err(|error| self.io(std::io::Error::other(error)))
    }
}
